import re
from dataclasses import replace

import pytest
from msgspec import structs

from bench.records.results import Change, Contrast, LocalSource, Measure, Reason, Verdict
from bench.report.text.answer import Answer, Loss, answers, cards
from bench.report.text.trust import host_facts
from tests.report.made import changed, results


def with_penalty(view, **changes):
    """The results with one penalty, of the first remote cell, changed."""
    first = next(entry for entry in view.results.penalties if entry.gpu == 0)
    return changed(view, penalties=(structs.replace(first, **changes),))


def test_labels_of_the_cpu_device_are_not_counted_as_devices():
    of_cpu = [Answer(device, gpu, "AMD", None, "", "nothing", ()) for device, gpu in (("CPU", 0), ("CPU, label 5", 5))]
    assert [card.device for card in cards(of_cpu)] == ["CPU"]
    of_gpus = [replace(one, device=f"GPU {one.gpu}") for one in of_cpu]
    assert [card.device for card in cards(of_gpus)] == ["GPUs 0, 5"]
    named = results(device_names={"0": "X", "5": "X"}, fingerprint={"cpu": "X"}, host="h")
    assert host_facts(structs.replace(named, device="cpu")) == ["h", "X"]
    assert host_facts(named) == ["h", "2 × X", "X"]


def test_the_answer_names_the_near_node_and_the_losses(numa_view):
    found = answers(numa_view)
    assert [(answer.gpu, answer.node) for answer in found] == [(0, 0), (1, 0), (2, 2), (3, 2)]
    assert re.search(r"On node 2 vit0x0x0 loses (29\.\d|30) % ± [\d.]+ %;", found[0].sentence)
    assert "vit16x8x768 and vit16x12x1024 lose nothing above" in found[0].sentence


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"penalty": 0.229, "interval": (0.208, 0.25), "verdict": Verdict.SLOWER}, "loses 23 % ± 3 %"),
        ({"penalty": -0.1, "interval": (-0.12, -0.08), "verdict": Verdict.FASTER}, "gains 10 % ± 2 %"),
        ({"penalty": 0.002, "interval": (-0.011, 0.0151), "verdict": Verdict.SAME}, "loses nothing above 1.6 %"),
        (
            {"penalty": 0.05, "interval": (-0.1, 0.2), "verdict": Verdict.UNDECIDED},
            "is undecided, at most 20 % slower (95 %)",
        ),
        (
            {"penalty": 0.05, "interval": (0.01, 0.09), "verdict": Verdict.SLOWER, "headline": False},
            "probably loses 5 % ± 4 %",
        ),
        ({"penalty": 0.3, "interval": None, "verdict": Verdict.UNDECIDED}, "loses 30 %. 1 run: uncertainty unknown."),
    ],
)
def test_each_verdict_has_its_text(numa_view, changes, text):
    assert text in answers(with_penalty(numa_view, **{"headline": True} | changes))[0].sentence


@pytest.mark.parametrize("verdict", [Verdict.SAME, Verdict.UNDECIDED, Verdict.SLOWER])
@pytest.mark.parametrize("headline", [True, False])
def test_median_latency_is_named_where_throughput_says_less(numa_view, verdict, headline):
    judged = {"verdict": Verdict.SLOWER, "reason": Reason.DIFFERENT, "headline": headline}
    change = Change(**judged, change=0.159, interval=(0.15, 0.168), margin=0.02)
    view = with_penalty(numa_view, verdict=verdict, changes={Measure.LATENCY_P50: change})
    sentence, is_named = answers(view)[0].sentence, headline and verdict is not Verdict.SLOWER
    assert ("Median latency on node 2: vit" in sentence) == is_named
    assert ("15.9 % ± 0.9 % longer." in sentence) == is_named


def test_recommends_no_node_when_none_is_known_to_be_near(numa_view):
    answer = answers(with_penalty(numa_view, local_source=LocalSource.REFERENCE))[0]
    assert answer.node is None
    assert answer.lead == "Compared with node 0:"


def test_a_faster_far_node_wins_over_the_reported_one(numa_view):
    changes = {"penalty": -0.1, "interval": (-0.12, -0.08), "verdict": Verdict.FASTER, "headline": True}
    for source, known in ((LocalSource.REPORTED, "nearest as reported"), (LocalSource.REFERENCE, "reference")):
        answer = answers(with_penalty(numa_view, **changes, local_source=source))[0]
        assert (answer.node, answer.lead) == (2, f"It is faster than node 0, the {known}.")
        # Nothing says of node 2 that it is the nearest one.
        assert answer.sentence.startswith("Run on node 2. It is faster") and answer.source == ""


def test_a_single_node_is_not_compared(quick_run, view_of):
    (answer,) = answers(view_of(quick_run))
    assert (answer.device, answer.node, answer.losses) == ("CPU", None, ())
    assert answer.lead == "One NUMA node: no choice of node."


def test_points_at_the_failures_when_there_is_no_result(quick_run, view_of):
    for file in (quick_run / "runs").iterdir():
        file.unlink()
    assert "failures" in answers(view_of(quick_run))[0].sentence


def test_whole_nodes_come_before_split_placements(placed_view):
    first, *split, _ = answers(placed_view)[0].lines
    assert first.startswith("On node 1 ")
    assert [line.split(" vit")[0] for line in split] == ["On CPU 0, memory 1", "On CPU 1, memory 0"]


@pytest.mark.parametrize(("verdict", "penalty", "headline", "text"), [
    ("SAME", 0.01, False, "remote memory add up for vit0x0x0."),
    ("SLOWER", 0.1, True, "exceed their sum together for vit0x0x0."),
    ("FASTER", -0.1, True, "stay below their sum together for vit0x0x0."),
    ("SLOWER", 0.1, False, "cannot be shown to add up for vit0x0x0."),
    ("UNDECIDED", 0.1, False, "cannot be shown to add up for vit0x0x0."),
])  # fmt: skip
def test_states_whether_the_parts_of_a_2x2_add_up(placed_view, verdict, penalty, headline, text):
    design = next(entry for entry in placed_view.results.penalties if entry.effects)
    interaction = structs.replace(
        design.effects[Contrast.INTERACTION], verdict=Verdict(verdict), penalty=penalty, headline=headline
    )
    entry = structs.replace(design, effects={Contrast.INTERACTION: interaction})
    (answer,) = answers(changed(placed_view, penalties=(entry,)))
    assert answer.lines[-1].startswith("The costs of remote CPUs and of remote memory ")
    assert answer.lines[-1].endswith(text)


def test_an_uninformative_interval_is_left_out():
    loss = Loss(
        model="vit32x2x128", settings="", label="vit32x2x128", place="node 2", split=False, share=-0.9,
        interval=(-2033.2, 0.998), verdict=Verdict.UNDECIDED, significant=False, cell="cell",
    )  # fmt: skip
    assert loss.figure == "90 %"
