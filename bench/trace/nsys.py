"""Nsight Systems: nsys runs the measured process and writes a .nsys-rep; its agent is ended with it."""

import hashlib
import os
import secrets
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench.errors import ProfilerError, TraceError
from bench.host.fingerprint import find_importer, find_nsys
from bench.storage import whole_database
from bench.trace.profilers import last_line, run_tool

TOOL_TIMEOUT_S = 600
INSTALL = "install Nsight Systems (Debian: .ci/install-nsys; else developer.nvidia.com), or use profiler: torch"

# Only what is needed: a timed claim never comes from here, yet less tracing disturbs less.
FLAGS = ("--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true")
CAPTURE = "--capture-range=cudaProfilerApi"

# Parts of nsys' output -> what to do. First match wins.
REFUSALS = (
    (
        ("perf_event_paranoid", "perf_event_open", "Paranoid Level"),
        "the kernel refuses perf events",
        "sudo sysctl kernel.perf_event_paranoid=2 (a container needs --cap-add=SYS_ADMIN), or use profiler: torch",
    ),
    (
        ("ERR_NVGPUCTRPERM", "Insufficient privilege", "permission to access"),
        "the driver refuses profiling to this user",
        "run as root, or load the driver with NVreg_RestrictProfilingToAdminUsers=0, or use profiler: torch",
    ),
    (
        ("Unable to create a directory", "Permission denied: /tmp/nvidia", "Failed to create '/tmp/nvidia"),
        "nsys cannot write its temporary files",
        "set TMPDIR to a folder of your own",
    ),
    (
        ("is already running", "another profiling session"),
        "another nsys session is running on this host",
        "end it with: nsys shutdown --session=NAME (nsys sessions list)",
    ),
    (
        ("Local Endpoint is not available",),
        "its agent did not start in time",
        "seen on a busy host: run it again when the host is less busy",
    ),
    (
        ("Agent launcher failed", "End of file"),
        "its agent could not be started, or went away",
        "seen where an nsys on this host was killed: run it again",
    ),
    (("No space left on device",), "the disk is full", "free some, or set retention: none"),
)


class Nsys:
    name = "nsys"

    def trace_path(self, report: Path) -> Path:
        return report.parent / f"{report.name}.nsys-rep"

    def command(self, argv: Sequence[str], report: Path, device: str, graph_nodes: bool = False) -> list[str]:
        """On cuda only the range of cudaProfilerStart/Stop is recorded; the cpu device records the whole process.

        graph_nodes: the kernels inside CUDA graphs one by one; it slows graph launches down.
        """
        self.discard(report)
        capture = [CAPTURE, "--capture-range-end=stop"] if device == "cuda" else []
        return _profile(argv, report, [*capture, *(["--cuda-graph-trace=node"] if graph_nodes else [])])

    def group_command(self, argv: Sequence[str], report: Path, reports: Sequence[Path], device: str) -> list[str]:
        """nsys writes REPORT.1.nsys-rep, REPORT.2.nsys-rep, ..., one for each capture."""
        if device != "cuda":
            raise ProfilerError("nsys on the cpu device has no captures", advice="set profiler to torch")
        for one in [*reports, *self._numbered(report)]:
            self.discard(one)
        return _profile(argv, report, [CAPTURE, f"--capture-range-end=repeat:{len(reports)}"])

    def divide(self, report: Path, captured: Sequence[Path]) -> None:
        for number, own in enumerate(captured, 1):
            for path in (self.trace_path, _stream):
                made = path(report.parent / f"{report.name}.{number}")
                if made.exists():
                    made.replace(path(own))

    def _numbered(self, report: Path) -> set[Path]:
        """Reports of single captures that an earlier attempt left."""
        found = set()
        for path in report.parent.iterdir():
            stem, _, number = path.stem.rpartition(".")
            if stem == report.name and number.isdigit():
                found.add(path.with_suffix(""))
        return found

    def settle(self, report: Path) -> None:
        end_agents(report)

    def collect(self, report: Path, exit_code: int, log: str) -> Path | None:
        trace, stream = self.trace_path(report), _stream(report)
        if exit_code != 0:
            _raise_refusal(log, report)
            return None
        if _filled(trace):
            return trace
        if _filled(stream):
            return self._import(stream, trace)
        _raise_refusal(log, report)
        raise ProfilerError(
            "nsys succeeded and left no report: the run never opened the profiler's range, or nsys lost it",
            str(trace),
            "see the run's log; measure it again, or use profiler: torch",
        )

    def export(self, report: Path, sqlite: Path) -> None:
        self.export_file(self.trace_path(report), sqlite)

    def export_file(self, trace: Path, sqlite: Path, redacted: bool = True) -> None:
        """redacted: without the environment, the processes and users of the host, and ranges of other programs."""
        # It brings numpy, which nobody needs who only asks for a command line.
        from bench.trace.redact import redact

        with whole_database(sqlite) as temporary:
            argv = [str(_nsys()), "export", "--type=sqlite", "--lazy=true", "--force-overwrite=true"]
            done = run_tool([*argv, f"--output={temporary}", str(trace)], TOOL_TIMEOUT_S)
            if done.returncode != 0 or not _filled(temporary):
                raise ProfilerError(
                    f"nsys export failed (exit code {done.returncode}): {last_line(done.stdout)}",
                    str(trace),
                    "export with the nsys version that made the report, or a newer one",
                )
            if not redacted:
                return
            try:
                redact(temporary, temporary)
            except TraceError as error:
                raise ProfilerError(
                    f"nsys exported what is not a database: {error.what}",
                    str(trace),
                    "measure it again, or use profiler: torch",
                ) from None

    def discard(self, report: Path) -> None:
        for path in (self.trace_path(report), _stream(report)):
            path.unlink(missing_ok=True)

    def _import(self, stream: Path, trace: Path) -> Path:
        """nsys without an importer beside it leaves its raw stream and exits 0."""
        importer = find_importer(_nsys())
        if importer is None:
            raise ProfilerError(
                "nsys left a .qdstrm and no report: its importer (QdstrmImporter) is not installed",
                str(stream),
                INSTALL,
            )
        done = run_tool([str(importer), "--input-file", str(stream)], TOOL_TIMEOUT_S)
        if done.returncode != 0 or not _filled(trace):
            raise ProfilerError(
                f"QdstrmImporter failed (exit code {done.returncode}): {last_line(done.stdout)}", str(stream), INSTALL
            )
        stream.unlink()
        return trace


def _profile(argv: Sequence[str], report: Path, options: Sequence[str]) -> list[str]:
    session = f"--session-new={session_name(report)}"
    return [str(_nsys()), "profile", *FLAGS, session, *options, f"--output={report}", *argv]


def _nsys() -> Path:
    nsys = find_nsys()
    if nsys is None:
        raise ProfilerError("nsys is not installed", advice=INSTALL)
    return nsys


def _stream(report: Path) -> Path:
    return report.parent / f"{report.name}.qdstrm"


def _filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _raise_refusal(log: str, report: Path) -> None:
    for signs, what, advice in REFUSALS:
        if any(sign in log for sign in signs):
            raise ProfilerError(f"nsys: {what}", str(report), advice)


# The agent: a daemon in a session of its own, which survives when nsys is killed, and now and then without that.
# It inherits the descriptors of the run, a host lock among them: if it stayed, it would hold the host for ever.

GRACE_S = 1.0
KILL_S = 5.0


def session_name(report: Path) -> str:
    """A new name, which distinguishes the agents of this report from all others: it is in their command lines.

    New at each call: to nsys the name of an agent that was killed stays in use ("Agent launcher failed") until one
    with another name has cleared the table.
    """
    return _stem(report) + secrets.token_hex(4)


def agents(report: Path) -> list[int]:
    """PIDs of living agents of the report's sessions."""
    sign = b"--session-name=" + _stem(report).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if b"--start-agent" in arguments and any(each.startswith(sign) for each in arguments):
                    found.append(int(entry.name))
    return found


def end_agents(report: Path) -> None:
    """Give them a moment to end by themselves, then end them; return when they are gone."""
    begin = time.monotonic()
    while (left := agents(report)) and (waited := time.monotonic() - begin) < GRACE_S + KILL_S:
        if waited > GRACE_S:  # time and again: one that was just starting may have forked meanwhile
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _stem(report: Path) -> str:
    return f"numastudy-{hashlib.sha256(os.fsencode(report.resolve())).hexdigest()[:16]}-"
