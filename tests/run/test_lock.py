"""One measurement on a host at a time, with real processes that hold the lock."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import StudyError
from bench.run.lock import HostLock, describe
from bench.storage import start_ticks

HOLDER = """
import sys, time
from pathlib import Path
from bench.run.lock import HostLock
lock = HostLock(Path(sys.argv[1]))
lock.acquire("other study", print)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


class Waited(Exception):
    pass


def refuse_to_wait(text: str) -> None:
    raise Waited(text)


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_study_waits_and_says_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path, 600)
    try:
        with pytest.raises(Waited) as waited:
            HostLock(path).acquire("mine", refuse_to_wait)
        assert f"waiting for other study (pid {holder.pid}, since " in waited.value.args[0].text
    finally:
        holder.kill()
        holder.wait()
    HostLock(path).acquire("mine", refuse_to_wait)


def test_a_study_holds_the_host_since_its_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(("first run", "another study", "again"))
    monkeypatch.setattr("bench.run.lock.time.strftime", lambda _: next(times))
    lock = HostLock(tmp_path / "lock")
    seen = []
    for study in ("mine", "mine", "other", "mine"):
        lock.acquire(study, refuse_to_wait)
        seen.append(lock.holder()["since"])
    assert seen == ["first run", "first run", "another study", "again"]


def test_the_lock_goes_on_to_who_waits(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock", 0.5)
    said: list[str] = []
    lock = HostLock(tmp_path / "lock")
    lock.acquire("mine", said.append, interval_s=0.05)
    holder.wait()
    assert said and lock.holder()["study"] == "mine"


def test_forked_workers_share_the_lock_and_a_child_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = HostLock(path)
    lock.acquire("mine", refuse_to_wait)
    if (pid := os.fork()) == 0:
        lock.acquire("mine", refuse_to_wait)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    child = subprocess.Popen(["sleep", "600"], pass_fds=(lock.fileno(),))
    os.close(lock.fileno())
    try:
        with pytest.raises(Waited):
            HostLock(path).acquire("next", refuse_to_wait)
    finally:
        child.kill()
        child.wait()
    HostLock(path).acquire("next", refuse_to_wait)


def pretend_death(lock: HostLock, holder: dict) -> None:
    """As if this process had been killed: its id now belongs to nobody that started then."""
    os.pwrite(lock.fileno(), json.dumps(holder | {"start_ticks": 1}).encode() + b" " * 99, 0)
    os.close(lock.fileno())


def sleeper(lock: HostLock) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], pass_fds=(lock.fileno(),), start_new_session=True)


@pytest.mark.parametrize("count", [1, 3])
def test_orphans_of_a_dead_holder_are_ended(tmp_path: Path, count: int) -> None:
    path = tmp_path / "lock"
    lock = HostLock(path)
    lock.acquire("mine", refuse_to_wait)
    orphans = [sleeper(lock) for _ in range(count)]
    for orphan in orphans:
        lock.record_child(orphan.pid)
    assert lock.sessions() == [orphan.pid for orphan in orphans]
    pretend_death(lock, lock.holder())
    HostLock(path).acquire("next", lambda _: None, interval_s=0.05)
    assert [orphan.wait(5) for orphan in orphans] == [-15] * count


def test_the_orphan_of_an_earlier_version_is_ended_too(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = HostLock(path)
    lock.acquire("mine", refuse_to_wait)
    orphan = sleeper(lock)
    lock.record_child(orphan.pid)
    holder = lock.holder()
    assert (holder["child"], holder["child_start_ticks"]) == (orphan.pid, start_ticks(orphan.pid))
    pretend_death(lock, {key: value for key, value in holder.items() if key != "children"})
    HostLock(path).acquire("next", lambda _: None, interval_s=0.05)
    assert orphan.wait(5) == -15


def test_a_study_measures_while_a_child_of_its_own_runs(tmp_path: Path) -> None:
    lock, waiting = HostLock(tmp_path / "lock"), HostLock(tmp_path / "lock")
    waiting._owner = waiting._owner | {"pid": 1}  # another study's process
    assert not lock.measuring()
    lock.acquire("mine", refuse_to_wait)
    assert not lock.measuring()
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock.record_child(child.pid)
    assert lock.measuring() and not waiting.measuring()
    child.kill()
    child.wait()
    assert not lock.measuring()


def test_children_that_ended_are_forgotten(tmp_path: Path) -> None:
    lock = HostLock(tmp_path / "lock")
    lock.acquire("mine", refuse_to_wait)
    ended, living = sleeper(lock), sleeper(lock)
    lock.record_child(ended.pid)
    ended.kill()
    ended.wait()
    lock.record_child(living.pid)
    assert [child for child, _ in lock.holder()["children"]] == [living.pid] == lock.sessions()
    living.kill()
    living.wait()
    assert lock.sessions() == []


def test_a_live_holder_keeps_its_child(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = HostLock(path)
    lock.acquire("mine", refuse_to_wait)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock.record_child(child.pid)
    with pytest.raises(Waited):
        HostLock(path).acquire("next", refuse_to_wait)
    time.sleep(0.1)
    assert child.poll() is None and start_ticks(child.pid)
    child.kill()
    child.wait()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="NUMASTUDY_LOCK_DIR"):
        HostLock(tmp_path / "nowhere" / "lock")


def test_a_holder_that_said_nothing_is_waited_for_too() -> None:
    assert describe({}) == "another measurement on this host"


def test_a_process_of_this_boot_is_no_orphan_of_another_one(tmp_path: Path) -> None:
    """After a reboot ids and start times are others': whoever has them now is left alone."""
    path = tmp_path / "lock"
    innocent = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock = HostLock(path)
    lock.acquire("mine", refuse_to_wait)
    lock.record_child(innocent.pid)
    path.write_text(json.dumps(lock.holder() | {"boot": "an-earlier-boot"}) + "\n")
    lock.release()
    try:
        HostLock(path).acquire("next", refuse_to_wait)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_an_orphan_that_does_not_hold_the_lock_is_ended_too(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    killed = (
        "lock.record_child(subprocess.Popen(['sleep', '600'], start_new_session=True).pid); os.kill(os.getpid(), 9)"
    )
    program = HOLDER.replace('print("held", flush=True)', f"import os, subprocess; {killed}")
    subprocess.run([sys.executable, "-c", program, str(path), "0"], check=False)
    children = json.loads(path.read_text().splitlines()[0])["children"]
    assert start_ticks(children[0][0]) == children[0][1]
    HostLock(path).acquire("next", refuse_to_wait)
    assert start_ticks(children[0][0]) is None


def test_half_of_what_a_holder_wrote_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = HostLock(path)
    path.write_text('{"study": "mine", "pi')
    assert lock.holder() == {}
    lock.acquire("mine" * 100, refuse_to_wait)
    lock.acquire("short", refuse_to_wait)
    assert lock.holder()["study"] == "short"


def test_an_id_that_was_given_away_again_is_no_orphan(tmp_path: Path) -> None:
    """The recorded child has ended, and a younger process leads a session of the same id."""
    path = tmp_path / "lock"
    innocent = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock = HostLock(path)
    lock.acquire("mine", refuse_to_wait)
    older = [[innocent.pid, start_ticks(innocent.pid) - 100]]
    path.write_text(json.dumps(lock.holder() | {"children": older, "start_ticks": 1}) + "\n")
    lock.release()
    try:
        HostLock(path).acquire("next", refuse_to_wait)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()
