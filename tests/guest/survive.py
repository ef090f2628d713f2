"""What runs inside the guest of tests/guest/machine.py: a study of replayed runs, and what befalls it.

usage: python -m tests.guest.survive STEP RECORDED      the last line of what it says is JSON
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.storage import boot_id, on_network
from tests.guest.nfs import Server
from tests.reliability.killing import ApartCalls, living, look_at_files, look_at_the_whole, recorded_runs, wait_until
from tests.reliability.stub import behave, replay

DISK = Path("/disk")
HOUR_S = 3600
SLOW = "import time; time.sleep(0.5)"
# The fifth of six runs hangs.
BEFORE_IT_HANGS = 4
HANG = f"""
import time
from pathlib import Path
hangs = len(list(Path("/disk/power_loss/outputs").rglob("runs/*.json"))) == {BEFORE_IT_HANGS}
time.sleep(1000 if hangs else 1)
"""


def study(name: str, recorded: Path, behaviour: str) -> ApartCalls:
    """A new study of six runs on the guest's disk, or the one that is there."""
    folder = DISK / name
    if folder.exists():
        return FoundCalls(folder, ["--local-scheduler"])
    made = ApartCalls(folder, ["--local-scheduler"])
    replay(made, recorded)
    made.study["repeats"] = 2
    made.write()
    behave(made, behaviour)
    return made


class FoundCalls(ApartCalls):
    """Of a folder that was made before the machine was booted."""

    def __post_init__(self) -> None:
        self.study["repeats"] = 2


def records(folder: Path) -> dict[str, str]:
    """A digest of each run's record."""
    while True:
        with suppress(FileNotFoundError):  # of a folder that is being renamed
            paths = sorted(folder.rglob("runs/*.json"))
            return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def begin(recorded: Path) -> dict[str, Any]:
    """Start the study, and say when a run is over."""
    return _started(recorded, lambda calls: recorded_runs(calls.folder) >= 1)


def hang(recorded: Path) -> dict[str, Any]:
    """Start it again, and say when the run that hangs has begun."""

    def hangs(calls: ApartCalls) -> bool:
        with suppress(FileNotFoundError):  # of a run that has just ended
            starts = [path.read_text().split() for path in calls.folder.rglob("runs/*.starts")]
            return len(records(calls.folder)) == BEFORE_IT_HANGS and [boot_id()] in [boots[-1:] for boots in starts]
        return False

    return _started(recorded, hangs)


def _started(recorded: Path, until: Callable[[ApartCalls], bool]) -> dict[str, Any]:
    calls = study("power_loss", recorded, HANG)
    for folder in calls.run_directories():
        look_at_files(folder)
    found = records(calls.folder)
    with (calls.folder / "said").open("ab") as said:
        subprocess.Popen(
            calls.command(), cwd=calls.folder, env=calls.environment(), stdin=subprocess.DEVNULL, stdout=said,
            stderr=said, start_new_session=True,
        )  # fmt: skip
    assert wait_until(lambda: until(calls), 600), (calls.folder / "said").read_text()
    starts = [path.read_text().split() for path in calls.folder.rglob("runs/*.starts")]
    return {"found": found, "records": records(calls.folder), "starts": starts}


def complete(recorded: Path) -> dict[str, Any]:
    """The run that hung is given up, unstarted. Then this call is stopped, and the next one tries that run again."""
    calls = study("power_loss", recorded, HANG)
    look_at_files(calls.run_directory())
    found = records(calls.folder)
    giving_up = calls.start()
    assert wait_until(lambda: len(records(calls.folder)) > BEFORE_IT_HANGS, 600)
    given_up = [[one["status"], one["reason"]] for one in calls.records().values() if one["status"] != "ok"]
    giving_up.terminate()
    said, _ = giving_up.communicate(timeout=600)
    done = calls.run()
    assert done.returncode == 0, done.stdout + done.stderr
    look_at_the_whole(calls)
    assert living(calls) == []
    return {"found": found, "given_up": given_up, "said": said, "records": records(calls.folder)}


def clock(recorded: Path) -> dict[str, Any]:
    """Set the clock four hours back, then a month ahead, while a study runs."""
    calls = study("clock", recorded, SLOW)
    luigi = calls.start()
    for count, hours in ((2, -4), (4, 30 * 24)):
        assert wait_until(lambda count=count: recorded_runs(calls.folder) >= count, 600)
        time.clock_settime(time.CLOCK_REALTIME, time.time() + hours * HOUR_S)
    said, _ = luigi.communicate(timeout=600)
    assert luigi.returncode == 0, said
    look_at_the_whole(calls)
    again = calls.run()
    assert again.returncode == 0 and "Nothing was measured now" in again.stdout, again.stderr
    look_at_the_whole(calls)
    return {"records": list(calls.records().values())}


def nfs(recorded: Path) -> dict[str, Any]:
    """Output on NFS: its server is down for five seconds, then it takes the export back, then gives it again."""
    calls = study("nfs", recorded, SLOW)
    server = Server(DISK / "export", calls.folder / "outputs")
    server.start()
    server.publish()
    server.mount()
    assert on_network(calls.folder / "outputs" / "history.db")
    luigi = calls.start()
    assert wait_until(lambda: recorded_runs(server.export) >= 2, 600)
    server.stop()
    stopped = recorded_runs(server.export)
    time.sleep(5)
    down = records(server.export)
    server.start()
    server.publish()
    assert wait_until(lambda: recorded_runs(server.export) >= 4, 600)
    server.withdraw()
    said, _ = luigi.communicate(timeout=600)
    kept, left = records(server.export), living(calls)
    refused = calls.run()
    server.publish()
    server.mount()
    done = calls.run()
    assert done.returncode == 0, done.stdout + done.stderr
    look_at_the_whole(calls)
    # As the server sees them: no cache of the client's lies between.
    look_at_files(server.export)
    return {
        "stopped": stopped,
        "down": len(down),
        "withdrawn": luigi.returncode,
        "said": said,
        "left": left,
        "refused": (refused.returncode, refused.stdout + refused.stderr),
        "kept": kept,
        "records": records(server.export),
    }


STEPS = {each.__name__: each for each in (begin, hang, complete, clock, nfs)}

if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](Path(sys.argv[2]))))
