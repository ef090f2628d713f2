"""Several GPUs at once, on synthetic runs: eight GPUs, half of the link left to four of them, a third to the others."""

import json
import re

import pytest

from bench.legacy.build import build_results
from bench.legacy.contention import contention
from bench.legacy.load import load
from bench.report.plots.sweeps import contention_pictures
from bench.report.swept import contention_lines, contention_parts
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
def results(run):
    return build_results(load(run), "test")


def entry(results, gpu, busy, placement="local"):
    return next(
        one
        for one in results["contention"]
        if (one["gpu"], one["busy"]) == (gpu, busy) and one["placement"] in (None, placement)
    )


def test_each_placement_stands_against_the_gpu_alone(results):
    assert len(results["contention"]) == 6
    for placement in ("local", "remote"):
        busy = entry(results, 0, 8, placement)
        assert busy["base_cell"] == "pipeline_gpu0_numa0_vit0x0x0" and busy["verdict"] == "SLOWER"
        assert busy["effect"] == pytest.approx(-0.54, abs=0.01)
        assert busy["interval"][0] < busy["effect"] < busy["interval"][1] < 0


def test_the_peers_of_every_run_are_kept(results):
    cell = next(cell for cell in results["cells"] if cell["name"] == entry(results, 0, 8)["cell"])
    assert [peer["gpu"] for peer in cell["peers"]] == [1, 2, 3, 4, 5, 6, 7]
    assert all(peer["runs"] == 6 and peer["failed"] == 0 for peer in cell["peers"])
    timed = [run for run in cell["runs"] if run["repeat"] != "traced"]
    assert all(len(run["peers"]) == 7 for run in timed)


def test_together_is_the_sum_of_all(results):
    busy = entry(results, 0, 8)
    alone = entry(results, 0, 1)["h2d_gb_s"]
    assert busy["together"]["h2d_gb_s"]["value"] == pytest.approx(alone * 4 * (0.46 + 0.33), rel=0.01)
    low, high = busy["together"]["h2d_gb_s"]["interval"]
    assert low < busy["together"]["h2d_gb_s"]["value"] < high
    assert entry(results, 0, 8, "remote")["together"]["h2d_gb_s"]["value"] < low


def test_a_run_with_a_peer_that_failed_is_in_no_sum(run, results):
    from bench.legacy.contention import contention

    cells = json.loads(json.dumps(results["cells"]))
    name = entry(results, 0, 8)["cell"]
    broken = next(cell for cell in cells if cell["name"] == name)["runs"][0]["peers"][3]
    broken |= {"throughput_samples_s": None, "h2d_gb_s": None, "d2h_gb_s": None, "status": "crashed"}
    told = next(one for one in contention(cells, results["comparisons"]) if one["cell"] == name)
    assert told["together"]["runs"] == 5


def test_without_a_gpu_alone_nothing_is_said_to_be_left(tmp_path):
    """Two against four GPUs busy is a comparison of the settings, not of what is left."""
    study = STUDY | {"axes": {"concurrent_gpus": [2, 4]}, "exclude": [], "gpu_ids": [0]}
    (tmp_path / "busy.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=8, near=(0,) * 8, nodes=2)
    run = build_run_directory(tmp_path / "run", str(tmp_path / "busy.yaml"), topology=topology)
    found = build_results(load(run), "test")
    assert [one["busy"] for one in found["contention"]] == [2, 4]
    assert all(one["base_cell"] is one["effect"] is None for one in found["contention"])
    (line,) = contention_lines(found)
    assert "4 GPUs busy: not compared with a GPU alone" in line and "is left" not in line
    (axis,) = found["comparisons"]
    assert axis["base"] == {"concurrent_gpus": 2} and axis["lines"]
    (part,) = contention_parts(found)
    assert not any("alone" in sentence.replace("a GPU alone", "") for sentence in part["sentences"])
    assert contention_pictures(found["contention"])


def test_what_changes_along_with_the_company_is_not_booked_as_its_doing(results):
    zipped = results["comparisons"][0] | {"keys": ["concurrent_gpus", "batch_size"]}
    zipped["base"] = zipped["base"] | {"batch_size": 10}
    told = contention(results["cells"], [zipped])
    assert told and all(one["effect"] is None for one in told)


def test_a_study_of_single_gpus_has_none(numa_results):
    assert numa_results["contention"] == []


def test_the_page_says_what_is_left_to_each(run, results):
    from bench.report.page import render
    from bench.report.swept import contention_lines, contention_parts

    (line,) = contention_lines(results)
    assert line.startswith("vit0x0x0, 8 GPUs busy: 33 % to 46 % is left while the others run the same pipeline, all on")
    assert "(17." in line and "is left while the others run the same pipeline, the others on another node" in line
    first = contention_parts(results)[0]
    assert first["columns"] == ["alone", "8 busy"]
    measured = [row for row in first["matrix"] if row["tiles"][-1]["cell"]]
    company = [row for row in first["matrix"] if not row["tiles"][-1]["cell"]]
    assert [row["device"] for row in measured] == ["GPU 0", "GPU 4"] and len(company) == 6
    assert all(row["tiles"][0]["text"] == "" for row in company)
    page = render(load(run), results)
    assert 'id="contention"' in page
    assert re.search(r"together 1\d\d GB/s in\.", page)


def test_rows_of_one_base_and_one_value_are_told_apart(results):
    from bench.report.axes import axis_sections

    rows = next(section["rows"] for section in axis_sections(results) if section["axis"] == "concurrent GPUs")
    assert [row["model"] for row in rows[:2]] == ["vit0x0x0 gpus8", "vit0x0x0 gpus8 remote-load"]
    assert len({(row["model"], row["device"], row["value"]) for row in rows}) == len(rows) == 4


def test_what_is_left_has_its_interval_and_is_all_where_it_is_the_same(results):
    from bench.report.swept import contention_lines

    def told(**changes):
        kept = [one | changes if one["busy"] > 1 else one for one in results["contention"] if one["gpu"] == 0]
        return contention_lines(results | {"contention": [one for one in kept if one["placement"] != "remote"]})[0]

    assert told(effect=-0.18, interval=[-0.19, -0.17], verdict="SLOWER").startswith(
        "vit0x0x0, 8 GPUs busy: 82.0 % ± 1.0 % is left while"
    )
    assert told(effect=-0.18, interval=None, verdict="UNDECIDED").startswith(
        "vit0x0x0, 8 GPUs busy: 82 % is left (undecided) while"
    )
    assert told(effect=0.001, interval=[-0.004, 0.006], verdict="SAME") == (
        "vit0x0x0, 8 GPUs busy: all is left (SAME within 0.6 %) while the others run the same pipeline, all on their "
        "nearest node."
    )
    alone = results | {"topology": results["topology"] | {"nodes": results["topology"]["nodes"][:1]}}
    assert "nearest" in contention_lines(results)[0] and "node" not in contention_lines(alone)[0]


def test_more_gpus_than_the_host_has_are_not_told_as_busy(results):
    from bench.report.swept import contention_lines, contention_parts

    nothing = {"samples_s": None, "h2d_gb_s": None, "d2h_gb_s": None, "effect": None, "interval": None, "verdict": None}
    lacking = [one | nothing if one["busy"] > 1 else one for one in results["contention"]]
    assert contention_lines(results | {"contention": lacking}) == ["vit0x0x0: not measured."]
    part, *_ = contention_parts(results | {"contention": lacking})
    assert part["sentences"] == ["8 GPUs busy: not measured."]


def test_what_others_copy_is_not_taken_for_what_each_carries(results):
    from bench.report.plots.sweeps import contention_pictures
    from bench.report.swept import contention_parts

    copying = [one | {"load": "copies"} if one["busy"] > 1 else one for one in results["contention"]]
    part = contention_parts(results | {"contention": copying})[0]
    assert "in the measured one" in part["sentences"][0] and "for each" not in part["sentences"][0]
    assert {row["together"] for row in part["rows"]} == {"–"}
    dotted = "stroke-dasharray: 1,"
    assert all(dotted in picture.svg for picture in contention_pictures(results["contention"]).values())
    assert not any(dotted in picture.svg for picture in contention_pictures(copying).values())


def test_the_database_has_a_row_a_peer(tmp_path, results):
    import sqlite3

    from bench.report.tables import write_database

    write_database(tmp_path / "results.db", results)
    with sqlite3.connect(tmp_path / "results.db") as connection:
        query = "select count(*) from peers join runs on peers.run = runs.run where peers.status = 'ok'"
        assert connection.execute(query).fetchone() == (4 * 6 * 7,)
        assert connection.execute("select count(*) from comparisons where verdict = 'SLOWER'").fetchone()[0] >= 4


@pytest.mark.parametrize(("name", "said"), [
    ("pipeline_gpu0_numa0_vit32x6x512_cpu1_bf16_gpus8_remote-load", "vit32x6x512 bf16"),
    ("pipeline_gpu0_numa0_vit0x0x0", "vit0x0x0"),
])  # fmt: skip
def test_other_settings_are_not_mixed(name, said):
    from bench.legacy.contention import _series

    assert _series(name, said.split(" ")[0]) == said
