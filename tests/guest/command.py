"""A study of a command in the guest: its server and all that this started are proved, or named where they moved."""

import sys
import tempfile
from pathlib import Path

from bench.command.attempt import attempt_command
from bench.run.attempt import execute
from bench.run.lock import HostLock
from bench.study.directory import resolve
from bench.study.load import read_study

FOREIGN = str(Path(__file__).with_name("foreign.py"))
NEAR, FAR, MIB = 1, 2, 16
PROVED = ("honest", "children", "dev shm")
MOVED = ("grandchild with a session", "orphan", "pool elsewhere", "memfd elsewhere", "moved afterwards")


def check_commands(checks) -> dict[str, str]:
    """The server is a foreign tree that is bound by numactl: proved where it is honest, else misplaced."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        lock = HostLock(Path(folder))
        for kind in (*PROVED, *MOVED):
            command = {
                "run": ["sleep", "0.2"],
                "read": "wall",
                "server": [sys.executable, "-S", FOREIGN, kind, str(NEAR), str(FAR), str(MIB)],
                "ready": "^READY$",
            }
            values = {"name": "guest", "gpu_ids": [0], "numa_nodes": [NEAR], "device": "cpu", "binding": "numactl"}
            study = read_study(values | {"command": command}, kind)
            directory = resolve(study, Path(folder) / kind.replace(" ", "_"), False, "guest")
            (cell,), slot = directory.grid().cells, directory.grid().order[0]
            run = execute(directory, cell, slot, "guest", lock, lambda _: None, attempt_once=attempt_command)
            placement = run.certificate.verdict.value if run.certificate else ""
            found[kind] = f"{run.status}, {placement}: {run.reason}"
            wanted = ("ok", "proved") if kind in PROVED else ("misplaced", "misplaced")
            checks.same(f"command: {kind} ({found[kind]})", (run.status.value, placement), wanted)
    return found
