"""A luigi that is killed leaves nothing of a command: three kills here, 50 in tests/reliability/survive_command.py."""

import random

import pytest

from tests.command.killing import kill, left


@pytest.mark.slow
def test_killed_luigi_leaves_no_process_of_a_command(tmp_path):
    moments, met = random.Random(3), 0
    kills = 0
    # More where too few processes had started, or all had ended, by those moments.
    while kills < 3 or met <= 3:
        met += kill(tmp_path, moments)
        kills += 1
        assert left(tmp_path) == []
