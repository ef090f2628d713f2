"""The command that measures the goals of crossings: on the cpu device, with a delay that no noise hides."""

import json
from functools import partial
from pathlib import Path

import pytest

import bench.run.crossing as crossing_module
from bench.records.run import Group
from tests.validation import crossing_goals

SMALL = {"image_size": 32, "batch_size": 2, "num_samples": 20, "warmup_samples": 2, "memory_size_mb": 1}


@pytest.mark.slow
@pytest.mark.needs("numactl")
def test_large_delay_of_each_stage_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing_module, "Group", partial(Group, measure_s=0.3, window_s=0.01, lead_s=0.005))
    monkeypatch.setattr(crossing_goals, "SHARE", 1.0)
    settings = SMALL | {"gpu_ids": [0], "device": "cpu", "repeats": 2}
    for stage in ("copy", "launch", "kernel"):
        model = "vit0x0x0" if stage == "copy" else "vit16x1x32"
        crossing_goals.injected(tmp_path / stage, stage, model, settings)
        row = crossing_goals.figures(stage, tmp_path / stage)
        (one,) = row["comparisons"]
        # Twice the time is half of the rate; of a copy of 25 KB most is not its bytes.
        assert one["penalty"] > (0.02 if stage == "copy" else 0.2), (stage, one)
        assert "_again" in one["cell"]
        assert f"| {stage} | {one['cell']} |" in crossing_goals.page([json.loads(json.dumps(row))])
