from msgspec.structs import replace

from bench.records.results import HiddenCopies
from bench.report.sections import bound_rows, cell_columns, cell_rows, clock_rows, crossings, prediction_rows, run_times
from bench.report.view import View
from tests.report.made import cell, changed, results, with_cell


def test_the_largest_term_is_marked_and_the_copy_state_shown(placed_view):
    rows = {row["cell"]: row for row in bound_rows(placed_view)}
    assert len(rows) == len(placed_view.results.cells)
    for name, copy, largest in (
        ("vit0x0x0", "exposed", 0),
        ("vit32x2x128", "CPU sets the pace", 3),
        ("vit16x8x768", "hidden", 1),
    ):
        row = rows[f"pipeline_gpu0_numa0_{name}"]
        assert row["copy_state"] == copy
        assert [marked for _, marked in row["terms"]] == [at == largest for at in range(5)]


def test_an_impossible_efficiency_is_a_dash_with_its_reason(placed_view):
    first = placed_view.results.cells[0]
    bound = replace(first.bound, efficiency=None, bound_us=1.4 * first.bound.batch_us)
    row = bound_rows(with_cell(placed_view, first.name, efficiency_solo=None, bound=bound))[0]
    assert row["solo"] == "–" and "took 1.40 times as long" in row["reason"]


def test_clocks_are_shown_as_differences(placed_view):
    row = clock_rows(placed_view)[0]
    assert row["host"].startswith("+") and row["text"] == "all agree" and not row["disagree"]


def test_predictions_are_beside_the_observed_penalty(placed_view):
    row = next(row for row in prediction_rows(placed_view) if row["model"] == "vit0x0x0")
    assert row["node"] == "CPU 0, memory 1" and " to " in row["bracket"] and "±" in row["observed"] and row["agrees"]


def test_only_models_of_several_batch_sizes_have_a_crossing(placed_view):
    assert crossings(placed_view) == []
    names = tuple(cell.name for cell in placed_view.results.cells[:2])
    group = HiddenCopies(cells=names, computes=True, batch_size=30.0, hidden=(10,), exposed=(50,), cpu_paced=())
    (crossing,) = crossings(changed(placed_view, hidden_copies=(group,)))
    assert crossing[:2] == ("vit0x0x0, GPU 0, node 0", names[0]) and "batch 30" in crossing[2]


def test_run_times_add_up_to_the_time_in_runs(placed_view):
    rows = run_times(placed_view)
    assert [row["model"] for row in rows] == list(placed_view.by_series(placed_view.results.cells))
    assert sum(row["runs"] for row in rows) == sum(len(cell.runs) for cell in placed_view.results.cells)
    assert all(row["timed"].endswith(" s") and row["traced"].endswith(" s") for row in rows)


def test_a_model_without_runs_has_dashes(placed_view):
    (row,) = run_times(View(results((cell(),))))
    assert (row["runs"], row["timed"], row["traced"], row["total"]) == (0, "–", "–", "0 s")


def test_waited_is_a_column_if_batches_were_prepared(placed_view):
    assert "waited" not in cell_columns(placed_view)
    first, second, *_ = placed_view.results.cells
    prepared = with_cell(placed_view, first.name, waited_share=0.125)
    column = cell_columns(prepared).index("waited")
    shown = {row["cell"]: row["numbers"][column] for row in cell_rows(prepared)}
    assert (shown[first.name], shown[second.name]) == ("12 %", "–")
