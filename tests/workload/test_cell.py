import json

import pytest
import torch

from bench.records.run import Mode
from bench.records.study import Cell
from bench.workload.__main__ import load_cell
from bench.workload.failures import RunFailure, read_input
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import execute
from bench.workload.subject import Subject, build_subject

from .cells import NO_COMPUTE, raw_cell, small_cell


def subject_of(cell: Cell) -> Subject:
    return build_subject(cell, torch.device("cpu"))


def test_sizes_of_the_reference_workload():
    model = {"name": "vit32x2x128", "patch_size": 32, "depth": 2, "dim": 128, "heads": 4}
    cell = small_cell(model=model, image_size=224, batch_size=10, num_samples=1000)
    assert (subject_of(cell).input_bytes, subject_of(cell).output_bytes) == (6_021_120, 256_000)
    assert cell.output_shape == (10, 50, 128)
    assert cell.batches_per_pass == 100


def test_without_compute_output_equals_input_size():
    cell = small_cell(model=NO_COMPUTE)
    assert not cell.model.computes
    assert cell.output_shape == (4, 3, 32, 32)
    assert subject_of(cell).output_bytes == subject_of(cell).input_bytes == 4 * 3 * 32 * 32 * 4


@pytest.mark.parametrize(
    ("direction", "on_link"), [("both", (49_152, 2_560)), ("h2d", (49_152, 0)), ("d2h", (0, 2_560))]
)
def test_direction_that_is_not_copied_has_no_bytes_on_the_link(direction, on_link):
    result = execute(small_cell(direction=direction), Mode.TIMED, Progress(), PhaseTimes())
    assert (result.bytes_in_per_batch, result.bytes_out_per_batch) == on_link


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_halves_the_bytes(dtype):
    assert subject_of(small_cell(dtype=dtype)).input_bytes * 2 == subject_of(small_cell()).input_bytes


def test_pass_rounds_up_to_whole_batches():
    assert small_cell(num_samples=41, batch_size=4).batches_per_pass == 11


def test_keys_of_other_readers_are_ignored(tmp_path):
    (tmp_path / "cell.json").write_text(json.dumps(raw_cell(key="abc", outcome="ok")))
    assert read_input(tmp_path / "cell.json", Cell) == small_cell()


def test_load_of_copies_computes_nothing():
    assert load_cell(small_cell()) == small_cell()
    assert not load_cell(small_cell(concurrent_load="copies")).model.computes


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"cpu_node": None}, r"\$\.cpu_node"),
        ({"dtype": "fp8"}, r"'fp8' - at `\$\.dtype`"),
        ({"model": {"name": "vit0x0x0"}}, r"`patch_size` - at `\$\.model`"),
    ],
)
def test_damaged_cell_is_refused_by_its_key(tmp_path, changes, what):
    (tmp_path / "cell.json").write_text(json.dumps(raw_cell(**changes)))
    with pytest.raises(RunFailure, match=what) as raised:
        read_input(tmp_path / "cell.json", Cell)
    assert raised.value.status == "crashed"
    assert raised.value.advice
