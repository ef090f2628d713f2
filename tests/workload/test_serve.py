"""The program that forks runs: what it refuses, and that its imports leave no trace in a run's environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.workload import serve
from bench.workload.__main__ import import_torch
from bench.workload.failures import RunFailure
from tests.workload.cells import NO_COMPUTE, raw_cell

ROOT = Path(__file__).parents[2]
THREADED = """
import sys, threading, time
from bench.workload import serve
serve.import_all = lambda: threading.Thread(target=time.sleep, args=(60,), name="busy", daemon=True).start()
sys.exit(serve.main(["--cell", "c.json"]))
"""


def process_folder(tmp_path: Path, *opened: str) -> Path:
    """Of a process with one thread, which has these files open."""
    (tmp_path / "task" / "7").mkdir(parents=True)
    (tmp_path / "task" / "7" / "comm").write_text("python\n")
    (tmp_path / "fd").mkdir()
    for number, target in enumerate(opened):
        (tmp_path / "fd" / str(number)).symlink_to(target)
    return tmp_path


def test_process_with_threads_is_not_forked() -> None:
    refused = subprocess.run([sys.executable, "-c", THREADED], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 3
    assert refused.stderr.startswith("no fork server: it has 2 threads before the fork")
    assert "use start: exec" in refused.stderr


def test_open_gpu_is_not_forked(tmp_path: Path) -> None:
    serve.refuse_unsafe(process_folder(tmp_path / "quiet", "/dev/null", "socket:[1]"))
    with pytest.raises(RunFailure, match="it holds /dev/nvidiactl open before the fork"):
        serve.refuse_unsafe(process_folder(tmp_path / "busy", "/dev/null", "/dev/nvidiactl"))


def test_process_with_a_cuda_context_is_not_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RunFailure, match="CUDA was initialised"):
        serve.refuse_unsafe(process_folder(tmp_path))


def test_imports_leave_the_environment_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of this process may have set it.
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    import_torch(True)
    before = dict(os.environ)
    serve.import_all()
    assert "OPENBLAS_NUM_THREADS" not in before
    assert dict(os.environ) == before
    assert {"torch", "timm", "bench.workload.run"} <= sys.modules.keys()


@pytest.mark.slow
def test_command_of_a_record_repeats_the_run(tmp_path: Path) -> None:
    """A cell that does not fit: nothing need be measured to see that exit code and named outcome come through."""
    cell, result = tmp_path / "cell.json", tmp_path / "result.json"
    cell.write_text(json.dumps(raw_cell(model=NO_COMPUTE, image_size=512, memory_size_mb=2**20)))
    command = [sys.executable, "-m", "bench.workload.serve", "--cell", str(cell), "--mode", "timed", "--result"]
    again = subprocess.run([*command, str(result)], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 3
    assert '"oom"' in result.read_text() and "not enough host memory" in again.stderr
