"""A real NFS server and a real clock: both are the guest's kernel's."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.guest.machine import Machine


def step(machine: Machine, name: str, recorded: Path) -> dict[str, Any]:
    said = machine.run(sys.executable, "-m", "tests.guest.survive", name, str(recorded))
    return json.loads(said.rstrip().splitlines()[-1])


@pytest.mark.timeout(3000)
def test_nfs_whose_server_is_down_and_whose_export_is_withdrawn(machine: Machine, recorded: Path) -> None:
    found = step(machine, "nfs", recorded)
    # The run that was going on when the server went could not be written; the next ones came after the restart.
    assert found["down"] == found["stopped"] >= 2
    assert found["withdrawn"] == 30 and "Stale file handle\n  where: " in found["said"], found["said"]
    code, refused = found["refused"]
    assert code == 2 and refused.startswith("refused: ") and "Stale file handle" in refused, refused
    assert "Traceback" not in found["said"] + refused
    assert found["left"] == []
    assert len(found["kept"]) >= 4 and found["kept"].items() <= found["records"].items()


@pytest.mark.timeout(3000)
def test_the_real_clock_steps_while_a_study_runs(machine: Machine, recorded: Path) -> None:
    records = step(machine, "clock", recorded)["records"]
    stamps = sorted(time.strptime(one["started_at"], "%Y-%m-%dT%H:%M:%SZ") for one in records)
    # No duration was made from clocks that are weeks apart.
    assert time.mktime(stamps[-1]) - time.mktime(stamps[0]) > 29 * 24 * 3600
    assert all(0 < one["wall_s"] < 100 for one in records)
