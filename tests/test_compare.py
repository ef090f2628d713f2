import csv
import io
import json
import math
import re

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from scipy import stats

from bench import compare as compare_module
from bench.cli import main
from bench.compare import compare as compare_sides
from bench.compare import compare_command, host_differences, results_at
from bench.errors import StudyError
from bench.records.base import plain
from bench.records.host import Fingerprint, FingerprintChange
from bench.records.nightly import ComparisonWarningKind
from bench.records.results import NoiseClass, Remedy, Rules, Verdict
from bench.records.run import Outcome
from bench.records.study import Model, Settings
from tests.history.synthetic import made_results, with_cell
from tests.run_directories import build_run_directory, crossed_process, topology_json

FACTS = Fingerprint(host="a", cpu="Xeon", gpus="H100 GPU-1", driver="580", torch="2.11")
GPUS = FingerprintChange(fact="gpus", before="H100 GPU-1", after="H200 GPU-2")


def study(tmp_path, levels, facts=FACTS, seed=0, sd=0.002, place="a", repeats=6, **changes):
    """One cell for each level in samples/s, with runs that spread by sd."""
    names = [f"pipeline_gpu0_numa{i}_vit0x0x0" for i in range(len(levels))]
    results = made_results(
        tmp_path / place, 1, dict(zip(names, levels, strict=True)), fingerprint=facts, repeats=repeats
    )
    cells = []
    for i, cell in enumerate(results.cells):
        noise = np.random.default_rng(seed + i).normal(0, sd, repeats)
        rates = levels[i] * np.exp(noise - noise.mean())
        runs = tuple(
            replace(run, throughput_samples_s=rate) for run, rate in zip(cell.runs, rates.tolist(), strict=True)
        )
        cells.append(replace(cell, runs=runs, **changes))
    return replace(results, cells=tuple(cells))


def compare(base, new, *more, **options):
    """One study a side."""
    return compare_sides([base], [new], *more, **options)


@pytest.fixture
def made(tmp_path):
    return lambda levels, *more, **changes: study(tmp_path, levels, *more, **changes)


@pytest.fixture
def places(tmp_path):
    def write(name, results):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(plain(results)))
        return str(folder)

    return write


def kinds(compared):
    return [warning.kind for warning in compared.warnings]


@pytest.mark.parametrize(("device", "advised"), [("cuda", True), ("cpu", False)])
def test_a_cuda_graph_is_advised_if_the_device_has_them(made, device, advised):
    more = {"sd": 0.4, "settings": Settings(device=device), "noise_class": NoiseClass.LAUNCH_BOUND}
    (cell,) = compare(made([1000], **more), made([1000], seed=9, place="b", **more)).cells
    assert (cell.remedy is Remedy.USE_CUDA_GRAPH) == advised
    assert ("cuda_graph: true" in cell.hint) == advised


def test_slower_faster_and_same(made):
    compared = compare(made([1000, 1000, 1000]), made([900, 1100, 1000], seed=50, place="b"))
    assert [cell.verdict for cell in compared.cells] == [Verdict.SLOWER, Verdict.FASTER, Verdict.SAME]
    first = compared.cells[0]
    assert first.effect == pytest.approx(-0.1, abs=0.01)
    assert first.interval[0] < first.effect < first.interval[1] < 0


def test_the_interval_is_that_of_two_independent_groups(made):
    base, new = made([1000, 1000]), made([990, 1000], seed=50, place="b")
    cell = compare(base, new).cells[0]
    logs = [np.log([run.throughput_samples_s for run in one.cells[0].runs]) for one in (new, base)]
    low, high = stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    assert cell.interval == pytest.approx((np.expm1(low), np.expm1(high)))


def test_other_machines_are_refused_by_name_unless_forced(made):
    base, other = made([1000]), made([1000], replace(FACTS, gpus="H200 GPU-2"), place="b")
    with pytest.raises(StudyError, match="the GPUs were H100 GPU-1, are H200 GPU-2"):
        compare(base, other)
    (warning,) = compare(base, other, force=True).warnings
    assert (warning.kind, warning.change) == (ComparisonWarningKind.HOST_DIFFERS, GPUS)


def test_other_software_is_reported_and_compared(made):
    compared = compare(made([1000]), made([1000], replace(FACTS, torch="2.13", host="b"), place="b"))
    assert [warning.change.fact for warning in compared.warnings] == ["torch"]


def test_another_device_is_incomparable():
    (change,) = host_differences("cuda", FACTS, "cpu", FACTS).incomparable
    assert (change.fact, change.before, change.after) == ("device", "cuda", "cpu")


def test_a_study_against_itself_is_reported_and_has_no_direction(made):
    one = made([1000])
    compared = compare(one, one)
    assert kinds(compared) == [ComparisonWarningKind.SAME_STUDY]
    assert (compared.cells[0].verdict, compared.cells[0].effect) == (Verdict.SAME, 0)
    assert kinds(compare(one, made([1000], place="b"))) == []


def test_a_single_run_against_itself_has_no_interval(made):
    one = made([1000], repeats=1)
    (cell,) = compare(one, one).cells
    assert (cell.verdict, cell.effect, cell.interval) == (Verdict.UNDECIDED, 0, None)


def test_a_study_without_fingerprint_is_reported(made):
    nothing = Fingerprint()
    compared = compare(made([1.0], nothing), made([1.0], nothing, place="b"))
    assert ComparisonWarningKind.NO_FINGERPRINT in kinds(compared)


def test_cells_without_a_counterpart_are_named(made):
    compared = compare(made([1.0, 1.0, 1.0]), made([1.0, 1.0], place="b"))
    assert len(compared.cells) == 2
    assert [(warning.kind, warning.cell) for warning in compared.warnings] == [
        (ComparisonWarningKind.ONLY_IN_BASE, "pipeline_gpu0_numa2_vit0x0x0")
    ]
    with pytest.raises(StudyError, match="no cell"):
        compare(made([1.0]), with_cell(made([1.0], place="b"), 0, key="another"))


def test_few_cells_in_common_are_said_first(made):
    base = made([100.0] * 9, place="a")
    compared = compare(base, replace(made([100.0] * 12, place="b"), cells=made([100.0] * 12, place="b").cells[7:]))
    assert compared.warnings[0].kind is ComparisonWarningKind.FEW_IN_COMMON
    assert compared.warnings[0].text.startswith("only 2 cells in common, of 9 in BASE and 5 in NEW")
    lines = compare_module._as_text(compared).splitlines()
    assert lines[0] == f"warning: {compared.warnings[0].text}"
    assert lines[1].startswith("warning: only in BASE: pipeline_gpu0_numa0_vit0x0x0, ") and lines[1].endswith("2 more")
    assert lines[2].count("numa") == 3
    half = compare(base, replace(base, run_directory="other", cells=base.cells[:5]))
    assert ComparisonWarningKind.FEW_IN_COMMON not in [warning.kind for warning in half.warnings]


def test_program_that_changed_is_compared_with_a_warning(made):
    def of(place, digest, name="py-make"):
        model = Model(patch_size=0, depth=0, dim=0, heads=0, source="python:a:make", sha256=digest * 64, name=name)
        return with_cell(made([1.0], place=place), 0, key=digest, model=model)

    compared = compare(of("b", "a"), of("c", "b"))
    (cell,) = compared.cells
    assert [(warning.kind, warning.cell) for warning in compared.warnings] == [
        (ComparisonWarningKind.PROGRAM_DIFFERS, cell.name)
    ]
    assert "is another one in NEW" in compared.warnings[0].text
    assert compare(of("d", "a"), of("e", "a")).warnings == ()
    with pytest.raises(StudyError, match="no cell"):
        compare(of("f", "a"), of("g", "b", name="other"))


def test_cells_listed_twice_are_compared_by_occurrence(made):
    base = with_cell(made([1000, 500]), 1, key="k", occurrence=1)
    base = with_cell(base, 0, key="k")
    compared = compare(base, replace(base, cells=base.cells[::-1], run_directory="other"))
    assert [cell.verdict for cell in compared.cells] == [Verdict.SAME, Verdict.SAME]


def test_a_failed_cell_has_its_reason(made):
    new = made([1000], place="b")
    failed = with_cell(new, 0, runs=(), outcome=Outcome.CRASHED, reason="killed by SIGSEGV", throughput_samples_s=None)
    (cell,) = compare(made([1000]), failed).cells
    assert (cell.verdict, cell.effect, cell.new_outcome) == (None, None, Outcome.CRASHED)
    assert "killed by SIGSEGV" in cell.text


def test_the_command_prints_text_json_and_csv(made, places):
    base = places("base", made([1000, 1000]))
    new = places("new", made([900, 1000], seed=50, place="b"))
    text, code = compare_command([base], [new])
    assert code == 3 and "pipeline_gpu0_numa0_vit0x0x0  SLOWER" in text
    compared = json.loads(compare_command([base], [new], "json")[0])
    assert {"name", "verdict", "effect", "interval"} <= compared["cells"][0].keys()
    rows = list(csv.DictReader(io.StringIO(compare_command([base], [new], "csv")[0])))
    assert [row["verdict"] for row in rows] == ["SLOWER", "SAME"]
    assert float(rows[0]["low"]) < float(rows[0]["effect"]) < float(rows[0]["high"])
    assert compare_command([new], [new])[1] == 0


def test_results_from_a_directory_and_from_its_file(made, places):
    folder = places("base", made([1000]))
    from pathlib import Path

    assert results_at(Path(folder)) == results_at(Path(folder, "results.json"))


def test_a_directory_without_results_is_read_from_its_records(tmp_path):
    path = build_run_directory(tmp_path / "run", "quick_test")
    assert len(results_at(path).cells) == 3


@pytest.mark.parametrize(
    ("content", "what"), [("[]", "cannot be used"), ('{"cells": [{}]}', "cannot be used"), ("{", "cannot be used")]
)
def test_a_file_that_is_not_results_is_refused(tmp_path, content, what):
    (tmp_path / "results.json").write_text(content)
    for place in (tmp_path, tmp_path / "results.json"):
        with pytest.raises(StudyError, match=what):
            results_at(place)


def test_a_missing_place_is_refused(tmp_path):
    with pytest.raises(StudyError, match="no results here"):
        results_at(tmp_path / "absent")


def test_one_of_many_cells_needs_more_than_chance(made):
    base, new = made([1000] * 12), made([1000] * 11 + [994], seed=50, place="b", sd=0.004)
    compared = compare(base, new, Rules(margin=0.0005))
    slower = [cell for cell in compared.cells if cell.verdict is Verdict.SLOWER]
    assert slower and not any(cell.headline for cell in slower)
    # Those of latency and steadiness count too.
    assert all(re.search(r"among (\d+) comparisons this may be chance", cell.text) for cell in slower)


def test_spreads_that_differ_are_not_shared(made):
    quiet, wild = made([1000], repeats=20, sd=0.001), made([1000], seed=5, place="b", repeats=3, sd=0.06)
    (cell,) = compare(quiet, wild).cells
    assert cell.interval[1] - cell.interval[0] > 0.1


def test_chance_differences_do_not_fail_the_command(made, places):
    codes = [
        compare_command(
            [places(f"base{seed}", made([1000] * 24, seed=1000 * seed, sd=0.01))],
            [places(f"new{seed}", made([1000] * 24, seed=1000 * seed + 500, sd=0.01, place="b"))],
        )[1]
        for seed in range(1, 9)
    ]
    assert codes.count(3) == 0


def test_another_design_is_reported_and_compared(tmp_path):
    overrides = {"gpu_ids": [0], "numa_nodes": [0, 1], "models": ["vit16x8x768"]}
    topology = topology_json(1, (0,), 2)
    old = build_run_directory(tmp_path / "old", "numa_locality_study", overrides, topology=topology)
    fresh = build_run_directory(
        tmp_path / "new", "numa_locality_study", overrides, topology=topology, crossed=crossed_process(0.01)
    )
    compared = compare(results_at(old), results_at(fresh))
    assert kinds(compared) == [ComparisonWarningKind.DESIGN_DIFFERS]
    assert all(cell.interval for cell in compared.cells)
    assert kinds(compare(results_at(fresh), results_at(fresh))) == [ComparisonWarningKind.SAME_STUDY]


def afternoons(made, level, *, shifts, seed, **more):
    """Studies of one cell, at times that differ by these shifts."""
    return [
        made([level * math.exp(shift)], seed=seed + 10 * at, place=f"{seed}{at}", **more)
        for at, shift in enumerate(shifts)
    ]


def test_several_studies_a_side_are_compared_by_study(made):
    base = afternoons(made, 1000, shifts=(0.0, 0.015, -0.01), seed=1)
    new = afternoons(made, 1000, shifts=(0.012, 0.016, 0.02), seed=7)
    one, three = compare(base[0], new[2]), compare_sides(base, new)
    assert (one.cells[0].verdict, three.cells[0].verdict) == (Verdict.FASTER, Verdict.NOT_RESOLVABLE)
    means = [[np.log(cell.throughput_samples_s) for study in side for cell in study.cells] for side in (new, base)]
    low, high = stats.ttest_ind(*means, equal_var=False).confidence_interval()
    assert three.cells[0].interval == pytest.approx((np.expm1(low), np.expm1(high)), rel=1e-3)
    assert (three.base_studies, three.new_studies, three.cells[0].pairs, three.cells[0].runs) == (3, 3, 3, 18)
    assert "3 studies of BASE and 3 of NEW" in three.unit and "at another time" in one.unit
    assert "studies a side would" in three.cells[0].text and "--base" in three.cells[0].hint


def test_loss_larger_than_what_times_differ_by_is_found_by_study(made, places):
    sides = [
        [places(f"{level}{at}", one) for at, one in enumerate(afternoons(made, level, shifts=(0, 0.002), seed=level))]
        for level in (1000, 900)
    ]
    text, code = compare_command(*sides)
    assert code == 3 and "SLOWER" in text
    done = CliRunner().invoke(main, ["compare", sides[0][0], sides[1][0], "--base", sides[0][1], "--new", sides[1][1]])
    assert done.exit_code == 3 and done.output.rstrip() == text


def test_means_of_studies_that_agree_by_chance_hide_no_runs(made):
    quiet = (0.0, 0.0)
    base, new = (afternoons(made, 1000, shifts=quiet, seed=seed, sd=0.03) for seed in (1, 50))
    (cell,) = compare_sides(base, new).cells
    assert cell.pairs == 12 and cell.interval[1] - cell.interval[0] > 0.02


def test_cell_of_one_study_a_side_has_no_interval_among_several(made):
    base = [made([1000, 1000], place="a"), made([1000], seed=5, place="b")]
    new = [made([1000, 900], seed=9, place="c"), made([1000], seed=15, place="d")]
    both, single = compare_sides(base, new).cells
    assert both.interval and single.interval is None
    assert "from one study, which has no spread" in single.text


def test_study_that_is_listed_twice_on_a_side_is_refused(made):
    one, other = made([1000]), made([1000], place="b")
    with pytest.raises(StudyError, match="listed twice"):
        compare_sides([one, one], [other])


@pytest.mark.parametrize(("runs", "level", "code"), [(5, 900, 0), (6, 900, 3), (3, 400, 3)])
def test_exit_3_needs_six_runs_a_side_or_a_factor_of_two(made, places, runs, level, code):
    base, new = made([1000], repeats=runs), made([level], repeats=runs, seed=50, place="b")
    text, found = compare_command([places("base", base)], [places("new", new)])
    assert found == code and ("6 would show" in text) == (code == 0)


def test_processes_of_both_births_count_between_crossed_studies(tmp_path):
    overrides = {"gpu_ids": [0], "numa_nodes": [0, 1], "models": ["vit16x8x768"]}
    topology = topology_json(1, (0,), 2)
    one, two = (
        build_run_directory(
            tmp_path / name, "numa_locality_study", overrides, topology=topology, crossed=crossed_process(0.01)
        )
        for name in ("one", "two")
    )
    assert [cell.runs for cell in compare(results_at(one), results_at(two)).cells] == [6, 6]
