"""2,000 replayed runs on three nodes that are killed at random: none lost, none double. `make test-slurm`."""

import random
import threading
import time
from pathlib import Path

import pytest

from bench.run.attempt import ATTEMPTS
from tests.reliability.stub import behave, replay
from tests.slurm.local_slurm import LocalSlurm
from tests.slurm.many_hosts import JOURNAL, ManyHosts
from tests.tasks.study_calls import Calls

HOSTS = ("n1", "n2", "n3")
REPEATS = 333  # of two cells, and a traced run each: 668 runs a host


class Killer(threading.Thread):
    """Takes the power from a random node whenever some runs more are done, and gives it back before or after Slurm has
    missed it."""

    def __init__(self, study: ManyHosts, seed: int) -> None:
        super().__init__(daemon=True)
        self._study, self._random, self._end = study, random.Random(seed), threading.Event()
        self.kills = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            due = self._soon()
            while not self._end.wait(0.2):
                if self._runs() < due:
                    continue
                states = self._study.states()
                if measuring := [host for host in HOSTS if states[host] == "measuring"]:
                    self._kill(self._random.choice(measuring))
                    due = self._runs() + self._soon()
        except BaseException as error:
            self.error = error

    def _kill(self, host: str) -> None:
        self._study.slurm.power_off(host)
        self.kills += 1
        time.sleep(self._random.choice((0.5, 3, 15)))
        self._study.slurm.start_slurmd(host)

    def _runs(self) -> int:
        return sum(self._study.runs(host) for host in HOSTS)

    def _soon(self) -> int:
        return self._random.randint(40, 220)

    def stop(self) -> None:
        self._end.set()
        self.join(900)
        if self.error:
            raise self.error


@pytest.mark.timeout(3000)
def test_2000_runs_on_three_nodes_that_are_killed_at_random(tmp_path: Path, slurm: LocalSlurm, recorded: Path) -> None:
    calls = Calls(tmp_path / "work", [])
    replay(calls, recorded, longest_step_s=0.011)
    behave(calls, JOURNAL)
    calls.study["repeats"] = REPEATS
    study = ManyHosts(slurm, calls, HOSTS)
    study.submit()
    killer = Killer(study, 20261122)
    killer.start()
    submitted, again = time.monotonic(), 0
    while (states := {*study.states().values()}) != {"done"}:
        assert time.monotonic() < submitted + 2700, study.status()
        if "incomplete" in states:
            # Slurm gave a job up: its user submits the study again.
            study.submit()
            again += 1
        time.sleep(3)
    killer.stop()
    runs = sum(study.check_whole(host) for host in HOSTS)
    starts, failed = 0, sum(map(study.failed, HOSTS))
    for host in HOSTS:
        study.check_journal(host)
        starts += len(study.journal(host))
    took_s = time.monotonic() - submitted
    print(
        f"{runs} runs, {starts} starts, {failed} failed, {killer.kills} kills, {again} submitted again, {took_s:.0f} s"
    )
    assert runs >= 2000
    assert killer.kills >= 5
    # A run that was killed before its record was written is measured once more, and one that failed; no other.
    assert runs <= starts <= runs + killer.kills + ATTEMPTS * failed
    report = study.report()
    assert not report["missing"] and len(report["cells"]) == 2 * len(HOSTS)
    assert all(cell["outcome"] == "ok" for cell in report["cells"])
