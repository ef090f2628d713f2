"""What a study would do on this host and how long it would take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.records.base import DamagedRecord
from bench.records.host import Topology, format_cpulist
from bench.records.run import Demand, Head, Outcome, read_head, read_record
from bench.records.study import TRACED, Cell, Grid, Slot, Study
from bench.study.budget import AROUND_S, expand_in_time, left_out_text
from bench.study.comparable import incomparable, without_placements
from bench.study.crossing import not_crossed, pools_by_node, settings_between
from bench.study.device_memory import device_bytes
from bench.study.directory import RunDirectory, check_path_length, find, path_of_new
from bench.study.duration import (
    Earlier,
    Estimate,
    Rate,
    earlier_runs,
    estimated,
    measured_rate,
    processes,
    run_files,
)
from bench.study.grid import expand_here, idle_entries
from bench.study.load import StudyDefinition
from bench.study.on_demand import Further, further_repeats, why_further
from bench.units import byte_size, duration, plural

# Bytes in a report and its SQLite for one activity, of the fixtures: 120 in the report, 450 in the SQLite.
BYTES_PER_ACTIVITY = 600
ACTIVITIES_PER_LAYER = 30
ACTIVITIES_PER_BATCH = 16
# A longer study of the cpu device is mostly a mistake: it starts only with --long.
LONGEST_ON_CPU_S = 2 * 3600.0
_STARTS_WITH_LONG = f"longer than {duration(LONGEST_ON_CPU_S)} on the cpu device: luigi starts it with --long only"
_MOST_REASONS = 5
_UNKNOWN = "no earlier run of the kind on this host"


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

    pool_bytes: of host batches in the process that has most; device_bytes: of GPU memory, as estimated, or None.

    further_runs: timed ones that data may demand beyond these, as expected and at most; further_reasons: why.
    estimate_s: for what is to do, with the further runs that are expected; at_most_s: with all of them; None if
    unknown. estimate_from: its source, or why it is unknown. needs_long: it starts with the option --long only.
    refused: why it does not start on this host, "" if it does. too_long: cells of which one run may need more than
    its timeout.
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
    device_bytes: int | None
    further_runs: tuple[float, int]
    further_reasons: list[str]
    estimate_s: float | None
    at_most_s: float | None
    estimate_from: str
    needs_long: bool
    too_long: list[str]
    disk_bytes: int
    refused: str
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(
    definition: StudyDefinition,
    output_dir: Path,
    fresh: bool = False,
    topology: Topology | None = None,
    root: Path = Path("/"),
    rate: Rate | None = None,
) -> Plan:
    """Raise StudyError for whatever the start of the study would refuse too.

    root: of the files of a recorded host, for which no earlier run counts. rate: operations per second of the CPUs;
    measured if it is not given.
    """
    recorded = root != Path("/")
    own = None if recorded else find(definition, output_dir)
    directory = None if fresh else own
    refused = None
    if directory:
        grid, study = directory.grid(), directory.study()
    else:
        topology = topology or _topology(root)
        here = expand_in_time(definition, topology, output_dir, root, rate)
        grid, study = here.grid, here.study
        # Of the whole study, as its start judges it, whatever a budget leaves of it.
        whole = expand_here(definition, topology, root).grid if study.left_out else grid
        refused = incomparable(definition, whole, topology)
        check_path_length(path_of_new(definition, output_dir), grid)
    demand = read_record(directory.demand, Demand) if directory else None
    demanded = demand.repeats if demand else {}
    order = [slot for slot in grid.order if _is_asked(slot, study.repeats, demanded)]
    host = directory.host() if directory else topology
    heads: dict[str, list[Head | None]] = {cell.name: [] for cell in grid.cells}
    todo = []
    existing = run_files(directory)
    for slot in order:
        head = _head(directory, slot, existing) if directory else None
        heads[slot.cell].append(head)
        measured = (head and head.ok) or (directory and _awaits_metrics(directory, slot))
        if not grid.cell(slot.cell).reason and not measured:
            todo.append(slot)
    # A process with any run to do is started again whole.
    todo_processes = [*processes(todo)]
    earlier = earlier_runs(output_dir, own) if todo and not recorded else Earlier({})
    further = _further(grid, study, earlier.disturbed_share, demanded) if todo else {}
    found = estimated(grid, [*todo, *further], earlier, None if recorded else rate or measured_rate)
    estimate_s, at_most_s = _times(todo, further, found)
    needs_long = bool(topology and _is_long(study, topology, estimate_s))
    return Plan(
        study=definition.name,
        directory=str(directory.path) if directory else None,
        cells=[_planned(cell, heads[cell.name]) for cell in grid.cells],
        repeats=study.repeats,
        runs=len(order),
        runs_to_do=len(todo),
        processes=len([*processes(order)]),
        processes_to_do=len(todo_processes),
        pool_bytes=max(sum(pools_by_node(own).values()) for own in _by_process(grid)),
        device_bytes=max(filter(None, map(device_bytes, _by_process(grid))), default=None),
        further_runs=(
            round(sum(one.expected for one in further.values()), 1),
            sum(one.most for one in further.values()),
        ),
        further_reasons=why_further(grid, study) if further else [],
        estimate_s=estimate_s,
        at_most_s=at_most_s,
        estimate_from=found.source if found else _UNKNOWN,
        needs_long=needs_long,
        too_long=[*found.too_long] if found else [],
        disk_bytes=sum(trace_bytes(grid.cell(slot.cell)) for slot in todo if slot.is_traced),
        refused=_to_do(refused) if refused else "",
        notes=[
            *(_one_placement(definition, grid, host) if host and not refused else []),
            *_notes(grid.cells),
            *([_STARTS_WITH_LONG] if needs_long else []),
            *_too_long(found),
            *filter(None, [left_out_text(study)]),
            *_over_budget(study, estimate_s),
            *_rounded_up(definition, study),
            *_idle_entries(definition, topology),
            *(_crossings(grid, host) if host and definition.settings.design != "processes" else []),
            *_notes_on_host(host),
        ],
    )


def render(plan: Plan, cells_too: bool = False) -> str:
    """The plan for a terminal: what it comes to and, if asked for, every cell after it."""
    lines = _summary(plan)
    if cells_too:
        width = max(len(cell.name) for cell in plan.cells)
        rows = [f"{cell.name:{width}}  {cell.state}{': ' + cell.reason if cell.reason else ''}" for cell in plan.cells]
        lines += ["", *rows]
    return "\n".join(lines)


def _summary(plan: Plan) -> list[str]:
    states = [cell.state for cell in plan.cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    cells = plural(len(plan.cells), "cell")
    todo = f"{plan.runs} runs, {plan.runs_to_do} to do"
    if plan.processes != plan.runs:
        todo = f"{plan.runs} runs in {plural(plan.processes, 'process', 'processes')}, {plan.processes_to_do} to do"
    lines = [f"{plan.study}: {cells} ({counts}), {todo}", *_reasons(plan)]
    if plan.refused:
        lines.append(f"does not start: {plan.refused}")
    if plan.runs_to_do:
        lines += [
            f"time: {_time_text(plan)} ({plan.estimate_from})",
            *_further_text(plan),
        ]
        if plan.disk_bytes:
            lines.append(f"disk: about {byte_size(plan.disk_bytes)} of traces while all are kept (retention)")
        if plan.processes != plan.runs:
            on_gpu = f", about {byte_size(plan.device_bytes)} on the GPU" if plan.device_bytes else ""
            lines.append(f"memory: up to {byte_size(plan.pool_bytes)} of host batches in one process{on_gpu}")
    lines += plan.notes
    if plan.directory:
        lines.append(f"continues in {plan.directory}")
    return lines


def _reasons(plan: Plan) -> list[str]:
    """Why cells failed or cannot run here, a line for each reason with the first cell that has it."""
    first: dict[tuple[CellState, str], list[str]] = {}
    for cell in plan.cells:
        if cell.reason:
            first.setdefault((cell.state, cell.reason), []).append(cell.name)
    lines = [f"{state}: {reason} ({names[0]}{_more(len(names) - 1)})" for (state, reason), names in first.items()]
    left = len(lines) - _MOST_REASONS
    return [*lines[:_MOST_REASONS], *([f"and {plural(left, 'more reason')}"] if left > 0 else [])]


def _more(count: int) -> str:
    return f" and {plural(count, 'more cell')}" if count else ""


def _time_text(plan: Plan) -> str:
    if plan.estimate_s is None or plan.at_most_s is None:
        return "unknown"
    expected, most = duration(plan.estimate_s), duration(plan.at_most_s)
    return f"about {expected}" if most == expected else f"about {expected}, at most {most} with all runs on demand"


def _further_text(plan: Plan) -> list[str]:
    expected, most = plan.further_runs
    if not most:
        return []
    reasons = "; ".join(plan.further_reasons)
    return [f"on demand: {round(expected)} more runs expected, at most {most}: {reasons}"]


def trace_bytes(cell: Cell) -> int:
    """A rough size of the report and the SQLite of one traced pass."""
    batches = cell.num_samples // cell.batch_size
    # How deep a model from elsewhere is, only its run knows.
    layers = 24 if cell.model.source else cell.model.depth
    return int(1e6 + batches * BYTES_PER_ACTIVITY * (ACTIVITIES_PER_BATCH + ACTIVITIES_PER_LAYER * layers))


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


def _is_long(study: Study, topology: Topology, estimate_s: float | None) -> bool:
    on_gpu_host = topology.gpus or topology.silent_gpus
    return study.device == "cpu" and not on_gpu_host and (estimate_s or 0.0) > LONGEST_ON_CPU_S


def _one_placement(definition: StudyDefinition, grid: Grid, host: Topology) -> list[str]:
    """Of a study that compares something else too, or that was begun."""
    error = without_placements(definition, grid, host)
    return [_to_do(error)] if error else []


def _to_do(error: StudyError) -> str:
    """Without where: the advice, which has a command, on a line of its own."""
    return str(StudyError(error.what, advice=error.advice))


def _too_long(found: Estimate | None) -> list[str]:
    if not found or not found.too_long:
        return []
    cells = plural(len(found.too_long), "cell")
    return [f"{cells} may need longer than timeout_s for one run on these CPUs: {', '.join(found.too_long[:3])}"]


def _is_asked(slot: Slot, repeats: int, demanded: Mapping[str, int]) -> bool:
    return slot.repeat == TRACED or int(slot.repeat) <= max(repeats, demanded.get(slot.cell, 0))


def _further(grid: Grid, study: Study, disturbed_share: float, demanded: Mapping[str, int]) -> dict[Slot, Further]:
    """By the first run of each cell that may need more repeats than are demanded so far."""
    found = {}
    for cell, more in further_repeats(grid, study, disturbed_share).items():
        left = more.beyond(demanded.get(cell, study.repeats) - study.repeats)
        if left.most:
            found[grid.slot(cell, 1)] = left
    return found


def _times(
    todo: Sequence[Slot], further: Mapping[Slot, Further], found: Estimate | None
) -> tuple[float | None, float | None]:
    """Seconds with the runs on demand that are expected, and with all of them."""
    if found is None:
        return None, None
    asked_s = found.sum_s(todo)
    expected_s = most_s = 0.0
    for slot in processes(further):
        if slot.cell not in found.too_long:
            expected_s += further[slot].expected * found.seconds[slot]
            most_s += further[slot].most * found.seconds[slot]
    return round(asked_s + expected_s, 1), round(asked_s + most_s, 1)


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


def _over_budget(study: Study, estimate_s: float | None) -> list[str]:
    if not study.budget or (estimate_s is not None and estimate_s + AROUND_S <= study.budget):
        return []
    if estimate_s is None:
        return [f"budget of {duration(study.budget)}: not applied, since the time is unknown"]
    return [f"longer than the budget of {duration(study.budget)}: less would decide nothing"]


def _rounded_up(definition: StudyDefinition, study: Study) -> list[str]:
    asked = definition.settings.repeats
    if study.repeats <= asked:
        return []
    return [f"repeats: {study.repeats} in place of {asked}, so that equally many processes start on each node"]


def _crossings(grid: Grid, host: Topology) -> list[str]:
    return [*settings_between(grid, host), *not_crossed(grid, host)]


def _by_process(grid: Grid) -> list[list[Cell]]:
    """The cells that each process measures, without those that cannot run here."""
    by_process = {slot.process: grid.process(slot) for slot in grid.order}.values()
    found = ([grid.cell(slot.cell) for slot in own] for own in by_process)
    return [[cell for cell in own if not cell.reason] for own in found]


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
