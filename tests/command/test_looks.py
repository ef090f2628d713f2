"""What looks from outside say of the placement, with real processes and chosen nodes."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from bench.command import looks as module
from bench.command.looks import Looks, nodes_of_ranks
from bench.records.command import Command
from bench.records.host import Gpu, Node, Topology
from bench.records.run import DoubtKind, PlacementVerdict
from bench.records.study import Cell
from bench.study.grid import expand_here
from bench.where.look import process_table
from tests.study.test_command import HOST, study

HOLD = "import subprocess as s, time; s.Popen(['sleep', '600']); x = bytearray(20 << 20); print(); time.sleep(600)"


def cell(binding: str = "numactl") -> Cell:
    return replace(expand_here(study("sleep 600"), HOST).grid.cells[0], binding=binding)


def node(number: int, cpus: str) -> Node:
    return Node(id=number, cpus=cpus, allowed_cpus=cpus, memory_bytes=1 << 34, distances={0: 10, 1: 20})


ALL = f"0-{os.cpu_count() - 1}"


@pytest.fixture
def guard() -> Iterator[int]:
    """In place of the guard: a process with a child and a grandchild that holds 20 MiB."""
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {HOLD!r}]); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-S", "-c", parent], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    yield process.pid
    os.killpg(process.pid, 9)
    process.wait()


def seen(looks: Looks, guard: int) -> tuple[PlacementVerdict, set[DoubtKind], str]:
    looks.at_pages(guard)
    found = looks.certificate(3.0)
    return found.verdict, {doubt.kind for doubt in found.reasons}, "; ".join(doubt.text for doubt in found.reasons)


def test_grandchildren_are_observed_and_proved(guard):
    looks = Looks(cell(), Command(run=("sleep",)), Topology(nodes=(node(0, ALL),)))
    assert seen(looks, guard)[0] is PlacementVerdict.PROVED
    assert {place.name for place in looks.processes} >= {"sleep"} and len(looks.processes) == 2


def test_threads_that_may_leave_the_node_are_named(guard):
    looks = Looks(cell(), Command(run=("sleep",)), Topology(nodes=(node(0, "4000"), node(1, ALL))))
    verdict, kinds, text = seen(looks, guard)
    assert verdict is PlacementVerdict.MISPLACED and DoubtKind.THREADS in kinds
    assert "not only on node 0" in text and f"sleep ({looks.processes[-1].pid})" in text


@pytest.mark.parametrize(("binding", "expected"), [("numactl", True), ("self", True), ("cpus", False), ("none", None)])
def test_memory_elsewhere_counts_where_the_binding_says_where_it_is(guard, binding, expected):
    remote = replace(cell(binding), mem_node=1)
    looks = Looks(remote, Command(run=("sleep",)), Topology(nodes=(node(0, ALL), node(1, ""))))
    verdict, kinds, text = seen(looks, guard)
    wanted = {True: PlacementVerdict.MISPLACED, False: PlacementVerdict.PROVED, None: PlacementVerdict.NOT_BOUND}
    assert verdict is wanted[expected], text
    if expected:
        assert kinds == {DoubtKind.PAGES} and "anonymous" in text and "on node 0, not 1" in text


def test_what_starts_elsewhere_is_never_proved(guard):
    looks = Looks(cell("self"), Command(run=("docker", "run", "x")), Topology(nodes=(node(0, ALL),)))
    verdict, _, text = seen(looks, guard)
    assert verdict is PlacementVerdict.UNPROVED and "docker starts its processes elsewhere" in text


def test_each_rank_belongs_to_the_node_of_its_own_gpu(guard, monkeypatch):
    gpus = tuple(Gpu(index=index, pci_bus_id=f"0000:0{index}:00.0", node=index) for index in (0, 1))
    host = Topology(nodes=(node(0, ALL), node(1, "")), gpus=gpus)
    table = process_table()
    pids = [pid for pid, known in table.items() if known.session == guard and pid != guard]
    rank = next(pid for pid in pids if table[pid].parent == guard)
    monkeypatch.setattr(module, "query_nvml", lambda: None)
    monkeypatch.setattr(module, "gpu_users", lambda nvml, seen: {rank: (0,)})
    assert nodes_of_ranks(host, pids, table) == {pid: {0} for pid in pids}
    command = Command(run=("sleep",), gpus="all")
    assert seen(Looks(cell("self"), command, host), guard)[0] is PlacementVerdict.PROVED
    monkeypatch.setattr(module, "gpu_users", lambda nvml, seen: {rank: (1,)})
    assert seen(Looks(cell("self"), command, host), guard)[0] is PlacementVerdict.MISPLACED
    monkeypatch.setattr(module, "gpu_users", lambda nvml, seen: {})
    verdict, _, text = seen(Looks(cell("self"), command, host), guard)
    assert verdict is PlacementVerdict.UNPROVED and "nearest to its GPU is unknown" in text


def test_pages_are_looked_at_at_twice_the_time_before(guard, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    looks = Looks(cell(), Command(run=("sleep",)), Topology(nodes=(node(0, ALL),)))
    at = []
    for tenth in range(101):
        now[0] = tenth / 10
        before = looks.page_looks
        looks.due(guard)
        at += [now[0]] * (looks.page_looks - before)
    assert at == [1.0, 2.0, 4.0, 8.0]
    # Two processes, looked at each second in between.
    assert looks.glances == 2 * 6
