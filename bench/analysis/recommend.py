"""Where to run a program that uses a GPU, from the penalties of a study."""

from collections.abc import Collection, Iterable, Sequence

from bench.records.results import LocalSource, Penalty, Recommendation, Results, Verdict


def recommend(results: Results) -> tuple[Recommendation, ...]:
    """One a GPU, by its index."""
    return tuple(_recommend(results, gpu) for gpu in sorted({cell.gpu for cell in results.cells}))


def best_node(local: int, entries: Iterable[Penalty], cpu_groups: Collection[int] = ()) -> int:
    """The local node, unless another one is significantly faster for some model and slower for none.

    With CPUs on one node and memory on another there is no one node to run on. cpu_groups: where groups of CPUs are
    compared in place of nodes, their numbers.
    """
    whole = [entry for entry in entries if cpu_groups or entry.remote_cpu_node == entry.remote_node]
    faster = dict.fromkeys(
        entry.remote_cpu_node for entry in whole if entry.verdict is Verdict.FASTER and entry.headline
    )
    slower = {entry.remote_cpu_node for entry in whole if entry.verdict is Verdict.SLOWER}
    return next((node for node in faster if node not in slower), local)


def is_known(best: int, entries: Sequence[Penalty], cpu_groups: Collection[int]) -> bool:
    """Whether the best node is more than what the others were compared with.

    A group of CPUs is, too, if every other one is significantly slower for some model.
    """
    local, source = entries[0].local_node, entries[0].local_source
    slower = {entry.remote_cpu_node for entry in entries if entry.verdict is Verdict.SLOWER and entry.headline}
    slowest = bool(cpu_groups) and {*cpu_groups} - {local} <= slower
    return source is not LocalSource.REFERENCE or best != local or slowest


def _recommend(results: Results, gpu: int) -> Recommendation:
    compared = [entry for entry in results.penalties if entry.gpu == gpu and entry.penalty is not None]
    if not compared:
        measured = {cell.mem_node for cell in results.cells if cell.gpu == gpu}
        return Recommendation(gpu=gpu, node=measured.pop() if len(measured) == 1 else None)
    local, source = compared[0].local_node, compared[0].local_source
    groups = results.cpu_groups
    best = best_node(local, compared, groups)
    known = is_known(best, compared, groups)
    elsewhere = [entry for entry in compared if (groups or entry.remote_node != best) and entry.local_node == best]
    worst = max(elsewhere, key=lambda entry: entry.penalty or 0.0, default=None)
    return Recommendation(
        gpu=gpu,
        node=(0 if groups else best) if known else None,
        cpus=groups.get(best, "") if known else "",
        local_node=local,
        local_source=source,
        worst_cell=worst.remote_cell if worst else None,
        penalty=worst.penalty if worst else None,
        interval=worst.interval if worst else None,
        verdict=worst.verdict if worst else None,
    )
