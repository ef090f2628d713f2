"""Which cells are measured again: disturbed pairs, and comparisons that are not narrow enough. Records are made up."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.analysis.repeats import _whole_groups, decide, demanded, looks, pairs_for
from bench.analysis.statistics import Comparison, paired
from bench.errors import StudyError
from bench.records.base import plain
from bench.records.results import NoiseClass
from bench.records.run import Disturbance, DisturbanceKind, Monitor, Outcome, Result, Run
from bench.records.study import Slot
from bench.storage import write_json
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study
from tests.estimates import estimate_pairs
from tests.run_directories import build_run_directory, crossed_process, topology_json

BASE = {
    "name": "twins", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0", "vit32x2x128"],
    "device": "cpu", "binding": "none", "repeats": 2, "disturbed_repeats": 2,
}  # fmt: skip
FIRST, TWIN, SINGLE = (f"pipeline_gpu0_numa0_{name}" for name in ("vit0x0x0", "vit0x0x0_again", "vit32x2x128"))


def write_run(directory: RunDirectory, slot: Slot, disturbed: bool, rate: float = 1000.0) -> None:
    monitor = Monitor(disturbed=[Disturbance(kind=DisturbanceKind.THROTTLED, text="throttled")] if disturbed else [])
    run = Run(
        run=slot.run,
        cell=slot.cell,
        repeat=slot.repeat,
        block=slot.block,
        position=slot.position,
        status=Outcome.OK,
        monitor=monitor,
        result=Result(throughput_samples_s=rate),
    )
    write_json(directory.record(slot.cell, slot.repeat), plain(run))


def measured(tmp_path: Path, disturbed: set[tuple[str, int]], repeats: int = 2, **changes: object) -> RunDirectory:
    directory = resolve(read_study(BASE | changes, "f"), tmp_path, False, "now")
    for slot in directory.grid().asked(repeats):
        write_run(directory, slot, (slot.cell, slot.repeat) in disturbed)
    return directory


def test_an_undisturbed_study_needs_no_repeats(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, set())).repeats == {}


def test_the_whole_pair_of_a_disturbed_run_is_repeated(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, {(TWIN, 1)})).repeats == {FIRST: 3, TWIN: 3}


def test_two_disturbed_runs_of_one_block_are_one_repeat(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, {(FIRST, 2), (TWIN, 2)})).repeats == {FIRST: 3, TWIN: 3}


def test_a_cell_that_is_compared_with_nothing_is_not_repeated(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, {(SINGLE, 1)})).repeats == {}


def test_cells_of_an_axis_are_a_pair_too(tmp_path: Path) -> None:
    """On one node each cell of a sweep is a group of its own; its base is in another."""
    swept = {"models": ["vit32x2x128"], "axes": {"dtype": ["fp32", "bf16"], "buffers": [1, 2]}}
    directory = measured(tmp_path, set(), **swept)
    names = [cell.name for cell in directory.grid().cells]
    _, base, other, lost = sorted(names, key=lambda name: ("buf1" in name, "bf16" in name))
    write_run(directory, directory.grid().slot(lost, 1), disturbed=True)
    assert demanded(directory).repeats == {lost: 3, base: 3, other: 3}


def test_disturbed_repeats_end_at_the_limit(tmp_path: Path) -> None:
    everywhere = {(FIRST, repeat) for repeat in (1, 2, 3, 4)}
    assert demanded(measured(tmp_path, everywhere, repeats=4)).repeats == {FIRST: 4, TWIN: 4}


def test_target_precision_asks_for_the_next_look_where_needed(tmp_path: Path) -> None:
    study = BASE | {
        "numa_nodes": [0, 1], "models": ["vit0x0x0", "vit32x2x128"], "repeats": 6, "target_precision": 0.02,
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    run = build_run_directory(tmp_path / "run", str(tmp_path / "study.yaml"), topology=topology_json(gpus=0, nodes=2))
    directory, noise = RunDirectory(run), random.Random(1)
    for slot in directory.grid().order:
        rate = 1000 * (1 + noise.gauss(0, 0.03 if "vit32" in slot.cell else 0.002))
        write_run(directory, slot, disturbed=False, rate=rate)
    assert demanded(directory).repeats == {f"pipeline_gpu0_numa{node}_vit32x2x128": 10 for node in (0, 1)}


# Stopping


def made(n, sd, seed=0, label="c"):
    rng = np.random.default_rng(seed)
    sides = (dict(enumerate(1000 * np.exp(rng.normal(0, sd, n)), 1)) for _ in range(2))
    return Comparison(label, NoiseClass.DEVICE_BOUND, *sides)


@pytest.mark.parametrize(
    ("most", "expected"), [(20, (6, 10, 20)), (8, (6, 8)), (6, (6,)), (3, (3,)), (40, (6, 10, 20, 40))]
)
def test_looks(most, expected):
    assert looks(most) == expected


@pytest.mark.parametrize(("n", "more"), [(1, 5), (3, 3), (5, 1)])
def test_the_first_look_is_after_six_pairs(n, more):
    (decision,) = decide([paired(made(n, 1e-5))], 0.02)
    assert decision.more == more


def test_a_narrow_interval_stops():
    (decision,) = decide([paired(made(6, 0.002))], 0.02)
    (low, high) = estimate_pairs([made(6, 0.002)], 0.96)[0].interval
    assert decision.more == 0 and high - low < 2 * 0.02


def test_a_wide_interval_continues_to_the_next_look():
    assert [decide([paired(made(n, 0.03))], 0.02)[0].more for n in (6, 10)] == [4, 10]


def test_the_last_look_stops_though_more_pairs_were_needed():
    (decision,) = decide([paired(made(20, 0.08))], 0.02)
    assert decision.more == 0 and pairs_for(estimate_pairs([made(20, 0.08)], 0.96)[0], 0.02) > 20


def test_a_comparison_beyond_reach_stops_at_the_first_look():
    (decision,) = decide([paired(made(6, 0.3))], 0.02)
    assert decision.more == 0 and pairs_for(estimate_pairs([made(6, 0.3)], 0.96)[0], 0.02) > 500


def test_failed_runs_do_not_make_an_extra_look():
    """Ten pairs were asked for and two failed: eight is no look, and not a reason for ten again."""
    (decision,) = decide([paired(made(8, 0.04))], 0.02, asked={"c": 10})
    assert decision.more == 10


def test_the_pairs_planned_reach_the_target():
    (found,) = estimate_pairs([made(6, 0.03)], 0.96)
    needed = pairs_for(found, 0.02)
    half = found.sd / np.sqrt(needed) * 2.06
    assert half == pytest.approx(0.02, rel=0.1)
    assert pairs_for(found, 0.02, optimism=0.9) < needed


@pytest.mark.parametrize("target", [0, -1, 2])
def test_a_target_that_is_not_a_fraction_is_refused(target):
    with pytest.raises(StudyError, match="target precision"):
        decide([paired(made(6, 0.1))], target)


def test_max_repeats_of_zero_is_refused():
    with pytest.raises(StudyError, match="max_repeats"):
        looks(0)


CROSSED = {"models": ["vit0x0x0", "vit0x0x0"], "binding": "numactl", "design": "crossing"}


@pytest.mark.needs("numactl")
def test_disturbed_crossing_asks_for_no_block(tmp_path):
    assert demanded(measured(tmp_path, {(TWIN, 1), (FIRST, 2)}, **CROSSED)).repeats == {}


def test_crossed_groups_get_whole_sets_of_births():
    def slots(group, births):
        return [
            Slot(cell=f"{group}{node}", repeat=block, block=block, position=0, group=group, birth=birth)
            for block, birth in enumerate(births, start=1)
            for node in range(2)
        ]

    order = [*slots("a", [(0, 0), (1, 1)]), *slots("b", [(0, 0), (0, 0)]), *slots("c", [None, None])]
    data = SimpleNamespace(order=order)
    assert _whole_groups(data, {"a1": 5, "b0": 5, "c0": 5}) == {"a0": 6, "a1": 6, "b0": 5, "b1": 5, "c0": 5}
    assert _whole_groups(data, {}) == {}


def test_precision_of_crossings_is_that_inside_processes(tmp_path):
    """Levels of processes spread by 25 %, ratios by 0.2 %: six processes are enough for 2 %."""
    overrides = {"gpu_ids": [0], "models": ["vit16x8x768"], "repeats": 6, "target_precision": 0.02}
    path = build_run_directory(tmp_path / "run", "numa_locality_study", overrides, crossed=crossed_process(spread=0.25))
    assert demanded(RunDirectory(path)).repeats == {}
