"""luigid that is stopped, killed or restarted while a study runs, or is not there: real luigids on loopback."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.reliability.killing import ApartCalls, living, look_at_the_whole, recorded_runs, wait_until
from tests.reliability.stub import behave, replay
from tests.tasks.study_calls import BIN, PROJECT_CONFIG


class Server:
    """A luigid of the project's settings, at one port however often it is started."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        command = [str(BIN / "luigid"), "--address", "127.0.0.1", "--port", str(self.port)]
        state = ["--state-path", str(self._folder / "state.pickle")]
        environment = os.environ | {"LUIGI_CONFIG_PATH": str(PROJECT_CONFIG)}
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *state], cwd=self._folder, env=environment, stdout=log, stderr=log
            )
        assert wait_until(self._answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "luigid")
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def calls(tmp_path: Path, recorded: Path, server: Server) -> ApartCalls:
    made = ApartCalls(tmp_path / "work", ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(server.port)])
    replay(made, recorded)
    made.study["repeats"] = 3
    made.write()
    behave(made, "import time; time.sleep(0.7)")
    return made


def begun(calls: ApartCalls) -> subprocess.Popen[str]:
    luigi = calls.start()
    # In this order: the children of the runs whose records are there have ended.
    assert wait_until(lambda: recorded_runs(calls.folder) >= 2 and bool(calls.children()))
    return luigi


def completes(calls: ApartCalls) -> None:
    calls.scheduler = ["--local-scheduler"]
    done = calls.run()
    assert done.returncode == 0, done.stdout + done.stderr
    look_at_the_whole(calls)
    assert living(calls) == []


@pytest.mark.timeout(3000)
def test_luigid_that_is_killed_costs_no_run(calls: ApartCalls, server: Server) -> None:
    luigi = begun(calls)
    server.kill()
    said, _ = luigi.communicate(timeout=800)
    assert luigi.returncode != 0
    assert "Failed connecting to remote scheduler" in said
    # The run that went on when the scheduler went is there, and nothing is left of it.
    assert len(calls.records()) >= 3 and living(calls) == []
    completes(calls)


@pytest.mark.timeout(3000)
def test_luigid_that_is_killed_and_started_again_costs_no_run(calls: ApartCalls, server: Server) -> None:
    luigi = begun(calls)
    server.kill()
    time.sleep(2.0)
    server.start()
    said, _ = luigi.communicate(timeout=800)
    if luigi.returncode != 0:
        # The new scheduler does not know what is to be done; the same command reports it.
        again = calls.run()
        assert again.returncode == 0, again.stdout + again.stderr
    assert "Traceback" not in said or "Failed connecting" in said
    look_at_the_whole(calls)
    assert living(calls) == []


@pytest.mark.timeout(3000)
def test_a_suspended_luigid_costs_nothing(calls: ApartCalls, server: Server) -> None:
    luigi = begun(calls)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(6.0)
    server.process.send_signal(signal.SIGCONT)
    said, _ = luigi.communicate(timeout=800)
    assert luigi.returncode == 0, said
    look_at_the_whole(calls)


def test_luigid_that_is_stopped_and_started_with_its_state(calls: ApartCalls, server: Server) -> None:
    """A clean restart, as of a service: the state is kept, and the study goes on in the same call or the next."""
    luigi = begun(calls)
    server.process.terminate()
    server.process.wait(240)
    server.start()
    luigi.communicate(timeout=800)
    completes(calls)
