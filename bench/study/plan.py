"""What a study would do here and how long it would take."""

import os
import socket
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.host.topology import Topology, read_topology
from bench.run.record import LASTING, OK, is_final
from bench.shape import NUMBER, TEXT, Must, misfit
from bench.storage import read_json
from bench.study.cell import Cell
from bench.study.directory import Grid, RunDirectory, expand_here, find, run_name
from bench.study.grid import idle_entries
from bench.study.load import Study
from bench.study.order import TRACED, Slot

# --- plan
# What a study would do here: its grid, what is done, and what the rest would cost. Runs nothing.

# Where a host with GPUs has no earlier run of the kind: whole processes on an H100 host took about this long.
TIMED_RUN_S = 11.0
TRACED_RUN_S = 18.0
# Bytes in a report and its SQLite for one activity, of the fixtures: 120 in the report, 450 in the SQLite.
BYTES_PER_ACTIVITY = 600
ACTIVITIES_PER_LAYER = 30
ACTIVITIES_PER_BATCH = 16
# The runs of an earlier study that tell the time: a study of thousands of cells is not read as a whole.
_TIMED_BY = (1, 2, TRACED)
_EARLIER_STUDIES = 5
_MEASURED = "earlier runs on this host"
_TYPICAL = "typical times of an H100 host, where this host has no earlier run of the kind"
# A CPU may take any multiple of a GPU's time.
_UNKNOWN = "no earlier run of the kind on this host"
_NOT_RUNNABLE = "not_runnable"


# What a run is like, and the wall times of such runs.
_Like = tuple[str | bool, ...]
_Times = dict[_Like, list[float]]


@dataclass(frozen=True)
class Plan:
    """estimate_s: for the runs to do; None where it is not known. estimate_from: why it is, or why it is not."""

    study: str
    directory: str | None
    cells: list[dict[str, Any]]
    runs: int
    runs_to_do: int
    estimate_s: float | None
    estimate_from: str
    disk_bytes: int
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return vars(self)


def plan(study: Study, output_dir: Path, fresh: bool = False, topology: Topology | None = None) -> Plan:
    """Raise StudyError for what would be refused at the start too."""
    own = find(study, output_dir)
    directory = None if fresh else own
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
    estimate_s, estimate_from = _estimate(known, todo, _known_times(output_dir, own) if todo else {})
    return Plan(
        study=study.name,
        directory=str(directory.path) if directory else None,
        cells=entries,
        runs=len(order),
        runs_to_do=len(todo),
        estimate_s=estimate_s,
        estimate_from=estimate_from,
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
            _time(plan),
            f"disk: about {plan.disk_bytes / 1e6:,.0f} MB of traces while all are kept (retention)",
        ]
    lines += plan.notes
    if plan.directory:
        lines.append(f"goes on in {plan.directory}")
    return "\n".join(lines)


def _time(plan: Plan) -> str:
    if plan.estimate_s is None:
        return f"time: not known: {plan.estimate_from}"
    return f"time: about {_duration(plan.estimate_s)} ({plan.estimate_from})"


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


def _known_times(output_dir: Path, own: RunDirectory | None) -> _Times:
    """Wall times of runs of this host that went well, by what a run may be like (see _likes).

    own: this study's run directory, finished or not. Its runs come first, and tell of cells that have no run of their
    kind too; those of the newest other studies tell of their kind alone.
    """
    others = islice(_of_this_host(output_dir, own), _EARLIER_STUDIES)
    return _collected(others, False) | _collected([own] if own else [], True)


def _collected(directories: Iterable[RunDirectory], own: bool) -> _Times:
    times: _Times = {}
    for directory in directories:
        for cell, traced, wall_s in _walls(directory):
            for like in _likes(cell, traced, own):
                times.setdefault(like, []).append(wall_s)
    return times


def _of_this_host(output_dir: Path, own: RunDirectory | None) -> Iterator[RunDirectory]:
    """The other studies, the newest first."""
    grids = output_dir.resolve().glob("*/*/*/grid.json")
    for grid in sorted(grids, key=lambda path: path.stat().st_mtime, reverse=True):
        directory = RunDirectory(grid.parent)
        try:
            if directory != own and directory.topology().get("host") == socket.gethostname():
                yield directory
        except (OSError, StudyError):  # another user's
            continue


def _walls(directory: RunDirectory) -> Iterator[tuple[Cell, bool, float]]:
    """Of runs that went well: cell, whether traced, seconds."""
    try:
        there = _run_files(directory)
        cells = directory.grid().cells.values() if there else ()
    except (OSError, StudyError):  # of another version, or another user's
        return
    for cell in cells:
        for repeat in _TIMED_BY:
            if f"{run_name(cell.name, repeat)}.json" not in there:
                continue
            try:
                record = _read(directory.record(cell.name, repeat))
            except (OSError, StudyError):
                continue
            if record and record["status"] == "ok" and "wall_s" in record:
                yield cell, repeat == TRACED, record["wall_s"]


def _likes(cell: Cell, traced: bool, own: bool = True) -> list[_Like]:
    """What tells how long a run takes, the nearest first: its kind, in the study itself (own) its mode, its kind in the
    other mode, and all runs of the study.

    Cells of one kind take the same time: GPU and node apart, all is equal.
    """
    kind = replace(cell, gpu=0, cpu_node=0, mem_node=0).key
    likes: list[_Like] = [(kind, traced), (traced,), (kind,), ()]
    return likes if own else [like for like in likes if kind in like]


def _estimate(cells: dict[str, Cell], todo: list[Slot], times: _Times) -> tuple[float | None, str]:
    """Seconds that these runs may take, or None, and where that is from."""
    means = {like: statistics.fmean(walls) for like, walls in times.items()}
    seconds, source, found = 0.0, _MEASURED, {}
    for slot in todo:
        cell, traced = cells[slot.cell], slot.repeat == TRACED
        if (slot.cell, traced) not in found:
            found[slot.cell, traced] = next((means[like] for like in _likes(cell, traced) if like in means), None)
        known = found[slot.cell, traced]
        if known is None and cell.device == "cpu":
            return None, _UNKNOWN
        if known is None:
            known, source = TRACED_RUN_S if traced else TIMED_RUN_S, _TYPICAL
        seconds += known
    return round(seconds, 1), source


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"


# --- remaining
# How far a study is, and how long the rest may take: from its own finished runs.

Records = Mapping[Slot, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Standing:
    """done of total runs; current_s and rest_s: what the running one and those after it may take, None if unknown."""

    done: int
    total: int
    current_s: float | None
    rest_s: float | None

    def left_s(self, elapsed_s: float) -> float | None:
        """Time left when the running one has run for elapsed_s."""
        if self.current_s is None or self.rest_s is None:
            return None
        return self.rest_s + max(self.current_s - elapsed_s, 0.0)


def standing(records: Records, invocation: str, free: Iterable[str] = (), current: Slot | None = None) -> Standing:
    """Where a study stands.

    records: its runs, each with its record or None.
    free: cells that end at once, since this host cannot run them.
    current: the run that goes on now; it counts as not done.
    """
    done = {slot for slot, record in records.items() if slot != current and is_final(record, invocation)}
    over = {*free, *_given_up(records, invocation)}
    estimate = _estimates(records, done)
    rest = [estimate(slot) for slot in records if slot not in done and slot != current and slot.cell not in over]
    now = estimate(current) if current else 0.0
    known = now is not None and None not in rest
    return Standing(len(done), len(records), now if known else None, sum(rest) if known else None)


def _given_up(records: Records, invocation: str) -> set[str]:
    """Cells whose further runs end as the first one did, without being started."""
    return {
        slot.cell
        for slot, record in records.items()
        if record and record["status"] in LASTING and record["invocation"] == invocation
    }


def _estimates(records: Records, done: set[Slot]) -> Callable[[Slot], float | None]:
    """The mean over a run's like: those of its group, else of its mode, else all. None before any run has ended."""
    walls: dict[tuple[str | bool, ...], list[float]] = {}
    for slot, record in records.items():
        if record and slot in done and record["status"] == OK:
            for like in _likes_of_remaining(slot):
                walls.setdefault(like, []).append(record["wall_s"])
    means = {like: statistics.fmean(values) for like, values in walls.items()}
    return lambda slot: next((means[like] for like in _likes_of_remaining(slot) if like in means), None)


def _likes_of_remaining(slot: Slot) -> list[tuple[str | bool, ...]]:
    traced = slot.repeat == TRACED
    return [(traced, slot.group), (traced,), ()]
