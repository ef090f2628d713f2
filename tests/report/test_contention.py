"""Sections on several GPUs at once, on synthetic runs: eight GPUs, half of the link for four of them, a third for the
others."""

import json
import sqlite3

import pytest
from msgspec.structs import replace

from bench.analysis.load import load
from bench.records.results import Verdict
from bench.report.build import build_results
from bench.report.page import render
from bench.report.swept import axis_parts, contention_parts
from bench.report.tables import write_database
from bench.report.text.contention import contention_lines
from bench.report.view import View
from tests.report.made import changed
from tests.run_directories import build_run_directory, topology_json

STUDY = {
    "name": "busy", "gpu_ids": [0, 4], "numa_nodes": [0], "models": ["vit0x0x0"], "repeats": 6,
    "axes": {"concurrent_gpus": [1, 8], "concurrent_placement": ["local", "remote"]},
    "exclude": [{"concurrent_gpus": 1, "concurrent_placement": "remote"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("busy")
    (folder / "busy.yaml").write_text(json.dumps(STUDY))
    topology = topology_json(gpus=8, near=(0,) * 8, nodes=2)
    return build_run_directory(folder / "run", str(folder / "busy.yaml"), topology=topology)


@pytest.fixture(scope="module")
def view(run):
    return View(build_results(load(run), "test"))


def with_busy(view, **changes):
    """Entries with several busy GPUs changed."""
    entries = (replace(one, **changes) if one.busy_gpus > 1 else one for one in view.results.contention)
    return changed(view, contention=tuple(entries))


def test_nothing_remains_without_a_gpu_in_isolation(tmp_path, view_of):
    """Two against four busy GPUs is a comparison of the settings."""
    study = STUDY | {"axes": {"concurrent_gpus": [2, 4]}, "exclude": [], "gpu_ids": [0]}
    (tmp_path / "busy.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=8, near=(0,) * 8, nodes=2)
    found = view_of(build_run_directory(tmp_path / "run", str(tmp_path / "busy.yaml"), topology=topology))
    (line,) = contention_lines(found.results)
    assert "4 GPUs busy: not compared with a GPU in isolation" in line and "remains" not in line
    (part,) = contention_parts(found)
    assert not any("(in isolation" in sentence for sentence in part.sentences)
    assert part.picture


def test_the_page_states_what_remains_for_each(run, view):
    (line,) = contention_lines(view.results)
    assert line.startswith("vit0x0x0, 8 GPUs busy: 33 % to 46 % remains while all are on their nearest node; ")
    assert line.endswith(" % remains while the others are on another node than their nearest.")
    first = contention_parts(view)[0]
    assert first.columns == ["isolated", "8 busy"]
    measured = [row for row in first.matrix if row[2][-1][1]]
    peers = [row for row in first.matrix if not row[2][-1][1]]
    assert [device for device, _, _ in measured] == ["GPU 0", "GPU 4"] and len(peers) == 6
    assert all(tiles[0][0] == "" for _, _, tiles in peers)
    page = render(load(run), view.results)
    assert 'id="contention"' in page
    assert "<li>8 GPUs busy: 33\u00a0% to 46\u00a0% remains.</li>" in page


def test_rows_of_one_base_and_one_value_differ(view):
    rows = next(part.rows for part in axis_parts(view) if part.axis == "concurrent GPUs")
    assert [row.model for row in rows[:2]] == ["vit0x0x0 gpus8", "vit0x0x0 gpus8 remote-load"]
    assert len({(row.model, row.device, row.value) for row in rows}) == len(rows) == 4


@pytest.mark.parametrize(
    ("effect", "interval", "verdict", "text"),
    [
        (-0.18, (-0.19, -0.17), "SLOWER", "82.0 % ± 1.0 % remains."),
        (-0.18, None, "UNDECIDED", "82 % remains (undecided)."),
        (0.001, (-0.004, 0.006), "SAME", "all remains (SAME within 0.6 %)."),
    ],
)
def test_the_remaining_throughput_has_its_interval(view, effect, interval, verdict, text):
    own = [one for one in view.results.contention if one.gpu == 0 and one.placement != "remote"]
    entries = tuple(
        replace(one, isolated=replace(one.isolated, effect=effect, interval=interval, verdict=Verdict(verdict)))
        if one.isolated
        else one
        for one in own
    )
    (line,) = contention_lines(changed(view, contention=entries).results)
    assert line == f"vit0x0x0, 8 GPUs busy: {text}"


def test_the_load_is_named_where_several_were_compared(view):
    local = [one for one in view.results.contention if one.placement != "remote"]
    copying = [replace(one, load="copies") for one in local if one.busy_gpus > 1]
    (line,) = contention_lines(changed(view, contention=(*local, *copying)).results)
    assert " remains while the others run the same pipeline; " in line and line.endswith("while the others only copy.")


def test_gpus_that_were_not_measured_are_not_shown_as_busy(view):
    nothing = {"throughput_samples_s": None, "h2d_gb_s": None, "d2h_gb_s": None, "isolated": None}
    lacking = with_busy(view, **nothing)
    assert contention_lines(lacking.results) == ["vit0x0x0: not measured."]
    part, *_ = contention_parts(lacking)
    assert part.sentences == ["8 GPUs busy: not measured."]


def test_copies_of_the_others_are_not_added_up(view):
    copying = with_busy(view, load="copies")
    part = contention_parts(copying)[0]
    assert {row["total"] for row in part.rows} == {"–"}
    dotted = "stroke-dasharray: 1,"
    assert all(dotted in part.picture.svg for part in contention_parts(view))
    assert not any(dotted in part.picture.svg for part in contention_parts(copying))


def test_the_database_has_a_row_for_each_peer(tmp_path, view):
    write_database(tmp_path / "results.db", view.results)
    with sqlite3.connect(tmp_path / "results.db") as connection:
        query = "select count(*) from peers join runs on peers.run = runs.run where peers.status = 'ok'"
        assert connection.execute(query).fetchone() == (4 * 6 * 7,)
        assert connection.execute("select count(*) from comparisons where verdict = 'SLOWER'").fetchone()[0] >= 4
