"""A crossing on the cpu device of this machine: cells on its first node, under several labels."""

import json
import os
import subprocess
import sys

import pytest
import torch
from msgspec.structs import replace

from bench.host.memory_calls import memory_policy, set_policy
from bench.host.moving import move_threads
from bench.records.base import convert, plain, read
from bench.records.run import ChildReport, Crossing, Group, Mode, Outcome, PlacementVerdict
from bench.workload import crossed_rings as rings_module
from bench.workload.crossed_rings import crossed_rings
from bench.workload.crossing import cross
from bench.workload.devices import CpuDevice
from bench.workload.failures import RunFailure
from bench.workload.host_memory import Rings
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.subject import build_subject

from .cells import small_cell
from .test_model_sources import GOOD, factory

CELL = {"binding": "numactl", "window_s": 0.01, "warmup_samples": 4}
GROUP = "pipeline_gpu0_vit16x1x32"


def group(cells=("a", "b"), **changes):
    crossing = Crossing(group=GROUP, process=1, id="0" * 32, birth_cpu_node=0, birth_mem_node=0)
    short = {"measure_s": 0.1, "window_s": 0.002, "lead_s": 0.002, "solo": False} | changes
    return Group(crossing=crossing, cells=[small_cell(name=f"{GROUP}_{name}", **CELL) for name in cells], **short)


@pytest.fixture(autouse=True, scope="module")
def _back_where_it_was():
    """A crossing binds its process, which here is that of all tests."""
    policy, cpus = memory_policy(), os.sched_getaffinity(0)
    yield
    set_policy(*policy)
    move_threads(cpus)


@pytest.fixture(scope="module")
def crossed():
    return cross(group(), Progress(), PhaseTimes())


def test_every_cell_has_a_result_of_the_same_process(crossed):
    facts, cells = crossed
    assert [one.cell for one in cells] == [f"{GROUP}_a", f"{GROUP}_b"]
    assert all(one.result and one.result.mode is Mode.CROSSED and one.failure is None for one in cells)
    assert sorted(facts.placements) == [one.cell for one in cells]
    assert facts.rounds % 4 == 0 and facts.threads >= 1 and facts.born_bytes


def test_windows_say_their_round_and_turn(crossed):
    facts, cells = crossed
    windows = [window for one in cells for window in one.result.windows]
    assert len(windows) == 4 * facts.rounds
    assert {(window.round, window.turn) for window in windows} == {
        (number, turn) for number in range(facts.rounds) for turn in range(4)
    }
    assert {window.batches for window in windows} == {facts.batches}


def test_lead_in_comes_only_after_another_placement(crossed):
    facts, cells = crossed
    windows = sorted(
        (window for one in cells for window in one.result.windows), key=lambda window: (window.round, window.turn)
    )
    # One batch, or where a busy machine takes long for one, two.
    shortest = min(window.lead_batches for window in windows)
    assert shortest <= 2 and all(window.lead_batches in (shortest, facts.lead_batches) for window in windows)
    assert all(window.lead_batches == shortest for window in windows if window.turn == 2)


def test_placement_of_every_cell_is_proved(crossed):
    _, cells = crossed
    for one in cells:
        certificate = one.result.certificate
        assert certificate.verdict is PlacementVerdict.PROVED, certificate.reasons
        assert certificate.glances >= len(one.result.windows) and certificate.strays == []
        assert all(share == 1.0 for share in certificate.share_on_node.values())


def test_error_and_carry_over_are_known(crossed):
    facts, _ = crossed
    assert set(facts.error) == set(facts.placements[1:])
    assert set(facts.carry_over) == set(facts.placements)


def test_allocation_order_alternates_over_processes():
    one = group()
    from msgspec.structs import replace

    from bench.workload.crossing import _Crossing

    orders = [
        [side.cell.name for side in _Crossing(again, Progress(), PhaseTimes()).sides]
        for again in (one, replace(one, crossing=replace(one.crossing, process=2)))
    ]
    assert orders[0] == orders[1][::-1]


def test_one_cell_without_room_fails_alone(monkeypatch):
    real = rings_module.require_host_memory
    full = iter([True, False, False])

    def refuse_once(needed, node):
        if next(full):
            raise RunFailure(Outcome.OOM, "not enough host memory for the pool", "")
        real(needed, node)

    monkeypatch.setattr(rings_module, "require_host_memory", refuse_once)
    _, cells = cross(group(("a", "b", "c")), Progress(), PhaseTimes())
    assert sorted(one.failure is None for one in cells) == [False, True, True]
    assert next(one for one in cells if one.failure).failure.status is Outcome.OOM


def test_process_without_usable_cells_has_a_reason_for_each(monkeypatch):
    places = iter(["here", "there"])

    def refuse(needed, node):
        raise RunFailure(Outcome.OOM, f"no room {next(places)}", "")

    monkeypatch.setattr(rings_module, "require_host_memory", refuse)
    with pytest.raises(RunFailure, match="no room here") as raised:
        cross(group(), Progress(), PhaseTimes())
    assert {one.cell for one in raised.value.crossed} == {f"{GROUP}_a", f"{GROUP}_b"}
    assert [one.failure.reason for one in raised.value.crossed] == ["no room here", "no room there"]


def rings_of(cells):
    subject = build_subject(cells[0], torch.device("cpu"))
    return crossed_rings(cells, CpuDevice(), [subject] * len(cells), lambda cell: None)


@pytest.mark.parametrize("kind", ["pinned", "pageable"])
def test_rings_of_all_placements_are_equal(kind):
    cells = [small_cell(name=name, **CELL, host_memory=kind) for name in ("a", "b", "c")]
    rings = rings_of(cells)
    assert all(isinstance(one, Rings) for one in rings)
    first, *others = rings
    assert all(torch.equal(one.inputs[0], first.inputs[0]) for one in others)
    assert len({one.inputs[0].data_ptr() for one in rings}) == 3


def test_rings_touch_chunks_in_opposite_order(monkeypatch):
    touched = []

    class Chunk:
        def __init__(self, name):
            self.name = name

        def __len__(self):
            return 3 * rings_module.CHUNK_BYTES

        def view(self, *_):
            return self

        def __getitem__(self, part):
            touched.append((self.name, part.start // rings_module.CHUNK_BYTES))
            return self

        def zero_(self):
            pass

    noted = []
    rings_module._touch_by_turns([("a", [Chunk("a")]), ("b", [Chunk("b")])], noted.append)
    assert touched == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert noted == [name for name, _ in touched]


def test_unknown_node_is_refused_for_that_cell_alone():
    cells = [small_cell(name="a", **CELL), small_cell(name="b", **CELL, mem_node=900)]
    good, bad = rings_of(cells)
    assert isinstance(good, Rings) and isinstance(bad, RunFailure) and bad.status is Outcome.BIND_FAILED


@pytest.mark.parametrize("name", ["plain", "nested"])
def test_every_leaf_of_every_placement_is_proved(name):
    cells = [factory(name, **CELL) for _ in range(2)]
    cells = [replace(cell, name=f"{GROUP}_{label}") for cell, label in zip(cells, ("a", "b"), strict=True)]
    _, crossed = cross(replace(group(), cells=cells), Progress(), PhaseTimes())
    into, back = GOOD[name]
    for one in crossed:
        assert one.failure is None, one.failure
        assert (one.result.bytes_in_per_batch, one.result.bytes_out_per_batch) == (sum(into), sum(back))
        assert len(one.result.certificate.buffers) == len(into) + len(back)


def test_program_writes_one_result_for_each_cell(tmp_path):
    (tmp_path / "group.json").write_text(json.dumps(plain(group())))
    argv = [sys.executable, "-P", "-m", "bench.workload", "--group", str(tmp_path / "group.json"), "--mode", "crossed"]
    ended = subprocess.run([*argv, "--result", str(tmp_path / "r.json")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    report = read(tmp_path / "r.json", ChildReport)
    assert [one.cell for one in report.crossed] == [f"{GROUP}_a", f"{GROUP}_b"]
    assert report.crossing.id == "0" * 32 and convert(plain(report.crossing), Crossing) == report.crossing


def test_program_refuses_group_and_cell_at_once(tmp_path):
    argv = [sys.executable, "-P", "-m", "bench.workload", "--mode", "crossed", "--result", str(tmp_path / "r.json")]
    ended = subprocess.run(argv, capture_output=True, text=True)
    assert ended.returncode == 2 and "--mode crossed needs --group" in ended.stderr


CPUS = sorted(os.sched_getaffinity(0))
needs_two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="two groups need a second CPU")


def of_cpu_groups():
    move_threads(CPUS)  # the crossings before left this process on some of them
    first, second = CPUS[:2]
    both = group()
    cells = [
        replace(cell, cpu_node=number, cpus=str(cpu))
        for number, (cell, cpu) in enumerate(zip(both.cells, (first, second), strict=True))
    ]
    return replace(both, cells=cells, crossing=replace(both.crossing, birth_cpu_node=1))


@pytest.mark.slow
@needs_two_cpus
def test_groups_of_cpus_are_crossed_and_proved():
    asked = of_cpu_groups()
    _, cells = cross(asked, Progress(), PhaseTimes())
    for cell, one in zip(asked.cells, cells, strict=True):
        found = one.result.certificate
        assert (found.verdict, found.node_cpus, {*found.cpus_seen}) == ("proved", cell.cpus, {cell.cpus})
        assert found.glances > 0 and not found.strays


@pytest.mark.slow
@needs_two_cpus
def test_thread_outside_its_group_of_cpus_is_misplaced(monkeypatch):
    asked = of_cpu_groups()
    first, second = (int(cell.cpus) for cell in asked.cells)

    def leave_one_behind(cpus):
        move_threads({first, second} if cpus == frozenset([second]) else cpus)

    monkeypatch.setattr("bench.workload.crossing.move_threads", leave_one_behind)
    _, cells = cross(asked, Progress(), PhaseTimes())
    verdicts = {one.cell[-1]: one.result.certificate for one in cells}
    assert (verdicts["a"].verdict, verdicts["b"].verdict) == ("proved", "misplaced")
    assert f"its group 1 has CPUs {second}" in verdicts["b"].reasons[0].text


SIDES = {
    "base": {},
    "large": {"memory_size_mb": 3, "host_memory": "pageable"},
    "in": {"direction": "h2d", "copy_granularity": "sample"},
    "out": {"direction": "d2h"},
}


@pytest.fixture(scope="module")
def sides():
    cells = [small_cell(name=f"{GROUP}_{name}", **CELL, **changes) for name, changes in SIDES.items()]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.workload.crossing.MOST_EXTENSIONS", 1)
        facts, crossed = cross(replace(group(), cells=cells), Progress(), PhaseTimes())
    assert all(one.failure is None for one in crossed), crossed
    return cells, facts, {one.cell.removeprefix(f"{GROUP}_"): one.result for one in crossed}


def test_every_side_has_windows_in_all_rounds_and_a_proof(sides):
    _, facts, results = sides
    assert all(len(one.windows) == 2 * facts.rounds for one in results.values())
    assert {window.batches for one in results.values() for window in one.windows} == {facts.batches}
    assert {one.certificate.verdict for one in results.values()} == {PlacementVerdict.PROVED}


def test_record_of_a_side_is_that_of_its_own_settings(sides):
    _, _, results = sides
    kinds = {name: one.host_memory.kind for name, one in results.items()}
    assert kinds == dict.fromkeys(SIDES, "pinned") | {"large": "pageable"}
    assert results["large"].input_ring_batches == 3 * results["base"].input_ring_batches + 1
    moved = {name: (one.bytes_in_per_batch > 0, one.bytes_out_per_batch > 0) for name, one in results.items()}
    assert moved == dict.fromkeys(SIDES, (True, True)) | {"in": (True, False), "out": (False, True)}
    rings = {name: set(one.certificate.buffers) for name, one in results.items()}
    assert (rings["in"], rings["out"], len(rings["base"])) == ({"input_ring"}, {"output_ring"}, 2)


def test_side_of_one_direction_says_why_it_has_no_latency(sides):
    _, _, results = sides
    assert "no copy out" in results["in"].latency_us.reasons["p50"]
    assert "no copy in" in results["out"].latency_us.reasons["p50"]
    assert results["base"].latency_us.p50 and results["large"].latency_us.p50


def test_shorter_ring_begins_with_the_batches_of_the_longer():
    cells = [small_cell(name=name, **CELL, memory_size_mb=size) for name, size in (("a", 1), ("b", 3), ("c", 2))]
    rings = rings_of(cells)
    lengths = [len(one.inputs[0]) for one in rings]
    assert lengths[0] < lengths[2] < lengths[1]
    for one in rings:
        assert torch.equal(one.inputs[0], rings[1].inputs[0][: len(one.inputs[0])])
