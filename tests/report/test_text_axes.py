"""Sentences about the values of a swept axis."""

import pytest
from msgspec.structs import replace

from bench.records.results import AxisState, UndecidedReason
from bench.report.text.axes import axis_name, axis_title, findings, summary_text, what_matters
from tests.report import made


def line(model, effect, verdict="FASTER", half=0.01, *, setting=None, value="bf16", headline=None, interval=True):
    significant = verdict in ("FASTER", "SLOWER") if headline is None else headline
    ends = (effect - half, effect + half) if effect is not None and interval else None
    settings = setting or {}
    return made.line(
        f"{model}_{value}_{settings}", {"dtype": value}, effect, verdict, model=model, interval=ends,
        headline=significant, settings=settings,
    )  # fmt: skip


def entry(*lines, values=()):
    return made.axis(*lines, base={"dtype": "fp32"}, values=[{"dtype": value} for value in values] or None)


def texts(*lines, values=()):
    found = entry(*lines, values=values)
    return [summary_text(found, one) for one in found.summary]


def test_names_the_largest_first_and_the_same_together():
    lines = line("a", 0.1), line("b", 0.5), line("c", 0.001, "SAME"), line("d", 0.002, "SAME", 0.003)
    assert texts(*lines) == ["dtype bf16: b +50.0 % [49.0, 51.0]; a +10.0 % [9.0, 11.0]; c and d SAME within 1.1 %"]


def test_combinations_of_one_model_are_a_range():
    assert texts(line("a", 0.1), line("a", 0.5)) == ["dtype bf16 (over 2 combinations): a +10 % to +50 %"]


def test_a_range_over_settings_names_its_ends():
    lines = line("a", 0.02), line("a", 3.5, setting={"batch_size": 1}), line("a", 0.4, setting={"batch_size": 4})
    assert texts(*lines) == ["dtype bf16 (over 3 combinations): a × 1.02 (base) to 4.5 (bs1)"]


def test_an_undecided_line_is_no_end_of_a_range():
    graph = line("a", 7.9, setting={"cuda_graph": True})
    expected = "dtype bf16 (over 2 combinations): a × 8.90 [8.89, 8.91] in graph, undecided in base"
    assert texts(graph, line("a", 3.4, "UNDECIDED")) == [expected]
    assert texts(graph, line("a", 0.001, "SAME"))[0].endswith("in graph, SAME in base")
    # Lines of the same setting on several nodes differ only in their numbers.
    undecided = line("a", 7.9, "UNDECIDED", setting={"cuda_graph": True})
    assert texts(graph, undecided, graph)[0].endswith("a × 8.9, undecided in 1 of 3")
    probable = line("a", 7.9, setting={"cuda_graph": True}, headline=False)
    text = texts(probable, line("a", 3.4, "UNDECIDED"))[0]
    assert text.endswith("probably a × 8.90 [8.89, 8.91] in graph, undecided in base")


def test_an_undecided_range_names_its_ends_too():
    lines = [
        line("a", effect, "UNDECIDED", setting=setting)
        for effect, setting in ((0.02, None), (3.5, {"batch_size": 1}), (0.4, {"batch_size": 4}))
    ]
    assert texts(*lines)[0].endswith("undecided: a × 1.02 (base) to 4.5 (bs1)")


def test_a_value_that_was_not_measured_is_named():
    found = texts(line("a", 0.1), line("a", None, None, value="fp16"), values=("bf16", "fp16"))
    assert found[1] == "dtype fp16: a not measured"


def test_many_different_models_are_a_range():
    found = texts(*(line(f"m{number}", 0.1 * number) for number in range(1, 8)))
    assert found == ["dtype bf16: 7 models +10 % to +70 % (m1 to m7)"]


def test_many_undecided_models_are_a_range():
    found = texts(*(line(f"m{number}", 0.01 * number, "UNDECIDED") for number in range(1, 7)))
    assert found == ["dtype bf16: undecided: 6 models +1.0 % to +6.0 %"]


def test_states_why_an_effect_is_undecided():
    once = line("a", -0.46, "UNDECIDED", interval=False)
    assert texts(once) == ["dtype bf16: a −46 % in one pair"]
    lines = once, line("b", 0.2, "FASTER", headline=False), line("c", 0.03, "UNDECIDED", 0.05)
    assert texts(*lines) == [
        "dtype bf16: probably b +20.0 % [19.0, 21.0]; undecided: c +3 % [−2, 8]; a −46 % in one pair"
    ]


@pytest.mark.parametrize(("axis", "name"), [
    ("cuda_graph", "CUDA graph"), ("concurrent_gpus", "concurrent GPUs"), ("depth, dim", "depth and dim"),
])  # fmt: skip
def test_axes_have_readable_names(axis, name):
    assert axis_name(axis) == name


@pytest.mark.parametrize(("axis", "reason", "title"), [
    ("buffers", UndecidedReason.ONE_PAIR, "Buffers were measured once, against fp32: uncertainty unknown"),
    ("dtype", UndecidedReason.NOISE,
     "Dtype is undecided, against fp32: at most 21.0 % either way (95 %), from 6 pairs a comparison"),
    ("dtype", UndecidedReason.PROBABLE,
     "Dtype differs in 1 of 2 comparisons, against fp32, but in none beyond the noise after correction for their "
     "number"),
])  # fmt: skip
def test_a_title_states_why_an_axis_is_undecided(axis, reason, title):
    lines = line("a", 0.2, headline=False), line("b", 0.1, "UNDECIDED")
    changes = {"axis": axis, "state": AxisState.UNDECIDED, "undecided_reason": reason}
    found = made.axis(*lines, base={"dtype": "fp32"}, **changes)
    assert axis_title(found) == title
    (finding,) = findings([found], {})
    assert finding.lead == title and len(finding.lines) == 1 and finding.lines[0].startswith("dtype bf16")


def test_an_axis_without_effect_has_its_bound_in_the_title():
    same = entry(line("a", 0.001, "SAME", 0.003))
    matters = made.axis(line("a", 0.5), base={"dtype": "fp32"}, axis="cuda_graph")
    found = findings([same, matters], {})
    assert what_matters(found) == "What matters: CUDA graph. What does not: dtype."
    assert found[1].lead == "Dtype does not matter: no difference above 0.4 %, against fp32"


def test_a_title_states_that_no_value_was_measured():
    lines = line("a", None, None), line("b", None, None)
    found = made.axis(*lines, base={"dtype": "fp32"}, state=AxisState.NOT_MEASURED)
    assert axis_title(found) == "Dtype was not measured, against fp32"


def test_title_names_a_comparison_inside_the_same_process():
    inside = [replace(line("a", effect), design="crossing") for effect in (0.2, 0.3)]
    assert axis_title(entry(*inside)) == "Dtype matters, against fp32, in the same process"
    between = [*inside, line("b", 0.2)]
    assert axis_title(entry(*between)) == "Dtype matters, against fp32"
    undecided = [replace(line("a", 0.01, "UNDECIDED"), design="crossing")]
    assert "from 6 processes a comparison" in axis_title(entry(*undecided))
