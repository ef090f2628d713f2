"""SelfCheck: a cell against itself under two names. What differs here is the noise floor of the host.

It is remembered beside the studies of a host and quoted by every later report of that host.
"""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.special import chdtri

from bench.analysis.load import measured_at
from bench.analysis.pairs import class_of, compared, estimated, identity, throughputs
from bench.analysis.statistics import MARGIN
from bench.analysis.verdicts import judged
from bench.records.base import plain
from bench.records.results import MeasuredCell, NoiseClass, ProcessSpread, Results, Rules, SelfCheck, SelfComparison
from bench.records.run import read_record
from bench.storage import write_json


def evaluate(cells: Sequence[MeasuredCell], margin: float = MARGIN) -> SelfCheck:
    """Cells that differ in nothing but their name are compared, each with the first of its kind; the runs of all of
    them give the spread."""
    kinds: dict[Hashable, list[MeasuredCell]] = {}
    for cell in cells:
        kinds.setdefault((identity(cell), cell.cpu_node, cell.mem_node), []).append(cell)
    twins = [(twin, same[0]) for same in kinds.values() for twin in same[1:]]
    pairs = [compared(twin.name, first, twin) for twin, first in twins]
    estimates = estimated([pair.sample for pair in pairs], Rules(margin=margin))
    comparisons = tuple(
        SelfComparison(
            cells=(twin.name, first.name),
            penalty=one.penalty,
            interval=one.interval,
            **judged(one, twin.settings),
            design=pair.design,
        )
        for (twin, first), pair, one in zip(twins, pairs, estimates, strict=True)
        if one
    )
    spreads = tuple(spread for same in kinds.values() if (spread := _spread(same)))
    return SelfCheck(
        comparisons=comparisons,
        false_differences=tuple(one.cells for one in comparisons if one.differs),
        intervals_without_zero=sum(
            not one.interval[0] <= 0 <= one.interval[1] for one in comparisons if one.interval is not None
        ),
        spreads=spreads,
        noise_floor=_noise_floor(spreads),
    )


def remember(
    results: Results, outputs: Path, with_text: Callable[[SelfCheck], SelfCheck] | None = None
) -> SelfCheck | None:
    """Keep what a study with cells listed twice found. None if the study has no such cells.

    with_text: fills in what only readers of the file use.
    """
    found = evaluate(results.cells, results.rules.margin)
    if not found.comparisons:
        return None
    record = msgspec.structs.replace(found, study=results.study_name, measured_at=measured_at(results))
    record = with_text(record) if with_text else record
    write_json(_path(outputs), plain(recall_all(outputs) | {results.host: record}))
    return record


def recall(host: str, outputs: Path) -> float | None:
    """The largest spread between processes (its upper 80 % bound) of the host's models that are not launch-bound."""
    known = recall_all(outputs).get(host)
    spreads = known.spreads if known else ()
    return max((spread.upper for spread in spreads if spread.noise_class is NoiseClass.DEVICE_BOUND), default=None)


def recall_all(outputs: Path) -> dict[str, SelfCheck]:
    """By host; empty where the file is missing or damaged."""
    return read_record(_path(outputs), dict[str, SelfCheck]) or {}


def _spread(same: list[MeasuredCell]) -> ProcessSpread | None:
    """Levels are taken out cell by cell, so that a real difference between twins does not count as noise."""
    logs = [np.log(list(throughputs(cell).values())) for cell in same if throughputs(cell)]
    df = sum(len(values) - 1 for values in logs)
    if df < 1:
        return None
    spread = float(np.sqrt(sum(np.sum((values - values.mean()) ** 2) for values in logs) / df))
    first = same[0]
    return ProcessSpread(
        gpu=first.gpu,
        cpu_node=first.cpu_node,
        mem_node=first.mem_node,
        model=first.model.name,
        noise_class=class_of(*same),
        runs=sum(map(len, logs)),
        spread=spread,
        upper=spread * float(np.sqrt(df / chdtri(df, 0.8))),
    )


def _noise_floor(spreads: Sequence[ProcessSpread]) -> dict[str, float]:
    floor: dict[str, float] = {}
    for spread in spreads:
        floor[spread.model] = max(floor.get(spread.model, 0.0), spread.upper)
    return floor


def _path(outputs: Path) -> Path:
    return outputs / "noise_floor.json"
