"""Bad input on luigi's command line: refused before anything runs, with its exit code and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LUIGI = Path(sys.executable).with_name("luigi")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("QuickTest", "--batch-size", "ten"), ["--batch-size", "a whole number"]),
        (("QuickTest", "--models", '["vit30x2x128"]'), ["patches of 30", "28 and 32"]),
        (("QuickTest", "--numa-nodes", "[55]"), ["no such NUMA node: 55"]),
        (("Study", "--config-file", "missing.yaml"), ["missing.yaml", "quick_test"]),
        (("Study",), ["Study needs a file", "--config-file"]),
        (("NumaStdy",), ["there is no task NumaStdy (did you mean NumaStudy?)", "SelfCheck, Study, NightlySweep;"]),
        (("Nothing",), ["there is no task Nothing\n", "Study --config-file FILE"]),
        (("NightlySweep", "--date", "tomorrow"), ["'tomorrow'", "--date"]),
        (("QuickTest", "--device", "cpu", "--profiler", "nsys"), ["profiler nsys", "set profiler to auto"]),
        (("QuickTest", "--dtype", "fp33"), ["did you mean fp32?"]),
    ],
)
def test_refused(tmp_path: Path, words: tuple[str, ...], expected: list[str]) -> None:
    check_refused(tmp_path, words, expected, 2)


def test_named_node_that_this_host_has_not_ends_with_30(tmp_path: Path) -> None:
    check_refused(tmp_path, ("QuickTest", "--numa-nodes", "[0,55]"), ["no such NUMA node: 55", "or all"], 30)


def check_refused(tmp_path: Path, words: tuple[str, ...], expected: list[str], code: int) -> None:
    command = [str(LUIGI), "--module", "tasks", *words, "--local-scheduler"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=240)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    for part in expected:
        assert part in text
    assert "Traceback" not in text and "OfStudy" not in text
    assert not list(tmp_path.rglob("grid.json"))
