from msgspec.structs import replace

from bench.analysis.noise_floor import evaluate
from bench.report.text.fill import self_check_with_text, with_text
from tests.analysis.cells import made_cell, noisy
from tests.report.made import RULES


def test_every_entry_has_its_text(placed_view):
    results = with_text(placed_view.results)
    assert all(cell.text for cell in results.cells)
    assert all(
        entry.text and all(effect.text for effect in (entry.effects or {}).values()) for entry in results.penalties
    )
    for entry in results.comparisons:
        assert all(line.text for line in entry.lines)
        assert all(value.text and all(model.text for model in value.models) for value in entry.summary)
    assert all(entry.text for entry in results.hidden_copies)


def test_text_changes_no_value(placed_view):
    results = placed_view.results
    filled = with_text(results)
    assert [replace(cell, text="", remarks=()) for cell in filled.cells] == [
        replace(cell, text="", remarks=()) for cell in results.cells
    ]
    assert with_text(filled) == filled


def test_a_self_check_lists_differences_and_spreads():
    cells = [
        made_cell(noisy(level, seed=seed), name=name) for seed, (name, level) in enumerate([("a", 100), ("b", 120)])
    ]
    found = self_check_with_text(evaluate(cells), RULES)
    first, name, spread = found.text.splitlines()
    assert first == "1 of 1 comparisons of a cell with itself show a difference" and name == "  b / a"
    assert spread.startswith("vit32x2x128 on GPU 0, node 0: 0.") and "between 12 processes (upper 80 % bound" in spread
    assert found.comparisons[0].text.endswith(" %")
