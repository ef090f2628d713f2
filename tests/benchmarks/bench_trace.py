"""Reading a trace of a million activities: time against plain SQLite, and peak memory against the file.

Goals: at most 1.5 s on two cores, at most 3 times the file. `make bench` prints both; see extra_info.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench.trace.metrics import metrics
from bench.trace.reader import read_trace
from bench.trace.remarks import details
from tests.benchmarks.make_export import make_export

ACTIVITIES = 1_000_000
FIXTURE = Path(__file__).parent.parent / "fixtures" / "traces" / "h100_vit32x2x128_cuda_graph.sqlite.gz"

PEAK = """
import re, sys
from bench.trace.reader import read_trace
from bench.trace.metrics import metrics
from bench.trace.remarks import details
trace = read_trace(sys.argv[1])
metrics(trace), details(trace)
# Not ru_maxrss, which a process inherits from the one that started it.
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def export(request, tmp_path_factory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("export") / "million.sqlite"
    make_export(path, ACTIVITIES, seed=None if request.param == "in order" else 7)
    yield path
    path.unlink()


def analyzed(path: Path) -> dict:
    return metrics(read_trace(path))


def fetched(path: Path) -> int:
    """The baseline: the same columns of the same rows as Python objects, nothing done with them."""
    tables = {
        "RUNTIME": "correlationId, start, end, globalTid",
        "KERNEL": "correlationId, start, end, deviceId, globalPid, shortName",
        "MEMCPY": "correlationId, start, end, deviceId, globalPid, bytes, copyKind, streamId, srcKind, dstKind",
    }
    with closing(connect(path)) as db:
        return sum(
            len(db.execute(f"SELECT {columns} FROM CUPTI_ACTIVITY_KIND_{table}").fetchall())
            for table, columns in tables.items()
        )


@pytest.mark.benchmark(group="a trace of a million activities")
def test_read_and_metrics(benchmark, export):
    found = benchmark.pedantic(analyzed, (export,), rounds=5, warmup_rounds=1)
    assert found["batches"] == round(ACTIVITIES / 144)


@pytest.mark.benchmark(group="a trace of a million activities")
def test_baseline_sqlite_fetchall(benchmark, export):
    assert benchmark.pedantic(fetched, (export,), rounds=3) > ACTIVITIES


@pytest.mark.benchmark(group="a trace of a million activities")
def test_details(benchmark, export):
    trace = read_trace(export)
    benchmark.pedantic(details, (trace,), rounds=3)


@pytest.mark.benchmark(group="peak memory (time is of a whole process)")
def test_peak_memory(benchmark, export):
    def process() -> int:
        argv = [sys.executable, "-c", PEAK, str(export)]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    peak = benchmark.pedantic(process, rounds=1)
    benchmark.extra_info["peak_bytes"] = peak
    benchmark.extra_info["peak_over_file"] = round(peak / export.stat().st_size, 2)
    print(f"\npeak memory: {peak / 1e6:.0f} MB, {peak / export.stat().st_size:.2f} times the file")
    assert peak <= 3 * export.stat().st_size


@pytest.mark.benchmark(group="a real export of 200 batches")
def test_real_export(benchmark):
    assert benchmark(analyzed, FIXTURE)["batches"] == 200
