"""The metric of a command in the statistics: the same decisions as of a throughput, whichever way it is better."""

import math

import numpy as np
import pytest

from bench.analysis.metric import cell_metric, command_remarks
from bench.analysis.pairs import LocalNode
from bench.analysis.penalties import penalties
from bench.records.command import Command
from bench.records.metric import Better, Measured, Metric
from bench.records.results import CellRemark, CellRemarkKind, LocalSource, MeasuredCell, Rules, Verdict
from bench.records.run import CachedFile, CommandResult
from bench.records.study import Model
from tests.analysis.cells import made_cell

COMMAND = Model(name="bench", patch_size=0, depth=0, dim=0, heads=0, command=Command(run=("bench",)))
LOCAL = {0: LocalNode(0, LocalSource.REPORTED)}
BOTH = pytest.mark.parametrize("better", [Better.HIGHER, Better.LOWER])


def command_cell(values: list[float], better: Better, node: int) -> MeasuredCell:
    from msgspec.structs import replace

    found = [Measured(metrics={"m": Metric(value=value, unit="s", better=better)}, primary="m") for value in values]
    cell = made_cell(values, mem_node=node, cpu_node=node, model=COMMAND, noise_class="unknown")
    runs = [
        replace(run, throughput_samples_s=None, metric=one.metrics["m"])
        for run, one in zip(cell.runs, found, strict=True)
    ]
    return replace(cell, throughput_samples_s=None, metric=cell_metric(found), runs=tuple(runs))


def found(loss: float, better: Better, seed: int, runs: int = 12, sd: float = 0.01) -> list:
    """loss: of rate on node 1."""
    draw = np.random.default_rng(seed).normal(0, sd, (2, runs))
    logs = draw + np.array([[0.0], [math.log1p(-loss)]])
    values = np.exp(logs if better is Better.HIGHER else -logs)
    return penalties([command_cell([*values[node]], better, node) for node in (0, 1)], LOCAL, Rules())


@BOTH
def test_five_percent_are_found_and_nothing_is_not(better):
    differ = [found(0.05, better, seed)[0].verdict for seed in range(100)]
    same = [found(0.0, better, seed)[0].verdict for seed in range(100)]
    assert differ.count(Verdict.SLOWER) >= 95 and Verdict.FASTER not in differ
    assert sum(verdict in (Verdict.SLOWER, Verdict.FASTER) for verdict in same) <= 5


def test_direction_changes_the_sign_and_nothing_else():
    (higher,), (lower,) = found(0.2, Better.HIGHER, 3), found(0.2, Better.LOWER, 3)
    assert higher.penalty == pytest.approx(lower.penalty) == pytest.approx(0.2, abs=0.02)
    assert higher.interval == pytest.approx(lower.interval)


def test_cell_has_the_geometric_mean_and_every_common_metric():
    def measured(value: float, **others: float) -> Measured:
        metrics = {"m": value} | others
        return Measured(
            metrics={name: Metric(value=one, unit="ms", better=Better.LOWER) for name, one in metrics.items()},
            primary="m",
        )

    cell = cell_metric([measured(1, a=1, b=1), measured(4, a=9)])
    assert (cell.value, cell.runs, cell.unit) == (2, (1, 4), "ms")
    assert {name: one.value for name, one in cell.others.items()} == {"a": pytest.approx(3)}
    assert cell_metric([]) is None


def test_remarks_tell_of_output_storage_and_page_cache():
    metrics = {"m": Metric(value=1, unit="s", better=Better.LOWER)}
    odd = Measured(metrics=metrics, primary="m", remarks=["invalid"])
    file = CachedFile(path="a", bytes=4 << 30, cached_bytes=2 << 30, cached_by_node={0: 1 << 30, 1: 1 << 30})
    runs = [
        CommandResult(measured=odd, storage_bytes=3 << 30, files=(file,)),
        CommandResult(measured=odd, storage_bytes=1 << 20, files=(file, file)),
        CommandResult(measured=Measured(metrics=metrics, primary="m")),
    ]
    assert command_remarks(runs) == [
        CellRemark(kind=CellRemarkKind.OF_OUTPUT, count=2, total=3, other="invalid"),
        CellRemark(kind=CellRemarkKind.FROM_STORAGE, count=1, total=3, bytes=3 << 30),
        CellRemark(
            kind=CellRemarkKind.PAGE_CACHE,
            count=2,
            bytes=8 << 30,
            ratio=0.5,
            bytes_by_node={0: 2 << 30, 1: 2 << 30},
        ),
    ]
    assert command_remarks([CommandResult()]) == []
