"""A study's results in the formats of other tools: Bencher's metric format, OpenMetrics, and those of other modules."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench.analysis.load import read_results_file
from bench.records.results import MeasuredCell, Penalty, Results
from bench.report.markdown import pull_request
from bench.report.perfetto import perfetto

Bounds = tuple[float, float] | None
Sample = tuple[dict[str, str], float]
"""Labels and value."""


def convert(path: Path, to: str, cell: str = "") -> str:
    """path: a run directory or its results.json; cell: of perfetto.

    Raise StudyError if there are no results.
    """
    if to == "perfetto":
        return perfetto(path if path.is_dir() else path.parent, cell)
    results = read_results_file(path / "results.json" if path.is_dir() else path)
    return {"bencher": bencher, "openmetrics": openmetrics, "pull-request": pull_request}[to](results)


def bencher(results: Results) -> str:
    """JSON by benchmark and measure (bencher.dev/docs/reference/bencher-metric-format).

    A cell has `throughput` (samples/s), or the metric of its command, with the least and the most of its runs, and
    `latency` and `latency-p99` (ns, as Bencher's own latency). A comparison has `penalty`, a share, with its interval.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for cell in results.cells:
        if cell.value is not None:
            name = cell.metric.name if cell.metric else "throughput"
            measures = {name: _measure(cell.value, _range(cell))}
            measures |= {"latency" + suffix: _measure(1000 * us) for suffix, us in _latencies(cell)}
            found[cell.name] = measures
    for entry in results.penalties:
        if entry.penalty is not None:
            found[_name(entry)] = {"penalty": _measure(entry.penalty, entry.interval)}
    return json.dumps(found, indent=1, allow_nan=False)


def openmetrics(results: Results) -> str:
    """Text of the OpenMetrics specification 1.0, which a node exporter's textfile collector reads too.

    Samples have no timestamps, which that collector refuses; numastudy_created_timestamp_seconds has the time.
    """
    study = {"study": results.study_name}
    values, latencies, penalties = list[Sample](), list[Sample](), list[Sample]()
    for cell in results.cells:
        labels = study | _labels(cell)
        if cell.value is not None:
            name, unit = (cell.metric.name, cell.metric.unit) if cell.metric else ("throughput", "samples/s")
            values.append((labels | {"metric": name, "unit": unit}, cell.value))
        latencies += [(labels | {"quantile": "0.99" if suffix else "0.5"}, us / 1e6) for suffix, us in _latencies(cell)]
    for entry in results.penalties:
        if entry.penalty is None:
            continue
        of = study | {"gpu": str(entry.gpu), "model": entry.model, "cell": entry.remote_cell, "base": entry.local_cell}
        low, high = entry.interval or (None, None)
        parts = {"estimate": entry.penalty, "lower": low, "upper": high}
        penalties += [(of | {"bound": bound}, value) for bound, value in parts.items() if value is not None]
    created = datetime.fromisoformat(results.created_at).astimezone(UTC).timestamp()
    families = (
        ("numastudy_value", "What a cell measured.", values),
        ("numastudy_latency_seconds", "Latency of a batch.", latencies),
        ("numastudy_penalty_ratio", "Share of throughput lost against the local node, with its interval.", penalties),
        ("numastudy_created_timestamp_seconds", "When the results were written.", [(study, created)]),
    )
    return "\n".join([*(line for family in families for line in _family(*family)), "# EOF"])


def _family(name: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# TYPE {name} gauge"
    unit = name.rsplit("_", 1)[-1]
    if unit in ("seconds", "ratio"):
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {text}"
    for labels, value in samples:
        written = ",".join(f'{key}="{_escaped(content)}"' for key, content in labels.items())
        yield f"{name}{{{written}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(cell: MeasuredCell) -> dict[str, str]:
    nodes = {"gpu": str(cell.gpu), "cpu_node": str(cell.cpu_node), "mem_node": str(cell.mem_node)}
    return {"cell": cell.name, **nodes, "model": cell.model.name, "outcome": cell.outcome}


def _latencies(cell: MeasuredCell) -> list[tuple[str, float]]:
    """Microseconds by the suffix of the measure."""
    found = cell.latency_us
    known = [] if found is None else [("", found.p50), ("-p99", found.p99)]
    return [(suffix, us) for suffix, us in known if us is not None]


def _range(cell: MeasuredCell) -> Bounds:
    return (min(cell.values), max(cell.values)) if len(cell.values) > 1 else None


def _measure(value: float, bounds: Bounds = None) -> dict[str, float]:
    return {"value": value} | ({"lower_value": bounds[0], "upper_value": bounds[1]} if bounds else {})


def _name(entry: Penalty) -> str:
    return f"{entry.remote_cell} against {entry.local_cell}"
