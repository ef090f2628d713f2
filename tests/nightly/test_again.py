"""The study of a second measurement in one night."""

from pathlib import Path

import pytest
from msgspec import structs

from bench.nightly.night import SECOND_RUNS, measure_again
from bench.records.study import LeftOut, LeftOutCell
from bench.study.budget import left_out_text
from bench.study.directory import RunDirectory, freeze, resolve
from bench.study.load import load_study


@pytest.mark.parametrize("traced", [False, True])
def test_a_budget_limits_no_second_measurement(tmp_path: Path, traced: bool) -> None:
    asked = load_study("quick_test", {"binding": "none", "device": "cpu", "budget": 60})
    first = resolve(asked, tmp_path / "outputs", False, "now")
    left_out = LeftOut(repeats=10, traced=traced, links=True, cells=(LeftOutCell(name="a", gpu=0, model="m"),))
    freeze(first.path, structs.replace(first.study(), left_out=left_out), first.host(), first.grid())
    name = first.grid().cells[0].name
    again = RunDirectory(measure_again(tmp_path, "quick_test", first.path, [name], "later"))
    study = again.study()
    assert study.repeats >= SECOND_RUNS and [cell.name for cell in again.grid().cells] == [name]
    assert study.is_traced is not traced and any(slot.is_traced for slot in again.grid().order) is not traced
    assert left_out_text(study) == ("left out for the budget of 60 s: traced runs" if traced else "")
