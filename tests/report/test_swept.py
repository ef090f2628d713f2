"""Sections of swept axes on synthetic studies; their grids come from real study files."""

import json

import pytest
from bench.report.axes import axis_pictures, axis_sections, findings, what_matters
from bench.report.labels import by_row, panels

from tests.run_directories import build_run_directory, topology_json


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """96 cells: six models on two nodes, eager, as a graph and compiled in two modes, in two types."""
    folder = tmp_path_factory.mktemp("swept")
    study = {
        "name": "modes", "gpu_ids": [0], "numa_nodes": [0, 1], "repeats": 6,
        "models": ["vit0x0x0", "vit32x2x128", "vit32x4x256", "vit32x6x512", "vit16x8x768", "vit16x12x1024"],
        "zip": [{"compile_model": ["off", "off", "default", "reduce-overhead"],
                 "cuda_graph": [False, True, False, False]}],
        "axes": {"dtype": ["fp32", "bf16"]},
    }  # fmt: skip
    (folder / "modes.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=1, near=(0,), nodes=2)
    return build_run_directory(folder / "run", str(folder / "modes.yaml"), topology=topology)


@pytest.fixture(scope="module")
def results(swept):
    from bench.legacy.build import build_results
    from bench.legacy.load import load

    return build_results(load(swept), "test")


def test_each_declared_axis_has_a_section_and_keys_that_go_together_one(results):
    assert len(results["cells"]) == 96
    sections = axis_sections(results)
    assert [part["axis"] for part in sections] == ["dtype", "compile model and CUDA graph"]
    assert [len(part["rows"]) for part in sections] == [48, 72]
    assert {row["value"] for row in sections[1]["rows"]} == {"off, on", "default, off", "reduce-overhead, off"}


def test_a_row_names_both_cells_and_what_changed(results):
    row = next(row for row in axis_sections(results)[0]["rows"] if row["model"] == "vit16x12x1024")
    assert (row["value"], row["verdict"]) == ("bf16", "FASTER")
    assert row["change"].startswith("× ") and row["cell"] == row["base_cell"] + "_bf16"


def test_what_the_other_node_costs_stands_by_value(results):
    for part in axis_sections(results):
        assert part["costs"] and all(len(row["cells"]) == len(part["columns"]) for row in part["costs"])
    row = next(row for row in axis_sections(results)[0]["costs"] if row["model"] == "vit0x0x0")
    assert [text.split(" ")[0].split(".")[0] for _, text in row["cells"]] in (["29", "29"], ["30", "30"], ["29", "30"])


def test_the_first_screen_says_what_matters(results):
    found = findings(results)
    assert what_matters(found).startswith("What matters: ")
    assert [one.state for one in found] == ["matters", "matters"]
    assert all(one.lines and one.id.startswith("axis-") for one in found)


def test_an_axis_that_does_not_matter_is_said_not_to(results):
    same = results["comparisons"][0] | {"state": "same", "bound": 0.004, "size": 0.0}
    found = findings(results | {"comparisons": [same, results["comparisons"][1]]})
    assert what_matters(found) == "What matters: compile model and CUDA graph. What does not: dtype."
    assert found[1].lead == "Dtype does not matter: no difference above 0.4 %, against fp32"


def test_every_axis_is_drawn_and_every_dot_leads_to_its_runs(results):
    pictures = axis_pictures(results)
    assert pictures.keys() == {part["id"] for part in axis_sections(results)}
    for entry in results["comparisons"]:
        svg = pictures["axis-" + entry["axis"].replace(", ", "-")].svg
        assert svg.count('xlink:href="#runs-') == len(entry["lines"])


def test_numbers_are_drawn_as_lines(tmp_path, results_of):
    study = {"name": "sizes", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit32x2x128"], "repeats": 3,
             "num_samples": 1024, "batch_size": 8, "axes": {"batch_size": [1, 8, 32]}}  # fmt: skip
    (tmp_path / "sizes.yaml").write_text(json.dumps(study))
    run = build_run_directory(tmp_path / "run", str(tmp_path / "sizes.yaml"), topology=topology_json(gpus=1, nodes=1))
    (picture,) = axis_pictures(results_of(run)).values()
    assert "batch size, base 8" in picture.svg


def test_96_cells_are_a_panel_a_model_and_no_picture_has_96_rows(results):
    drawn = panels(results["cells"])
    assert [title for title, _, _ in drawn] == list(dict.fromkeys(c["model"]["name"] for c in results["cells"]))
    assert all(len(set(labels)) == len(labels) == 16 for _, _, labels in drawn)
    assert drawn[0][2][0] == "base · node 0"
    assert len(by_row(results["cells"])) == 6


def test_many_losses_are_told_by_model(results):
    from bench.report.text import answers

    (answer,) = answers(results)
    (line,) = answer.lines
    assert "vit0x0x0 loses" in line and "in 8 of 8 settings" in line
    assert len(line) < 700


@pytest.mark.parametrize(("axis", "doubt", "said"), [
    ("buffers", "once", "Buffers were measured once, against fp32: no uncertainty is known"),
    ("dtype", "noise", "Dtype is not decided, against fp32: 6 pairs a comparison do not tell it from noise"),
    ("dtype", "probable", "Dtype differs in 47 of 48 comparisons, against fp32, but in none beyond the noise after "
                          "correction for their number"),
])  # fmt: skip
def test_what_is_not_decided_says_why_and_what_was_seen(results, axis, doubt, said):
    entry = results["comparisons"][0]
    differ = sum(line["verdict"] in ("FASTER", "SLOWER") for line in entry["lines"])
    found, *_ = findings(results | {"comparisons": [entry | {"axis": axis, "state": "undecided", "doubt": doubt}]})
    assert found.lead == said.replace("47", str(differ))
    assert len(found.lines) == 1 and found.lines[0].startswith("dtype bf16")
