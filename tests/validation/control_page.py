"""The controls as text: a table for the terminal, a section for docs/validity.md."""

from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]


def text_table(found: Record) -> str:
    return "\n".join(_lines(found))


def _lines(found: Record) -> Iterator[str]:
    yield f"{found['device']}, {found['ran_s']:.0f} s; {found['summary']}"
    yield "controls"
    for row in found.get("controls", []):
        yield (
            f"  {row['kind']:8s} {row['group']:22s} {row['condition']:12s} expected {_percent(row['expected'])}  "
            f"{row['penalty']:8.2%} {_interval(row['interval'])} n={row['pairs']} {row['verdict']:14s} "
            f"solo: {row['attributed_solo']:14s} trace: {row['attributed_trace']:14s} "
            f"regime {row['regime']}, limit {row['limit_solo']}"
        )
        yield f"      delay {row['delay_us']:.2f} us, felt {row['felt_us']:.2f}; {_growths(row)}"
    yield "slower copies: predicted and observed"
    for row in found.get("predictions", []):
        yield (
            f"  {row['group']:22s} x {row['ratio_measured']:.3f}  predicted {_percent(row['predicted'])} in "
            f"{_interval(row['bracket'])}  observed {_percent(row['observed'])} {_interval(row['interval'])} "
            f"n={row['pairs']} {'in bracket' if row['in_bracket'] else 'NOT in bracket'}"
        )
    yield "regimes"
    for row in found.get("regimes", []):
        yield f"  {row['group']:22s} {row['measured']} (expected {row['expected']}), limit by solo {row['limit_solo']}"
    yield "CUDA events over trace"
    for row in found.get("clocks", {}).get("copies", []):
        yield (
            f"  {row['way']} {row['bytes']:9d} bytes: single {row['event_over_trace']:.4f} "
            f"({row['event_us']:.1f} us), train {row['train_event_over_trace']:.4f}"
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
