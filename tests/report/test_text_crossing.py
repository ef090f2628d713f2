import re
from shlex import quote

import pytest
from msgspec.structs import replace

from bench.analysis.load import load
from bench.analysis.recommend import recommend
from bench.records.base import convert
from bench.records.results import BirthContrast, PenaltyKind, Remedy, Rules
from bench.records.study import ListedModel
from bench.report.build import build_results, make_report
from bench.report.markdown import markdown
from bench.report.text.answer import CPUS_ONLY, answers
from bench.report.text.crossing import (
    birth_text,
    crossed_text,
    crossings_text,
    interaction_text,
)
from bench.report.text.deciding import deciding_command, deciding_hint, hint_groups, repeats_s
from bench.report.text.trust import method_text
from bench.report.view import View
from tests.report.made import cell, penalty
from tests.report.made import results as made_results
from tests.run_directories import build_run_directory, crossed_process, topology_json

OVERRIDES = {"gpu_ids": [0], "numa_nodes": [0, 1], "repeats": 6, "models": ["vit0x0x0", "vit32x2x128"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("crossed") / "run"
    process = crossed_process(spread=0.2, penalty=0.041)
    return build_run_directory(
        path, "numa_locality_study", OVERRIDES, topology=topology_json(1, (0,), 2), crossed=process
    )


@pytest.fixture(scope="module")
def results(run):
    return build_results(load(run), "test")


def birth(**changes):
    values = {"node": 2, "base_node": 0, "processes": (3, 3), "effect": 0.01, "interval": (-0.2, 0.28)}
    values |= {"penalty_change": 0.001, "penalty_change_interval": (-0.004, 0.006), "differs": False}
    return BirthContrast(**values | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "running and keeping buffers on node 2 instead of 0, in the same process: 4.1 % slower [3.5, 4.8] %"),
        ({"kind": PenaltyKind.MEMORY, "remote_cpu_node": 0},
         "keeping buffers on node 2 instead of 0, with the process on node 0, in the same process: "
         "4.1 % slower [3.5, 4.8] %"),
        ({"interval": None},
         "running and keeping buffers on node 2 instead of 0, in the same process: 4.1 % slower, from one process, "
         "whose spread is unknown"),
    ],
)  # fmt: skip
def test_effect_of_one_process_has_its_text(changes, text):
    values = {"design": "crossing", "penalty": 0.041, "interval": (0.035, 0.048), "local_node": 0, "remote_node": 2,
              "remote_cpu_node": 2, "kind": PenaltyKind.NODE}  # fmt: skip
    assert crossed_text(penalty(**values | changes)) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "not measured: where the driver's own memory is "
             "(processes started on node 2 instead of 0: 1 % faster [−20, 28] %)"),
        ({"interval": (-0.4, 3.2)},
         "not measured: where the driver's own memory is (too few processes started on node 2 instead of 0)"),
        ({"interval": (-0.01, 0.012)},
         "processes started on node 2 instead of 0, wherever they run (where the driver's own memory is): "
         "1.0 % faster [−1.0, 1.2] %"),
        ({"effect": -0.12, "interval": (-0.15, -0.09), "effect_holds": True},
         "processes started on node 2 instead of 0, wherever they run (where the driver's own memory is): "
         "12 % slower [9, 15] %"),
        ({"interval": None},
         "not measured: where the driver's own memory is (processes started on node 2 instead of 0: 1.0 % faster, "
         "one process each)"),
    ],
)  # fmt: skip
def test_birth_text_has_its_interval(changes, text):
    assert birth_text(birth(**changes), Rules()) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "moving a running process has the same effect wherever it was started, within 0.6 %"),
        ({"penalty_change_interval": (-0.1, 0.17)},
         "whether moving a running process does what starting it there does is known to 17 % only"),
        ({"change_holds": True, "penalty_change": 0.012},
         "moving costs 1.2 % of the throughput more where the process was started on node 2: "
         "a running process that is moved is not like one that is started there"),
        ({"penalty_change_interval": None},
         "one process of each start: whether moving a running process helps as much is unknown"),
    ],
)  # fmt: skip
def test_text_states_whether_moving_helps(changes, text):
    assert interaction_text(birth(**changes), Rules()) == text


def test_card_says_what_is_not_measured(results):
    sentence = answers(View(results))[0].sentence
    assert "Measured by turns inside the same processes. Not measured: where the driver's own memory is. " in sentence
    assert re.search(r"It changes throughput by at most [\d.]+ % \(95 %\)\.", sentence)
    assert "too noisy" not in sentence


def test_command_measures_what_is_open(results):
    file = quote(f"{results.run_directory}/study.yaml")
    line = deciding_command(results, 0, ["vit0x0x0", "vit32x2x128", "vit0x0x0"], 12)
    assert line == f"numastudy run {file} --gpu-ids 0 --models vit0x0x0,vit32x2x128 --repeats 12"
    assert deciding_command(results, 0, [], 12) == deciding_command(results, 0, ["vit0x0x0"], 100_000) == ""


@pytest.mark.parametrize(
    ("listed", "name", "option"),
    [
        ({"model": "timm:resnet50"}, "timm-resnet50", " --models timm:resnet50"),
        ({"model": "python:a.b:c", "as": "mine", "sha256": "0" * 64}, "mine",
         """ --models '[{"model": "python:a.b:c", "as": "mine"}]'"""),
        ({"model": "vit16x2x128", "heads": 2}, "vit16x2x128",
         """ --models '[{"model": "vit16x2x128", "heads": 2}]'"""),
        ({"model": "vit16x2x128", "heads": 2}, "of an axis", ""),
    ],
)  # fmt: skip
def test_command_names_models_as_a_study_lists_them(results, listed, name, option):
    study = replace(results.study, models=(convert(listed, ListedModel),))
    line = deciding_command(replace(results, study=study, run_directory="a b"), 1, [name], 12)
    assert line == f"numastudy run 'a b/study.yaml' --gpu-ids 1{option} --repeats 12"


def test_an_undecided_penalty_has_the_line_to_paste(results):
    line = f"numastudy run {quote(f'{results.run_directory}/study.yaml')} --gpu-ids 0 --models vit0x0x0 --repeats 9"
    entry = penalty(0.01, "UNDECIDED", reason="few_repeats", remedy="repeat", repeats_needed=9, model="vit0x0x0")
    assert deciding_hint(results, entry) == f"{line}  # about 44 s"
    noisy = replace(entry, remedy=Remedy.USE_CUDA_GRAPH)
    assert deciding_hint(results, noisy).endswith(f"(cuda_graph: true); or {line}  # about 44 s")
    assert deciding_hint(results, replace(entry, remedy=None)) == ""


def test_time_of_repeats_counts_a_process_of_a_crossing_once(results):
    own = [one for one in results.cells if one.model.name == "vit0x0x0"]
    walls_s = {run.crossing.id: run.wall_s for one in own for run in one.runs if run.crossing}
    assert len(own) == 2 and len(walls_s) == 6
    assert repeats_s(own, 12) == pytest.approx(2 * sum(walls_s.values()))
    assert repeats_s([], 12) == 0


def test_equal_hints_are_one_line_with_all_cells(results):
    few = {"verdict": "UNDECIDED", "reason": "few_repeats", "remedy": "repeat"}
    entries = [penalty(0.01, **few, repeats_needed=needed) for needed in (7, 9)]
    noisy = penalty(0.01, "NOT RESOLVABLE", reason="too_many_repeats_needed", remedy="use_cuda_graph")
    judged = zip([entries[0], noisy, entries[1], penalty()], "abcd", "ABCD", strict=True)
    (repeat, first), (graph, second) = hint_groups(results, judged)
    assert repeat.startswith("--repeats 9, or --target-precision (about ") and repeat.endswith(" for the whole study)")
    assert graph.endswith("use a CUDA graph (cuda_graph: true)")
    assert (first, second) == ([("a", "A"), ("c", "C")], [("b", "B")])


def test_method_describes_crossings(results):
    assert crossings_text(results.crossings).startswith(
        "Cells that differ only in node, host memory, copies or execution were measured by turns inside the same "
        "process: 2 groups, 12 processes, started on node 0 and 1 by turns, 8 rounds each."
    )
    assert "every run is a separate process" not in method_text(results)
    assert "by turns windows are shorter, and that of a cell is the median over" in method_text(results)
    words = ", which is forked from an interpreter that had imported torch"
    assert words in method_text(results)
    executed = replace(results, study=replace(results.study, start="exec"))
    assert words not in method_text(executed)
    assert "forked" not in method_text(replace(results, crossings=None))


def test_page_and_markdown_have_the_sentences(run):
    results = make_report(run, "test")
    page = (run / "report.html").read_text()
    assert "In the same process" in page and "running and keeping buffers on node 1 instead of 0" in page
    assert "running and keeping buffers on node 1 instead of 0" in markdown(results)


GROUPS = {0: "0-7", 1: "8"}


def test_groups_of_cpus_have_their_own_words():
    entry = penalty(
        design="crossing", penalty=0.041, interval=(0.035, 0.048), local_node=0, remote_node=0, remote_cpu_node=1,
        kind=PenaltyKind.CPU,
    )  # fmt: skip
    assert crossed_text(entry, GROUPS) == (
        "running on CPU 8 instead of CPUs 0-7, with memory wherever this host keeps it, in the same process: "
        "4.1 % slower [3.5, 4.8] %"
    )
    text = birth_text(birth(node=1, interval=None), Rules(), GROUPS)
    assert "processes started on CPU 8 instead of 0-7" in text


@pytest.mark.parametrize(
    ("verdict", "place", "sentence"),
    [
        ("SLOWER", "CPUs 0-7", "Run on CPUs 0-7. On CPU 8 vit0x0x0 loses"),
        ("FASTER", "CPU 8", "Run on CPU 8. They are faster than CPUs 0-7."),
        ("SAME", "", "Compared with CPUs 0-7: On CPU 8 vit0x0x0"),
    ],
)
def test_answer_names_the_cpus_to_run_on(verdict, place, sentence):
    cells = tuple(cell(f"group{number}", of="vit0x0x0", cpu_node=number, cpus=cpus) for number, cpus in GROUPS.items())
    share = {"SLOWER": 0.1, "FASTER": -0.1, "SAME": 0.0}[verdict]
    entry = penalty(
        share, verdict, interval=(share - 0.01, share + 0.01), model="vit0x0x0", local_node=0, remote_node=0,
        remote_cpu_node=1, kind=PenaltyKind.CPU, local_source="reference", local_cell="group0", remote_cell="group1",
        headline=verdict != "SAME",
    )  # fmt: skip
    made = made_results(cells=cells, penalties=(entry,))
    (found,) = answers(View(made))
    assert (found.place, found.sentence[: len(sentence)]) == (place, sentence)
    assert found.lines[-1] == CPUS_ONLY
    (advice,) = recommend(made)
    assert (advice.cpus, advice.node) == (GROUPS[int(place == "CPU 8")] if place else "", 0 if place else None)
