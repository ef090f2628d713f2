"""Where a study on many hosts stands: records on disk, and what Slurm says of the jobs, asked once for all."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.cluster import slurm
from bench.cluster.directory import ClusterDirectory, is_cluster
from bench.cluster.job_record import DRAINED, ENDED, RUNNING, last_word
from bench.errors import StudyError
from bench.records.run import Outcome, ReportStage, Stage, read_record
from bench.records.study import run_name
from bench.study.directory import RunDirectory
from bench.units import plural

DONE = "done"
WAITING = "waiting"
MEASURING = "measuring"
INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class HostStatus:
    """state: done, measuring, waiting or incomplete; reason says why a host is not done. runs: None before it began.

    runs_done counts those that failed too; last_record_s: seconds since the epoch. job_state in Slurm's own words.
    """

    host: str
    state: str
    reason: str
    runs_done: int
    runs_failed: int
    runs: int | None
    last_record_s: float | None
    job_id: str = ""
    job_state: str = ""
    job_alive: bool = False
    job_held: bool = False
    restarts: int = 0


@dataclass(frozen=True)
class ClusterStatus:
    study: str
    path: Path
    hosts: list[HostStatus]
    slurm_error: str = ""

    def as_json(self) -> dict[str, Any]:
        hosts = [vars(host) for host in self.hosts]
        return {"study": self.study, "run_directory": str(self.path), "hosts": hosts, "slurm_error": self.slurm_error}


def status(path: Path) -> ClusterStatus:
    """Of a study on many hosts, or of the run directory of one. Raise StudyError if `path` is neither."""
    if is_cluster(path):
        return cluster_status(ClusterDirectory(path))
    directory = RunDirectory(path)
    try:
        facts, study = directory.topology(), directory.study().name
        host = facts.get("host") or facts["fingerprint"]["host"]
    except (OSError, KeyError, TypeError, AttributeError):
        raise StudyError("not a run directory", str(path), "name a folder outputs/<study>/<date>/<time>") from None
    runs = count_runs(directory)
    found = _host_status(str(host), runs, None, "", {}, "")
    if found.state != DONE and not runs.damage:
        found = replace(found, reason="the command that began it goes on from here")
    return ClusterStatus(study, path, [found])


def cluster_status(directory: ClusterDirectory) -> ClusterStatus:
    record = directory.read()
    last = {host: entry["jobs"][-1]["id"] if entry["jobs"] else "" for host, entry in record["hosts"].items()}
    jobs, error = _poll(last.values())
    hosts = [
        _host_status(host, count_runs(directory.host(host)), jobs.get(job), job, last_word(directory, host), error)
        for host, job in last.items()
    ]
    return ClusterStatus(record["study"], directory.path, hosts, error)


@dataclass(frozen=True)
class Runs:
    """done: with a final record; failed: of these; asked: of every cell, and those on demand; None without a grid.

    damage: why the study or the grid of the host cannot be read. It is the host's; the others are told all the same.
    """

    done: int
    failed: int
    asked: int | None
    last_record_s: float | None
    reported: bool
    damage: str = ""


def count_runs(directory: RunDirectory) -> Runs:
    records = {}
    for path in directory.path.glob("runs/*.json"):
        record = read_record(path, Stage)
        if record:
            records[path.stem] = (record.status, path.stat().st_mtime)
    asked, damage = None, ""
    try:
        if (directory.path / "grid.json").exists():
            of_all = directory.grid().asked(directory.study().repeats)
            asked = len({*records, *(run_name(slot.cell, slot.repeat) for slot in of_all)})
    except StudyError as error:
        damage = f"{error.where}: {error.what}"
    return Runs(
        done=len(records),
        failed=sum(status not in (Outcome.OK, Outcome.NOT_RUNNABLE) for status, _ in records.values()),
        asked=asked,
        last_record_s=max((changed for _, changed in records.values()), default=None),
        reported=_is_reported(directory, records),
        damage=damage,
    )


def _is_reported(directory: RunDirectory, records: dict[str, Any]) -> bool:
    report = read_record(directory.path / "report.json", ReportStage)
    return bool(records) and report is not None and report.state == directory.state()


def _poll(ids: Iterable[str]) -> tuple[dict[str, slurm.Job], str]:
    try:
        return slurm.jobs(id for id in ids if id), ""
    except StudyError as error:
        return {}, error.what


def _host_status(
    host: str, runs: Runs, job: slurm.Job | None, job_id: str, word: dict[str, Any], error: str
) -> HostStatus:
    state, reason = stands(runs, job, job_id, word, error)
    return HostStatus(
        host, state, reason, runs.done, runs.failed, runs.asked, runs.last_record_s, job_id,
        job.state if job else "", bool(job and job.alive), bool(job and job.held), job.restarts if job else 0,
    )  # fmt: skip


def stands(runs: Runs, job: slurm.Job | None, job_id: str, word: dict[str, Any], error: str) -> tuple[str, str]:
    if runs.asked is not None and runs.done >= runs.asked and runs.reported:
        return DONE, f"{runs.failed} runs failed" if runs.failed else ""
    if job and job.alive:
        if job.state == "PENDING":
            again = f"queued again (start {job.restarts + 1})" if job.restarts else "never started yet"
            return WAITING, f"job {job_id} {again}{': ' + job.reason if job.reason else ''}"
        return MEASURING, f"job {job_id} is {job.state.lower()}" if job.state != "RUNNING" else ""
    if runs.damage:
        return INCOMPLETE, runs.damage
    return INCOMPLETE, _why_incomplete(job, job_id, word, error)


def _why_incomplete(job: slurm.Job | None, job_id: str, word: dict[str, Any], error: str) -> str:
    if not job_id:
        return "no job was submitted for it: submit the study again"
    own = word if word.get("job_id") == job_id else {}
    told = _told(own) if own else "it never started on the host"
    if job:
        if not own and job.state != "CANCELLED":
            told = "see job.log"
        reason = f", {job.reason}" if job.reason else ""
        return f"job {job_id} is {job.state.lower()} (exit code {job.exit_code}{reason}); {told}"
    if error:
        return f"Slurm does not answer; {told}"
    return f"Slurm does not know job {job_id} any more; {told}"


def _told(own: dict[str, Any]) -> str:
    """What the job said of itself."""
    if own.get("state") == RUNNING:
        return f"it started at {own.get('started_at')} and ended without a word: the node died, or all was killed"
    if own.get("state") == ENDED:
        return f"luigi ended with exit code {own.get('exit_code')}, see job.log"
    if own.get("state") == DRAINED:
        return "it stopped near its time limit and was to be queued again"
    return f"{own.get('state')}: {own.get('reason')}"


def render(found: ClusterStatus, now_s: float | None = None) -> str:
    """For a terminal."""
    now_s = time.time() if now_s is None else now_s
    width = max(len(host.host) for host in found.hosts)
    lines = []
    for host in found.hosts:
        total = "?" if host.runs is None else host.runs
        words = [f"{host.host:{width}}", f"{host.state:10}", f"{host.runs_done:>5}/{total} runs"]
        if host.runs_failed:
            words.append(f"{host.runs_failed} failed")
        if host.last_record_s and host.state != DONE:
            words.append(f"last {_ago(now_s - host.last_record_s)} ago")
        if host.restarts:
            words.append(f"started {host.restarts + 1} times")
        if host.reason and host.state != DONE:
            words.append(host.reason)
        lines.append("  ".join(words))
    states = [host.state for host in found.hosts]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines += ["", f"{found.study}: {plural(len(found.hosts), 'host')} ({counts})"]
    if found.slurm_error:
        lines.append(f"Slurm did not answer, so this is what lies on disk: {found.slurm_error}")
    return "\n".join(lines)


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
