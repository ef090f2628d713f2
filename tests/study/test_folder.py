"""What a command says of a folder that is no run directory."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("command", ["report", "status"])
@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("h200_cpu_groups", ["results without their records", "report.md; numastudy advise, convert and compare"]),
        ("h200_axes", ["results without their records", "report.html"]),
        (".", ["published results below (", "h200_axes", "report and status need the records"]),
        ("noise_floor.json", ["a file: this is not a run directory"]),
        ("nowhere", ["there is nothing: this is not a run directory"]),
    ],
)
def test_published_results_are_named_as_such(command: str, folder: str, words: list[str]) -> None:
    refused = CliRunner().invoke(main, [command, str(REFERENCE / folder)])
    assert refused.exit_code == 2 and not [word for word in words if word not in refused.stderr], refused.stderr


def test_results_are_looked_for_in_run_directories_below(tmp_path: Path) -> None:
    run = tmp_path / "outputs/study/2026-11-30/10-00-00"
    run.mkdir(parents=True)
    (run / "grid.json").write_text("{}")
    for words in (("advise", str(tmp_path / "outputs")), ("report", str(tmp_path / "outputs" / "study"))):
        refused = CliRunner().invoke(main, words)
        assert refused.exit_code == 2
        assert "one run directory below" in refused.stderr and f"the newest is {run}" in refused.stderr
    shutil.copytree(run, run.with_name("11-00-00"))
    assert "2 run directories below" in CliRunner().invoke(main, ["report", str(tmp_path / "outputs")]).stderr
