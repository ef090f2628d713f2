import subprocess
import sys

import pytest

from bench.errors import ProfilerError, StudyError
from bench.trace.profilers import Torch, choose_profiler, get_profiler


def test_auto_is_nsys_on_cuda_where_it_is(script, only_on_path):
    only_on_path(script("nsys", ""))
    assert choose_profiler("auto", "cuda") == "nsys"
    assert choose_profiler("auto", "cpu") == "torch"


def test_auto_is_torch_without_nsys(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", ())
    assert choose_profiler("auto", "cuda") == "torch"
    assert choose_profiler("nsys", "cuda") == "nsys"


def test_an_unknown_profiler_is_refused():
    with pytest.raises(ProfilerError, match="unknown profiler 'perf'"):
        choose_profiler("perf", "cpu")


def test_nsys_is_refused_on_the_cpu_device():
    with pytest.raises(StudyError, match="set profiler to auto") as refused:
        choose_profiler("nsys", "cpu")
    assert refused.value.exit_code == 2 and not isinstance(refused.value, ProfilerError)


def test_torch_passes_the_path_of_the_trace(tmp_path):
    report = tmp_path / "cell"
    trace = Torch().trace_path(report)
    assert Torch().command(["python"], report, "cpu") == ["python", "--trace", str(trace)]
    with pytest.raises(ProfilerError, match="left no trace"):
        Torch().collect(report, 0, "")
    assert Torch().collect(report, 3, "") is None
    trace.write_bytes(b"x")
    assert Torch().collect(report, 0, "") == trace
    Torch().command(["python"], report, "cpu")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["nsys", "torch"])
def test_profilers_import_nothing_heavy(name):
    code = f"""
import sys
from bench.trace.profilers import choose_profiler, get_profiler
choose_profiler("auto", "cuda"); get_profiler({name!r})
print(*sorted({{"torch", "numpy", "pandas"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
    assert get_profiler(name).name == name
