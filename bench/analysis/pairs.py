"""Which runs are compared with which, and which node is the local one."""

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from scipy.special import stdtr

from bench.analysis.crossing import counted_runs, crossed_sample, process_values
from bench.analysis.statistics import Comparison, Estimate, Floats, Sample, estimate, paired
from bench.records.host import Probe, Topology
from bench.records.results import CellRun, LocalSource, MeasuredCell, NoiseClass, Rules, Values
from bench.records.run import Outcome
from bench.records.study import OPTIONAL_IN_KEY, Design, Settings

Kind = TypeVar("Kind")
# They identify the configuration of a comparison for the reader.
COMPARISON_SETTINGS = (
    *("batch_size", "image_size", "dtype", "compile_model", "cuda_graph", "buffers", "device", "memory_size_mb"),
    *OPTIONAL_IN_KEY,
)


@dataclass(frozen=True)
class LocalNode:
    node: int
    source: LocalSource


def runs_by_block(cell: MeasuredCell) -> dict[int, CellRun]:
    """The timed runs of a cell that succeeded, by block. Of a block measured again the last one counts."""
    timed = [run for run in cell.runs if run.repeat != "traced"]
    runs = [run for run in timed if run.status is Outcome.OK and run.rate]
    runs.sort(key=lambda run: run.position or 0)
    return {_block(run): run for run in runs}


@dataclass(frozen=True)
class Compared:
    """Two cells. sample: None where no block, or no process, has both; excluded: pairs left out as disturbed."""

    sample: Sample | None
    excluded: int
    design: Design


def compared(label: str, local: MeasuredCell, remote: MeasuredCell) -> Compared:
    """Inside the processes that measured both by turns, where there are any; else run against run of one block.

    No process of a crossing is left out because it was disturbed: both sides had that alike.
    """
    if values := process_values(local, remote):
        return Compared(crossed_sample(label, class_of(local, remote), values), 0, "crossing")
    pairs, excluded = comparison(label, local, remote)
    measured = pairs.local_runs.keys() & pairs.remote_runs.keys()
    return Compared(paired(pairs) if measured else None, excluded, "processes")


def estimated(samples: Sequence[Sample | None], rules: Rules) -> list[Estimate | None]:
    """None where nothing was measured."""
    found = iter(estimate([sample for sample in samples if sample], rules.confidence, rules.margin))
    return [next(found) if sample else None for sample in samples]


def comparison(label: str, local: MeasuredCell, remote: MeasuredCell) -> tuple[Comparison, int]:
    """The pairs of two cells, and how many were excluded because one of the two runs was disturbed.

    Whether a run was disturbed comes from its monitor, never from its throughput. Where fewer than two undisturbed
    pairs remain all are used: the report marks them anyway.
    """
    sides = runs_by_block(local), runs_by_block(remote)
    blocks, counted = sides[0].keys() & sides[1].keys(), _counted_blocks(*sides)
    rates = [{block: _rate(side[block]) for block in counted} for side in sides]
    return Comparison(label, class_of(local, remote), *rates), len(blocks) - len(counted)


def counted_pairs(local: MeasuredCell, remote: MeasuredCell) -> list[tuple[CellRun, CellRun]]:
    """The runs that `compared` compares: of the same process, where any measured both, else of the same block."""
    sides = runs_by_block(local), runs_by_block(remote)
    if process_values(local, remote):
        ours, theirs = ({run.crossing.id: run for run in side.values() if run.crossing} for side in sides)
        return [(run, theirs[known]) for known, run in ours.items() if known in theirs]
    return [(sides[0][block], sides[1][block]) for block in _counted_blocks(*sides)]


def _counted_blocks(local: Mapping[int, CellRun], remote: Mapping[int, CellRun]) -> list[int]:
    """Those that both have, without the disturbed ones unless that leaves fewer than two."""
    blocks = sorted(local.keys() & remote.keys())
    undisturbed = [block for block in blocks if not (local[block].disturbed or remote[block].disturbed)]
    return undisturbed if len(undisturbed) > 1 else blocks


def class_of(*cells: MeasuredCell) -> NoiseClass:
    """Of a comparison: that of its noisier cell."""
    known = {cell.noise_class for cell in cells}
    noisier = (NoiseClass.LAUNCH_BOUND, NoiseClass.UNKNOWN)
    return next((name for name in noisier if name in known), NoiseClass.DEVICE_BOUND)


def identity(cell: MeasuredCell, ignore: Iterable[str] = ()) -> Hashable:
    """What must be equal for two cells to differ only in node (and in the settings to ignore).

    Of duplicates, the second is compared with the second one of another node: see MeasuredCell.occurrence.
    """
    ignored = {key: getattr(Settings(), key) for key in ignore}
    return cell.gpu, cell.model, msgspec.structs.replace(cell.settings, **ignored)


def number_duplicates(cells: Iterable[Kind], key: Callable[[Kind], Hashable]) -> list[int]:
    """By cell, how many before it have the same key."""
    seen: dict[Hashable, int] = {}
    numbers = []
    for cell in cells:
        same = key(cell)
        numbers.append(seen.get(same, 0))
        seen[same] = numbers[-1] + 1
    return numbers


def comparison_settings(cell: MeasuredCell) -> Values:
    return {key: getattr(cell.settings, key) for key in COMPARISON_SETTINGS}


def runs_that_count(cell: MeasuredCell) -> list[CellRun]:
    """Without the disturbed ones unless that leaves fewer than two; of a crossed cell see crossing.counted_runs."""
    runs = list(runs_by_block(cell).values())
    if any(run.crossing for run in runs):
        return counted_runs(runs, cell.cpu_node)
    return exclude_disturbed(runs, lambda run: run.disturbed)


def runs_between(cells: Sequence[MeasuredCell]) -> list[list[CellRun]]:
    """The runs of one cell in each of several studies that are compared: those that count, or of crossings all of them,
    where the processes of each study started on the same nodes equally often: what a start decides is in all alike."""
    births = [Counter(run.crossing and run.crossing.birth_cpu_node for run in _crossed(cell)) for cell in cells]
    if births[0] and all(own == births[0] for own in births):
        return [_crossed(cell) for cell in cells]
    return [runs_that_count(cell) for cell in cells]


def _crossed(cell: MeasuredCell) -> list[CellRun]:
    return [run for run in runs_by_block(cell).values() if run.crossing]


def throughputs(cell: MeasuredCell) -> Mapping[int, float]:
    """Samples/s by block of the runs that count."""
    return {_block(run): _rate(run) for run in runs_that_count(cell)}


def undisturbed_throughput(cell: MeasuredCell) -> float | None:
    """Samples/s, the median of the undisturbed runs (of all, if fewer than two are undisturbed).

    A night is one value: a single run that went wrong should not make it an outlier.
    """
    rates = list(throughputs(cell).values())
    return statistics.median(rates) if rates else None


def exclude_disturbed(runs: list[Kind], was_disturbed: Callable[[Kind], bool]) -> list[Kind]:
    """The runs that count in the figures of a cell: without the disturbed ones, unless that leaves fewer than two."""
    undisturbed = [run for run in runs if not was_disturbed(run)]
    return undisturbed if len(undisturbed) > 1 else runs


def local_nodes(cells: Sequence[MeasuredCell], topology: Topology, probe: Probe | None = None) -> dict[int, LocalNode]:
    """The local node of each GPU that has cells: reported by the topology, else measured, else the lowest.

    Measured: nearest by small-copy latency (probe), else the fastest beyond chance in the odd blocks. A node on which
    no cell of the GPU ran is of no use as a reference.
    """
    reported = {gpu.index: gpu.node for gpu in topology.gpus}
    probed = {gpu.index: gpu for gpu in probe.gpus} if probe else {}
    found: dict[int, LocalNode] = {}
    for gpu in dict.fromkeys(cell.gpu for cell in cells):
        own = [cell for cell in cells if cell.gpu == gpu and cell.cpu_node == cell.mem_node]
        nodes = sorted({cell.mem_node for cell in own})
        if not nodes:
            continue
        if own[0].cpus:
            # Nothing reports to which group of CPUs a GPU is near: all GPUs are compared with the same one.
            found[gpu] = LocalNode(nodes[0], LocalSource.REFERENCE)
            continue
        known = []
        if any(cell.settings.device != "cpu" for cell in own):
            known = [(reported.get(gpu), LocalSource.REPORTED)]
            if gpu in probed:
                near = probed[gpu].near_nodes or (probed[gpu].measured_node,)
                known += [(node, LocalSource.MEASURED) for node in near]
        candidates = [
            *(LocalNode(node, source) for node, source in known if node is not None and node in nodes),
            *(LocalNode(node, LocalSource.RUNS) for node in fastest_nodes(own)),
            LocalNode(nodes[0], LocalSource.REFERENCE),
        ]
        found[gpu] = candidates[0]
    return found


def fastest_nodes(cells: Sequence[MeasuredCell], alpha: float = 0.01) -> tuple[int, ...]:
    """The smallest set of nodes that beat all others beyond chance, over all models together, the fastest first.

    Only odd blocks choose: the runs that choose a node make a penalty out of luck, so that others have to estimate it
    (estimating_runs). Hence also the strict alpha, shared among the nodes, each of which could have come out fastest
    (Bonferroni). Launch-bound cells, being noise, count only where all are.
    Two tests must agree: of the blocks' means over models, which differ from block to block, and of all models' runs
    against the spread inside each model. Of processes with two states the means of three blocks agree by chance in
    2.7 % of studies of three models, with both tests in 0.3 %.
    """
    quiet = [cell for cell in cells if cell.noise_class is not NoiseClass.LAUNCH_BOUND] or list(cells)
    nodes = sorted({cell.mem_node for cell in quiet})
    if len(nodes) < 2:
        return ()
    logs = _logs([_of_blocks(cell, odd=True) for cell in quiet], nodes)
    if len(logs) < 3:
        return ()
    order = [int(index) for index in np.argsort(-logs.mean(axis=(0, 1)), kind="stable")]
    for size in range(1, len(nodes)):
        differences = [logs[..., near] - logs[..., far] for near in order[:size] for far in order[size:]]
        if all(_p_faster(difference) <= alpha / len(nodes) for difference in differences):
            return tuple(nodes[index] for index in order[:size])
    return ()


def estimating_runs(cell: MeasuredCell, local: LocalNode) -> MeasuredCell:
    """The cell with the runs that may estimate a penalty: of even blocks, where those of odd ones chose the node."""
    return _of_blocks(cell, odd=False) if local.source is LocalSource.RUNS else cell


def _of_blocks(cell: MeasuredCell, odd: bool) -> MeasuredCell:
    runs = tuple(run for run in cell.runs if run.repeat != "traced" and _block(run) % 2 == odd)
    return msgspec.structs.replace(cell, runs=runs)


def _p_faster(differences: Floats) -> float:
    """differences: blocks x models."""
    blocks, models = differences.shape
    of_blocks = differences.mean(axis=1).var(ddof=1) / blocks
    of_runs = differences.var(axis=0, ddof=1).mean() / differences.size
    return max(
        _p_positive(differences.mean(), variance, df)
        for variance, df in ((of_blocks, blocks - 1), (of_runs, models * (blocks - 1)))
    )


def _p_positive(mean: float, variance: float, df: int) -> float:
    """One-sided; variance: of the mean."""
    if variance == 0:
        return 0.0 if mean > 0 else 1.0
    return float(stdtr(df, -mean / np.sqrt(variance)))


def _logs(cells: Sequence[MeasuredCell], nodes: list[int]) -> Floats:
    """Log throughputs, blocks x models x nodes; of models and blocks that every node has."""
    by_model: dict[Hashable, dict[int, Mapping[int, float]]] = {}
    for cell in cells:
        crossed = any(run.crossing for run in cell.runs)
        rates = {block: _rate(run) for block, run in runs_by_block(cell).items()} if crossed else throughputs(cell)
        by_model.setdefault((identity(cell), cell.occurrence), {})[cell.mem_node] = rates
    complete = [runs for runs in by_model.values() if set(runs) == set(nodes)]
    if not complete:
        return np.empty((0, 0, len(nodes)))
    blocks = set.intersection(*(set(runs[node]) for runs in complete for node in nodes))
    found = [[[np.log(runs[node][block]) for node in nodes] for runs in complete] for block in sorted(blocks)]
    return np.array(found, dtype=float).reshape(-1, len(complete), len(nodes))


def _rate(run: CellRun) -> float:
    return float(run.rate or 0.0)


def _block(run: CellRun) -> int:
    return run.block if run.block is not None else int(run.repeat)
