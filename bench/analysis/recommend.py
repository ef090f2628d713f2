"""Where to run a program that uses a GPU, from the penalties of a study."""

from collections.abc import Iterable

from bench.records.results import LocalSource, Penalty, Recommendation, Results, Verdict


def recommend(results: Results) -> tuple[Recommendation, ...]:
    """One a GPU, by its index."""
    return tuple(_recommend(results, gpu) for gpu in sorted({cell.gpu for cell in results.cells}))


def best_node(local: int, entries: Iterable[Penalty]) -> int:
    """The local node, unless another one is significantly faster for some model and slower for none.

    With CPUs on one node and memory on another there is no one node to run on.
    """
    whole = [entry for entry in entries if entry.remote_cpu_node == entry.remote_node]
    faster = dict.fromkeys(entry.remote_node for entry in whole if entry.verdict is Verdict.FASTER and entry.headline)
    slower = {entry.remote_node for entry in whole if entry.verdict is Verdict.SLOWER}
    return next((node for node in faster if node not in slower), local)


def _recommend(results: Results, gpu: int) -> Recommendation:
    compared = [entry for entry in results.penalties if entry.gpu == gpu and entry.penalty is not None]
    if not compared:
        measured = {cell.mem_node for cell in results.cells if cell.gpu == gpu}
        return Recommendation(gpu=gpu, node=measured.pop() if len(measured) == 1 else None)
    local, source = compared[0].local_node, compared[0].local_source
    best = best_node(local, compared)
    known = source is not LocalSource.REFERENCE or best != local
    elsewhere = [entry for entry in compared if entry.remote_node != best and entry.local_node == best]
    worst = max(elsewhere, key=lambda entry: entry.penalty or 0.0, default=None)
    return Recommendation(
        gpu=gpu,
        node=best if known else None,
        local_node=local,
        local_source=source,
        worst_cell=worst.remote_cell if worst else None,
        penalty=worst.penalty if worst else None,
        interval=worst.interval if worst else None,
        verdict=worst.verdict if worst else None,
    )
