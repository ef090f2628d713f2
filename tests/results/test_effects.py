import pytest

from bench.legacy.axes import between, change, summed_up, value_label


def line(model, effect, verdict="FASTER", half=0.01, value="bf16", headline=None, setting=""):
    return {
        "model": model, "setting": setting, "effect": effect, "verdict": verdict, "value": {"dtype": value},
        "interval": None if effect is None else [effect - half, effect + half],
        "headline": verdict in ("FASTER", "SLOWER") if headline is None else headline,
    }  # fmt: skip


def entry(*lines, values=("bf16",)):
    values = [{"dtype": value} for value in ("fp32", *values)]
    return {"axis": "dtype", "base": values[0], "values": values, "lines": list(lines)}


@pytest.mark.parametrize(("effect", "interval", "said"), [
    (0.38, [0.35, 0.41], "+38 % [35, 41]"),
    (-0.05, [-0.054, -0.046], "−5.0 % [−5.4, −4.6]"),
    (3.5, [3.4, 3.6], "× 4.5 [4.4, 4.6]"),
    (14.584, [14.55, 14.61], "× 15.6 [15.6, 15.6]"),
    (-0.90941, [-0.9096, -0.9093], "−90.9 % [−91.0, −90.9]"),
    (-0.8, None, "−80 %"),
    (3.43, [-0.49, 37.6], "× 4.4 [0.51, 39]"),
    (1.23, [0.352, 2.03], "× 2.2 [1.4, 3.0]"),
    (1.9, [0.004, 5.9], "× 2.9 [1.004, 6.9]"),
    (0.0, [-0.001, 0.001], "0.0 % [−0.1, 0.1]"),
])  # fmt: skip
def test_a_change_has_the_digits_that_its_interval_supports(effect, interval, said):
    assert change(effect, interval) == said


def test_one_line_over_models_names_the_largest_first_and_the_same_together():
    found = summed_up(entry(line("a", 0.1), line("b", 0.5), line("c", 0.001, "SAME"), line("d", 0.002, "SAME", 0.003)))
    (told,) = found["summary"]
    assert told["text"] == "dtype bf16: b +50 % [49, 51]; a +10 % [9, 11]; c and d SAME within 1.1 %"
    assert found["state"] == "matters"


def test_combinations_of_one_model_are_a_range():
    (told,) = summed_up(entry(line("a", 0.1), line("a", 0.5)))["summary"]
    assert told["text"] == "dtype bf16 (over 2 combinations): a +10 % to +50 %"


def test_a_range_over_settings_says_where_it_was_least_and_most():
    lines = line("a", 0.02), line("a", 3.5, setting="bs1"), line("a", 0.4, setting="bs4")
    told = summed_up(entry(*lines))["summary"][0]["text"]
    assert told == "dtype bf16 (over 3 combinations): a × 1.02 (base) to 4.5 (bs1)"


def test_what_is_not_known_to_differ_is_no_end_of_a_range():
    graph, eager = line("a", 7.9, setting="graph"), line("a", 3.4, "UNDECIDED", setting="")
    (told,) = summed_up(entry(graph, eager))["summary"]
    assert told["text"] == "dtype bf16 (over 2 combinations): a × 8.90 [8.89, 8.91] in graph, undecided in base"
    assert told["models"][0]["low"] == told["models"][0]["high"] == 7.9
    (told,) = summed_up(entry(graph, eager | {"verdict": "SAME", "effect": 0.001}))["summary"]
    assert told["text"].endswith("in graph, SAME in base")
    # Of the same setting on several nodes only the numbers tell them apart.
    (told,) = summed_up(entry(graph, graph | {"verdict": "UNDECIDED"}, graph))["summary"]
    assert told["text"].endswith("a × 8.9, undecided in 1 of 3")
    (told,) = summed_up(entry(*({**one, "headline": False} for one in (graph, eager))))["summary"]
    assert told["text"].endswith("probably a × 8.90 [8.89, 8.91] in graph, undecided in base")


def test_a_range_that_is_not_decided_says_where_too():
    lines = line("a", 0.02), line("a", 3.5, setting="bs1"), line("a", 0.4, setting="bs4")
    (told,) = summed_up(entry(*(one | {"verdict": "UNDECIDED", "headline": False} for one in lines)))["summary"]
    assert told["text"].endswith("not decided: a × 1.02 (base) to 4.5 (bs1)")


def test_all_the_same_does_not_matter_and_says_up_to_where():
    found = summed_up(entry(line("a", 0.001, "SAME", 0.004), line("b", -0.002, "SAME", 0.004)))
    assert (found["state"], found["size"], found["bound"]) == ("same", 0.0, pytest.approx(0.006))


@pytest.mark.parametrize(("verdict", "doubt"), [("UNDECIDED", "noise"), ("FASTER", "probable")])
def test_what_does_not_hold_after_correction_is_not_said_to_matter(verdict, doubt):
    found = summed_up(entry(line("a", 0.1, verdict, headline=False), line("b", 0.0, "SAME")))
    assert (found["state"], found["doubt"]) == ("undecided", doubt)


def test_a_value_that_was_not_measured_is_named():
    found = summed_up(entry(line("a", 0.1), line("a", None, None, value="fp16"), values=("bf16", "fp16")))
    assert found["summary"][1]["text"] == "dtype fp16: a not measured"


@pytest.mark.parametrize(("low", "high", "said"), [
    (0.31, 0.38, "+31 % to +38 %"), (0.996, 1.004, "× 2.0"), (0.42, 5.2, "× 1.42 to 6.2"),
    (-0.5, 1.2, "−50 % to × 2.2"),
])  # fmt: skip
def test_ranges(low, high, said):
    assert between(low, high) == said


def test_many_models_that_differ_are_a_range_from_the_least_to_the_most():
    (told,) = summed_up(entry(*(line(f"m{number}", 0.1 * number) for number in range(1, 8))))["summary"]
    assert told["text"] == "dtype bf16: 7 models +10 % to +70 % (m1 to m7)"


def test_values_in_words():
    assert value_label({"cuda_graph": True}) == "cuda_graph on"
    assert value_label({"depth": 12, "dim": 1024}) == "depth 12, dim 1024"


@pytest.mark.parametrize(("effect", "interval", "said"), [
    (0.9, [-0.998, 2033.2], "+90 %"), (1.6, [-0.51, 13.3], "× 2.6"), (0.016, [0.0011, 0.0314], "+1.6 % [0.1, 3.1]"),
])  # fmt: skip
def test_an_interval_that_tells_nothing_is_left_out_and_what_is_sure_is_not_shown_as_zero(effect, interval, said):
    assert change(effect, interval) == said


def test_what_is_undecided_says_why_and_what_was_seen():
    once = [line("a", -0.46, "UNDECIDED", headline=False) | {"interval": None}]
    found = summed_up(entry(*once))
    assert (found["state"], found["doubt"]) == ("undecided", "once")
    assert found["summary"][0]["text"] == "dtype bf16: a −46 % in one pair"
    lines = [*once, line("b", 0.2, "FASTER", headline=False), line("c", 0.03, "UNDECIDED", 0.05, headline=False)]
    found = summed_up(entry(*lines))
    assert (found["state"], found["doubt"]) == ("undecided", "probable")
    text = "dtype bf16: probably b +20 % [19, 21]; not decided: c +3 % [−2, 8]; a −46 % in one pair"
    assert found["summary"][0]["text"] == text
    assert summed_up(entry(lines[2]))["doubt"] == "noise"
    assert summed_up(entry(line("a", 0.1)))["doubt"] is None


def test_many_models_that_are_not_decided_are_a_range():
    lines = [line(f"m{number}", 0.01 * number, "UNDECIDED", headline=False) for number in range(1, 7)]
    (told,) = summed_up(entry(*lines))["summary"]
    assert told["text"] == "dtype bf16: not decided: 6 models +1.0 % to +6.0 %"
