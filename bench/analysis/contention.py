"""Several GPUs at work at once: what each keeps of its throughput in isolation, and what they transfer together."""

import statistics
from collections.abc import Iterable, Sequence

from bench.analysis.pairs import runs_by_block
from bench.analysis.statistics import interval_of
from bench.records.metric import slowest_over_median
from bench.records.results import (
    AxisComparison,
    CellRun,
    Contention,
    Line,
    MeasuredCell,
    PeerMeans,
    PeerRates,
    Sum,
    Total,
    TransferBytes,
)
from bench.records.run import Peer, Result, Run

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
    alike = peers and cell.settings.concurrent_load == "pipeline"
    slowest = [_straggler(run) for run in runs_by_block(cell).values() if alike and len(run.peers) >= peers]
    samples_s, h2d_gb_s, d2h_gb_s = ([values[column] for values in whole] for column in range(3))
    return Total(
        runs=len(whole),
        throughput_samples_s=_mean(samples_s),
        h2d_gb_s=_mean(h2d_gb_s),
        d2h_gb_s=_mean(d2h_gb_s),
        straggler=_mean(slowest) if any(slowest) else None,
    )


def _straggler(run: CellRun) -> float | None:
    """The slowest GPU's time per batch over the median one's; None where one of them gave no figure."""
    rates = [run.throughput_samples_s, *(peer.throughput_samples_s for peer in run.peers)]
    return slowest_over_median([1 / rate for rate in rates if rate]) if all(rates) else None


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


def transfer_rates_gb_s(
    samples_s: float | None, moved: TransferBytes | None, batch_size: int
) -> tuple[float | None, float | None]:
    """(H2D, D2H) of a pipeline at this throughput, GB = 1e9 bytes; None where that is not known."""
    if not samples_s or moved is None:
        return None, None
    return samples_s / batch_size * moved.h2d / 1e9, samples_s / batch_size * moved.d2h / 1e9


def peers_of_cell(runs: Iterable[Run], batch_size: int) -> tuple[PeerMeans, ...]:
    """The other GPUs over the timed runs of a cell, by GPU. Peers have the batch size of the measured cell."""
    by_gpu: dict[int, list[PeerRates]] = {}
    for run in runs:
        for peer in run.peers:
            by_gpu.setdefault(peer.gpu, []).append(peer_rates(peer, batch_size))
    return tuple(_peer_means(peers) for _, peers in sorted(by_gpu.items()))


def _peer_means(peers: list[PeerRates]) -> PeerMeans:
    good = [peer for peer in peers if peer.throughput_samples_s]
    return PeerMeans(
        gpu=peers[0].gpu,
        cpu_node=peers[0].cpu_node,
        mem_node=peers[0].mem_node,
        runs=len(good),
        failed=len(peers) - len(good),
        throughput_samples_s=_geometric_mean(peer.throughput_samples_s for peer in good),
        h2d_gb_s=_geometric_mean(peer.h2d_gb_s for peer in good),
        d2h_gb_s=_geometric_mean(peer.d2h_gb_s for peer in good),
    )


def peer_rates(peer: Peer, batch_size: int) -> PeerRates:
    result = peer.result
    samples_s = result.throughput_samples_s if result else None
    h2d_gb_s, d2h_gb_s = transfer_rates_gb_s(samples_s, bytes_per_batch(result) if result else None, batch_size)
    return PeerRates(
        gpu=peer.gpu,
        cpu_node=peer.cpu_node,
        mem_node=peer.mem_node,
        status=peer.status,
        throughput_samples_s=samples_s,
        h2d_gb_s=h2d_gb_s,
        d2h_gb_s=d2h_gb_s,
        placement=result.certificate.verdict if result and result.certificate else None,
    )


def bytes_per_batch(result: Result) -> TransferBytes | None:
    """Bytes on the link for a batch, as the run counted them."""
    if result.bytes_in_per_batch is None or result.bytes_out_per_batch is None:
        return None
    return TransferBytes(h2d=result.bytes_in_per_batch, d2h=result.bytes_out_per_batch)


def _geometric_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.geometric_mean(known) if known else None
