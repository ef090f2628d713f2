import sys
from pathlib import Path

import pytest

from bench.study.listing import listing, table
from bench.study.load import TASKS, shipped_names


def test_every_study_is_listed_once_with_its_size(tmp_path: Path) -> None:
    lines = listing(tmp_path).splitlines()
    rows = {line.split()[0]: line.split()[1:3] for line in lines[2:-2]}
    assert set(rows) == set(TASKS) | set(shipped_names()) - set(TASKS.values())
    assert len(rows) == len(lines) - 4
    assert rows["QuickTest"] == ["3", "3"] and rows["NumaStudy"][0] == "48"


def test_a_terminal_gets_lines_that_fit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    row = ("rq1_model_architecture", "39", "39", "19 h 50 min", "Which of them gains most? " * 6)
    lines = table([row]).splitlines()
    assert max(map(len, lines)) in range(80, 91)
