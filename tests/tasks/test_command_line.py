import subprocess
import sys
from pathlib import Path

import pytest

LUIGI = str(Path(sys.executable).parent / "luigi")


def call(*words: str, program: tuple[str, ...] = (LUIGI,)) -> subprocess.CompletedProcess[str]:
    command = [*program, "--module", "tasks", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("program", [(LUIGI,), (sys.executable, "-m", "luigi")], ids=["luigi", "python -m luigi"])
def test_mistyped_option_is_one_line_with_the_nearest_name(program: tuple[str, ...]) -> None:
    done = call("QuickTest", "--repats=3", "--local-scheduler", program=program)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "refused: QuickTest has no option --repats (did you mean --repeats?)",
        "  to do: luigi --module tasks QuickTest --help lists its options",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpu-ids",), "--gpu-ids: expected one argument"),
        (("extra",), "unrecognized arguments: extra"),
        (("--fresh=1",), "--fresh: ignored explicit argument '1'"),
    ],
)
def test_errors_of_luigis_parser_are_one_line_too(words: tuple[str, ...], message: str) -> None:
    done = call("QuickTest", "--local-scheduler", *words)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"refused: {message}",
        "  to do: luigi --module tasks QuickTest --help lists its options",
    ]


def test_abbreviations_and_other_tasks_options_are_luigis_own() -> None:
    done = call("Study", "--config-fil", "missing.yaml", "--NightlySweep-date", "2026-01-01", "--local-scheduler")
    assert done.returncode == 2 and "missing.yaml" in done.stderr


@pytest.mark.parametrize("task", ["QuickTest", "Study", "NightlySweep"])
def test_help_lists_each_option_once(task: str) -> None:
    done = call(task, "--help")
    options = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  --")]
    assert done.returncode == 0
    assert len(options) == len(set(options)) > 5
    assert {"--output-dir", "--local-scheduler"} <= set(options)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_luigi_itself_still_lists_everything() -> None:
    assert "--scheduler-url" in call("QuickTest", "--help-all").stdout
