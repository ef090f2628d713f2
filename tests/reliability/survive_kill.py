"""kill -9 at any moment: 200 replayed runs, 20 of the real cpu workload, 10 crossings. `make test-reliability`.

Replays (tests/reliability/stub.py) are short, so that every part of a call is met often; the rest of the call is real.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.reliability.killing import ApartCalls, Batch
from tests.reliability.stub import replay
from tests.tasks.test_crossing import CROSSED, shorten

SEEDS = (20261122, 20261123, 20261124, 20261125)
LOCAL = ["--local-scheduler"]


@pytest.mark.timeout(3000)
def test_200_kills_of_replayed_runs(tmp_path: Path, recorded: Path) -> None:
    def batch(seed: int) -> Batch:
        calls = ApartCalls(tmp_path / str(seed), LOCAL)
        replay(calls, recorded)
        calls.study["repeats"] = 10
        calls.write()
        return Batch(calls, seed, 50, longest_s=1.5).run()

    with ThreadPoolExecutor(2) as threads:
        batches = [*threads.map(batch, SEEDS)]
    assert sum(sum(one.killed.values()) for one in batches) == 200
    assert sum(one.completed for one in batches) >= 4


@pytest.mark.timeout(3000)
def test_20_kills_of_real_runs_on_the_cpu_device(tmp_path: Path) -> None:
    calls = ApartCalls(tmp_path / "work", LOCAL)
    calls.study["repeats"] = 2
    calls.write()
    assert sum(Batch(calls, 7, 20, longest_s=12.0).run().killed.values()) == 20


@pytest.mark.needs("numactl")
@pytest.mark.timeout(3000)
def test_10_kills_of_crossings_on_the_cpu_device(tmp_path: Path) -> None:
    calls = ApartCalls(tmp_path / "work", LOCAL, CROSSED | {"repeats": 2})
    shorten(calls, 0.3)
    assert sum(Batch(calls, 11, 10, longest_s=10.0, crossed=2).run().killed.values()) == 10
