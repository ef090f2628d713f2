"""The runner: forked processes, failures with a name, blocks that fit the time left."""

import json
import os
import time

import pytest

from tests.validation import positive_controls
from tests.validation.control_plan import BASE_CELL, Group, groups, no_delay, positive, slower_copy
from tests.validation.positive_controls import ControlError, Runner, measure, summed_up

# A delay so small that its copy fits, however long a batch took on a busy machine.
TINY = Group(
    "tiny", ("vit0x0x0", 0, 0, 0, 0), "transfer-bound",
    (no_delay(), *positive("copy", 0.01), *slower_copy(2.0)),
    {"image_size": 32, "batch_size": 2, "num_samples": 8, "warmup_samples": 2, "memory_size_mb": 1, "window_s": 0.002},
    window_s=0.001, traced_blocks=1,
)  # fmt: skip


def runner(tmp_path, budget_s=1e9):
    return Runner("cpu", budget_s, tmp_path)


def test_a_forked_process_returns_its_result_or_its_words(tmp_path):
    here = runner(tmp_path)
    assert here.process(lambda: {"pid": os.getpid()})["pid"] != os.getpid()

    def breaks():
        raise ValueError("no such stage")

    with pytest.raises(ControlError, match="no such stage"):
        here.process(breaks)
    with pytest.raises(ControlError, match="exit code 9"):
        here.process(lambda: os._exit(9))


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(positive_controls, "RUN_TIMEOUT_S", 0.3)
    with pytest.raises(ControlError, match="no result after"):
        runner(tmp_path).process(lambda: time.sleep(600))


@pytest.mark.slow
def test_processes_and_results_of_a_whole_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(positive_controls, "RUN_TIMEOUT_S", 600.0)
    out = tmp_path / "controls.json"
    found = measure(runner(tmp_path), [TINY], repeats=3, measure_s=0.02, out=out)
    assert found["errors"] == [] and found["processes"] == 3
    runs = found["runs"]["tiny"]
    assert {name: sorted(blocks) for name, blocks in runs.items()} == {
        name: ["1", "2", "3"] for name in ("base", "no delay", "copy 0.01 %", "copy x 2")
    }
    assert [(row["condition"], row["pairs"]) for row in found["controls"]] == [("no delay", 3), ("copy 0.01 %", 3)]
    assert runs["copy x 2"]["1"]["injection"]["copy_ratio"] == 2.0
    traced = [block for blocks in runs.values() for block, run in blocks.items() if "trace" in run]
    assert traced == ["1"] * 4
    # The sides of a process took turns: as many windows of each.
    assert len({len(blocks["1"]["window_us"]) for blocks in runs.values()}) == 1
    again = summed_up(json.loads(out.read_bytes()), [TINY])
    assert json.dumps(again["controls"]) == json.dumps(found["controls"])


def test_names_what_fails_and_continues_with_the_rest(tmp_path):
    broken = Group("broken", TINY.model, "", TINY.conditions, TINY.settings | {"dtype": "fp7"})
    found = measure(runner(tmp_path), [broken, TINY], repeats=1, measure_s=0.02)
    assert set(found["runs"]) == {"tiny"}
    assert [error["where"] for error in found["errors"]] == ["broken, process 1"]
    assert "fp7" in found["errors"][0]["error"]


def test_no_process_begins_that_would_end_too_late(tmp_path):
    found = measure(runner(tmp_path, budget_s=0.0), [TINY], repeats=2, measure_s=0.02)
    assert found["runs"] == {} and found["summary"]["positive"] == 0 and not found["summary"]["as_expected"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_stage_and_size_is_planned_where_it_limits(device):
    plan = groups(device)
    planned = {(condition.stage, condition.percent) for group in plan for condition in group.conditions
               if condition.kind == "positive"}  # fmt: skip
    assert planned >= {(stage, percent) for stage in ("copy", "launch", "kernel") for percent in (1.0, 2.0, 5.0)}
    assert all(set(group.settings) <= set(BASE_CELL) for group in plan)
    names = [(group.name, each.name) for group in plan for each in group.conditions]
    assert len(set(names)) == len(names)
