import math

import numpy as np
import pytest
from msgspec import structs
from scipy import stats

from bench.analysis import fastest as module
from bench.analysis.claims import claimed
from bench.analysis.statistics import Comparison
from bench.analysis.verdicts import rules_of
from bench.records.results import NoiseClass
from tests.analysis.cells import made_cell, made_study, noisy
from tests.estimates import estimate_pairs

STUDY = made_study()
GRAPH, COMPILED = {"cuda_graph": True}, {"compile_model": "default"}


def fastest(cells, study):
    return claimed((), (), module.fastest(cells, study), rules_of(study)).fastest


def test_the_fastest_cell_has_its_gain_and_its_rivals():
    cells = (
        made_cell(noisy(1000)),
        made_cell(noisy(1500, seed=1), cuda_graph=True),
        made_cell(noisy(1200, seed=2), compile_model="default"),
    )
    (entry,) = fastest(cells, STUDY)
    assert (entry.execution.settings, entry.candidates, entry.rivals, entry.same_dtype) == (GRAPH, 3, (), None)
    assert (entry.cell, entry.base_cell) == (cells[1].name, cells[0].name)
    low, high = entry.interval
    assert low < entry.effect < high and entry.effect == pytest.approx(0.5, abs=0.01)


def test_the_gain_is_that_of_the_paired_comparison_with_the_base():
    base, graph = noisy(1000, sd=0.02), noisy(1500, sd=0.02, seed=1)
    (entry,) = fastest((made_cell(base), made_cell(graph, cuda_graph=True)), STUDY)
    runs = [dict(enumerate(side, 1)) for side in (base, graph)]
    (expected,) = estimate_pairs([Comparison("graph", NoiseClass.DEVICE_BOUND, *runs)])
    assert entry.effect == pytest.approx(math.expm1(expected.mean_log))
    assert entry.interval == pytest.approx((-expected.interval[1], -expected.interval[0]))


def test_a_noisy_cell_stays_a_rival():
    noisy_cell = made_cell(noisy(1400, sd=0.3, seed=3), compile_model="default")
    (entry,) = fastest((made_cell(noisy(1000)), made_cell(noisy(1500, seed=1), cuda_graph=True), noisy_cell), STUDY)
    assert [rival.settings for rival in entry.rivals] == [COMPILED]


def test_the_base_may_be_a_rival():
    cells = made_cell(noisy(1000, sd=0.2)), made_cell(noisy(1100, sd=0.2, seed=1), cuda_graph=True)
    (entry,) = fastest(cells, STUDY)
    assert [rival.is_base for rival in entry.rivals] == [True] and entry.execution.settings == GRAPH


def test_if_another_dtype_wins_the_studys_own_has_an_entry_too():
    cells = (
        made_cell(noisy(1000)),
        made_cell(noisy(1500, seed=1), cuda_graph=True),
        made_cell(noisy(3000, seed=2), dtype="bf16"),
        made_cell(noisy(2000, seed=4), dtype="bf16", cuda_graph=True),
    )
    (entry,) = fastest(cells, STUDY)
    assert (entry.execution.dtype, entry.candidates, entry.rivals) == ("bf16", 4, ())
    alike = entry.same_dtype
    assert (alike.execution.dtype, alike.execution.settings, alike.candidates) == ("fp32", GRAPH, 2)


def test_one_pair_leaves_every_rival():
    (entry,) = fastest((made_cell([1000.0]), made_cell([9000.0], cuda_graph=True)), STUDY)
    assert ([rival.is_base for rival in entry.rivals], entry.interval, entry.pairs) == ([True], None, 1)


def test_another_workload_is_another_entry():
    cells = [
        made_cell(noisy(1000)),
        made_cell(noisy(1500, seed=1), cuda_graph=True),
        made_cell(noisy(5000, seed=2), batch_size=50),
        made_cell(noisy(5500, seed=3), batch_size=50, cuda_graph=True),
    ]
    entries = fastest(cells, STUDY)
    assert [entry.settings for entry in entries] == [{}, {"batch_size": 50}]
    assert [entry.execution.settings for entry in entries] == [GRAPH, GRAPH]
    assert fastest((made_cell(noisy(1000)), made_cell(noisy(2000), batch_size=50)), STUDY) == ()


def test_the_gain_covers_whichever_came_out_fastest():
    """Of eight, against the base: each of seven could have been chosen, so the level is a seventh."""
    cells = [made_cell(noisy(1000, seed=i), buffers=2 + i) for i in range(8)]
    base, winner = cells[0], max(cells, key=lambda cell: cell.throughput_samples_s)
    (entry,) = fastest(cells, made_study(buffers=2))
    logs = np.diff([np.log([run.throughput_samples_s for run in cell.runs]) for cell in (winner, base)], axis=0)[0]
    half = stats.t.ppf(1 - 0.025 / 7, 5) * logs.std(ddof=1) / np.sqrt(6)
    assert entry.interval == pytest.approx((np.exp(-logs.mean() - half) - 1, np.exp(-logs.mean() + half) - 1))


def test_the_study_that_is_already_the_fastest_has_no_gain():
    slower = made_cell(noisy(1000)), made_cell(noisy(500, seed=1), cuda_graph=True)
    (entry,) = fastest(slower, STUDY)
    assert (entry.execution.is_base, entry.rivals, entry.effect) == (True, (), None)


@pytest.mark.parametrize(("speed", "alone"), [(1500, False), (2100, True)])
def test_three_runs_name_a_fastest_only_by_a_factor_of_two(speed, alone):
    (entry,) = fastest((made_cell(noisy(1000, 3)), made_cell(noisy(speed, 3, seed=1), cuda_graph=True)), STUDY)
    assert (not entry.rivals) is alone


def test_without_the_studys_own_settings_there_is_no_base():
    """All compiled, and the study's own value is off."""
    rates = {"fp32": 1000, "bf16": 2000}
    cells = [made_cell(noisy(rate, seed=rate), compile_model="default", dtype=dtype) for dtype, rate in rates.items()]
    (entry,) = fastest(cells, STUDY)
    assert (entry.base_cell, entry.execution.dtype, entry.execution.is_base) == (None, "bf16", False)
    assert entry.settings == COMPILED
    (entry,) = fastest([structs.replace(cells[0], throughput_samples_s=9000.0), cells[1]], STUDY)
    assert (entry.execution.dtype, entry.execution.settings, entry.execution.is_base) == ("fp32", {}, False)


def test_a_cell_without_pairs_is_a_rival_one_without_runs_not():
    nothing = math.nan
    failed = made_cell([nothing] * 4, compile_model="default")
    apart = made_cell([nothing, nothing, 900.0, 901.0], dtype="bf16")
    (entry,) = fastest((made_cell([1000.0, 1001.0, nothing, nothing]), failed, apart), STUDY)
    assert (entry.candidates, [rival.dtype for rival in entry.rivals]) == (2, ["bf16"])
    assert entry.execution.is_base


def test_each_node_has_its_own_entry():
    rates = [(0, 1000, {}), (0, 1500, GRAPH), (2, 1000, {}), (2, 1400, GRAPH)]
    cells = [
        made_cell(noisy(rate, seed=seed), cpu_node=node, **settings)
        for seed, (node, rate, settings) in enumerate(rates)
    ]
    assert [(entry.mem_node, entry.rivals) for entry in fastest(cells, STUDY)] == [(0, ()), (2, ())]


def test_equals_are_rarely_without_a_rival():
    random, studies, claimed = np.random.default_rng(7), 400, 0
    for _ in range(studies):
        runs = 1000 * np.exp(random.normal(0, 0.01, (2, 6)))
        (entry,) = fastest((made_cell(runs[0].tolist()), made_cell(runs[1].tolist(), cuda_graph=True)), STUDY)
        claimed += not entry.rivals
    assert claimed <= 0.05 * studies + 2 * math.sqrt(0.05 * 0.95 * studies)


def test_two_runs_that_say_nothing_of_the_gain_give_a_finite_interval():
    cells = [made_cell([200.0, 1600.0]), made_cell([200_000.0, 1500.0], cuda_graph=True)]
    (entry,) = fastest(cells, STUDY)
    assert entry.interval[1] > 1e100 and math.isfinite(entry.interval[1])
