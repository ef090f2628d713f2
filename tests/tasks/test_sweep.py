"""--sweep on luigi's command line: refused before anything runs, or one run directory with every variant."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.study_calls import Calls

LUIGI = Path(sys.executable).with_name("luigi")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--sweep", '{"dtyp": ["bf16"]}'), ["--sweep", "did you mean dtype?"]),
        (
            ("--sweep", '{"cuda_graph": [false, true], "compile_model": [false, true]}'),
            ["vit32x2x256_graph_compiled", 'exclude: [{"cuda_graph": true, "compile_model": "default"}]'],
        ),
        (("--sweep", '{"batch_size": [5, 7]}'), ["vit0x0x0_bs7", "num_samples 100 is not a multiple"]),
        (("--exclude", '[{"depht": 2}]'), ["--exclude[0]", "did you mean depth?"]),
    ],
)
def test_refused(tmp_path: Path, words: tuple[str, ...], expected: list[str]) -> None:
    command = [str(LUIGI), "--module", "tasks", "QuickTest", *words, "--local-scheduler"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=240)
    text = done.stdout + done.stderr
    assert done.returncode == 2, text
    for part in expected:
        assert part in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob("grid.json"))


@pytest.mark.slow
def test_sweep_is_one_study_in_one_run_directory(tmp_path: Path) -> None:
    calls = Calls(tmp_path / "work", ["--local-scheduler"])
    calls.study["models"] = ["vit0x0x0"]
    calls.write()
    done = calls.run("--sweep", '{"batch_size": [2, 4]}')
    assert done.returncode == 0, done.stderr
    stem = "pipeline_gpu0_numa0_vit0x0x0"
    results = json.loads((calls.run_directory() / "results.json").read_text())
    assert {cell["name"]: cell["outcome"] for cell in results["cells"]} == {stem: "ok", f"{stem}_bs4": "ok"}
    assert results["study"]["axes"] == {"batch_size": [2, 4]}
    again = calls.run("--sweep", '{"batch_size": [2, 4]}')
    assert again.returncode == 0 and "Nothing was measured now" in again.stdout
    assert calls.run_directory()
