"""The placement certificate: where, by the kernel's word, the measured process ran and its buffers lay.

Standard library only: it runs in the measured child, and in guests that have nothing else.
"""

import os
import resource
import time
from collections.abc import Callable
from os import PathLike
from typing import Any

from bench.host.cpulist import format_cpulist
from bench.host.memory_calls import PageQuery, memory_policy, sched_getcpu
from bench.host.placement import judge, share_on_node

NOT_COVERED = (
    "buffers of the driver, page tables and kernel memory",
    "interrupts and the CPUs that serve them",
    "a page or thread that left and came back between two looks",
    "in a virtual machine: where the host placed the guest's CPUs and memory",
)
_COUNTERS = (
    *("numa_pte_updates", "numa_hint_faults", "numa_hint_faults_local"),
    *("numa_pages_migrated", "pgmigrate_success"),
    *("thp_fault_alloc", "thp_collapse_alloc", "thp_split_page"),
)
MAX_CPUS = 8192  # the most that Linux can be built for
START_PAGES = 8192
"""Pages of a buffer looked at before the window: evenly spaced. After it, every page is."""
_CODE = ("libtorch", "libcuda", "libcudart", "libc10")


class Certifier:
    """Looks at the placement before and after the measured window, and at the CPU of every batch in it.

    cell: the cell as JSON (cpu_node, mem_node, binding, placement_threshold; preprocess_queue, preprocess_node).
    buffers: name -> (address, nbytes) of memory that is allocated and was written to.
    """

    def __init__(self, cell: dict[str, Any], buffers: dict[str, tuple[int, int]]) -> None:
        self._cell = cell
        self._problems: list[str] = []
        self._cost_s = 0.0
        self._batches_on = [0] * MAX_CPUS
        self._start: dict[str, Any] = {}
        started = time.perf_counter()
        self._queries = {name: PageQuery(*place) for name, place in buffers.items()}
        self._cost_s += time.perf_counter() - started
        self.see_cpu = self._make_see_cpu()

    def _make_see_cpu(self) -> Callable[[], None]:
        # Called in the measured loop: local names, no attribute, no allocation.
        getcpu, batches_on = sched_getcpu, self._batches_on

        def see_cpu() -> None:
            """Note the CPU that the calling thread is on; call it once per batch."""
            batches_on[getcpu()] += 1

        return see_cpu

    def start(self) -> None:
        """Look at the start of the window."""
        self._start = self._look(most_pages=START_PAGES)

    def finish(self) -> dict[str, Any]:
        """Look at the end of the window and return the certificate, ready for JSON."""
        end = self._look()
        began = time.perf_counter()
        seen = {str(cpu): batches for cpu, batches in enumerate(self._batches_on) if batches}
        facts = {
            "binding": self._cell["binding"],
            "cpu_node": self._cell["cpu_node"],
            "mem_node": self._cell["mem_node"],
            "node_cpus": self._try("CPUs of the node", _node_cpus, self._cell["cpu_node"]),
            "preparing_cpus": self._preparing_cpus(),
            "cpus_seen": seen,
            "threads": {"start": self._start["threads"], "end": end["threads"]},
            "policy": {"start": self._start["policy"], "end": end["policy"]},
            "buffers": {
                name: {
                    "bytes": query.nbytes,
                    "pages": query.pages,
                    "policy": self._try(f"policy of {name}", _policy, query.address),
                    "start": self._start["pages"][name],
                    "end": end["pages"][name],
                }
                for name, query in self._queries.items()
            },
            "code_pages": self._try("/proc/self/numa_maps", code_pages),
            "transparent_huge_pages": {
                "private": _selected(_read("/sys/kernel/mm/transparent_hugepage/enabled")),
                "shared": _selected(_read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
            },
            "numa_balancing": _read("/proc/sys/kernel/numa_balancing").strip() or None,
            "system_counters": _differences(self._start["counters"], end["counters"]),
            "main_thread_migrations": _difference(self._start["migrations"], end["migrations"]),
            "involuntary_switches": end["switches"] - self._start["switches"],
            "problems": self._problems,
        }
        facts["share_on_node"] = {
            name: share_on_node(buffer, self._cell["mem_node"]) for name, buffer in facts["buffers"].items()
        }
        verdict, reasons = judge(facts, self._cell)
        self._cost_s += time.perf_counter() - began
        return facts | {
            "verdict": verdict,
            "reasons": reasons,
            "not_covered": list(NOT_COVERED),
            "cost_ms": round(self._cost_s * 1e3, 2),
        }

    def _look(self, most_pages: int | None = None) -> dict[str, Any]:
        began = time.perf_counter()
        facts = {
            "threads": self._try("threads", _threads),
            "policy": self._try("memory policy", _policy),
            "pages": {
                name: self._try(f"pages of {name}", query.count, most_pages) for name, query in self._queries.items()
            },
            "counters": _counters(),
            "migrations": _migrations(),
            "switches": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        }
        self._cost_s += time.perf_counter() - began
        return facts

    def _preparing_cpus(self) -> str | None:
        """Of the node that a thread prepares batches on, where the cell names one."""
        node = self._cell.get("preprocess_node", -1) if self._cell.get("preprocess_queue") else -1
        return self._try("CPUs of the preparing node", _node_cpus, node) if node >= 0 else None

    def _try(self, what: str, look: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return look(*arguments)
        except OSError as error:
            problem = f"{what}: {error}"
            if problem not in self._problems:
                self._problems.append(problem)
            return None


def code_pages(numa_maps: str | PathLike[str] = "/proc/self/numa_maps") -> dict[str, dict[str, int]]:
    """Resident pages of torch's and CUDA's libraries by node. They lie where the first reader left them."""
    pages: dict[str, dict[str, int]] = {}
    with open(numa_maps) as lines:
        for line in lines:
            if " file=" not in line:
                continue
            words = line.split()
            name = next(word for word in words if word.startswith("file=")).rpartition("/")[2]
            if not name.startswith(_CODE):
                continue
            counts = pages.setdefault(name, {})
            for word in words:
                node, _, count = word.partition("=")
                if node[:1] == "N" and node[1:].isdigit():
                    counts[node[1:]] = counts.get(node[1:], 0) + int(count)
    return pages


def _threads() -> list[dict[str, Any]]:
    """Group this process's threads by the CPUs they may run on."""
    groups: dict[frozenset[int], list[str]] = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            allowed = frozenset(os.sched_getaffinity(int(thread)))
        except ProcessLookupError:  # it ended in between
            continue
        groups.setdefault(allowed, []).append(thread)
    return [
        {
            "allowed_cpus": format_cpulist(allowed),
            "threads": len(threads),
            "examples": [_read(f"/proc/self/task/{thread}/comm").strip() for thread in threads[:3]],
        }
        for allowed, threads in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def _policy(address: int | None = None) -> dict[str, Any]:
    mode, nodes = memory_policy(address)
    return {"mode": mode, "nodes": list(nodes)}


def _node_cpus(node: int) -> str:
    with open(f"/sys/devices/system/node/node{node}/cpulist") as file:
        return file.read().strip()


def _counters() -> dict[str, int]:
    words = (line.split() for line in _read("/proc/vmstat").splitlines())
    return {name: int(value) for name, value in words if name in _COUNTERS}


def _migrations() -> int | None:
    for line in _read("/proc/self/sched").splitlines():
        if line.startswith("se.nr_migrations"):
            return int(line.rpartition(":")[2])
    return None


def _selected(modes: str) -> str | None:
    return modes.partition("[")[2].partition("]")[0] or None


def _differences(start: dict[str, int], end: dict[str, int]) -> dict[str, int]:
    return {name: end[name] - start[name] for name in start if name in end}


def _difference(start: int | None, end: int | None) -> int | None:
    return None if start is None or end is None else end - start


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
