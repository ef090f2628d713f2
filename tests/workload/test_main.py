"""The program as the parent starts it: real processes."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.workload.progress import LAYOUT, read_progress

from .cells import NO_COMPUTE, raw_cell


def command(folder: Path, mode: str, *more: str, **changes) -> list[str]:
    (folder / "cell.json").write_text(json.dumps(raw_cell(**changes)))
    files = ["--cell", str(folder / "cell.json"), "--result", str(folder / "result.json")]
    return [sys.executable, "-m", "bench.workload", *files, "--mode", mode, *more]


def ended(folder: Path, mode: str, *more: str, limit_bytes: int = 0, **changes) -> tuple[int, dict, str]:
    """Exit code, report and stderr of a run."""

    def limit() -> None:
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))

    child = subprocess.run(command(folder, mode, *more, **changes), capture_output=True, text=True, preexec_fn=limit)
    return child.returncode, json.loads((folder / "result.json").read_text()), child.stderr


# The program, which stops in each phase and after some batches of the windows, until the test lets it continue.
STOPPING = """
import os, signal
from bench.workload.progress import Phase, Progress
enter, beat = Progress.enter, Progress.beat
def stop_in_each_phase(self, *phase):
    enter(self, *phase)
    os.kill(os.getpid(), signal.SIGSTOP)
def stop_at_some_batches(self):
    beat(self)
    if self._phase is Phase.MEASURING and self._done in (1, 7, 40):
        os.kill(os.getpid(), signal.SIGSTOP)
Progress.enter, Progress.beat = stop_in_each_phase, stop_at_some_batches
from bench.workload.__main__ import main
main()
"""


def test_timed_run_counts_batches_and_writes_its_result(tmp_path):
    progress = tmp_path / "progress"
    progress.write_bytes(bytes(LAYOUT.size))
    argv = command(tmp_path, "timed", "--progress", str(progress), window_s=0.05)
    argv = [sys.executable, "-c", STOPPING, *argv[3:]]
    seen = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        while os.WIFSTOPPED(status := os.waitpid(child.pid, os.WUNTRACED)[1]):
            seen.append(read_progress(progress.read_bytes()))
            os.kill(child.pid, signal.SIGCONT)
        shown = child.stdout.read()
    assert os.waitstatus_to_exitcode(status) == 0
    assert [phase for _, _, phase in seen] == sorted(phase for _, _, phase in seen)
    assert {phase for _, _, phase in seen} == {1, 2, 3}
    assert [done for done, _, phase in seen if phase == 2][:4] == [0, 1, 7, 40]
    assert all(expected % 9 == 0 and expected >= 9 * 10 for _, expected, phase in seen if phase == 2)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["failure"] is None
    assert result["result"]["phases_s"]["imports"] > 0.1
    assert shown.startswith("pipeline_gpu0_numa0_vit16x1x32 timed: ")


def test_traced_run_writes_its_trace(tmp_path):
    trace = tmp_path / "trace.json.gz"
    code, result, _ = ended(tmp_path, "traced", "--trace", str(trace), model=NO_COMPUTE)
    assert (code, result["failure"]) == (0, None)
    assert trace.stat().st_size > 0


@pytest.mark.slow
def test_nsys_on_the_cpu_device_needs_no_trace_file(tmp_path):
    code, result, _ = ended(tmp_path, "traced", model=NO_COMPUTE, profiler="nsys")
    assert (code, result["failure"]) == (0, None)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"device": "cuda", "gpu": 99}, "not_runnable", ("CUDA is not available", "no GPU 99")),
        ({"memory_size_mb": 2**20, "image_size": 512}, "oom", ("not enough host memory for the pool",)),
        ({"cuda_graph": True}, "not_runnable", ("cuda_graph needs device cuda",)),
    ],
)
def test_failure_is_reported_by_name(tmp_path, changes, status, reason):
    code, result, stderr = ended(tmp_path, "timed", model=NO_COMPUTE, **changes)
    assert code == 3
    failure = result["failure"]
    assert failure["status"] == status
    assert any(text in failure["reason"] for text in reason)
    assert failure["advice"] in stderr
    assert "Traceback" not in stderr


def test_allocation_that_fails_is_oom(tmp_path):
    """The host has the memory, the process's own limit does not."""
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 12 << 30:
        pytest.skip("needs a host with 12 GiB: the pool must pass the check and fail the allocation")
    code, result, stderr = ended(
        tmp_path, "timed", model=NO_COMPUTE, image_size=512, memory_size_mb=8192, limit_bytes=8 << 30
    )
    assert (code, result["failure"]["status"]) == (3, "oom")
    assert "reduce batch_size or memory_size_mb" in stderr


@pytest.mark.slow
def test_any_other_failure_is_a_crash_with_its_text(tmp_path):
    code, result, stderr = ended(tmp_path, "traced", "--trace", "/proc/no/trace.json.gz", model=NO_COMPUTE)
    assert (code, result["failure"]["status"]) == (3, "crashed")
    assert "/proc/no" in result["failure"]["reason"]
    assert "Traceback" in stderr
