"""50 kills of luigi at random moments of a run of a server and its client: no process is left after 5 s."""

import random
from pathlib import Path

import pytest

from tests.command.killing import kill, left


@pytest.mark.timeout(3000)
def test_50_kills_leave_no_process_of_a_command(tmp_path: Path) -> None:
    moments, met, number = random.Random(20261130), 0, 0
    # More where fewer of them met a process than are to, but not without end.
    while number < 50 or (met < 40 and number < 200):
        met += bool(kill(tmp_path, moments))
        number += 1
        assert left(tmp_path) == [], f"kill {number}"
    assert met >= 40
