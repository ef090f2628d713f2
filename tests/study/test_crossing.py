"""Which groups are crossed, where their processes start, and in which order."""

from itertools import groupby
from pathlib import Path

import pytest
from msgspec.structs import replace

import bench.study.grid as grid_module
from bench.errors import StudyError
from bench.records.host import Gpu, Node, Topology
from bench.records.run import Head, Mode, Outcome
from bench.records.study import TRACED, Cell, Grid, Placement, Slot
from bench.study.crossing import births_of, pools_by_node, whole_sets
from bench.study.duration import CROSSED_PROCESS_S, TYPICAL, Earlier, estimated
from bench.study.grid import Expansion, expand, expand_here
from bench.study.load import StudyDefinition, configs_folder, load_study, read_study
from bench.study.order import birth_of, measuring_order
from bench.study.plan import Plan, plan, render
from bench.study.progress import study_progress

GIB = 1 << 30
BASE = {
    "name": "s",
    "gpu_ids": [0],
    "numa_nodes": [0, 1],
    "models": ["vit0x0x0", "vit32x2x128"],
    "device": "cpu",
    "profiler": "torch",
    "binding": "numactl",
    "design": "crossing",
    "repeats": 3,
    "memory_size_mb": 64,
}


def node(number: int, cpus: str = "0-1", gib: int = 1) -> Node:
    return Node(id=number, cpus=cpus, allowed_cpus=cpus, memory_bytes=gib * GIB, distances={number: 10})


TWO = Topology(nodes=(node(0), node(1, "2-3")))


@pytest.fixture(autouse=True)
def _can_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "choose_binding", lambda asked, topology, root: ("numactl", "for a test"))


def here(values: dict, topology: Topology = TWO) -> Expansion:
    return expand_here(read_study(BASE | values, "f"), topology)


def planned(definition: StudyDefinition, folder: Path, topology: Topology) -> Plan:
    """On fast CPUs, whatever else this machine does."""
    return plan(definition, folder, topology=topology, rate=lambda: 1e12)


def cells(values: dict, topology: Topology = TWO) -> list[Cell]:
    return expand(read_study(BASE | {"design": "processes"} | values, "f"), topology)


def timed(grid: Grid) -> list[tuple[Slot, ...]]:
    """The runs of each timed process, in their order."""
    slots = [slot for slot in grid.order if slot.repeat != TRACED]
    return [tuple(own) for _, own in groupby(slots, key=lambda slot: slot.process)]


def test_process_has_every_cell_of_its_group_side_by_side() -> None:
    grid = here({}).grid
    processes = timed(grid)
    assert len({own[0].process for own in processes}) == len(processes)
    for own in processes:
        assert own == grid.process(own[0])
        assert [slot.cell for slot in own] == [cell.name for cell in grid.cells if cell.group == own[0].group]


def test_one_process_traces_a_group_from_its_first_birth() -> None:
    grid = here({}).grid
    traced = [slot for slot in grid.order if slot.is_traced]
    assert len(traced) == 4 and all(slot.birth for slot in traced)
    for group in {slot.group for slot in traced}:
        own = tuple(slot for slot in traced if slot.group == group)
        assert all(grid.process(slot) == own for slot in own)
        assert {slot.process for slot in own} == {f"{group}_traced"}
        assert [slot.cell for slot in own] == [cell.name for cell in grid.cells if cell.group == group]


def test_each_birth_comes_once_before_one_comes_twice() -> None:
    for group in {slot.group for slot in here({}).grid.order}:
        births = [own[0].birth for own in timed(here({}).grid) if own[0].group == group]
        for first in range(0, len(births) - 1, 2):
            assert set(births[first : first + 2]) == {(0, 0), (1, 1)}


def test_order_of_births_depends_on_seed_and_set() -> None:
    births: tuple[Placement, ...] = ((0, 0), (1, 1))
    first = {birth_of(births, "g", process, seed) for process in (1, 3, 5) for seed in range(8)}
    assert first == set(births)
    assert birth_of(births, "g", 1, 7) == birth_of(births[::-1], "g", 1, 7)


def test_repeats_become_a_multiple_of_the_births() -> None:
    assert here({}).study.repeats == 4
    assert here({"numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0"]}).study.repeats == 3
    assert here({"design": "processes"}).study.repeats == 3
    assert whole_sets(3, {"a": ((0, 0), (1, 1)), "b": ((0, 0), (1, 1), (2, 2))}) == 6


def test_places_of_fewer_repeats_are_the_same() -> None:
    births = {"a": ((0, 0), (1, 1))}
    few, many = (
        measuring_order([("a0", "a"), ("a1", "a")], repeats, 0, traced=False, births=births) for repeats in (2, 6)
    )
    assert many[: len(few)] == few


def test_cell_listed_twice_is_crossed_with_itself() -> None:
    made = here({"numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0"]})
    assert made.study.design == "crossing"
    assert {slot.birth for slot in made.grid.order if not slot.is_traced} == {(0, 0)}


def test_auto_crosses_what_it_can() -> None:
    made = here({"design": "auto", "axes": {"preprocess_queue": [0, 2]}})
    assert made.study.design == "crossing" and made.study.repeats == 4
    assert {"prep" in slot.group for slot in made.grid.order if slot.birth} == {False}
    alone = here({"design": "auto", "numa_nodes": [0]})
    assert (alone.study.design, alone.study.repeats) == ("processes", 3)


def test_peers_that_stay_are_no_reason_not_to_cross(tmp_path: Path) -> None:
    busy = {"axes": {"concurrent_gpus": [1, 3]}, "concurrent_placement": "found"}
    made = here(busy)
    assert len({slot.group for slot in made.grid.order if slot.birth}) == 4
    assert all(slot.birth for slot in made.grid.order)
    # Peers run what the measured process runs: their load would follow its turns.
    asked = BASE | busy | {"axes": busy["axes"] | {"memory_size_mb": [64, 65]}, "models": ["vit0x0x0"]}
    grid = here(asked).grid
    joined = {cell.group for cell in grid.cells if cell.concurrent_gpus == 1}
    apart = {cell.group for cell in grid.cells if cell.concurrent_gpus == 3}
    assert (len(joined), len(apart)) == (1, 2)
    notes = planned(read_study(asked, "f"), tmp_path, topology=TWO).notes
    assert any("memory_size_mb, in part, is compared between processes: the peers of" in note for note in notes), notes


def test_design_of_processes_measures_each_cell_by_itself() -> None:
    made = here({"design": "processes"})
    assert (made.study.design, made.study.repeats) == ("processes", 3)
    assert not any(slot.birth for slot in made.grid.order)


def test_plan_names_what_is_not_crossed_and_why(tmp_path: Path) -> None:
    asked = BASE | {"design": "auto", "axes": {"preprocess_queue": [0, 2]}}
    _, between, note = planned(read_study(asked, "f"), tmp_path, topology=TWO).notes
    assert between == (
        "preprocess_queue is compared between processes: preprocess_queue 2 excludes design crossing: "
        "its thread cannot be moved with the others"
    )
    assert note == (
        "2 of 4 groups measured in processes of one cell each: preprocess_queue 2 excludes design crossing: "
        "its thread cannot be moved with the others"
    )
    large = BASE | {"design": "auto", "numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0"], "memory_size_mb": 600}
    (note,) = planned(read_study(large, "f"), tmp_path, topology=TWO).notes
    assert "1 of 1 group measured" in note and "on node 0, which has" in note
    chosen = planned(read_study(asked | {"design": "processes"}, "f"), tmp_path, topology=TWO)
    assert not any("of one cell each" in one for one in chosen.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preprocess_queue": 2}, "preprocess_queue 2 excludes"),
        ({"compile_model": "max-autotune"}, "compile_model max-autotune excludes"),
        ({"binding": "none"}, "binding none excludes"),
    ],
)
def test_settings_that_exclude_a_crossing_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(StudyError, match=words) as refused:
        read_study(BASE | changes, "f")
    assert "design: processes" in refused.value.advice


def test_axis_value_that_excludes_a_crossing_is_named() -> None:
    with pytest.raises(StudyError, match="combinations are impossible") as refused:
        read_study(BASE | {"axes": {"preprocess_queue": [0, 2]}}, "f")
    assert '"preprocess_queue": 2' in refused.value.advice


def test_host_that_cannot_bind_is_no_place_for_a_crossing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "choose_binding", lambda asked, topology, root: ("none", "for a test"))
    with pytest.raises(StudyError, match="binding none excludes"):
        here({"binding": "auto"})


def test_single_placement_is_no_crossing() -> None:
    with pytest.raises(StudyError, match="a single cell") as refused:
        here({"numa_nodes": [0]})
    assert "design: processes" in refused.value.advice


def test_pools_that_a_node_cannot_hold_are_refused() -> None:
    twice = {"numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0"], "memory_size_mb": 600}
    with pytest.raises(StudyError, match=r"1\.17 GiB on node 0, which has 1\.00 GiB"):
        here(twice)
    assert here(twice | {"design": "processes"}).study.design == "processes"


def test_pinned_pools_count_as_powers_of_two() -> None:
    cpu = cells({"memory_size_mb": 600, "models": ["vit0x0x0"]})
    assert pools_by_node(cpu) == {0: 600 << 20, 1: 600 << 20}
    assert pools_by_node(replace(cell, device="cuda") for cell in cpu) == {0: 1 << 30, 1: 1 << 30}


def test_memory_node_of_a_birth_without_memory_is_the_cells() -> None:
    host = Topology(nodes=(node(0), node(1, "2-3", gib=0)))
    places = {key: value for key, value in BASE.items() if key != "numa_nodes"} | {"placements": [[0, 0], [1, 0]]}
    definition = read_study(places | {"models": ["vit0x0x0"], "design": "processes"}, "f")
    births, why = births_of(expand(definition, host), host)
    assert (births, why) == ({"gpu0_vit0x0x0": ((0, 0), (1, 0))}, "")


def test_cell_that_cannot_run_here_has_no_birth() -> None:
    made = here({"numa_nodes": [0, 1, 9]})
    assert {slot.birth for slot in made.grid.order if slot.birth} == {(0, 0), (1, 1)}
    assert len(made.grid.process(made.grid.order[0])) == 3


def test_plan_counts_processes_and_explains_repeats(tmp_path: Path) -> None:
    made = planned(read_study(BASE, "f"), tmp_path, topology=TWO)
    assert (made.runs, made.processes, made.processes_to_do, made.repeats) == (20, 10, 10, 4)
    text = render(made)
    assert "20 runs in 10 processes, 10 to do" in text
    assert "repeats: 4 in place of 3" in text
    assert "memory: up to 128 MiB of host batches in one process" in text
    assert "memory:" not in render(planned(read_study(BASE | {"design": "processes"}, "f"), tmp_path, topology=TWO))


def test_plan_estimates_a_crossing_by_processes() -> None:
    grid = here({"models": ["vit0x0x0"]}).grid
    on_gpu = Grid(cells=tuple(replace(cell, device="cuda") for cell in grid.cells), order=grid.order)
    first, *_ = timed(grid)
    for earlier in (Earlier({}), Earlier({(on_gpu.cell(first[0].cell).key, Mode.TIMED): [99.0]})):
        found = estimated(on_gpu, first, earlier, None)
        assert found and (found.sum_s(first), found.source) == (CROSSED_PROCESS_S, TYPICAL)


def test_process_of_more_sides_is_estimated_with_their_turns() -> None:
    made = expand_here(read_study(BASE | ON_GPU | {"axes": {"buffers": [2, 1, 3, 4]}}, "f"), with_gpu(80 * GIB))
    (slot, *_), *_ = timed(made.grid)
    found = estimated(made.grid, [slot], Earlier({}), None)
    # Eight rounds of eight windows of 40 ms, in place of twelve of four.
    assert found and found.sum_s([slot]) == pytest.approx(CROSSED_PROCESS_S + (8 * 8 - 12 * 4) * 0.04)


def test_runs_of_a_crossing_share_its_time() -> None:
    slots = [slot for slot in here({"models": ["vit0x0x0"]}).grid.asked(4) if not slot.is_traced]
    ended = Head(status=Outcome.OK, invocation="now", wall_s=10.0)
    heads = {slot: ended if slot.repeat == 1 else None for slot in slots}
    assert study_progress(heads, "now").rest_s == 30.0
    current = [slot for slot in heads if slot.repeat == 2]
    found = study_progress(heads, "now", current=current)
    assert (found.current_s, found.rest_s) == (10.0, 20.0)


ONE_NODE = {"design": "auto", "numa_nodes": [0], "models": ["vit0x0x0"]}


def crossed_groups(made: Expansion) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for slot in made.grid.order:
        if slot.birth:
            groups.setdefault(slot.group, set()).add(slot.cell)
    return groups


@pytest.mark.parametrize(
    "axis",
    [
        {"host_memory": ["pinned", "pageable"]},
        {"memory_size_mb": [64, 32]},
        {"copy_granularity": ["batch", "sample"]},
        {"direction": ["both", "h2d", "d2h"]},
        {"buffers": [2, 1, 4]},
        {"dtype": ["fp32", "bf16", "fp16"]},
        {"batch_size": [10, 1, 50]},
        {"compile_model": ["off", "default"]},
    ],
)
def test_settings_of_one_node_are_crossed(axis: dict) -> None:
    made = here(ONE_NODE | {"axes": axis})
    assert made.study.design == "crossing"
    assert crossed_groups(made) == {"gpu0_vit0x0x0": {cell.name for cell in made.grid.cells}}
    alone = here(ONE_NODE | {"axes": axis, "design": "processes"})
    assert not crossed_groups(alone)
    assert len({cell.group for cell in alone.grid.cells}) == len(alone.grid.cells)
    assert [cell.key for cell in made.grid.cells] == [cell.key for cell in alone.grid.cells]


def test_settings_and_nodes_are_one_group_of_nine_at_most() -> None:
    axes = {"copy_granularity": ["batch", "sample"], "memory_size_mb": [64, 32]}
    assert [len(own) for own in crossed_groups(here(ONE_NODE | {"numa_nodes": [0, 1], "axes": axes})).values()] == [8]
    more = here(ONE_NODE | {"numa_nodes": [0, 1], "axes": axes | {"direction": ["both", "h2d"]}})
    assert [len(own) for own in crossed_groups(more).values()] == [8, 8]


def test_settings_of_all_sides_are_groups_of_their_own() -> None:
    made = here(ONE_NODE | {"axes": {"image_size": [224, 32], "host_memory": ["pinned", "pageable"]}})
    assert {group: len(own) for group, own in crossed_groups(made).items()} == {
        "gpu0_vit0x0x0": 2,
        "gpu0_vit0x0x0_px32": 2,
    }


def test_settings_that_change_together_are_crossed() -> None:
    zipped = {"zip": [{"batch_size": [10, 7], "num_samples": [1000, 700], "warmup_samples": [100, 70]}]}
    assert crossed_groups(here(ONE_NODE | zipped)) == {
        "gpu0_vit0x0x0": {"pipeline_gpu0_numa0_vit0x0x0", "pipeline_gpu0_numa0_vit0x0x0_bs7_n700_warm70"}
    }
    alone = here(ONE_NODE | {"axes": {"num_samples": [1000, 700]}})
    assert len(crossed_groups(alone)["gpu0_vit0x0x0"]) == 2


ON_GPU = {"device": "cuda", "models": ["vit32x2x128"], "numa_nodes": [0], "design": "auto"}


def with_gpu(memory: int | None) -> Topology:
    return Topology(nodes=TWO.nodes, gpus=(Gpu(index=0, pci_bus_id="0000:01:00.0", memory_bytes=memory),))


def test_graph_and_eager_are_crossed_on_a_gpu(tmp_path: Path) -> None:
    axes = {"cuda_graph": [False, True], "dtype": ["fp32", "tf32", "bf16"]}
    definition = read_study(BASE | ON_GPU | {"axes": axes}, "f")
    made = expand_here(definition, with_gpu(80 * GIB))
    groups = crossed_groups(made)
    assert {name: len(own) for name, own in groups.items()} == {"gpu0_vit32x2x128": 4, "gpu0_vit32x2x128_tf32": 2}
    found = planned(definition, tmp_path, topology=with_gpu(80 * GIB))
    assert found.notes[0] == "compared inside the same processes, as nodes are: cuda_graph, dtype"
    assert "dtype tf32 is compared between processes: tf32 is a mode of the whole process" in found.notes
    assert "of host batches in one process, about 1." in render(found)


def test_compiled_by_default_and_not_at_all_are_crossed(tmp_path: Path) -> None:
    modes = ["off", "default", "reduce-overhead", "max-autotune"]
    asked = BASE | ON_GPU | {"axes": {"compile_model": modes}, "num_samples": 100}
    definition = read_study(asked, "f")
    made = expand_here(definition, with_gpu(None))
    (own,) = crossed_groups(made).values()
    assert {made.grid.cell(name).compile_model for name in own} == {"off", "default"}
    notes = planned(definition, tmp_path, topology=with_gpu(None)).notes
    assert notes[0].endswith(": compile_model")
    assert notes[1:] == [
        "compile_model reduce-overhead is compared between processes: reduce-overhead records graphs in memory that "
        "torch manages for the whole process",
        "compile_model max-autotune is compared between processes: compile_model max-autotune excludes design "
        "crossing: it chooses kernels by timing them on one node",
    ]


def test_sides_that_the_gpu_cannot_hold_are_not_joined(tmp_path: Path) -> None:
    large = {"axes": {"dtype": ["fp32", "bf16"]}, "batch_size": 1000, "memory_size_mb": 800}
    definition = read_study(BASE | ON_GPU | large | {"models": ["vit16x12x1024"]}, "f")
    small, roomy, unknown = (with_gpu(memory) for memory in (8 * GIB, 80 * GIB, None))
    one_gib = {"nodes": (node(0, gib=16), node(1, "2-3", gib=16))}
    for host, count in ((small, 0), (roomy, 1), (unknown, 1)):
        assert len(crossed_groups(expand_here(definition, replace(host, **one_gib)))) == count
    notes = planned(definition, tmp_path, topology=replace(small, **one_gib)).notes
    assert not any("compared inside" in note for note in notes)


def test_large_batches_count_as_what_their_ring_holds() -> None:
    (cell,) = cells({"models": ["vit0x0x0"], "numa_nodes": [0], "memory_size_mb": 1, "batch_size": 100})
    assert pools_by_node([cell]) == {0: 2 * cell.input_bytes}
    assert pools_by_node([replace(cell, direction="d2h")]) == {0: 1 << 20}


def test_plan_names_the_settings_that_are_crossed(tmp_path: Path) -> None:
    axes = {"image_size": [224, 32], "host_memory": ["pinned", "pageable"]}
    notes = planned(read_study(BASE | ONE_NODE | {"axes": axes}, "f"), tmp_path, topology=TWO).notes
    assert notes == [
        "compared inside the same processes, as nodes are: host_memory",
        "image_size is compared between processes: it is the same for all sides of a process",
    ]
    large = {"memory_size_mb": 600, "axes": {"host_memory": ["pinned", "pageable"]}, "numa_nodes": [0, 1]}
    between = planned(read_study(BASE | ONE_NODE | large, "f"), tmp_path, topology=TWO).notes[-1]
    assert between.startswith("host_memory is compared between processes: ")
    assert "on node 0, which has 1.00 GiB" in between


@pytest.mark.parametrize(
    ("config", "sides"),
    [
        ("compile_study", [3] * 6),
        ("rq3_compilation", [3] * 3 + [9] * 3),
        ("rq4_numa", [6] * 9),
        ("rq5_pipeline_design", [9] * 3),
    ],
)
def test_shipped_sweeps_are_crossed_as_far_as_possible(config: str, sides: list[int]) -> None:
    large = (node(0, gib=256), replace(node(2, "2-3", gib=256), id=2))
    definition = load_study(configs_folder() / f"{config}.yaml", {"profiler": "torch"})
    made = expand_here(definition, replace(with_gpu(80 * GIB), nodes=large))
    assert sorted(len(own) for own in crossed_groups(made).values()) == sides
    assert made.study.repeats >= 6
