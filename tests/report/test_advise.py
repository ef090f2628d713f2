import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.cli.results import ADVISED
from bench.errors import StudyError
from bench.records.results import LocalSource, Verdict
from bench.report.advise import TOOLS, advise

REFERENCE = Path(__file__).parents[2] / "docs/reference"
EXAMPLE = REFERENCE / "example_two_nodes"


def test_text_has_the_sentence_of_each_gpu() -> None:
    lines = advise(EXAMPLE, "text").splitlines()
    assert [line.split(".")[0] for line in lines] == [f"GPU {gpu}: Run on node {gpu // 2}" for gpu in range(4)]


def test_json_has_node_reason_and_interval() -> None:
    found = json.loads(advise(EXAMPLE / "results.json", "json"))
    assert [one["node"] for one in found] == [0, 0, 1, 1]
    assert {one["local_source"] for one in found} == {LocalSource.REPORTED}
    for one in found:
        low, high = one["interval"]
        assert low < one["penalty"] < high and one["verdict"] == Verdict.SLOWER and "vit0x0x0" in one["worst_cell"]


def test_each_tool_has_lines() -> None:
    assert tuple(TOOLS) == ADVISED
    for tool in ADVISED:
        done = CliRunner().invoke(main, ["advise", str(EXAMPLE), "--format", tool])
        assert done.exit_code == 0 and done.output.startswith("# ")
        assert all(len(line) <= 80 for line in done.output.splitlines() if line.startswith("# "))


def test_nothing_to_advise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="not a run directory"):
        advise(tmp_path, "text")
