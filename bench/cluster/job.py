"""What a job of numastudy submit runs on its node: python -m bench.cluster.job FOLDER.

It measures the study for this one host, by luigi, and writes its state to hosts/<host>/job.json. When the batch script
creates the drain file (the time limit is near) luigi finishes the current run, and the job is queued again. SIGTERM:
luigi ends the current run.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from msgspec.structs import replace

from bench.cluster import slurm
from bench.cluster.directory import ClusterDirectory, try_lock
from bench.errors import StudyError
from bench.host.processes import die_with, without_relative_paths
from bench.records.base import plain
from bench.records.cluster import JobRecord, JobState
from bench.storage import utc_now, write_json
from bench.units import exact_seconds

# The current run may take this share of the time between the signal and the limit. A run that takes longer is ended,
# and measured by the next job.
DRAIN_SHARE = 2 / 3
SIGNAL_BEFORE_S = 300  # of the shipped template
# Each of n jobs reads the results of n hosts. Beyond this number jobs write no report: numastudy status --report does.
REPORT_BY_JOB_HOSTS = 100
LOOK_S = 2.0
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
DRAIN_FILE_VARIABLE = "NUMASTUDY_DRAIN_FILE"
SIGNAL_BEFORE_VARIABLE = "NUMASTUDY_SIGNAL_BEFORE_S"
# Another process in this host's folder: an orphan of this job's earlier start, which Slurm is about to end.
WAIT_FOR_FOLDER_S = 600.0


def main(folder: Path, host: str, job_id: str) -> int:
    """The exit code of luigi; also 0 for a job that another one has replaced. Raise StudyError."""
    directory = ClusterDirectory(folder)
    if replaced_by := newer_job(directory, host, job_id):
        print(f"job {job_id} measures nothing: job {replaced_by} was submitted for {host} after it", flush=True)
        return 0
    holder = lock_folder(directory, host, job_id)
    try:
        job = HostJob(directory, host, job_id, holder)
        code = job.run()
    finally:
        os.close(holder)
    if job.state is JobState.DRAINED:
        # Last, because Slurm ends this job.
        slurm.requeue(job_id)
    elif len(directory.read().hosts) <= REPORT_BY_JOB_HOSTS:
        write_report(directory, host)
    return code


def newer_job(directory: ClusterDirectory, host: str, job_id: str) -> str:
    """The id of the job that may measure on this host, if it is not this one; "" if it is."""
    with directory.lock(wait_s=300):
        known = directory.read().hosts
    if host not in known:
        raise StudyError(
            f"{host} is not a host of this study", str(directory.path), "its hosts are " + ", ".join(sorted(known))
        )
    last = known[host].last
    return "" if last == job_id else last or "none"


def lock_folder(directory: ClusterDirectory, host: str, job_id: str) -> int:
    """The open lock of this host's folder, which luigi inherits: held until both have ended. Raise StudyError."""
    path = directory.host(host).path / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    deadline, reported = time.monotonic() + WAIT_FOR_FOLDER_S, False
    while not try_lock(descriptor, path.parent):
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace") or "{}"
        if time.monotonic() > deadline:
            raise StudyError(
                f"another job has used this folder for {exact_seconds(WAIT_FOR_FOLDER_S)}: {holder}",
                str(path),
                "end it",
            )
        if not reported:
            print(f"waiting for {holder}", flush=True)
            reported = True
        time.sleep(0.5)
    text = json.dumps({"job": job_id, "node": host, "pid": os.getpid(), "since": utc_now()}).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    return descriptor


class HostJob:
    """One start of a job: luigi as its child, the signals that it passes on, its record."""

    def __init__(self, directory: ClusterDirectory, host: str, job_id: str, lock: int) -> None:
        self._directory, self._host, self._lock = directory, host, lock
        self._run_directory = directory.host(host)
        self._stages_before = self._stages()
        self._luigi: subprocess.Popen[bytes] | None = None
        self._drain_file = Path(os.environ.get(DRAIN_FILE_VARIABLE) or directory.host(host).path / "drain")
        self._drain_since: float | None = None
        self._drain_s = DRAIN_SHARE * float(os.environ.get(SIGNAL_BEFORE_VARIABLE) or SIGNAL_BEFORE_S)
        self._stopped_by = 0
        self._record = JobRecord(
            job_id=job_id,
            state=JobState.RUNNING,
            restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            node=host,
            pid=os.getpid(),
            started_at=utc_now(),
        )

    @property
    def state(self) -> JobState:
        return self._record.state

    def run(self) -> int:
        self._write(self._record)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        me = os.getpid()
        luigi = self._luigi = subprocess.Popen(
            self._command(),
            env=without_relative_paths(dict(os.environ)),
            start_new_session=True,
            pass_fds=(self._lock,),
            preexec_fn=lambda: die_with(me),
        )
        if self._stopped_by:
            # The signal came before luigi could receive it.
            self._send(signal.SIGTERM)
        ended = threading.Event()

        def wait() -> None:
            luigi.wait()
            ended.set()

        # Popen.wait with a time limit polls twenty times a second, on the CPUs that are measured.
        threading.Thread(target=wait, daemon=True).start()
        while not ended.wait(LOOK_S):
            if self._drain_since is None and self._drain_file.exists():
                self._drain_since = time.monotonic()
                self._send(signal.SIGUSR1)
            elif self._drain_since and time.monotonic() > self._drain_since + self._drain_s:
                self._send(signal.SIGTERM)
        code = luigi.returncode
        self._drain_file.unlink(missing_ok=True)
        progress = self._stages() > self._stages_before
        state, reason = final_state(code, self._stopped_by, self._drain_since is not None, progress)
        self._write(replace(self._record, state=state, exit_code=code, reason=reason, ended_at=utc_now()))
        print(f"job {self._record.job_id} on {self._host}: {state}, exit code {code} {reason}", flush=True)
        return code if code >= 0 else 128 - code

    def _command(self) -> list[str]:
        host, port = split_address(self._directory.read().scheduler)
        return [
            str(Path(sys.executable).with_name("luigi")), "--module", "tasks", "Study",
            "--config-file", str(self._directory.study_file),
            "--into", str(self._run_directory.path),
            "--host", self._host,
            *(["--scheduler-host", host, "--scheduler-port", port] if host else ["--local-scheduler"]),
        ]  # fmt: skip

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopped_by = number
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        if self._luigi and self._luigi.returncode is None:
            self._luigi.send_signal(number)

    def _stages(self) -> int:
        """The number of runs, exports and metrics that have a record. One that failed and is repeated does not count
        again: a job that does only that would be queued again for ever."""
        patterns = ("runs/*.json", "nsys_reports/*.export.json", "latency/*.json")
        return sum(1 for pattern in patterns for _ in self._run_directory.path.glob(pattern))

    def _write(self, record: JobRecord) -> None:
        self._record = record
        write_json(self._directory.job_record_path(self._host), plain(record))


def final_state(code: int, stopped_by: int, draining: bool, progress: bool) -> tuple[JobState, str]:
    """State and reason. code: luigi's; stopped_by: a signal, or 0; progress: there are new records since the start."""
    interrupted = code < 0 or code > 128
    if stopped_by and interrupted:
        return JobState.STOPPED, f"by {signal.Signals(stopped_by).name}; submit the study again to continue"
    if draining and interrupted:
        if progress:
            return JobState.DRAINED, "near the time limit; the next start of this job continues"
        return JobState.STUCK, "nothing new was measured before the time limit: give the job more time"
    return JobState.ENDED, ""


def split_address(address: str) -> tuple[str, str]:
    """HOST:PORT as two texts, empty for none. Raise StudyError."""
    if not address:
        return "", ""
    host, _, port = address.rpartition(":")
    if not _HOST.fullmatch(host) or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        advice = "a port is 1 to 65535; luigid's default is 8082"
        raise StudyError(f"found {address!r}, allowed is HOST:PORT", "--scheduler", advice)
    return host, port


def write_report(directory: ClusterDirectory, host: str) -> None:
    """Best effort: the records are on disk, and numastudy status --report writes the report at any time."""
    from bench.cluster.report import write_cluster_report

    try:
        write_cluster_report(directory, host)
    except (StudyError, OSError) as error:
        print(f"no report of all hosts now: {error}", flush=True)


def this_host() -> str:
    """The node's name in Slurm, which need not be its host name."""
    name = os.environ.get("SLURMD_NODENAME", "")
    if not name or "SLURM_JOB_ID" not in os.environ:
        raise StudyError("not a job of Slurm", "bench.cluster.job", "submit it: numastudy submit")
    return name


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), this_host(), os.environ.get("SLURM_JOB_ID", "")))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
