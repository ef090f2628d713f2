"""`numastudy whatif` of a million activities and 2.3 million calls: time against plain SQLite, and peak memory.

Goals: at most 10 s on two cores, at most 1.5 GiB.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from bench.trace.export import open_export
from bench.whatif.answer import Interval, whatif
from bench.whatif.read import read_program
from tests.benchmarks.tile_export import tile_export

ACTIVITIES = 1_000_000
MOST_BYTES = 3 << 29
FIXTURE = Path(__file__).parent.parent / "fixtures" / "traces" / "h200_vit32x2x128_eager_nsys.sqlite.gz"

PEAK = """
import re, sys
from pathlib import Path
from bench.whatif.command import Request, whatif
whatif(Path(sys.argv[1]), Request())
# Not ru_maxrss, which a process inherits from the one that started it.
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("export") / "million.sqlite"
    tile_export(FIXTURE, path, ACTIVITIES)
    yield path
    path.unlink()


def answered(path: Path) -> int:
    with open_export(path) as export:
        return whatif(read_program(export), path.name, export.tool, Interval(), None).calls


def fetched(path: Path) -> int:
    """The baseline: the same columns of the calls and kernels as Python objects, nothing done with them."""
    tables = {
        "RUNTIME": "correlationId, start, end, globalTid, nameId",
        "KERNEL": "correlationId, start, end, deviceId, globalPid, contextId, streamId, shortName",
    }
    with closing(connect(path)) as db:
        return sum(
            len(db.execute(f"SELECT {columns} FROM CUPTI_ACTIVITY_KIND_{table}").fetchall())
            for table, columns in tables.items()
        )


@pytest.mark.benchmark(group="what if, a million activities and 2.3 million calls")
def test_answer(benchmark, export):
    assert benchmark.pedantic(answered, (export,), rounds=3) > 2 * ACTIVITIES


@pytest.mark.benchmark(group="what if, a million activities and 2.3 million calls")
def test_baseline_sqlite_fetchall(benchmark, export):
    assert benchmark.pedantic(fetched, (export,), rounds=3) > 3 * ACTIVITIES


@pytest.mark.benchmark(group="peak memory (time is of a whole process)")
def test_peak_memory(benchmark, export):
    def process() -> int:
        argv = [sys.executable, "-c", PEAK, str(export)]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    peak = benchmark.pedantic(process, rounds=1)
    benchmark.extra_info["peak_bytes"] = peak
    print(f"\npeak memory: {peak / 2**20:.0f} MiB, {peak / export.stat().st_size:.2f} times the file")
    assert peak <= MOST_BYTES
