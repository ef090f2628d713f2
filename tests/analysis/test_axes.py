import numpy as np
import pytest
from msgspec import structs

from bench.analysis import axes as module
from bench.analysis.axes import axes, matched, summarise
from bench.analysis.claims import claimed
from bench.analysis.verdicts import rules_of
from bench.records.results import AxisComparison, AxisState, Line, NoiseClass, Remedy, UndecidedReason, Verdict
from bench.records.run import Outcome
from tests.analysis.cells import made_cell, made_model, made_study, noisy

RUNS = [100.0, 101.0]


def cell(model="vit32x2x128", heads=4, **settings):
    kind = structs.replace(made_model(model), heads=heads)
    return made_cell(RUNS, model=kind, name=f"{model} {sorted(settings.items())}", **settings)


def comparisons(cells, study):
    return claimed((), module.comparisons(cells, study), (), rules_of(study)).comparisons


def pairs(cells, study):
    return {axis.name: {(base.name, other.name) for base, other in matched(axis, cells)} for axis in axes(cells, study)}


def test_values_are_compared_with_the_studys_own():
    cells = [cell(dtype=dtype, buffers=buffers) for dtype in ("fp32", "bf16") for buffers in (1, 2)]
    found = axes(cells, made_study(dtype="fp32", buffers=2))
    assert [(axis.name, axis.base) for axis in found] == [("dtype", ("fp32",)), ("buffers", (2,))]
    assert [len(matched(axis, cells)) for axis in found] == [2, 2]
    for axis in found:
        for base, other in matched(axis, cells):
            fields = type(base.settings).__struct_fields__
            assert {key for key in fields if getattr(base.settings, key) != getattr(other.settings, key)} == {axis.name}


def test_first_value_is_the_base_if_the_studys_was_not_run():
    (axis,) = axes([cell(batch_size=16), cell(batch_size=32)], made_study(batch_size=10))
    assert axis.base == (16,)


def test_keys_that_change_together_are_one_axis():
    together = {"compile_model": ["off", "off", "default"], "cuda_graph": [False, True, False]}
    values = zip(*together.values(), strict=True)
    cells = [cell(compile_model=mode, cuda_graph=graph) for mode, graph in values]
    (axis,) = axes(cells, made_study(zip=[together]))
    assert (axis.keys, axis.base) == (("compile_model", "cuda_graph"), ("off", False))
    assert len(matched(axis, cells)) == 2


def test_cells_that_differ_in_two_settings_are_not_compared():
    assert axes([cell(batch_size=16), cell(batch_size=32, cuda_graph=True)], made_study()) == []


def test_node_of_a_queue_follows_only_if_the_base_has_none():
    """Two queues on two nodes are two settings apart; a queue against no queue is one, wherever it is prepared."""
    queued = [cell(preprocess_queue=queue, preprocess_node=node) for queue, node in ((4, 0), (8, 1))]
    assert axes(queued, made_study(preprocess_queue=4, preprocess_node=0)) == []
    without = cell(preprocess_queue=0, preprocess_node=-1)
    assert len(pairs([without, *queued], made_study())["preprocess_queue"]) == 2


def test_concurrent_gpus_are_compared_with_a_single_one():
    cells = [cell(concurrent_gpus=number) for number in (8, 1, 4)]
    assert [axis.base for axis in axes(cells, made_study(concurrent_gpus=8))] == [(1,)]
    assert [axis.base for axis in axes(cells[::2], made_study(concurrent_gpus=8))] == [(8,)]


def test_num_samples_may_follow_the_batch_size():
    cells = [cell(batch_size=8, num_samples=1000), cell(batch_size=32, num_samples=1024)]
    study = made_study(axes={"batch_size": [8, 32]}, batch_size=8)
    assert [axis.name for axis in axes(cells, study)] == ["batch_size"]
    crossed = [*cells, cell(batch_size=8, num_samples=2000)]
    swept = made_study(axes={"batch_size": [8, 32], "num_samples": [1000, 2000]}, batch_size=8)
    assert pairs(crossed, swept).keys() == {"num_samples"}, "an axis of its own does not follow another one"


def test_a_single_gpu_has_no_concurrent_load_to_place():
    study = made_study(axes={"concurrent_gpus": [1, 4], "concurrent_placement": ["local", "remote"]})
    cells = [cell(concurrent_gpus=gpus, concurrent_placement=place, concurrent_load="pipeline")
             for gpus, place in ((1, "local"), (4, "local"), (4, "remote"))]  # fmt: skip
    single, near, far = (one.name for one in cells)
    assert pairs(cells, study) == {
        "concurrent_gpus": {(single, near), (single, far)},
        "concurrent_placement": {(near, far)},
    }


@pytest.mark.parametrize(("depths", "declared", "number"), [
    ((2, 4), {}, 0),
    ((2, 4), {"axes": {"depth": [2, 4]}}, 1),
    ((2, 4, 8), {}, 1),
])  # fmt: skip
def test_models_are_an_axis_if_declared_or_a_series(depths, declared, number):
    cells = [cell(f"vit32x{depth}x128") for depth in depths] + [cell("vit0x0x0")]
    found = axes(cells, made_study(**declared))
    assert [axis.name for axis in found] == ["depth"] * number
    assert all((0,) not in axis.values for axis in found)


def test_heads_may_follow_the_width():
    cells = [cell(f"vit32x2x{dim}", heads=dim // 64) for dim in (128, 256, 512)]
    (axis,) = axes(cells, made_study())
    assert (axis.name, len(matched(axis, cells))) == ("dim", 2)


def test_duplicates_are_paired_by_occurrence():
    cells = [
        structs.replace(cell(dtype=dtype), name=f"{dtype} {occurrence}", occurrence=occurrence)
        for occurrence in (0, 1)
        for dtype in ("fp32", "bf16")
    ]
    assert pairs(cells, made_study()) == {"dtype": {("fp32 0", "bf16 0"), ("fp32 1", "bf16 1")}}


def test_nodes_and_gpus_are_not_axes():
    cells = [made_cell(RUNS, cpu_node=node) for node in (0, 1)]
    assert axes(cells, made_study(axes={"numa_nodes": [[0], [1]], "gpu_ids": [[0], [1]]})) == []


# Comparisons


def test_a_setting_is_compared_with_the_studys_own_value(placed_results):
    (found,) = placed_results.comparisons
    assert (found.axis, found.base, len(found.lines)) == ("cuda_graph", {"cuda_graph": False}, 12)
    cells = {cell.name: cell for cell in placed_results.cells}
    for line in found.lines:
        assert line.name == f"{line.base_cell}_graph"
        assert (line.value, cells[line.base_cell].settings.cuda_graph) == ({"cuda_graph": True}, False)
    small = [line for line in found.lines if line.model == "vit32x2x128"]
    assert all(line.verdict is Verdict.FASTER and line.effect > 1 and line.headline for line in small)
    assert all(line.verdict is Verdict.SAME for line in found.lines if line.model == "vit16x8x768")
    assert found.state is AxisState.MATTERS


def test_a_line_has_the_settings_that_both_cells_share():
    cells = [made_cell(noisy(1000), batch_size=size, cuda_graph=True) for size in (1, 8)]
    (found,) = comparisons(cells, made_study(axes={"batch_size": [1, 8]}))
    assert [line.settings for line in found.lines] == [{"cuda_graph": True}]


@pytest.mark.parametrize(("device", "remedy"), [("cuda", Remedy.USE_CUDA_GRAPH), ("cpu", Remedy.REDUCE_CPU_WORK)])
def test_a_cuda_graph_is_advised_only_on_a_gpu(device, remedy):
    cells = [made_cell(noisy(100.0, sd=0.4, seed=seed), buffers=buffers, device=device, noise_class="launch-bound")
             for seed, buffers in ((1, 1), (2, 2))]  # fmt: skip
    (found,) = comparisons(cells, made_study(buffers=1))
    assert [line.remedy for line in found.lines] == [remedy]


def test_settings_that_do_not_vary_are_not_compared(numa_results):
    assert numa_results.comparisons == ()


def test_pairs_show_one_percent_while_the_host_drifts_by_20():
    drift = [1000 * 0.96**block for block in range(6)]
    small = [0.01, 0.011, 0.009, 0.01, 0.0105, 0.0095]
    faster = [d * (1 + s) for d, s in zip(drift, small, strict=True)]
    cells = [made_cell(drift, host_memory="pinned"), made_cell(faster, host_memory="huge")]
    (found,) = comparisons(cells, made_study(margin=0.005))
    (line,) = found.lines
    assert line.effect == pytest.approx(0.01, abs=1e-4)
    assert line.interval[0] < line.effect < line.interval[1] < 0.02


@pytest.mark.parametrize("noise", range(3))
def test_chance_is_not_a_headline_among_many_lines(noise):
    """60 lines without a difference, margin so small that none is the SAME."""
    cells = [
        made_cell(
            noisy(100.0, seed=1000 * noise + 2 * line + value),
            model=f"vit32x2x{line + 1}",
            dtype=("fp32", "bf16")[value],
        )
        for line in range(60)
        for value in (0, 1)
    ]
    (found, *_) = comparisons(cells, made_study())
    assert found.axis == "dtype"
    assert len(found.lines) == 60 and not any(line.headline for line in found.lines)
    assert found.state is not AxisState.MATTERS


def test_a_line_names_the_cell_that_failed():
    cells = [made_cell(noisy(100.0)), made_cell([np.nan] * 6, dtype="bf16", name="broken")]
    (line,) = comparisons(cells, made_study())[0].lines
    assert (line.verdict, line.pairs, line.failed_cell) == (None, 0, "broken")
    assert cells[1].outcome is Outcome.CRASHED


def test_a_line_has_its_power_and_the_repeats_that_would_decide():
    cells = [made_cell(noisy(100.0, 3, 0.05)), made_cell(noisy(101.0, 3, 0.05, seed=1), dtype="bf16")]
    (line,) = comparisons(cells, made_study())[0].lines
    assert 0 < line.mde < 1 and line.repeats_needed > 3


# Summary


def of_dtypes(*values):
    named = tuple({"dtype": value} for value in values)
    return AxisComparison(axis="dtype", keys=("dtype",), base=named[0], values=named)


AXIS = of_dtypes("fp32", "bf16")


def line(model, effect, verdict="FASTER", half=0.01, value="bf16", headline=None, interval=True):
    return Line(
        name="other", base_cell="base", gpu=0, cpu_node=0, mem_node=0, settings={}, noise_class=NoiseClass.DEVICE_BOUND,
        model=model, effect=effect, verdict=verdict and Verdict(verdict), value={"dtype": value},
        interval=(effect - half, effect + half) if effect is not None and interval else None,
        headline=verdict in ("FASTER", "SLOWER") if headline is None else headline,
    )  # fmt: skip


def test_an_axis_matters_if_a_line_differs_after_correction():
    found = summarise(AXIS, [line("a", 0.1), line("b", 0.5), line("c", 0.001, "SAME")])
    assert (found.state, found.undecided_reason) == (AxisState.MATTERS, None)
    assert found.size == pytest.approx(np.log(1.5))
    (value,) = found.summary
    assert [one.state for one in value.models] == [AxisState.MATTERS, AxisState.MATTERS, AxisState.SAME]


def test_the_range_of_a_model_is_of_the_lines_that_differ():
    lines = [line("a", 7.9), line("a", 3.4, "UNDECIDED")]
    (model,) = summarise(AXIS, lines).summary[0].models
    assert (model.low, model.high, model.lines, model.interval) == (7.9, 7.9, 2, None)
    (model,) = summarise(AXIS, [line("a", 0.1), line("a", 0.5)]).summary[0].models
    assert (model.low, model.high) == (0.1, 0.5)


def test_all_the_same_has_a_bound():
    found = summarise(AXIS, [line("a", 0.001, "SAME", 0.004), line("b", -0.002, "SAME", 0.004)])
    assert (found.state, found.size, found.bound) == (AxisState.SAME, 0.0, pytest.approx(0.006))


@pytest.mark.parametrize(("verdict", "reason"), [("UNDECIDED", "noise"), ("FASTER", "probable")])
def test_an_axis_is_undecided_without_a_headline(verdict, reason):
    found = summarise(AXIS, [line("a", 0.1, verdict, headline=False), line("b", 0.0, "SAME")])
    assert (found.state, found.undecided_reason) == (AxisState.UNDECIDED, UndecidedReason(reason))


def test_one_pair_leaves_an_axis_undecided():
    once = line("a", -0.46, "UNDECIDED", headline=False, interval=False)
    found = summarise(AXIS, [once])
    assert (found.state, found.undecided_reason) == (AxisState.UNDECIDED, UndecidedReason.ONE_PAIR)
    assert found.summary[0].models[0].undecided_reason is UndecidedReason.ONE_PAIR


def test_a_value_without_measured_lines_is_not_measured():
    found = summarise(of_dtypes("fp32", "bf16", "fp16"), [line("a", 0.1), line("a", None, None, value="fp16")])
    assert [one.models[0].state for one in found.summary] == [AxisState.MATTERS, AxisState.NOT_MEASURED]
    assert found.summary[1].models[0].low is None
