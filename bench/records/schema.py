"""JSON Schema of every stored file, and of what commands print with --json."""

from dataclasses import dataclass
from typing import Any

import msgspec

from bench.records.cluster import Cluster, ClusterResults, ClusterStatus, JobRecord
from bench.records.host import Host, Preflight
from bench.records.nightly import HistoryListing, Night, SecondMeasurement, StudyComparison
from bench.records.results import Results, SelfCheck, Summary
from bench.records.run import Demand, Export, Link, ProbeStage, ReportStage, Run
from bench.records.study import Grid, IndexEntry, Study
from bench.records.trace import Metrics
from bench.records.whatif import WhatIf
from bench.records.where import Where

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Stored:
    """A file, or the output of a command. place: its folder. kind: the type that msgspec reads it as."""

    place: str
    file: str
    kind: Any
    holds: str


_RUN_DIRECTORY, _MANY_HOSTS = "a run directory", "a study on many hosts"
STORED = {
    one.file: one
    for one in (
        Stored(_RUN_DIRECTORY, "study.yaml", Study, "the study with its overrides, and what was auto"),
        Stored(_RUN_DIRECTORY, "topology.json", Host, "nodes, GPUs and fingerprint of the host at the start"),
        Stored(_RUN_DIRECTORY, "grid.json", Grid, "the cells, and every run in measuring order"),
        Stored(_RUN_DIRECTORY, "preflight.json", Preflight, "the checks of `numastudy doctor` at the start"),
        Stored(_RUN_DIRECTORY, "probe_before.json", ProbeStage, "measured locality before the first run"),
        Stored(_RUN_DIRECTORY, "probe_after.json", ProbeStage, "measured locality after the last run"),
        Stored(_RUN_DIRECTORY, "links/*.json", Link, "the link between a GPU and the memory of a placement"),
        Stored(_RUN_DIRECTORY, "runs/*.json", Run, "a run: outcome, result, placement certificate, monitor"),
        Stored(_RUN_DIRECTORY, "nsys_reports/*.export.json", Export, "the export of a trace as SQLite"),
        Stored(
            _RUN_DIRECTORY, "latency/*.json", Metrics, "the metrics of a trace; of one that failed only its outcome"
        ),
        Stored(_RUN_DIRECTORY, "demand.json", Demand, "which cells need more repeats than the study's"),
        Stored(_RUN_DIRECTORY, "report.json", ReportStage, "that the report was written"),
        Stored(_RUN_DIRECTORY, "results.json", Results, "every cell, and every comparison"),
        Stored(_RUN_DIRECTORY, "experiment_summary.json", Summary, "counts, success rate, duration"),
        Stored("`outputs/`", "noise_floor.json", SelfCheck, "the last SelfCheck: cells compared with themselves"),
        Stored("`outputs/<study>/`", "index.json", dict[str, IndexEntry], "run directories by the study's fingerprint"),
        Stored(_MANY_HOSTS, "cluster.json", Cluster, "the hosts and their Slurm jobs"),
        Stored(_MANY_HOSTS, "hosts/*/job.json", JobRecord, "the state that the job of a host last wrote"),
        Stored(_MANY_HOSTS, "cluster_results.json", ClusterResults, "all hosts: outliers and differences"),
        Stored("a night", "verdict.json", Night, "each study and cell against the nights before"),
        Stored("a night", "again.json", dict[str, SecondMeasurement], "cells that were measured a second time"),
        Stored("", "numastudy status --json", ClusterStatus, "the state of each host"),
        Stored("", "numastudy history --json", HistoryListing, "the studies in the history"),
        Stored("", "numastudy compare --json", StudyComparison, "the cells of two studies, compared"),
        Stored("", "numastudy where --json", Where, "running processes by GPU, their threads and pages by node"),
        Stored("", "numastudy whatif --json", WhatIf, "what slower host copies could cost the program of a trace"),
    )
}


def schema(file: str = "") -> dict[str, Any]:
    """JSON Schema of one of STORED, or of all: then `files` refers to `$defs` by file. KeyError for another name."""
    names = [file] if file else [*STORED]
    found, definitions = msgspec.json.schema_components(
        [STORED[name].kind for name in names], ref_template="#/$defs/{name}"
    )
    files = dict(zip(names, found, strict=True))
    return {"$schema": DIALECT, **(files[file] if file else {"files": files}), "$defs": definitions}


def table() -> str:
    """STORED in Markdown."""
    rows = [
        ("file", "in", "holds"),
        ("---",) * 3,
        *((f"`{one.file}`", one.place, one.holds) for one in STORED.values()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
