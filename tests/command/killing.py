"""Kills of luigi while it measures a server and its client, and what is left of them."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import yaml

BIN = Path(sys.executable).parent
SERVING = Path(__file__).with_name("serving.py")
# On a machine whose CPUs are not asked for more than they can.
LEFT_AFTER_S = 5.0
LOOK_S = 0.05
CLIENT = "import time; time.sleep(1.5)"


def write_study(folder: Path) -> Path:
    """One cell of a server with two workers, one in a session of its own, and a client that takes 1.5 s."""
    command = {
        "run": [sys.executable, "-S", "-c", CLIENT, f"{folder}"],
        "server": [sys.executable, "-S", str(SERVING), "{port}", f"{folder}"],
        "ready": "http://127.0.0.1:{port}/health",
        "read": "wall",
        "env": {"KILLED_IN": str(folder)},
    }
    study = {"name": "killed", "gpu_ids": [0], "numa_nodes": [0], "repeats": 3, "device": "cpu", "binding": "none"}
    path = folder / "killed.yaml"
    path.write_text(yaml.safe_dump(study | {"disturbed_repeats": 0, "command": command}))
    return path


def kill(folder: Path, moments: random.Random) -> int:
    """One call of luigi, ended at a random moment; return how many processes of the command lived then."""
    study = write_study(folder)
    locks = folder / "locks"
    locks.mkdir(exist_ok=True)
    call = [str(BIN / "luigi"), "--module", "tasks", "Study", "--local-scheduler", "--config-file", str(study)]
    luigi = subprocess.Popen(
        [*call, "--output-dir", str(folder / "outputs"), "--fresh"],
        env=os.environ | {"NUMASTUDY_LOCK_DIR": str(locks)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not living(folder) and luigi.poll() is None:
        time.sleep(0.01)
    with suppress(subprocess.TimeoutExpired):
        luigi.wait(moments.uniform(0.0, 6.0))
    met = len(living(folder))
    luigi.send_signal(moments.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
    luigi.wait(600)
    return met


def living(folder: Path) -> list[int]:
    """The processes that a command in this folder started, by its environment."""
    mark = f"KILLED_IN={folder}".encode()
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit() and mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def left(folder: Path) -> list[str]:
    """Command lines of those that still live LEFT_AFTER_S after a kill."""
    busy = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    # Looks are counted, not seconds: others have had no time to end while this process had none to look.
    for _ in range(round(LEFT_AFTER_S * busy / LOOK_S)):
        if not (found := living(folder)):
            break
        time.sleep(LOOK_S)
    lines = []
    for pid in found:
        with suppress(OSError):  # it has ended since
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return lines
