"""Whether processes are near their GPU, and the lines that would move them there. Numbers and enums only."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from bench.records.host import AnswerState, Gpu, format_cpulist, parse_cpulist
from bench.records.where import (
    DECISIVE,
    GpuProcesses,
    MemoryKind,
    Near,
    Part,
    Problem,
    ProcessPlace,
    Remedy,
    RemedyKind,
    WhereVerdict,
)

FLOOR_BYTES = 4 << 20
"""Less memory of a kind than this decides nothing: libraries keep data of their own."""
NEAR_SHARE = 0.99
REMOTE_SHARE = 0.5
NO_GPU = "no GPU"
MOVABLE = (MemoryKind.ANON, MemoryKind.SHARED, MemoryKind.HUGE)


def near_of(gpu: Gpu) -> Near:
    """The nodes that all sources agree on; of the sources only those whose answer counts."""
    answers = {source: answer for source, answer in gpu.answers.items() if answer.state is AnswerState.COUNTS}
    if gpu.node is not None:
        return Near(nodes=(gpu.node,), source=", ".join(answers) or gpu.agreement.value)
    common = set.intersection(*(set(answer.nodes) for answer in answers.values())) if answers else set()
    return Near(nodes=tuple(sorted(common)), source=", ".join(answers) if common else gpu.agreement.value)


def judge_process(place: ProcessPlace, near: Collection[int], nodes: Mapping[int, Collection[int]]) -> ProcessPlace:
    """The process with its near nodes, and what of it is elsewhere."""
    problems = [*thread_problems(place, near, nodes), *memory_problems(place, near)] if near else []
    return replace(place, near_nodes=tuple(sorted(near)), problems=tuple(problems))


def thread_problems(place: ProcessPlace, near: Collection[int], nodes: Mapping[int, Collection[int]]) -> list[Problem]:
    """Threads that may run on a CPU of another node."""
    cpus = {cpu for node in near for cpu in nodes.get(node, ())}
    return [
        Problem(part=Part.THREADS, threads=group.threads, allowed_cpus=group.allowed_cpus, examples=group.examples)
        for group in place.threads
        if not set(parse_cpulist(group.allowed_cpus)) <= cpus
    ]


def memory_problems(place: ProcessPlace, near: Collection[int]) -> list[Problem]:
    """Kinds of memory of which more than a hundredth, and more than FLOOR_BYTES, is on other nodes."""
    problems = []
    for kind in DECISIVE:
        held = place.bytes.get(kind, {})
        away = {node: size for node, size in held.items() if node not in near}
        if sum(away.values()) > max(FLOOR_BYTES, (1 - NEAR_SHARE) * sum(held.values())):
            problems.append(Problem(part=Part.MEMORY, kind=kind, bytes_by_node=away))
    return problems


def near_share(places: Iterable[ProcessPlace]) -> float | None:
    """The share of the decisive memory that is on the near nodes of each process; None if there is too little."""
    near, total = 0, 0
    for place in places:
        for kind in DECISIVE:
            for node, size in place.bytes.get(kind, {}).items():
                total += size
                near += size if node in place.near_nodes else 0
    return near / total if total >= FLOOR_BYTES else None


def verdict(places: Sequence[ProcessPlace]) -> WhereVerdict:
    """The verdict on judged processes.

    Contradictions come first: what could not be observed does not excuse what was.
    """
    known = [place for place in places if place.near_nodes]
    if any(place.problems for place in known):
        share = near_share(known)
        if share is None:
            away = all(not {*group.allowed_nodes} & {*place.near_nodes} for place in known for group in place.threads)
            return WhereVerdict.REMOTE if away else WhereVerdict.MIXED
        return WhereVerdict.REMOTE if share <= REMOTE_SHARE else WhereVerdict.MIXED
    blind = len(known) < len(places) or any(
        gap.part is not Part.POLICIES for place in known for gap in place.unobserved
    )
    return WhereVerdict.UNSEEN if blind or not places else WhereVerdict.LOCAL


def remedies(places: Iterable[ProcessPlace], nodes: Mapping[int, Collection[int]]) -> tuple[Remedy, ...]:
    """Lines to paste, those that help a running process first."""
    threads, pages, restart = [], [], []
    for place in places:
        cpus = format_cpulist(cpu for node in place.near_nodes for cpu in nodes.get(node, ()))
        near = format_cpulist(place.near_nodes)
        if any(problem.part is Part.THREADS for problem in place.problems):
            threads.append(Remedy(kind=RemedyKind.THREADS, command=f"taskset -acp {cpus} {place.pid}"))
        away: Counter[int] = Counter()
        for problem in place.problems:
            if problem.kind in MOVABLE:
                away.update(problem.bytes_by_node)
        if away:
            command = f"migratepages {place.pid} {format_cpulist(away)} {near}"
            pages.append(Remedy(kind=RemedyKind.PAGES, command=command))
        if any(problem.kind is MemoryKind.PINNED for problem in place.problems):
            command = f"numactl --cpunodebind={near} --membind={near} --"
            restart.append(Remedy(kind=RemedyKind.RESTART, command=command))
    return (*threads, *pages, *dict.fromkeys(restart))


def judge(
    places: Iterable[ProcessPlace],
    gpus_of: Mapping[int, tuple[int, ...]],
    gpus: Mapping[int, Gpu],
    nodes: Mapping[int, Collection[int]],
    given: Near | None = None,
) -> list[GpuProcesses]:
    """The processes by GPU, judged; those of no GPU last.

    A process that uses several GPUs may be near any of them. One of no GPU, as a launcher, may be near any GPU of its
    tree. gpus_of: the GPUs of each process. given: near nodes that replace those of all GPUs.
    """
    nears = {index: given or near_of(gpu) for index, gpu in gpus.items()}
    of_tree = tuple(sorted({index for used in gpus_of.values() for index in used}))
    by_gpu: dict[int | None, list[ProcessPlace]] = {index: [] for index in of_tree}
    for place in places:
        used = gpus_of[place.pid]
        near = _nearest_to(used or of_tree, nears, given)
        judged = judge_process(replace(place, gpus=used), near, nodes)
        for index in used or (None,):
            by_gpu.setdefault(index, []).append(judged)
    found = []
    for index, judged_places in sorted(by_gpu.items(), key=lambda item: (item[0] is None, item[0] or 0)):
        if not judged_places:
            continue
        gpu = gpus.get(index) if index is not None else None
        found.append(
            GpuProcesses(
                index=index,
                uuid=gpu.uuid if gpu else None,
                name=gpu.name if gpu else "",
                near=nears[index] if index is not None else _near_of_launchers(of_tree, nears, given),
                verdict=verdict(judged_places),
                near_share=near_share(place for place in judged_places if place.near_nodes),
                remedies=remedies(judged_places, nodes),
                processes=tuple(judged_places),
            )
        )
    return found


def _nearest_to(used: Iterable[int], nears: Mapping[int, Near], given: Near | None) -> set[int]:
    """The near nodes of several GPUs; none if those of one are unknown."""
    if given:
        return set(given.nodes)
    sets = [set(nears[index].nodes) for index in used]
    return set.union(*sets) if sets and all(sets) else set()


def _near_of_launchers(of_tree: Sequence[int], nears: Mapping[int, Near], given: Near | None) -> Near:
    if given:
        return given
    nodes = tuple(sorted(_nearest_to(of_tree, nears, None)))
    return Near(nodes=nodes, source=f"GPU {format_cpulist(of_tree)}" if of_tree else NO_GPU)
