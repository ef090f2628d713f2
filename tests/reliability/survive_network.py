"""Output on a network file system: a real FUSE file system (bindfs), which a host takes for one that others may share.

It is slow, hangs, and disappears. NFS itself is tried in a virtual machine: tests/guest/check_nfs_and_clock.py.
"""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import StudyError
from bench.storage import on_network
from bench.study.directory import study_index
from tests.reliability.killing import ApartCalls, living, look_at_the_whole, recorded_runs, wait_until
from tests.reliability.stub import behave

needs_fuse = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("bindfs") is None or not Path("/dev/fuse").exists(),
    reason="needs root, /dev/fuse and bindfs: apt-get install bindfs",
)

# Every process of luigi's notes each SQLite file that it opens.
WATCH = """
import os, sys
def _note(event, arguments):
    if event == "sqlite3.connect":
        with open(os.path.join(os.path.dirname(__file__), "opened"), "a") as file:
            file.write(os.fsdecode(arguments[0]) + "\\n")
sys.addaudithook(_note)
"""


class Share:
    """A folder, mounted by a server process of its own."""

    def __init__(self, behind: Path, place: Path, *options: str) -> None:
        self._behind, self._place, self._options = behind, place, options
        behind.mkdir()
        place.mkdir()
        self.mount()

    def mount(self) -> None:
        # -f: in the foreground, so that its process is ours.
        self.server = subprocess.Popen(["bindfs", "-f", *self._options, str(self._behind), str(self._place)])
        assert wait_until(lambda: os.path.ismount(self._place))

    def lose(self) -> None:
        """The server is gone, and with it every file that was open."""
        self.server.kill()
        self.server.wait()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._place)], check=False)
        self.server.kill()
        self.server.wait()


@pytest.fixture
def share(calls: ApartCalls) -> Iterator[Share]:
    made = Share(calls.folder / "behind", calls.folder / "outputs", "--write-rate=4M")
    try:
        yield made
    finally:
        made.unmount()


@needs_fuse
def test_sqlite_works_on_the_local_disk_only(calls: ApartCalls, share: Share) -> None:
    assert on_network(calls.folder / "outputs" / "history.db")
    site = calls.folder / "site" / "sitecustomize.py"
    site.write_text(WATCH + site.read_text())
    done = calls.run()
    assert done.returncode == 0, done.stdout + done.stderr
    opened = (site.parent / "opened").read_text().split()
    assert any(path.endswith("history.db") for path in opened) and len(opened) >= 4
    written = [path for path in opened if str(calls.folder / "outputs") in path and "mode=ro" not in path]
    assert written == []
    look_at_the_whole(calls)
    again = calls.run()
    assert again.returncode == 0 and "Nothing was measured now" in again.stdout


@needs_fuse
def test_waits_for_a_share_that_does_not_answer(calls: ApartCalls, share: Share) -> None:
    behave(calls, "import time; time.sleep(0.3)")
    luigi = calls.start()
    assert wait_until(lambda: recorded_runs(calls.folder / "behind") >= 2)
    share.server.send_signal(signal.SIGSTOP)
    time.sleep(5.0)
    share.server.send_signal(signal.SIGCONT)
    said, _ = luigi.communicate(timeout=600)
    assert luigi.returncode == 0, said
    look_at_the_whole(calls)


@needs_fuse
def test_a_share_that_goes_away_is_named_and_nothing_is_lost(calls: ApartCalls, share: Share) -> None:
    slow = behave(calls, "import time; time.sleep(0.5)")
    luigi = calls.start()
    behind = calls.folder / "behind"
    assert wait_until(lambda: recorded_runs(behind) >= 2)
    share.lose()
    said, _ = luigi.communicate(timeout=600)
    assert luigi.returncode not in (0, None)
    assert "Transport endpoint is not connected" in said and "Traceback" not in said, said
    kept = {path: path.read_bytes() for path in behind.rglob("runs/*.json")}
    share.unmount()
    share.mount()
    slow.unlink()
    done = calls.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in kept} == kept
    look_at_the_whole(calls)
    assert living(calls) == [" ".join(map(str, share.server.args)) + " "]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A stand-in for the call as NFS without lockd, and Lustre without -o flock, answer it."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StudyError, match="cannot lock files") as refused, study_index(tmp_path / "study"):
        pass
    assert "nolock" in refused.value.advice and "--output-dir" in refused.value.advice
