"""numastudy submit and numastudy status, from plain values to text."""

import json
from pathlib import Path

from bench.cluster.directory import ClusterDirectory, is_cluster
from bench.cluster.nodes import choose_hosts
from bench.cluster.report import headline, make_cluster_report
from bench.cluster.status import render, status
from bench.cluster.submit import Asked, dry_run, submit
from bench.errors import StudyError
from bench.study.study import Study


def submit_command(study: Study, asked: Asked, output_dir: Path, fresh: bool, only_print: bool) -> str:
    """Raise StudyError."""
    hosts = choose_hosts(asked.nodes, asked.nodelist, asked.count, asked.constraint)
    if only_print:
        return dry_run(study, hosts, asked, output_dir).rstrip()
    directory, said = submit(study, hosts, asked, output_dir, fresh)
    width = max(map(len, said))
    lines = [f"{host:{width}}  {what}" for host, what in said.items()]
    return "\n".join([*lines, "", f"numastudy status {directory.path}"])


def status_command(path: Path, as_json: bool, report: bool) -> str:
    """report: make the report of all hosts first. Raise StudyError."""
    said = ""
    if report:
        if not is_cluster(path):
            raise StudyError(
                "not the folder of a study on many hosts", str(path), "numastudy report is for that of one"
            )
        directory = ClusterDirectory(path)
        said = f"\n{headline(make_cluster_report(directory))}\nreport: {directory.report}"
    found = status(path)
    return json.dumps(found.as_json(), indent=1) if as_json else render(found) + said
