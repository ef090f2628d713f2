import pytest

from bench.analysis.axes import axes, matched
from tests.analysis.cells import made_cell

RUNS = [100.0, 101.0]


def cell(model="vit32x2x128", **settings):
    made = made_cell(RUNS, model=model, name=f"{model} {sorted(settings.items())}", **settings)
    patch, depth, dim = map(int, model.removeprefix("vit").split("x"))
    made["model"] |= {"patch_size": patch, "depth": depth, "dim": dim}
    return made


def pairs(cells, study):
    return {
        axis.name: {(base["name"], other["name"]) for base, other in matched(axis, cells)}
        for axis in axes(cells, study)
    }


def test_every_value_stands_against_the_studys_own_with_all_else_equal():
    cells = [cell(dtype=dtype, buffers=buffers) for dtype in ("fp32", "bf16") for buffers in (1, 2)]
    found = axes(cells, {"dtype": "fp32", "buffers": 2})
    assert [(axis.name, axis.base) for axis in found] == [("buffers", (2,)), ("dtype", ("fp32",))]
    assert [len(matched(axis, cells)) for axis in found] == [2, 2]
    for axis in found:
        for base, other in matched(axis, cells):
            differ = {key for key in base["settings"] if base["settings"][key] != other["settings"][key]}
            assert differ == {axis.name}


def test_the_first_value_is_the_base_where_the_studys_own_was_not_run():
    (axis,) = axes([cell(batch_size=16), cell(batch_size=32)], {"batch_size": 10})
    assert axis.base == (16,)


def test_keys_that_change_together_are_one_axis():
    together = {"compile_model": ["off", "off", "default"], "cuda_graph": [False, True, False]}
    study, values = {"zip": [together]}, zip(*together.values(), strict=True)
    cells = [cell(compile_model=mode, cuda_graph=graph) for mode, graph in values]
    (axis,) = axes(cells, study | {"compile_model": "off", "cuda_graph": False})
    assert (axis.keys, axis.base) == (("compile_model", "cuda_graph"), ("off", False))
    assert len(matched(axis, cells)) == 2


def test_cells_that_differ_in_two_settings_at_once_are_not_compared():
    assert axes([cell(batch_size=16), cell(batch_size=32, cuda_graph=True)], {}) == []


def test_company_and_queue_follow_only_where_the_base_has_none():
    """Two queues on two nodes are two settings apart; a queue against no queue is one, wherever it is prepared."""
    queued = [cell(preprocess_queue=queue, preprocess_node=node) for queue, node in ((4, 0), (8, 1))]
    assert axes(queued, {"preprocess_queue": 4, "preprocess_node": 0}) == []
    alone = cell(preprocess_queue=0, preprocess_node=-1)
    assert len(pairs([alone, *queued], {"preprocess_queue": 0, "preprocess_node": -1})["preprocess_queue"]) == 2


def test_gpus_busy_at_once_stand_against_one_alone_whatever_the_study_says():
    cells = [cell(concurrent_gpus=number) for number in (8, 1, 4)]
    assert [axis.base for axis in axes(cells, {"concurrent_gpus": 8})] == [(1,)]
    assert [axis.base for axis in axes(cells[::2], {"concurrent_gpus": 8})] == [(8,)]


def test_a_pass_that_follows_the_batch_size_is_no_difference_of_its_own():
    cells = [cell(batch_size=8, num_samples=1000), cell(batch_size=32, num_samples=1024)]
    assert [axis.name for axis in axes(cells, {"axes": {"batch_size": [8, 32]}})] == ["batch_size"]
    crossed = [*cells, cell(batch_size=8, num_samples=2000)]
    swept = {"axes": {"batch_size": [8, 32], "num_samples": [1000, 2000]}}
    assert pairs(crossed, swept).keys() == {"num_samples"}, "what is an axis itself does not just follow"


def test_a_gpu_alone_has_no_company_to_place():
    swept = {"axes": {"concurrent_gpus": [1, 4], "concurrent_placement": ["local", "remote"]}}
    cells = [cell(concurrent_gpus=gpus, concurrent_placement=place, concurrent_load="pipeline")
             for gpus, place in ((1, "local"), (4, "local"), (4, "remote"))]  # fmt: skip
    alone, near, far = (one["name"] for one in cells)
    assert pairs(cells, swept) == {
        "concurrent_gpus": {(alone, near), (alone, far)},
        "concurrent_placement": {(near, far)},
    }


@pytest.mark.parametrize(("depths", "study", "number"), [
    ((2, 4), {}, 0),
    ((2, 4), {"axes": {"depth": [2, 4]}}, 1),
    ((2, 4, 8), {}, 1),
])  # fmt: skip
def test_models_are_an_axis_where_the_study_says_so_or_they_are_a_series(depths, study, number):
    cells = [cell(f"vit32x{depth}x128") for depth in depths] + [cell("vit0x0x0")]
    found = axes(cells, study)
    assert [axis.name for axis in found] == ["depth"] * number
    assert all((0,) not in axis.values for axis in found)


def test_heads_may_follow_the_width():
    cells = [cell(f"vit32x2x{dim}") for dim in (128, 256, 512)]
    for one in cells:
        one["model"]["heads"] = one["model"]["dim"] // 64
    (axis,) = axes(cells, {})
    assert (axis.name, len(matched(axis, cells))) == ("dim", 2)


def test_a_model_listed_twice_is_paired_by_its_turn():
    cells = [cell(dtype=dtype) | {"name": f"{dtype} {turn}"} for turn in (1, 2) for dtype in ("fp32", "bf16")]
    assert pairs(cells, {"dtype": "fp32"}) == {"dtype": {("fp32 1", "bf16 1"), ("fp32 2", "bf16 2")}}


def test_nodes_and_gpus_are_no_axes_here():
    cells = [made_cell(RUNS, cpu_node=node) for node in (0, 1)]
    assert axes(cells, {"axes": {"numa_nodes": [[0], [1]], "gpu_ids": [[0], [1]]}}) == []
