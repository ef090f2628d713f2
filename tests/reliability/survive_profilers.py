"""Profilers that fail: trace_failed by name, and the timed results stay. The runs are replays, nsys is a stand-in where
it is to fail, and the real one where it can be."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench.records.run import Stage
from bench.run.attempt import execute
from bench.run.lock import HostLock
from bench.run.stages import export_trace, extract_metrics
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study
from bench.trace.nsys import agents
from tests.reliability.killing import ApartCalls, living, wait_until
from tests.reliability.stub import behave, replay

# What stands in for nsys: `profile` runs the program, unless a fault says otherwise, and leaves a report.
PROFILE = """#!/bin/sh
say() { echo "$1" >&2; }
case "$1" in
profile)
    {before}
    for word in "$@"; do case "$word" in --output=*) report="${word#--output=}.nsys-rep";; esac; done
    while [ "${1#-}" != "$1" ] || [ "$1" = profile ]; do shift; done
    "$@"; code=$?
    {after}
    exit $code;;
export) {export};;
esac
"""
DEFAULT = {"before": ":", "after": 'echo report > "$report"', "export": "exit 1"}


@pytest.fixture
def calls(tmp_path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> ApartCalls:
    made = ApartCalls(tmp_path / "work", ["--local-scheduler"])
    replay(made, recorded)
    made.study |= {"profiler": "nsys", "models": ["vit0x0x0"], "timeout_s": 300}
    made.write()
    for key, value in made.environment().items():
        monkeypatch.setenv(key, value)
    # A study with nsys is refused on the cpu device. Its run directory is made here, and found by the calls of luigi.
    monkeypatch.setattr("bench.study.grid.choose_profiler", lambda setting, device: setting)
    return made


def resolved(calls: ApartCalls) -> RunDirectory:
    return resolve(read_study(calls.study, "f"), calls.folder / "outputs", False, "now")


def stand_in(calls: ApartCalls, monkeypatch: pytest.MonkeyPatch, **faults: str) -> None:
    script = PROFILE
    for key, value in (DEFAULT | faults).items():
        script = script.replace("{" + key + "}", value)
    nsys = calls.folder / "bin" / "nsys"
    nsys.parent.mkdir()
    nsys.write_text(script)
    nsys.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nsys.parent}:{os.environ['PATH']}")


def measure(calls: ApartCalls) -> tuple[RunDirectory, dict, Stage]:
    """Run a cell timed and traced; returns the timed record and the cell's metrics record."""
    directory = resolved(calls)
    grid = directory.grid()
    (cell,) = grid.cells
    lock = HostLock(calls.lock)
    for repeat in (1, "traced"):
        execute(directory, cell, grid.slot(cell.name, repeat), "now", lock, lambda progress: None)
    timed = directory.record(cell.name, 1).read_bytes()
    export_trace(directory, cell, "now")
    metrics = extract_metrics(directory, cell, "now")
    assert directory.record(cell.name, 1).read_bytes() == timed
    lock.release()
    return directory, json.loads(timed), metrics


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"before": "sleep 600"}, ["nsys", "or the run under it hung", "20 s"]),
        ({"after": "sleep 600"}, ["nsys did not end, though the run did"]),
        ({"after": ":"}, ["nsys succeeded and left no report"]),
        ({"after": 'say "No space left on device"; exit 1'}, ["the disk is full"]),
        ({"export": 'say "unsupported version of the report"; exit 1'}, ["nsys export failed", "unsupported version"]),
        ({"export": "exit 0"}, ["nsys export failed"]),
        ({"export": 'for w in "$@"; do case "$w" in --output=*) echo no database > "${w#--output=}";; esac; done'}, []),
    ],
    ids=["hangs first", "hangs last", "no report", "disk full", "no export", "empty export", "export is no database"],
)
def test_failing_profiler_costs_only_the_trace(
    calls: ApartCalls, monkeypatch: pytest.MonkeyPatch, faults: dict, words: list[str]
) -> None:
    if "sleep 600" in faults.values():
        # A busy machine may need some seconds for the timed run, which is to end.
        calls.study["timeout_s"] = 20
    stand_in(calls, monkeypatch, **faults)
    _, timed, metrics = measure(calls)
    assert timed["status"] == "ok" and timed["result"]["throughput_samples_s"] > 0
    assert metrics.status == "trace_failed", metrics
    for each in words:
        assert each in metrics.reason
    assert metrics.advice
    assert living(calls) == []


def test_missing_nsys_costs_only_the_trace(calls: ApartCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", ())
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    _, timed, metrics = measure(calls)
    assert timed["status"] == "ok"
    assert (metrics.status, metrics.reason) == ("trace_failed", "nsys is not installed")


@pytest.mark.usefixtures("real_nsys")
def test_an_export_of_the_real_nsys_without_cuda_tables_is_named(calls: ApartCalls) -> None:
    directory, timed, metrics = measure(calls)
    assert timed["status"] == "ok"
    assert metrics.status == "trace_failed" and "no " in metrics.reason, metrics
    assert list(directory.path.glob("nsys_reports/*.sqlite"))


def test_a_study_whose_profiler_fails_has_its_timed_results(calls: ApartCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(calls, monkeypatch, after=":")
    resolved(calls)
    done = calls.run()
    assert done.returncode == 30, done.stdout + done.stderr
    assert "left no report" in done.stdout + done.stderr
    (cell,) = json.loads((calls.run_directory() / "results.json").read_text())["cells"]
    assert cell["outcome"] == "trace_failed" and cell["throughput_samples_s"] > 0
    assert "left no report" in (calls.run_directory() / "report.html").read_text()


@pytest.mark.usefixtures("real_nsys")
@pytest.mark.parametrize("victim", ["nsys", "agent", "workload", "luigi", "group", "all but the agent"])
@pytest.mark.timeout(3000)
def test_the_next_call_completes_after_a_kill_around_nsys(calls: ApartCalls, victim: str) -> None:
    """nsys starts its agent and the workload in sessions of their own; both hold the host's lock."""
    resolved(calls)
    place = calls.folder / "site" / "behave_1"
    held = f"mode == 'traced' and os.path.exists({str(place)!r})"
    behaviour = behave(calls, f"import os, time\nwhile {held}: time.sleep(0.05)")
    luigi = calls.start()
    report = lambda: calls.run_directory() / "nsys_reports" / calls.order()[-1].removesuffix("_traced")  # noqa: E731

    def workload() -> list[int]:
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
            and _words(entry)[1:4] == ["-P", "-m", "bench.workload"]
            and "traced" in _words(entry)
            and str(calls.folder) in " ".join(_words(entry))
        ]  # fmt: skip

    assert wait_until(lambda: bool(calls.run_directories()) and bool(workload()) and bool(agents(report())))
    nsys = calls.children()
    victims = {
        "nsys": nsys, "agent": agents(report()), "workload": workload(), "luigi": [luigi.pid],
        "group": [luigi.pid, *nsys, *agents(report()), *workload()], "all but the agent": [luigi.pid, *nsys],
    }[victim]  # fmt: skip
    for pid in victims:
        # One may have ended with the one before it: children die with luigi.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    behaviour.unlink()
    if luigi.pid in victims:
        luigi.communicate(timeout=600)
        luigi = calls.start()
    said, _ = luigi.communicate(timeout=800)
    # The traces of this device have no CUDA tables: the study ends with that, whatever was killed.
    assert luigi.returncode == 30, said
    records = calls.records()
    assert records[calls.order()[-1]]["status"] == "ok", records[calls.order()[-1]]["reason"]
    assert [name for name, record in records.items() if record["status"] != "ok"] == []
    assert living(calls) == []


def _words(entry: Path) -> list[str]:
    try:
        return (entry / "cmdline").read_text().split("\0")
    except OSError:
        return []
