"""What a study would do here: its grid, what is done, and what the rest would cost. Runs nothing."""

import os
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.files import read_json
from bench.host.topology import Topology, read_topology
from bench.shape import NUMBER, TEXT, Must, misfit
from bench.study.cell import Cell
from bench.study.directory import Grid, RunDirectory, run_name
from bench.study.grid import idle_entries
from bench.study.order import TRACED, Slot
from bench.study.resolve import expand_here, find
from bench.study.study import Study

# Where this host has no earlier run of the kind: whole processes on an H100 host took about this long.
TIMED_RUN_S = 11.0
TRACED_RUN_S = 18.0
# Bytes in a report and its SQLite for one activity, of the fixtures: 120 in the report, 450 in the SQLite.
BYTES_PER_ACTIVITY = 600
ACTIVITIES_PER_LAYER = 30
ACTIVITIES_PER_BATCH = 16
# The runs of an earlier study that tell the time: a study of thousands of cells is not read as a whole.
_TIMED_BY = (1, 2, TRACED)
_NOT_RUNNABLE = "not_runnable"


@dataclass(frozen=True)
class Plan:
    study: str
    directory: str | None
    cells: list[dict[str, Any]]
    runs: int
    runs_to_do: int
    estimate_s: float
    estimate_from: str
    disk_bytes: int
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return vars(self)


def plan(study: Study, output_dir: Path, fresh: bool = False, topology: Topology | None = None) -> Plan:
    """Raise StudyError for what would be refused at the start too."""
    directory = None if fresh else find(study, output_dir)
    if directory:
        grid = directory.grid()
    else:
        topology = topology or read_topology()
        here = expand_here(study, topology)
        grid = Grid({cell.name: cell for cell in here.cells}, tuple(here.order))
    known, order = grid.cells, grid.asked(study.settings["repeats"])
    records: dict[str, list[dict[str, Any] | None]] = {name: [] for name in known}
    todo = []
    there = _run_files(directory)
    for slot in order:
        record = _record(directory, slot, there) if directory else None
        records[slot.cell].append(record)
        good = (record or {}).get("status") == "ok"
        if not known[slot.cell].reason and not good and not (directory and _awaits_metrics(directory, slot)):
            todo.append(slot)
    entries = [_entry(cell, records[cell.name]) for cell in known.values()]
    times = _known_times(output_dir) if todo else {}
    kinds = {(slot.cell, slot.repeat == TRACED) for slot in todo}
    found = {(name, traced): _estimate(known[name], traced, times) for name, traced in kinds}
    seconds = [found[slot.cell, slot.repeat == TRACED] for slot in todo]
    return Plan(
        study=study.name,
        directory=str(directory.path) if directory else None,
        cells=entries,
        runs=len(order),
        runs_to_do=len(todo),
        estimate_s=round(sum(second for second, _ in seconds), 1),
        estimate_from="earlier runs on this host"
        if seconds and all(measured for _, measured in seconds)
        else "typical times of an H100 host, where this host has no earlier run of the kind",
        disk_bytes=sum(trace_bytes(known[slot.cell]) for slot in todo if slot.repeat == TRACED),
        notes=[*_notes(list(known.values())), *_idle(study, topology)],
    )


def _idle(study: Study, topology: Topology | None) -> list[str]:
    """Of a study that is there already the GPUs may be gone: that is no reason not to plan."""
    if not study.axes.exclude:
        return []
    try:
        return idle_entries(study, topology or read_topology())
    except StudyError:
        return []


def _notes(cells: list[Cell]) -> list[str]:
    """What a reader of the names could take wrongly."""
    labels = list(dict.fromkeys(cell.gpu for cell in cells))
    if labels == [0] or any(cell.device != "cpu" for cell in cells):
        return []
    repeated = ": cells that differ in it alone measure the same" if len(labels) > 1 else ""
    return [f"CPU device: the number of a GPU is a label here{repeated}"]


def render(plan: Plan) -> str:
    """The plan for a terminal."""
    width = max(len(cell["name"]) for cell in plan.cells)
    lines = [
        f"{cell['name']:{width}}  {cell['state']}{': ' + cell['reason'] if cell['reason'] else ''}"
        for cell in plan.cells
    ]
    states = [cell["state"] for cell in plan.cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    cells = f"{len(plan.cells)} {'cell' if len(plan.cells) == 1 else 'cells'}"
    lines += ["", f"{plan.study}: {cells} ({counts}), {plan.runs} runs, {plan.runs_to_do} to do"]
    if plan.runs_to_do:
        lines += [
            f"time: about {_duration(plan.estimate_s)} ({plan.estimate_from})",
            f"disk: about {plan.disk_bytes / 1e6:,.0f} MB of traces while all are kept (retention)",
        ]
    lines += plan.notes
    if plan.directory:
        lines.append(f"goes on in {plan.directory}")
    return "\n".join(lines)


def trace_bytes(cell: Cell) -> int:
    """A rough size of the report and the SQLite of one traced pass."""
    batches = cell.num_samples // cell.batch_size
    return int(1e6 + batches * BYTES_PER_ACTIVITY * (ACTIVITIES_PER_BATCH + ACTIVITIES_PER_LAYER * cell.model.depth))


def _run_files(directory: RunDirectory | None) -> set[str]:
    """Names in runs/: asking for each of thousands of files by itself takes seconds."""
    folder = directory.path / "runs" if directory else None
    return {entry.name for entry in os.scandir(folder)} if folder and folder.is_dir() else set()


def _record(directory: RunDirectory, slot: Slot, there: set[str]) -> dict[str, Any] | None:
    if slot.repeat != TRACED and f"{run_name(slot.cell, slot.repeat)}.json" not in there:
        return None
    try:
        if slot.repeat == TRACED:
            # A traced run is done when its metrics are.
            later = _read(directory.metrics(slot.cell))
            if not later or later["status"] != "ok":
                return later
        return _read(directory.record(slot.cell, slot.repeat))
    except (OSError, StudyError):
        return None


def _awaits_metrics(directory: RunDirectory, slot: Slot) -> bool:
    """Of a traced run that went well: its metrics are made after the last timed run, and take no run."""
    if slot.repeat != TRACED or directory.metrics(slot.cell).exists():
        return False
    try:
        return (_read(directory.record(slot.cell, TRACED)) or {}).get("status") == "ok"
    except (OSError, StudyError):
        return False


def _read(path: Path) -> dict[str, Any] | None:
    """A record as far as a plan needs it; None if it is damaged, and will be made again."""
    record = read_json(path)
    return None if misfit(record, {"status": Must(TEXT), "reason": TEXT, "wall_s": NUMBER}) else record


def _entry(cell: Cell, records: list[dict[str, Any] | None]) -> dict[str, Any]:
    failed = next((record for record in records if record and record["status"] not in ("ok", _NOT_RUNNABLE)), None)
    refused = next((record for record in records if record and record["status"] == _NOT_RUNNABLE), None)
    if cell.reason:
        state, reason = _NOT_RUNNABLE, cell.reason
    elif failed:
        state, reason = "failed", f"{failed['status']}: {failed.get('reason') or ''}"
    elif refused:
        state, reason = _NOT_RUNNABLE, refused.get("reason") or ""
    else:
        state, reason = ("todo" if None in records else "done"), ""
    return {
        "name": cell.name,
        "gpu": cell.gpu,
        "cpu_node": cell.cpu_node,
        "mem_node": cell.mem_node,
        "model": cell.model.name,
        "state": state,
        "reason": reason,
        "runs_done": sum((record or {}).get("status") == "ok" for record in records),
        "runs": len(records),
    }


def _known_times(output_dir: Path) -> dict[tuple[str, bool], list[float]]:
    """Wall times of runs that went well, by (cell key without its place, traced), of the newest run directories."""
    times: dict[tuple[str, bool], list[float]] = {}
    newest = sorted(output_dir.glob("*/*/*/grid.json"), key=lambda path: path.stat().st_mtime)[-5:]
    for grid in newest:
        directory = RunDirectory(grid.parent)
        try:
            there = _run_files(directory)
            cells = directory.grid().cells.values() if there else ()
        except (OSError, StudyError):  # another study's, or another user's
            continue
        for cell in cells:
            kind = _kind(cell)
            for repeat in _TIMED_BY:
                if f"{run_name(cell.name, repeat)}.json" not in there:
                    continue
                try:
                    record = _read(directory.record(cell.name, repeat))
                    if record and record["status"] == "ok":
                        times.setdefault((kind, repeat == TRACED), []).append(record["wall_s"])
                except (OSError, StudyError, KeyError, TypeError):
                    continue
    return times


def _kind(cell: Cell) -> str:
    """Cells of one kind take the same time: GPU and node apart, all is equal."""
    return replace(cell, gpu=0, cpu_node=0, mem_node=0).key


def _estimate(cell: Cell, traced: bool, times: dict[tuple[str, bool], list[float]]) -> tuple[float, bool]:
    known = times.get((_kind(cell), traced)) if times else None
    return (statistics.median(known), True) if known else (TRACED_RUN_S if traced else TIMED_RUN_S, False)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
