import hashlib
import json
from typing import Any

import msgspec
import pytest

from bench.records.base import DamagedRecord, convert, plain
from bench.records.study import EXECUTION_SETTINGS, NO_COMPUTE, Cell, Grid, Model, Settings, Slot, Study, StudySettings

VIT = Model(patch_size=32, depth=6, dim=512, heads=8)
CELL = Cell(
    name="x", gpu=0, cpu_node=0, mem_node=0, model=VIT, device="cuda", profiler="nsys", binding="numactl"
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "082359810853"),
        ({"gpu": 3, "cpu_node": 2, "mem_node": 1}, "fa304ecdb85a"),
        ({"model": NO_COMPUTE}, "101fa5328eec"),
        ({"model": Model(patch_size=16, depth=12, dim=1024, heads=16), "dtype": "bf16"}, "d54a5f86c111"),
        ({"cuda_graph": True}, "a87ccee2e73e"),
        ({"compile_model": "reduce-overhead"}, "793def4aa916"),
        ({"device": "cpu", "binding": "none", "profiler": "torch"}, "57a4a9210253"),
        (
            {"batch_size": 50, "num_samples": 200, "image_size": 512, "memory_size_mb": 64, "buffers": 1},
            "ba41f3512d62",
        ),
        ({"host_memory": "huge"}, "b86a2667ce35"),
        ({"copy_granularity": "sample"}, "1edebbcaf10a"),
        ({"direction": "h2d"}, "8d165b8f4bca"),
        ({"preprocess_queue": 4}, "c8f31767ea67"),
        ({"preprocess_queue": 4, "preprocess_node": 1}, "7867207ad04f"),
        (
            {"concurrent_gpus": 2, "concurrent_load": "copies", "concurrent_placement": "found"},
            "fb22b5b6412c",
        ),
        (
            {
                "seed": 3, "windows": 20, "window_s": 0.5, "warmup_samples": 1, "timeout_s": 5.0,
                "placement_threshold": 0.5, "gpu_uuid": "GPU-1", "name": "y", "group": "g", "reason": "r",
            },
            "082359810853",
        ),
    ],
)  # fmt: skip
def test_key_is_that_of_earlier_versions(changes: dict[str, Any], key: str) -> None:
    """The history knows a cell by its key: another one would begin a new series."""
    assert msgspec.structs.replace(CELL, **changes).key == key


def test_key_hashes_json_of_the_settings() -> None:
    text = json.dumps(
        {
            "batch_size": 10, "binding": "numactl", "buffers": 2, "compile_model": "off", "cpu_node": 0,
            "cuda_graph": False, "device": "cuda", "dtype": "fp32", "gpu": 0, "image_size": 224, "mem_node": 0,
            "memory_size_mb": 512, "model": {"depth": 6, "dim": 512, "heads": 8, "patch_size": 32},
            "num_samples": 1000,
        }
    )  # fmt: skip
    assert CELL.key == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_cell_survives_json() -> None:
    raw = json.loads(msgspec.json.encode(CELL))
    assert convert(raw, Cell) == CELL and hash(convert(raw, Cell)) == hash(CELL)
    assert raw["model"]["name"] == "vit32x6x512"


def test_model_name_follows_from_its_shape() -> None:
    assert convert(plain(VIT) | {"name": "../vit"}, Model).name == "vit32x6x512"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int8"}, r"\$\.dtype"),
        ({"device": "auto"}, r"\$\.device"),
        ({"batch_size": 0}, r"\$\.batch_size"),
        ({"window_s": float("nan")}, r"\$\.window_s"),
        ({"name": "../x"}, r"\$\.name"),
        ({"model": {"patch_size": 32}}, r"\$\.model"),
    ],
)
def test_damaged_cell_is_refused_with_its_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedRecord, match=message):
        convert(plain(CELL) | change, Cell)


def test_cell_settings_are_those_of_the_cell() -> None:
    assert CELL.settings == Settings(device="cuda", profiler="nsys", binding="numactl")


def test_grid_finds_cells_and_slots() -> None:
    slots = [Slot(cell="x", repeat=repeat, block=1, position=0) for repeat in (1, 2, "traced")]
    grid = convert({"cells": [plain(CELL)], "order": plain(slots)}, Grid)
    assert grid.cell("x") == CELL and grid.slot("x", "traced").run == "x_traced"
    assert [slot.run for slot in grid.asked(1)] == ["x_r1", "x_traced"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"cells": [], "order": []}, "length"),
        ({"cells": [plain(CELL)] * 2, "order": []}, "same name"),
        ({"cells": [plain(CELL)], "order": [{"cell": "y", "repeat": 1, "block": 1, "position": 0}]}, "y"),
        ({"cells": [plain(CELL)], "order": [{"cell": "x", "repeat": 0, "block": 1, "position": 0}]}, "repeat"),
    ],
)
def test_damaged_grid_is_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedRecord, match=message):
        convert(grid, Grid)


def test_every_setting_of_a_study_has_a_meaning_and_a_default() -> None:
    schema = msgspec.json.schema(StudySettings)["$defs"]["StudySettings"]["properties"]
    assert all("description" in one and "default" in one for one in schema.values())


def test_study_knows_how_many_repeats_may_come() -> None:
    study = Study(
        name="s", device="cpu", profiler="torch", binding="none", repeats=3, target_precision=0.1, disturbed_repeats=1
    )  # fmt: skip
    assert study.most_repeats == 21
    assert msgspec.structs.replace(study, target_precision=0.0).most_repeats == 4


def test_execution_settings_are_marked_where_they_are_defined() -> None:
    assert EXECUTION_SETTINGS == (
        "dtype", "cuda_graph", "compile_model", "attention", "buffers", "host_memory", "copy_granularity",
    )  # fmt: skip
