"""The placement certificate: where, by the kernel's answers, the measured process ran and its buffers were, and whether
that is where the cell puts them.

It runs in the measured child, and in guests that have the standard library and msgspec only.
"""

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from bench.host.environment import read_text, selected
from bench.host.memory_calls import ABSENT, UNKNOWN, PageQuery, memory_policy, sched_getcpu
from bench.host.numa_maps import mappings
from bench.records.host import format_cpulist, parse_cpulist, within
from bench.records.run import (
    BufferObserved,
    Certificate,
    Doubt,
    DoubtKind,
    HugePageModes,
    PlacementVerdict,
    Policy,
    PolicyObserved,
    ThreadGroup,
    ThreadsObserved,
)
from bench.records.study import Cell

NOT_COVERED = (
    "buffers of the driver, page tables and kernel memory",
    "interrupts and the CPUs that serve them",
    "a page or thread that left and came back between two observations",
    "in a virtual machine: where the host placed the guest's CPUs and memory",
)
_COUNTERS = (
    *("numa_pte_updates", "numa_hint_faults", "numa_hint_faults_local"),
    *("numa_pages_migrated", "pgmigrate_success"),
    *("thp_fault_alloc", "thp_collapse_alloc", "thp_split_page"),
)
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
MAX_CPUS = 8192  # the most that Linux can be built for
START_PAGES = 8192
"""Pages of a buffer that are queried before the window. After it, every page is."""
GLANCE_PAGES = 256
"""Pages of a buffer that are queried after each window of a crossing."""
_CODE = ("libtorch", "libcuda", "libcudart", "libc10")
PREPROCESSING_THREAD = "preparing"
"""The name of the thread that may be bound to another node than the rest of the process."""

Answer = TypeVar("Answer")


class Certifier:
    """Observes the placement before and after the measured window, and the CPU of every batch in it.

    buffers: name -> (address, nbytes) of memory that is allocated and was written to.
    """

    def __init__(self, cell: Cell, buffers: Mapping[str, tuple[int, int]]) -> None:
        self._cell = cell
        self._problems: list[str] = []
        self._cost_s = 0.0
        self._batches_on = [0] * MAX_CPUS
        started = time.perf_counter()
        self._queries = {name: PageQuery(*place) for name, place in buffers.items()}
        self._cost_s += time.perf_counter() - started
        self._start: _Observation | None = None
        self._glances = 0
        self._strays: list[Doubt] = []
        self.see_cpu = self._make_see_cpu()

    def _make_see_cpu(self) -> Callable[[], None]:
        # Called in the measured loop: local names, no attribute, no allocation.
        getcpu, batches_on = sched_getcpu, self._batches_on

        def see_cpu() -> None:
            """Count a batch for the CPU that the calling thread is on; call it once per batch."""
            batches_on[getcpu()] += 1

        return see_cpu

    def start(self) -> None:
        """Observe the start of the window."""
        self._start = self._observe(most_pages=START_PAGES)

    def glance(self) -> None:
        """Observe cheaply between the windows of a crossing: every thread's CPUs, and some pages of every buffer."""
        began = time.perf_counter()
        self._glances += 1
        own = set(parse_cpulist(self._own_cpus or ""))
        threads = self._try("threads", _threads_by_cpus) or {}
        away = [_thread_group(*group) for group in threads.items() if own and not group[0] <= own]
        texts = [
            f"{group.threads} thread(s) ({', '.join(group.examples)}) may run on CPUs {group.allowed_cpus}"
            for group in away
        ]
        for name, query in self._queries.items():
            pages = self._try(f"pages of {name}", query.count, GLANCE_PAGES) or {}
            elsewhere = sum(
                count for node, count in pages.items() if node not in (str(self._cell.mem_node), ABSENT, UNKNOWN)
            )
            if elsewhere:
                texts.append(f"{elsewhere} of {sum(pages.values())} sampled pages of {name} were elsewhere")
        if texts:
            self._strays.append(Doubt(kind=DoubtKind.BETWEEN_WINDOWS, text="; ".join(texts)))
        self._cost_s += time.perf_counter() - began

    def finish(self) -> Certificate:
        """Observe the end of the window and judge. start() must have been called."""
        assert self._start is not None
        start, end, cell = self._start, self._observe(), self._cell
        began = time.perf_counter()
        buffers = {
            name: BufferObserved(
                bytes=query.nbytes,
                pages=query.pages,
                policy=self._policy(f"policy of {name}", query.address),
                start=start.pages[name],
                end=end.pages[name],
            )
            for name, query in self._queries.items()
        }
        facts = Certificate(
            binding=cell.binding,
            cpu_node=cell.cpu_node,
            mem_node=cell.mem_node,
            node_cpus=self._own_cpus,
            preprocess_cpus=self._preprocess_cpus(),
            cpus_seen={str(cpu): batches for cpu, batches in enumerate(self._batches_on) if batches},
            threads=ThreadsObserved(start=start.threads, end=end.threads),
            policy=PolicyObserved(start=start.policy, end=end.policy),
            buffers=buffers,
            share_on_node={name: share_on_node(buffer, cell.mem_node) for name, buffer in buffers.items()},
            code_pages=self._try("/proc/self/numa_maps", code_pages),
            transparent_huge_pages=HugePageModes(
                private=selected(read_text(_HUGE_PAGES / "enabled")) or None,
                shared=selected(read_text(_HUGE_PAGES / "shmem_enabled")) or None,
            ),
            numa_balancing=read_text(Path("/proc/sys/kernel/numa_balancing")) or None,
            system_counters={name: end.counters[name] - start.counters[name] for name in start.counters},
            main_thread_migrations=_difference(start.migrations, end.migrations),
            involuntary_switches=end.switches - start.switches,
            glances=self._glances,
            strays=self._strays,
            problems=self._problems,
            not_covered=list(NOT_COVERED),
        )
        verdict, doubts = judge(facts, cell)
        self._cost_s += time.perf_counter() - began
        return replace(facts, verdict=verdict, reasons=doubts, cost_ms=round(self._cost_s * 1e3, 2))

    def _observe(self, most_pages: int | None = None) -> "_Observation":
        began = time.perf_counter()
        observation = _Observation(
            threads=self._try("threads", _threads),
            policy=self._policy("memory policy"),
            pages={
                name: self._try(f"pages of {name}", query.count, most_pages) for name, query in self._queries.items()
            },
            counters=_counters(),
            migrations=_migrations(),
            switches=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        )
        self._cost_s += time.perf_counter() - began
        return observation

    def _policy(self, what: str, address: int | None = None) -> Policy | None:
        """None too where no policy was set: a kernel that refuses to set one often refuses to report one."""
        return None if self._cell.binding == "cpus" else self._try(what, _policy, address)

    @cached_property
    def _own_cpus(self) -> str | None:
        """CPUs of the cell's group, or of its node."""
        return self._cell.cpus or self._try("CPUs of the node", _node_cpus, self._cell.cpu_node)

    def _preprocess_cpus(self) -> str | None:
        """CPUs of the node of the preprocessing thread, where the cell names one."""
        node = self._cell.preprocess_node if self._cell.preprocess_queue else -1
        return self._try("CPUs of the preprocessing node", _node_cpus, node) if node >= 0 else None

    def _try(self, what: str, observe: Callable[..., Answer], *arguments: Any) -> Answer | None:
        try:
            return observe(*arguments)
        except OSError as error:
            problem = f"{what}: {error}"
            if problem not in self._problems:
                self._problems.append(problem)
            return None


@dataclass(frozen=True)
class _Observation:
    """The process at one moment. None: could not be observed."""

    threads: list[ThreadGroup] | None
    policy: Policy | None
    pages: dict[str, dict[str, int] | None]
    counters: dict[str, int]
    migrations: int | None
    switches: int


def judge(facts: Certificate, cell: Cell) -> tuple[PlacementVerdict, list[Doubt]]:
    """Whether the facts of a certificate prove the placement of the cell, and what speaks against it."""
    if cell.binding == "none":
        return PlacementVerdict.NOT_BOUND, [Doubt(kind=DoubtKind.NOT_BOUND, text="nothing was bound (binding none)")]
    contradictions = [
        *_thread_doubts(facts, cell),
        *_preprocessing_doubts(facts, cell),
        *_issuing_doubts(facts, cell),
        *_policy_doubts(facts, cell),
        *_page_doubts(facts, cell),
        *_stray_doubts(facts),
    ]
    if contradictions:
        return PlacementVerdict.MISPLACED, contradictions
    gaps = _gaps(facts, cell)
    return (PlacementVerdict.UNPROVED, gaps) if gaps else (PlacementVerdict.PROVED, [])


def share_on_node(buffer: BufferObserved, node: int) -> float | None:
    """The share of a buffer's pages on a node, the smaller of start and end; None if not observed."""
    if buffer.start is None or buffer.end is None or not buffer.pages:
        return None
    return min(pages.get(str(node), 0) / sum(pages.values()) for pages in (buffer.start, buffer.end))


def _thread_doubts(facts: Certificate, cell: Cell) -> list[Doubt]:
    if facts.node_cpus is None:
        return []
    return [
        Doubt(
            kind=DoubtKind.THREADS,
            text=f"at the {when}, {group.threads} thread(s) ({', '.join(group.examples)}) may run on CPUs "
            f"{group.allowed_cpus}; {_place(cell)} has CPUs {facts.node_cpus}",
        )
        for when, groups in (("start", facts.threads.start), ("end", facts.threads.end))
        for group in groups or ()
        if not within(group.allowed_cpus, facts.node_cpus) and not _preprocesses(group, facts)
    ]


def _preprocessing_doubts(facts: Certificate, cell: Cell) -> list[Doubt]:
    """A preprocessing thread on another node must be there, and it alone."""
    if facts.node_cpus is None or facts.preprocess_cpus is None:
        return []
    if within(facts.preprocess_cpus, facts.node_cpus):
        return []
    return [
        Doubt(
            kind=DoubtKind.PREPROCESSING_THREAD,
            text=f"at the {when}, no preprocessing thread was bound to node {cell.preprocess_node} "
            f"({facts.preprocess_cpus})",
        )
        for when, groups in (("start", facts.threads.start), ("end", facts.threads.end))
        if groups is not None and not any(_preprocesses(group, facts) for group in groups)
    ]


def _preprocesses(group: ThreadGroup, facts: Certificate) -> bool:
    if facts.preprocess_cpus is None or group.examples != [PREPROCESSING_THREAD] or group.threads != 1:
        return False
    return within(group.allowed_cpus, facts.preprocess_cpus)


def _issuing_doubts(facts: Certificate, cell: Cell) -> list[Doubt]:
    if facts.node_cpus is None:
        return []
    node_cpus = set(parse_cpulist(facts.node_cpus))
    outside = {int(cpu): batches for cpu, batches in facts.cpus_seen.items() if int(cpu) not in node_cpus}
    if not outside:
        return []
    text = (
        f"{sum(outside.values())} of {sum(facts.cpus_seen.values())} batches were issued from CPUs "
        f"{format_cpulist(outside)}, outside {_place(cell)} ({facts.node_cpus})"
    )
    return [Doubt(kind=DoubtKind.ISSUING_CPUS, text=text)]


def _policy_doubts(facts: Certificate, cell: Cell) -> list[Doubt]:
    wanted = Policy(mode="bind", nodes=[cell.mem_node])
    found = [
        (f"at the {when}, the memory policy", policy)
        for when, policy in (("start", facts.policy.start), ("end", facts.policy.end))
        if policy is not None and policy != wanted
    ]
    found += [
        (f"the policy of {name}", buffer.policy)
        for name, buffer in facts.buffers.items()
        # A mapping without a policy of its own follows the thread's.
        if buffer.policy is not None and buffer.policy.mode != "default" and buffer.policy != wanted
    ]
    return [
        Doubt(kind=DoubtKind.POLICY, text=f"{subject} is {_policy_text(policy)}, not {_policy_text(wanted)}")
        for subject, policy in found
    ]


def _page_doubts(facts: Certificate, cell: Cell) -> list[Doubt]:
    doubts = []
    for name, buffer in facts.buffers.items():
        for when, counts in (("start", buffer.start or {}), ("end", buffer.end or {})):
            elsewhere = {
                node: pages for node, pages in counts.items() if node not in (str(cell.mem_node), ABSENT, UNKNOWN)
            }
            pages, queried = sum(elsewhere.values()), sum(counts.values())
            # As a quotient: 0.9 of 100 pages are exactly 90 then, and not a little less.
            if pages and (queried - pages) / queried < cell.placement_threshold:
                where = ", ".join(f"{count} on node {node}" for node, count in elsewhere.items())
                text = f"at the {when}, {pages} of {queried} pages of {name} were not on node {cell.mem_node}: {where}"
                doubts.append(Doubt(kind=DoubtKind.PAGES, text=text))
    return doubts


def _stray_doubts(facts: Certificate) -> list[Doubt]:
    if not facts.strays:
        return []
    text = f"in {len(facts.strays)} of {facts.glances} looks between windows: {facts.strays[0].text}"
    return [Doubt(kind=DoubtKind.BETWEEN_WINDOWS, text=text)]


def _gaps(facts: Certificate, cell: Cell) -> list[Doubt]:
    """What could not be observed."""
    gaps = [Doubt(kind=DoubtKind.NOT_OBSERVED, text=problem) for problem in facts.problems]
    if not facts.cpus_seen:
        gaps.append(Doubt(kind=DoubtKind.NOT_OBSERVED, text="no batch recorded the CPU that it was issued from"))
    if not facts.buffers:
        gaps.append(Doubt(kind=DoubtKind.NOT_OBSERVED, text="no buffer was observed"))
    for name, buffer in facts.buffers.items():
        share = share_on_node(buffer, cell.mem_node)
        if share is not None and share < cell.placement_threshold:
            absent, unknown = (
                max((counts or {}).get(state, 0) for counts in (buffer.start, buffer.end))
                for state in (ABSENT, UNKNOWN)
            )
            text = (
                f"of {buffer.pages} pages of {name}, {absent} were not in memory and {unknown} could not be located "
                "(-14, as automatic NUMA balancing or memory that a driver maps causes)"
            )
            gaps.append(Doubt(kind=DoubtKind.PAGES_UNKNOWN, text=text))
    return gaps


def _place(cell: Cell) -> str:
    return f"its group {cell.cpu_node}" if cell.cpus else f"node {cell.cpu_node}"


def _policy_text(policy: Policy) -> str:
    return policy.mode + (f" to node {format_cpulist(policy.nodes)}" if policy.nodes else "")


@cache
def code_pages(numa_maps: str | PathLike[str] = "/proc/self/numa_maps") -> dict[str, dict[str, int]]:
    """Resident pages of torch's and CUDA's libraries by node: the node of the first process that read them.

    Read once: these pages do not move, and the kernel walks every page of the process for the answer.
    """
    pages: dict[str, Counter[str]] = {}
    for mapping in mappings(numa_maps):
        name = mapping.path.rpartition("/")[2]
        if name.startswith(_CODE):
            pages.setdefault(name, Counter()).update({str(node): count for node, count in mapping.pages.items()})
    return {name: dict(counts) for name, counts in pages.items()}


def _threads() -> list[ThreadGroup]:
    """This process's threads by the CPUs they may run on, the largest group first."""
    groups = sorted(_threads_by_cpus().items(), key=lambda group: -len(group[1]))
    return [_thread_group(*group) for group in groups]


def _threads_by_cpus() -> dict[frozenset[int], list[str]]:
    groups: dict[frozenset[int], list[str]] = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            allowed = frozenset(os.sched_getaffinity(int(thread)))
        except ProcessLookupError:  # it ended in between
            continue
        groups.setdefault(allowed, []).append(thread)
    return groups


def _thread_group(allowed: frozenset[int], threads: list[str]) -> ThreadGroup:
    return ThreadGroup(
        allowed_cpus=format_cpulist(allowed),
        threads=len(threads),
        examples=[read_text(Path(f"/proc/self/task/{thread}/comm")) for thread in threads[:3]],
    )


def _policy(address: int | None = None) -> Policy:
    mode, nodes = memory_policy(address)
    return Policy(mode=mode, nodes=list(nodes))


def _node_cpus(node: int) -> str:
    with open(f"/sys/devices/system/node/node{node}/cpulist") as file:
        return file.read().strip()


def _counters() -> dict[str, int]:
    fields = (line.split() for line in read_text(Path("/proc/vmstat")).splitlines())
    return {name: int(value) for name, value in fields if name in _COUNTERS}


def _migrations() -> int | None:
    for line in read_text(Path("/proc/self/sched")).splitlines():
        if line.startswith("se.nr_migrations"):
            return int(line.rpartition(":")[2])
    return None


def _difference(start: int | None, end: int | None) -> int | None:
    return None if start is None or end is None else end - start
