"""results.csv, and the table of cells for the terminal."""

from typing import Any

from bench.results.outcomes import told_outcome
from bench.results.spreadsheet import csv_table
from bench.results.words import bandwidth, microseconds, percent, rate
from bench.study.cell import LATER_SETTINGS

Record = dict[str, Any]
_SETTINGS = (
    *("batch_size", "num_samples", "image_size", "memory_size_mb", "buffers", "dtype", "compile_model", "cuda_graph"),
    *LATER_SETTINGS,
    *("device", "profiler", "binding"),
)


def flat_row(cell: Record) -> Record:
    """One cell as one flat row, the same columns for every cell."""
    metrics, latency = cell["metrics"] or {}, cell["latency_us"] or {}
    row = {key: cell[key] for key in ("name", "key", "gpu", "gpu_uuid", "cpu_node", "mem_node")}
    row |= {"model": cell["model"]["name"], "heads": cell["model"].get("heads")}
    row |= {key: cell["settings"].get(key) for key in _SETTINGS}
    row |= {
        "outcome": cell["outcome"],
        "reason": cell["reason"],
        "throughput_samples_s": cell["throughput_samples_s"],
        "throughput_spread": cell["throughput_spread"],
        "timed_runs": len(cell["throughput_runs"]),
        "noise_class": cell["noise_class"],
    }
    row |= {f"compile_s_{end}": (cell["compile_s"] or {}).get(end) for end in ("least", "most")}
    row |= {f"latency_{key}_us": latency.get(key) for key in ("p50", "p90", "p99", "max")}
    for direction in ("h2d", "d2h"):
        part = metrics.get(direction) or {}
        row |= {
            f"{direction}_bandwidth_gb_s": part.get("bandwidth_gb_s"),
            f"{direction}_bytes": part.get("bytes"),
            f"{direction}_busy_ns": part.get("busy_ns"),
        }
    row["compute_busy_ns"] = (metrics.get("compute") or {}).get("busy_ns")
    row |= {
        key: metrics.get(key)
        for key in (
            "batches",
            "window_ns",
            "overlap_ns",
            "exposed_copy_ns",
            "idle_ns",
            "pipeline_efficiency",
            "bottleneck",
        )
    }
    return row | {
        "regime": metrics.get("regime"),
        "penalty_class": cell["penalty_class"],
        "bound_us": (cell["bound"] or {}).get("bound_us"),
        "efficiency_solo": cell["efficiency_solo"],
        "perturbation": cell["perturbation"],
        "clock_host_over_trace": cell["clocks"]["host_over_trace"],
        "clock_events_over_trace": cell["clocks"]["events_over_trace"],
        "failed_run": cell["failed_run"],
    }


def csv_text(cells: list[Record]) -> str:
    rows = [flat_row(cell) for cell in cells]
    return csv_table(list(rows[0]) if rows else ["name"], rows)


COLUMNS = (
    "cell",
    "outcome",
    "samples/s",
    "spread",
    "p50",
    "p99",
    "H2D GB/s",
    "D2H GB/s",
    "efficiency",
    "regime",
)


def display_row(cell: Record) -> tuple[str, ...]:
    """One cell in words, in the order of COLUMNS; what is not known is a dash."""
    metrics, latency = cell["metrics"] or {}, cell["latency_us"] or {}
    return (
        cell["name"],
        told_outcome(cell),
        rate(cell["throughput_samples_s"]),
        percent(cell["throughput_spread"])
        if cell["throughput_spread"] is not None
        else "1 run"
        if cell["throughput_runs"]
        else "–",
        microseconds(latency.get("p50")),
        microseconds(latency.get("p99")),
        bandwidth((metrics.get("h2d") or {}).get("bandwidth_gb_s")),
        bandwidth((metrics.get("d2h") or {}).get("bandwidth_gb_s")),
        percent(metrics.get("pipeline_efficiency")),
        metrics.get("regime") or "–",
    )


def cells_table(results: Record) -> str:
    """The cells as aligned text for a terminal, failures with their reason below."""
    rows = [COLUMNS, *(display_row(cell) for cell in results["cells"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    left = (0, 1, len(COLUMNS) - 1)

    def line(row: tuple[str, ...]) -> str:
        return "  ".join(
            value.ljust(width) if column in left else value.rjust(width)
            for column, (value, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    lines = [line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])]
    failed = [cell for cell in results["cells"] if cell["outcome"] != "ok"]
    lines += [f"{cell['name']}: {told_outcome(cell)}: {_one_line(cell['reason'])}" for cell in failed]
    if results["device"] == "cpu":
        lines.append("CPU device: no GPU was measured")
    if results["binding"] == "none":
        lines.append("nothing was bound: the nodes are labels only")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
