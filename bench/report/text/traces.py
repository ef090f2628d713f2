"""Traces: remarks, how complete they are, and what `numastudy analyze` prints."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.records.trace import Complete, Metrics, RemarkKind, TraceRemark
from bench.units import DASH, bandwidth, fixed, grouped, microseconds, percent, plural

if TYPE_CHECKING:
    from bench.records.results import MeasuredCell

_NAME_WIDTH = 80


def trace_remark_text(remark: TraceRemark) -> str:
    count = f"{remark.count} of {remark.total}"
    copies = f"{count} {remark.direction.upper()} copies" if remark.direction else f"{count} copies"
    match remark.kind:
        case RemarkKind.PAGEABLE_COPIES:
            return f"{copies} use pageable host memory: they are staged and block the CPU; pin the buffers"
        case RemarkKind.DEFAULT_STREAM_COPIES:
            return (
                f"{copies} run on the default stream, which waits for other streams and makes them wait; "
                "copy on a separate stream"
            )
        case RemarkKind.UNIFIED_MEMORY_COPIES:
            return f"{copies} move unified memory on demand; they are not counted as H2D or D2H"
        case RemarkKind.SEVERAL_DEVICES:
            return f"{remark.count} GPUs were used in one window"
        case RemarkKind.OTHER_THREADS:
            return (
                f"{count} activities of the window were launched by other threads of the process and are not counted; "
                "idle time does not mean that the GPU was idle"
            )


def completeness_text(complete: Complete) -> str:
    if complete.launches is None:
        return "the trace names no launches; every activity has a time and starts after its call"
    return f"{complete.recorded} of {complete.launches} launches have an activity, none without time or before its call"


def traces_text(cells: Sequence["MeasuredCell"]) -> str:
    """How complete the traces of a study are; empty where nothing was traced."""
    found = [cell.metrics.complete for cell in cells if cell.metrics]
    if not found:
        return ""
    named = [complete for complete in found if complete.launches is not None]
    launches, recorded = (sum(getattr(complete, key) or 0 for complete in named) for key in ("launches", "recorded"))
    others = sum(complete.other_threads > 0 for complete in found)
    parts = [f"{plural(len(found), 'trace')}: every activity has a time and starts after the call that launched it"]
    if named:
        parts.append(f"{grouped(recorded)} of {grouped(launches)} launches have an activity")
    if others:
        parts.append(f"in {plural(others, 'trace')} other threads of the process launched work that is not counted")
    return "; ".join(parts) + "."


def analysis_text(found: Metrics) -> str:
    """What `numastudy analyze` prints of one trace."""
    return "\n".join(_lines(found))


def _lines(found: Metrics) -> Iterator[str]:
    window, latency, why = found.window_ns, found.latency_us, found.regime_evidence
    yield f"{found.name}  ({', '.join(device.name or f'device {device.id}' for device in found.devices)})"
    yield f"  {found.batches} batches in {microseconds(window / 1e3)}: {found.regime}"
    rho = "unknown" if why.rho is None else fixed(why.rho)
    late = "" if why.late_share is None else f", of it {percent(why.late_share)} waiting for a launch"
    yield f"    copy over compute {rho}, idle {percent(why.idle_share)}{late}"
    for stage, copies, exposed in (("h2d", found.h2d, found.exposed_h2d_ns), ("d2h", found.d2h, found.exposed_d2h_ns)):
        yield (
            f"  {stage}      {copies.copies} copies, {copies.bytes} bytes, {percent(copies.busy_ns / window):>7} busy, "
            f"{bandwidth(copies.bandwidth_gb_s)} GB/s, exposed {percent(exposed / window)}"
        )
    compute = found.compute
    others = (
        (compute.graph_launches, "graph launches"),
        (compute.memsets, "memsets"),
        (compute.device_copies, "device copies"),
    )
    counts = [f"{compute.kernels} kernels", *(f"{count} {name}" for count, name in others if count)]
    yield f"  compute  {', '.join(counts)}, {percent(compute.busy_ns / window):>7} busy"
    yield f"  efficiency {percent(found.pipeline_efficiency)} in situ, bottleneck {found.bottleneck}"
    values = (("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99), ("max", latency.max))
    known = [f"{name} {microseconds(value)}" for name, value in values if value is not None]
    yield f"  latency    {', '.join(known) or DASH}"
    yield from (f"    no {name}: {reason}" for name, reason in latency.reasons.items())
    for kernel in found.top_kernels[:3]:
        yield f"  {percent(kernel.total_ns / window):>7}  {kernel.calls} x {kernel.name[:_NAME_WIDTH]}"
    yield f"  complete   {completeness_text(found.complete)}"
    yield from (f"  note: {trace_remark_text(remark)}" for remark in found.remarks)
