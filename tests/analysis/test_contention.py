"""Several GPUs at once, on synthetic runs: eight GPUs, half of the link left to four of them, a third to the others."""

import json

import pytest
from msgspec import structs

from bench.analysis.contention import contention
from bench.records.results import Verdict
from bench.records.run import Outcome
from tests.analysis.cells import made_cell
from tests.run_directories import build_run_directory, topology_json

STUDY = {
    "name": "busy", "gpu_ids": [0, 4], "numa_nodes": [0], "models": ["vit0x0x0"], "repeats": 6,
    "axes": {"concurrent_gpus": [1, 8], "concurrent_placement": ["local", "remote"]},
    "exclude": [{"concurrent_gpus": 1, "concurrent_placement": "remote"}],
}  # fmt: skip


def build(folder, study):
    (folder / "busy.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=8, near=(0,) * 8, nodes=2)
    return build_run_directory(folder / "run", str(folder / "busy.yaml"), topology=topology)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    from bench.analysis.load import load
    from bench.report.build import build_results

    return build_results(load(build(tmp_path_factory.mktemp("busy"), STUDY)), "test")


def entry(results, gpu, busy, placement="local"):
    return next(
        one
        for one in results.contention
        if (one.gpu, one.busy_gpus) == (gpu, busy) and one.placement in (None, placement)
    )


def test_each_placement_is_compared_with_the_gpu_in_isolation(results):
    assert len(results.contention) == 6
    for placement in ("local", "remote"):
        line = entry(results, 0, 8, placement).isolated
        assert line.base_cell == "pipeline_gpu0_numa0_vit0x0x0" and line.verdict is Verdict.SLOWER
        assert line.effect == pytest.approx(-0.54, abs=0.01)
        assert line.interval[0] < line.effect < line.interval[1] < 0
    assert entry(results, 0, 1).isolated is None


def test_the_peers_of_every_run_are_kept(results):
    cell = next(cell for cell in results.cells if cell.name == entry(results, 0, 8).cell)
    assert [peer.gpu for peer in cell.peers] == [1, 2, 3, 4, 5, 6, 7]
    assert all(peer.runs == 6 and peer.failed == 0 for peer in cell.peers)
    assert all(len(run.peers) == 7 for run in cell.runs if run.repeat != "traced")


def test_the_total_is_the_sum_over_all_gpus(results):
    total = entry(results, 0, 8).total.h2d_gb_s
    isolated = entry(results, 0, 1).h2d_gb_s
    assert total.value == pytest.approx(isolated * 4 * (0.46 + 0.33), rel=0.01)
    low, high = total.interval
    assert low < total.value < high
    assert entry(results, 0, 8, "remote").total.h2d_gb_s.value < low


def test_the_slowest_gpu_is_compared_with_the_median(results):
    """Four GPUs keep 46 % of their rate, four 33 %: the median of their times lies between both."""
    found = entry(results, 0, 8).total.straggler
    assert found.value == pytest.approx((1 / 0.33) / ((1 / 0.33 + 1 / 0.46) / 2), rel=0.02)
    low, high = found.interval
    assert low < found.value < high
    copying = next(cell for cell in results.cells if cell.name == entry(results, 0, 8).cell)
    load = structs.replace(copying.settings, concurrent_load="copies")
    cells = [structs.replace(cell, settings=load) if cell is copying else cell for cell in results.cells]
    (other,) = [one for one in contention(cells, results.comparisons) if one.cell == copying.name]
    assert other.total.straggler is None and other.total.runs == 6


def test_a_run_with_a_failed_peer_is_in_no_total(results):
    name = entry(results, 0, 8).cell
    cell = next(cell for cell in results.cells if cell.name == name)
    first, *runs = cell.runs
    nothing = {"throughput_samples_s": None, "h2d_gb_s": None, "d2h_gb_s": None, "status": Outcome.CRASHED}
    peers = list(first.peers)
    peers[3] = structs.replace(peers[3], **nothing)
    broken = structs.replace(cell, runs=(structs.replace(first, peers=tuple(peers)), *runs))
    cells = [broken if cell.name == name else cell for cell in results.cells]
    found = next(one for one in contention(cells, results.comparisons) if one.cell == name)
    assert found.total.runs == 5


def test_two_against_four_gpus_is_not_against_isolation(tmp_path, results_of):
    found = results_of(build(tmp_path, STUDY | {"axes": {"concurrent_gpus": [2, 4]}, "exclude": [], "gpu_ids": [0]}))
    assert [one.busy_gpus for one in found.contention] == [2, 4]
    assert all(one.isolated is None for one in found.contention)
    (axis,) = found.comparisons
    assert axis.base == {"concurrent_gpus": 2} and axis.lines


def test_an_axis_that_changes_more_is_not_used(results):
    axis = results.comparisons[0]
    zipped = structs.replace(axis, keys=("concurrent_gpus", "batch_size"), base=axis.base | {"batch_size": 10})
    found = contention(results.cells, [zipped])
    assert found and all(one.isolated is None for one in found)


def test_a_study_of_single_gpus_has_none(numa_results):
    assert numa_results.contention == ()


def test_settings_are_those_beside_the_concurrency():
    cell = made_cell([1.0], dtype="bf16", concurrent_gpus=8, concurrent_placement="remote")
    (found,) = contention([cell], [])
    assert (found.model, found.settings) == ("vit32x2x128", {"dtype": "bf16"})
