"""What the stages measured alone foretell: the penalty of remote memory, and where the copy stops being hidden."""

from collections.abc import Sequence
from typing import Any

from bench.results.bound import cell_terms, copy_stops_being_hidden, predict_cell
from bench.results.pairs import identity

Record = dict[str, Any]


def predictions(penalties: Sequence[Record], cells: Sequence[Record], margin: float) -> list[Record]:
    """For each penalty of remote memory under a local CPU, the only case the bound speaks of:

    remote_cell, predicted and its bracket [low, high], and agrees: whether the bracket and the observed
    interval (the penalty itself where there is none) meet or miss each other by no more than the margin, below
    which a difference is none to act on. Cells whose stages were not measured have none.
    """
    by_name = {cell["name"]: cell for cell in cells}
    found = []
    for entry in penalties:
        if entry["kind"] != "memory" or entry["penalty"] is None:
            continue
        said = predict_cell(by_name[entry["local_cell"]], by_name[entry["remote_cell"]])
        if said is None:
            continue
        low, high = entry["interval"] or (entry["penalty"], entry["penalty"])
        found.append(
            {
                "remote_cell": entry["remote_cell"],
                "predicted": said.penalty,
                "low": said.low,
                "high": said.high,
                "agrees": low <= said.high + margin and high >= said.low - margin,
            }
        )
    return found


def hidden_copies(cells: Sequence[Record]) -> list[Record]:
    """For cells that differ in batch size alone: where the copy stops being hidden, or at which sizes it is."""
    groups: dict[Any, dict[int, tuple[str, dict[str, float]]]] = {}
    for cell in cells:
        terms = cell_terms(cell)
        if terms is not None:
            kind = identity(cell, ignore=("batch_size",)), cell["cpu_node"], cell["mem_node"]
            groups.setdefault(kind, {})[cell["settings"]["batch_size"]] = (cell["name"], terms)
    found = []
    for sizes in groups.values():
        said = copy_stops_being_hidden({size: terms for size, (_, terms) in sizes.items()})
        cells_of = [sizes[size][0] for size in sorted(sizes)]
        found.append({"cells": cells_of, "batch_size": said.batch_size, "text": said.text})
    return found
