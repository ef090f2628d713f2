"""Real calls of luigi, against each scheduler a user may have."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench.records.study import run_name
from tests.ports import free_port

BIN = Path(sys.executable).parent
PROJECT_CONFIG = Path(__file__).parents[2] / "luigi.cfg"

# The smallest study that goes through every stage: two cells that only copy.
TINY = {
    "name": "tiny",
    "gpu_ids": [0],
    "numa_nodes": [0],
    "models": ["vit0x0x0", "vit0x0x0"],
    "image_size": 32,
    "num_samples": 20,
    "warmup_samples": 2,
    "batch_size": 2,
    "memory_size_mb": 1,
    "timeout_s": 600,
    "device": "cpu",
    "binding": "none",
    "disturbed_repeats": 0,
    "measure_link": False,
}

# Python reads this module at the start of every process: while a file named after a cell is beside it, the
# workload of that cell ends as a crash would end it. The process, its log and its exit code are real.
SABOTAGE = """
import os, sys
here = os.path.dirname(__file__)
line = open("/proc/self/cmdline").read().split("\\0")
if "bench.workload" in line or "bench.workload.microbenchmark" in line:
    cell = os.path.basename(line[line.index("--cell") + 1]).removesuffix(".json")
    if os.path.exists(os.path.join(here, cell)):
        sys.stderr.write("sabotaged for a test\\n")
        os._exit(7)
"""


@dataclass
class Calls:
    """Calls luigi in `folder` with one scheduler; `sabotaged` cells crash."""

    folder: Path
    scheduler: list[str]
    study: dict = field(default_factory=lambda: dict(TINY))

    def __post_init__(self) -> None:
        (self.folder / "site").mkdir(parents=True)
        (self.folder / "site" / "sitecustomize.py").write_text(SABOTAGE)
        self.write()

    def write(self) -> Path:
        path = self.folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(self.study))
        return path

    def sabotage(self, cell: str) -> None:
        (self.folder / "site" / cell).touch()

    def repair(self, cell: str) -> None:
        (self.folder / "site" / cell).unlink()

    def command(self, *options: str) -> list[str]:
        return [
            str(BIN / "luigi"), "--module", "tasks", "Study", "--config-file", str(self.folder / "tiny.yaml"),
            "--output-dir", str(self.folder / "outputs"), *self.scheduler, *options,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.folder / "site")}

    def run(self, *options: str, timeout_s: float = 800) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options), cwd=self.folder, env=self.environment(), capture_output=True, text=True,
            timeout=timeout_s,
        )  # fmt: skip

    def start(self, *options: str) -> subprocess.Popen[str]:
        """A call in a process group of its own."""
        return subprocess.Popen(
            self.command(*options), cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def workloads(self, word: str = "bench.workload") -> list[int]:
        """Processes of this study that have the word in their command line: those that execute a cell."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_text() if entry.name.isdigit() else ""
            except OSError:
                continue
            if word in line and str(self.folder) in line:
                found.append(int(entry.name))
        return found

    def wait_until_no_workload(self, timeout_s: float = 240.0) -> None:
        """The kernel ends a child with its parent."""
        end = time.monotonic() + timeout_s
        while self.workloads():
            assert time.monotonic() < end, "a process of the study is alive"
            time.sleep(0.05)

    def run_directories(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("outputs/tiny/*/*/grid.json"))

    def run_directory(self) -> Path:
        (only,) = self.run_directories()
        return only

    def records(self) -> dict[str, dict]:
        return {path.stem: json.loads(path.read_text()) for path in self.run_directory().glob("runs/*.json")}

    def measured(self) -> list[str]:
        """The runs in the order they ended, once for every time they were executed."""
        log = self.run_directory() / "logs" / "experiment.log"
        return [line.split()[2] for line in log.read_text().splitlines()]

    def order(self) -> list[str]:
        """The runs that every cell has, in the order they are to be measured."""
        grid = json.loads((self.run_directory() / "grid.json").read_text())
        repeats = self.study.get("repeats", 1)
        return [
            run_name(slot["cell"], slot["repeat"])
            for slot in grid["order"]
            if slot["repeat"] == "traced" or slot["repeat"] <= repeats
        ]

    def times_measured(self) -> Counter[str]:
        return Counter(self.measured())


@contextmanager
def luigid(folder: Path, config: Path | None) -> Iterator[int]:
    """A real luigid on loopback, with the project's settings or with its own defaults; yields the port."""
    folder.mkdir(parents=True, exist_ok=True)
    empty = folder / "empty.cfg"
    empty.write_text("")
    port = free_port()
    command = [
        str(BIN / "luigid"), "--address", "127.0.0.1", "--port", str(port),
        "--state-path", str(folder / "state.pickle"),
    ]  # fmt: skip
    environment = os.environ | {"LUIGI_CONFIG_PATH": str(config or empty)}
    with (folder / "luigid.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            while not _answers(port):
                assert server.poll() is None, (folder / "luigid.log").read_text()
                time.sleep(0.1)
            yield port
        finally:
            server.terminate()
            server.wait(120)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
