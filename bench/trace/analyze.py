"""numastudy analyze: the metrics of a trace, or of every trace in a folder, without a study around it."""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import StudyError, TraceError
from bench.trace.metrics import check_conservation, metrics
from bench.trace.nsys import Nsys
from bench.trace.reader import read_trace
from bench.trace.remarks import details
from bench.trace.torch_trace import convert

# In order of preference: an export needs no work, and a report beside its export says nothing new.
ENDINGS = (".sqlite", ".sqlite.gz", ".nsys-rep", ".trace.json.gz", ".trace.json")
EXIT_FAILED = 2
NAME_WIDTH = 80


def analyze_path(path: Path | str, cell: Mapping[str, Any] | None = None) -> dict[str, Any] | list[dict[str, Any]]:
    """A file's metrics, or a folder's, in the order of their names.

    cell: what the trace should hold, as far as it is known: `name`, `batches_per_pass`, `bytes_in_per_batch`,
    `bytes_out_per_batch` (of a cell or of a run's result). In a folder a broken trace becomes {"name", "error",
    "advice"} and harms no other. Raise TraceError for a broken file and for a folder without traces.
    """
    path = Path(path)
    return [_outcome(trace) for trace in _traces(path)] if path.is_dir() else analyze_file(path, cell)


def analyze_file(path: Path, cell: Mapping[str, Any] | None = None) -> dict[str, Any]:
    cell = cell or {}
    ending = _ending(path) or ""
    name = str(cell.get("name") or path.name.removesuffix(ending))
    if ending.startswith((".nsys-rep", ".trace")):
        with tempfile.TemporaryDirectory(prefix="numastudy-") as folder:
            export = Path(folder) / "export.sqlite"
            if not path.is_file():
                raise TraceError("no such file", str(path), "check the path")
            Nsys().export_file(path, export) if ending == ".nsys-rep" else convert(path, export)
            trace = read_trace(export, name)
    else:
        trace = read_trace(path, name)
    found = metrics(trace)
    if "bytes_in_per_batch" in cell and "bytes_out_per_batch" in cell:
        expected = cell["bytes_in_per_batch"], cell["bytes_out_per_batch"], cell.get("batches_per_pass")
        check_conservation(found, *expected)
    return {"name": name, **found, **details(trace)}


def analyze_command(path: Path | str, as_json: bool) -> int:
    """Print to stdout, errors of single traces to stderr; the exit code."""
    found = analyze_path(path)
    rows = found if isinstance(found, list) else [found]
    broken = [row for row in rows if "error" in row]
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        print("\n\n".join(_text(row) for row in rows if "error" not in row))
    for row in broken:
        print(f"{row['name']}: {row['error']}\n  to do: {row['advice']}", file=sys.stderr)
    return EXIT_FAILED if broken else 0


def _traces(folder: Path) -> list[Path]:
    """One file a trace: of those with one name the first by ENDINGS. A run directory keeps them in nsys_reports."""
    found: dict[str, Path] = {}
    for place in (folder, folder / "nsys_reports"):
        for ending in ENDINGS:
            for path in sorted(place.glob(f"*{ending}")):
                found.setdefault(path.name.removesuffix(ending), path)
    if not found:
        raise TraceError("no trace in this folder", str(folder), f"a trace ends in {', '.join(ENDINGS)}")
    return [found[name] for name in sorted(found)]


def _outcome(path: Path) -> dict[str, Any]:
    try:
        return analyze_file(path)
    except StudyError as error:
        return {"name": path.name.removesuffix(_ending(path) or ""), "error": error.what, "advice": error.advice}


def _ending(path: Path) -> str | None:
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), None)


def _text(found: dict[str, Any]) -> str:
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    window, latency, why = found["window_ns"], found["latency_us"], found["regime_evidence"]
    devices = ", ".join(device["name"] or f"device {device['id']}" for device in found["devices"])
    yield f"{found['name']}  ({devices})"
    yield f"  {found['batches']} batches in {window / 1e6:.3f} ms: {found['regime']}"
    rho = "none" if why["rho"] is None else f"{why['rho']:.2f}"
    late = "" if why["late_share"] is None else f", of it {why['late_share']:.0%} waiting for a launch"
    yield f"    copy over compute {rho}, idle {why['idle_share']:.1%}{late}"
    for stage in ("h2d", "d2h"):
        copy = found[stage]
        rate = "-" if copy["bandwidth_gb_s"] is None else f"{copy['bandwidth_gb_s']:.2f}"
        yield (
            f"  {stage}      {copy['copies']} copies, {copy['bytes']} bytes, {copy['busy_ns'] / window:6.1%} busy, "
            f"{rate} GB/s, exposed {found[f'exposed_{stage}_ns'] / window:.1%}"
        )
    compute = found["compute"]
    yield f"  compute  {compute['kernels']} kernels, {compute['busy_ns'] / window:6.1%} busy"
    yield f"  efficiency {found['pipeline_efficiency']:.3f} in situ, bottleneck {found['bottleneck']}"
    values = (f"{name} {latency[name]:.1f}" for name in ("p50", "p90", "p99", "max") if latency[name] is not None)
    yield f"  latency    {', '.join(values)} us"
    yield from (f"    no {name}: {reason}" for name, reason in latency["reasons"].items())
    for kernel in found["top_kernels"][:3]:
        yield f"  {kernel['total_ns'] / window:6.1%}  {kernel['calls']} x {kernel['name'][:NAME_WIDTH]}"
    yield from (f"  note: {remark}" for remark in found["remarks"])
