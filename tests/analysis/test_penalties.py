import math

import numpy as np
import pytest
from msgspec.structs import replace

from bench.analysis import penalties as module
from bench.analysis.claims import claimed
from bench.analysis.pairs import LocalNode
from bench.analysis.verdicts import rules_of
from bench.records.results import Contrast, LocalSource, PenaltyKind, Reason, Remedy, Rules, Verdict
from tests.analysis.cells import made_cell, made_study, noisy

MODELS = [f"vit32x2x{64 * i}" for i in range(1, 7)]
NEAR_NODE_0 = {gpu: LocalNode(0, LocalSource.REPORTED) for gpu in range(4)}


def penalties(cells, local=NEAR_NODE_0, rules=None):
    rules = rules or Rules()
    return claimed(module.penalties(cells, local, rules), (), (), rules).penalties


def study(effect=0.05, sd=0.002, runs=6, remote=2, **settings):
    return [
        made_cell(
            noisy(1000 * (1 - effect * (node == remote)), runs, sd, seed=7 * i + node),
            cpu_node=node,
            model=model,
            **settings,
        )
        for node in (0, remote)
        for i, model in enumerate(MODELS)
    ]


@pytest.mark.parametrize(("device", "remedy"), [("cuda", Remedy.USE_CUDA_GRAPH), ("cpu", Remedy.REDUCE_CPU_WORK)])
def test_a_cuda_graph_is_advised_only_on_a_gpu(device, remedy):
    found = penalties(study(0.0, sd=0.4, device=device, noise_class="launch-bound"))
    assert [entry.remedy for entry in found] == [remedy] * 6


def square(cpu=0.03, memory=0.05, both=None, sd=0.0005, runs=6, model="vit32x2x128", seed=0):
    """Cells of the 2x2 design, CPU or memory on node 0 or 1; both: what the RR cell loses beyond."""
    levels = {
        (0, 0): 0.0,
        (1, 0): math.log1p(-cpu),
        (0, 1): math.log1p(-memory),
        (1, 1): math.log1p(-cpu) + math.log1p(-memory) + (math.log1p(-both) if both else 0.0),
    }
    return [
        made_cell(noisy(1000 * math.exp(level), runs, sd, seed + 10 * i), cpu_node=c, mem_node=m, model=model)
        for i, ((c, m), level) in enumerate(levels.items())
    ]


def test_each_remote_cell_has_an_entry():
    found = penalties(study())
    assert [entry.model for entry in found] == MODELS
    entry = found[0]
    assert entry.penalty == pytest.approx(0.05, abs=0.005)
    assert entry.interval[0] < 0.05 < entry.interval[1]
    assert (entry.gpu, entry.local_node, entry.remote_node, entry.remote_cpu_node, entry.pairs) == (0, 0, 2, 2, 6)
    assert (entry.local_source, entry.kind) == (LocalSource.REPORTED, PenaltyKind.NODE)
    assert entry.verdict is Verdict.SLOWER and entry.headline and entry.reason is Reason.DIFFERENT


def test_the_penalty_is_the_formula_of_the_design():
    entry = penalties([made_cell([10.0, 20.0, 40.0]), made_cell([9.0, 16.0, 38.0], cpu_node=2)])[0]
    assert entry.penalty == pytest.approx(1 - (0.9 * 0.8 * 0.95) ** (1 / 3))


def test_batch_sizes_and_gpus_are_not_compared():
    cells = [*study(), *study(batch_size=32), *study(gpu=1)]
    found = penalties(cells, NEAR_NODE_0 | {1: LocalNode(2, LocalSource.REPORTED)})
    assert len(found) == 18
    assert {entry.local_node for entry in found if entry.gpu == 1} == {2}
    for entry in found:
        sides = [next(c for c in cells if c.name == name) for name in (entry.local_cell, entry.remote_cell)]
        assert sides[0].settings == sides[1].settings


def test_a_model_listed_twice_has_two_penalties():
    twins = [
        made_cell(noisy(1000, seed=i), cpu_node=node, name=f"n{node}{'_again' * again}", more={"occurrence": again})
        for i, (node, again) in enumerate([(0, 0), (0, 1), (2, 0), (2, 1)])
    ]
    found = penalties(twins)
    assert [(entry.local_cell, entry.remote_cell) for entry in found] == [
        ("n0", "n2"),
        ("n0_again", "n2_again"),
    ]


def test_a_cell_that_failed_is_a_line_without_a_number():
    entry = penalties([made_cell([1.0] * 6), made_cell([math.nan] * 6, cpu_node=2)])[0]
    assert (entry.penalty, entry.interval, entry.verdict, entry.pairs) == (None, None, None, 0)
    assert (entry.reason, entry.remedy) == (Reason.NOT_MEASURED, Remedy.SEE_FAILED_RUNS)


def test_one_node_has_no_penalty():
    assert penalties([made_cell([1.0] * 6)]) == ()
    assert penalties([]) == ()


def test_one_repeat_gives_the_penalty_and_no_verdict():
    entry = penalties([made_cell([10.0]), made_cell([9.0], cpu_node=2)])[0]
    assert entry.penalty == pytest.approx(0.1)
    assert (entry.interval, entry.verdict, entry.p_adjusted) == (None, Verdict.UNDECIDED, None)


def test_headlines_hold_after_holm_and_the_verdict_before():
    entries = penalties(study(effect=0.05) + study(effect=0.0, batch_size=32))
    assert all(entry.headline == (entry.settings["batch_size"] == 10) for entry in entries)
    assert all(entry.p_adjusted <= 1 for entry in entries)


def test_target_precision_makes_intervals_wider():
    def width(rules):
        entry = penalties(study(), rules=rules)[0]
        return entry.interval[1] - entry.interval[0]

    assert width(rules_of(made_study(target_precision=0.02))) > width(Rules())


def test_the_2x2_design_gives_both_effects_and_the_interaction():
    entries = penalties(square(both=0.02))
    by_kind = {entry.kind: entry for entry in entries}
    assert set(by_kind) == set(PenaltyKind)
    effects = by_kind[PenaltyKind.NODE].effects
    # Each main effect averages over the other factor, so that half of the interaction is in each.
    half = math.log1p(-0.02) / 2
    truth = {
        "cpu": -math.expm1(math.log1p(-0.03) + half),
        "memory": -math.expm1(math.log1p(-0.05) + half),
        "interaction": 0.02,
    }
    for kind, penalty in truth.items():
        assert effects[kind].penalty == pytest.approx(penalty, abs=0.001)
        low, high = effects[kind].interval
        assert low < effects[kind].penalty < high < low + 0.003
        assert effects[kind].headline
    assert by_kind[PenaltyKind.MEMORY].penalty == pytest.approx(0.05, abs=0.001)
    assert by_kind[PenaltyKind.CPU].penalty == pytest.approx(0.03, abs=0.001)


def test_no_interaction_is_the_same():
    entries = penalties(square())
    effects = next(entry.effects for entry in entries if entry.effects)
    assert effects[Contrast.INTERACTION].verdict is Verdict.SAME and not effects[Contrast.INTERACTION].headline


def test_an_incomplete_design_has_no_effects():
    entries = penalties(square()[:3])
    assert len(entries) == 2 and not any(entry.effects for entry in entries)


def test_contrasts_equal_a_regression_on_the_design():
    """Oracle: least squares with effect coding gives the same three numbers."""
    cells = square(both=0.01, sd=0.01, seed=3)
    entries = penalties(cells)
    effects = next(entry.effects for entry in entries if entry.effects)
    rows, y = [], []
    for cell in cells:
        for run in cell.runs:
            c, m = cell.cpu_node - 0.5, cell.mem_node - 0.5
            rows.append([1, c, m, c * m])
            y.append(math.log(run.throughput_samples_s))
    _, cpu, memory, interaction = np.linalg.lstsq(np.array(rows), np.array(y), rcond=None)[0]
    for kind, log in (("cpu", cpu), ("memory", memory), ("interaction", interaction)):
        assert effects[kind].penalty == pytest.approx(-math.expm1(log))


def test_settings_are_not_mixed(placed_results):
    """Twelve cells are not local: three models, eager and as a graph, on three other placements."""
    assert len(placed_results.penalties) == 18
    cells = {cell.name: cell for cell in placed_results.cells}
    for entry in placed_results.penalties:
        local, remote = cells[entry.local_cell], cells[entry.remote_cell]
        assert local.settings == remote.settings and local.model == remote.model


def test_disturbed_runs_of_both_blocks_are_counted_where_runs_choose_the_node():
    def disturbed(cell, blocks):
        return replace(cell, runs=tuple(replace(run, disturbed=run.block in blocks) for run in cell.runs))

    near = disturbed(made_cell(noisy(1000), cpu_node=1), ())
    far = disturbed(made_cell(noisy(900, seed=1), cpu_node=0), (1, 3, 4))
    (entry,) = penalties([near, far], {0: LocalNode(1, LocalSource.RUNS)})
    assert (entry.timed_runs, entry.disturbed_runs, entry.pairs) == ((6, 6), (0, 3), 2)
