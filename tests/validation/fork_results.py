"""Pairs of forked and executed runs: are they the same in every way that a study can notice?

Pure: from {cell: {block: {"exec"|"fork": run}}} to rows and criteria. A run is what `facts` keeps of it.
"""

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import polygamma

from bench.analysis.statistics import Comparison, Estimate
from bench.analysis.verdicts import decided
from bench.records.results import NoiseClass, Verdict
from tests.estimates import estimate_pairs

MARGIN = 0.005
VARIANCE_RATIOS = (0.5, 2.0)
FEWEST_BLOCKS = 3
EXEC, FORK = "exec", "fork"
Record = dict[str, Any]
Blocks = dict[str, dict[str, Record]]


@dataclass(frozen=True)
class Criterion:
    """kept: None where the runs do not decide."""

    name: str
    kept: bool | None
    measured: str


def facts(result: Record, wall_s: float, server_s: float) -> Record:
    """What is kept of a run: its number, its faults, and what its certificate proves.

    wall_s: without server_s, which it took until its server was there.
    """
    certificate = result["certificate"]
    threads = {
        when: sorted(group["allowed_cpus"] for group in groups or ()) for when, groups in certificate["threads"].items()
    }
    return {
        "throughput_samples_s": result["throughput_samples_s"],
        "minor_faults": [window["minor_faults"] for window in result["windows"]],
        "wall_s": round(wall_s, 3),
        "server_s": round(server_s, 3),
        "phases_s": result["phases_s"],
        "certificate": {
            "verdict": certificate["verdict"],
            "policy": certificate["policy"],
            "node_cpus": certificate["node_cpus"],
            "share_on_node": certificate["share_on_node"],
            "thread_cpus": threads,
        },
    }


def judged(runs: dict[str, Blocks], nodes: dict[str, int]) -> Record:
    """Rows and criteria. nodes: memory node of each cell; cells of one name but for it make a penalty."""
    whole = {cell: _whole(blocks) for cell, blocks in runs.items()}
    whole = {cell: blocks for cell, blocks in whole.items() if blocks}
    estimates = dict(zip(whole, _throughputs(whole), strict=True))
    penalties = _penalties(whole, nodes)
    criteria = [
        _same("throughput", list(estimates.values())),
        *([_same("penalty", list(penalties.values()))] if penalties else []),
        _variances(whole),
        _faults(whole),
        _certificates(whole),
    ]
    return {
        "cells": [_row(cell, blocks, estimates[cell]) for cell, blocks in whole.items()],
        "penalties": [_effect(label, found) for label, found in penalties.items()],
        "criteria": [asdict(criterion) for criterion in criteria],
        "accepted": all(criterion.kept for criterion in criteria),
    }


def variance_ratio(executed: list[list[float]], forked: list[list[float]]) -> tuple[float, float, float]:
    """The variance of forked over executed runs with its 95 % interval, the geometric mean over cells.

    Each list: logarithms of the throughputs of one cell. The cells' own variances are unlike; a mean of their log
    ratios is not that of the noisiest. ln s^2 has the variance trigamma(df / 2) (Bartlett and Kendall 1946).
    Pairs share what drifts, so that the ratio scatters less than this.
    """
    ratios, variance = [], 0.0
    for base, new in zip(executed, forked, strict=True):
        df = len(base) - 1
        ratios.append(math.log(statistics.variance(new) / statistics.variance(base)))
        variance += 2 * float(polygamma(1, df / 2))
    mean, half = statistics.fmean(ratios), stats.norm.ppf(0.975) * math.sqrt(variance) / len(ratios)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _whole(blocks: Blocks) -> Blocks:
    return {block: pair for block, pair in blocks.items() if pair.keys() >= {EXEC, FORK}}


def _rates(blocks: Blocks, how: str) -> dict[int, float]:
    return {int(block): pair[how]["throughput_samples_s"] for block, pair in blocks.items()}


def _throughputs(runs: dict[str, Blocks]) -> list[Estimate]:
    pairs = [
        Comparison(cell, NoiseClass.DEVICE_BOUND, _rates(blocks, EXEC), _rates(blocks, FORK))
        for cell, blocks in runs.items()
    ]
    return estimate_pairs(pairs, margin=MARGIN)


def _penalties(runs: dict[str, Blocks], nodes: dict[str, int]) -> dict[str, Estimate]:
    """1 - (remote / local of forked runs) / (remote / local of executed runs), for each model on two nodes."""
    by_model: dict[str, list[str]] = {}
    for cell in sorted(runs, key=lambda cell: nodes[cell]):
        by_model.setdefault(cell.replace(f"_numa{nodes[cell]}_", "_"), []).append(cell)
    pairs = []
    for model, cells in by_model.items():
        if len(cells) == 2:
            ratios = {how: _ratios(*(_rates(runs[cell], how) for cell in cells)) for how in (EXEC, FORK)}
            pairs.append(Comparison(model, NoiseClass.DEVICE_BOUND, ratios[EXEC], ratios[FORK]))
    pairs = [pair for pair in pairs if pair.local_runs]
    return {found.label: found for found in estimate_pairs(pairs, margin=MARGIN)} if pairs else {}


def _ratios(first: dict[int, float], second: dict[int, float]) -> dict[int, float]:
    return {block: second[block] / first[block] for block in first.keys() & second.keys()}


def _same(what: str, found: list[Estimate]) -> Criterion:
    """The mean over all models is included: a bias of forking would show in it."""
    verdicts = [decided(one) for one in found]
    count = f"{verdicts.count(Verdict.SAME)} of {len(found)} SAME within {100 * MARGIN:g} %"
    differ = [f"{one.label} {verdict}" for one, verdict in zip(found, verdicts, strict=True)
              if verdict in (Verdict.SLOWER, Verdict.FASTER)]  # fmt: skip
    mean = f"mean of all {100 * float(np.mean([one.penalty for one in found])):+.2f} % slower" if found else "no pairs"
    kept = False if differ else (True if found and all(verdict is Verdict.SAME for verdict in verdicts) else None)
    return Criterion(what, kept, "; ".join([count, mean, *differ]))


def _variances(runs: dict[str, Blocks]) -> Criterion:
    logs = {how: [[math.log(rate) for rate in _rates(blocks, how).values()] for blocks in runs.values()]
            for how in (EXEC, FORK)}  # fmt: skip
    name = f"variance ratio in {VARIANCE_RATIOS[0]:g} to {VARIANCE_RATIOS[1]:g}"
    if not runs or min(map(len, logs[EXEC])) < FEWEST_BLOCKS:
        return Criterion(name, None, f"fewer than {FEWEST_BLOCKS} pairs of a cell")
    ratio, low, high = variance_ratio(logs[EXEC], logs[FORK])
    least, most = VARIANCE_RATIOS
    kept = True if least <= low and high <= most else False if low > most or high < least else None
    return Criterion(name, kept, f"{ratio:.2f} [{low:.2f}, {high:.2f}]")


def _faults(runs: dict[str, Blocks]) -> Criterion:
    """One fault a window is what the looks at the clock may cost; more must be the cell's own, executed or forked."""
    found = [(cell, _faults_a_window(blocks, EXEC), _faults_a_window(blocks, FORK)) for cell, blocks in runs.items()]
    worse = [f"{cell}: {forked:g} against {executed:g}" for cell, executed, forked in found
             if forked > max(1.0, 1.1 * executed)]  # fmt: skip
    most = max((forked for _, _, forked in found), default=0.0)
    measured = f"at most {most:g} a window, median of the forked runs of a cell"
    kept = not worse if found else None
    return Criterion("no minor faults of forking in windows", kept, "; ".join([measured, *worse]))


def _faults_a_window(blocks: Blocks, how: str) -> float:
    return statistics.median(statistics.median(pair[how]["minor_faults"]) for pair in blocks.values())


def _certificates(runs: dict[str, Blocks]) -> Criterion:
    pairs = [(cell, pair) for cell, blocks in runs.items() for pair in blocks.values()]
    unlike = sorted({f"{cell}: {fact}" for cell, pair in pairs for fact in _unlike(pair)})
    verdicts = sorted({pair[FORK]["certificate"]["verdict"] for _, pair in pairs})
    measured = f"{len(pairs)} pairs, verdict {', '.join(verdicts)}"
    return Criterion("equal certificates", not unlike if pairs else None, "; ".join([measured, *unlike]))


def _unlike(pair: dict[str, Record]) -> list[str]:
    executed, forked = pair[EXEC]["certificate"], pair[FORK]["certificate"]
    return [fact for fact in executed if executed[fact] != forked[fact]]


def _row(cell: str, blocks: Blocks, found: Estimate) -> Record:
    def median(how: str, key: str) -> float:
        return statistics.median(pair[how][key] for pair in blocks.values())

    return _effect(cell, found) | {
        how: {
            "throughput_samples_s": median(how, "throughput_samples_s"),
            "spread": _spread(list(_rates(blocks, how).values())),
            "minor_faults_a_window": _faults_a_window(blocks, how),
            "wall_s": median(how, "wall_s"),
        }
        for how in (EXEC, FORK)
    }


def _effect(label: str, found: Estimate) -> Record:
    verdict = decided(found)
    return {
        "name": label,
        "pairs": found.pairs,
        "slower": found.penalty,
        "interval": found.interval,
        "verdict": str(verdict) if verdict else str(Verdict.UNDECIDED),
    }


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) / statistics.fmean(values) if len(values) > 1 else None
