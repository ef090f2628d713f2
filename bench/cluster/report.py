"""The report of all hosts: cluster_results.json and cluster_report.html, from what lies in the folder. Made outside
luigi's graph: a worker that holds another host's task may be given it to run."""

import sys
from typing import Any

from bench.cluster.directory import HOSTS, ClusterDirectory
from bench.cluster.gather import SHAPE, gather
from bench.cluster.outliers import LEAST_HOSTS, SCALES
from bench.cluster.status import cluster_status
from bench.errors import StudyError
from bench.files import write_json, write_text
from bench.results.load import read_results
from bench.results.pages import environment
from bench.results.words import plural
from bench.shape import misfit

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
    from bench.results.history.add import add_study
    from bench.results.history.query import history_path
    from bench.results.history.remember import write_index

    if not hosts:
        return
    database = history_path(directory.host(hosts[0]).outputs)
    try:
        for host in hosts:
            # The folder may have moved since it was measured.
            add_study(results[host] | {"run_directory": str(directory.host(host).path)}, database)
        write_index(database)
    except (StudyError, KeyError, TypeError) as error:
        # results.json of another version lacks what the history keeps.
        said = error if isinstance(error, StudyError) else f"{host}'s results.json: {error!r}"
        print(f"not in the history: {said}", file=sys.stderr, flush=True)


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
