import pytest

from bench.records.host import Gpu
from bench.records.where import MemoryKind, Near, Part, ProcessPlace, ProcessThreads, Unobserved, Where
from bench.where.judge import judge
from bench.where.text import printable, where_text

NODES = {0: range(4), 1: range(4, 8)}
GIB = 1 << 30


def text_of(*places, near=(0,), source="sysfs numa_node"):
    gpu = Gpu(index=0, name="NVIDIA H200", uuid="GPU-a")
    given = Near(nodes=near, source=source)
    gpus = judge(places, {place.pid: (0,) for place in places}, {0: gpu}, NODES, given)
    return where_text(Where(at="", nodes={0: "0-3", 1: "4-7"}, gpus=tuple(gpus))).splitlines()


def test_remote_pool_is_described_with_its_remedies():
    threads = ProcessThreads(
        allowed_cpus="0-7", allowed_nodes=(0, 1), threads=48, examples=("serve", "pt_main"),
        last_node={0: 40, 1: 8}, cpu_ticks={0: 75, 1: 25},
    )  # fmt: skip
    place = ProcessPlace(
        pid=4711, pid_in_container=9, start_ticks=1, name="serve", command="/usr/bin/python3", threads=(threads,),
        policies={"default": 47, "bind:0": 1}, bytes={MemoryKind.ANON: {0: GIB}, MemoryKind.PINNED: {1: 4 * GIB}},
    )  # fmt: skip
    assert text_of(place) == [
        "GPU 0 (NVIDIA H200), nearest: node 0 (sysfs numa_node)",
        "  remote: 20 % of its memory is near; threads or memory of 1 of 1 processes are elsewhere",
        "    taskset -acp 0-3 4711    # moves the threads now",
        "    numactl --cpunodebind=0 --membind=0 --    # pinned pages do not move: start it again behind this",
        "  4711 serve, 9 in its container  /usr/bin/python3",
        "    elsewhere 48 threads (serve, pt_main) may run on CPUs 0-7; pinned or shared anonymous 4.00 GiB on node 1",
        "    threads   48 on CPUs 0-7 (nodes 0-1), last on node 0: 40, node 1: 8, "
        "CPU time 75 % on node 0, 25 % on node 1",
        "    policy    default (47 threads), bind:0 (1 thread)",
        "    memory    anonymous 1.00 GiB on node 0; pinned or shared anonymous 4.00 GiB on node 1",
    ]


def test_hidden_memory_names_the_permission():
    gap = Unobserved(part=Part.MEMORY, error="Permission denied", denied=True)
    lines = text_of(ProcessPlace(pid=1, start_ticks=1, name="serve", unobserved=(gap,)))
    assert lines[1] == "  unseen: memory of some processes could not be observed"
    assert lines[-1].startswith("    unseen    memory: Permission denied; run as root or as the process's user (ptrace")


def test_unknown_node_says_how_to_name_it():
    lines = text_of(ProcessPlace(pid=1, start_ticks=1, name="serve"), near=(), source="disagreed")
    assert lines[0] == "GPU 0 (NVIDIA H200), nearest node unknown (the sources disagree)"
    assert "--node N" in lines[1] and lines[1].startswith("  unseen: ")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("pt main", "pt main"),
        ("\x1b[2Jx\x07", r"\x1b[2Jx\x07"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202egnp", r"\u202egnp"),
        ("\x9b31m", r"\x9b31m"),
        ("Köln 東京", "Köln 東京"),
    ],
)
def test_control_characters_of_names_are_escaped(raw, shown):
    assert printable(raw) == shown
    thread = ProcessThreads(allowed_cpus="4-7", threads=1, examples=(raw,))
    place = ProcessPlace(pid=1, start_ticks=1, name=raw, command=raw, threads=(thread,), policies={raw: 1})
    assert all(line.isprintable() for line in text_of(place))
