"""What the hosts measured, as one record: cells by host, hosts by type, who is off, how they are set up."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from bench.cluster.differences import differences, host_type, settings_of
from bench.cluster.outliers import Compared, Value, compare_hosts
from bench.cluster.status import DONE, ClusterStatus, HostStatus
from bench.results import shapes
from bench.shape import ANY, NUMBER, PLAIN, POSITIVE, TEXT, Each, Must

SCHEMA = 1
# Classes of noise in results.json; bench.results.verdicts, which names them, would bring scipy into numastudy status.
REST, UNKNOWN = "rest", "unknown"
Record = dict[str, Any]

# What is compared, and its unit.
QUANTITIES = {
    "throughput": "samples/s",
    "h2d link": "GB/s",
    "d2h link": "GB/s",
    "h2d copies of 512 MiB": "GB/s",
    "d2h copies of 512 MiB": "GB/s",
    "small copy": "µs",
}
_OF_LINK = {
    "h2d copies of 512 MiB": "nvbandwidth_h2d_gb_s",
    "d2h copies of 512 MiB": "nvbandwidth_d2h_gb_s",
    "small copy": "small_copy_us",
}
# What is read of a host's results.json.
_WAY = {"link_gb_s": POSITIVE}
_CELL = {
    "name": Must(TEXT), "model": Must({"name": Must(TEXT)}), "noise_class": TEXT, "metrics": {"h2d": _WAY, "d2h": _WAY},
    "throughput_samples_s": POSITIVE, "throughput_spread": NUMBER, "throughput_runs": [Must(POSITIVE)],
    "runs": Must([Must(shapes.RESULTS_RUN)]),
}  # fmt: skip
SHAPE = Must({
    "cells": Must([Must(_CELL)]), "counts": Must(Each(ANY)), "study": Must({"margin": NUMBER}),
    "fingerprint": Must(Each(PLAIN)), "topology": Must({"gpus": [Must({"name": TEXT})]}),
    "links": [Must({"name": Must(TEXT), **dict.fromkeys(_OF_LINK.values(), POSITIVE)})],
    "preflight": [Must({"name": Must(TEXT), "state": Must(TEXT)})],
})  # fmt: skip


def gather(status: ClusterStatus, results: Mapping[str, Record], unread: Mapping[str, str]) -> Record:
    """cluster_results.json. results: results.json of each host that has one; unread: why it cannot be used."""
    by_type: dict[str, list[str]] = {}
    for host, found in results.items():
        by_type.setdefault(host_type(found), []).append(host)
    margin = min((float(one["study"].get("margin") or 0.02) for one in results.values()), default=0.02)
    types = [_type(name, hosts, results, margin) for name, hosts in by_type.items()]
    return {
        "schema": SCHEMA,
        "study": status.study,
        "run_directory": str(status.path),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "margin": margin,
        "slurm_error": status.slurm_error,
        "hosts": [_host(host, results.get(host.host)) for host in status.hosts],
        "missing": [_missing(host, unread) for host in status.hosts if host.host not in results],
        "types": types,
        "cells": [_cell(host, cell) for host, found in results.items() for cell in found["cells"]],
    }


def _type(name: str, hosts: list[str], results: Mapping[str, Record], margin: float) -> Record:
    classes = _noise_classes(cell for host in hosts for cell in results[host]["cells"])
    # By quantity and class of noise: a spread of cells that hardly vary is not that of cells that do.
    values: dict[tuple[str, str], dict[str, dict[str, Value]]] = {}
    for host in hosts:
        for quantity, cell, value in [*_of_cells(results[host]), *_of_links(results[host])]:
            of_class = values.setdefault((quantity, classes.get(cell, REST)), {})
            of_class.setdefault(cell, {})[host] = value
    compared = [one for (quantity, _), cells in values.items() for one in compare_hosts(quantity, cells, margin)]
    return {
        "name": name,
        "hosts": hosts,
        "compared": [_compared(one) for one in compared],
        "outliers": [_outlier(one, host) for one in compared for host in one.outliers],
        "differences": [vars(one) for one in differences({host: settings_of(results[host]) for host in hosts})],
    }


def _noise_classes(cells: Iterable[Record]) -> dict[str, str]:
    """By cell the class that most hosts know it by: one that is slow enough to be in another class must not be hidden
    by the spread there. A cell whose class nobody knows has one of its own."""
    known: dict[str, Counter[str]] = {}
    for cell in cells:
        of_cell = known.setdefault(cell["name"], Counter())
        if cell.get("noise_class") not in (None, UNKNOWN):
            of_cell[cell["noise_class"]] += 1
    return {name: max(votes, key=votes.__getitem__) if votes else f"{UNKNOWN}: {name}" for name, votes in known.items()}


def _of_cells(results: Record) -> list[tuple[str, str, Value]]:
    found = []
    for cell in results["cells"]:
        metrics = cell.get("metrics") or {}
        spread, runs = cell.get("throughput_spread"), len(cell.get("throughput_runs") or [])
        error = spread / math.sqrt(runs) if spread is not None and runs > 1 else None
        found.append(("throughput", cell["name"], cell.get("throughput_samples_s"), error))
        found += [
            (f"{way} link", cell["name"], (metrics.get(way) or {}).get("link_gb_s"), None) for way in ("h2d", "d2h")
        ]
    return [(quantity, cell, Value(value, error)) for quantity, cell, value, error in found if value]


def _of_links(results: Record) -> list[tuple[str, str, Value]]:
    return [
        (quantity, link["name"], Value(float(link[key])))
        for link in results.get("links") or []
        for quantity, key in _OF_LINK.items()
        if link.get(key)
    ]


def _compared(one: Compared) -> Record:
    return vars(one) | {"unit": QUANTITIES[one.quantity]}


def _outlier(one: Compared, host: str) -> Record:
    return {
        "host": host,
        "cell": one.cell,
        "quantity": one.quantity,
        "unit": QUANTITIES[one.quantity],
        "value": one.values[host],
        "median": one.median,
        "offset": one.outliers[host],
        "scale": one.scale,
    }


def _host(host: HostStatus, results: Record | None) -> Record:
    known = {"type": host_type(results), "counts": results["counts"]} if results else {"type": None, "counts": None}
    return vars(host) | known | {"reported": results is not None}


def _missing(host: HostStatus, unread: Mapping[str, str]) -> Record:
    reasons = filter(None, ("" if host.state == DONE else host.reason, unread.get(host.host)))
    # A host that is done and has no results was read between the two: the next report has it.
    reason = "; ".join(reasons) or ("its report is being made" if host.state == DONE else host.state)
    return {"host": host.host, "state": host.state, "reason": reason, "runs_done": host.runs_done, "runs": host.runs}


def _cell(host: str, cell: Record) -> Record:
    kept = ("name", "key", "gpu", "gpu_uuid", "cpu_node", "mem_node", "outcome", "reason", "throughput_samples_s",
            "throughput_spread", "throughput_runs")  # fmt: skip
    return {"host": host, **{key: cell.get(key) for key in kept}, "model": cell["model"]["name"]}
