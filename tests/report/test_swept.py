"""Sections of swept axes on synthetic studies; their grids come from real study files."""

import json

import pytest

from bench.analysis.load import load
from bench.records.results import AxisState
from bench.report.build import build_results
from bench.report.page import all_findings
from bench.report.swept import axis_parts
from bench.report.text.answer import answers
from bench.report.text.axes import what_matters
from bench.report.view import View
from tests.run_directories import build_run_directory, swept_run, topology_json


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return swept_run(tmp_path_factory.mktemp("swept") / "run")


@pytest.fixture(scope="module")
def view(swept):
    return View(build_results(load(swept), "test"))


def test_each_declared_axis_has_a_part_and_zipped_keys_one(view):
    assert len(view.results.cells) == 96
    parts = axis_parts(view)
    assert [part.axis for part in parts] == ["dtype", "compile model and CUDA graph"]
    assert [len(part.rows) for part in parts] == [48, 72]
    assert {row.value for row in parts[1].rows} == {"off, on", "default, off", "reduce-overhead, off"}


def test_a_row_names_both_cells_and_the_change(view):
    row = next(row for row in axis_parts(view)[0].rows if row.model == "vit16x12x1024")
    assert (row.value, row.verdict) == ("bf16", "FASTER")
    assert row.change.startswith("× ") and row.cell == row.base_cell + "_bf16"


def test_penalties_are_shown_by_value(view):
    for part in axis_parts(view):
        assert part.penalties and all(len(row.cells) == len(part.columns) for row in part.penalties)
    row = next(row for row in axis_parts(view)[0].penalties if row.model == "vit0x0x0")
    assert [text.split(" ")[0].split(".")[0] for _, text in row.cells] in (["29", "29"], ["30", "30"], ["29", "30"])


def test_the_first_screen_states_what_matters(view):
    found = all_findings(view)
    assert what_matters(found).startswith("What matters: ")
    assert [one.state for one in found] == [AxisState.MATTERS] * 2
    assert all(one.lines and one.id.startswith("axis-") for one in found)


def test_every_axis_is_drawn_and_every_dot_leads_to_its_runs(view):
    for part in axis_parts(view):
        assert part.picture.svg.count('xlink:href="#runs-') == len(part.rows)


def test_numbers_are_drawn_as_lines(tmp_path, view_of):
    study = {"name": "sizes", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit32x2x128"], "repeats": 3,
             "num_samples": 1024, "batch_size": 8, "axes": {"batch_size": [1, 8, 32]}}  # fmt: skip
    (tmp_path / "sizes.yaml").write_text(json.dumps(study))
    run = build_run_directory(tmp_path / "run", str(tmp_path / "sizes.yaml"), topology=topology_json(gpus=1, nodes=1))
    (part,) = axis_parts(view_of(run))
    assert "batch size, base 8" in part.picture.svg


def test_96_cells_are_a_panel_a_model_and_few_rows(view):
    drawn = view.panels(view.results.cells)
    assert [title for title, _, _ in drawn] == list(dict.fromkeys(cell.model.name for cell in view.results.cells))
    assert all(len(set(labels)) == len(labels) == 16 for _, _, labels in drawn)
    assert drawn[0][2][0] == "base · node 0"
    assert len(view.by_row(view.results.cells)) == 6


def test_many_losses_are_grouped_by_model(view):
    (answer,) = answers(view)
    (line,) = answer.lines
    assert "vit0x0x0 loses" in line and "in 8 of 8 settings" in line
    assert len(line) < 700
