"""Real processes: what is observed of them is what they did."""

import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.host.numa_maps import areas, kind_of, parse_mapping, resident_bytes
from bench.records.where import MemoryKind, Part
from bench.where import look as module
from bench.where.look import (
    Stat,
    Thread,
    group_threads,
    look,
    members,
    observe,
    process_of,
    process_table,
    sampled_bytes,
    threads_of,
)

FOREIGN = Path(__file__).parents[1] / "guest" / "foreign.py"
NODES = {0: tuple(range(4096))}
MIB = 1 << 20


@contextmanager
def running(*command, ready="READY\n"):
    """A process that leads a session of its own; its group is ended afterwards."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == ready
            yield process
        finally:
            for pid in members([process.pid], process_table()):
                with suppress(ProcessLookupError):  # one of a storm of forks may have ended by itself
                    os.kill(pid, signal.SIGKILL)


def foreign(kind, mib=16):
    return running(sys.executable, "-S", str(FOREIGN), kind, "0", "0", str(mib))


def seen(pid, sampled=False):
    (place,), ended = look([pid], NODES, sampled)
    assert ended == 0
    return place


@pytest.mark.parametrize(
    ("kind", "memory"),
    [
        ("honest", MemoryKind.PINNED),
        ("dev shm", MemoryKind.SHARED),
        ("memfd elsewhere", MemoryKind.SHARED),
        ("moved afterwards", MemoryKind.ANON),
    ],
)
def test_memory_is_found_to_the_page(kind, memory):
    with foreign(kind) as process:
        full, quick = seen(process.pid), seen(process.pid, sampled=True)
    # Of private memory there is the interpreter's own besides.
    rest = 12 * MIB if memory is MemoryKind.ANON else 0
    for place in (full, quick):
        assert 16 * MIB <= sum(place.bytes[memory].values()) <= 16 * MIB + rest
    assert full.bytes.keys() - {MemoryKind.FILE} == quick.bytes.keys() and quick.sampled


def test_threads_are_grouped_by_their_cpus():
    with foreign("threads") as process:
        one, *_ = cpus = sorted(os.sched_getaffinity(0))
        threads = [thread.id for thread in threads_of(process.pid)]
        os.sched_setaffinity(threads[-1], {one})
        place = seen(process.pid)
    assert len(threads) == 7
    expected = [6, 1] if len(cpus) > 1 else [7]
    assert [group.threads for group in place.threads] == expected
    assert sum(group.last_node[0] for group in place.threads) == 7
    assert sum(place.policies.values()) == 7


def test_children_and_grandchildren_are_members():
    with foreign("children") as process:
        assert len(members([process.pid], process_table())) == 3
    with foreign("grandchild with a session") as process:
        table = process_table()
        found = members([process.pid], table)
        assert len(found) == 3 and len({table[pid].session for pid in found}) == 2


def test_watched_threads_have_cpu_time_and_both_sets_of_cpus():
    program = "print('READY', flush=True)\nwhile True: pass"
    with running(sys.executable, "-S", "-c", program) as process:
        for watch_s in (0.5, 5, 50):
            (place,), _ = look([process.pid], NODES, watch_s=watch_s)
            # A busy machine may have let it wait all this time.
            if place.threads[0].cpu_ticks:
                break
    assert place.threads[0].cpu_ticks[0] > 0
    moments = [[Thread(1, "hop", frozenset({0}), 0, 5)], [Thread(1, "hop", frozenset({9}), 9, 7)]]
    groups = group_threads(moments, {0: (0,), 1: (9,)})
    assert {group.allowed_cpus: group.last_node for group in groups} == {"0": {0: 1}, "9": {1: 1}}
    assert [group.cpu_ticks for group in groups] == [{}, {1: 2}]


def test_ended_processes_and_zombies_are_skipped():
    with foreign("honest") as process:
        ticks = process_table()[process.pid].start_ticks
        assert observe(process.pid, ticks - 1, NODES, [[]]) is None  # an earlier process of the same id
        process.kill()
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert observe(process.pid, ticks, NODES, [[]]) is None and process.pid not in process_table()
    assert look([process.pid], NODES) == ([], 1)


def test_storm_of_forks_raises_nothing():
    program = "import os\nprint('READY', flush=True)\nwhile True:\n if os.fork() == 0: os._exit(0)\n os.waitpid(-1, 0)"
    with running(sys.executable, "-S", "-c", program) as process:
        ended = 0
        for _ in range(60):
            places, gone = look(members([process.pid], process_table()), NODES, sampled=True)
            ended += gone
            assert places
    assert ended >= 0


@pytest.mark.needs_root
@pytest.mark.needs("setpriv")
def test_memory_of_another_user_cannot_be_observed():
    script = """
from bench.where.look import look
place = look([int(__import__("sys").argv[1])], {0: range(4096)})[0][0]
print(place.threads[0].threads, *(f"{gap.part}/{gap.denied}" for gap in place.unobserved))
"""
    with foreign("honest") as process:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script]
        ended = subprocess.run([*command, str(process.pid)], capture_output=True, text=True)
    assert ended.stdout == f"1 {Part.POLICIES}/True {Part.MEMORY}/True\n", ended.stderr


def stat(parent, session):
    return Stat(name="x", state="S", parent=parent, session=session, start_ticks=1, cpu=0, cpu_ticks=0)


def test_members_of_a_session_and_of_a_control_group():
    table = {
        1: stat(0, 1), 5: stat(1, 5), 10: stat(5, 5), 11: stat(10, 5), 12: stat(1, 12), 13: stat(1, 13),
        20: stat(5, 20), 21: stat(1, 20),
    }  # fmt: skip
    groups = {1: set(), 5: {":/shell"}, 10: {":/shell"}, 11: {":/shell"}, 12: {":/shell"}, 20: {":/shell"}}
    job = {20: {":/job"}, 13: {":/job/step"}}

    def found(*roots, of=groups, without=()):
        return members(roots, table, lambda pid: of.get(pid, set()), without)

    assert found(10) == [10, 11]  # neither the session nor the control group of the shell that started it
    assert found(20) == [20, 21]  # it leads its session
    assert found(20, of=groups | job) == [13, 20, 21]
    assert found(5, without=(5, 10)) == [5, 11, 12, 20, 21]
    assert found(99) == []


def test_id_of_a_thread_means_its_process():
    with foreign("threads") as process:
        assert {process_of(thread.id) for thread in threads_of(process.pid)} == {process.pid}
    assert process_of(1 << 30) == 1 << 30


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("7f0 bind:1 file=/dev/zero\\040(deleted) mapped=9 N0=4 N1=5 kernelpagesize_kB=4", "pinned", {0: 4, 1: 5}),
        ("7f0 default anon=3 dirty=3 N1=3 kernelpagesize_kB=4", "anon", {1: 3}),
        ("7f0 default heap anon=3 N0=3 kernelpagesize_kB=4", "anon", {0: 3}),
        ("7f0 default file=/anon_hugepage\\040(deleted) huge anon=2 N0=2 kernelpagesize_kB=2048", "huge", {0: 1024}),
        ("7f0 default file=/memfd:pool\\040(deleted) N0=1 kernelpagesize_kB=4", "shared", {0: 1}),
        ("7f0 default file=/SYSV00000000\\040(deleted) N0=1 kernelpagesize_kB=4", "shared", {0: 1}),
        ("7f0 default file=/dev/nvidia-uvm N0=1 kernelpagesize_kB=4", "driver", {0: 1}),
        ("7f0 default file=/usr/lib/libc.so.6 mapped=1 N0=1 kernelpagesize_kB=4", "file", {0: 1}),
    ],
)
def test_kinds_of_mappings(line, kind, size):
    mapping = parse_mapping(line)
    assert mapping.kind == kind and mapping.bytes_by_node == {node: pages * 4096 for node, pages in size.items()}


def test_mapping_without_pages_is_left_out():
    assert parse_mapping("7f0 default file=/lib/x.so") is None
    assert kind_of("[anon_shmem:pool]") is MemoryKind.PINNED


def test_process_with_very_many_areas_is_sampled_in_one_call(monkeypatch):
    """Every second page of a pool is read-only: each page is an area of its own."""
    program = """
import ctypes, mmap, time
pool = mmap.mmap(-1, 20_000 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
pool[::mmap.PAGESIZE] = bytes(20_000)
libc, address = ctypes.CDLL(None), ctypes.addressof(ctypes.c_char.from_buffer(pool))
for page in range(0, 20_000, 2):
    assert libc.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE), 1) == 0
print("READY", flush=True)
time.sleep(600)
"""
    asked = []
    ask = module.node_of_each
    monkeypatch.setattr(module, "node_of_each", lambda pages, pid: asked.append(len(pages)) or ask(pages, pid))
    with running(sys.executable, "-S", "-c", program) as process:
        sampled, full = sampled_bytes(process.pid), resident_bytes(process.pid)
    assert len(asked) == 1 and 20_000 < asked[0] < 40_000
    assert sum(sampled[MemoryKind.ANON].values()) == pytest.approx(sum(full[MemoryKind.ANON].values()), rel=0.05)


def test_large_reserved_areas_cost_nothing():
    """CUDA reserves hundreds of GiB of addresses: they are no pages."""
    reserved = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
    began = time.process_time()
    assert sum(sampled_bytes(os.getpid())[MemoryKind.ANON].values()) < 64 << 30
    assert time.process_time() - began < 5
    assert max(area.bytes for area in areas(os.getpid())) >= 1 << 40
    assert sum(resident_bytes()[MemoryKind.ANON].values()) > 0
    reserved.close()
