"""What a budget leaves out, in which order, and that it is named. Times are those of typical runs of a GPU host."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bench.analysis.verdicts import FEWEST_FOR_HEADLINE
from bench.errors import StudyError
from bench.records.study import LeftOut, LeftOutCell
from bench.study.budget import AROUND_S, FEWEST_REPEATS, LINK_S, by_importance, expand_in_time, left_out_text
from bench.study.duration import CROSSED_PROCESS_S, TRACED_RUN_S
from bench.study.grid import Expansion
from bench.study.load import load_study
from bench.study.plan import plan, render
from tests.host.made_hosts import host_topology

STUDY = {
    "numa_nodes": "all", "gpu_ids": "all", "binding": "numactl", "repeats": 10, "models": ["vit32x2x128", "vit0x0x0"],
    "profiler": "torch",
}  # fmt: skip
# Two nodes, four GPUs: eight groups of two cells.
TIMED_S = 8 * 10 * CROSSED_PROCESS_S
WHOLE_S = TIMED_S + 8 * TRACED_RUN_S + AROUND_S + 8 * LINK_S
FEWER_S = WHOLE_S - 8 * 4 * CROSSED_PROCESS_S
UNTRACED_S = FEWER_S - 8 * TRACED_RUN_S
WITHOUT_LINKS_S = UNTRACED_S - 8 * LINK_S
GROUP_S = 6 * CROSSED_PROCESS_S


def laid_out(budget: float | str, folder: Path, host: str = "two_sockets", **overrides: Any) -> Expansion:
    definition = load_study("NumaStudy", STUDY | {"budget": budget} | overrides)
    return expand_in_time(definition, host_topology(host), folder, rate=lambda: 1e12)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0, None),
        (WHOLE_S, None),
        (FEWER_S, LeftOut(repeats=10)),
        (UNTRACED_S, LeftOut(repeats=10, traced=True)),
        (WITHOUT_LINKS_S, LeftOut(repeats=10, traced=True, links=True)),
    ],
)
def test_what_decides_least_is_left_out_first(tmp_path: Path, budget: float, expected: LeftOut | None) -> None:
    here = laid_out(budget, tmp_path)
    assert here.study.left_out == expected
    assert len(here.grid.cells) == 16
    assert here.study.repeats == (6 if expected else 10)
    assert here.study.is_traced is not bool(expected and expected.traced)
    assert any(slot.is_traced for slot in here.grid.order) is here.study.is_traced
    assert here.study.measure_link is not bool(expected and expected.links)


def test_copies_alone_are_measured_for_every_gpu_before_any_other_model(tmp_path: Path) -> None:
    here = laid_out(WITHOUT_LINKS_S - 3 * GROUP_S, tmp_path)
    kept = [(cell.gpu, cell.model.name) for cell in here.grid.cells if cell.cpu_node == 0]
    assert kept == [(0, "vit32x2x128"), (0, "vit0x0x0"), (1, "vit0x0x0"), (2, "vit0x0x0"), (3, "vit0x0x0")]
    assert here.study.left_out
    assert {cell.name for cell in here.study.left_out.cells} == {
        f"pipeline_gpu{gpu}_numa{node}_vit32x2x128" for gpu in (1, 2, 3) for node in (0, 1)
    }
    assert left_out_text(here.study) == (
        f"left out for the budget of {round(here.study.budget) // 60} min {round(here.study.budget) % 60} s: "
        "vit32x2x128 on GPU 1-3 (6 cells); the benchmark of links; traced runs; repeats 7 to 10"
    )
    assert [slot.position for slot in here.grid.order] == [*range(len(here.grid.order))]


def test_a_pair_stays_whole_where_nothing_fits_and_plan_says_so(tmp_path: Path) -> None:
    assert len(laid_out("1s", tmp_path).grid.cells) == 2
    made = plan(load_study("NumaStudy", STUDY | {"budget": 1}), tmp_path, topology=host_topology("two_sockets"))
    assert "longer than the budget of 1.0 s: less would decide nothing" in render(made)
    assert "left out for the budget of 1.0 s" in render(made)


def test_no_fewer_repeats_than_were_asked_for_where_these_are_few(tmp_path: Path) -> None:
    here = laid_out(1, tmp_path, repeats=2)
    assert here.study.repeats == 2 and here.study.left_out and not here.study.left_out.repeats


def test_as_many_repeats_stay_as_a_claim_needs() -> None:
    assert max(FEWEST_FOR_HEADLINE.values()) == FEWEST_REPEATS


def test_runs_on_demand_go_before_repeats(tmp_path: Path) -> None:
    here = laid_out("1h", tmp_path, design="processes", target_precision=0.001)
    assert here.study.left_out == LeftOut(on_demand=True)
    assert (here.study.repeats, here.study.most_repeats) == (10, 10)


def test_groups_that_cannot_run_are_not_left_out(tmp_path: Path) -> None:
    here = laid_out(1, tmp_path, numa_nodes=[0, 1, 7])
    assert {cell.cpu_node for cell in here.grid.cells if cell.reason} == {7}
    alone = laid_out(0, tmp_path, models=["vit0x0x0"], gpu_ids=[9, 0])
    assert [group.partition("_")[0] for group in by_importance(alone.grid)] == ["gpu9", "gpu0"]
    tight = laid_out(1, tmp_path, models=["vit32x2x128", "vit0x0x0"], gpu_ids=[9, 0])
    assert [cell.gpu for cell in tight.grid.cells] == [9] * 4 + [0] * 2


def test_study_of_the_cpu_device_fits_by_its_operations(tmp_path: Path) -> None:
    folder = {"device": "cpu", "numa_nodes": [0], "gpu_ids": [0], "measure_link": False}
    here = laid_out("2m", tmp_path, **folder)
    assert here.study.left_out and [cell.model.name for cell in here.grid.cells] == ["vit0x0x0"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("90s", 90), ("90", 90), ("1.5h", 5400), ("5 min", 300)]
)
def test_a_time_is_read_in_hours_minutes_seconds(text: str, seconds: float) -> None:
    value = int(text) if text.isdigit() else text
    assert load_study("QuickTest", {"budget": value}).settings.budget == seconds


@pytest.mark.parametrize("value", ["ten", "10x", "", -1, True, [1], "m10"])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(StudyError, match="allowed is a time, as 10m, 90s or 1h30m"):
        load_study("QuickTest", {"budget": value})


def test_nothing_left_out_is_no_text(tmp_path: Path) -> None:
    study = laid_out(0, tmp_path).study
    assert left_out_text(study) == ""
    cells = (LeftOutCell(name="a", gpu=0, model="m"),)
    assert left_out_text(structs.replace(study, budget=600.0, left_out=LeftOut(cells=cells))) == (
        "left out for the budget of 10 min: m on GPU 0 (1 cell)"
    )


def test_nearest_node_of_four_gpus_and_two_nodes_fits_ten_minutes_whole(tmp_path: Path) -> None:
    here = expand_in_time(load_study("NearestNode"), host_topology("two_sockets"), tmp_path)
    assert here.study.budget == 600 and here.study.left_out is None and len(here.grid.cells) == 16


def test_nearest_node_of_eight_gpus_and_nodes_has_copies_only(tmp_path: Path) -> None:
    """Of six GPUs: a process of eight sides is longer than one of two."""
    here = expand_in_time(load_study("NearestNode"), host_topology("dgx_a100"), tmp_path)
    places = {(cell.gpu, cell.cpu_node) for cell in here.grid.cells if not cell.model.computes}
    assert len(places) == len(here.grid.cells) == 48 and here.study.left_out and here.study.left_out.cells
