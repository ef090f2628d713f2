"""Several GPUs at work at once: what each keeps of its throughput in isolation, and what they transfer together."""

import statistics
from collections.abc import Sequence

from bench.analysis.aggregate import transfer_rates_gb_s
from bench.analysis.pairs import runs_by_block
from bench.analysis.statistics import interval_of
from bench.records.results import AxisComparison, CellRun, Contention, Line, MeasuredCell, Sum, Total

AXIS = "concurrent_gpus"
_CONCURRENCY = (AXIS, "concurrent_load", "concurrent_placement")


def contention(cells: Sequence[MeasuredCell], comparisons: Sequence[AxisComparison]) -> tuple[Contention, ...]:
    """One entry for each cell during which GPUs were busy together, and one for each that these are compared with."""
    # Where an axis changes something else along, the difference would not be due to the concurrent load only.
    to_one = [entry for entry in comparisons if entry.base.get(AXIS) == 1 and set(entry.keys) <= set(_CONCURRENCY)]
    lines = {line.name: line for entry in to_one for line in entry.lines}
    concurrent = [cell for cell in cells if cell.settings.concurrent_gpus > 1]
    isolated = {lines[cell.name].base_cell for cell in concurrent if cell.name in lines}
    shown = [cell for cell in cells if cell.settings.concurrent_gpus > 1 or cell.name in isolated]
    return tuple(_entry(cell, lines.get(cell.name)) for cell in shown)


def _entry(cell: MeasuredCell, line: Line | None) -> Contention:
    settings = cell.settings
    busy = settings.concurrent_gpus
    h2d_gb_s, d2h_gb_s = transfer_rates_gb_s(cell.throughput_samples_s, cell.bytes_per_batch, settings.batch_size)
    return Contention(
        cell=cell.name,
        gpu=cell.gpu,
        cpu_node=cell.cpu_node,
        mem_node=cell.mem_node,
        model=cell.model.name,
        settings={key: value for key, value in cell.differing_settings.items() if key not in _CONCURRENCY},
        busy_gpus=busy,
        load=settings.concurrent_load if busy > 1 else None,
        placement=settings.concurrent_placement if busy > 1 else None,
        throughput_samples_s=cell.throughput_samples_s,
        h2d_gb_s=h2d_gb_s,
        d2h_gb_s=d2h_gb_s,
        isolated=line,
        total=_total(cell),
        peers=cell.peers,
    )


def _total(cell: MeasuredCell) -> Total:
    peers = cell.settings.concurrent_gpus - 1
    sums = [_sums(run, cell) for run in runs_by_block(cell).values() if len(run.peers) >= peers]
    whole = [values for values in sums if None not in values]
    samples_s, h2d_gb_s, d2h_gb_s = ([values[column] for values in whole] for column in range(3))
    return Total(
        runs=len(whole), throughput_samples_s=_mean(samples_s), h2d_gb_s=_mean(h2d_gb_s), d2h_gb_s=_mean(d2h_gb_s)
    )


def _sums(run: CellRun, cell: MeasuredCell) -> tuple[float | None, float | None, float | None]:
    """Throughput and rates (H2D, D2H) of one run over all GPUs; None where one of them gave no figure."""
    own = transfer_rates_gb_s(run.throughput_samples_s, cell.bytes_per_batch, cell.settings.batch_size)
    rows = [(run.throughput_samples_s, *own)]
    rows += [(peer.throughput_samples_s, peer.h2d_gb_s, peer.d2h_gb_s) for peer in run.peers]
    samples_s, h2d_gb_s, d2h_gb_s = zip(*rows, strict=True)
    return _sum(samples_s), _sum(h2d_gb_s), _sum(d2h_gb_s)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> Sum:
    """A direction that is not copied has none."""
    known = [value for value in values if value]
    return Sum(
        value=statistics.geometric_mean(known) if known else None,
        interval=interval_of(known) if len(known) > 1 else None,
    )
