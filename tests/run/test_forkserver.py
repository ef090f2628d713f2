"""Forked runs: their ends, the server's ends, and what they share with exec'd ones. Real processes.

Only the last test imports torch; the others use a server that imports nothing (light_server.py).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from bench.host.processes import session_members
from bench.records.base import plain
from bench.records.run import Group, StartMethod
from bench.run import crossing, forkserver
from bench.run.child import ChildEnd, child_environment, run_child
from bench.run.crossing import execute_group
from bench.run.forkserver import SERVERS, ForkServers, served
from bench.run.lock import HostLock
from bench.run.progress import Progress, RunState
from bench.storage import start_ticks
from bench.study.directory import resolve
from bench.study.load import read_study

EXEC, FORK = StartMethod
ROOT = Path(__file__).parents[2]
LIGHT = ["-m", "tests.run.light_server"]


class Runs:
    """Forked runs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = ForkServers()
        self.started: list[int] = []
        self.pid = 0
        self.environment = child_environment(dict(os.environ)) | {"PYTHONPATH": str(ROOT)}

    def __call__(
        self, code: str, timeout_s: float = 240, on_poll=lambda: None, prefix=(), **environment: str
    ) -> ChildEnd:
        def on_start(pid: int) -> None:
            self.pid = pid

        return run_child(
            served([*prefix, sys.executable, "-m", "bench.workload", code]), self.environment | environment,
            (self.folder / "out", self.folder / "err"), timeout_s, on_start, on_poll, poll_s=0.02,
            start=self.servers.starter(self.started.append),
        )  # fmt: skip

    @property
    def server(self) -> int:
        return self.started[-1]

    def out(self) -> str:
        return (self.folder / "out").read_text()

    def err(self) -> str:
        return (self.folder / "err").read_text()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setattr(forkserver, "_SERVER", LIGHT)
    monkeypatch.chdir(ROOT)
    runs = Runs(tmp_path)
    yield runs
    runs.servers.end()


def gone(pid: int, within_s: float = 240.0) -> bool:
    deadline = time.monotonic() + within_s
    while start_ticks(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    return start_ticks(pid) is None


def test_runs_share_one_server(run: Runs) -> None:
    say = "import os, sys; print(os.getpid(), os.getsid(0), os.getppid()); print('oops', file=sys.stderr)"
    seen = []
    for _ in range(2):
        assert run(say).exit_code == 0
        assert run.err() == "oops\n"
        pid, session, parent = map(int, run.out().split())
        assert pid == session == run.pid and parent == run.server
        seen.append((pid, parent))
    assert seen[0][0] != seen[1][0] and seen[0][1] == seen[1][1]


def test_run_is_listed_by_its_own_arguments(run: Runs) -> None:
    run("print(open('/proc/self/cmdline').read())")
    assert run.out().startswith("bench.workload print(open(") and run.out().endswith("\0\n")


def test_another_environment_or_command_replaces_the_server(run: Runs) -> None:
    run("pass")
    first = run.server
    run("import os; print(os.environ['OMP_NUM_THREADS'])", OMP_NUM_THREADS="3")
    second = run.server
    assert run.out() == "3\n" and second != first and gone(first)
    run("pass", prefix=("env",))
    assert run.server not in (first, second) and gone(second)


@pytest.mark.parametrize("how", ["raise SystemExit(9)", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
def test_failed_run_ends_its_server(run: Runs, how: str) -> None:
    assert run(how).exit_code in (9, -signal.SIGSEGV)
    first = run.server
    assert run("print(1)").exit_code == 0
    assert run.server != first and gone(first)


def test_traceback_is_in_the_log_of_the_run(run: Runs) -> None:
    assert run("1 / 0").exit_code == 1
    assert "ZeroDivisionError" in run.err()


def test_timeout_ends_the_forked_session(run: Runs) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0: os.setpgid(0, 0)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(600)\n"
    )
    # A busy machine may need longer until the run, and its own child, are as they are to be.
    for timeout_s in (1, 10, 120):
        end = run(code, timeout_s)
        if run.out().count("deaf") == 2:
            break
    assert end.timed_out and end.exit_code == -signal.SIGKILL
    assert end.wall_s < timeout_s + 60
    assert session_members(run.pid, 0) == []
    assert run("print(1)").exit_code == 0


def test_processes_left_by_a_forked_run_are_ended(run: Runs) -> None:
    assert run("import os, time\nif os.fork() == 0: time.sleep(600)").exit_code == 0
    assert session_members(run.pid, 0) == []
    assert start_ticks(run.server) is not None


def test_exception_in_the_parent_ends_the_run(run: Runs) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(600)", on_poll=stop)
    assert session_members(run.pid, 0) == []


def test_run_ends_with_its_server_and_reports_it(run: Runs) -> None:
    def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(run.server, signal.SIGKILL)

    end = run("import time; time.sleep(600)", on_poll=kill)
    assert end.exit_code == -signal.SIGKILL and not end.timed_out
    assert gone(run.pid)
    lost = run.server
    assert run.err() == f"the fork server (pid {lost}) ended before this run ended\n"
    assert run("print('again')").exit_code == 0
    assert run.out() == "again\n" and run.server != lost


def test_server_that_died_between_runs_is_replaced(run: Runs) -> None:
    run("pass")
    lost = run.server
    os.kill(lost, signal.SIGKILL)
    assert gone(lost)
    assert run("print(1)").exit_code == 0 and run.server != lost


def test_server_that_does_not_start_fails_the_run(run: Runs) -> None:
    # Its end of the channel is gone some time before it is.
    refusing = (
        "import os, sys, time; os.closerange(3, 4096); time.sleep(0.2); sys.exit('sched_setaffinity: Invalid argument')"
    )
    end = run("pass", prefix=(sys.executable, "-c", refusing))
    assert (end.exit_code, end.timed_out) == (1, False)
    assert "did not come up" in run.err() and "sched_setaffinity: Invalid argument" in run.err()


def test_server_that_takes_too_long_is_a_timeout(run: Runs) -> None:
    end = run("pass", prefix=("sh", "-c", "sleep 600"), timeout_s=0.5)
    assert end.timed_out and end.wall_s < 60


def test_forked_worker_has_servers_of_its_own(run: Runs) -> None:
    run("pass")
    first = run.server
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            run("pass")
            code = 0 if run.server != first else 2
            run.servers.end()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    run("pass")
    assert run.server == first


OWNER = """
import os, sys, time
from pathlib import Path
from bench.run import forkserver
from bench.run.child import run_child
forkserver._SERVER = ["-m", "tests.run.light_server"]
servers, started = forkserver.ForkServers(), []
folder = Path(sys.argv[1])
command = [sys.executable, "-m", "bench.workload", "import time; time.sleep(600)"]
run_child(forkserver.served(command), dict(os.environ),
          (folder / "out", folder / "err"), 600, lambda pid: print(started[-1], pid, flush=True), lambda: None,
          start=servers.starter(started.append))
"""


def test_nothing_outlives_a_killed_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    server, child = map(int, owner.stdout.readline().split())
    assert start_ticks(server) and start_ticks(child)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert gone(server) and gone(child)


def test_command_shows_the_start_method() -> None:
    command = ["numactl", "--membind=0", "python", "-m", "bench.workload", "--cell", "c.json"]
    assert served(command) == ["numactl", "--membind=0", "python", "-m", "bench.workload.serve", "--cell", "c.json"]


@pytest.mark.slow
def test_forked_crossing_measures_what_an_executed_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same surroundings; two processes of a study come from one server."""
    monkeypatch.setattr(crossing, "Group", partial(Group, measure_s=2, window_s=0.002, lead_s=0.002))
    records, sessions, seen, servers = {}, {}, {}, []
    for how, repeats in ((EXEC, (1,)), (FORK, (1, 2))):
        asked = {
            "name": "tiny", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0"], "image_size": 32,
            "num_samples": 20, "warmup_samples": 2, "batch_size": 2, "memory_size_mb": 1, "device": "cpu",
            "repeats": 2, "binding": "numactl", "start": how.value,
        }  # fmt: skip
        directory = resolve(read_study(asked, "f"), tmp_path / how, False, "now")
        grid, lock = directory.grid(), HostLock(tmp_path)

        def look(progress: Progress, how: StartMethod = how, lock: HostLock = lock) -> None:
            if how not in seen and progress.state in (RunState.WARMUP, RunState.MEASURING, RunState.FINISHING):
                # It may be through before it was looked at; of a forked one there is a second.
                with suppress(OSError):
                    seen[how], sessions[how] = surroundings(lock.holder().children[-1].pid), lock.sessions()

        for repeat in repeats:
            slots = grid.process(grid.slot(grid.cells[0].name, repeat))
            records[how] = execute_group(directory, slots, "now", lock, look)[0]
            servers += [SERVERS._server.pid] if how is FORK else []
        lock.release()
    SERVERS.end()
    assert len(set(servers)) == 1
    assert {how: (record.status, record.start) for how, record in records.items()} == {
        EXEC: ("ok", EXEC),
        FORK: ("ok", FORK),
    }
    assert seen[FORK] == seen[EXEC]
    # The server is known to the lock beside the run: a later study would end both.
    assert (len(sessions[EXEC]), len(sessions[FORK])) == (1, 2)
    executed, forked = plain(records[EXEC].result), plain(records[FORK].result)
    assert forked.keys() == executed.keys()
    assert forked["phases_s"]["imports"] < executed["phases_s"]["imports"] / 2
    for fact in ("verdict", "policy", "node_cpus", "share_on_node", "threads"):
        assert forked["certificate"][fact] == executed["certificate"][fact], fact


def surroundings(pid: int) -> dict[str, object]:
    """What a process has of its parent, as the kernel reports it."""
    process = Path("/proc") / str(pid)
    opened = [os.readlink(link) for link in (process / "fd").iterdir()]
    return {
        "directory": os.readlink(process / "cwd"),
        "environment": sorted((process / "environ").read_bytes().split(b"\0")),
        "streams": [Path(os.readlink(process / "fd" / str(number))).suffix for number in range(3)],
        "sockets": [target for target in opened if target.startswith("socket:")],
        "limits": (process / "limits").read_text(),
        "cpus": os.sched_getaffinity(pid),
        "leads a session": os.getsid(pid) == pid,
    }
