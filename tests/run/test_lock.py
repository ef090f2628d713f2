"""One measurement on a host at a time, with real processes that hold the lock."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from bench.errors import StudyError
from bench.records.base import DamagedRecord, convert
from bench.run.lock import SHARED, Child, Holder, HostLock, describe, lock_folder
from bench.run.progress import Progress
from bench.storage import boot_id, start_ticks

HOLDER = """
import sys, time
from pathlib import Path
from bench.run.lock import HostLock
lock = HostLock(Path(sys.argv[1]))
lock.acquire("other study", lambda progress: None)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


class Waited(Exception):
    pass


def refuse_to_wait(progress: Progress) -> None:
    raise Waited(progress)


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_second_study_waits_and_names_the_first(tmp_path: Path) -> None:
    holder = hold(tmp_path, 600)
    try:
        with pytest.raises(Waited) as waited:
            HostLock(tmp_path).acquire("mine", refuse_to_wait)
        assert f"waiting for other study (pid {holder.pid}, since " in waited.value.args[0].text
    finally:
        holder.kill()
        holder.wait()
    HostLock(tmp_path).acquire("mine", refuse_to_wait)


def test_study_holds_the_host_since_its_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(("first run", "another study", "again"))
    monkeypatch.setattr("bench.run.lock.time.strftime", lambda _: next(times))
    lock = HostLock(tmp_path)
    seen = []
    for study in ("mine", "mine", "other", "mine"):
        lock.acquire(study, refuse_to_wait)
        seen.append(lock.holder().since)
    assert seen == ["first run", "first run", "another study", "again"]


def test_lock_passes_to_the_next_study(tmp_path: Path) -> None:
    holder = hold(tmp_path, 600)
    reports: list[Progress] = []

    def end_the_holder(progress: Progress) -> None:
        reports.append(progress)
        holder.kill()

    lock = HostLock(tmp_path)
    lock.acquire("mine", end_the_holder, interval_s=0.05)
    holder.wait()
    assert reports and lock.holder().study == "mine"


def test_forked_workers_share_the_lock_and_a_child_keeps_it(tmp_path: Path) -> None:
    lock = HostLock(tmp_path)
    lock.acquire("mine", refuse_to_wait)
    if (pid := os.fork()) == 0:
        lock.acquire("mine", refuse_to_wait)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    child = subprocess.Popen(["sleep", "600"], pass_fds=(lock.fileno(),))
    os.close(lock.fileno())
    try:
        with pytest.raises(Waited):
            HostLock(tmp_path).acquire("next", refuse_to_wait)
    finally:
        child.kill()
        child.wait()
    HostLock(tmp_path).acquire("next", refuse_to_wait)


def rewrite(folder: Path, **changes: object) -> None:
    """Change what this user's last holder recorded."""
    for path in (folder / f"numastudy-{os.geteuid()}.children", folder / f"numastudy-{os.geteuid()}.holder"):
        path.write_text(json.dumps(json.loads(path.read_text().splitlines()[0]) | changes) + "\n")


def pretend_death(lock: HostLock) -> None:
    """As if this process had been killed: its id now belongs to none that started then."""
    rewrite(lock.folder, start_ticks=1)
    os.close(lock.fileno())


def sleeper(lock: HostLock) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], pass_fds=(lock.fileno(),), start_new_session=True)


@pytest.mark.parametrize("count", [1, 3])
def test_orphans_of_a_dead_holder_are_ended(tmp_path: Path, count: int) -> None:
    lock = HostLock(tmp_path)
    lock.acquire("mine", refuse_to_wait)
    orphans = [sleeper(lock) for _ in range(count)]
    for orphan in orphans:
        lock.record_child(orphan.pid)
    assert lock.sessions() == [orphan.pid for orphan in orphans]
    pretend_death(lock)
    HostLock(tmp_path).acquire("next", lambda _: None, interval_s=0.05)
    assert [orphan.wait(240) for orphan in orphans] == [-15] * count


def test_study_measures_while_a_child_of_its_own_runs(tmp_path: Path) -> None:
    lock, waiting = HostLock(tmp_path), HostLock(tmp_path)
    waiting._me = structs.replace(waiting._me, pid=1)  # another study's process
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
    lock = HostLock(tmp_path)
    lock.acquire("mine", refuse_to_wait)
    ended, living = sleeper(lock), sleeper(lock)
    lock.record_child(ended.pid)
    ended.kill()
    ended.wait()
    lock.record_child(living.pid)
    assert [child.pid for child in lock.holder().children] == [living.pid] == lock.sessions()
    living.kill()
    living.wait()
    assert lock.sessions() == []


def test_live_holder_keeps_its_child(tmp_path: Path) -> None:
    lock = HostLock(tmp_path)
    lock.acquire("mine", refuse_to_wait)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock.record_child(child.pid)
    with pytest.raises(Waited):
        HostLock(tmp_path).acquire("next", refuse_to_wait)
    time.sleep(0.1)
    assert child.poll() is None and start_ticks(child.pid)
    child.kill()
    child.wait()


def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="NUMASTUDY_LOCK_DIR"):
        HostLock(tmp_path / "nowhere")


def test_process_of_another_boot_is_not_an_orphan(tmp_path: Path) -> None:
    """After a reboot ids and start times are others': whatever has them now is not ended."""
    innocent = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock = HostLock(tmp_path)
    lock.acquire("mine", refuse_to_wait)
    lock.record_child(innocent.pid)
    rewrite(tmp_path, boot="an-earlier-boot")
    lock.release()
    try:
        HostLock(tmp_path).acquire("next", refuse_to_wait)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_orphan_that_does_not_hold_the_lock_is_ended_too(tmp_path: Path) -> None:
    killed = (
        "lock.record_child(subprocess.Popen(['sleep', '600'], start_new_session=True).pid); os.kill(os.getpid(), 9)"
    )
    program = HOLDER.replace('print("held", flush=True)', f"import os, subprocess; {killed}")
    subprocess.run([sys.executable, "-c", program, str(tmp_path), "0"], check=False)
    (child,) = HostLock(tmp_path).holder().children
    assert child.is_alive
    HostLock(tmp_path).acquire("next", refuse_to_wait)
    assert not child.is_alive


def test_incomplete_holder_record_is_ignored(tmp_path: Path) -> None:
    lock = HostLock(tmp_path)
    (tmp_path / f"numastudy-{os.geteuid()}.children").write_text('{"study": "mine", "pi')
    assert lock.holder() is None
    lock.acquire("mine" * 100, refuse_to_wait)
    lock.acquire("short", refuse_to_wait)
    assert lock.holder().study == "short"


def test_reused_process_id_is_not_an_orphan(tmp_path: Path) -> None:
    """The recorded child has ended, and a younger process leads a session of the same id."""
    innocent = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock = HostLock(tmp_path)
    lock.acquire("mine", refuse_to_wait)
    rewrite(tmp_path, children=[{"pid": innocent.pid, "start_ticks": start_ticks(innocent.pid) - 100}], start_ticks=1)
    lock.release()
    try:
        HostLock(tmp_path).acquire("next", refuse_to_wait)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


# Other users of the machine


SOMEBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture
def shared(public_path: Path) -> Path:
    """A folder that everybody may write to, as /run/lock."""
    public_path.chmod(0o1777)
    return public_path


def as_somebody(act: Callable[[], str | None]) -> str:
    """What the function returns as another user, in a process of its own; files that it leaves are that user's."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            os.write(writing, (act() or "").encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return answer


def plant(folder: Path, text: str) -> None:
    for name in ("numastudy-0.children", "numastudy-0.holder", "numastudy-65534.holder", "numastudy.lock"):
        path = folder / name
        if text == "fifo":
            os.mkfifo(path)
        elif text == "link":
            path.symlink_to(folder / "target")
            continue
        else:
            path.write_text(text)
        path.chmod(0o666)


@needs_root
def test_planted_record_ends_no_process(shared: Path) -> None:
    victim = subprocess.Popen(["sleep", "600"], start_new_session=True)
    child = {"pid": victim.pid, "start_ticks": start_ticks(victim.pid)}
    dead = {"uid": 0, "pid": 1, "start_ticks": 1, "boot": boot_id(), "study": "x", "children": [child]}
    as_somebody(lambda: plant(shared, json.dumps(dead)))
    try:
        lock = HostLock(shared)
        lock.acquire("mine", refuse_to_wait)
        lock.record_child(victim.pid)
        assert victim.poll() is None and lock.sessions() == [victim.pid]
    finally:
        victim.kill()
        victim.wait()


@needs_root
@pytest.mark.parametrize("text", ["fifo", "link", "\0" * 100, "[" * 60_000, '{"children": [[1, 0]]}'], ids=range(5))
def test_planted_files_are_not_used(shared: Path, text: str) -> None:
    target = shared / "target"
    target.write_text("precious")
    as_somebody(lambda: plant(shared, text))
    lock = HostLock(shared)
    lock.acquire("mine", refuse_to_wait)
    assert lock.holder().study == "mine" and target.read_text() == "precious"
    with pytest.raises(Waited):
        waiting = HostLock(shared)
        waiting._private = None
        waiting.acquire("next", refuse_to_wait)


@needs_root
def test_own_records_are_private(shared: Path) -> None:
    lock = HostLock(shared)
    lock.acquire("mine", refuse_to_wait)
    modes = {path.name: path.stat().st_mode & 0o777 for path in shared.glob("numastudy-*")}
    assert modes == {"numastudy-0.children": 0o600, "numastudy-0.holder": 0o644}


@needs_root
def test_two_users_exclude_and_name_each_other(shared: Path) -> None:
    lock = HostLock(shared)
    lock.acquire("/outputs/of root", refuse_to_wait)

    def wait() -> str:
        with pytest.raises(Waited) as waited:
            HostLock(shared).acquire("his", refuse_to_wait)
        return waited.value.args[0].text

    assert as_somebody(wait).startswith(f"waiting for /outputs/of root (pid {os.getpid()}, since ")


@needs_root
def test_orphan_of_another_user_is_named_and_not_ended(shared: Path) -> None:
    lock = HostLock(shared)
    lock.acquire("/outputs/of root", refuse_to_wait)
    orphan = sleeper(lock)
    lock.record_child(orphan.pid)
    rewrite(shared, start_ticks=1)

    def wait() -> str:
        with pytest.raises(Waited) as waited:
            HostLock(shared).acquire("his", refuse_to_wait)
        return waited.value.args[0].text

    try:
        assert f"ask for the end of process {orphan.pid} of user root" in as_somebody(wait)
        assert orphan.poll() is None
    finally:
        orphan.kill()
        orphan.wait()


def test_one_folder_whatever_the_user_and_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMASTUDY_LOCK_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)  # as for a user where only root may write there
    assert str(lock_folder()) == next(path for path in SHARED if os.path.isdir(path))
    lock = HostLock(lock_folder())
    lock.record_child(os.getpid())
    assert lock.sessions() == [os.getpid()]


def test_names_of_others_reach_no_terminal_as_they_are() -> None:
    holder = Holder(
        uid=0, pid=os.getpid(), start_ticks=start_ticks(os.getpid()), boot=boot_id(), study="\x1b[2Ja\nb" + "x" * 999
    )
    text = describe(holder)
    assert "\x1b" not in text and "\n" not in text and len(text) < 300


def test_start_ticks_of_zero_are_not_a_child() -> None:
    with pytest.raises(DamagedRecord):
        convert({"pid": 7, "start_ticks": 0}, Child)
