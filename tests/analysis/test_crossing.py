import dataclasses
import json
import math

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from bench.analysis.aggregate import measured_cells
from bench.analysis.crossing import (
    ProcessValue,
    carry_over_difference,
    crossed_runs,
    crossed_sample,
    crossings,
    welch,
)
from bench.analysis.load import load
from bench.analysis.noise_floor import evaluate
from bench.analysis.pairs import throughputs
from bench.analysis.statistics import estimate
from bench.analysis.trust import busy_s
from bench.records.results import CellRemarkKind, Contrast, NoiseClass, Verdict
from bench.report.build import build_results, make_report
from tests.crossings import noisy_windows, windows_by_turns
from tests.run_directories import build_run_directory, crossed_process, topology_json

TWO = {"gpu_ids": [0], "numa_nodes": [0, 1], "repeats": 6, "models": ["vit0x0x0", "vit16x8x768"]}
ON_TWO_NODES = topology_json(1, (0,), 2)


def crossed(path, process=None, config="numa_locality_study", topology=ON_TWO_NODES, **overrides):
    overrides = (TWO if config == "numa_locality_study" else {}) | overrides
    return build_run_directory(path, config, overrides, topology=topology, crossed=process or crossed_process())


def penalty_of(path, process, **overrides):
    return build_results(load(crossed(path, process, models=["vit0x0x0"], **overrides)), "test").penalties[0]


def values(numbers, births=(0, 1), error=None):
    return {str(n): ProcessValue(number, error, births[n % len(births)]) for n, number in enumerate(numbers)}


def student(numbers, births=(0, 1), error=None):
    return estimate([crossed_sample("made", NoiseClass.DEVICE_BOUND, values(numbers, births, error))])[0]


def test_drift_cancels_inside_a_process(tmp_path):
    def process(group, number, birth, paces_s):
        first, *others = paces_s
        paces = {first: 1e-3} | dict.fromkeys(others, 1e-3 / 0.95)
        return windows_by_turns(paces, 16, f"{group} {number}", lambda cell, time_s: math.exp(0.02 * time_s))

    entry = penalty_of(tmp_path / "run", process)
    assert entry.penalty == pytest.approx(0.05, abs=2e-5)
    assert entry.verdict is Verdict.SLOWER and entry.headline


def test_steady_windows_give_the_exact_ratio(tmp_path):
    def process(group, number, birth, paces_s):
        first, *others = paces_s
        return windows_by_turns({first: 1e-3} | dict.fromkeys(others, 1e-3 / 0.95), 8, f"{number}")

    entry = penalty_of(tmp_path / "run", process)
    assert entry.penalty == pytest.approx(0.05, abs=1e-9)
    assert entry.design == "crossing" and entry.pairs == 6


def test_ratio_of_batch_sizes_counts_samples(tmp_path):
    def process(group, number, birth, paces_s):
        return windows_by_turns({name: 4e-3 if "bs50" in name else 1e-3 for name in paces_s}, 8, f"{number}")

    path = crossed(tmp_path / "run", process, models=["vit0x0x0"], axes={"batch_size": [10, 50]}, numa_nodes=[0])
    results = build_results(load(path), "test")
    (line,) = results.comparisons[0].lines
    assert (line.name.rsplit("_", 1)[1], line.design) == ("bs50", "crossing")
    assert line.effect == pytest.approx(5 / 4 - 1)
    small, large = (cell.throughput_samples_s for cell in results.cells)
    assert (small, large) == pytest.approx((10 / 1e-3, 50 / 4e-3))


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("buffers", [2, 3]),
        ("cuda_graph", [False, True]),
        ("dtype", ["fp32", "bf16"]),
        ("batch_size", [10, 50]),
        ("compile_model", ["off", "default"]),
    ],
)
def test_delay_of_one_side_of_a_setting_is_found(tmp_path, setting, values):
    """2 % of one of two equal sides, at either value of the setting; the other value takes a third of the time."""

    def process(group, number, birth, paces_s):
        assert len(paces_s) == 4
        first = next(iter(paces_s)).removesuffix("_again")
        paces = {
            name: (1e-3 if name.removesuffix("_again") == first else 1e-3 / 3) * (1.02 if "_again" in name else 1.0)
            for name in paces_s
        }
        seed = f"delayed {setting} {number}"
        return windows_by_turns(paces, 8, seed, noisy_windows(seed))

    twice = {"gpu_ids": [0], "numa_nodes": [0], "repeats": 6, "models": ["vit32x2x128"] * 2}
    path = crossed(tmp_path / "run", process, "self_check", axes={setting: values}, **twice)
    results = build_results(load(path), "test")
    found = evaluate(results.cells, results.rules.margin).comparisons
    assert len(found) == 2
    for one in found:
        assert 0.01 < one.interval[0] < 1 - 1 / 1.02 < one.interval[1] < 0.03
    (axis,) = (one for one in results.comparisons if one.keys == (setting,))
    truth = 3 * (values[1] / values[0] if setting == "batch_size" else 1) - 1
    assert [line.design for line in axis.lines] == ["crossing"] * 2
    assert all(line.interval[0] < truth < line.interval[1] and line.headline for line in axis.lines)


def test_spread_between_processes_does_not_widen_the_interval(tmp_path):
    entry = penalty_of(tmp_path / "run", crossed_process(spread=0.25, noise=0.004, penalty=0.05))
    low, high = entry.interval
    assert low < 0.05 < high and high - low < 0.02


def test_process_is_the_unit():
    numbers = [0.01, -0.02, 0.03, 0.0, 0.01, -0.01]
    found = student(numbers, births=(0,))
    expected = stats.t.interval(0.95, 5, np.mean(numbers), stats.sem(numbers))
    assert found.interval == pytest.approx(tuple(-math.expm1(end) for end in reversed(expected)))
    assert (found.pairs, found.df) == (6, 5)


def test_error_inside_processes_only_widens():
    numbers = [0.01, 0.011, 0.009, 0.01, 0.0105, 0.0095]
    narrow, wide = student(numbers, error=1e-5), student(numbers, error=0.01)
    assert narrow.sd == pytest.approx(np.std(numbers, ddof=1))
    assert wide.sd == pytest.approx(0.01)


def test_births_that_differ_are_averaged():
    numbers = [0.00, 0.10, 0.01, 0.11, -0.01, 0.09, 0.0]
    found = student(numbers)
    assert found.mean_log == pytest.approx((0.0 + 0.1) / 2)
    assert found.df == 5
    assert found.sd < 0.011


def test_births_that_agree_are_one_group():
    assert student([0.0, 0.01, -0.01, 0.005, 0.01, 0.0]).df == 5


def test_one_process_has_no_interval():
    assert student([0.01]).interval is None


def test_welch_is_scipys():
    base, new = [0.0, 0.01, 0.03, -0.02], [0.1, 0.3, -0.1]
    expected = stats.ttest_ind(new, base, equal_var=False).confidence_interval(0.95)
    assert welch(base, new).interval == pytest.approx((expected.low, expected.high))
    assert welch([0.0], new).interval is None


@pytest.mark.parametrize(("repeats", "headline"), [(4, False), (5, True)])
def test_headline_needs_five_processes(tmp_path, repeats, headline):
    entry = penalty_of(tmp_path / "run", crossed_process(penalty=0.05), repeats=repeats)
    assert entry.verdict is Verdict.SLOWER
    assert entry.headline is headline


def test_birth_and_its_interaction_are_estimated(tmp_path):
    def process(group, number, birth, paces_s):
        first, second = paces_s
        level = 1.0 + 0.001 * (number // 2)
        paces = {first: level * (1e-3 if birth == 0 else 1.1e-3), second: level * (1.02e-3 if birth == 0 else 1.2e-3)}
        return windows_by_turns(paces, 8, f"{number}")

    (birth,) = penalty_of(tmp_path / "run", process).births
    assert (birth.node, birth.base_node, birth.processes) == (1, 0, (3, 3))
    assert birth.effect == pytest.approx(math.sqrt(1.02 / (1.1 * 1.2)) - 1, abs=2e-3)
    assert birth.interval[0] < birth.effect < birth.interval[1] < 0
    assert birth.penalty_change == pytest.approx((1 - 1.1 / 1.2) - (1 - 1 / 1.02))
    assert birth.differs


def test_throughput_is_that_of_its_own_birth(tmp_path):
    def process(group, number, birth, paces_s):
        paces = dict.fromkeys(paces_s, 1e-3 * (1 + birth))
        return windows_by_turns(paces, 8, f"{number}")

    here, there = measured_cells(load(crossed(tmp_path / "run", process, models=["vit0x0x0"])))
    assert (here.throughput_samples_s, there.throughput_samples_s) == (pytest.approx(1e4), pytest.approx(5e3))
    assert len(here.throughput_runs) == len(throughputs(here)) == 3


@pytest.mark.parametrize("sides", [{}, {"numa_nodes": [0], "axes": {"buffers": [2, 3]}}], ids=["nodes", "settings"])
def test_carry_over_that_differs_is_a_remark(tmp_path, sides):
    def process(group, number, birth, paces_s):
        windows = windows_by_turns(dict.fromkeys(paces_s, 1e-3), 8, f"{number}")
        for own in list(windows.values())[1:]:
            for window in own:
                window["duration_s"] *= 1 + 0.01 * (window["lead_batches"] > 1)
        return windows

    here, there = measured_cells(load(crossed(tmp_path / "run", process, models=["vit0x0x0"], **sides)))
    assert carry_over_difference(there, here) == pytest.approx(math.log(1.01))
    (remark,) = [one for one in there.remarks if one.kind is CellRemarkKind.CARRY_OVER_DIFFERS]
    assert remark.other == here.name


@pytest.mark.parametrize(("there", "remarks"), [(0, [-1.0]), (240, [])])
def test_huge_pages_that_differ_are_a_remark(tmp_path, there, remarks):
    """256 bytes of rings, all in huge pages here."""
    folder = crossed(tmp_path / "run", models=["vit0x0x0"])
    for path in folder.glob("runs/*.json"):
        record = json.loads(path.read_text())
        huge = {"inputs": 256 if "_numa0_" in path.name else there, "outputs": None}
        record["result"]["host_memory"] = {"kind": "pageable", "huge_pages": huge}
        record["result"]["certificate"]["buffers"] = {"input_ring": {"bytes": 256, "pages": 1}}
        path.write_text(json.dumps(record))
    _, cell = measured_cells(load(folder))
    assert [one.ratio for one in cell.remarks if one.kind is CellRemarkKind.HUGE_PAGES_DIFFER] == remarks


def test_disturbed_processes_count(tmp_path):
    data = load(crossed(tmp_path / "run", crossed_process(penalty=0.05), models=["vit0x0x0"]))
    shared = {"samples": 60, "disturbed": [{"kind": "clock", "text": "made up"}]}
    runs = {
        name: replace(run, monitor=type(run.monitor)(**shared)) if run.repeat == 2 and run.monitor else run
        for name, run in data.runs.items()
    }
    results = build_results(dataclasses.replace(data, runs=runs), "test")
    assert results.penalties[0].pairs == 6 and results.penalties[0].disturbed_pairs == 0


def test_lost_placement_costs_its_own_comparisons_only(tmp_path):
    path = tmp_path / "run"
    failure = {"status": "misplaced", "reason": "made up", "result": None}
    build_run_directory(
        path,
        "numa_locality_study",
        TWO | {"numa_nodes": [0, 1, 2], "models": ["vit0x0x0"]},
        topology=topology_json(1, (0,), 3),
        crossed=crossed_process(),
        failures={"pipeline_gpu0_numa2_vit0x0x0_2": failure},
    )
    pairs = {entry.remote_node: entry.pairs for entry in build_results(load(path), "test").penalties}
    assert pairs == {1: 6, 2: 5}


def test_wall_time_of_a_process_counts_once(tmp_path):
    runs = list(load(crossed(tmp_path / "run", models=["vit0x0x0"])).runs.values())
    timed = [run for run in runs if run.timed]
    found = crossings(timed)
    assert (found.groups, found.processes, found.births) == (1, 6, (0, 1))
    assert found.wall_s == busy_s(timed) == pytest.approx(sum(run.wall_s for run in timed) / 2, rel=0.01)
    assert found.windows_s == pytest.approx(sum(w.duration_s for run in timed for w in run.result.windows), abs=0.01)


def test_runs_of_their_own_processes_have_no_crossing(tmp_path):
    data = load(build_run_directory(tmp_path / "run", "numa_locality_study", TWO, topology=ON_TWO_NODES))
    results = build_results(data, "test")
    assert results.crossings is None and crossed_runs(data.runs.values(), {}) == {}
    assert {entry.design for entry in results.penalties} == {"processes"}


def test_four_placements_give_their_contrasts(tmp_path):
    def process(group, number, birth, paces_s):
        def pace(cell):
            return 1e-3 * (1.02 if "cpu1" in cell or ("numa1" in cell and "cpu" not in cell) else 1.0)

        return windows_by_turns({cell: pace(cell) for cell in paces_s}, 8, f"{number}")

    path = crossed(tmp_path / "run", process, "placement_2x2", gpu_ids=[0], models=["vit0x0x0"], repeats=6,
                   placements=[[0, 0], [0, 1], [1, 0], [1, 1]])  # fmt: skip
    results = build_results(load(path), "test")
    (effects,) = [entry.effects for entry in results.penalties if entry.effects]
    assert effects[Contrast.CPU].penalty == pytest.approx(1 - 1 / 1.02)
    assert effects[Contrast.MEMORY].penalty == pytest.approx(0, abs=1e-9)
    assert effects[Contrast.CPU].design == "crossing"


def test_twins_are_compared_inside_processes(tmp_path):
    path = crossed(tmp_path / "run", crossed_process(spread=0.2, penalty=0.0), "self_check")
    check = evaluate(measured_cells(load(path)))
    assert check.comparisons and {one.design for one in check.comparisons} == {"crossing"}
    assert check.false_differences == ()


def test_report_is_written_of_crossings(tmp_path):
    path = crossed(tmp_path / "run")
    results = make_report(path, "test")
    assert results.crossings.processes == 12
    assert 0 < results.crossings.share < 1
