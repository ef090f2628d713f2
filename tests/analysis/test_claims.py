"""One level for all families of a study."""

import numpy as np

from bench.analysis.axes import comparisons
from bench.analysis.claims import claimed
from bench.analysis.fastest import fastest
from bench.analysis.pairs import LocalNode
from bench.analysis.penalties import penalties
from bench.records.results import AxisState, Claims, LocalSource, Rules
from tests.analysis.cells import made_cell, made_study, noisy

STUDY, RULES = made_study(), Rules()
LOCAL = {0: LocalNode(0, LocalSource.REPORTED)}


def families(cells):
    return penalties(cells, LOCAL, RULES), comparisons(cells, STUDY, RULES), fastest(cells, STUDY, RULES)


def cells_of(seed, rates=(1000, 1000, 1000, 1000), sd=0.01):
    rng = np.random.default_rng(seed)
    return [
        made_cell((rate * np.exp(rng.normal(0, sd, 6))).tolist(), cpu_node=node, cuda_graph=graph)
        for rate, (node, graph) in zip(rates, [(0, False), (2, False), (0, True), (2, True)], strict=True)
    ]


def test_all_families_share_one_level():
    """Two penalties, two lines along the axis and two races: of six tests the smallest p has to reach 0.05 / 6."""
    cells = cells_of(0, (1000, 985, 1000, 1000), sd=0.004)
    found = claimed(*families(cells), RULES)
    assert found.claims.tests == 6
    (low, *_) = sorted(entry.p_difference for entry in found.penalties)
    (entry,) = [entry for entry in found.penalties if entry.p_difference == low]
    assert entry.p_adjusted >= 2 * low
    alone = claimed(found.penalties, (), (), RULES).penalties
    assert sum(entry.p_adjusted for entry in alone) <= sum(entry.p_adjusted for entry in found.penalties)


def test_what_holds_is_counted_and_summarised():
    found = claimed(*families(cells_of(1, (1000, 700, 1600, 1200))), RULES)
    assert found.claims == Claims(tests=6, hold=6, level=1 - 0.95)
    assert all(entry.headline for entry in found.penalties)
    assert [entry.state for entry in found.comparisons] == [AxisState.MATTERS]
    assert [race.rivals for race in found.fastest] == [(), ()]


def test_equal_cells_rarely_differ_in_any_family():
    studies, wrong = 300, 0
    for seed in range(studies):
        wrong += claimed(*families(cells_of(seed)), RULES).claims.hold > 0
    assert wrong <= 0.05 * studies + 2 * np.sqrt(0.05 * 0.95 * studies)


def test_a_study_without_comparisons_claims_nothing():
    assert claimed(*families([made_cell(noisy(1000))]), RULES).claims == Claims(tests=0, hold=0, level=1 - 0.95)
