"""Collect and judge the placement certificate."""

import os
import resource
import time
from collections.abc import Callable
from os import PathLike
from typing import Any

from bench.host.cpulist import format_cpulist, parse_cpulist
from bench.host.memory_calls import ABSENT, UNKNOWN, PageQuery, memory_policy, sched_getcpu

# --- placement
# Judging a placement certificate: did the process run, and did its buffers lie, where the cell says?

PROVED, MISPLACED, UNPROVED, NOT_BOUND = "proved", "misplaced", "unproved", "not_bound"


def judge(facts: dict[str, Any], cell: dict[str, Any]) -> tuple[str, list[str]]:
    """Return (verdict, reasons) for the facts of a certificate.

    proved: every look agrees with the cell. misplaced: some look contradicts it. unproved: nothing
    contradicts it, yet something could not be seen. not_bound: there is nothing to prove.
    """
    if cell["binding"] == "none":
        return NOT_BOUND, ["nothing was bound (binding none)"]
    wrong = [
        *_threads_of_placement(facts, cell),
        *_cpus_seen(facts, cell),
        *_policies(facts, cell),
        *_buffers(facts, cell),
    ]
    if wrong:
        return MISPLACED, wrong
    unseen = _unseen(facts, cell)
    return (UNPROVED, unseen) if unseen else (PROVED, [])


def share_on_node(buffer: dict[str, Any], node: int) -> float | None:
    """The share of a buffer's pages seen on a node, the smaller of start and end; None if not looked at."""
    looks = [buffer["start"], buffer["end"]]
    if None in looks or not buffer["pages"]:
        return None
    return min(look.get(str(node), 0) / sum(look.values()) for look in looks)


def _threads_of_placement(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    if facts["node_cpus"] is None:
        return []
    node_cpus = set(parse_cpulist(facts["node_cpus"]))
    return [
        f"at the {when}, {group['threads']} thread(s) ({', '.join(group['examples'])}) may run on CPUs "
        f"{group['allowed_cpus']}; node {cell['cpu_node']} has CPUs {facts['node_cpus']}"
        for when in ("start", "end")
        for group in facts["threads"][when] or ()
        if not set(parse_cpulist(group["allowed_cpus"])) <= node_cpus and not _prepares(group, facts)
    ] + _preparing_thread(facts, cell, node_cpus)


def _preparing_thread(facts: dict[str, Any], cell: dict[str, Any], node_cpus: set[int]) -> list[str]:
    """A thread that prepares batches on another node must be there, and it alone."""
    preparing_cpus = facts.get("preparing_cpus")
    if preparing_cpus is None or set(parse_cpulist(preparing_cpus)) <= node_cpus:
        return []
    return [
        f"at the {when}, no thread that prepares batches was bound to node {cell['preprocess_node']} ({preparing_cpus})"
        for when in ("start", "end")
        if facts["threads"][when] is not None and not any(_prepares(group, facts) for group in facts["threads"][when])
    ]


def _prepares(group: dict[str, Any], facts: dict[str, Any]) -> bool:
    preparing_cpus = facts.get("preparing_cpus")
    if preparing_cpus is None or group["examples"] != ["preparing"] or group["threads"] != 1:
        return False
    return set(parse_cpulist(group["allowed_cpus"])) <= set(parse_cpulist(preparing_cpus))


def _cpus_seen(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    if facts["node_cpus"] is None:
        return []
    node_cpus = set(parse_cpulist(facts["node_cpus"]))
    outside = {int(cpu): batches for cpu, batches in facts["cpus_seen"].items() if int(cpu) not in node_cpus}
    if not outside:
        return []
    return [
        f"{sum(outside.values())} of {sum(facts['cpus_seen'].values())} batches were issued from CPUs "
        f"{format_cpulist(outside)}, outside node {cell['cpu_node']} ({facts['node_cpus']})"
    ]


def _policies(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    wanted = {"mode": "bind", "nodes": [cell["mem_node"]]}
    reasons = [
        f"at the {when}, the memory policy is {_policy_text(policy)}, not {_policy_text(wanted)}"
        for when, policy in facts["policy"].items()
        if policy is not None and policy != wanted
    ]
    for name, buffer in facts["buffers"].items():
        policy = buffer["policy"]
        # A mapping without a policy of its own follows the thread's.
        if policy is not None and policy["mode"] != "default" and policy != wanted:
            reasons.append(f"the policy of {name} is {_policy_text(policy)}, not {_policy_text(wanted)}")
    return reasons


def _buffers(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    reasons = []
    for name, buffer in facts["buffers"].items():
        for when in ("start", "end"):
            elsewhere = {
                node: pages
                for node, pages in (buffer[when] or {}).items()
                if node not in (str(cell["mem_node"]), ABSENT, UNKNOWN)
            }
            pages = sum(elsewhere.values())
            looked_at = sum((buffer[when] or {}).values())
            # As a quotient: 0.9 of 100 pages are exactly 90 then, and not a little less.
            if pages and (looked_at - pages) / looked_at < _threshold(cell):
                where = ", ".join(f"{count} on node {node}" for node, count in elsewhere.items())
                reasons.append(
                    f"at the {when}, {pages} of {looked_at} pages of {name} lay elsewhere than on node "
                    f"{cell['mem_node']}: {where}"
                )
    return reasons


def _unseen(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    reasons = [*facts["problems"]]
    if not facts["cpus_seen"]:
        reasons.append("no batch told which CPU it was issued from")
    if not facts["buffers"]:
        reasons.append("no buffer was looked at")
    for name, buffer in facts["buffers"].items():
        share = share_on_node(buffer, cell["mem_node"])
        if share is not None and share < _threshold(cell):
            counts = {state: max(buffer[when].get(state, 0) for when in ("start", "end"))
                      for state in (ABSENT, UNKNOWN)}  # fmt: skip
            reasons.append(
                f"of {buffer['pages']} pages of {name}, {counts[ABSENT]} were not in memory and "
                f"{counts[UNKNOWN]} could not be located (-14, as automatic NUMA balancing or memory that a driver "
                "maps causes)"
            )
    return reasons


def _threshold(cell: dict[str, Any]) -> float:
    return float(cell.get("placement_threshold", 1.0))


def _policy_text(policy: dict[str, Any]) -> str:
    return policy["mode"] + (f" to node {format_cpulist(policy['nodes'])}" if policy["nodes"] else "")


# --- certificate
# The placement certificate: where, by the kernel's word, the measured process ran and its buffers lay.
#
# Standard library only: it runs in the measured child, and in guests that have nothing else.

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
