"""Made-up results for tests of texts and sections; every number is invented."""

from typing import Any

from msgspec.structs import replace

from bench.analysis.axes import summarise
from bench.records.base import convert, plain
from bench.records.results import AxisComparison, Line, MeasuredCell, Penalty, Results, Rules
from bench.records.study import Model, Settings, Study
from bench.records.trace import Metrics
from bench.report.view import View

RULES = Rules()
_COPIES = {"bytes": 1000, "copies": 10, "busy_ns": 100, "bandwidth_gb_s": 50.0, "link_gb_s": 50.0}
_COMPUTE = {"kernels": 10, "graph_launches": 0, "memsets": 0, "device_copies": 0, "busy_ns": 500}
_LATENCY = {"count": 10, "p50": 10.0, "p90": 11.0, "p99": None, "max": 12.0, "reasons": {}}
_EVIDENCE = {"idle_share": 0.1, "late_idle_ns": 0, "late_share": None, "call_idle_ns": 0, "call_share": None, "rho": 1}
_COMPLETE = {"launches": 10, "recorded": 10, "untimed": 0, "before_call": 0, "other_threads": 0}


def model(name: str = "vit32x6x512", heads: int = 8) -> Model:
    patch_size, depth, dim = map(int, name.removeprefix("vit").split("x"))
    return Model(patch_size=patch_size, depth=depth, dim=dim, heads=heads)


def metrics(regime: str = "compute-bound", **changes: Any) -> Metrics:
    values = {
        "name": "trace", "batches": 10, "window_ns": 1000, "h2d": _COPIES, "d2h": _COPIES, "compute": _COMPUTE,
        "overlap_ns": 100, "exposed_h2d_ns": 300, "exposed_d2h_ns": 0, "exposed_copy_ns": 300, "idle_ns": 200,
        "pipeline_efficiency": 0.5, "bottleneck": "compute", "latency_us": _LATENCY, "regime": regime,
        "regime_evidence": _EVIDENCE, "complete": _COMPLETE, "devices": [], "remarks": [],
        "launch_gaps": {"count": 0, "total_ns": 0, "max_ns": 0}, "top_kernels": [], "export": {},
    }  # fmt: skip
    return convert(values | changes, Metrics)


def cell(name: str = "cell", of: str = "vit32x6x512", node: int = 0, **changes: Any) -> MeasuredCell:
    """settings and what else differs are given as fields of MeasuredCell."""
    differing = changes.pop("differing", {})
    values = {
        "name": name, "key": name, "gpu": 0, "gpu_uuid": None, "cpu_node": node, "mem_node": node,
        "model": model(of), "settings": Settings(device="cuda", **{k: v for k, v in differing.items() if k != "heads"}),
        "differing_settings": differing, "outcome": "ok", "state": "done",
    }  # fmt: skip
    return convert(plain(values | changes), MeasuredCell)


def line(
    name: str, value: dict[str, Any], effect: float | None = None, verdict: str | None = None, **changes: Any
) -> Line:
    values = {
        "name": name, "base_cell": "base", "gpu": 0, "cpu_node": 0, "mem_node": 0, "model": "vit32x6x512",
        "settings": {}, "value": value, "effect": effect, "verdict": verdict, "pairs": 6,
        "reason": "different" if verdict in ("SLOWER", "FASTER") else "within_margin", "remedy": None,
        "headline": verdict in ("SLOWER", "FASTER"),
    }  # fmt: skip
    return convert(plain(values | changes), Line)


def penalty(penalty: float | None = 0.2, verdict: str = "SLOWER", **changes: Any) -> Penalty:
    values = {
        "gpu": 0, "model": "vit32x6x512", "settings": {}, "local_node": 0, "remote_node": 2, "remote_cpu_node": 2,
        "kind": "node", "local_source": "reported", "local_cell": "local", "remote_cell": "remote",
        "disturbed_pairs": 0, "penalty": penalty, "verdict": verdict, "reason": "different", "remedy": None,
        "headline": True, "pairs": 6, "interval": None if penalty is None else (penalty - 0.02, penalty + 0.02),
    }  # fmt: skip
    return convert(plain(values | changes), Penalty)


def axis(
    *lines: Line, base: dict[str, Any], values: list[dict[str, Any]] | None = None, **changes: Any
) -> AxisComparison:
    """The base and, unless they are given, the values of the lines; summarised."""
    found = [base, *(values or [one.value for one in lines])]
    order = dict.fromkeys(tuple(one[key] for key in base) for one in found)
    named = tuple(dict(zip(base, value, strict=True)) for value in order)
    whole = AxisComparison(axis=", ".join(base), keys=tuple(base), base=base, values=named)
    return replace(summarise(whole, lines), **changes)


def results(cells: tuple[MeasuredCell, ...] = (), **changes: Any) -> Results:
    values = {
        "study": Study(name="made", device="cuda", profiler="nsys", binding="numactl"), "study_name": "made",
        "run_directory": "/tmp/made", "created_at": "2026-01-01T00:00:00+00:00", "invocation": "test", "host": "host",
        "fingerprint": {}, "topology": {}, "locality": {}, "preflight": [], "device": "cuda", "device_names": {},
        "binding": "numactl", "rules": RULES, 
        "counts": {"cells": len(cells), "ok": len(cells), "runs": 0, "runs_ok": 0},
        "duration_s": 10.0, "busy_s": 5.0, "measured_s": 2.0, "trust": trust(), "damaged": [], "cells": cells,
        "penalties": [], "predictions": [], "hidden_copies": [], "comparisons": [], "fastest": [], "contention": [],
        "links": [], "drift": None,
    }  # fmt: skip
    return convert(plain(values | changes), Results)


def trust(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "runs_ok": 0, "timed_ok": 0, "proved": 0, "unproved": [], "unproved_reasons": {}, "monitored": 0,
        "throttling_unknown": [], "throttled": [], "disturbed": [], "disturbed_by": {}, "noise": {},
        "noise_floor": None, "foreign_fingerprints": [],
    }  # fmt: skip
    return values | changes


def changed(view: View, **changes: Any) -> View:
    """The same results with other fields."""
    return View(replace(view.results, **changes))


def with_cell(view: View, name: str, **changes: Any) -> View:
    """The same results with one cell changed."""
    cells = tuple(replace(one, **changes) if one.name == name else one for one in view.results.cells)
    return changed(view, cells=cells)
