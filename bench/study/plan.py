"""What a study would do on this host and how long it would take; how far one is that runs."""

import os
import socket
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import structs

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.records.base import DamagedRecord
from bench.records.host import Topology, format_cpulist
from bench.records.run import LASTING, Head, Mode, Outcome, read_head
from bench.records.study import TRACED, Cell, Grid, Slot, run_name
from bench.study.crossing import pools_by_node
from bench.study.directory import RunDirectory, check_path_length, find, path_of_new
from bench.study.grid import expand_here, idle_entries
from bench.study.load import StudyDefinition
from bench.units import byte_size, duration, plural

# For a host with GPUs and no earlier run of the kind: whole processes on an H100 host took about this long.
TIMED_RUN_S = 11.0
TRACED_RUN_S = 18.0
# Nothing measured yet: 12 s of a process with 3 s of windows, and rounds that noise prolongs.
CROSSED_PROCESS_S = 14.0
# Bytes in a report and its SQLite for one activity, of the fixtures: 120 in the report, 450 in the SQLite.
BYTES_PER_ACTIVITY = 600
ACTIVITIES_PER_LAYER = 30
ACTIVITIES_PER_BATCH = 16
# The runs of an earlier study that are read for their time: reading thousands of cells takes too long.
_TIMED_BY = (1, 2, TRACED)
_EARLIER_STUDIES = 5
_MEASURED = "earlier runs on this host"
_TYPICAL = "typical times of an H100 host, where this host has no earlier run of the kind"
# A CPU may take any multiple of a GPU's time.
_UNKNOWN = "no earlier run of the kind on this host"

_TYPICAL_S = {Mode.TIMED: TIMED_RUN_S, Mode.TRACED: TRACED_RUN_S, Mode.CROSSED: CROSSED_PROCESS_S}

# A class of runs of about equal duration, and the wall times of such runs.
_Class = tuple[str | bool, ...]
_Times = dict[_Class, list[float]]


class CellState(StrEnum):
    DONE = "done"
    TODO = "todo"
    FAILED = "failed"
    NOT_RUNNABLE = "not_runnable"


@dataclass(frozen=True)
class PlannedCell:
    """model: its name. reason: of a cell that failed or cannot run here. runs: timed ones and the traced one."""

    name: str
    gpu: int
    cpu_node: int
    mem_node: int
    model: str
    state: CellState
    reason: str
    runs_done: int
    runs: int


@dataclass(frozen=True)
class Plan:
    """runs: records; a crossing is one process for several. repeats: timed runs of each cell.

    pool_bytes: of host batches in the process that has most.

    estimate_s: for what is to do; None if unknown. estimate_from: its source, or why it is unknown.
    """

    study: str
    directory: str | None
    cells: list[PlannedCell]
    repeats: int
    runs: int
    runs_to_do: int
    processes: int
    processes_to_do: int
    pool_bytes: int
    estimate_s: float | None
    estimate_from: str
    disk_bytes: int
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(
    definition: StudyDefinition,
    output_dir: Path,
    fresh: bool = False,
    topology: Topology | None = None,
    root: Path = Path("/"),
) -> Plan:
    """Raise StudyError for whatever the start of the study would refuse too.

    root: of the files of a recorded host, for which no earlier run counts.
    """
    recorded = root != Path("/")
    own = None if recorded else find(definition, output_dir)
    directory = None if fresh else own
    if directory:
        grid, study = directory.grid(), directory.study()
    else:
        topology = topology or _topology(root)
        here = expand_here(definition, topology, root)
        grid, study = here.grid, here.study
        check_path_length(path_of_new(definition, output_dir), grid)
    order = grid.asked(study.repeats)
    heads: dict[str, list[Head | None]] = {cell.name: [] for cell in grid.cells}
    todo = []
    existing = _run_files(directory)
    for slot in order:
        head = _head(directory, slot, existing) if directory else None
        heads[slot.cell].append(head)
        measured = (head and head.ok) or (directory and _awaits_metrics(directory, slot))
        if not grid.cell(slot.cell).reason and not measured:
            todo.append(slot)
    # A process with any run to do is started again whole.
    todo_processes = [*_processes(todo)]
    cells = {cell.name: cell for cell in grid.cells}
    estimate_s, estimate_from = _estimate(
        cells, todo_processes, _known_times(output_dir, own) if todo and not recorded else {}
    )
    return Plan(
        study=definition.name,
        directory=str(directory.path) if directory else None,
        cells=[_planned(cell, heads[cell.name]) for cell in grid.cells],
        repeats=study.repeats,
        runs=len(order),
        runs_to_do=len(todo),
        processes=len([*_processes(order)]),
        processes_to_do=len(todo_processes),
        pool_bytes=_most_pools(grid),
        estimate_s=estimate_s,
        estimate_from=estimate_from,
        disk_bytes=sum(trace_bytes(cells[slot.cell]) for slot in todo if slot.is_traced),
        notes=[
            *_notes(grid.cells),
            *_rounded_up(definition.settings.repeats, study.repeats),
            *_idle_entries(definition, topology),
            *_notes_on_host(directory.host() if directory else topology),
        ],
    )


def render(plan: Plan) -> str:
    """The plan for a terminal."""
    width = max(len(cell.name) for cell in plan.cells)
    lines = [f"{cell.name:{width}}  {cell.state}{': ' + cell.reason if cell.reason else ''}" for cell in plan.cells]
    states = [cell.state for cell in plan.cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    cells = plural(len(plan.cells), "cell")
    todo = f"{plan.runs} runs, {plan.runs_to_do} to do"
    if plan.processes != plan.runs:
        todo = f"{plan.runs} runs in {plural(plan.processes, 'process', 'processes')}, {plan.processes_to_do} to do"
    lines += ["", f"{plan.study}: {cells} ({counts}), {todo}"]
    if plan.runs_to_do:
        time = "unknown" if plan.estimate_s is None else f"about {duration(plan.estimate_s)}"
        lines += [
            f"time: {time} ({plan.estimate_from})",
            f"disk: about {byte_size(plan.disk_bytes)} of traces while all are kept (retention)",
        ]
        if plan.processes != plan.runs:
            lines.append(f"memory: up to {byte_size(plan.pool_bytes)} of host batches in one process")
    lines += plan.notes
    if plan.directory:
        lines.append(f"continues in {plan.directory}")
    return "\n".join(lines)


def trace_bytes(cell: Cell) -> int:
    """A rough size of the report and the SQLite of one traced pass."""
    batches = cell.num_samples // cell.batch_size
    return int(1e6 + batches * BYTES_PER_ACTIVITY * (ACTIVITIES_PER_BATCH + ACTIVITIES_PER_LAYER * cell.model.depth))


def _idle_entries(definition: StudyDefinition, topology: Topology | None) -> list[str]:
    """If the study has a run directory, its GPUs may be missing now: that is no reason not to plan."""
    if not definition.axes.exclude:
        return []
    try:
        return idle_entries(definition, topology or read_topology())
    except StudyError:
        return []


def _notes(cells: Iterable[Cell]) -> list[str]:
    """What a reader of the names could misunderstand."""
    labels = list(dict.fromkeys(cell.gpu for cell in cells))
    if labels == [0] or any(cell.device != "cpu" for cell in cells):
        return []
    repeated = ": cells that differ in it alone measure the same" if len(labels) > 1 else ""
    return [f"CPU device: the number of a GPU is a label here{repeated}"]


def _topology(root: Path) -> Topology:
    try:
        return read_topology(root)
    except DamagedRecord as error:
        raise StudyError(f"the recorded host cannot be read: {error}", str(root), "nvml.json is optional") from None


def _notes_on_host(topology: Topology | None) -> list[str]:
    """Of the nodes and cores that a study never takes by itself."""
    if topology is None:
        return []
    owners: dict[tuple[int, ...], list[int]] = {}
    for node in topology.nodes:
        if node.gpu_memory:
            owners.setdefault(node.gpu_memory, []).append(node.id)
    notes = [
        f"memory of GPU {format_cpulist(gpus)}: node {format_cpulist(ids)}, used by placements that name it only"
        for gpus, ids in owners.items()
    ]
    if topology.core_kinds:
        kinds = "; ".join(topology.core_kinds)
        notes.append(
            f"{len(topology.core_kinds)} kinds of cores (CPUs {kinds}): runs are bound to the first, the fastest"
        )
    return notes


def _rounded_up(asked: int, repeats: int) -> list[str]:
    if repeats == asked:
        return []
    return [f"repeats: {repeats} in place of {asked}, so that equally many processes start on each node"]


def _most_pools(grid: Grid) -> int:
    processes = {slot.process: grid.process(slot) for slot in grid.order}.values()
    return max(sum(pools_by_node(grid.cell(slot.cell) for slot in own).values()) for own in processes)


def _run_files(directory: RunDirectory | None) -> set[str]:
    """Names in runs/: a look at each of thousands of files takes seconds."""
    folder = directory.path / "runs" if directory else None
    return {entry.name for entry in os.scandir(folder)} if folder and folder.is_dir() else set()


def _head(directory: RunDirectory, slot: Slot, existing: set[str]) -> Head | None:
    if slot.is_traced:
        # A traced run is done when its metrics are.
        metrics = read_head(directory.metrics(slot.cell))
        return metrics if metrics is None or not metrics.ok else read_head(directory.record(slot.cell, TRACED))
    return read_head(directory.record(slot.cell, slot.repeat)) if f"{slot.run}.json" in existing else None


def _awaits_metrics(directory: RunDirectory, slot: Slot) -> bool:
    """Of a traced run that succeeded: its metrics are computed after the last timed run, and need no run."""
    if not slot.is_traced or directory.metrics(slot.cell).exists():
        return False
    head = read_head(directory.record(slot.cell, TRACED))
    return head is not None and head.ok


def _planned(cell: Cell, heads: list[Head | None]) -> PlannedCell:
    bad = [head for head in heads if head and not head.ok]
    failed = next((head for head in bad if head.status is not Outcome.NOT_RUNNABLE), None)
    if cell.reason:
        state, reason = CellState.NOT_RUNNABLE, cell.reason
    elif failed:
        state, reason = CellState.FAILED, f"{failed.status}: {failed.reason}"
    elif bad:
        state, reason = CellState.NOT_RUNNABLE, bad[0].reason
    else:
        state, reason = (CellState.TODO if None in heads else CellState.DONE), ""
    return PlannedCell(
        name=cell.name,
        gpu=cell.gpu,
        cpu_node=cell.cpu_node,
        mem_node=cell.mem_node,
        model=cell.model.name,
        state=state,
        reason=reason,
        runs_done=sum(head is not None and head.ok for head in heads),
        runs=len(heads),
    )


def _known_times(output_dir: Path, own: RunDirectory | None) -> _Times:
    """Wall times of successful runs of this host, by the classes that a run may belong to (see _classes).

    own: this study's run directory, finished or not. Its runs come first, and also give estimates for cells without a
    run of their kind; those of the newest other studies give them for their kind alone.
    """
    others = islice(_of_this_host(output_dir, own), _EARLIER_STUDIES)
    return _collected(others, False) | _collected([own] if own else [], True)


def _collected(directories: Iterable[RunDirectory], own: bool) -> _Times:
    times: _Times = {}
    for directory in directories:
        for cell, mode, wall_s in _walls(directory):
            for one in _classes(cell, mode, own):
                times.setdefault(one, []).append(wall_s)
    return times


def _of_this_host(output_dir: Path, own: RunDirectory | None) -> Iterator[RunDirectory]:
    """The other studies, the newest first."""
    grids = output_dir.resolve().glob("*/*/*/grid.json")
    for grid in sorted(grids, key=lambda path: path.stat().st_mtime, reverse=True):
        directory = RunDirectory(grid.parent)
        try:
            if directory != own and directory.host().host == socket.gethostname():
                yield directory
        except (OSError, StudyError):  # another user's
            continue


def _walls(directory: RunDirectory) -> Iterator[tuple[Cell, Mode, float]]:
    """Of successful runs: cell, mode, seconds of the process."""
    try:
        existing = _run_files(directory)
        cells = directory.grid().cells if existing else ()
    except (OSError, StudyError):  # of another version, or another user's
        return
    for cell in cells:
        for repeat in _TIMED_BY:
            if f"{run_name(cell.name, repeat)}.json" not in existing:
                continue
            head = read_head(directory.record(cell.name, repeat))
            if head and head.ok and head.wall_s:
                mode = Mode.CROSSED if head.crossing else Mode.TRACED if repeat == TRACED else Mode.TIMED
                yield cell, mode, head.wall_s


def _classes(cell: Cell, mode: Mode, own: bool = True) -> list[_Class]:
    """By what the duration of a run is estimated, the closest first: its kind, in the study itself (own) its mode, its
    kind in the other mode, and all runs of the study.

    Cells of one kind take the same time: they are equal but for GPU and nodes. The time of one says nothing about that
    of a process which crosses several, nor the other way round.
    """
    kind = structs.replace(cell, gpu=0, cpu_node=0, mem_node=0).key
    classes: list[_Class] = [(kind, mode), (mode,)]
    if mode is not Mode.CROSSED:
        classes += [(kind,), ()]
    return classes if own else [one for one in classes if kind in one]


def _estimate(cells: dict[str, Cell], todo: list[Slot], times: _Times) -> tuple[float | None, str]:
    """Seconds that these runs may take, or None, and the source of that."""
    means = {one: statistics.fmean(walls) for one, walls in times.items()}
    seconds, source = 0.0, _MEASURED
    expected: dict[tuple[str, Mode], float | None] = {}
    for slot in todo:
        cell = cells[slot.cell]
        mode = Mode.TRACED if slot.is_traced else Mode.CROSSED if slot.birth else Mode.TIMED
        if (slot.cell, mode) not in expected:
            expected[slot.cell, mode] = next((means[one] for one in _classes(cell, mode) if one in means), None)
        known = expected[slot.cell, mode]
        if known is None and cell.device == "cpu":
            return None, _UNKNOWN
        if known is None:
            known, source = _TYPICAL_S[mode], _TYPICAL
        seconds += known
    return round(seconds, 1), source


# Progress of a study that runs

Heads = Mapping[Slot, Head | None]


@dataclass(frozen=True)
class StudyProgress:
    """done of total runs; current_s, rest_s: expected for the current run and for those after it, None if unknown."""

    done: int
    total: int
    current_s: float | None
    rest_s: float | None

    def remaining_s(self, elapsed_s: float) -> float | None:
        """When the current run has run for elapsed_s."""
        if self.current_s is None or self.rest_s is None:
            return None
        return self.rest_s + max(self.current_s - elapsed_s, 0.0)


def study_progress(
    heads: Heads, invocation: str, not_runnable: Iterable[str] = (), current: Collection[Slot] = ()
) -> StudyProgress:
    """How far a study is.

    heads: of its runs, None where there is no record. not_runnable: cells that this host cannot run, whose runs end at
    once. current: the runs of the process in progress; they count as not done.
    """
    done = {slot for slot, head in heads.items() if slot not in current and head and head.is_final(invocation)}
    over = {*not_runnable, *_given_up(heads, invocation)}
    expected_s = _expected(heads, done)
    rest = [slot for slot in heads if slot not in done and slot not in current and slot.cell not in over]
    now_s, rest_s = (_sum([expected_s(one) for one in _processes(slots)]) for slots in (current, rest))
    if now_s is None or rest_s is None:
        now_s = rest_s = None
    return StudyProgress(len(done), len(heads), now_s, rest_s)


def _sum(parts: Iterable[float | None]) -> float | None:
    known = [*parts]
    return None if None in known else sum(part for part in known if part is not None)


def _processes(slots: Iterable[Slot]) -> Iterable[Slot]:
    """One run of each process: the runs of a crossing all have its time."""
    return {slot.process: slot for slot in slots}.values()


def _given_up(heads: Heads, invocation: str) -> set[str]:
    """Cells whose further runs end as the first one did, without being started."""
    return {
        slot.cell for slot, head in heads.items() if head and head.status in LASTING and head.invocation == invocation
    }


def _expected(heads: Heads, done: set[Slot]) -> Callable[[Slot], float | None]:
    """The mean over similar runs: those of its group, else of its mode, else all. None before any run has ended."""
    walls: _Times = {}
    for slot, head in heads.items():
        if head and slot in done and head.ok:
            for one in _slot_classes(slot):
                walls.setdefault(one, []).append(head.wall_s)
    means = {one: statistics.fmean(values) for one, values in walls.items()}
    return lambda slot: next((means[one] for one in _slot_classes(slot) if one in means), None)


def _slot_classes(slot: Slot) -> list[_Class]:
    return [(slot.is_traced, slot.group), (slot.is_traced,), ()]
