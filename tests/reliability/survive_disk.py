"""A disk that is full or read-only, and folders that are not ours: real file systems, real users."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.reliability.killing import ApartCalls, living, look_at_files, look_at_the_whole, recorded_runs, wait_until
from tests.reliability.stub import behave
from tests.tasks.nightly_calls import CELL, ONE_CELL, Nights
from tests.tasks.study_calls import Calls

pytestmark = pytest.mark.needs_root

DISK_BYTES = 24 << 20
SOMEBODY = 54321


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


@pytest.fixture
def disk(calls: ApartCalls) -> Iterator[Path]:
    """A small file system of its own as the output directory."""
    outputs = calls.folder / "outputs"
    outputs.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(outputs))
    try:
        yield outputs
    finally:
        subprocess.run(["umount", "--lazy", str(outputs)], check=True)


def fill(disk: Path, left_bytes: int) -> Path:
    """Use up the disk but for left_bytes."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        file.write(bytes(max(room.f_bavail * room.f_frsize - left_bytes, 0)))
        while not left_bytes:  # what others freed meanwhile
            file.write(bytes(4096))
    return filler


def words_of(done: subprocess.CompletedProcess[str]) -> str:
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return said


@pytest.mark.parametrize("left_bytes", [0, 40 << 10, 120 << 10, 400 << 10])
def test_a_full_disk_is_named_and_nothing_is_lost(calls: ApartCalls, disk: Path, left_bytes: int) -> None:
    filler = fill(disk, left_bytes)
    done = calls.run()
    said = words_of(done)
    if done.returncode == 0:
        # There was room for the study, not for the history of all studies.
        assert "not in the history" in said and "later: numastudy history --add" in said
        return
    assert done.returncode in (2, 30), said
    assert "No space left on device" in said and "make room" in said
    for folder in calls.run_directories():
        look_at_files(folder)
    contents = {path: path.read_bytes() for path in disk.rglob("runs/*.json")}
    # Of a trace that there was no room to export a new one is taken.
    before = {path: content for path, content in contents.items() if _is_kept(content)}
    filler.unlink()
    resumed = calls.run()
    assert resumed.returncode == 0, words_of(resumed)
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(calls.records()) == sorted(set(calls.measured())) == sorted(calls.order())
    assert not list(disk.rglob("*.part"))


def _is_kept(content: bytes) -> bool:
    record = json.loads(content)
    return record["status"] == "ok" and record["repeat"] != "traced"


def test_a_disk_that_fills_up_meanwhile_stops_the_study(calls: ApartCalls, disk: Path) -> None:
    slow = behave(calls, "import time; time.sleep(0.5)")
    luigi = calls.start()
    assert wait_until(lambda: recorded_runs(disk) >= 2)
    filler = fill(disk, 0)
    said, _ = luigi.communicate(timeout=600)
    assert luigi.returncode == 30 and "No space left on device" in said and "Traceback" not in said, said
    filler.unlink()
    slow.unlink()
    resumed = calls.run()
    assert resumed.returncode == 0, words_of(resumed)
    look_at_the_whole(calls)


# The first of luigi's processes that opens such a file uses up the disk just before.
FILL = """
import os, sys
def _fill(event, arguments):
    armed = os.path.join(os.path.dirname(__file__), "armed")
    if event in ("open", "sqlite3.connect") and WORD in str(arguments[0]) and os.path.exists(armed):
        os.remove(armed)
        with open("FILLER", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096 * max(os.statvfs("FILLER").f_bavail, 1)))
            except OSError:
                pass
sys.addaudithook(_fill)
"""


def fill_at(calls: Calls, disk: Path, word: str) -> Path:
    """Let the disk be full from the moment on at which a file of this name is opened."""
    filler, site = disk / "filler", calls.folder / "site"
    program = FILL.replace("WORD", repr(word)).replace("FILLER", str(filler))
    (site / "sitecustomize.py").write_text(program + (site / "sitecustomize.py").read_text())
    (site / "armed").touch()
    return filler


def nights_in(history: Path) -> list[tuple[str, int]]:
    """Each study's night and the number of its cells."""
    with closing(sqlite3.connect(f"file:{history}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute(
            "SELECT night, count(m.id) FROM studies s JOIN measurements m ON m.study_id = s.id GROUP BY s.id ORDER BY 1"
        ).fetchall()


@pytest.mark.parametrize("earlier", [0, 1])
def test_the_next_call_adds_a_study_after_a_full_history_disk(calls: ApartCalls, disk: Path, earlier: int) -> None:
    for _ in range(earlier):
        assert calls.run().returncode == 0
    filler = fill_at(calls, disk, "history.db")
    done = calls.run("--fresh")
    said = words_of(done)
    assert done.returncode == 30 and filler.exists(), said
    assert "not in the history" in said and "No space left on device" in said
    filler.unlink()
    added_by_the_next_call(calls, disk, 1 + earlier)


def test_the_next_call_adds_a_study_after_a_damaged_history(calls: ApartCalls, disk: Path) -> None:
    (disk / "history.db").write_bytes(b"no database" * 1000)
    done = calls.run()
    said = words_of(done)
    assert done.returncode == 0 and "not in the history" in said and "; the same command tries it too" in said, said
    (disk / "history.db").rename(disk / "damaged")
    added_by_the_next_call(calls, disk, 1)


def added_by_the_next_call(calls: ApartCalls, disk: Path, studies: int) -> None:
    measured = {path: path.read_bytes() for path in disk.rglob("runs/*.json")}
    assert "Nothing was measured now" in words_of(calls.run())
    assert {path: path.read_bytes() for path in disk.rglob("runs/*.json")} == measured
    assert nights_in(disk / "history.db") == [("", 2)] * studies


def test_a_full_disk_is_named_and_its_table_is_regenerated(calls: ApartCalls, disk: Path) -> None:
    filler = fill_at(calls, disk, ".results.csv")
    done = calls.run()
    said = words_of(done)
    assert done.returncode == 30 and "No space left on device" in said and "results.csv" in said
    assert not (calls.run_directory() / "results.csv").exists()
    filler.unlink()
    assert calls.run().returncode == 0
    assert len((calls.run_directory() / "results.csv").read_text().splitlines()) == 3
    look_at_the_whole(calls)


@pytest.mark.timeout(3000)
def test_the_next_call_judges_a_night_after_a_full_history_disk(calls: ApartCalls, disk: Path) -> None:
    """The verdict rests on the history: without it the night fails, and its runs are kept."""
    (calls.folder / "night").mkdir()
    nights = Nights(calls.folder / "night", ["--local-scheduler"], dict(ONE_CELL))
    nights.list_studies("tiny.yaml")
    (nights.folder / "outputs").symlink_to(disk)
    assert nights.night("2025-11-21").returncode == 0
    filler = fill_at(nights, disk, "history.db")
    failed = nights.night("2025-11-22")
    said = words_of(failed)
    assert failed.returncode == 30 and "not in the history" in said and "the history cannot be used" in said
    # SQLite needs room to read, too.
    filler.unlink()
    assert [night for night, _ in nights_in(disk / "history.db")] == ["2025-11-21"]
    resumed = nights.night("2025-11-22")
    # A shared machine: what was measured may be slower than the night before, and then says so.
    assert resumed.returncode == 0 or nights.verdict("2025-11-22")["slower"] == [CELL], words_of(resumed)
    assert {"2025-11-21", "2025-11-22"} == {night for night, _ in nights_in(disk / "history.db")}
    assert nights.times_measured()[:2] == [2, 2]


def test_a_read_only_disk_is_refused(calls: ApartCalls, disk: Path) -> None:
    mount("-o", "remount,ro", str(disk))
    done = calls.run()
    said = words_of(done)
    assert done.returncode == 2 and "Read-only file system" in said and "--output-dir" in said
    mount("-o", "remount,rw", str(disk))
    assert calls.run().returncode == 0


def test_a_disk_that_becomes_read_only_meanwhile_stops_the_study(calls: ApartCalls, disk: Path) -> None:
    """As ext4 does after an error of the device."""
    behave(calls, "import time; time.sleep(0.5)")
    luigi = calls.start()
    assert wait_until(lambda: recorded_runs(disk) >= 2)
    # Files that are open for writing refuse it.
    assert wait_until(
        lambda: subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode == 0
    )
    said, _ = luigi.communicate(timeout=600)
    assert luigi.returncode == 30 and "Read-only file system" in said and "Traceback" not in said, said
    assert living(calls) == []
    mount("-o", "remount,rw", str(disk))
    resumed = calls.run()
    assert resumed.returncode == 0, words_of(resumed)
    look_at_the_whole(calls)


# Another user, who may read everything (the interpreter may lie in root's home) and write only what he may.
AS_SOMEBODY = [
    "setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]  # fmt: skip


def start_as_somebody(calls: ApartCalls, outputs: Path) -> subprocess.Popen[str]:
    command = calls.command()
    command[command.index("--output-dir") + 1] = str(outputs)
    home = calls.folder / "home_of_somebody"
    home.mkdir(exist_ok=True)
    os.chown(home, SOMEBODY, SOMEBODY)
    return subprocess.Popen(
        [*AS_SOMEBODY, *command], cwd=home, env=calls.environment() | {"HOME": str(home), "USER": "somebody"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run_as_somebody(calls: ApartCalls, outputs: Path) -> subprocess.CompletedProcess[str]:
    luigi = start_as_somebody(calls, outputs)
    said, _ = luigi.communicate(timeout=600)
    return subprocess.CompletedProcess(luigi.args, luigi.returncode, said, "")


def test_another_users_output_directory_is_refused(public_calls: ApartCalls) -> None:
    (public_calls.folder / "locks").mkdir(mode=0o777)
    (public_calls.folder / "locks").chmod(0o1777)
    assert public_calls.run().returncode == 0
    done = run_as_somebody(public_calls, public_calls.folder / "outputs")
    said = words_of(done)
    assert done.returncode == 2 and "Permission denied" in said and "--output-dir" in said


def test_a_second_user_of_the_machine_measures_too(public_calls: ApartCalls) -> None:
    """One lock of the host for both, luigi's own pid files apart."""
    locks = public_calls.folder / "locks"
    locks.mkdir()
    locks.chmod(0o1777)
    assert public_calls.run().returncode == 0
    outputs = public_calls.folder / "outputs_of_somebody"
    outputs.mkdir()
    os.chown(outputs, SOMEBODY, SOMEBODY)
    done = run_as_somebody(public_calls, outputs)
    assert done.returncode == 0, words_of(done)
    assert {path.stat().st_uid for path in outputs.rglob("runs/*.json")} == {SOMEBODY}
    assert public_calls.run("--fresh").returncode == 0


def test_a_second_user_waits_and_may_not_end_foreign_orphans(public_calls: ApartCalls) -> None:
    """root's killed study left a process behind: the other user reads whose it is, and continues when it has ended."""
    locks = public_calls.folder / "locks"
    locks.mkdir()
    locks.chmod(0o1777)
    holder = """
import os, subprocess, sys
from pathlib import Path
from bench.run.lock import HostLock
lock = HostLock(Path(sys.argv[1]))
lock.acquire("root's study", lambda progress: None)
quiet = subprocess.DEVNULL
child = subprocess.Popen(["sleep", "600"], pass_fds=(lock.fileno(),), start_new_session=True, stdout=quiet)
lock.record_child(child.pid)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run(
        [sys.executable, "-c", holder, str(public_calls.lock)],
        env=public_calls.environment(),
        cwd="/",
        stdout=subprocess.PIPE,
    )
    orphan = int(killed.stdout)
    outputs = public_calls.folder / "outputs_of_somebody"
    outputs.mkdir()
    os.chown(outputs, SOMEBODY, SOMEBODY)
    luigi = start_as_somebody(public_calls, outputs)
    try:
        line = next((line for line in luigi.stdout if "waiting for" in line), "nothing")
        assert f"root's study left behind when it was killed: ask for the end of process {orphan} of user root" in line
        assert Path(f"/proc/{orphan}").exists()
    finally:
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    said, _ = luigi.communicate(timeout=600)
    assert luigi.returncode == 0, said
