"""The sides of a crossing: of each its work, its rings, its part of the one pipeline, and what was measured of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.host.certificate import Certifier
from bench.host.numa_maps import resident_bytes
from bench.records.run import CrossedCell, Failure, Result, Window
from bench.records.study import Cell
from bench.records.where import MemoryKind
from bench.workload.crossed_rings import Allocating, crossed_rings
from bench.workload.crossed_work import crossed_work
from bench.workload.devices import Device
from bench.workload.failures import RunFailure
from bench.workload.host_memory import Rings
from bench.workload.measure import WarmedUp
from bench.workload.pipeline import Pipeline, Side, Work
from bench.workload.progress import PhaseTimes


@dataclass(eq=False)
class CrossedSide:
    """A cell of the group in this process. failure: why it is not measured, or no longer."""

    cell: Cell
    cpus: frozenset[int]
    work: Work | None = None
    rings: Rings | None = None
    part: Side | None = None
    failure: Failure | None = None
    certifier: Certifier | None = None
    warmed: WarmedUp | None = None
    windows: list[Window] = field(default_factory=list)
    latencies_us: list[float] = field(default_factory=list)
    result: Result | None = None


def usable(sides: Sequence[CrossedSide]) -> list[CrossedSide]:
    """Raise RunFailure if none is left: with the first side's reason for the process, and its own for each."""
    able = [side for side in sides if not side.failure]
    if not able:
        crossed = [CrossedCell(cell=side.cell.name, failure=side.failure) for side in sides]
        failure = next(side.failure for side in sides if side.failure)
        raise RunFailure(failure.status, failure.reason, failure.advice, crossed)
    return able


def equip(
    sides: Sequence[CrossedSide], device: Device, phases: PhaseTimes, allocating: Allocating
) -> tuple[Pipeline, dict[MemoryKind, dict[int, int]]]:
    """Make the work, the rings and the part of each side. Return the pipeline, and what was resident before the rings.

    sides: in the order of allocation. What a side cannot have is its failure alone; raise RunFailure if none is left.
    allocating: as of crossed_rings.
    """
    for side, work in zip(sides, crossed_work([side.cell for side in sides], device, phases), strict=True):
        if isinstance(work, RunFailure):
            side.failure = work.record()
        else:
            side.work = work
    # Before the rings, which are where their side wants them.
    born_bytes = resident_bytes()
    able = usable(sides)
    subjects = [side.work.subject for side in able if side.work]
    found = crossed_rings([side.cell for side in able], device, subjects, allocating)
    for side, rings in zip(able, found, strict=True):
        if isinstance(rings, RunFailure):
            side.failure = rings.record()
        else:
            side.rings = rings
    able = usable(sides)
    base = able[0]
    assert base.work and base.rings
    pipeline = Pipeline(device, base.work.subject, base.rings, base.work.slots, base.work.forward)
    for side in able:
        assert side.work and side.rings
        side.part = pipeline.side(side.work, side.rings, side.cell.copy_granularity == "sample")
    device.synchronize()
    phases.mark("buffers")
    return pipeline, born_bytes
