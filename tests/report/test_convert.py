"""Results in other tools' formats, each read by that tool's own parser or schema."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as textfile_families

from bench.analysis.load import read_results
from bench.records.results import Results
from bench.report.convert import bencher, openmetrics

NUMASTUDY = Path(sys.executable).parent / "numastudy"
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


def test_command_prints_either(tmp_path: Path) -> None:
    for words in ([str(EXAMPLE), "--to", "bencher"], [str(EXAMPLE / "results.json"), "--to", "openmetrics"]):
        done = subprocess.run([NUMASTUDY, "convert", *words], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr
    words = [str(NUMASTUDY), "convert", str(tmp_path), "--to", "bencher"]
    missing = subprocess.run(words, capture_output=True, text=True)
    assert missing.returncode == 2 and "the results cannot be used" in missing.stderr
