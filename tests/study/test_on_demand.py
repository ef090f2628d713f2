"""Repeats on demand before they are demanded: in the plan and in the ETA; against what the analysis may demand."""

from pathlib import Path

import pytest
from msgspec import structs

from bench.analysis.repeats import _compared
from bench.records.base import plain
from bench.records.host import Node, Topology
from bench.records.run import Demand, Disturbance, DisturbanceKind, Head, Monitor, Outcome, RunHead, write_record
from bench.records.study import TRACED
from bench.storage import write_json
from bench.study.directory import RunDirectory, resolve
from bench.study.grid import Expansion, expand_here
from bench.study.load import load_study, read_study, shipped_names
from bench.study.on_demand import Further, further_repeats
from bench.study.plan import plan, render
from bench.study.progress import study_progress
from tests.host.made_hosts import host_topology

TWINS = {
    "name": "twins", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0", "vit32x2x128"],
    "device": "cpu", "binding": "none", "repeats": 2, "disturbed_repeats": 2,
}  # fmt: skip
FIRST, TWIN, SINGLE = (f"pipeline_gpu0_numa0_{name}" for name in ("vit0x0x0", "vit0x0x0_again", "vit32x2x128"))
TWO = Topology(
    nodes=tuple(
        Node(id=number, cpus=cpus, allowed_cpus=cpus, memory_bytes=1 << 40, distances={number: 10})
        for number, cpus in ((0, "0-1"), (1, "2-3"))
    )
)
DISTURBED = Monitor(disturbed=[Disturbance(kind=DisturbanceKind.THROTTLED, text="throttled")])


def twins(**changes: object) -> Expansion:
    return expand_here(read_study(TWINS | changes, "f"), TWO)


def further(here: Expansion, share: float) -> dict[str, Further]:
    return further_repeats(here.grid, here.study, share)


def test_only_compared_cells_may_be_measured_again() -> None:
    assert further(twins(), 0.0) == {FIRST: Further(0.0, 2), TWIN: Further(0.0, 2)}
    # A pair is lost unless both of its runs are undisturbed.
    assert further(twins(), 0.5)[TWIN] == Further(1.5, 2)
    assert further(twins(), 1.0)[TWIN] == Further(2, 2)
    assert further(twins(disturbed_repeats=0), 1.0) == {}


def test_repeats_until_the_first_look_are_certain() -> None:
    nodes = {"numa_nodes": [0, 1], "models": ["vit0x0x0"], "disturbed_repeats": 0, "binding": "none"}
    asked = further(twins(**nodes, target_precision=0.02, max_repeats=20), 0.0)
    assert set(asked.values()) == {Further(4, 18)}
    assert further(twins(**nodes), 0.0) == {}
    # A group on one node has no penalty to measure more precisely.
    assert further(twins(target_precision=0.02, disturbed_repeats=0), 0.0) == {}


def test_demanded_repeats_are_no_longer_expected() -> None:
    assert Further(1.5, 3).beyond(1) == Further(0.5, 2)
    assert Further(0.5, 3).beyond(4) == Further(0.0, 0)


@pytest.mark.parametrize("name", shipped_names())
def test_no_cell_that_the_analysis_compares_is_missing(name: str) -> None:
    here = expand_here(load_study(name, {"binding": "none", "disturbed_repeats": 1}), host_topology("two_sockets"))

    class Data:
        order, cells, study = here.grid.order, here.grid.cells, here.study

    compared = {cell for cell, others in _compared(Data).items() if others and not here.grid.cell(cell).reason}
    runnable = {cell.name for cell in here.grid.cells if not cell.reason}
    assert {cell for cell in compared if _compared(Data)[cell] & runnable} <= set(further(here, 0.0))


def ended(directory: RunDirectory, repeat: int | str, wall_s: float, disturbed: bool = False) -> None:
    for cell in directory.grid().cells:
        monitor = DISTURBED if disturbed and cell.name == TWIN else None
        head = RunHead(status=Outcome.OK, invocation="a", wall_s=wall_s, monitor=monitor)
        write_record(directory.record(cell.name, repeat), head)
        if repeat == TRACED:
            write_record(directory.metrics(cell.name), Head(status=Outcome.OK, invocation="a", wall_s=wall_s))


def test_plan_has_them_before_they_are_demanded(tmp_path: Path) -> None:
    directory = resolve(read_study(TWINS, "f"), tmp_path, False, "a")
    ended(directory, 1, 10.0)
    made = plan(read_study(TWINS, "f"), tmp_path)
    assert made.further_runs == (0, 4) and made.at_most_s == made.estimate_s + 4 * 10
    # One of three runs was disturbed: 5 of 9 pairs are lost, of two blocks.
    ended(directory, 1, 10.0, disturbed=True)
    made = plan(read_study(TWINS, "f"), tmp_path)
    assert made.further_runs == (pytest.approx(2 * 2 * 5 / 9, abs=0.1), 4)
    assert made.estimate_s == pytest.approx(6 * 10 + 4 * 10 * 5 / 9, abs=0.1) and made.at_most_s == 6 * 10 + 4 * 10
    text = render(made)
    assert "at most 1 min 40 s with all runs on demand" in text
    assert "on demand: 2 more runs expected, at most 4: a disturbed pair is measured again, up to 2 times" in text


def test_plan_counts_demanded_runs_as_runs_to_do(tmp_path: Path) -> None:
    directory = resolve(read_study(TWINS, "f"), tmp_path, False, "a")
    for repeat in (1, 2, TRACED):
        ended(directory, repeat, 10.0)
    assert plan(read_study(TWINS, "f"), tmp_path).runs_to_do == 0
    demand = Demand(status=Outcome.OK, invocation="a", repeats={FIRST: 3, TWIN: 3})
    write_json(directory.demand, plain(demand))
    made = plan(read_study(TWINS, "f"), tmp_path)
    assert (made.runs, made.runs_to_do, made.estimate_s, made.at_most_s) == (11, 2, 20.0, 40.0)


def test_eta_has_them_before_they_are_demanded() -> None:
    here = twins()
    slots = here.grid.asked(2)
    head = Head(status=Outcome.OK, invocation="now", wall_s=10.0)
    heads = {slot: head if slot.repeat == 1 else None for slot in slots}
    assert study_progress(heads, "now").rest_s == 60
    found = study_progress(heads, "now", further=further(here, 0.5))
    assert (found.rest_s, found.spare_s) == (60 + 2 * 15, 2 * 5)
    late = structs.replace(head, status=Outcome.TIMEOUT)
    given_up = {slot: late if slot == slots[0] else known for slot, known in heads.items()}
    left = study_progress(given_up, "now", further={slots[0].cell: Further(1, 2)})
    assert left.spare_s == 0.0
