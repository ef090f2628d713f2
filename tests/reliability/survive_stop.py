"""Stops by signals, each continued by the same command; a study that is started twice is measured once."""

import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.reliability.killing import ApartCalls, living, look_at_the_whole, recorded_runs, wait_until
from tests.reliability.stub import behave, hold, replay
from tests.tasks.study_calls import PROJECT_CONFIG, luigid


@pytest.mark.parametrize("workers", ["1", "3"])
def test_sigusr1_finishes_the_current_run_and_stops(calls: ApartCalls, workers: str) -> None:
    held = hold(calls, after_runs=1)
    luigi = calls.start("--workers", workers)
    # In this order: a child of the run whose record is there has ended.
    assert wait_until(lambda: recorded_runs(calls.folder) >= 1 and bool(calls.children()))
    measured = calls.children()
    luigi.send_signal(signal.SIGUSR1)
    held.unlink()
    output, _ = luigi.communicate(timeout=600)
    assert luigi.returncode == 128 + signal.SIGUSR1, output
    assert "this call ends after the current task" in output
    assert "repeat the command to continue" in output and "Traceback" not in output
    assert measured and living(calls) == []
    # Of the order's runs the first two: the one that was over, and the one that the signal met.
    assert calls.measured() == calls.order()[:2]
    assert all(record["status"] == "ok" for record in calls.records().values())
    done = calls.run()
    assert done.returncode == 0, done.stderr
    look_at_the_whole(calls)


@pytest.mark.parametrize("signals", [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)])
def test_a_second_signal_stops_at_once_and_loses_nothing(calls: ApartCalls, signals: tuple[int, int]) -> None:
    hold(calls)
    luigi = calls.start()
    assert wait_until(lambda: bool(calls.children()))
    luigi.send_signal(signals[0])
    time.sleep(0.3)
    luigi.send_signal(signals[1])
    output, _ = luigi.communicate(timeout=600)
    assert luigi.returncode in (128 + signals[0], 128 + signals[1]), output
    assert living(calls) == [] and "Traceback" not in output


def test_two_commands_for_one_study_measure_it_once(calls: ApartCalls) -> None:
    held = hold(calls)
    first = calls.start("--workers", "1")
    assert wait_until(lambda: bool(calls.children()))
    second = calls.start("--workers", "2")
    refused = second.communicate(timeout=600)[0]
    held.unlink()
    texts = [first.communicate(timeout=600)[0], refused]
    assert (first.returncode, second.returncode) == (0, 10), texts
    assert "already running" in texts[1]
    look_at_the_whole(calls)


def test_one_luigid_measures_a_study_started_twice_once(tmp_path: Path, recorded: Path) -> None:
    with luigid(tmp_path / "luigid", None) as port:
        calls = ApartCalls(tmp_path / "work", ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(port)])
        replay(calls, recorded)
        behave(calls, "import time; time.sleep(1.0)")
        first = calls.start("--workers", "1")
        assert wait_until(lambda: bool(calls.children()))
        second = calls.start("--workers", "2")
        output = [call.communicate(timeout=600)[0] for call in (first, second)]
    # luigid gives each task to one of the two: the other one may end with "run by another worker".
    assert {first.returncode, second.returncode} <= {0, 10, 25} and 0 in (first.returncode, second.returncode), output
    look_at_the_whole(calls)


def test_two_studies_on_one_host_take_turns(tmp_path: Path, recorded: Path) -> None:
    """Each is measured whole before the other one, under one lock of the host."""
    both = []
    for name in ("one", "two"):
        calls = ApartCalls(tmp_path / name, ["--local-scheduler"])
        replay(calls, recorded)
        both.append(calls)
    lock = both[0].environment()["NUMASTUDY_LOCK_DIR"]
    for calls in both:
        environment = calls.environment() | {"NUMASTUDY_LOCK_DIR": lock}
        calls.environment = lambda environment=environment: environment  # type: ignore[method-assign]
    held = hold(both[0])
    started = [both[0].start()]
    assert wait_until(lambda: bool(both[0].children()))
    started.append(both[1].start())
    waits = next((line for line in started[1].stdout if "waiting for" in line), "nothing")
    assert str(both[0].folder) in waits
    held.unlink()
    output = [call.communicate(timeout=600)[0] for call in started]
    assert [call.returncode for call in started] == [0, 0], output
    spans = []
    for calls in both:
        records = calls.records().values()
        spans.append((min(one["started_at"] for one in records), max(one["ended_at"] for one in records)))
        look_at_the_whole(calls)
    spans.sort(key=lambda span: span[1])
    # started_at of the later one's first run is when it began to wait; its end is after the other one's.
    assert spans[0][1] <= spans[1][1]
    assert "waiting for" not in output[0]


def test_an_unreachable_scheduler_is_named_at_once(calls: ApartCalls) -> None:
    calls.scheduler = ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(free_port())]
    done = calls.run()
    assert done.returncode == 2
    assert done.stderr.startswith("refused: no scheduler answers: Connection refused\n") and not done.stdout
    assert not list(calls.folder.rglob("runs/*.json"))
    calls.scheduler = ["--local-scheduler"]
    assert calls.run().returncode == 0


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("config", [PROJECT_CONFIG, None], ids=["project settings", "luigid's defaults"])
def test_a_stop_under_luigid_is_continued_at_once(tmp_path: Path, recorded: Path, config: Path | None) -> None:
    """20 stops at random moments: SIGINT, SIGTERM and SIGKILL, each followed by the same command."""
    moments = random.Random(20261129)
    with luigid(tmp_path / "luigid", config) as port:
        calls = ApartCalls(tmp_path / "work", ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(port)])
        replay(calls, recorded)
        calls.study["repeats"] = 10
        calls.write()
        behave(calls, "import time; time.sleep(0.2)")
        stops = 0
        while stops < 20:
            luigi = calls.start("--workers", moments.choice("12"))
            if moments.random() < 0.8:
                wait_until(lambda: luigi.poll() is not None or bool(calls.children()))  # noqa: B023
            with suppress(subprocess.TimeoutExpired):
                luigi.wait(moments.uniform(0.0, 2.0))
            if luigi.poll() is None:
                luigi.send_signal(moments.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)))
                stops += 1
            text, _ = luigi.communicate(timeout=600)
            assert "not granted run permission" not in text and luigi.returncode not in (10, 25), text
            if luigi.returncode == 0:
                look_at_the_whole(calls)
                (calls.folder / "outputs").rename(calls.folder / f"outputs_{stops}")
        done = calls.run()
        assert done.returncode == 0, done.stderr
        look_at_the_whole(calls)
