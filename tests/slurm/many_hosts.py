"""A study on many hosts as its user calls it, and what is in its folder."""

import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.study import run_name
from bench.study.directory import RunDirectory
from tests.slurm.local_slurm import LocalSlurm, wait_until
from tests.tasks.study_calls import BIN, Calls

# Executed at the start of every replayed run: its line states whether another one continues on that host, and what is
# recorded of the run already. The lock is held until the process ends.
JOURNAL = """
import fcntl, json, os
host = os.path.dirname(os.path.dirname(option("--cell")))
run = os.path.basename(os.readlink("/proc/self/fd/1")).removesuffix(".stdout")
words = [run]
held = os.open(os.path.join(host, ".at_once"), os.O_CREAT | os.O_RDWR)
try:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    words.append("at_once")
try:
    with open(os.path.join(host, "runs", run + ".json")) as record:
        known = json.load(record)["status"]
except OSError:
    known = None
if known:
    words.append("after_" + known)
journal = os.open(os.path.join(host, "journal"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
os.write(journal, (" ".join(words) + "\\n").encode())
os.close(journal)
"""


@dataclass
class ManyHosts:
    """calls: the study, and the stub that its processes find by PYTHONPATH."""

    slurm: LocalSlurm
    calls: Calls
    hosts: tuple[str, ...]
    path: Path = Path()

    def submit(self, *options: str) -> str:
        words = ["submit", str(self.calls.write()), "--nodes", ",".join(self.hosts)]
        output = self.call(*words, "--output-dir", str(self.calls.folder / "outputs"), *options)
        self.path = Path(output.split()[-1])
        return output

    def call(self, *words: str) -> str:
        environment = self.slurm.environment | self.calls.environment()
        environment |= {key: self.slurm.environment[key] for key in ("PATH", "SLURM_CONF")}
        done = subprocess.run(
            [str(BIN / "numastudy"), *words], env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def status(self) -> dict[str, dict[str, Any]]:
        return {host["host"]: host for host in json.loads(self.call("status", str(self.path), "--json"))["hosts"]}

    def report(self) -> dict[str, Any]:
        self.call("status", str(self.path), "--report")
        return json.loads((self.path / "cluster_results.json").read_text())

    def states(self) -> dict[str, str]:
        return {host: found["state"] for host, found in self.status().items()}

    def wait(self, timeout_s: float, **expected: str) -> None:
        """Until these hosts have these states; done for all if none is named. A host that gave up ends the waiting."""
        expected = expected or dict.fromkeys(self.hosts, "done")

        def reached() -> bool:
            found = self.status()
            for host, status in found.items():
                if status["state"] == "incomplete" != expected.get(host):
                    raise AssertionError(f"{host}: {status}\n{self.log(host)[-4000:]}")
            return all(found[host]["state"] == state for host, state in expected.items())

        wait_until(reached, f"{expected}", timeout_s, interval_s=1)

    def directory(self, host: str) -> RunDirectory:
        return RunDirectory(self.path / "hosts" / host)

    def runs(self, host: str) -> int:
        return sum(1 for _ in self.directory(host).path.glob("runs/*.json"))

    def log(self, host: str) -> str:
        """Of its job; empty before it starts."""
        path = self.directory(host).path / "logs" / "job.log"
        return path.read_text() if path.exists() else ""

    def check_whole(self, host: str) -> int:
        """Every run of the host is there, ok, and was measured once. Returns their number."""
        directory = self.directory(host)
        asked = {run_name(slot.cell, slot.repeat) for slot in directory.grid().asked(directory.study().repeats)}
        records = {path.stem: json.loads(path.read_text()) for path in directory.path.glob("runs/*.json")}
        lost = asked - records.keys()
        assert not lost, f"{host} lost {sorted(lost)[:5]}"
        bad = {run: (one["status"], one["reason"]) for run, one in records.items() if one["status"] != "ok"}
        assert not bad, f"{host}: {[*bad.items()][:5]}"
        log = [line.split() for line in directory.experiment_log.read_text().splitlines()]
        measured = Counter(words[2] for words in log if words[3] == "ok")
        assert measured == Counter(dict.fromkeys(asked, 1)), (measured - Counter(asked)).most_common(5)
        return len(asked)

    def journal(self, host: str) -> list[list[str]]:
        """The starts of replayed runs: the run, and what was wrong with it."""
        return [line.split() for line in (self.directory(host).path / "journal").read_text().splitlines()]

    def check_journal(self, host: str) -> None:
        """Never two at once, and nothing measured again that went well."""
        wrong = [line for line in self.journal(host) if {"at_once", "after_ok"} & {*line}]
        assert not wrong, f"{host}: {wrong[:5]}"

    def failed(self, host: str) -> int:
        """Runs that ended and did not go well; the next start of the job measures them again."""
        return sum(line.split()[3] != "ok" for line in self.directory(host).experiment_log.read_text().splitlines())
