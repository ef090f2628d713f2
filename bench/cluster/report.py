"""The report of all hosts: cluster_results.json and cluster_report.html, from the records in the folder.

It is written outside luigi's graph: a worker that holds another host's task may be asked to run it.
"""

import sys
from collections.abc import Mapping

from msgspec.structs import asdict, replace

from bench.analysis.load import read_results
from bench.cluster.comparison import LEAST_HOSTS, SCALES, compare_type, host_type
from bench.cluster.directory import ClusterDirectory
from bench.cluster.status import cluster_status
from bench.errors import StudyError
from bench.records.base import plain
from bench.records.cluster import (
    ClusterResults,
    ClusterStatus,
    HostCell,
    HostState,
    HostStatus,
    MissingHost,
    ReportedHost,
)
from bench.records.results import MeasuredCell, Results
from bench.report.html import environment
from bench.storage import utc_now, write_json, write_text
from bench.study.directory import HOSTS
from bench.units import plural

DEFAULT_MARGIN = 0.02
# With more hosts than this the page has only the lowest and the highest; the JSON has all.
COLUMNS = 12


def write_cluster_report(directory: ClusterDirectory, host: str = "") -> ClusterResults:
    """Write both files, and add this host ("": all hosts) to the history; one process at a time. Raise StudyError."""
    with directory.lock():
        status = cluster_status(directory)
        results, unreadable = _read(directory, [each.host for each in status.hosts])
        record = gather(status, results, unreadable)
        write_json(directory.results, plain(record))
        write_text(directory.report, render(record))
        _add_to_history([name for name in results if name == host or not host], results, directory)
    return record


def _read(directory: ClusterDirectory, hosts: list[str]) -> tuple[dict[str, Results], dict[str, str]]:
    """By host its results, or why those that exist cannot be used."""
    results, unreadable = {}, {}
    for host in hosts:
        if directory.host(host).results.exists():
            try:
                results[host] = read_results(directory.host(host).path)
            except StudyError as error:
                unreadable[host] = f"results.json of the host: {error.what}"
    return results, unreadable


def _add_to_history(hosts: list[str], results: Mapping[str, Results], directory: ClusterDirectory) -> None:
    """Best effort, and the page once for all of them."""
    from bench.history.database import add_study, history_path
    from bench.history.page import write_index

    if not hosts:
        return
    database = history_path(directory.host(hosts[0]).outputs)
    try:
        for host in hosts:
            # The folder may have moved since it was measured.
            add_study(replace(results[host], run_directory=str(directory.host(host).path)), database)
        write_index(database)
    except StudyError as error:
        print(f"not added to the history: {error}", file=sys.stderr, flush=True)


def gather(status: ClusterStatus, results: Mapping[str, Results], unreadable: Mapping[str, str]) -> ClusterResults:
    """results: of each host that has some; unreadable: why those of other hosts cannot be used."""
    by_type: dict[str, dict[str, Results]] = {}
    for host, found in results.items():
        by_type.setdefault(host_type(found), {})[host] = found
    margin = min((one.rules.margin for one in results.values()), default=DEFAULT_MARGIN)
    return ClusterResults(
        study=status.study,
        run_directory=status.run_directory,
        created_at=utc_now(),
        margin=margin,
        slurm_error=status.slurm_error,
        hosts=tuple(_host(host, results.get(host.host)) for host in status.hosts),
        missing=tuple(_missing(host, unreadable.get(host.host)) for host in status.hosts if host.host not in results),
        types=tuple(compare_type(name, hosts, margin) for name, hosts in by_type.items()),
        cells=tuple(_cell(host, cell) for host, found in results.items() for cell in found.cells),
    )


def _host(status: HostStatus, results: Results | None) -> ReportedHost:
    return ReportedHost(
        **asdict(status),
        type=host_type(results) if results else None,
        counts=results.counts if results else None,
        reported=results is not None,
    )


def _missing(status: HostStatus, unreadable: str | None) -> MissingHost:
    done = status.state is HostState.DONE
    reasons = filter(None, ("" if done else status.reason, unreadable))
    # A host that is done but has no results wrote them in between: the next report has them.
    reason = "; ".join(reasons) or ("its report is being written" if done else status.state)
    return MissingHost(
        host=status.host, state=status.state, reason=reason, runs_done=status.runs_done, runs=status.runs
    )


def _cell(host: str, cell: MeasuredCell) -> HostCell:
    return HostCell(
        host=host,
        name=cell.name,
        key=cell.key,
        gpu=cell.gpu,
        gpu_uuid=cell.gpu_uuid,
        cpu_node=cell.cpu_node,
        mem_node=cell.mem_node,
        outcome=cell.outcome,
        reason=cell.reason,
        throughput_samples_s=cell.throughput_samples_s,
        throughput_spread=cell.throughput_spread,
        throughput_runs=cell.throughput_runs,
        metric=cell.metric,
        model=cell.model.name,
    )


def headline(record: ClusterResults) -> str:
    reported = sum(host.reported for host in record.hosts)
    parts = [f"{reported} of {plural(len(record.hosts), 'host')} reported"]
    outliers = sorted({outlier.host for kind in record.types for outlier in kind.outliers})
    if outliers:
        parts.append(f"{', '.join(outliers)} {'is an outlier' if len(outliers) == 1 else 'are outliers'}")
    elif any(len(kind.hosts) >= LEAST_HOSTS for kind in record.types):
        parts.append("no outliers")
    odd = {host for kind in record.types for one in kind.differences if one.usual for host in one.others}
    if odd:
        parts.append(f"configured differently: {', '.join(sorted(odd))}")
    return "; ".join(parts)


def render(record: ClusterResults) -> str:
    """The page as text; links are relative to the folder."""
    hosts = record.hosts
    reported = sum(host.reported for host in hosts)
    outliers = sum(len(kind.outliers) for kind in record.types)
    differing = sum(len(kind.differences) for kind in record.types)
    failed = sum(host.runs_failed for host in hosts)
    figures = [
        (f"{reported}/{len(hosts)}", "hosts reported", "good" if reported == len(hosts) else "warn"),
        (outliers, "outlying values", "warn" if outliers else "good"),
        (differing, "settings that differ", "warn" if differing else "good"),
        (failed, "runs failed", "warn" if failed else "good"),
        (sum(host.runs_done for host in hosts), "runs", ""),
    ]
    template = environment("bench.cluster").get_template("cluster_report.html.j2")
    return template.render(
        cluster=record,
        headline=headline(record),
        figures=figures,
        reports={host.host: f"{HOSTS}/{host.host}/report.html" for host in hosts if host.reported},
        scales=SCALES,
        least_hosts=LEAST_HOSTS,
        columns=COLUMNS,
    )
