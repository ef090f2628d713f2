import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bench.errors import ProfilerError, TraceError
from bench.host.fingerprint import find_importer, find_nsys
from bench.trace.export import open_export
from bench.trace.nsys import Nsys, agents
from bench.trace.profilers import run_tool
from bench.trace.reader import read_trace, read_window
from tests.real_nsys import traced


@pytest.fixture
def report(tmp_path):
    (tmp_path / "nsys_reports").mkdir()
    return tmp_path / "nsys_reports" / "cell"


def test_a_real_profile_is_exported_and_its_ranges_are_read_back(real_nsys, report, nvtx_program, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_ENVIRONMENT", "hunter2-hunter2")
    profiler = Nsys()
    code, log = traced(report, nvtx_program)
    assert profiler.collect(report, code, log) == profiler.trace_path(report)
    sqlite = report.parent / "cell.sqlite"
    profiler.export(report, sqlite)
    with open_export(sqlite) as export:
        window = read_window(export)
    assert window.batch_names == tuple(f"test_batch_{i}" for i in range(5))
    assert (window.batch_start[0] >= window.start) and (window.batch_end[-1] <= window.end)
    with pytest.raises(TraceError, match="no CUDA activity in this trace"):
        read_trace(sqlite)
    assert sorted(path.name for path in report.parent.iterdir()) == ["cell.nsys-rep", "cell.sqlite"]
    assert b"hunter2-hunter2" not in sqlite.read_bytes()
    profiler.discard(report)
    assert not profiler.trace_path(report).exists()


def test_a_left_over_stream_is_imported(real_nsys, report, nvtx_program, tmp_path):
    """The real failure: nsys away from its importer leaves a .qdstrm, no report, and exits 0."""
    target = find_nsys().resolve().parent
    if find_importer(find_nsys()) is None or len(list(target.iterdir())) < 2:
        pytest.skip("this nsys has no importer to be parted from")
    alone = tmp_path / "alone" / target.name
    shutil.copytree(target, alone, copy_function=os.link if _same_disk(target, tmp_path) else shutil.copy2)
    code, log = traced(report, nvtx_program, nsys=str(alone / "nsys"))
    stream = report.parent / "cell.qdstrm"
    assert code == 0 and stream.exists() and not Nsys().trace_path(report).exists()
    assert Nsys().collect(report, 0, log) == Nsys().trace_path(report)
    assert not stream.exists()


def _same_disk(one, other):
    return one.stat().st_dev == other.stat().st_dev


def test_a_stream_without_an_importer_says_what_to_install(report, script, only_on_path, monkeypatch):
    only_on_path(script("nsys", "exit 0"))
    monkeypatch.setattr("bench.host.fingerprint.IMPORTERS", ())
    (report.parent / "cell.qdstrm").write_bytes(b"x")
    with pytest.raises(ProfilerError, match="QdstrmImporter") as caught:
        Nsys().collect(report, 0, "")
    assert "install" in caught.value.advice


def test_a_failing_importer_is_quoted(report, script, only_on_path):
    """A stub of the importer beside a stub of nsys."""
    nsys = script("nsys", "exit 0")
    only_on_path(nsys)
    host = nsys.parent.parent / "host-linux-x64"
    host.mkdir()
    importer = host / "QdstrmImporter"
    importer.write_text("#!/bin/sh\necho 'Processing 10%'\necho 'version mismatch'\nexit 4\n")
    importer.chmod(0o755)
    (report.parent / "cell.qdstrm").write_bytes(b"x")
    with pytest.raises(ProfilerError, match=r"exit code 4.*version mismatch"):
        Nsys().collect(report, 0, "")


def test_the_exit_code_of_the_program_is_passed_on(real_nsys, report, nvtx_program):
    code, log = traced(report, nvtx_program, exit_code=3)
    assert code == 3
    assert Nsys().collect(report, code, log) is None


def test_a_missing_report_after_success_is_an_error(report):
    with pytest.raises(ProfilerError, match="left no report") as caught:
        Nsys().collect(report, 0, "")
    assert "profiler: torch" in caught.value.advice


@pytest.mark.parametrize(
    ("log", "what"),
    [
        ("WARNING: perf_event_paranoid is 4", "the kernel refuses perf events"),
        ("ERR_NVGPUCTRPERM", "the driver refuses"),
        ("Unable to create a directory /tmp/nvidia", "cannot write its temporary files"),
        ("Local Endpoint is not available.", "its agent did not start in time"),
        ("End of file", "its agent could not be started, or went away"),
        ("write: No space left on device", "the disk is full"),
    ],
)
@pytest.mark.parametrize("code", [0, 1])
def test_refusals_of_nsys_are_explained(report, log, what, code):
    with pytest.raises(ProfilerError, match=what) as caught:
        Nsys().collect(report, code, log)
    assert caught.value.advice


def test_a_missing_nsys_is_an_error(report, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", ())
    with pytest.raises(ProfilerError, match="nsys is not installed"):
        Nsys().command(["true"], report, "cuda")


def test_a_failing_export_leaves_nothing(report, script, only_on_path):
    only_on_path(script("nsys", "echo 'unsupported report version' >&2; exit 1"))
    with pytest.raises(ProfilerError, match="unsupported report version"):
        Nsys().export(report, report.parent / "cell.sqlite")
    assert list(report.parent.iterdir()) == []


def test_the_capture_range_is_asked_for_on_cuda_only(report, script, only_on_path):
    only_on_path(script("nsys", ""))
    on_gpu = Nsys().command(["prog", "x"], report, "cuda")
    assert "--capture-range=cudaProfilerApi" in on_gpu and on_gpu[-2:] == ["prog", "x"]
    assert not any(part.startswith("--capture") for part in Nsys().command(["prog"], report, "cpu"))
    assert "--cuda-graph-trace=node" in Nsys().command(["prog"], report, "cuda", graph_nodes=True)


def test_a_new_attempt_forgets_the_report_of_the_last(report, script, only_on_path):
    only_on_path(script("nsys", ""))
    Nsys().trace_path(report).write_bytes(b"old")
    Nsys().command(["prog"], report, "cuda")
    assert not Nsys().trace_path(report).exists()


def test_the_agent_of_a_killed_nsys_is_ended(real_nsys, report):
    argv = Nsys().command(["sleep", "600"], report, "cpu")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        deadline = time.monotonic() + 240
        while not agents(report) and time.monotonic() < deadline:
            time.sleep(0.02)
        started = agents(report)  # it may be seen twice, while it makes a daemon of itself
        assert started and agents(report.parent / "another") == []
        os.killpg(run.pid, signal.SIGKILL)
    Nsys().settle(report)
    assert agents(report) == [] and not any(map(_alive, started))


def test_a_killed_agent_does_not_prevent_the_next_run(real_nsys, report, nvtx_program):
    argv = Nsys().command(["sleep", "600"], report, "cpu")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        deadline = time.monotonic() + 240
        while not agents(report) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)  # it has entered its name by then
        for pid in agents(report):
            with suppress(ProcessLookupError):  # an agent may end with the one before it
                os.kill(pid, signal.SIGKILL)
        os.killpg(run.pid, signal.SIGKILL)
    again = Nsys().command([sys.executable, "-c", nvtx_program, "0"], report, "cpu")
    done = subprocess.run(again, capture_output=True, text=True, timeout=280)
    Nsys().settle(report)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_hanging_tool_is_ended_with_all_it_started(script, tmp_path):
    tool = script("tool", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    # A busy machine may need longer until the tool has started anything.
    for timeout_s in (1, 10, 60):
        begin = time.monotonic()
        with pytest.raises(ProfilerError, match="hung"):
            run_tool([str(tool)], timeout_s=timeout_s)
        assert time.monotonic() - begin < timeout_s + 60
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.02)
    assert not _alive(child)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second one if it goes while it is read
        return False


def test_a_tool_that_is_not_there_is_named():
    with pytest.raises(ProfilerError, match="cannot run /no/such/tool"):
        run_tool(["/no/such/tool"], 1)


def test_reports_of_one_process_go_to_the_cells_they_are_of(tmp_path):
    nsys, group = Nsys(), tmp_path / "group_traced"
    cells = [tmp_path / name for name in ("a", "b", "c")]
    # The second cell was not captured, and the last report was lost.
    (tmp_path / "group_traced.1.nsys-rep").write_text("of a")
    nsys.divide(group, [cells[0], cells[2]])
    assert nsys.trace_path(cells[0]).read_text() == "of a"
    assert [path.name for path in tmp_path.iterdir()] == ["a.nsys-rep"]
    with pytest.raises(ProfilerError, match="left no report"):
        nsys.collect(cells[2], 0, "")


def test_group_command_asks_for_a_report_of_each_cell(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.trace.nsys.find_nsys", lambda: Path("/usr/bin/nsys"))
    group, cells = tmp_path / "group_traced", [tmp_path / "a", tmp_path / "b"]
    for left in ("a.nsys-rep", "group_traced.1.nsys-rep", "group_traced.2.qdstrm", "other.1.nsys-rep"):
        (tmp_path / left).write_text("left by an earlier attempt")
    command = Nsys().group_command(["program"], group, cells, "cuda")
    assert "--capture-range-end=repeat:2" in command and f"--output={group}" in command
    assert command[-1] == "program"
    assert [path.name for path in tmp_path.iterdir()] == ["other.1.nsys-rep"]
    with pytest.raises(ProfilerError, match="no captures"):
        Nsys().group_command(["program"], group, cells, "cpu")
