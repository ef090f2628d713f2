from pathlib import Path

from bench.study.listing import listing
from bench.study.load import TASKS, shipped_names


def test_every_study_is_listed_once_with_its_size(tmp_path: Path) -> None:
    lines = listing(tmp_path).splitlines()
    rows = {line.split()[0]: line.split()[1:3] for line in lines[2:-2]}
    assert set(rows) == set(TASKS) | set(shipped_names()) - set(TASKS.values())
    assert len(rows) == len(lines) - 4
    assert rows["QuickTest"] == ["3", "3"] and rows["NumaStudy"][0] == "48"
