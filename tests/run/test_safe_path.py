"""No child imports from the current directory, or from one that PYTHONPATH names relatively."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.host.probe import run_child as run_probe
from bench.host.processes import python_module, without_relative_paths
from bench.run.child import child_environment
from tests.run.test_execute import run

ROOT = Path(__file__).parents[2]
HOSTILE = "import pathlib; pathlib.Path('{mark}').touch(); raise SystemExit(66)"


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a hostile torch.py and an innocent statistics.py; returns what torch.py leaves."""
    here, mark = tmp_path / "here", tmp_path / "mark"
    here.mkdir()
    for name in ("torch", "numpy", "click", "msgspec", "bench"):
        (here / f"{name}.py").write_text(HOSTILE.format(mark=mark))
    (here / "statistics.py").write_text("mean = 'of my own'")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "", str(ROOT)]))
    return mark


@pytest.mark.slow
def test_run_imports_nothing_from_the_current_directory(tmp_path: Path, planted: Path) -> None:
    _, record, _ = run(tmp_path)
    assert (record.status, record.reason) == ("ok", "")
    assert "-P" in record.command and not planted.exists()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["bench.workload", "bench.workload.microbenchmark", "bench.workload.serve"])
def test_programs_import_nothing_from_the_current_directory(planted: Path, module: str) -> None:
    environment = child_environment(dict(os.environ))
    argv = python_module(module, "--help")
    if module.endswith("serve"):
        argv = python_module(module, "--cell", "none", "--mode", "timed", "--result", "none")
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert (done.returncode != 66 and "Usage" in done.stdout + done.stderr) or module.endswith("serve"), done.stderr
    assert not planted.exists()


def test_probe_imports_nothing_from_the_current_directory(planted: Path) -> None:
    show = python_module("site")
    assert str(planted.parent / "here") not in run_probe(show)
    assert not planted.exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [(".", None), ("", None), (":/a::b:/c:", "/a:/c"), ("/a", "/a"), ("../x:./y", None)],
)
def test_only_absolute_entries_of_pythonpath_stay(before: str, after: str | None) -> None:
    assert without_relative_paths({"PYTHONPATH": before, "A": "b"}).get("PYTHONPATH") == after


def test_interpreter_is_this_one() -> None:
    assert python_module("m", "a") == [sys.executable, "-P", "-m", "m", "a"]
