"""How long the runs of a study may take: as earlier runs on this host, as typical ones, or by what they compute."""

import math
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from msgspec import structs

from bench.errors import StudyError
from bench.records.run import LEAD_S, MEASURE_S, WINDOW_S, Mode, RunHead, read_head
from bench.records.study import TRACED, Cell, Grid, Model, Slot, run_name
from bench.storage import real
from bench.study.directory import RunDirectory
from bench.workload.turns import planned_rounds

# For a host with GPUs and no earlier run of the kind: whole processes on an H100 host took about this long, crossed
# ones on an H200.
TIMED_RUN_S = 11.0
TRACED_RUN_S = 18.0
# The mean of six models: 4 to 11 s, 21 s with the stages of a slow model in isolation.
CROSSED_PROCESS_S = 7.0
TYPICAL_S = {Mode.TIMED: TIMED_RUN_S, Mode.TRACED: TRACED_RUN_S, Mode.CROSSED: CROSSED_PROCESS_S}
# The runs of an earlier study that are read for their time: reading thousands of cells takes too long.
_TIMED_BY = (1, 2, TRACED)
_EARLIER_STUDIES = 5
MEASURED = "earlier runs on this host"
TYPICAL = "typical times of an H100 host (of an H200 in crossings), where this host has no earlier run of the kind"
BY_OPERATIONS = "by floating-point operations, where this host has no earlier run of the kind"

# On the cpu device. A process imports torch and makes its pool; the rest of a run is the model, which gets a part of
# the rate of large matrix products.
CPU_PROCESS_S = 8.0
CPU_WARMUP_S = 2.0
CPU_EFFICIENCY = 0.5
# No CPU of a server made since 2010 is slower.
SLOWEST_CPU_FLOPS = 2e9
_RATE_SIZE = 1024
_RATE_S = 0.1

# A class of runs of about equal duration, and the wall times of such runs.
RunClass = tuple[str | bool, ...]
Rate = Callable[[], float]


@dataclass(frozen=True)
class Earlier:
    """What earlier runs of this host took, by class; and how many of the timed ones were disturbed."""

    walls: Mapping[RunClass, Sequence[float]]
    timed: int = 0
    disturbed: int = 0

    @property
    def disturbed_share(self) -> float:
        return self.disturbed / self.timed if self.timed else 0.0


@dataclass(frozen=True)
class Estimate:
    """seconds by slot; source: where they are from. too_long: cells whose runs would end by their timeout."""

    seconds: Mapping[Slot, float]
    source: str
    too_long: tuple[str, ...]

    def sum_s(self, slots: Iterable[Slot]) -> float:
        """One run of each process is counted. A cell that ends by its timeout has one timed run: the others end
        alike, and are not started."""
        tried: set[str] = set()
        total_s = 0.0
        for slot in processes(slots):
            late = slot.cell in self.too_long and not slot.is_traced
            if not (late and slot.cell in tried):
                total_s += self.seconds[slot]
            tried |= {slot.cell} if late else set()
        return total_s


def processes(slots: Iterable[Slot]) -> Iterable[Slot]:
    """One run of each process: the runs of a crossing all have its time."""
    return {slot.process: slot for slot in slots}.values()


def estimated(grid: Grid, slots: Iterable[Slot], earlier: Earlier, rate: Rate | None) -> Estimate | None:
    """For each of these runs. rate: operations per second of the CPUs, called only if needed. None if that is needed
    and unknown; also without an earlier run of a command, or on the cpu device of a model whose operations are unknown.
    """
    means = {one: statistics.fmean(walls) for one, walls in earlier.walls.items()}
    source = MEASURED
    by_kind: dict[tuple[str, Mode], float] = {}
    seconds: dict[Slot, float] = {}
    too_long: dict[str, None] = {}
    flops = 0.0
    for slot in slots:
        cell = grid.cell(slot.cell)
        mode = Mode.TRACED if slot.is_traced else Mode.CROSSED if slot.birth else Mode.TIMED
        key = slot.cell, mode
        if key not in by_kind:
            known = next((means[one] for one in run_classes(cell, mode) if one in means), None)
            if known is None and cell.model.command:
                return None
            if known is None and cell.device == "cpu":
                if rate is None or cell.model.source:
                    return None
                flops = flops or rate()
                cells = [grid.cell(one.cell) for one in grid.process(slot)]
                known, source = cpu_process_s(cells, mode, flops), BY_OPERATIONS
                if known > cell.timeout_s:
                    known = cell.timeout_s
                    too_long[slot.cell] = None
            elif known is None:
                known, source = _typical_s(mode, len(grid.process(slot))), TYPICAL
            by_kind[key] = known
        seconds[slot] = by_kind[key]
    return Estimate(seconds, source, tuple(too_long))


def _typical_s(mode: Mode, cells: int) -> float:
    """More sides than two have as many more turns; a traced process more captures, which is not counted."""
    return TYPICAL_S[mode] + (_turns_s(max(2, cells)) - _turns_s(2) if mode is Mode.CROSSED else 0.0)


def _turns_s(sides: int) -> float:
    """Of the rounds of fast models, where noise asks for no more."""
    round_s = 2 * sides * (WINDOW_S + LEAD_S)
    return planned_rounds(sides, MEASURE_S, round_s) * round_s


# From what earlier runs took


def run_classes(cell: Cell, mode: Mode, own: bool = True) -> list[RunClass]:
    """By what the duration of a run is estimated, the closest first: its kind, in the study itself (own) its mode, its
    kind in the other mode, and all runs of the study.

    Cells of one kind take the same time: they are equal but for GPU and nodes. The time of one says nothing about that
    of a process which crosses several, nor the other way round.
    """
    kind = structs.replace(cell, gpu=0, cpu_node=0, mem_node=0).key
    classes: list[RunClass] = [(kind, mode), (mode,)]
    if mode is not Mode.CROSSED:
        classes += [(kind,), ()]
    return classes if own else [one for one in classes if kind in one]


def earlier_runs(output_dir: Path, own: RunDirectory | None) -> Earlier:
    """Successful runs of this host, by the classes that a run may belong to (see run_classes).

    own: this study's run directory, finished or not. Its runs come first, and also give estimates for cells without a
    run of their kind; those of the newest other studies give them for their kind alone.
    """
    others = _collected(islice(_of_this_host(output_dir, own), _EARLIER_STUDIES), False)
    mine = _collected([own] if own else [], True)
    return Earlier({**others.walls, **mine.walls}, others.timed + mine.timed, others.disturbed + mine.disturbed)


def _collected(directories: Iterable[RunDirectory], own: bool) -> Earlier:
    walls: dict[RunClass, list[float]] = {}
    timed = disturbed = 0
    for directory in directories:
        for cell, mode, head in _ended(directory):
            timed += mode is not Mode.TRACED
            disturbed += mode is not Mode.TRACED and head.disturbed
            for one in run_classes(cell, mode, own):
                walls.setdefault(one, []).append(head.wall_s)
    return Earlier(walls, timed, disturbed)


def _of_this_host(output_dir: Path, own: RunDirectory | None) -> Iterator[RunDirectory]:
    """The other studies, the newest first."""
    grids = real(output_dir).glob("*/*/*/grid.json")
    for grid in sorted(grids, key=lambda path: path.stat().st_mtime, reverse=True):
        directory = RunDirectory(grid.parent)
        try:
            if directory != own and directory.host().host == socket.gethostname():
                yield directory
        except (OSError, StudyError):  # another user's
            continue


def _ended(directory: RunDirectory) -> Iterator[tuple[Cell, Mode, RunHead]]:
    """Successful runs."""
    try:
        existing = run_files(directory)
        cells = directory.grid().cells if existing else ()
    except (OSError, StudyError):  # of another version, or another user's
        return
    for cell in cells:
        for repeat in _TIMED_BY:
            if f"{run_name(cell.name, repeat)}.json" not in existing:
                continue
            head = read_head(directory.record(cell.name, repeat))
            if head and head.ok and head.wall_s:
                mode = Mode.TRACED if repeat == TRACED else Mode.CROSSED if head.crossing else Mode.TIMED
                yield cell, mode, head


def run_files(directory: RunDirectory | None) -> set[str]:
    """Names in runs/: a look at each of thousands of files takes seconds."""
    folder = directory.path / "runs" if directory else None
    return {entry.name for entry in os.scandir(folder)} if folder and folder.is_dir() else set()


# From what the model computes, on the cpu device


def cpu_process_s(cells: Iterable[Cell], mode: Mode, flops: float) -> float:
    """About how long a process of these cells takes on CPUs of `flops` operations per second, its timeout aside."""
    return CPU_PROCESS_S + sum(_computing_s(cell, mode, CPU_EFFICIENCY * flops) for cell in cells)


def _computing_s(cell: Cell, mode: Mode, flops: float) -> float:
    """Copies are left out: a model of any size takes longer. A window is taken as a whole pass, as noise makes it."""
    batch_s = forward_flops(cell.model, cell.image_size) * cell.batch_size / flops
    warmup_s = max(CPU_WARMUP_S, -(-cell.warmup_samples // cell.batch_size) * batch_s)
    pass_s = cell.batches_per_pass * batch_s
    return warmup_s + (pass_s if mode is Mode.TRACED else cell.windows * max(cell.window_s, pass_s))


def forward_flops(model: Model, image_size: int) -> int:
    """Floating-point operations of one sample's forward pass; a multiply-add counts as two.

    Of a ViT with n tokens (patches + 1) of width d, mlp 4 d: patch embedding 2 (n - 1) 3 p^2 d; per layer 24 n d^2 for
    the four projections and the mlp, 4 n^2 d for the two attention products. Norms, softmax and activations are left
    out (below 1 % from d = 256 up).
    """
    if not model.depth:
        return 0
    patches = (image_size // model.patch_size) ** 2
    tokens = patches + 1
    per_layer = 24 * tokens * model.dim**2 + 4 * tokens**2 * model.dim
    return 2 * patches * 3 * model.patch_size**2 * model.dim + model.depth * per_layer


def slowest_rate() -> float:
    """Operations per second that the CPUs of any host exceed."""
    return SLOWEST_CPU_FLOPS * len(os.sched_getaffinity(0))


def measured_rate() -> float:
    """Operations per second of this process's CPUs: the best product of two float32 matrices in 0.1 s."""
    import numpy as np

    matrix = np.ones((_RATE_SIZE, _RATE_SIZE), np.float32)
    best_s, end = math.inf, time.perf_counter() + _RATE_S
    while best_s == math.inf or time.perf_counter() < end:
        start = time.perf_counter()
        matrix @ matrix
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * _RATE_SIZE**3 / best_s
