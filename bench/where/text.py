"""What `numastudy where` prints: the only English of a look and its verdict."""

from collections.abc import Iterable, Mapping

from bench.records.host import Agreement, format_cpulist
from bench.records.where import (
    GpuProcesses,
    MemoryKind,
    Part,
    Problem,
    ProcessPlace,
    ProcessThreads,
    Remedy,
    RemedyKind,
    Unobserved,
    Where,
    WhereVerdict,
)
from bench.units import byte_size, percent
from bench.where.judge import NO_GPU

_PERMISSION = "run as root or as the process's user (ptrace access: kernel.yama.ptrace_scope, CAP_SYS_PTRACE)"
KINDS = {
    MemoryKind.ANON: "anonymous",
    MemoryKind.PINNED: "pinned or shared anonymous",
    MemoryKind.SHARED: "shared",
    MemoryKind.HUGE: "huge pages",
    MemoryKind.DRIVER: "driver",
    MemoryKind.FILE: "files",
}
_REMEDIES = {
    RemedyKind.THREADS: "moves the threads now",
    RemedyKind.PAGES: "moves the pages that are not pinned",
    RemedyKind.RESTART: "pinned pages do not move: start it again behind this",
}
_SOURCES: dict[str, str] = {
    Agreement.ONLY_NODE: "the only node",
    Agreement.DISAGREED: "the sources disagree",
    Agreement.UNKNOWN: "no source names one",
}


def printable(text: str) -> str:
    """Text of another process without characters that control a terminal or reorder a line."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )


def where_text(found: Where) -> str:
    """All of it."""
    blocks = [_gpu_block(gpu) for gpu in found.gpus]
    if found.ended:
        blocks.append(f"{found.ended} process(es) ended while they were observed")
    return "\n\n".join(blocks)


def verdict_text(gpu: GpuProcesses) -> str:
    """One sentence, with the reason where the verdict is no plain yes."""
    near = _nodes(gpu.near.nodes)
    share = "" if gpu.near_share is None else f"{percent(gpu.near_share)} of its memory is near"
    if gpu.verdict is WhereVerdict.LOCAL:
        return f"local: no thread may leave {near}" + (f", {share}" if share else "")
    if gpu.verdict is WhereVerdict.UNSEEN:
        return f"unseen: {_why_unseen(gpu)}"
    away = sum(bool(place.problems) for place in gpu.processes)
    problem = f"threads or memory of {away} of {len(gpu.processes)} processes are elsewhere"
    return f"{gpu.verdict}: " + "; ".join([*([share] if share else []), problem])


def problem_text(problem: Problem) -> str:
    if problem.part is Part.THREADS:
        names = ", ".join(map(printable, problem.examples))
        return f"{_threads(problem.threads)} ({names}) may run on CPUs {problem.allowed_cpus}"
    kind = "" if problem.kind is None else KINDS[problem.kind]
    return f"{kind} {_bytes(problem.bytes_by_node)}"


def unobserved_text(gap: Unobserved) -> str:
    """What could not be observed, why, and what would help."""
    advice = f"; {_PERMISSION}" if gap.denied else ""
    return f"{gap.part}: {gap.error}{advice}"


def remedy_text(remedy: Remedy) -> str:
    return f"{remedy.command}    # {_REMEDIES[remedy.kind]}"


def _why_unseen(gpu: GpuProcesses) -> str:
    if any(not place.near_nodes for place in gpu.processes):
        if gpu.near.source == NO_GPU:
            return "the processes use no GPU that can be seen; name the nodes to compare with: --node N, or --gpu N"
        return f"the nearest node is unknown ({_source(gpu)}); measure it with numastudy probe, name it with --node N"
    gaps = dict.fromkeys(gap.part for place in gpu.processes for gap in place.unobserved)
    return f"{' and '.join(gaps)} of some processes could not be observed" if gaps else "no process is left"


def _source(gpu: GpuProcesses) -> str:
    return _SOURCES.get(gpu.near.source, gpu.near.source)


def _gpu_block(gpu: GpuProcesses) -> str:
    name = "no GPU" if gpu.index is None else f"GPU {gpu.index} ({gpu.name})"
    near = f"nearest: {_nodes(gpu.near.nodes)}" if gpu.near.nodes else "nearest node unknown"
    lines = [f"{name}, {near} ({_source(gpu)})", f"  {verdict_text(gpu)}"]
    lines += [f"    {remedy_text(remedy)}" for remedy in gpu.remedies]
    for place in gpu.processes:
        lines += _process_lines(place)
    return "\n".join(lines)


def _process_lines(place: ProcessPlace) -> list[str]:
    inner = f", {place.pid_in_container} in its container" if place.pid_in_container else ""
    command = f"  {printable(place.command)}" if place.command else ""
    lines = [f"  {_who(place)}{inner}{command}"]
    if place.problems:
        lines.append(f"    elsewhere {'; '.join(map(problem_text, place.problems))}")
    lines += [f"    threads   {_group_text(group)}" for group in place.threads]
    if place.policies:
        policies = ", ".join(f"{printable(policy)} ({_threads(count)})" for policy, count in place.policies.items())
        lines.append(f"    policy    {policies}")
    if place.bytes:
        sizes = "; ".join(f"{KINDS[kind]} {_bytes(held)}" for kind, held in place.bytes.items())
        lines.append(f"    memory    {'sampled: ' if place.sampled else ''}{sizes}")
    lines += [f"    unseen    {unobserved_text(gap)}" for gap in place.unobserved]
    return lines


def _group_text(group: ProcessThreads) -> str:
    text = f"{group.threads} on CPUs {group.allowed_cpus} ({_nodes(group.allowed_nodes)})"
    if group.last_node:
        text += ", last on " + ", ".join(f"node {node}: {count}" for node, count in group.last_node.items())
    if group.cpu_ticks:
        total = sum(group.cpu_ticks.values())
        shares = (f"{percent(count / total)} on node {node}" for node, count in group.cpu_ticks.items())
        text += ", CPU time " + ", ".join(shares)
    return text


def _who(place: ProcessPlace) -> str:
    return f"{place.pid} {printable(place.name)}"


def _nodes(nodes: Iterable[int]) -> str:
    numbers = sorted(nodes)
    return f"node{'s' if len(numbers) != 1 else ''} {format_cpulist(numbers)}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


def _bytes(by_node: Mapping[int, int]) -> str:
    return ", ".join(f"{byte_size(size)} on node {node}" for node, size in by_node.items())
