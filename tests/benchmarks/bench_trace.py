"""Reading a trace of a million activities: time against plain SQLite, and peak memory.

Goals of `numastudy analyze`: at most 2.5 s on two cores, at most 300 MiB. `make bench` prints both; see extra_info.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench.records.trace import Metrics
from bench.trace.batches import per_batch
from bench.trace.metrics import metrics
from bench.trace.reader import read_trace
from tests.benchmarks.make_export import make_export

ACTIVITIES = 1_000_000
MOST_BYTES = 300 << 20
FIXTURE = Path(__file__).parent.parent / "fixtures" / "traces" / "h100_vit32x2x128_cuda_graph.sqlite.gz"

PEAK = """
import re, sys
from bench.trace.reader import read_trace
from bench.records.trace import Metrics
from bench.trace.metrics import metrics
from bench.trace.batches import per_batch
trace = read_trace(sys.argv[1])
metrics(trace), per_batch(trace)
# Not ru_maxrss, which a process inherits from the one that started it.
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def export(request, tmp_path_factory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("export") / "million.sqlite"
    make_export(path, ACTIVITIES, seed=None if request.param == "in order" else 7)
    yield path
    path.unlink()


def analyzed(path: Path) -> Metrics:
    trace = read_trace(path)
    per_batch(trace)
    return metrics(trace)


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
    assert found.batches == round(ACTIVITIES / 144)


@pytest.mark.benchmark(group="a trace of a million activities")
def test_baseline_sqlite_fetchall(benchmark, export):
    assert benchmark.pedantic(fetched, (export,), rounds=3) > ACTIVITIES


@pytest.mark.benchmark(group="peak memory (time is of a whole process)")
def test_peak_memory(benchmark, export):
    def process() -> int:
        argv = [sys.executable, "-c", PEAK, str(export)]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    peak = benchmark.pedantic(process, rounds=1)
    benchmark.extra_info["peak_bytes"] = peak
    print(f"\npeak memory: {peak / 2**20:.0f} MiB, {peak / export.stat().st_size:.2f} times the file")
    assert peak <= MOST_BYTES


@pytest.mark.benchmark(group="a real export of 200 batches")
def test_real_export(benchmark):
    assert benchmark(analyzed, FIXTURE).batches == 200
