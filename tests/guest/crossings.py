"""What runs inside the guest of check_crossings.py: crossings over four nodes, honest ones and sabotaged ones.

usage: python -m tests.guest.crossings honest|sabotaged|full_node|in_a_cpuset ...
       python -m tests.guest.crossings study|killed FOLDER

The last line of what it says is JSON. In the first form each crossing is a process of its own, forked from this one,
which has imported torch. With `study` it measures the timed runs of NumaStudy over all nodes, as its tasks would, in
run directories in FOLDER; with `killed` one process of three pools of which the kernel has room for two.
"""

import ctypes
import json
import mmap
import os
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bench.host.memory_calls import PageQuery, allocating_on
from bench.records.base import convert
from bench.records.host import parse_cpulist
from bench.records.run import CrossedCell, Crossing, Group
from bench.records.study import Cell, Placement
from bench.workload.failures import RunFailure
from bench.workload.progress import PhaseTimes, Progress
from tests.guest.standin import _MOVE_PAGES, _libc

NAME = "pipeline_gpu0_vit0x0x0"
ALL = ((0, 0), (1, 1), (2, 2), (0, 3))
TWO = ((0, 0), (1, 1))
VICTIM = (1, 1)
PAGES, CHUNK_BYTES = 400, 4 << 20
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
BALANCING = Path("/proc/sys/kernel/numa_balancing")
# The fork server without timm, whose torchvision needs libraries of CUDA that a guest cannot load.
SERVER = """
import sys
from bench.workload import __main__ as program, serve
import_torch = program.import_torch
program.import_torch = lambda computes: import_torch(False)
sys.exit(serve.main(sys.argv[1:]))
"""
CGROUPS = Path("/sys/fs/cgroup")
NARROW = CGROUPS / "narrow"
# Three pools: the last one does not fit, and whoever looks at free memory before they are touched does not see it.
POOLS_MB, ROOM_MB = (8, 16, 200), 100
LITTLE = CGROUPS / "little"
# As SERVER; a process of three cells has little room from the first touch of their rings on.
SERVER_OF_LITTLE_ROOM = f"""
import os, sys
from bench.workload import __main__ as program, serve
import_torch = program.import_torch
def import_and_narrow(computes):
    import_torch(False)
    from bench.workload import crossed_rings as rings
    touch = rings._touch_by_turns
    def in_little_room(sides, allocating):
        if len(sides) == {len(POOLS_MB)}:
            open("{LITTLE}/cgroup.procs", "w").write(str(os.getpid()))
        touch(sides, allocating)
    rings._touch_by_turns = in_little_room
program.import_torch = import_and_narrow
sys.exit(serve.main(sys.argv[1:]))
"""


def cell(placement: Placement, **changes: Any) -> Cell:
    cpu_node, mem_node = placement
    settings = {"image_size": 32, "batch_size": 4, "num_samples": 40, "warmup_samples": 4, "memory_size_mb": 8}
    made = {
        "name": f"{NAME}_{cpu_node}_{mem_node}", "gpu": 0, "cpu_node": cpu_node, "mem_node": mem_node,
        "model": {"name": "vit0x0x0", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0}, "device": "cpu",
        "profiler": "torch", "binding": "numactl", "placement_threshold": 1.0,
    }  # fmt: skip
    return convert(made | settings | changes, Cell)


def group(cells: list[Cell], process: int, birth: Placement) -> Group:
    crossing = Crossing(group=NAME, process=process, id="0" * 32, birth_cpu_node=birth[0], birth_mem_node=birth[1])
    return Group(crossing=crossing, cells=cells, measure_s=0.2, window_s=0.01, lead_s=0.005, solo=False)


def cpus_of(node: int) -> set[int]:
    return set(parse_cpulist(Path(f"/sys/devices/system/node/node{node}/cpulist").read_text()))


def other(placement: Placement) -> int:
    return (placement[1] + 1) % 3


# Sabotages: each changes a crossing of TWO so that its windows of VICTIM are not there, or not all.


def ring_on_the_wrong_node(crossing: Any) -> None:
    """The kernel is asked for another node than the cell's."""
    import bench.workload.crossed_sides as module

    honest = module.crossed_rings

    def elsewhere(cells: list[Cell], *parts: Any) -> list[Any]:
        moved = [replace(one, mem_node=other(VICTIM)) if one.placement == VICTIM else one for one in cells]
        return honest(moved, *parts)

    module.crossed_rings = elsewhere


def not_moved(crossing: Any) -> None:
    """Threads and policy stay where they were; only the rings are those of the placement."""
    _instead(crossing, lambda placement: crossing.pipeline.use(placement.part))


def only_the_main_thread_moved(crossing: Any) -> None:
    _helper(lambda: None)

    def move(placement: Any) -> None:
        crossing.honest(placement)
        for thread in _others():
            os.sched_setaffinity(thread, cpus_of(0))

    _instead(crossing, move)


def ring_of_another_placement(crossing: Any) -> None:
    def use_the_other(placement: Any) -> None:
        crossing.honest(placement)
        others = [one for one in crossing.sides if one is not placement]
        crossing.pipeline.use(others[0].part)

    _instead(crossing, use_the_other)


def helper_that_binds_itself(crossing: Any) -> None:
    """It goes back to the first node whenever it was moved."""

    def wander() -> None:
        while True:
            os.sched_setaffinity(0, cpus_of(0))
            time.sleep(0.0005)

    _helper(wander)


def one_thread_left_behind_late(crossing: Any) -> None:
    _helper(lambda: None)

    def move(placement: Any) -> None:
        crossing.honest(placement)
        if crossing.turns_of_victim > 16:
            os.sched_setaffinity(next(_others()), cpus_of(0))

    _instead(crossing, move)


def main_thread_away_for_one_turn(crossing: Any) -> None:
    def move(placement: Any) -> None:
        crossing.honest(placement)
        if crossing.turns_of_victim == 6:
            os.sched_setaffinity(0, cpus_of(0))

    _instead(crossing, move)


def main_thread_away_inside_a_window(crossing: Any) -> None:
    """It is back before anything looks at the threads."""
    _in_the_window(
        crossing,
        {2: lambda placement: os.sched_setaffinity(0, cpus_of(0)), 4: lambda _: os.sched_setaffinity(0, cpus_of(1))},
    )


def pages_migrated(crossing: Any) -> None:
    _in_the_window(crossing, {2: lambda placement: _migrate(*placement.rings.addresses()["input_ring"])})


SABOTAGES: tuple[Callable[[Any], None], ...] = (
    *(ring_on_the_wrong_node, not_moved, only_the_main_thread_moved, ring_of_another_placement),
    *(helper_that_binds_itself, one_thread_left_behind_late, main_thread_away_for_one_turn),
    *(main_thread_away_inside_a_window, pages_migrated),
)
NAMES = tuple(each.__name__ for each in SABOTAGES)


def _instead(crossing: Any, move: Callable[[Any], None]) -> None:
    """Place VICTIM by `move` from now on; crossing.honest is how it was done."""
    honest = crossing._place
    crossing.honest, crossing.turns_of_victim = honest, 0

    def place(placement: Any) -> int:
        if placement.cell.placement != VICTIM:
            return honest(placement)
        crossing.turns_of_victim += 1
        move(placement)
        return 0

    crossing._place = place


def _in_the_window(crossing: Any, acts: dict[int, Callable[[Any], object]]) -> None:
    """Act at these batches of the fourth window of VICTIM."""
    window, count = crossing._window, {"windows": 0, "batches": 0}

    def sabotaged(placement: Any, *asked: Any) -> Any:
        if placement.cell.placement != VICTIM:
            return window(placement, *asked)
        count["windows"] += 1
        honest = placement.certifier.see_cpu
        if count["windows"] == 4:

            def see_cpu() -> None:
                if act := acts.get(count["batches"]):
                    act(placement)
                count["batches"] += 1
                honest()

            placement.certifier.see_cpu = see_cpu
        try:
            return window(placement, *asked)
        finally:
            placement.certifier.see_cpu = honest

    crossing._window = sabotaged


def _helper(act: Callable[[], None]) -> None:
    def live() -> None:
        act()
        time.sleep(600)

    threading.Thread(target=live, daemon=True).start()


def _others() -> Any:
    return (int(thread) for thread in os.listdir("/proc/self/task") if int(thread) != os.getpid())


def _migrate(address: int, nbytes: int) -> None:
    page = mmap.PAGESIZE
    addresses = array("Q", range(address - address % page, address + nbytes, page))[:PAGES]
    nodes, status = array("i", [other(VICTIM)] * PAGES), array("i", [-1] * PAGES)
    where = [ctypes.c_void_p(each.buffer_info()[0]) for each in (addresses, nodes, status)]
    # MPOL_MF_MOVE; a page that was just touched may be busy.
    while status.count(other(VICTIM)) < PAGES // 2:
        _libc.syscall(_MOVE_PAGES, 0, ctypes.c_ulong(PAGES), *where, 2)


# Crossings


def crossed(
    cells: list[Cell], process: int = 1, birth: Placement = (0, 0), sabotage: Callable[[Any], None] | None = None
) -> dict[str, Any]:
    """Cross these cells in a forked process that was born there. Return what it gave, by placement."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        code = 1
        with suppress(BaseException):
            os.write(write, json.dumps(_cross(group(cells, process, birth), sabotage)).encode())
            code = 0
        os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        received = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(received) if received else {"exit": code}


def _cross(asked: Group, sabotage: Callable[[Any], None] | None) -> dict[str, Any]:
    import traceback

    import torch

    from bench.workload.crossing import _Crossing

    try:
        with torch.inference_mode():
            crossing = _Crossing(asked, Progress(), PhaseTimes())
            if sabotage:
                sabotage(crossing)
            facts, cells = crossing.run()
    except RunFailure as failure:
        return {"failed": failure.what}
    except Exception:
        return {"failed": traceback.format_exc()}
    return {"rounds": facts.rounds, **{_place(one.cell): _told(one) for one in cells}}


def _place(name: str) -> str:
    return ",".join(name.split("_")[-2:])


def _told(one: CrossedCell) -> dict[str, Any]:
    if one.failure:
        return {"outcome": str(one.failure.status), "why": one.failure.reason}
    certificate = one.result.certificate
    return {
        "outcome": str(certificate.verdict),
        "why": "; ".join(doubt.text for doubt in certificate.reasons),
        "on_node": certificate.share_on_node,
        "pages": {name: buffer.end for name, buffer in certificate.buffers.items()},
        "looks": certificate.glances,
        "strays": len(certificate.strays),
        "windows": len(one.result.windows),
    }


def honest() -> dict[str, Any]:
    """Born on each node, with automatic NUMA balancing off and on, huge pages never by themselves and always."""
    found = {}
    settings = product(("0", "1"), ("madvise", "always"), ((0, 0), (1, 1), (2, 2)))
    for number, (balancing, huge, birth) in enumerate(settings, 1):
        BALANCING.write_text(balancing)
        THP.write_text(huge)
        cells = [cell(placement) for placement in ALL]
        found[f"balancing {balancing}, huge pages {huge}, born on {birth[0]}"] = crossed(cells, number, birth)
    return found


def sabotaged() -> dict[str, Any]:
    BALANCING.write_text("0")
    THP.write_text("madvise")
    cells = [cell(placement) for placement in TWO]
    return {each.__name__: crossed(cells, sabotage=each) for each in SABOTAGES}


def full_node() -> dict[str, Any]:
    """Node 3 is full: by its free memory, and as if another process had taken it after that look."""
    import bench.workload.crossed_rings as module

    taken = take_node(3)
    cells = [cell(placement) for placement in ((0, 0), (0, 3))]
    found = {"by its free memory": crossed(cells)}
    looked, module.require_host_memory = module.require_host_memory, lambda needed, node: None
    try:
        return found | {"taken since": crossed(cells)}
    finally:
        module.require_host_memory = looked
        for chunk in taken:
            chunk.close()


def take_node(node: int) -> list[mmap.mmap]:
    """All of its memory, until the kernel gives pages of other nodes."""
    chunks: list[mmap.mmap] = []
    with allocating_on(node):
        while True:
            chunks.append(chunk := mmap.mmap(-1, CHUNK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            for start in range(0, CHUNK_BYTES, mmap.PAGESIZE):
                chunk[start] = 1
            address = ctypes.addressof(held := ctypes.c_char.from_buffer(chunk))
            where = PageQuery(address, CHUNK_BYTES).count()
            del held
            if set(where) != {str(node)}:
                return chunks


def in_a_cpuset() -> dict[str, Any]:
    """This process and what it starts have the CPUs and memory of nodes 0 and 1 only."""
    make_cgroup(NARROW, "cpuset")
    (NARROW / "cpuset.cpus").write_text("0-2")
    (NARROW / "cpuset.mems").write_text("0-1")
    (NARROW / "cgroup.procs").write_text(str(os.getpid()))
    try:
        return crossed([cell(placement) for placement in ALL])
    finally:
        (CGROUPS / "cgroup.procs").write_text(str(os.getpid()))


def make_cgroup(folder: Path, controller: str) -> None:
    if not CGROUPS.is_mount():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup", str(CGROUPS)], check=True)
    (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")
    folder.mkdir()


def study(folder: Path) -> dict[str, Any]:
    """NumaStudy over all nodes with CPUs and memory: a crossing born on each."""
    from bench.study.directory import resolve
    from bench.study.load import TASKS, load_study

    asked = {
        "gpu_ids": [0], "numa_nodes": "all", "models": ["vit0x0x0"], "repeats": 2, "device": "cpu", "image_size": 32,
        "batch_size": 4, "num_samples": 40, "warmup_samples": 4, "memory_size_mb": 8, "placement_threshold": 1.0,
    }  # fmt: skip
    directory = resolve(load_study(TASKS["NumaStudy"], asked), folder, False, "now")
    grid, runs = directory.grid(), timed_runs(directory, folder, SERVER)
    return {
        "repeats": directory.study().repeats,
        "runs": {
            run.run: {
                "status": str(run.status),
                "reason": run.reason,
                "born": run.crossing.birth_cpu_node,
                "node": str(grid.cell(run.cell).mem_node),
                "cell": _told(CrossedCell(cell=run.cell, result=run.result)) if run.result else None,
            }
            for run in runs
        },
    }


def killed(folder: Path) -> dict[str, Any]:
    """Pools of which one is too large, in a process that the kernel kills while it allocates them."""
    from bench.study.directory import resolve
    from bench.study.load import read_study

    make_cgroup(LITTLE, "memory")
    (LITTLE / "memory.max").write_text(f"{ROOM_MB}M")
    asked = {
        "name": "pools", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "repeats": 1, "device": "cpu",
        "image_size": 224, "batch_size": 1, "num_samples": 20, "warmup_samples": 4,
        "axes": {"memory_size_mb": POOLS_MB},
    }  # fmt: skip
    directory = resolve(read_study(asked, "f"), folder, False, "now")
    runs = timed_runs(directory, folder, SERVER_OF_LITTLE_ROOM)
    cells = {cell.name: cell for cell in directory.grid().cells}
    return {
        "kills": dict(line.split() for line in (LITTLE / "memory.events").read_text().splitlines())["oom_kill"],
        "runs": {
            cells[run.cell].memory_size_mb: {
                "status": str(run.status),
                "reason": run.reason,
                "exit_code": run.exit_code,
                "crossing": run.crossing.id,
                "cell": _told(CrossedCell(cell=run.cell, result=run.result)) if run.result else None,
            }
            for run in runs
        },
    }


def timed_runs(directory: Any, folder: Path, server: str) -> list[Any]:
    """Of a study, by the program of its fork server."""
    import bench.run.crossing as module
    from bench.run import forkserver
    from bench.run.lock import HostLock

    forkserver._SERVER = ["-c", server]
    module.Group = partial(Group, measure_s=0.2, window_s=0.01, lead_s=0.005)
    grid, lock, runs = directory.grid(), HostLock(folder), []
    processes = {
        one.process: grid.process(one)
        for one in grid.asked(directory.study().repeats)
        if one.birth and not one.is_traced
    }
    for slots in processes.values():
        runs += module.execute_group(directory, slots, "now", lock, lambda progress: None)
    forkserver.SERVERS.end()
    return runs


def main(steps: list[str]) -> None:
    from bench.workload.__main__ import import_torch

    began = time.monotonic()
    import_torch(False)
    import bench.workload.crossing as module

    # The noise of an emulated machine is no reason to measure longer.
    module.MOST_EXTENSIONS = 1

    found: dict[str, Any] = {}
    known = {step.__name__: step for step in (honest, sabotaged, full_node, in_a_cpuset)}
    for step in steps:
        found[step] = known[step]()
        print(f"{step}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    if part := {"study": study, "killed": killed}.get("".join(sys.argv[1:2])):
        print(json.dumps(part(Path(sys.argv[2]))))
    else:
        main(sys.argv[1:])
