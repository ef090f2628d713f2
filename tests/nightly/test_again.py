import json

import pytest
from msgspec.structs import replace

from bench.nightly.night import measure_again
from bench.records.nightly import SecondMeasurement, second_measurements
from bench.records.study import Grid
from bench.study.crossing import births_of
from bench.study.directory import RunDirectory, freeze
from bench.study.grid import order_of
from tests.run_directories import build_run_directory, topology_json

CELL, OTHER = "pipeline_gpu0_numa0_vit0x0x0", "pipeline_gpu0_numa0_vit32x4x512"


def first_of(tmp_path):
    topology = topology_json(gpus=1, near=(0,), nodes=1)
    return build_run_directory(
        tmp_path / "quick_test/2026-11-22/01-30-00", "quick_test", {"repeats": 3}, topology=topology
    )


def test_a_small_study_of_the_slower_cells(tmp_path):
    first, folder = first_of(tmp_path), tmp_path / "2026-11-22"
    again = RunDirectory(measure_again(folder, "QuickTest", first, [CELL], "test"))
    assert again.path.parents[1] == first.parents[1] and again.path != first
    grid = again.grid()
    assert grid.cells == (RunDirectory(first).grid().cell(CELL),)
    # Thirteen runs: the median of three is a slow process too often.
    assert [slot.repeat for slot in grid.asked(again.study().repeats)] == [*range(1, 14), "traced"]
    assert again.study().again_of == str(first) and again.study().measure_link is False


def test_it_is_created_once_a_night_and_again_for_a_further_cell(tmp_path):
    first, folder = first_of(tmp_path), tmp_path / "2026-11-22"
    one = measure_again(folder, "QuickTest", first, [CELL], "test")
    assert measure_again(folder, "QuickTest", first, [CELL], "later") == one
    both = measure_again(folder, "QuickTest", first, [CELL, OTHER], "later")
    assert both != one
    assert measure_again(folder, "QuickTest", first, [CELL], "later") == both
    entry = SecondMeasurement(cells=(CELL, OTHER), run_directory=str(both))
    assert second_measurements(folder) == {"QuickTest": entry}
    written = json.loads((folder / "again.json").read_bytes())
    assert written == {"QuickTest": {"cells": [CELL, OTHER], "run_directory": str(both)}}


def test_a_crossed_cell_is_measured_again_with_its_group(tmp_path):
    first = first_of(tmp_path)
    run_dir = RunDirectory(first)
    grid, host = run_dir.grid(), run_dir.host()
    twin = replace(grid.cell(CELL), name=f"{CELL}_again")
    cells = (*grid.cells, twin)
    study = replace(run_dir.study(), design="crossing", binding="numactl")
    cells = tuple(replace(cell, binding="numactl") for cell in cells)
    freeze(first, study, host, Grid(cells=cells, order=tuple(order_of(study, cells, births_of(cells, host)[0]))))
    again = RunDirectory(measure_again(tmp_path / "2026-11-22", "QuickTest", first, [CELL], "test"))
    assert {cell.name for cell in again.grid().cells} == {CELL, twin.name}
    assert {slot.birth for slot in again.grid().order if not slot.is_traced} == {(0, 0)}
    assert again.study().repeats == 13


@pytest.mark.parametrize("damage", ["[]", '{"QuickTest": {"cells": 3}}', '{"QuickTest": []}'])
def test_a_damaged_again_json_is_ignored(tmp_path, damage):
    (tmp_path / "again.json").write_text(damage)
    assert second_measurements(tmp_path) == {}
