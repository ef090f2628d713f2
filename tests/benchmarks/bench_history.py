"""A year of nights: 365 x 48 cells. Run with -s to see the size."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.history.database import add_study
from bench.history.page import write_index
from bench.nightly.night import read_baseline
from bench.records.base import plain
from bench.records.host import Fingerprint
from tests.history.synthetic import cell_names, made_results, night_of, quiet_rates, rates_of

NIGHTS = 365
LARGEST_BYTES = 200e6
INDEX_S, COMPARE_S = 5.0, 2.0


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    for number, row in enumerate(quiet_rates(NIGHTS), 1):
        fingerprint = Fingerprint(driver=f"580.{number // 90}", cpu="Synthetic CPU")
        add_study(made_results(folder, number, rates_of(row), fingerprint=fingerprint), folder / "history.db")
    return folder


def test_size_of_a_year(year: Path, benchmark: Any) -> None:
    size = sum(path.stat().st_size for path in year.glob("history.db*"))
    benchmark.extra_info["history_bytes"] = size
    print(f"\nhistory.db of {NIGHTS} nights x {len(cell_names())} cells: {size / 1e6:.1f} MB")
    benchmark.pedantic(lambda: read_all(year), rounds=3)
    assert size <= LARGEST_BYTES


def read_all(year: Path) -> None:
    from bench.history.database import open_history
    from bench.history.trends import series

    with open_history(year / "history.db") as history:
        series(history)


def test_one_more_night(year: Path, benchmark: Any) -> None:
    results = made_results(year, NIGHTS, rates_of(quiet_rates(NIGHTS)[-1]), fingerprint=Fingerprint(driver="580.4"))
    benchmark.pedantic(lambda: add_study(results, year / "history.db"), rounds=5, warmup_rounds=1)


def test_the_index_of_a_year(year: Path, benchmark: Any) -> None:
    page = benchmark.pedantic(lambda: write_index(year / "history.db"), rounds=3)
    benchmark.extra_info["index_bytes"] = page.stat().st_size
    print(f"\nindex.html: {page.stat().st_size / 1e6:.1f} MB")
    assert benchmark.stats.stats.max <= INDEX_S


def test_the_baseline_of_a_night(year: Path, benchmark: Any) -> None:
    from bench.history.database import open_history

    tonight = made_results(
        year, NIGHTS, rates_of(quiet_rates(NIGHTS)[-1]), fingerprint=Fingerprint(cpu="Synthetic CPU")
    )

    def read() -> None:
        with open_history(year / "history.db") as history:
            read_baseline(history, tonight, night_of(NIGHTS), 28)

    benchmark.pedantic(read, rounds=5)


NIGHTLY = """
import json, sys
from pathlib import Path
from bench.nightly.night import NightlyStudy, judge_night
from bench.nightly.write import write_night
folder, run_dir, night = map(Path, sys.argv[1:])
verdict = judge_night(night.name, "synthetic-host", [NightlyStudy("NumaStudy", run_dir)], folder / "history.db", 28)
write_night(folder / "nightly" / night, verdict, [])
assert verdict.compared == 48, verdict.text
"""


def test_the_compare_of_a_night_in_a_process_of_its_own(year: Path, benchmark: Any) -> None:
    """With the start of Python and its imports, and without: the goal is kept by the larger of the two."""
    from bench.storage import write_json

    row = quiet_rates(NIGHTS + 1)[-1]
    tonight = made_results(
        year, NIGHTS + 1, rates_of(row), fingerprint=Fingerprint(driver="580.4", cpu="Synthetic CPU")
    )
    run_dir = Path(tonight.run_directory)
    write_json(run_dir / "results.json", plain(tonight))
    command = [sys.executable, "-c", NIGHTLY, str(year), str(run_dir), night_of(NIGHTS + 1)]
    benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=3)
    assert benchmark.stats.stats.min <= COMPARE_S
