"""From the cells of results.json to comparisons: which runs stand against which."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.results.statistics import UNKNOWN, Comparison
from bench.results.verdicts import LAUNCH_BOUND, REST

Record = dict[str, Any]
# What tells a reader which configuration a comparison is about.
TOLD_SETTINGS = (
    *("batch_size", "image_size", "dtype", "compile_model", "cuda_graph", "buffers", "device", "memory_size_mb"),
    *("host_memory", "copy_granularity", "direction", "preprocess_queue", "preprocess_node"),
    *("concurrent_gpus", "concurrent_load", "concurrent_placement"),
)


def runs_by_block(cell: Record) -> dict[int, Record]:
    """The timed ok runs of a cell by block. Of a block measured again the last one counts."""
    runs = [
        run
        for run in cell["runs"]
        if run["repeat"] != "traced" and run["status"] == "ok" and run.get("throughput_samples_s")
    ]
    runs.sort(key=lambda run: run.get("position") or 0)
    return {_block(run): run for run in runs}


def comparison(label: str, local: Record, remote: Record) -> tuple[Comparison, int]:
    """The pairs of two cells, and how many were set aside because one of the two runs was disturbed.

    Whether a run was disturbed comes from its monitor, never from its throughput. Where fewer than two
    undisturbed pairs are left all are used: the report marks them anyway.
    """
    sides = runs_by_block(local), runs_by_block(remote)
    blocks = sides[0].keys() & sides[1].keys()
    calm = {block for block in blocks if not any(side[block].get("disturbed") for side in sides)}
    if len(calm) < 2:
        calm = set(blocks)
    throughputs = [
        {block: float(side[block]["throughput_samples_s"]) for block in sorted(calm)} for side in sides
    ]
    return Comparison(label, class_of(local, remote), *throughputs), len(blocks) - len(calm)


def class_of(*cells: Record) -> str:
    """Of a comparison: that of its noisier cell."""
    known = {cell.get("noise_class") for cell in cells}
    return next((name for name in (LAUNCH_BOUND, UNKNOWN) if name in known), REST)


def identity(cell: Record, ignore: Iterable[str] = ()) -> tuple[str, ...]:
    """What must be equal for two cells to differ only in node (and in the settings to ignore)."""
    settings = {key: value for key, value in cell["settings"].items() if key not in set(ignore)}
    return (repr(cell["gpu"]), repr(sorted(cell["model"].items())), repr(sorted(settings.items())))


def occurrences(cells: Iterable[Record], key: Any) -> list[tuple[Record, Any]]:
    """Each cell with (its key, how many came before it with that key): a model listed twice counts twice."""
    seen: dict[Any, int] = {}
    numbered = []
    for cell in cells:
        name = key(cell)
        seen[name] = seen.get(name, -1) + 1
        numbered.append((cell, (name, seen[name])))
    return numbered


def told_settings(cell: Record) -> Record:
    return {key: cell["settings"][key] for key in TOLD_SETTINGS if key in cell["settings"]}


def throughputs(cell: Record) -> Mapping[int, float]:
    """By block; disturbed runs are left out unless that leaves fewer than two."""
    runs = runs_by_block(cell)
    chosen = counted(list(runs.items()), lambda one: bool(one[1].get("disturbed")))
    return {block: float(run["throughput_samples_s"]) for block, run in chosen}


def counted(runs: list[Any], was_disturbed: Callable[[Any], bool]) -> list[Any]:
    """Those that count in the figures of a cell: without the disturbed ones, unless that leaves fewer than two."""
    calm = [run for run in runs if not was_disturbed(run)]
    return calm if len(calm) > 1 else runs


def _block(run: Record) -> int:
    return int(run["block"] if run.get("block") is not None else run["repeat"])
