"""Observe a process tree from outside: allowed CPUs, memory policies and pages by node of every process.

Affinity and last CPU are readable by anyone; policies, pages and descriptors need ptrace access to the process.
"""

import os
import random
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from bench.host.memory_calls import PAGE_BYTES, node_of_each, sampled_pages
from bench.host.numa_maps import areas, by_kind, resident_bytes, thread_policy
from bench.records.host import format_cpulist, parse_cpulist
from bench.records.where import DECISIVE, MemoryKind, Part, ProcessPlace, ProcessThreads, Unobserved

SAMPLE_PAGES = 8192
"""Pages of a process that a sampled look queries: the lock of the process's memory is dropped in between."""
LEAST_SAMPLE = 16
"""Pages of each area that a sampled look queries at least, unless there are very many areas."""
_LARGEST_WEIGHT = 4 << 30  # bytes: programs reserve addresses that they never use
WATCH_INTERVAL_S = 0.1
_EXAMPLES = 3

Answer = TypeVar("Answer")
NodeCpus = Mapping[int, Collection[int]]


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat, or that of a thread, says."""

    name: str
    state: str
    parent: int
    session: int
    start_ticks: int
    cpu: int
    cpu_ticks: int


@dataclass(frozen=True)
class Thread:
    """A thread at one moment. cpu: where it last ran. cpu_ticks: time on CPUs since it started."""

    id: int
    name: str
    allowed: frozenset[int]
    cpu: int
    cpu_ticks: int


def process_table() -> dict[int, Stat]:
    """Every living process that this one may see."""
    found = {int(entry): stat(f"/proc/{entry}") for entry in os.listdir("/proc") if entry.isdigit()}
    return {pid: known for pid, known in found.items() if known is not None and known.state not in "ZX"}


def stat(folder: str) -> Stat | None:
    """None if there is no such process, or it is hidden (hidepid)."""
    try:
        # Of every process and every thread at each look: a file object would take three times as long.
        descriptor = os.open(f"{folder}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            before, _, after = os.read(descriptor, PAGE_BYTES).rpartition(b")")
        finally:
            os.close(descriptor)
    except OSError:
        return None
    fields = after.split(maxsplit=37)
    if len(fields) < 37:
        return None
    return Stat(
        name=before.partition(b"(")[2].decode(errors="backslashreplace"),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
        cpu=int(fields[36]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
    )


def process_of(pid: int) -> int:
    """The process of a thread's id; the id itself if it is one already or unknown."""
    return int(_status(pid).get("Tgid", str(pid)))


def members(
    roots: Collection[int],
    table: Mapping[int, Stat],
    control_groups: Callable[[int], set[str]] | None = None,
    without: Collection[int] = (),
) -> list[int]:
    """The roots and what belongs to them, by id.

    Those are their descendants, the sessions that these lead, and the control groups that a root is the first in, as
    of a container, a service or a job step: there are the orphans that left its tree and its session.
    without: processes that are left out unless they are roots, as this one.
    """
    groups_of = control_groups or groups
    children, sessions = defaultdict(list), defaultdict(list)
    for pid, known in table.items():
        children[known.parent].append(pid)
        sessions[known.session].append(pid)
    found: set[int] = set()
    todo = [pid for pid in roots if pid in table]
    first_in = {group for pid in todo for group in _first_in(pid, table, groups_of)}
    if first_in:
        todo += [pid for pid in table if any(_inside(group, first_in) for group in groups_of(pid))]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children[pid] + sessions[pid]
    return sorted(found - ({*without} - {*roots}))


def groups(pid: int) -> set[str]:
    """The control groups of a process that are not the root: "controllers:/path"."""
    try:
        with open(f"/proc/{pid}/cgroup", errors="backslashreplace") as lines:
            named = [line.rstrip("\n").partition(":")[2] for line in lines]
    except OSError:
        return set()
    return {group for group in named if not group.endswith(":/")}


def _first_in(pid: int, table: Mapping[int, Stat], groups_of: Callable[[int], set[str]]) -> set[str]:
    """The control groups of a process that its parent is not in; none if the parent is hidden."""
    parent = table[pid].parent
    return groups_of(pid) - groups_of(parent) if parent in table or not parent else set()


def _inside(group: str, others: set[str]) -> bool:
    return group in others or any(group.startswith(f"{other}/") for other in others)


def ancestors(pid: int, table: Mapping[int, Stat]) -> list[int]:
    """The process itself, its parent, and so on."""
    found: list[int] = []
    while pid in table and pid not in found:
        found.append(pid)
        pid = table[pid].parent
    return found


def look(
    pids: Iterable[int], nodes: NodeCpus, sampled: bool = False, watch_s: float = 0.0
) -> tuple[list[ProcessPlace], int]:
    """Observe processes. Return them, and how many ended meanwhile.

    sampled: a random page of each stride, instead of all pages. watch_s: observe the threads for so long before that.
    """
    pids = [*pids]
    started = {pid: known.start_ticks for pid in pids if (known := stat(f"/proc/{pid}"))}
    moments = [{pid: threads_of(pid) for pid in pids}]
    deadline = time.monotonic() + watch_s
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(WATCH_INTERVAL_S, left))
        moments.append({pid: threads_of(pid) for pid in pids})
    seen = [observe(pid, ticks, nodes, [moment[pid] for moment in moments], sampled) for pid, ticks in started.items()]
    found = [place for place in seen if place]
    return found, len(pids) - len(found)


def observe(
    pid: int, start_ticks: int, nodes: NodeCpus, moments: Sequence[list[Thread]], sampled: bool = False
) -> ProcessPlace | None:
    """One process; None if it ended, or its id is another's now.

    start_ticks: when it started. moments: its threads, each time they were observed.
    """
    known = _living(pid, start_ticks)
    if known is None:
        return None
    unobserved: list[Unobserved] = []

    def attempt(part: Part, observe_part: Callable[[], Answer]) -> Answer | None:
        try:
            return observe_part()
        except OSError as error:
            denied = isinstance(error, PermissionError)
            unobserved.append(Unobserved(part=part, error=error.strerror or str(error), denied=denied))
            return None

    threads = group_threads(moments, nodes)
    policies = attempt(Part.POLICIES, lambda: _policies(pid)) or {}
    held = attempt(Part.MEMORY, lambda: sampled_bytes(pid) if sampled else resident_bytes(pid)) or {}
    status = _status(pid)
    if _living(pid, start_ticks) is None:
        return None
    if not threads:
        unobserved.append(Unobserved(part=Part.THREADS, error="no thread could be observed"))
    inner = status.get("NSpid", "").split()[-1:]
    return ProcessPlace(
        pid=pid,
        pid_in_container=int(inner[0]) if inner and int(inner[0]) != pid else None,
        start_ticks=start_ticks,
        name=known.name,
        command=_command(pid),
        threads=threads,
        policies=policies,
        bytes=held,
        sampled=sampled,
        unobserved=tuple(unobserved),
    )


def _living(pid: int, start_ticks: int) -> Stat | None:
    known = stat(f"/proc/{pid}")
    return known if known and known.state not in "ZX" and known.start_ticks == start_ticks else None


def threads_of(pid: int) -> list[Thread]:
    """The living threads of a process; [] if it ended or is hidden."""
    try:
        ids = [int(entry) for entry in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
    found = []
    for thread in ids:
        known = stat(f"/proc/{pid}/task/{thread}")
        try:
            allowed = frozenset(os.sched_getaffinity(thread))
        except OSError:  # it ended in between
            continue
        if known is not None:
            found.append(Thread(thread, known.name, allowed, known.cpu, known.cpu_ticks))
    return found


def group_threads(moments: Sequence[list[Thread]], nodes: NodeCpus) -> tuple[ProcessThreads, ...]:
    """Threads by the CPUs they may run on. One that was seen with two sets of CPUs is in both groups."""
    node_of = {cpu: node for node, cpus in nodes.items() for cpu in cpus}
    names: dict[frozenset[int], dict[int, str]] = defaultdict(dict)
    seen_on: dict[frozenset[int], set[tuple[int, int]]] = defaultdict(set)
    ticks: dict[frozenset[int], Counter[int]] = defaultdict(Counter)
    before: dict[int, int] = {}
    for moment in moments:
        for thread in moment:
            names[thread.allowed][thread.id] = thread.name
            node = node_of.get(thread.cpu)
            if node is not None:
                seen_on[thread.allowed].add((thread.id, node))
                ticks[thread.allowed][node] += thread.cpu_ticks - before.get(thread.id, thread.cpu_ticks)
            before[thread.id] = thread.cpu_ticks
    return tuple(
        ProcessThreads(
            allowed_cpus=format_cpulist(allowed),
            allowed_nodes=tuple(sorted({node_of[cpu] for cpu in allowed if cpu in node_of})),
            threads=len(members),
            examples=tuple([*dict.fromkeys(members.values())][:_EXAMPLES]),
            last_node=dict(sorted(Counter(node for _, node in seen_on[allowed]).items())),
            cpu_ticks={node: count for node, count in sorted(ticks[allowed].items()) if count},
        )
        for allowed, members in sorted(names.items(), key=lambda group: -len(group[1]))
    )


def sampled_bytes(pid: int) -> dict[MemoryKind, dict[int, int]]:
    """An estimate of the decisive bytes from a random page of each stride. Raise OSError."""
    decisive = [area for area in areas(pid) if area.kind in DECISIVE]
    if not decisive:  # as of a thread of the kernel
        return {}
    weights = [min(area.bytes, _LARGEST_WEIGHT) for area in decisive]
    least, total, draw = min(LEAST_SAMPLE, -(-SAMPLE_PAGES // len(decisive))), sum(weights), random.Random(0)
    samples = []
    for area, weight in zip(decisive, weights, strict=True):
        pages, most = area.bytes // PAGE_BYTES, max(least, SAMPLE_PAGES * weight // total)
        samples.append(sampled_pages(area.first, pages, -(-pages // most), draw))
    # In one call: programs have tens of thousands of areas.
    nodes, begin = node_of_each(array("Q", chain.from_iterable(samples)), pid), 0
    found: dict[MemoryKind, Counter[int]] = defaultdict(Counter)
    for area, sample in zip(decisive, samples, strict=True):
        of_area = nodes[begin : begin + len(sample)]
        begin += len(sample)
        for node in set(of_area):
            if node >= 0:
                found[area.kind][node] += area.bytes * of_area.count(node) // len(sample)
    return by_kind(found)


def node_cpus(nodes: Mapping[int, str]) -> dict[int, tuple[int, ...]]:
    return {node: parse_cpulist(cpus) for node, cpus in nodes.items()}


def _policies(pid: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            counts[thread_policy(pid, int(thread))] += 1
        except (FileNotFoundError, ProcessLookupError):  # it ended in between
            if not os.path.exists(f"/proc/{pid}/numa_maps"):
                raise
    return dict(counts.most_common())


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", errors="backslashreplace") as lines:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    except OSError:
        return {}


def _command(pid: int) -> str:
    """argv[0] up to the first space: a process that sets its title has all of its arguments there."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).partition(b"\0")[0].split()
    except OSError:
        return ""
    return words[0].decode(errors="backslashreplace") if words else ""
