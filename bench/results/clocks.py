"""Whether three clocks tell the same: the host's timer, CUDA events, and the profiler's trace."""

from typing import Any

Record = dict[str, Any]
LIMIT = 0.02
PERTURBED = 0.05
"""A profiler that costs more than this made another run of it; latencies of the two are then not compared."""
ENDS_NS = 500_000
"""The host's window also holds the first launch and the closing synchronise: 0.18 to 0.26 ms on one H200."""


def clocks(
    traced: Record | None, metrics: Record | None, latency_us: Record | None, perturbation: float | None
) -> Record:
    """The clocks of one cell against its trace; a ratio is None where one of the two is not known.

    host_over_trace: the traced pass by the host's timer over the window of its trace, the same run.
    events_over_trace: median latency by CUDA events (on the cpu device the host's clock) of the timed runs over
    that of the trace, which is another run; events_comparable: the profiler did not change the pace.
    disagree: sentences, one for each pair that differs by more than LIMIT.
    """
    host_ns = _host_ns(traced)
    trace_ns = (metrics or {}).get("window_ns")
    host = host_ns / trace_ns if host_ns and trace_ns else None
    medians = ((latency_us or {}).get("p50"), ((metrics or {}).get("latency_us") or {}).get("p50"))
    events = medians[0] / medians[1] if all(medians) else None
    comparable = perturbation is not None and abs(perturbation - 1) <= PERTURBED
    disagree = []
    if host and not (host >= 1 - LIMIT and host_ns - trace_ns <= LIMIT * trace_ns + ENDS_NS):
        disagree.append(f"the host's timer gives the traced pass {_differs(host)} than its trace")
    if events and comparable and abs(events - 1) > LIMIT:
        disagree.append(f"the events of the timed runs give the median latency {_differs(events)} than the trace")
    return {
        "host_over_trace": host,
        "events_over_trace": events,
        "events_comparable": comparable,
        "disagree": disagree,
    }


def _differs(ratio: float) -> str:
    return f"{abs(ratio - 1):.1%} {'longer' if ratio > 1 else 'shorter'}".replace("%", " %")


def _host_ns(traced: Record | None) -> float | None:
    windows = ((traced or {}).get("result") or {}).get("windows") or []
    return 1e9 * sum(window["duration_s"] for window in windows) if windows else None
