"""Results in other tools' formats, each read by that tool's own parser or schema."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as textfile_families

from bench.analysis.load import read_results
from bench.cli import main
from bench.errors import StudyError
from bench.records.results import Results
from bench.report.convert import bencher, convert, openmetrics
from bench.report.markdown import MOST_LINES, pull_request
from bench.report.view import View

EXAMPLE = Path(__file__).parents[2] / "docs/reference/example_two_nodes"


class Measure(msgspec.Struct, forbid_unknown_fields=True):
    """As in the schema of https://bencher.dev/docs/reference/bencher-metric-format"""

    value: float
    lower_value: float | msgspec.UnsetType = msgspec.UNSET
    upper_value: float | msgspec.UnsetType = msgspec.UNSET


@pytest.fixture(scope="module")
def results() -> Results:
    return read_results(EXAMPLE)


def test_bencher_has_every_cell_and_comparison(results: Results) -> None:
    found = json.loads(bencher(results))
    msgspec.convert(found, dict[str, dict[str, Measure]])
    assert len(found) == len(results.cells) + len(results.penalties)
    cell, entry = results.cells[0], results.penalties[0]
    assert found[cell.name]["throughput"]["value"] == cell.throughput_samples_s
    assert cell.latency_us and found[cell.name]["latency"]["value"] == 1000 * (cell.latency_us.p50 or 0)
    assert entry.interval is not None
    assert found[f"{entry.remote_cell} against {entry.local_cell}"]["penalty"] == {
        "value": entry.penalty, "lower_value": entry.interval[0], "upper_value": entry.interval[1],
    }  # fmt: skip


@pytest.mark.parametrize("parse", [openmetrics_families, textfile_families])
def test_openmetrics_is_read_by_both_parsers(results: Results, parse) -> None:  # type: ignore[no-untyped-def]
    families = {family.name: family for family in parse(openmetrics(results) + "\n")}
    values = families["numastudy_value"].samples
    assert [one.value for one in values] == [cell.throughput_samples_s for cell in results.cells]
    assert values[0].labels["cell"] == results.cells[0].name
    estimates = [one.value for one in families["numastudy_penalty_ratio"].samples if one.labels["bound"] == "estimate"]
    assert estimates == [entry.penalty for entry in results.penalties]


def test_names_are_escaped(results: Results) -> None:
    odd = replace(results, study_name='a "study"\\\nof two lines')
    (family, *_) = openmetrics_families(openmetrics(odd) + "\n")
    assert family.samples[0].labels["study"] == odd.study_name


def test_command_prints_each(tmp_path: Path) -> None:
    file = str(EXAMPLE / "results.json")
    for words in ([str(EXAMPLE), "--to", "bencher"], [file, "--to", "openmetrics"], [file, "--to", "pull-request"]):
        done = CliRunner().invoke(main, ["convert", *words])
        assert done.exit_code == 0 and done.output.strip(), done.output
    missing = CliRunner().invoke(main, ["convert", str(tmp_path), "--to", "bencher"])
    assert missing.exit_code == 2 and "this is not a run directory" in missing.output


def test_a_pull_request_has_the_answer_and_what_failed(numa_results: Results) -> None:
    text = pull_request(numa_results)
    assert text.count("- **GPU ") == 4 and "Run on node 0. On node 2 vit0x0x0 loses 29.6 %" in text
    assert "Not ok: 1 oom, 1 timeout, 1 misplaced (`pipeline_gpu1_numa2_vit16x12x1024`" in text
    assert "45 of 48 cells ok" in text and len(text.splitlines()) < 15 and len(text) < 4000


def test_a_pull_request_of_many_gpus_stays_short(placed_results: Results, numa_results: Results) -> None:
    assert "matters" in pull_request(placed_results)
    view = View(numa_results)
    gpus = [replace(entry, gpu=gpu) for gpu in range(20) for entry in numa_results.penalties if entry.gpu == 0]
    cells = [replace(cell, gpu=gpu) for gpu in range(20) for cell in view.results.cells if cell.gpu == 0]
    text = pull_request(replace(numa_results, penalties=tuple(gpus), cells=tuple(cells)))
    assert text.count("- **GPU ") == MOST_LINES and "- 12 more GPUs in the report" in text and len(text) < 5000


def test_a_pull_request_shows_no_markup_of_others(numa_results: Results) -> None:
    text = pull_request(replace(numa_results, study_name="<img>[x](y)", host="@everyone"))
    assert "<img>" not in text and "[x](y)" not in text


def test_perfetto_needs_a_run_directory_with_a_trace() -> None:
    with pytest.raises(StudyError, match="there is no trace"):
        convert(EXAMPLE, "perfetto")
    with pytest.raises(StudyError, match="no such cell"):
        convert(EXAMPLE, "perfetto", "of_another_study")
