"""Several GPUs at work at once: what each keeps of its own pace, and what they carry together."""

import re
import statistics
from collections.abc import Sequence
from typing import Any

from bench.legacy.aggregate import DIRECTIONS, carried_gb_s
from bench.legacy.pairs import runs_by_block
from bench.legacy.statistics import interval_of

Record = dict[str, Any]
AXIS = "concurrent_gpus"


def contention(cells: Sequence[Record], comparisons: Sequence[Record]) -> list[Record]:
    """One entry a cell of which GPUs were busy together, and one for each cell alone that these are compared with.

    An entry has cell, gpu, cpu_node, mem_node, model (with its other settings, as vit32x6x512 bf16), busy (GPUs, the
    measured one included), load, placement (None where it was alone), samples_s, h2d_gb_s, d2h_gb_s of the measured
    GPU, base_cell, effect, interval, verdict and text against it alone (paired by block; None where it was not measured
    alone), together: the sums over all GPUs, each {value, interval}, and others: what each peer carried. Sums are of
    the runs in which every peer gave a figure.
    """
    # Of an axis that changes something else along, what is left would not be the company's doing alone.
    company = {AXIS, "concurrent_load", "concurrent_placement"}
    to_one = [entry for entry in comparisons if entry["base"].get(AXIS) == 1 and set(entry["keys"]) <= company]
    crowded = [cell for cell in cells if (cell["settings"].get(AXIS) or 1) > 1]
    against = {line["name"]: line for entry in to_one for line in entry["lines"]}
    alone = {against[cell["name"]]["base_cell"] for cell in crowded if cell["name"] in against}
    shown = [cell for cell in cells if cell in crowded or cell["name"] in alone]
    return [_entry(cell, against.get(cell["name"])) for cell in shown]


def _entry(cell: Record, line: Record | None) -> Record:
    busy = cell["settings"].get(AXIS) or 1
    line = line or {}
    batch_size = cell["settings"]["batch_size"]
    carried = carried_gb_s(cell["throughput_samples_s"], cell["bytes_per_batch"], batch_size)
    return {
        "cell": cell["name"],
        **{key: cell[key] for key in ("gpu", "cpu_node", "mem_node")},
        "model": _series(line.get("base_cell") or cell["name"], cell["model"]["name"]),
        "busy": busy,
        "load": cell["settings"]["concurrent_load"] if busy > 1 else None,
        "placement": cell["settings"]["concurrent_placement"] if busy > 1 else None,
        "samples_s": cell["throughput_samples_s"],
        **{f"{way}_gb_s": carried[way] for way in DIRECTIONS},
        "base_cell": line.get("base_cell"),
        **{key: line.get(key) for key in ("effect", "interval", "verdict", "text")},
        "together": _together(cell, busy, batch_size),
        "others": cell["peers"],
    }


def _series(name: str, model: str) -> str:
    """The model and what sets its cell apart from others of it, but for the company and the CPU node."""
    suffixes = name.partition(f"_{model}")[2].split("_")
    company = re.compile(r"cpu\d+|gpus\d+|.*-load")
    return " ".join([model, *(part for part in suffixes if part and not company.fullmatch(part))])


def _together(cell: Record, busy: int, batch_size: int) -> Record:
    """Over all busy GPUs: samples_s, h2d_gb_s, d2h_gb_s, each with the interval of its mean over runs, and runs."""
    rows = [
        _row(run, cell, batch_size) for run in runs_by_block(cell).values() if len(run.get("peers") or []) >= busy - 1
    ]
    whole = [row for row in rows if None not in row.values()]
    sums: Record = {"runs": len(whole)}
    for key in ("samples_s", "h2d_gb_s", "d2h_gb_s"):
        values = [row[key] for row in whole if row[key]]
        sums[key] = {
            "value": statistics.geometric_mean(values) if values else None,
            "interval": list(interval_of(values)) if len(values) > 1 else None,
        }
    return sums


def _row(run: Record, cell: Record, batch_size: int) -> dict[str, float | None]:
    own = carried_gb_s(run["throughput_samples_s"], cell["bytes_per_batch"], batch_size)
    parts = {"samples_s": [run["throughput_samples_s"]]} | {f"{way}_gb_s": [own[way]] for way in DIRECTIONS}
    for peer in run.get("peers") or []:
        parts["samples_s"].append(peer["throughput_samples_s"])
        for way in DIRECTIONS:
            parts[f"{way}_gb_s"].append(peer[f"{way}_gb_s"])
    return {key: None if None in values else sum(values) for key, values in parts.items()}
