"""The state of a study on many hosts: records on disk, and what Slurm reports of the jobs, queried once for all."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from bench.cluster import slurm
from bench.cluster.directory import ClusterDirectory, is_cluster
from bench.errors import StudyError
from bench.records.cluster import ClusterStatus, HostState, HostStatus, JobRecord, JobState
from bench.records.run import Outcome, ReportStage, read_head, read_record
from bench.study.budget import left_out_text
from bench.study.directory import RunDirectory
from bench.study.folder import is_published, not_a_run
from bench.units import duration, plural


@dataclass(frozen=True)
class Runs:
    """done: with a final record; failed: of these; expected: of every cell, and further repeats; None without a grid.

    damage: why the study or the grid of the host cannot be read, which does not affect other hosts.
    """

    done: int
    failed: int
    expected: int | None
    last_record_s: float | None
    reported: bool
    damage: str = ""
    left_out: str = ""


def status(path: Path) -> ClusterStatus:
    """Of a study on many hosts, or of the run directory of one.

    Raise StudyError if `path` is neither, or damaged, or if the records of the one host cannot be listed.
    """
    if is_cluster(path):
        return cluster_status(ClusterDirectory(path))
    directory = RunDirectory(path)
    if is_published(path):
        raise not_a_run(path)
    study = directory.study().name
    try:
        facts = directory.host()
    except StudyError:
        facts = None
    host = facts and (facts.host or facts.fingerprint.host)
    if not host:
        raise not_a_run(path)
    _record_paths(directory)  # of one host that is the error of the command, of many that of its line
    runs = count_runs(directory)
    found = _host_status(host, runs, None, "", None, "")
    if found.state is not HostState.DONE and not runs.damage:
        found = replace(found, reason="the command that began it continues from here")
    return ClusterStatus(study=study, run_directory=str(path), hosts=(found,))


def cluster_status(directory: ClusterDirectory) -> ClusterStatus:
    """Raise StudyError if cluster.json is damaged."""
    cluster = directory.read()
    jobs, error = _poll(entry.last for entry in cluster.hosts.values())
    hosts = tuple(
        _host_status(
            host,
            count_runs(directory.host(host)),
            jobs.get(entry.last),
            entry.last,
            directory.job_record(host),
            error,
        )
        for host, entry in cluster.hosts.items()
    )
    return ClusterStatus(study=cluster.study, run_directory=str(directory.path), hosts=hosts, slurm_error=error)


def count_runs(directory: RunDirectory) -> Runs:
    outcomes = {}
    last_record_s = None
    expected, damage, left_out = None, "", ""
    try:
        for path in _record_paths(directory):
            if head := read_head(path):
                outcomes[path.stem] = head.status
                changed = path.stat().st_mtime
                last_record_s = changed if last_record_s is None else max(last_record_s, changed)
        if (directory.path / "grid.json").exists():
            left_out = left_out_text(directory.study())
            slots = directory.grid().asked(directory.study().repeats)
            expected = len({*outcomes, *(slot.run for slot in slots)})
    except StudyError as error:
        damage = f"{error.where}: {error.what}"
    report = read_record(directory.path / "report.json", ReportStage)
    return Runs(
        done=len(outcomes),
        failed=sum(outcome not in (Outcome.OK, Outcome.NOT_RUNNABLE) for outcome in outcomes.values()),
        expected=expected,
        last_record_s=last_record_s,
        reported=bool(outcomes) and report is not None and report.state == directory.state(),
        damage=damage,
        left_out=left_out,
    )


def _record_paths(directory: RunDirectory) -> list[Path]:
    """Of the runs; empty before the first one. Raise StudyError if they cannot be listed."""
    folder = directory.path / "runs"
    try:
        return [path for path in folder.iterdir() if path.suffix == ".json"]
    except FileNotFoundError:
        return []
    except OSError as error:
        what = f"the records of runs cannot be listed: {error.strerror}"
        raise StudyError(what, str(folder), "look at its permissions, as with ls -ld") from None


def _poll(ids: Iterable[str]) -> tuple[dict[str, slurm.Job], str]:
    """(jobs that Slurm knows, why it gave no answer)"""
    try:
        return slurm.jobs(id for id in ids if id), ""
    except StudyError as error:
        return {}, error.what


def _host_status(
    host: str, runs: Runs, job: slurm.Job | None, job_id: str, own: JobRecord | None, slurm_error: str
) -> HostStatus:
    state, reason = host_state(runs, job, job_id, own, slurm_error)
    return HostStatus(
        host=host,
        state=state,
        reason=reason,
        runs_done=runs.done,
        runs_failed=runs.failed,
        runs=runs.expected,
        last_record_s=runs.last_record_s,
        job_id=job_id,
        job_state=job.state if job else "",
        job_alive=bool(job and job.alive),
        job_held=bool(job and job.held),
        restarts=job.restarts if job else 0,
        left_out=runs.left_out,
    )


def host_state(
    runs: Runs, job: slurm.Job | None, job_id: str, own: JobRecord | None, slurm_error: str
) -> tuple[HostState, str]:
    """The state and its reason. job: as Slurm knows it; own: what the job itself last wrote, of whichever job."""
    if runs.expected is not None and runs.done >= runs.expected and runs.reported:
        return HostState.DONE, f"{runs.failed} runs failed" if runs.failed else ""
    if job and job.alive:
        if job.state == "PENDING":
            queued = f"queued again (start {job.restarts + 1})" if job.restarts else "not started yet"
            return HostState.WAITING, f"job {job_id} {queued}{': ' + job.reason if job.reason else ''}"
        return HostState.MEASURING, f"job {job_id} is {job.state.lower()}" if job.state != "RUNNING" else ""
    return HostState.INCOMPLETE, runs.damage or _why_incomplete(job, job_id, own, slurm_error)


def _why_incomplete(job: slurm.Job | None, job_id: str, own: JobRecord | None, slurm_error: str) -> str:
    if not job_id:
        return "no job was submitted for it: submit the study again"
    own = own if own and own.job_id == job_id else None
    end = _end_of(own) if own else "it never started on the host"
    if job:
        if not own and job.state != "CANCELLED":
            end = "see job.log"
        reason = f", {job.reason}" if job.reason else ""
        return f"job {job_id} is {job.state.lower()} (exit code {job.exit_code}{reason}); {end}"
    if slurm_error:
        return f"Slurm does not answer; {end}"
    return f"Slurm has forgotten job {job_id}; {end}"


def _end_of(own: JobRecord) -> str:
    """How a job ended, from its own record."""
    if own.state is JobState.RUNNING:
        return f"it started at {own.started_at} and recorded no end: the node failed, or every process was killed"
    if own.state is JobState.ENDED:
        return f"luigi ended with exit code {own.exit_code}, see job.log"
    if own.state is JobState.DRAINED:
        return "it stopped near its time limit and was to be queued again"
    return f"{own.state}: {own.reason}"


def render(cluster: ClusterStatus, now_s: float | None = None) -> str:
    """For a terminal."""
    now_s = time.time() if now_s is None else now_s
    width = max(len(host.host) for host in cluster.hosts)
    lines = []
    for host in cluster.hosts:
        total = "?" if host.runs is None else host.runs
        parts = [f"{host.host:{width}}", f"{host.state:10}", f"{host.runs_done:>5}/{total} runs"]
        if host.runs_failed:
            parts.append(f"{host.runs_failed} failed")
        if host.last_record_s and host.state is not HostState.DONE:
            parts.append(f"last {duration(now_s - host.last_record_s)} ago")
        if host.restarts:
            parts.append(f"started {host.restarts + 1} times")
        if host.reason and host.state is not HostState.DONE:
            parts.append(host.reason)
        lines.append("  ".join(parts))
        if host.left_out:
            lines.append(f"  {host.left_out}")
    states = [host.state for host in cluster.hosts]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines += ["", f"{cluster.study}: {plural(len(cluster.hosts), 'host')} ({counts})"]
    if cluster.slurm_error:
        lines.append(f"Slurm did not answer, so this is what the records on disk show: {cluster.slurm_error}")
    return "\n".join(lines)
