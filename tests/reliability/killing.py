"""Kill calls of luigi at random moments, and look at what is left after each."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bench.run.lock import HostLock
from tests.tasks.study_calls import Calls

CHECKOUT = Path(__file__).parents[2]
VICTIMS = ("luigi", "group", "child", "luigi with workers")


@dataclass
class ApartCalls(Calls):
    """Calls with a host lock of their own, so that several batches may go on at once."""

    def environment(self) -> dict[str, str]:
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        # The code beside these tests, wherever the environment's own copy of it lies.
        path = os.pathsep.join([str(self.folder / "site"), str(CHECKOUT)])
        return super().environment() | {
            "PYTHONPATH": path, "NUMASTUDY_LOCK_DIR": str(locks), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    @property
    def lock(self) -> Path:
        return self.folder / "locks"

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*options), cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def children(self) -> list[int]:
        """The measured processes that live, as the host lock names them."""
        return self._host_lock.sessions()

    @cached_property
    def _host_lock(self) -> HostLock:
        self.environment()  # makes its folder
        return HostLock(self.lock)


@dataclass
class Batch:
    """Kills until `kills` of them met something alive. Whenever the study is complete it is checked and begun anew.

    crossed: how many cells one process measures by turns.
    """

    calls: ApartCalls
    seed: int
    kills: int
    longest_s: float
    crossed: int = 0
    victims: tuple[str, ...] = VICTIMS
    expect: Callable[[ApartCalls], None] | None = None
    killed: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    _kept: dict[str, bytes] = field(default_factory=dict)

    def run(self) -> "Batch":
        print(f"seed {self.seed}: {self.kills} kills", flush=True)
        moments = random.Random(self.seed)
        while sum(self.killed.values()) < self.kills:
            if self._killed(victim := moments.choice(self.victims), moments):
                self.killed[victim] += 1
            elif self.calls.run_directories() and (self.calls.run_directory() / "report.json").exists():
                self._complete()
            self._look()
        self._complete()
        print(f"seed {self.seed}: {dict(self.killed)}, studies completed: {self.completed}", flush=True)
        return self

    def _killed(self, victim: str, moments: random.Random) -> bool:
        """One call, and its kill: while it starts, or after its first child was seen, as far as its report."""
        luigi = self.calls.start("--workers", "2" if "workers" in victim else "1")
        if victim == "child" or moments.random() < 0.8:
            wait_until(lambda: luigi.poll() is not None or bool(self.calls.children()))
        with suppress(subprocess.TimeoutExpired):
            luigi.wait(moments.uniform(0.0, self.longest_s))
        met = luigi.poll() is None
        if victim == "child":
            wait_until(lambda: luigi.poll() is not None or bool(self.calls.children()))
            children = self.calls.children()
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            met = bool(children)
            with suppress(subprocess.TimeoutExpired):
                luigi.wait(moments.uniform(0.0, self.longest_s))
        if victim == "group":
            with suppress(ProcessLookupError):
                os.killpg(luigi.pid, signal.SIGKILL)
        luigi.kill()
        # Forked workers hold the other end of its pipe for the moment that the kernel takes to end them.
        said, _ = luigi.communicate(timeout=240)
        assert "Traceback" not in said, said
        return met

    def _look(self) -> None:
        """What was whole stays whole; what was measured stays as it was measured."""
        for folder in self.calls.run_directories():
            look_at_files(folder)
        records = {name: json.loads(content) for name, content in self._records().items()}
        of_process = Counter(record["crossing"]["id"] for record in records.values() if record["crossing"])
        for name, content in self._records().items():
            crossing = records[name]["crossing"]
            if name in self._kept:
                assert content == self._kept[name], f"{name} was measured again"
            # Of a crossing the runs are whole together.
            elif records[name]["status"] == "ok" and (not crossing or of_process[crossing["id"]] == self.crossed):
                self._kept[name] = content
        assert not self._kept.keys() - self._records().keys(), "a finished run was lost"

    def _records(self) -> dict[str, bytes]:
        directories = self.calls.run_directories()
        return {path.stem: path.read_bytes() for path in directories[0].glob("runs/*.json")} if directories else {}

    def _complete(self) -> None:
        done = self.calls.run()
        if self.expect:
            self.expect(self.calls)
        else:
            assert done.returncode == 0, done.stdout + done.stderr
            assert all(record["status"] == "ok" for record in self.calls.records().values())
        self._look()
        look_at_the_whole(self.calls)
        assert not living(self.calls), "something was left running"
        self.completed += 1
        self._kept.clear()
        (self.calls.folder / "outputs").rename(self.calls.folder / f"outputs_{self.completed}")


def look_at_files(folder: Path) -> None:
    """Nothing below a run directory that has its name is half of what it should be."""
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".sqlite", ".db"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), path
        elif path.name == "report.html":
            assert path.read_text().rstrip().endswith("</html>")


def look_at_the_whole(calls: Calls) -> None:
    """Every run once: in the records, in the log, in the results, in the history."""
    asked = sorted(calls.order())
    assert sorted(calls.records()) == asked
    ended = Counter(calls.measured())
    assert sorted(ended) == asked
    ok = Counter(
        line.split()[2]
        for line in (calls.run_directory() / "logs" / "experiment.log").read_text().splitlines()
        if line.split()[3] == "ok"
    )
    assert set(ok.values()) <= {1}, ok
    results = json.loads((calls.run_directory() / "results.json").read_text())
    assert sorted(run["run"] for cell in results["cells"] for run in cell["runs"]) == asked
    assert not list(calls.run_directory().glob("runs/*.starts"))
    with closing(sqlite3.connect(calls.folder / "outputs" / "history.db")) as history:
        assert history.execute("SELECT count(*) FROM studies").fetchone() == (1,)


def records_below(folder: Path) -> list[Path]:
    """Of the runs that have ended, while a study may be making and renaming folders there."""
    while True:
        with suppress(FileNotFoundError):
            return list(folder.rglob("runs/*.json"))


def recorded_runs(folder: Path) -> int:
    return len(records_below(folder))


def living(calls: Calls) -> list[str]:
    """Command lines of living processes that have to do with this study."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace") if entry.name.isdigit() else ""
            if str(calls.folder) in line:
                found.append(line.replace("\0", " "))
    return found


def wait_until(holds: Callable[[], bool], limit_s: float = 240.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False
