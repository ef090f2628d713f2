"""The first sentence of a study that is not about nodes."""

import pytest
from msgspec.structs import replace

from bench.analysis.load import load
from bench.records.run import Outcome
from bench.report.build import build_results, make_report
from bench.report.text.headline import best_settings, headline
from bench.report.view import View
from tests.report import made
from tests.report.test_text_fastest import BASE, COMPILED, GRAPH, entry
from tests.run_directories import build_run_directory, crossed_process, topology_json

TWINS = {"models": ["vit0x0x0", "vit0x0x0", "vit32x2x128", "vit32x2x128"]}
ONE_GPU = topology_json(gpus=1, near=(0,), nodes=1)


def view_of(run):
    return View(build_results(load(run), "test"))


def test_a_quick_test_says_that_everything_works_and_what_was_not_tried(quick_run):
    found = headline(view_of(quick_run))
    assert (found.title, found.state) == ("Yes: all 3 cells were measured", "good")
    assert found.lines == (
        "6 of 6 runs ended well. Where threads and memory were is proved for 6 of them. "
        "3 traces of 3 cells could be read. "
        "No GPU was used: CUDA, copies over a link and their traces remain to be tried on a host with one.",
    )
    assert (found.rows[0].label, found.rows[0].verdict) == ("vit0x0x0", "ok")
    assert found.heads == ("samples/s",) and found.badge == "outcome"


def test_a_quick_test_on_a_gpu_names_nothing_untried(tmp_path):
    (line,) = headline(view_of(build_run_directory(tmp_path / "run", "quick_test", topology=ONE_GPU))).lines
    assert "No GPU was used" not in line


def test_a_placement_that_is_not_proved_is_no_yes(quick_run):
    view = view_of(quick_run)
    found = headline(made.changed(view, trust=replace(view.results.trust, proved=5)))
    assert found.title == "All 3 cells were measured, but not every run has a proved placement"
    assert found.state == "warn" and "proved for 5 of them" in found.lines[0]


def test_what_failed_comes_first_with_what_to_do(tmp_path):
    failure = {"status": "oom", "reason": "CUDA out of memory", "advice": "reduce batch_size", "log_tail": []}
    failures = {f"pipeline_gpu0_numa0_vit32x4x512_{repeat}": failure for repeat in (1, "traced")}
    run = build_run_directory(tmp_path / "run", "quick_test", topology=ONE_GPU, failures=failures)
    found = headline(view_of(run))
    assert (found.title, found.state) == ("No: 1 of 3 cells could not be measured", "warn")
    assert found.lines[0] == "1 cell oom: CUDA out of memory. To do: reduce batch_size."
    assert (found.rows[0].label, found.rows[0].verdict) == ("vit32x4x512", Outcome.OOM)


def test_a_study_that_goes_on_claims_nothing(quick_run):
    for record in (quick_run / "runs").glob("*vit32x4x512*"):
        record.unlink()
    found = headline(view_of(quick_run))
    assert (found.title, found.state) == ("Not known yet: 2 of 3 cells complete so far", "plain")


def test_a_self_check_says_how_large_no_difference_is(tmp_path):
    run = build_run_directory(tmp_path / "run", "self_check", TWINS, topology=ONE_GPU, crossed=crossed_process())
    found = headline(view_of(run))
    assert (found.title, found.state) == ("Two cells with the same settings differ by at most 0.3 % (95 %)", "good")
    assert found.lines[0].startswith("2 of 2 comparisons of a cell with itself are SAME within 2 %.")
    assert [(row.label, row.verdict) for row in found.rows] == [("vit0x0x0", "SAME"), ("vit32x2x128", "SAME")]
    assert found.rows[0].numbers == ("0.0 % ± 0.2 %", "1.4 %")
    page = make_report(run, "test") and (run / "report.html").read_text()
    assert page.index("differ by at most") < page.index("One NUMA node")


def test_a_self_check_with_one_run_a_cell_knows_nothing(tmp_path):
    run = build_run_directory(tmp_path / "run", "self_check", TWINS | {"repeats": 1}, topology=ONE_GPU)
    found = headline(view_of(run))
    assert (found.title, found.state) == ("Not known from one run a cell: more repeats show it (--repeats)", "plain")


def test_a_false_difference_is_the_headline(tmp_path):
    run = build_run_directory(tmp_path / "run", "self_check", TWINS, topology=ONE_GPU, crossed=crossed_process())
    view = view_of(run)
    slow = {"pipeline_gpu0_numa0_vit0x0x0_again": 0.9}

    def slower(cell):
        factor = slow.get(cell.name, 1.0)
        runs = [
            replace(one, throughput_samples_s=one.throughput_samples_s * factor, crossing=None) for one in cell.runs
        ]
        return replace(cell, runs=tuple(runs))

    found = headline(made.changed(view, cells=tuple(map(slower, view.results.cells))))
    assert (found.title, found.state) == ("1 of 2 comparisons of a cell with itself shows a difference", "warn")


def test_studies_of_nodes_or_settings_have_no_headline(numa_results, placed_results):
    assert headline(View(numa_results)) is None and headline(View(placed_results)) is None


# The best settings


def best(*entries):
    cells = made.cell("base"), made.cell("graph", differing={"cuda_graph": True})
    (row,) = best_settings(View(made.results(cells, fastest=entries))).rows
    return row


def test_the_best_settings_have_one_verdict():
    row = best(entry())
    assert (row.label, row.numbers) == ("vit32x2x128", ("graph", "1,500", "+50.0 % [49.0, 51.0]"))
    assert (row.verdict, row.note) == ("FASTEST", "")


@pytest.mark.parametrize(
    ("changes", "verdict", "note"),
    [
        ({"rivals": [COMPILED]}, "FASTER", "not distinguishable from compiled"),
        ({"rivals": [BASE], "interval": (-0.01, 1.0)}, "UNDECIDED", "not distinguishable from base"),
        ({"rivals": [COMPILED], "base_cell": None, "effect": None, "interval": None}, "UNDECIDED",
         "not distinguishable from compiled"),
        ({"pairs": 1, "interval": None}, "UNDECIDED", "one pair: uncertainty unknown"),
    ],
)  # fmt: skip
def test_what_may_be_as_fast_is_named(changes, verdict, note):
    row = best(entry(**changes))
    assert (row.verdict, row.note) == (verdict, note)


def test_places_with_other_best_settings_leave_them_open():
    row = best(entry(effect=0.4), entry(mem_node=2), entry(COMPILED, gpu=1))
    assert row.numbers == ("graph", "1,500", "+40 % to +50 %")
    assert (row.verdict, row.note) == ("FASTER", "not distinguishable from compiled")


def test_a_gain_that_holds_at_some_places_only_is_probable():
    row = best(entry(rivals=[BASE]), entry(mem_node=2))
    assert (row.verdict, row.probable) == ("FASTER", True)
    assert row.note == "ahead of the base on 1 of 2 GPUs and nodes"
    assert not best(entry(rivals=[COMPILED]), entry(mem_node=2)).probable


def test_a_gain_that_only_its_own_interval_shows_is_probable():
    row = best(entry(rivals=[BASE, COMPILED]))
    assert (row.verdict, row.probable, row.note) == ("FASTER", True, "not distinguishable from compiled")


def test_the_studys_own_dtype_is_named_beside_another():
    bf16 = {"cell": "bf16", "settings": {"dtype": "bf16"}, "dtype": "bf16", "is_base": False}
    assert best(entry(bf16, same_dtype=entry(GRAPH))).note == "with fp32: graph"


def test_no_candidates_no_table():
    assert best_settings(View(made.results())) is None
