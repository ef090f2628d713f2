"""What the controls found, with the project's own statistics. Pure: measured runs in, rows out."""

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np
from scipy import stats

from bench.analysis.bound import PredictedPenalty, StageTimes, bound_us, predict
from bench.analysis.statistics import Comparison, Estimate
from bench.analysis.verdicts import judge, noise_class
from bench.records.results import Verdict
from bench.records.study import Settings
from bench.records.trace import Regime
from tests.estimates import estimate_pairs
from tests.validation.control_plan import BASE, NEGATIVE, POSITIVE, Condition, Group

Record = dict[str, Any]
Runs = Mapping[str, Record]  # by block: one process

DEVICE_STAGES = {"h2d": "copy", "compute": "kernel", "d2h": "copy out"}
# A stage counts as grown from this share of the delay on: below it, the delay was elsewhere.
SHARE = 0.4
# And, in a trace, from so many standard errors of the medians compared.
ERRORS = 3.0
NOWHERE = "not attributed"


def summarise(device: str, chosen: Iterable[Group], results: Record) -> Record:
    """`controls`: positive and negative ones; `predictions`: slower copies; `regimes`: of the undelayed cells."""
    measured = [group for group in chosen if BASE in results.get(group.name, {})]
    estimates = _estimates(measured, results)
    controls, predictions = [], []
    for group in measured:
        for condition in group.conditions:
            found = estimates.get((group.name, condition.name))
            if found is None:
                continue
            runs, base = results[group.name][condition.name], results[group.name][BASE]
            row = _row(device, group, condition, found, base, runs)
            if condition.kind in (POSITIVE, NEGATIVE):
                controls.append(row)
            if condition.ratio > 1:
                predictions.append(_prediction(group, condition, found, base, runs))
    return {
        "controls": controls,
        "predictions": predictions,
        "regimes": [
            _regime(group, results[group.name][BASE]) | {"limit_solo": _limit(group, results[group.name][BASE], device)}
            for group in measured
        ],
        "summary": _summary(controls, predictions),
    }


def batch_us(result: Record, batch_size: int) -> float:
    return 1e6 * batch_size / result["throughput_samples_s"]


def _summary(controls: list[Record], predictions: list[Record]) -> Record:
    positive = [row for row in controls if row["kind"] == POSITIVE and row["resolvable"]]
    negative = [row for row in controls if row["kind"] == NEGATIVE and row["resolvable"]]
    counts = {
        "positive": len(positive),
        "found": sum(row["found"] for row in positive),
        "attributed_solo": sum(row["attributed_solo"] == row["stage"] for row in positive),
        "attributed_trace": sum(row["attributed_trace"] == row["stage"] for row in positive),
        "as_large_as_expected": sum(row["as_expected"] for row in positive),
        "regime_right": sum(bool(row["regime_right"]) for row in positive),
        "negative": len(negative),
        "negative_same": sum(row["verdict"] == Verdict.SAME for row in negative),
        "predictions": len(predictions),
        "predictions_in_bracket": sum(row["in_bracket"] for row in predictions),
    }
    whole = bool(positive) and counts["found"] == counts["attributed_trace"] == counts["regime_right"] == len(positive)
    return {"as_expected": whole and counts["negative_same"] == len(negative), **counts}


def _estimates(measured: list[Group], results: Record) -> dict[tuple[str, str], Estimate]:
    keys, comparisons = [], []
    for group in measured:
        runs = results[group.name]
        for condition in group.conditions:
            if runs[BASE].keys() & runs.get(condition.name, {}).keys():
                keys.append((group.name, condition.name))
                noise = noise_class(Regime(_regime(group, runs[BASE])["measured"] or group.regime))
                sides = _rates(runs[BASE]), _rates(runs[condition.name])
                comparisons.append(Comparison("|".join(keys[-1]), noise, *sides))
    return dict(zip(keys, estimate_pairs(comparisons), strict=True))


def _rates(runs: Runs) -> dict[int, float]:
    return {int(block): result["throughput_samples_s"] for block, result in runs.items()}


def _row(device: str, group: Group, condition: Condition, found: Estimate, base: Runs, runs: Runs) -> Record:
    judgement = judge(found, Settings(device="cuda", cuda_graph=bool(group.settings.get("cuda_graph"))))
    delay_us = next(iter(runs.values()))["injection"]["delay_us"]
    growth = {term: _growth(base, runs, term, device) for term in ("h2d", "compute", "d2h", "issue")}
    seen = found.interval is not None and found.interval[0] > 0
    base_us = median(_batch_us(group, base))
    felt_us = _felt_us(condition, runs, growth)
    expected = _expected(group, condition, felt_us, base, runs)
    traces = _trace_growth(base, runs, device)
    regime, injected = _regime(group, base), _regimes(runs)
    limit = _limit(group, base, device)
    return {
        "group": group.name, "condition": condition.name, "kind": condition.kind, "stage": condition.stage,
        "percent": condition.percent, "ratio": condition.ratio, "batch_us": base_us, "delay_us": delay_us,
        "felt_us": felt_us, "expected": expected, "as_expected": _covers(found.interval, expected),
        "pairs": found.pairs, "penalty": found.penalty, "interval": found.interval, "sd": found.sd, "mde": found.mde,
        "noise_class": found.noise_class, "verdict": judgement.verdict.value,
        "resolvable": group.resolvable, "repeats_to_decide": judgement.repeats, "found": seen,
        "growth_solo": growth, "attributed_solo": _attribute(growth, delay_us, seen),
        "growth_trace": traces, "attributed_trace": _attribute_trace(device, traces, delay_us, seen),
        "limit_solo": limit, "regime": regime["measured"], "regime_injected": injected,
        "regime_right": regime["measured"] == group.regime if regime["measured"] else None,
    }  # fmt: skip


def _felt_us(condition: Condition, runs: Runs, growth: Mapping[str, Record]) -> float:
    """The delay as it really was: how much longer the stage alone took; of a launch delay, how long its wait took."""
    term = {"copy": "h2d", "kernel": "compute"}.get(condition.stage)
    if term:
        return growth[term]["us"]
    return median(run.get("waited_us", run["injection"]["delay_us"]) for run in runs.values())


def _expected(group: Group, condition: Condition, felt_us: float, base: Runs, runs: Runs) -> tuple[float, float]:
    """The least and the most that this delay can cost. They differ for copies, which other stages may hide."""
    if condition.kind != POSITIVE:
        return 0.0, 0.0
    if condition.stage == "copy":
        predicted = _predicted(group, base, runs)
        return min(predicted.low, predicted.high), max(predicted.low, predicted.high)
    share = felt_us / (median(_batch_us(group, base)) + felt_us)
    return share, share


def _covers(interval: tuple[float, float] | None, expected: tuple[float, float]) -> bool:
    return bool(interval is not None and interval[0] <= expected[1] and interval[1] >= expected[0])


def _batch_us(group: Group, runs: Runs) -> list[float]:
    size = group.settings.get("batch_size", 10)
    return [batch_us(result, size) for result in runs.values()]


def _growth(base: Runs, runs: Runs, term: str, device: str) -> Record:
    """Of a stage alone, in us per batch: mean over the pairs and its Student interval."""
    blocks = sorted(base.keys() & runs.keys())
    values = np.array([_term_us(runs[block], term, device) - _term_us(base[block], term, device) for block in blocks])
    mean = float(values.mean())
    if len(values) < 2:
        return {"us": mean, "interval": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"us": mean, "interval": (mean - half, mean + half)}


def _term_us(result: Record, term: str, device: str) -> float:
    if term != "issue":
        return result["solo_us"][term]
    # On the cpu device to issue is to execute: only what is beyond the stages is launching.
    return result["issue_us"] - (sum(result["solo_us"].values()) if device == "cpu" else 0.0)


def _attribute(growth: Mapping[str, Record], delay_us: float, seen: bool) -> str:
    """The stage that grew, by its interval; "launch" also by elimination, if the effect is there and no stage grew."""
    if not delay_us:
        return NOWHERE
    surely = {term: each["us"] for term, each in growth.items() if each["interval"] and each["interval"][0] > 0}
    grown = {term: us for term, us in surely.items() if us >= SHARE * delay_us}
    on_device = {term: us for term, us in grown.items() if term in DEVICE_STAGES}
    if on_device:
        return DEVICE_STAGES[max(on_device, key=lambda term: on_device[term])]
    if "issue" in grown:
        return "launch"
    excluded = all(
        growth[term]["interval"] and growth[term]["interval"][1] < (1 - SHARE) * delay_us for term in DEVICE_STAGES
    )
    return "launch" if seen and excluded else NOWHERE


def _trace_growth(base: Runs, runs: Runs, device: str) -> Record | None:
    """Of each stage in the pipeline, in us per batch: the mean over the processes that traced both sides.

    error: of the stages and of launching, from the spread inside the traces or between the processes, the larger one.
    """
    pairs = [(base[block]["trace"], runs[block]["trace"]) for block in base.keys() & runs.keys()
             if base[block].get("trace") and runs[block].get("trace")]  # fmt: skip
    if not pairs:
        return None
    keys = [key for key in ("h2d", "compute", "d2h", "idle", "device", "cpu")
            if all(trace[key] is not None for pair in pairs for trace in pair)]  # fmt: skip
    grown = [{key: after[key] - before[key] for key in keys} for before, after in pairs]
    for each in grown:
        # Sequential: what the CPU does between the stages is its time per batch less theirs.
        between = sum(each[stage] for stage in DEVICE_STAGES) if device == "cpu" else 0.0
        each["launch"] = each.get("cpu", 0.0) - between
    error = {term: _trace_error(pairs, [each[term] for each in grown], term) for term in (*DEVICE_STAGES, "launch")}
    return {key: float(np.mean([each[key] for each in grown])) for key in (*keys, "launch")} | {"error": error}


def _trace_error(pairs: list[tuple[Record, Record]], grown: list[float], term: str) -> float:
    """Of the time of launching, which is a difference of all the others, a trace alone knows the others' errors."""
    stages = DEVICE_STAGES if term == "launch" else (term,)
    own = [(trace.get("error") or {}).get(stage, 0.0) for pair in pairs for trace in pair for stage in stages]
    within = math.hypot(*own) / len(pairs)
    if len(pairs) == 1:
        return within
    return max(within, float(np.std(grown, ddof=1)) / math.sqrt(len(pairs)))


def _traces(runs: Runs) -> list[Record]:
    return [result["trace"] for result in runs.values() if result.get("trace")]


def _attribute_trace(device: str, growth: Record | None, delay_us: float, seen: bool) -> str:
    """The stage whose time per batch grew most, if by enough; else the CPU, if there is an effect to explain.

    On a GPU the CPU's own time is no witness: under a profiler it is half as long again, and noisy. There it is the CPU
    if the trace excludes that any stage took most of the delay.
    """
    if growth is None or not delay_us:
        return NOWHERE
    grown = [stage for stage in DEVICE_STAGES
             if growth[stage] >= max(SHARE * delay_us, ERRORS * growth["error"][stage])]  # fmt: skip
    if grown:
        return DEVICE_STAGES[max(grown, key=lambda stage: growth[stage])]
    excluded = all(growth[stage] + 2 * growth["error"][stage] < (1 - SHARE) * delay_us for stage in DEVICE_STAGES)
    launched = growth["launch"] >= max(SHARE * delay_us, ERRORS * growth["error"]["launch"])
    found = seen and excluded if device == "cuda" else launched
    return "launch" if found else NOWHERE


def _regime(group: Group, base: Runs) -> Record:
    traces = _traces(base)
    found = {"group": group.name, "expected": group.regime or None}
    if not traces:
        return found | {"measured": None}
    one = traces[0]
    kept = {key: one.get(key) for key in ("h2d", "compute", "d2h", "device", "idle", "evidence", "conservation", "raw")}
    timed_us = median(_batch_us(group, base))
    return found | {"measured": one["regime"], "timed_over_traced": timed_us / one["wall_us"], **kept}


def _regimes(runs: Runs) -> str | None:
    traces = _traces(runs)
    return traces[0]["regime"] if traces else None


def _stages(base: Runs) -> StageTimes:
    solo = {key: median(result["solo_us"][key] for result in base.values()) for key in ("h2d", "compute", "d2h")}
    return StageTimes(solo["h2d"], solo["compute"], solo["d2h"], median(result["issue_us"] for result in base.values()))


def _separate(base: Runs) -> bool:
    return next(iter(base.values()))["buffer_layout"] == "separate"


def _buffers(group: Group) -> int:
    return int(group.settings.get("buffers", 2))


def _limit(group: Group, base: Runs, device: str) -> str:
    """The term that sets the bound T*: what limits by times of stages alone, without a trace."""
    stages = _stages(base)
    whole = bound_us(stages, _buffers(group), _separate(base))
    terms = {"h2d": stages.h2d_us, "compute": stages.compute_us, "d2h": stages.d2h_us, "issue": stages.issue_us}
    if device == "cpu":  # there to issue is to execute, and the longest stage decides
        del terms["issue"]
    largest = max(terms, key=lambda term: terms[term])
    return largest if device == "cpu" or terms[largest] >= 0.999 * whole else "held slot"


def _predicted(group: Group, base: Runs, runs: Runs) -> PredictedPenalty:
    """From the undelayed cell and the ratio of the copies alone."""
    stages, slowed = _stages(base), _stages(runs)
    t_us = median(_batch_us(group, base))
    return predict(stages, t_us, _buffers(group), slowed.h2d_us / stages.h2d_us, 1.0, _separate(base))


def _prediction(group: Group, condition: Condition, found: Estimate, base: Runs, runs: Runs) -> Record:
    """Predicted from the undelayed cell and the ratio of the copies alone; observed in pairs."""
    stages, predicted = _stages(base), _predicted(group, base, runs)
    bracket = predicted.low, predicted.high
    return {
        "group": group.name, "ratio_asked": condition.ratio, "ratio_measured": _stages(runs).h2d_us / stages.h2d_us,
        "batch_us": median(_batch_us(group, base)),
        "bound_us": bound_us(stages, _buffers(group), _separate(base)), "stages_us": vars(stages),
        "predicted": predicted.penalty, "bracket": bracket, "observed": found.penalty,
        "interval": found.interval, "pairs": found.pairs, "error": found.penalty - predicted.penalty,
        "in_bracket": _covers(found.interval or (found.penalty, found.penalty), bracket),
    }  # fmt: skip
