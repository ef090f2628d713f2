"""The time that compiling takes and when its gain has made up for it, on made-up comparisons."""

import pytest

from bench.report.text.axes import compile_cost, compile_lines, payback_s
from tests.report import made

CELLS = {
    name: made.cell(name, compile_s=compile_s)
    for name, compile_s in {
        "eager": None,
        "compiled": {"least": 2.0, "most": 12.0},
        "tuned": {"least": 3.0, "most": 90.3},
        "cached": {"least": 1.0, "most": 2.0},
    }.items()
}


def line(name, effect, verdict="FASTER", *, mode=None, base="eager", model="vit32x2x128", **changes):
    mode = mode or {"compiled": "default", "tuned": "max-autotune"}.get(name, "default")
    return made.line(name, {"compile_model": mode}, effect, verdict, base_cell=base, model=model, **changes)


def entry(*lines, base="off"):
    return made.axis(*lines, base={"compile_model": base})


@pytest.mark.parametrize(("effect", "after_s"), [(1.0, 24.0), (0.5, 36.0), (0.02, 612.0)])
def test_after_the_payback_both_have_done_the_same_work(effect, after_s):
    assert payback_s(line("compiled", effect), 12.0) == pytest.approx(after_s)
    # The base works all the time, the other one only once it has compiled.
    assert (after_s - 12.0) * (1 + effect) == pytest.approx(after_s)


def test_only_a_faster_cell_pays_back():
    for verdict, effect in (("UNDECIDED", 0.3), ("SAME", 0.001), ("SLOWER", -0.1)):
        assert payback_s(line("compiled", effect, verdict), 12.0) is None
    assert compile_cost(line("compiled", -0.1, "SLOWER"), CELLS) == "compiled in 2.0 s to 12 s"


def test_only_the_difference_counts_when_the_base_compiles_too():
    assert compile_cost(line("tuned", 1.0, base="compiled"), CELLS).endswith("after 2 min 37 s of work")
    assert compile_cost(line("compiled", 1.0, base="tuned"), CELLS) == "compiled in 2.0 s to 12 s"


def test_the_longest_compilation_of_a_model_counts_everywhere():
    """The first place has no cache yet; on the second the same model compiles in a moment."""
    lines = line("compiled", 1.0), line("cached", 1.0)
    (text,) = compile_lines(entry(*lines), CELLS)
    assert text.endswith("after 24 s (vit32x2x128) of work")


def test_a_probable_gain_does_not_pay_back():
    probable = line("compiled", 1.0, headline=False)
    assert compile_lines(entry(probable), CELLS) == ["compiling with default took 2.0 s to 12 s a run"]


def test_each_mode_has_a_line_with_its_ends_over_the_models():
    lines = line("compiled", 1.0), line("compiled", 0.02, model="vit16x12x1024"), line("tuned", -0.1, "SLOWER")
    assert compile_lines(entry(*lines), CELLS) == [
        "compiling with default took 2.0 s to 12 s a run; the gain makes up for the longest after "
        "24 s (vit32x2x128) to 10 min (vit16x12x1024) of work",
        "compiling with max-autotune took 3.0 s to 1 min 30 s a run",
    ]


def test_a_base_that_was_compiled_has_its_line_too():
    texts = compile_lines(entry(line("tuned", 1.0, base="compiled"), base="default"), CELLS)
    assert [text.split(" took ")[0] for text in texts] == ["compiling with default", "compiling with max-autotune"]


def test_other_axes_and_eager_cells_have_none():
    assert compile_lines(made.axis(base={"dtype": "fp32"}), CELLS) == []
    eager = line("eager", 1.0)
    assert compile_lines(entry(eager), CELLS) == [] and compile_cost(eager, CELLS) == ""
    # Both sides are compiled: they differ in which one found the cache.
    assert compile_cost(made.line("compiled", {"dtype": "bf16"}, 1.0, "FASTER", base_cell="eager"), CELLS) == ""
