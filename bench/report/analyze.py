"""What `numastudy analyze` prints of traces: JSON for programs, or text."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.records.base import plain
from bench.records.trace import Metrics
from bench.report.text.cells import completeness_text, trace_remark_text
from bench.trace.analyze import Analysis, Broken, analyze_file, analyze_folder

EXIT_FAILED = 2
NAME_WIDTH = 80


def analyze_command(path: Path, as_json: bool) -> int:
    """Print to stdout, errors of single traces to stderr; return the exit code."""
    found = analyze_folder(path) if path.is_dir() else [analyze_file(path)]
    broken = [one for one in found if isinstance(one, Broken)]
    if as_json:
        rows = [_as_json(one) for one in found]
        print(json.dumps(rows if path.is_dir() else rows[0], indent=1, allow_nan=False))
    else:
        print("\n\n".join(analysis_text(one.metrics) for one in found if isinstance(one, Analysis)))
    for one in broken:
        print(f"{one.name}: {one.error}\n  to do: {one.advice}", file=sys.stderr)
    return EXIT_FAILED if broken else 0


def _as_json(found: Analysis | Broken) -> dict[str, Any]:
    if isinstance(found, Broken):
        return dict(plain(found))
    remarks = [{**plain(remark), "text": trace_remark_text(remark)} for remark in found.metrics.remarks]
    return {**plain(found.metrics), "remarks": remarks, "per_batch": plain(found.per_batch)}


def analysis_text(found: Metrics) -> str:
    return "\n".join(_lines(found))


def _lines(found: Metrics) -> Iterator[str]:
    window, latency, why = found.window_ns, found.latency_us, found.regime_evidence
    yield f"{found.name}  ({', '.join(device.name or f'device {device.id}' for device in found.devices)})"
    yield f"  {found.batches} batches in {window / 1e6:.3f} ms: {found.regime}"
    rho = "none" if why.rho is None else f"{why.rho:.2f}"
    late = "" if why.late_share is None else f", of it {why.late_share:.0%} waiting for a launch"
    yield f"    copy over compute {rho}, idle {why.idle_share:.1%}{late}"
    for stage, copies, exposed in (("h2d", found.h2d, found.exposed_h2d_ns), ("d2h", found.d2h, found.exposed_d2h_ns)):
        rate = "-" if copies.bandwidth_gb_s is None else f"{copies.bandwidth_gb_s:.2f}"
        yield (
            f"  {stage}      {copies.copies} copies, {copies.bytes} bytes, {copies.busy_ns / window:6.1%} busy, "
            f"{rate} GB/s, exposed {exposed / window:.1%}"
        )
    compute = found.compute
    others = (
        (compute.graph_launches, "graph launches"),
        (compute.memsets, "memsets"),
        (compute.device_copies, "device copies"),
    )
    counts = [f"{compute.kernels} kernels", *(f"{count} {name}" for count, name in others if count)]
    yield f"  compute  {', '.join(counts)}, {compute.busy_ns / window:6.1%} busy"
    yield f"  efficiency {found.pipeline_efficiency:.3f} in situ, bottleneck {found.bottleneck}"
    values = (("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99), ("max", latency.max))
    known = [f"{name} {value:.1f}" for name, value in values if value is not None]
    yield f"  latency    {', '.join(known) + ' us' if known else '-'}"
    yield from (f"    no {name}: {reason}" for name, reason in latency.reasons.items())
    for kernel in found.top_kernels[:3]:
        yield f"  {kernel.total_ns / window:6.1%}  {kernel.calls} x {kernel.name[:NAME_WIDTH]}"
    yield f"  complete   {completeness_text(found.complete)}"
    yield from (f"  note: {trace_remark_text(remark)}" for remark in found.remarks)
