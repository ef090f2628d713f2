"""The controls as text: a table for the terminal, a section for docs/validity_figures.md."""

from collections.abc import Iterator
from typing import Any

from bench.analysis.verdicts import is_uninformative
from tests.validation.control_plan import CLOCK_COPIES

Record = dict[str, Any]


LONGEST_ERROR = 120
WORDS = {"positive": "limits", "negative": "has slack"}


def section(found: Record) -> str:
    """Markdown, between the markers of docs/validity_figures.md."""
    return "\n".join([*_head(found), *_controls(found), *_predictions(found), *_regimes(found), *_clocks(found)])


def _head(found: Record) -> Iterator[str]:
    runs = [run for group in found["runs"].values() for blocks in group.values() for run in blocks.values()]
    device, versions = (runs[0][key] if runs else {} for key in ("device", "versions"))
    counts = found["summary"]
    processes = f"{found['processes']} processes in {found['ran_s']:.0f} s"
    yield f"### On {'the cpu device: ' if device.get('type') == 'cpu' else ''}{device.get('name')}"
    yield ""
    yield f"torch {versions.get('torch')}, {processes}."
    if "found" in counts:
        yield (
            f"Delays in a stage that limits: {counts['found']} of {counts['positive']} found; "
            f"{counts['attributed_solo']} attributed to their stage by the times of stages alone, "
            f"{counts['attributed_trace']} by the trace; regime as expected in {counts['regime_right']}; "
            f"the interval covers what was expected in {counts['as_large_as_expected']}. "
            f"No delay, or one in a stage with slack: {counts['negative_same']} of {counts['negative']} are SAME. "
            f"Slower copies: {counts['predictions_in_bracket']} of {counts['predictions']} inside the predicted "
            "bracket."
        )
    for error in found["errors"]:
        yield f"Failed: {error['where']}: {error['error'].splitlines()[-1][:LONGEST_ERROR]} ..."


def _controls(found: Record) -> Iterator[str]:
    yield ""
    yield (
        "| cell | delay | the stage | expected | measured, 95 % interval | processes | verdict | "
        "stage by times alone | stage by trace |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in found.get("controls", []):
        yield (
            f"| {row['group']} | {row['condition']} ({row['felt_us']:.2f} us) | {_word(row)} | {_expected(row)} | "
            f"{_effect(row['penalty'], row['interval'])} | {row['pairs']} | {row['verdict']}{_unresolved(row)} | "
            f"{row['attributed_solo']} | {row['attributed_trace']} |"
        )


def _word(row: Record) -> str:
    return WORDS[row["kind"]] if row["delay_us"] else "-"


def _expected(row: Record) -> str:
    low, high = (f"{100 * value + 0.0:.2f}" for value in row["expected"])
    return f"{low} %" if low == high else f"{low} to {high} %"


def _unresolved(row: Record) -> str:
    if row["resolvable"] or row["mde"] is None:
        return ""
    if is_uninformative(row["mde"]):
        return " (uninformative at this noise)"
    repeats = f", {row['repeats_to_decide']:,} repeats would decide" if row["repeats_to_decide"] else ""
    return f" (from {100 * row['mde']:.0f} % on{repeats})"


def _predictions(found: Record) -> Iterator[str]:
    yield ""
    yield "| cell | copies in take | predicted | observed, 95 % interval | processes | |"
    yield "|---|---|---|---|---|---|"
    for row in found.get("predictions", []):
        yield (
            f"| {row['group']} | {row['ratio_measured']:.3f} times as long | "
            f"{_bracket(row)} | {_effect(row['observed'], row['interval'])} | "
            f"{row['pairs']} | {'' if row['in_bracket'] else 'OUTSIDE'} |"
        )


def _regimes(found: Record) -> Iterator[str]:
    yield ""
    yield "| cell | regime by trace | limit by times alone | idle | copy / compute | traced / timed |"
    yield "|---|---|---|---|---|---|"
    for row in found.get("regimes", []):
        why = row.get("evidence") or {}
        rho = "-" if why.get("rho") is None else f"{why['rho']:.2f}"
        idle = "-" if why.get("idle_share") is None else f"{100 * why['idle_share']:.1f} %"
        ratio = f"{row['timed_over_traced']:.2f}" if row["measured"] else "-"
        yield f"| {row['group']} | {row['measured'] or 'no trace'} | {row['limit_solo']} | {idle} | {rho} | {ratio} |"


def _clocks(found: Record) -> Iterator[str]:
    clocks = found["clocks"]
    if not clocks:
        return
    added = sorted(row["event_us"] - row["trace_us"] for row in clocks["copies"])
    yield ""
    yield (
        "CUDA events against the trace of the same copies. A pair of events around a single copy adds "
        f"{added[0]:.2f} to {added[-1]:.2f} us to it, whatever its size (an empty pair: "
        f"{clocks['empty_pair_us']:.2f} us); in the last column this is taken out, by either clock alone: a train of "
        f"{CLOCK_COPIES} copies less a single one. Latency of a batch in the pipeline: events / trace "
        f"{clocks['pipeline']['event_over_trace']:.4f}."
    )
    yield ""
    yield "| copy | bytes | single copy: events | trace | events / trace | train: events / trace | train less one |"
    yield "|---|---|---|---|---|---|---|"
    for row in clocks["copies"]:
        yield (
            f"| {row['way']} | {row['bytes']:,} | {row['event_us']:.2f} us | {row['trace_us']:.2f} us | "
            f"{row['event_over_trace']:.4f} | {row['train_event_over_trace']:.4f} | "
            f"{by_difference(row):.4f} |"
        )


def by_difference(row: Record) -> float:
    """Events / trace of a copy and the way to the next one: of either clock a train less a single copy."""
    return (row["train_event_us"] - row["event_us"]) / (row["train_trace_us"] - row["trace_us"])


def _bracket(row: Record) -> str:
    low, high = (_percent(end) for end in row["bracket"])
    return f"{low} to {high}"


def _effect(value: float, interval: Any) -> str:
    # Rounding must not make a minus sign of nothing.
    shown = f"{100 * value + 0.0:.2f} %"
    return shown if interval is None else f"{shown} [{100 * interval[0] + 0.0:.2f}, {100 * interval[1] + 0.0:.2f}]"


def text_table(found: Record) -> str:
    return "\n".join(_lines(found))


def _lines(found: Record) -> Iterator[str]:
    yield f"{found['device']}, {found['ran_s']:.0f} s; {found['summary']}"
    yield "controls"
    for row in found.get("controls", []):
        yield (
            f"  {row['kind']:8s} {row['group']:22s} {row['condition']:12s} expected {_expected(row):16s} "
            f"{row['penalty']:8.2%} {_interval(row['interval'])} n={row['pairs']} {row['verdict']:14s} "
            f"solo: {row['attributed_solo']:14s} trace: {row['attributed_trace']:14s} "
            f"regime {row['regime']}, limit {row['limit_solo']}"
        )
        yield f"      delay {row['delay_us']:.2f} us, felt {row['felt_us']:.2f}; {_growths(row)}"
    yield "slower copies: predicted and observed"
    for row in found.get("predictions", []):
        yield (
            f"  {row['group']:22s} x {row['ratio_measured']:.3f}  predicted {_bracket(row)}  "
            f"observed {_percent(row['observed'])} {_interval(row['interval'])} "
            f"n={row['pairs']} {'in bracket' if row['in_bracket'] else 'NOT in bracket'}"
        )
    yield "regimes"
    for row in found.get("regimes", []):
        yield f"  {row['group']:22s} {row['measured']} (expected {row['expected']}), limit by solo {row['limit_solo']}"
    yield "CUDA events over trace"
    for row in found.get("clocks", {}).get("copies", []):
        yield (
            f"  {row['way']} {row['bytes']:9d} bytes: single {row['event_over_trace']:.4f} "
            f"({row['event_us']:.1f} us), train {row['train_event_over_trace']:.4f}, "
            f"train less one {by_difference(row):.4f}"
        )
    if "pipeline" in found.get("clocks", {}):
        yield f"  empty pair {found['clocks']['empty_pair_us']:.2f} us"
        yield f"  latency of a batch {found['clocks']['pipeline']}"
    for error in found.get("errors", []):
        yield f"ERROR {error['where']}: {error['error']}"


def _growths(row: Record) -> str:
    solo = ", ".join(f"{term} {each['us']:+.2f}" for term, each in row["growth_solo"].items())
    trace = row["growth_trace"]
    traced = ", ".join(f"{term} {us:+.2f}" for term, us in trace.items() if term != "error") if trace else "none"
    return f"solo {solo}; trace {traced}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:5.2f} %"


def _interval(interval: Any) -> str:
    return "[      -      ]" if interval is None else f"[{100 * interval[0]:6.2f}, {100 * interval[1]:6.2f}]"
