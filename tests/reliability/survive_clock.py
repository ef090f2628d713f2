"""A clock that steps while a study runs, and summer time."""

import signal
import time
from pathlib import Path

import pytest

from bench.study.directory import new_directory
from tests.reliability.killing import ApartCalls, look_at_the_whole, recorded_runs, wait_until
from tests.reliability.stub import behave

# Stands in for the clock in every Python process of luigi's: it is off by what a file states, at every moment.
# (Under libfaketime 0.9.10 every time.sleep of Python 3.11 fails.) The monotonic clock and the file system keep theirs.
CLOCK = """
import os, time
_time, _gmtime, _localtime, _strftime = time.time, time.gmtime, time.localtime, time.strftime
def _moved():
    with open(os.path.join(os.path.dirname(__file__), "offset_s")) as file:
        return _time() + float(file.read())
time.time = _moved
time.time_ns = lambda: int(_moved() * 1e9)
time.gmtime = lambda seconds=None: _gmtime(_moved() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(_moved() if seconds is None else seconds)
time.strftime = lambda form, moment=None: _strftime(form, time.localtime() if moment is None else moment)
"""

# The same, but for a clock that steps two minutes ahead whenever it is read.
LEAPING = """
import itertools, time
_time, _leaps = time.time, itertools.count()
time.time = lambda: _time() + 120 * next(_leaps)
"""

HOUR_S = 3600
# 25 October 2026, 02:30 in Berlin: for the first time at 00:30 UTC, for the second time an hour later.
FIRST_HALF_PAST_TWO, SECOND_HALF_PAST_TWO = 1792888200, 1792891800


def set_clock(site: Path, offset_s: float) -> None:
    (site / "new").write_text(str(offset_s))
    (site / "new").rename(site / "offset_s")


def with_environment(calls: ApartCalls, **more: str) -> None:
    environment = calls.environment() | more
    calls.environment = lambda: environment  # type: ignore[method-assign]


@pytest.mark.parametrize(("before_s", "after_s"), [(2 * HOUR_S, -2 * HOUR_S), (0, 30 * 24 * HOUR_S)])
def test_a_clock_that_steps_while_a_study_runs(calls: ApartCalls, before_s: int, after_s: int) -> None:
    slow = behave(calls, "import time; time.sleep(0.5)")
    site = calls.folder / "site"
    (site / "sitecustomize.py").write_text(CLOCK + (site / "sitecustomize.py").read_text())
    set_clock(site, before_s)
    luigi = calls.start()
    assert wait_until(lambda: recorded_runs(calls.folder) >= 2)
    set_clock(site, after_s)
    said, _ = luigi.communicate(timeout=600)
    assert luigi.returncode == 0, said
    look_at_the_whole(calls)
    # Stamped by two clocks that are hours apart; no duration was made from them.
    stamps = sorted(time.strptime(one["started_at"], "%Y-%m-%dT%H:%M:%SZ") for one in calls.records().values())
    assert time.mktime(stamps[-1]) - time.mktime(stamps[0]) > HOUR_S
    assert all(0 < one["wall_s"] < 100 for one in calls.records().values())
    slow.unlink()
    again = calls.run()
    assert again.returncode == 0 and "Nothing was measured now" in again.stdout, again.stderr
    look_at_the_whole(calls)


def test_no_clock_step_makes_the_scheduler_drop_its_worker(calls: ApartCalls) -> None:
    """It gives up a worker not heard of for a minute: two readings of the clock with a step between them."""
    site = calls.folder / "site"
    (site / "sitecustomize.py").write_text(LEAPING + (site / "sitecustomize.py").read_text())
    done = calls.run()
    assert done.returncode == 0, done.stdout + done.stderr
    look_at_the_whole(calls)


def test_a_study_resumes_in_another_time_zone(calls: ApartCalls) -> None:
    slow = behave(calls, "import time; time.sleep(0.5)")
    with_environment(calls, TZ="UTC")
    luigi = calls.start()
    assert wait_until(lambda: recorded_runs(calls.folder) >= 1)
    luigi.send_signal(signal.SIGUSR1)
    luigi.communicate(timeout=600)
    slow.unlink()
    with_environment(calls, TZ="Asia/Tokyo")
    done = calls.run()
    assert done.returncode == 0, done.stderr
    look_at_the_whole(calls)


def test_the_hour_that_comes_twice_gives_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a stand-in here; the rules of the time zone are the system's."""
    tell = time.strftime
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    made = []
    for moment in (FIRST_HALF_PAST_TWO, SECOND_HALF_PAST_TWO):
        monkeypatch.setattr(time, "strftime", lambda form, moment=moment: tell(form, time.localtime(moment)))
        made.append(new_directory(tmp_path))
    monkeypatch.undo()
    time.tzset()
    assert [str(path.relative_to(tmp_path)) for path in made] == ["2026-10-25/02-30-00", "2026-10-25/02-30-00-2"]
