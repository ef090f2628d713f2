import pytest
from msgspec.structs import replace

from bench.records.host import Agreement, AnswerState, Gpu, LocalityAnswer, LocalitySource
from bench.records.where import (
    MemoryKind,
    Near,
    Part,
    ProcessPlace,
    ProcessThreads,
    RemedyKind,
    Unobserved,
    WhereVerdict,
)
from bench.where.command import exit_code
from bench.where.judge import FLOOR_BYTES, judge, near_of

GIB = 1 << 30
NODES = {0: range(4), 1: range(4, 8)}
GPU0 = Gpu(index=0, uuid="GPU-a", node=0, agreement=Agreement.REPORTED)
GPU1 = Gpu(index=1, uuid="GPU-b", node=1, agreement=Agreement.REPORTED)
GPUS = {0: GPU0, 1: GPU1}
ON_0 = ProcessThreads(allowed_cpus="0-3", allowed_nodes=(0,), threads=8)
ON_1 = ProcessThreads(allowed_cpus="4-7", allowed_nodes=(1,), threads=2)
ON_BOTH = ProcessThreads(allowed_cpus="0-7", allowed_nodes=(0, 1), threads=2)
PINNED, ANON, FILE = MemoryKind.PINNED, MemoryKind.ANON, MemoryKind.FILE


def place(*threads, pid=7, **more):
    return ProcessPlace(pid=pid, start_ticks=1, name="serve", threads=threads or (ON_0,), **more)


def judged(*places, gpus_of=None, **more):
    return judge(places, gpus_of or {one.pid: (0,) for one in places}, GPUS, NODES, **more)


def verdict_of(*places):
    return judged(*places)[0].verdict


@pytest.mark.parametrize(
    ("threads", "memory", "verdict"),
    [
        ((ON_0,), {PINNED: {0: 4 * GIB}}, "local"),
        ((ON_0,), {PINNED: {0: 100 * GIB, 1: GIB}}, "local"),
        ((ON_0,), {PINNED: {0: 98 * GIB, 1: 2 * GIB}}, "mixed"),
        ((ON_0,), {PINNED: {0: GIB, 1: GIB}}, "remote"),
        ((ON_0,), {ANON: {0: GIB}, PINNED: {1: 3 * GIB}}, "remote"),
        ((ON_0,), {ANON: {0: 3 * GIB}, PINNED: {1: GIB}}, "mixed"),
        ((ON_0,), {ANON: {0: GIB}, FILE: {1: 9 * GIB}}, "local"),
        ((ON_0,), {ANON: {1: FLOOR_BYTES}}, "local"),
        ((ON_0,), {ANON: {1: FLOOR_BYTES + 4096}}, "remote"),
        ((ON_0, ON_1), {ANON: {0: GIB}}, "mixed"),
        ((ON_BOTH,), {ANON: {0: GIB}}, "mixed"),
        ((ON_1,), {ANON: {0: GIB}}, "mixed"),
        ((ON_1,), {ANON: {1: GIB}}, "remote"),
        ((ON_1,), {}, "remote"),
        ((ON_BOTH,), {}, "mixed"),
        ((ON_0,), {}, "local"),
    ],
)
def test_verdict_follows_threads_and_decisive_memory(threads, memory, verdict):
    assert verdict_of(place(*threads, bytes=memory)) == verdict


def test_hidden_memory_is_unseen_and_no_excuse():
    gap = (Unobserved(part=Part.MEMORY, error="Permission denied", denied=True),)
    assert verdict_of(place(unobserved=gap)) is WhereVerdict.UNSEEN
    assert verdict_of(place(), place(pid=8, unobserved=gap)) is WhereVerdict.UNSEEN
    assert verdict_of(place(ON_1, unobserved=gap)) is WhereVerdict.REMOTE
    assert verdict_of(place(unobserved=(Unobserved(part=Part.POLICIES, error="gone"),))) is WhereVerdict.LOCAL


def test_unknown_node_is_unseen_and_never_node_0():
    found = judge([place()], {7: (0,)}, {0: Gpu(index=0)}, NODES)[0]
    assert found.near == Near(nodes=(), source="unknown")
    assert found.verdict is WhereVerdict.UNSEEN and not found.processes[0].problems


def test_given_node_replaces_that_of_the_gpu():
    found = judged(place(), given=Near(nodes=(1,), source="--node"))[0]
    assert found.verdict is WhereVerdict.REMOTE and found.near.source == "--node"


def test_each_rank_is_judged_against_its_own_gpu():
    ranks = [place(ON_0, pid=7, bytes={PINNED: {0: GIB}}), place(ON_1, pid=8, bytes={PINNED: {1: GIB}})]
    launcher = place(ON_BOTH, pid=6)
    found = judged(*ranks, launcher, gpus_of={7: (0,), 8: (1,), 6: ()})
    assert [(gpu.index, gpu.verdict.value) for gpu in found] == [(0, "local"), (1, "local"), (None, "local")]
    assert found[2].near == Near(nodes=(0, 1), source="GPU 0-1")
    swapped = judged(*ranks, gpus_of={7: (1,), 8: (0,)})
    assert [gpu.verdict.value for gpu in swapped] == ["remote", "remote"]


def test_process_of_two_gpus_may_be_near_either():
    both = place(ON_BOTH, bytes={PINNED: {0: GIB, 1: GIB}})
    assert [gpu.verdict.value for gpu in judged(both, gpus_of={7: (0, 1)})] == ["local", "local"]
    unknown = {**GPUS, 1: Gpu(index=1)}
    assert judge([both], {7: (0, 1)}, unknown, NODES)[0].verdict is WhereVerdict.UNSEEN


def test_remedies_move_what_moves_and_restart_for_pinned():
    found = judged(place(ON_BOTH, bytes={ANON: {1: GIB}, PINNED: {1: GIB}}))[0]
    assert [(remedy.kind, remedy.command) for remedy in found.remedies] == [
        (RemedyKind.THREADS, "taskset -acp 0-3 7"),
        (RemedyKind.PAGES, "migratepages 7 1 0"),
        (RemedyKind.RESTART, "numactl --cpunodebind=0 --membind=0 --"),
    ]
    assert found.near_share == 0


def test_nearest_nodes_are_those_that_sources_agree_on():
    counts = {
        LocalitySource.SYSFS: LocalityAnswer(state=AnswerState.NONE),
        LocalitySource.NVML_CPU: LocalityAnswer(state=AnswerState.COUNTS, nodes=(0, 1)),
    }
    found = near_of(Gpu(index=0, answers=counts))
    assert found == Near(nodes=(0, 1), source="NVML CPU affinity")
    assert near_of(replace(GPU0, agreement=Agreement.ONLY_NODE)) == Near(nodes=(0,), source="only_node")
    apart = counts | {LocalitySource.SYSFS: LocalityAnswer(state=AnswerState.COUNTS, nodes=(2,))}
    assert near_of(Gpu(index=0, answers=apart, agreement=Agreement.DISAGREED)) == Near(source="disagreed")


def test_exit_code_is_that_of_the_worst_verdict():
    assert exit_code([]) == exit_code([WhereVerdict.LOCAL]) == 0
    assert exit_code([WhereVerdict.LOCAL, WhereVerdict.UNSEEN]) == 4
    assert exit_code([WhereVerdict.UNSEEN, WhereVerdict.MIXED, WhereVerdict.LOCAL]) == 3
