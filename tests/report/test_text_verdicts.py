import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.text.verdicts import effect_text, hint_text, line_text, tile_note, verdict_text
from tests.report import made

RULES = made.RULES


@given(
    st.floats(-0.9, 0.9), st.floats(1e-4, 0.9), st.floats(1e-4, 0.9),
    st.sampled_from(["few_repeats", "too_many_repeats_needed", "within_margin"]),
)  # fmt: skip
def test_no_sentence_contradicts_its_own_interval(penalty, below, above, reason):
    entry = made.penalty(penalty, reason=reason, interval=(penalty - below, penalty + above), repeats_needed=9)
    text = verdict_text(entry, penalty, RULES)
    numbers = re.search(r"([\d.]+) %( slower| faster|) \[(\S+), (\S+)\] %", text)
    effect, low, high = (float(numbers[at].replace("−", "-")) for at in (1, 3, 4))
    assert low <= effect <= high
    ends = low, high
    if bound := re.search(r"at most ([\d.]+) % slower", text):
        assert float(bound[1]) == (high if penalty >= 0 else -low) or (float(bound[1]) <= 1 and penalty < 0)
    elif "two tests" not in text:
        assert max(map(abs, ends)) <= 2


@pytest.mark.parametrize(
    ("penalty", "text"),
    [(0.0034, "0.34 % slower"), (-0.02, "2.0 % faster"), (0.13, "13 % slower"), (0.0, "no difference")],
)
def test_effects_have_a_direction(penalty, text):
    assert effect_text(penalty) == text


@pytest.mark.parametrize(
    ("penalty", "changes", "text"),
    [
        (0.005, {"reason": "within_margin", "interval": (0.0037, 0.0063)},
         "no difference larger than 2 %: 0.5 % slower [0.3, 0.7] %"),
        (0.011, {"reason": "within_margin", "interval": (0.001, 0.021)},
         "no difference larger than 2 % (two tests at 5 %): 1.1 % slower [0.1, 2.1] % (95 %)"),
        (0.037, {"reason": "few_repeats", "interval": (-0.026, 0.103), "repeats_needed": 9},
         "at most 11 % slower (95 %): 4 % slower [−3, 11] %; about 9 repeats would decide"),
        (-0.3, {"interval": (-0.32, -0.28)}, "30 % faster [28, 32] %"),
        (0.3, {"reason": "one_pair", "interval": None},
         "undecided: 30 % slower, from one pair, which has no spread"),
        (0.012, {"reason": "few_repeats", "interval": (-0.004, 0.028), "repeats_needed": 9},
         "at most 2.8 % slower (95 %): 1.2 % slower [−0.4, 2.8] %; about 9 repeats would decide"),
        (-1.64, {"reason": "few_repeats", "interval": (-50.0, 0.8), "repeats_needed": 6, "mde": 0.99, "pairs": 2},
         "at most 80 % slower (95 %): 164 % faster in 2 pairs, whose spread is hardly known; "
         "6 repeats would show more"),
        (0.012, {"reason": "too_many_repeats_needed", "interval": (-0.1, 0.12), "repeats_needed": 2831},
         "at most 12 % slower (95 %): 1 % slower [−10, 12] %; about 2,900 repeats would decide"),
        (0.2, {"reason": "uninformative", "interval": (-9.0, 0.9), "mde": 0.99},
         "at most 90 % slower (95 %): [−900, 90] %; with this noise a loss of nearly all could stay undetected"),
        (None, {"reason": "not_measured", "interval": None}, "not measured: no block has both runs"),
    ],
)  # fmt: skip
def test_each_reason_has_its_sentence(penalty, changes, text):
    entry = made.penalty(penalty, **changes)
    assert verdict_text(entry, penalty, RULES) == text


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"remedy": None}, ""),
        ({"remedy": "repeat", "reason": "one_pair", "repeats_needed": 3}, "measure at least 3 repeats (--repeats)"),
        ({"remedy": "repeat", "reason": "few_repeats", "repeats_needed": 9}, "--repeats 9, or --target-precision"),
        ({"remedy": "see_failed_runs"}, "see the failed runs"),
        ({"remedy": "use_cuda_graph"}, "cuda_graph: true"),
        ({"remedy": "reduce_launches"}, "raise batch_size"),
        ({"remedy": "reduce_cpu_work"}, "the CPU's work for each batch"),
        ({"remedy": "find_disturbance"}, "monitor"),
    ],
)
def test_each_remedy_has_its_hint(changes, hint):
    text = hint_text(made.penalty(**changes))
    assert (hint in text) and bool(hint) == bool(text)


def test_a_change_along_an_axis_is_worded_as_a_penalty():
    line = made.line("a", {"dtype": "bf16"}, 0.5, "FASTER", interval=(0.48, 0.53))
    assert line_text(line, RULES, {}) == "50 % faster [48, 53] %"


def test_a_line_without_runs_names_the_failed_cell():
    line = made.line("a", {"dtype": "bf16"}, failed_cell="base")
    failed = made.cell("base", outcome="bind_failed", reason="no permission")
    assert line_text(line, RULES, {"base": failed}) == "not compared: base bind failed: no permission"


@pytest.mark.parametrize(
    ("verdict", "changes", "note"),
    [
        ("SLOWER", {}, "20 % slower"),
        ("FASTER", {"penalty": -0.2, "interval": (-0.204, -0.196)}, "20.0 % faster"),
        ("SLOWER", {"headline": False}, "probably slower"),
        ("SAME", {}, "same"),
        ("UNDECIDED", {}, "undecided"),
        ("NOT RESOLVABLE", {}, "undecided"),
        ("UNDECIDED", {"interval": None}, "20 % slower"),
    ],
)
def test_a_tile_says_how_much_slower_or_that_it_may_be_noise(verdict, changes, note):
    assert tile_note(made.penalty(**{"penalty": 0.2, "verdict": verdict} | changes)) == note
