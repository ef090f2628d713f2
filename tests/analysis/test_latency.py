import numpy as np
import pytest
from msgspec.structs import replace

from bench.analysis.claims import claimed
from bench.analysis.latency import SPREAD_MARGIN, log_spreads, paired_samples, samples_of_studies
from bench.analysis.pairs import LocalNode, runs_that_count
from bench.analysis.penalties import penalties as uncorrected
from bench.records.results import LocalSource, Measure, Rules, Verdict
from tests.analysis.cells import made_cell, noisy

NEAR = {0: LocalNode(0, LocalSource.REPORTED)}


def penalties(cells, local):
    return claimed(uncorrected(cells, local), (), (), Rules()).penalties


def with_latency(cell, p50_us, p99_us=None, window_spread=0.01, noise=0.002, seed=1):
    """The cell with latencies that spread by `noise` between its runs."""
    draw = np.random.default_rng(seed)
    runs = []
    for run in cell.runs:
        factor = float(np.exp(draw.normal(0, noise)))
        runs.append(
            replace(
                run,
                latency_p50_us=p50_us * factor,
                latency_p99_us=p99_us and p99_us * factor,
                window_spread=window_spread * float(np.exp(draw.normal(0, 0.1))),
            )
        )
    return replace(cell, runs=tuple(runs))


def two(p50=(400.0, 440.0), p99=(500.0, 500.0), spread=(0.01, 0.01), sd=0.3, runs=6):
    """Throughput too noisy for any verdict, as of launch-bound cells."""
    return [
        with_latency(
            made_cell(noisy(1000, runs, sd, seed=node), cpu_node=node), p50[node], p99[node], spread[node], seed=node
        )
        for node in (0, 1)
    ]


def test_a_longer_latency_is_found_where_throughput_is_too_noisy():
    (entry,) = penalties(two(), NEAR)
    assert entry.verdict not in (Verdict.SLOWER, Verdict.FASTER)
    p50, p99 = entry.changes[Measure.LATENCY_P50], entry.changes[Measure.LATENCY_P99]
    assert (p50.verdict, p50.headline) == (Verdict.SLOWER, True)
    assert p50.change == pytest.approx(0.10, abs=0.01) and p50.interval[0] < 0.10 < p50.interval[1]
    assert p99.verdict is Verdict.SAME and not p99.headline


def test_all_claims_of_a_study_are_corrected_together():
    (entry,) = penalties(two(), NEAR)
    p50, between = entry.changes[Measure.LATENCY_P50], entry.changes[Measure.SPREAD_BETWEEN_RUNS]
    assert p50.p_adjusted == pytest.approx(4 * p50.p_difference)
    # Its level holds for normal noise only.
    assert between.p_adjusted is None and not between.headline


def test_a_less_steady_cell_is_found():
    (entry,) = penalties(two(p50=(400, 400), spread=(0.01, 0.03)), NEAR)
    inside = entry.changes[Measure.SPREAD_IN_RUNS]
    assert inside.verdict is Verdict.SLOWER and inside.change == pytest.approx(2.0, rel=0.3)
    assert inside.margin == SPREAD_MARGIN


def test_spreads_between_runs_by_the_jackknife():
    rates = np.exp(np.random.default_rng(3).normal(0, [[0.01], [0.1]], (2, 40)))
    quiet, wild = (log_spreads(side) for side in rates)
    assert np.exp(quiet.mean()) == pytest.approx(0.01, rel=0.25)
    assert wild.mean() - quiet.mean() == pytest.approx(np.log(10), abs=0.4)
    cells = [made_cell(list(1000 * side), cpu_node=node) for node, side in enumerate(rates)]
    found = paired_samples("x", *cells)[Measure.SPREAD_BETWEEN_RUNS]
    assert found.mean == pytest.approx(-np.log(10), abs=0.4)
    assert Measure.SPREAD_BETWEEN_RUNS not in paired_samples("x", *two(runs=3))


def test_without_latencies_there_is_nothing_to_compare():
    cells = [made_cell(noisy(1000, 3, 0.01, seed=node), cpu_node=node) for node in (0, 1)]
    assert penalties(cells, NEAR)[0].changes == {}


def test_two_studies_are_compared_as_independent_groups():
    base, new = two(p50=(400.0, 420.0))
    found = samples_of_studies("x", base.noise_class, *([runs_that_count(cell)] for cell in (base, new)))
    assert found[Measure.LATENCY_P50].mean == pytest.approx(np.log(400 / 420), abs=0.005)
    assert set(found) == set(Measure)


def test_spreads_of_many_runs_that_are_all_alike_but_one_are_compared():
    one, other = made_cell([1.0] * 99 + [1.1]), made_cell([1.0] * 99 + [1.2])
    found = samples_of_studies("x", one.noise_class, *([runs_that_count(cell)] for cell in (one, other)))
    assert np.isfinite(found[Measure.SPREAD_BETWEEN_RUNS].mean)
