"""What compiling takes and when it has paid, on made-up comparisons."""

import pytest

from bench.report.axes import compiling_lines, cost_of_compiling, paid_back_s

CELLS = {
    "eager": {"compile_s": None},
    "compiled": {"compile_s": {"least": 2.0, "most": 12.0}},
    "tuned": {"compile_s": {"least": 3.0, "most": 90.3}},
}


def line(name, effect, verdict="FASTER", *, base="eager", model="vit32x2x128"):
    mode = {"compiled": "default", "tuned": "max-autotune"}[name]
    told = {"name": name, "base_cell": base, "effect": effect, "verdict": verdict, "model": model}
    told["headline"] = verdict in ("FASTER", "SLOWER")
    return told | {"value": {"compile_model": mode}}


def entry(*lines, base="off"):
    values = dict.fromkeys([base, *(one["value"]["compile_model"] for one in lines)])
    keys = {"keys": ["compile_model"], "base": {"compile_model": base}}
    return keys | {"values": [{"compile_model": value} for value in values], "lines": list(lines)}


@pytest.mark.parametrize(("effect", "after_s"), [(1.0, 24.0), (0.5, 36.0), (0.02, 612.0)])
def test_after_so_much_work_both_have_done_as_much(effect, after_s):
    assert paid_back_s(line("compiled", effect), 12.0) == pytest.approx(after_s)
    # In that time the base works all along, and the other one only once it has compiled.
    assert (after_s - 12.0) * (1 + effect) == pytest.approx(after_s)


def test_what_is_not_surely_faster_pays_nothing_back():
    for verdict, effect in (("UNDECIDED", 0.3), ("SAME", 0.001), ("SLOWER", -0.1)):
        assert paid_back_s(line("compiled", effect, verdict), 12.0) is None
    assert cost_of_compiling(line("compiled", -0.1, "SLOWER"), CELLS) == "compiled in 2.0 s to 12.0 s"


def test_against_a_base_that_compiles_too_only_the_difference_is_to_be_paid():
    assert cost_of_compiling(line("tuned", 1.0, base="compiled"), CELLS).endswith("after 2 min 37 s of work")
    assert cost_of_compiling(line("compiled", 1.0, base="tuned"), CELLS) == "compiled in 2.0 s to 12.0 s"


def test_the_longest_compilation_of_a_model_stands_for_all_its_places():
    """The first place has no cache yet; on the second the same model compiles in a moment."""
    cached = {"compile_s": {"least": 1.0, "most": 2.0}}
    lines = line("compiled", 1.0), line("compiled", 1.0) | {"name": "cached"}
    (told,) = compiling_lines(entry(*lines), CELLS | {"cached": cached})
    assert told.endswith("after 24.0 s (vit32x2x128) of work")


def test_only_what_holds_after_correction_has_paid():
    probable = line("compiled", 1.0) | {"headline": False}
    assert compiling_lines(entry(probable), CELLS) == ["compiling with default took 2.0 s to 12.0 s a run"]


def test_one_line_a_mode_with_its_ends_over_the_models():
    lines = line("compiled", 1.0), line("compiled", 0.02, model="vit16x12x1024"), line("tuned", -0.1, "SLOWER")
    assert compiling_lines(entry(*lines), CELLS) == [
        "compiling with default took 2.0 s to 12.0 s a run; the gain makes up for the longest after "
        "24.0 s (vit32x2x128) to 10 min (vit16x12x1024) of work",
        "compiling with max-autotune took 3.0 s to 1 min 30 s a run",
    ]


def test_a_base_that_was_compiled_has_its_line_too():
    told = compiling_lines(entry(line("tuned", 1.0, base="compiled"), base="default"), CELLS)
    assert [text.split(" took ")[0] for text in told] == ["compiling with default", "compiling with max-autotune"]


def test_other_axes_and_eager_cells_have_none():
    assert compiling_lines({"keys": ["dtype"], "base": {"dtype": "fp32"}, "values": [], "lines": []}, CELLS) == []
    eager = line("compiled", 1.0) | {"name": "eager"}
    assert compiling_lines(entry(eager), CELLS) == [] and cost_of_compiling(eager, CELLS) == ""
    # Both sides are compiled: the difference is who met the cache.
    assert cost_of_compiling(line("compiled", 1.0) | {"value": {"dtype": "bf16"}}, CELLS) == ""
