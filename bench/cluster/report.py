"""Report of all hosts: outliers and differences."""

import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.cluster.directory import HOSTS, ClusterDirectory
from bench.cluster.status import DONE, ClusterStatus, HostStatus, cluster_status
from bench.errors import StudyError
from bench.host.fingerprint import LABELS, NOT_COMPARED
from bench.legacy import shapes
from bench.legacy.load import read_results
from bench.records.base import DamagedRecord, convert
from bench.records.results import Results
from bench.report.html import environment
from bench.shape import ANY, NUMBER, PLAIN, POSITIVE, TEXT, Each, Must, misfit
from bench.storage import write_json, write_text
from bench.units import plural

# --- outliers
# Which hosts of one type differ from the others. Pure: medians and their spread, no files.
#
# The rule, for one quantity of one cell over the hosts of a type. With x the logarithms of the hosts' values:
# centre = median(x), scale = the largest of
#   - 1.4826 b(n) median|x - centre| over the hosts of this cell (the MAD; b(n) makes it unbiased for few hosts),
#   - the same pooled over the cells that are compared together: few hosts say little of a spread, many cells more,
#   - the hosts' own standard error (median over the hosts): what a host's value moves from process to process.
# A host is an outlier if |x - centre| > 5 scale and the host is off by more than the study's margin.
# At least three hosts are needed: of two that differ nobody can say which one is wrong.

# Croux and Rousseeuw, Time-efficient algorithms for two highly robust estimators of scale (1992), section 3.
_SMALL_SAMPLE = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
NORMAL = 1.4826
SCALES = 5.0
LEAST_HOSTS = 3


@dataclass(frozen=True)
class Value:
    """A host's value (> 0), and its own relative standard error where repeats tell it."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Compared:
    """One quantity of one cell. median in the quantity's unit; scale and within relative; outliers: host -> offset.

    offset: relative to the median, -0.5 is half of it. within: the hosts' own standard error, None if unknown.
    """

    cell: str
    quantity: str
    median: float
    scale: float
    within: float | None
    values: dict[str, float]
    outliers: dict[str, float]


def compare_hosts(quantity: str, cells: Mapping[str, Mapping[str, Value]], margin: float) -> list[Compared]:
    """cells: by name the values by host, of cells that are alike in noise. Values not above zero are left out."""
    kept = {cell: _usable(values) for cell, values in cells.items()}
    logs = {cell: {host: math.log(one.value) for host, one in values.items()} for cell, values in kept.items()}
    pooled = _pooled_scale([list(values.values()) for values in logs.values()])
    return [_compare(cell, quantity, kept[cell], logs[cell], pooled, margin) for cell in kept if kept[cell]]


def small_sample(n: int) -> float:
    return _SMALL_SAMPLE.get(n, n / (n - 0.8)) if n > 1 else 1.0


def _usable(values: Mapping[str, Value]) -> dict[str, Value]:
    return {host: one for host, one in values.items() if math.isfinite(one.value) and one.value > 0}


def _deviations(values: Sequence[float]) -> list[float]:
    centre = statistics.median(values)
    return [abs(value - centre) for value in values]


def _scale(deviations: Sequence[float], hosts: int) -> float:
    return NORMAL * small_sample(hosts) * statistics.median(deviations) if deviations else 0.0


def _pooled_scale(cells: Sequence[Sequence[float]]) -> float:
    """Each cell's deviations with the correction for its own number of hosts."""
    scaled = [
        deviation * small_sample(len(values))
        for values in cells
        if len(values) >= LEAST_HOSTS
        for deviation in _deviations(values)
    ]
    return NORMAL * statistics.median(scaled) if scaled else 0.0


def _compare(
    cell: str, quantity: str, values: Mapping[str, Value], logs: Mapping[str, float], pooled: float, margin: float
) -> Compared:
    errors = [one.error for one in values.values() if one.error is not None]
    within = statistics.median(errors) if errors else None
    centre = statistics.median(logs.values())
    scale = max(_scale(_deviations(list(logs.values())), len(logs)), pooled, within or 0.0)
    offsets = {host: math.expm1(value - centre) for host, value in logs.items()}
    outliers = {
        host: offset
        for host, offset in offsets.items()
        if len(logs) >= LEAST_HOSTS and abs(logs[host] - centre) > SCALES * scale and abs(offset) > margin
    }
    plain = {host: one.value for host, one in values.items()}
    return Compared(cell, quantity, math.exp(centre), scale, within, plain, outliers)


# --- differences
# How hosts of one type are set up differently: BIOS, kernel, driver, links, and what the doctor found.

Record = dict[str, Any]
# GPU ids differ everywhere; the names are part of the type.
_NOT_OF_SETTING = NOT_COMPARED | {"gpus"}


@dataclass(frozen=True)
class Difference:
    """One setting that hosts of a type do not share. usual: what more than half of them have, None if none is."""

    setting: str
    usual: str | None
    others: dict[str, str]


def host_type(results: Record) -> str:
    """Hosts of one type have the same CPU and the same GPUs, in the same number."""
    names = Counter(gpu.get("name") or "unknown GPU" for gpu in results["topology"].get("gpus") or [])
    gpus = ", ".join(f"{count} x {name}" for name, count in sorted(names.items())) or "no GPU"
    return f"{gpus}; {results['fingerprint'].get('cpu', 'unknown CPU')}"


def settings_of(results: Record) -> dict[str, str]:
    """By name what can differ between hosts of a type: the fingerprint, each GPU's link, warnings of the doctor."""
    facts = {
        LABELS.get(key, key): str(value) for key, value in results["fingerprint"].items() if key not in _NOT_OF_SETTING
    }
    for gpu in results["topology"].get("gpus") or []:
        link = f"generation {gpu.get('link_generation_max')}, {gpu.get('link_width')} lanes"
        facts[f"GPU {gpu.get('index')}: PCIe link"] = link
        facts[f"GPU {gpu.get('index')}: nearest node"] = str(gpu.get("node"))
        facts[f"GPU {gpu.get('index')}: ECC"] = str(gpu.get("ecc"))
    for check in results.get("preflight") or []:
        # Facts hold figures of the moment: it is the judgement that should be the same.
        facts[f"numastudy doctor: {check['name']}"] = check["state"]
    return facts


def differences(hosts: Mapping[str, Mapping[str, str]]) -> list[Difference]:
    """hosts: settings by host, all of one type."""
    names = list(dict.fromkeys(name for settings in hosts.values() for name in settings))
    found = []
    for name in names:
        values = {host: settings.get(name, "not recorded") for host, settings in hosts.items()}
        (most, count), *_ = Counter(values.values()).most_common()
        if count == len(values):
            continue
        usual = most if count > math.floor(len(values) / 2) else None
        found.append(Difference(name, usual, {host: value for host, value in values.items() if value != usual}))
    return found


# --- gather
# What the hosts measured, as one record: cells by host, hosts by type, who is off, how they are set up.

SCHEMA = 1
# Classes of noise in results.json; bench.legacy.verdicts, which names them, would bring scipy into numastudy status.
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


# --- report
# The report of all hosts: cluster_results.json and cluster_report.html, from what lies in the folder. Made outside
# luigi's graph: a worker that holds another host's task may be given it to run.

Record = dict[str, Any]
# More hosts than this are not told side by side: the page names the lowest and the highest, the JSON has all.
COLUMNS = 12


def make_cluster_report(directory: ClusterDirectory, host: str = "") -> Record:
    """Write both files, and add this host (all, without one) to the history; one process at a time.

    Returns the record. Raise StudyError.
    """
    with directory.lock():
        status = cluster_status(directory)
        results, unread = _read(directory, [each.host for each in status.hosts])
        record = gather(status, results, unread)
        write_json(directory.results, record)
        write_text(directory.report, render(record))
        _into_history([name for name in results if name == host or not host], results, directory)
    return record


def _read(directory: ClusterDirectory, hosts: list[str]) -> tuple[dict[str, Record], dict[str, str]]:
    """By host its results, or why those that are there cannot be used."""
    results, unread = {}, {}
    for host in hosts:
        if not directory.host(host).results.exists():
            continue
        try:
            found = read_results(directory.host(host).path)
            wrong = misfit(found, SHAPE)
        except StudyError as error:
            wrong = error.what
        if wrong:
            unread[host] = f"results.json of the host: {wrong}"
        else:
            results[host] = found
    return results, unread


def _into_history(hosts: list[str], results: dict[str, Record], directory: ClusterDirectory) -> None:
    """Best effort, and the page once for all of them."""
    from bench.history.database import add_study, history_path
    from bench.history.page import write_index

    if not hosts:
        return
    database = history_path(directory.host(hosts[0]).outputs)
    try:
        for host in hosts:
            # The folder may have moved since it was measured.
            moved = results[host] | {"run_directory": str(directory.host(host).path)}
            add_study(convert(moved, Results), database)
        write_index(database)
    except (StudyError, DamagedRecord) as error:
        what = error if isinstance(error, StudyError) else f"{host}'s results.json: {error}"
        print(f"not in the history: {what}", file=sys.stderr, flush=True)


def headline(record: Record) -> str:
    reported = sum(host["reported"] for host in record["hosts"])
    words = [f"{reported} of {plural(len(record['hosts']), 'host')} reported"]
    off = sorted({outlier["host"] for kind in record["types"] for outlier in kind["outliers"]})
    if off:
        words.append(f"{', '.join(off)} {'is' if len(off) == 1 else 'are'} off the others")
    elif any(len(kind["hosts"]) >= LEAST_HOSTS for kind in record["types"]):
        words.append("none is off the others")
    odd = {host for kind in record["types"] for one in kind["differences"] if one["usual"] for host in one["others"]}
    if odd:
        words.append(f"set up differently: {', '.join(sorted(odd))}")
    return "; ".join(words)


def render(record: Record) -> str:
    """The page as text; links are relative to the folder."""
    hosts = record["hosts"]
    reported = sum(host["reported"] for host in hosts)
    outliers = sum(len(kind["outliers"]) for kind in record["types"])
    differing = sum(len(kind["differences"]) for kind in record["types"])
    failed = sum(host["runs_failed"] for host in hosts)
    figures = [
        (f"{reported}/{len(hosts)}", "hosts reported", "good" if reported == len(hosts) else "warn"),
        (outliers, "values off the other hosts'", "warn" if outliers else "good"),
        (differing, "settings that differ", "warn" if differing else "good"),
        (failed, "runs failed", "warn" if failed else "good"),
        (sum(host["runs_done"] for host in hosts), "runs", ""),
    ]
    template = environment("bench.cluster").get_template("cluster_report.html.j2")
    return template.render(
        cluster=record,
        headline=headline(record),
        figures=figures,
        reports={host["host"]: f"{HOSTS}/{host['host']}/report.html" for host in hosts if host["reported"]},
        scales=SCALES,
        least_hosts=LEAST_HOSTS,
        columns=COLUMNS,
    )
