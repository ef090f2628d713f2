"""The links as the microbenchmarks found them: what the report's percentages refer to."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
WAYS = ("h2d", "d2h")
_KEPT = (
    *("copies", "nvbandwidth_h2d_gb_s", "nvbandwidth_d2h_gb_s", "nvbandwidth_definition", "small_copy_us"),
    *("launch_us", "reasons"),
)


@dataclass(frozen=True)
class Ceiling:
    """The best that one GPU's link gave in one direction; source says what measured it."""

    gb_s: float
    source: str


def link_entries(records: dict[str, Record]) -> list[Record]:
    """The `links` of results.json, by GPU and placement.

    name, gpu, cpu_node, mem_node, status, reason, device, placement (the certificate's verdict), and of those that are
    ok copies [{direction, bytes, median_gb_s, count}], nvbandwidth_h2d_gb_s, nvbandwidth_d2h_gb_s,
    nvbandwidth_definition, small_copy_us, launch_us, reasons; None where that was not measured.
    """
    found = []
    for name, record in records.items():
        result = record.get("result") or {}
        entry = {"name": name, **{key: record.get(key) for key in ("gpu", "cpu_node", "mem_node", "status", "reason")}}
        measured = result if record["status"] == "ok" else {}
        entry |= {"placement": (measured.get("certificate") or {}).get("verdict")}
        entry |= {"device": (measured.get("device") or {}).get("type")}
        found.append(entry | {key: measured.get(key) for key in _KEPT} | {"copies": measured.get("copies") or []})
    return sorted(found, key=lambda entry: (entry["gpu"], entry["cpu_node"] != entry["mem_node"], entry["mem_node"]))


def ceiling(links: Iterable[Record], cells: Iterable[Record], gpu: int, way: str) -> Ceiling | None:
    """Of a GPU, over all its placements: by nvbandwidth's definition; where that was not measured, the largest
    bandwidth of the microbenchmark's copies; without microbenchmarks the best copy of a batch alone."""
    own = [link for link in links if link["gpu"] == gpu]
    defined = [link[f"nvbandwidth_{way}_gb_s"] for link in own if link[f"nvbandwidth_{way}_gb_s"]]
    if defined:
        return Ceiling(max(defined), "nvbandwidth's definition")
    copies = [copy["median_gb_s"] for link in own for copy in link["copies"] if copy["direction"] == way]
    if copies:
        return Ceiling(max(copies), "the best copy of the microbenchmarks")
    alone = [rate for cell in cells if cell["gpu"] == gpu and (rate := alone_gb_s(cell, way))]
    return Ceiling(max(alone), "the best copy of a batch alone") if alone else None


def alone_gb_s(cell: Record, way: str) -> float | None:
    """Of a copy of the batch's own size with the other stages off."""
    solo_us = (cell.get("solo_us") or {}).get(way)
    moved = (cell.get("bytes_per_batch") or {}).get(way)
    return moved / (1e3 * solo_us) if solo_us and moved else None
