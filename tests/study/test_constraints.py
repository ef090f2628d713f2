"""Combinations that cannot be: named with their cells before anything runs, and how to leave them out."""

import json
import re

import pytest

from bench.errors import StudyError
from bench.study.load import StudyDefinition, read_study

BASE = {"name": "s", "gpu_ids": [0, 1], "numa_nodes": [0], "models": ["vit32x2x128"]}


def study(**values: object) -> StudyDefinition:
    return read_study(BASE | values, "f.yaml")


def refusal(**values: object) -> str:
    with pytest.raises(StudyError) as refused:
        study(**values)
    return str(refused.value)


@pytest.mark.parametrize(
    ("axes", "base", "suffix", "words", "exclude"),
    [
        (
            {"cuda_graph": [False, True], "compile_model": [False, "default", "max-autotune"]}, {}, "graph_compiled",
            "cuda_graph and compile_model exclude each other",
            [{"cuda_graph": True, "compile_model": ["default", "max-autotune"]}],
        ),
        ({"batch_size": [10, 32]}, {}, "bs32", "num_samples 1000 is not a multiple of batch_size 32",
         [{"batch_size": 32}]),
        ({"image_size": [224, 250]}, {}, "px250", "an image of 250 pixels cannot be cut into patches of 32",
         [{"image_size": 250}]),
        ({"dim": [128, 130]}, {}, "", "dim 130 is not divisible by 4 heads", [{"dim": 130}]),
        ({"cuda_graph": [False, True]}, {"device": "cpu"}, "graph", "cuda_graph needs device cuda",
         [{"cuda_graph": True}]),
        ({"dtype": ["fp32", "tf32"]}, {"device": "cpu"}, "tf32", "tf32 is a mode", [{"dtype": "tf32"}]),
        ({"compile_model": ["off", "reduce-overhead"]}, {"device": "cpu"}, "compiled-reduce-overhead",
         "on the cpu device it is default", [{"compile_model": "reduce-overhead"}]),
        (
            {"host_memory": ["pinned", "write-combined", "registered", "pageable", "huge"]}, {"device": "cpu"},
            "write-combined", "it needs device cuda", [{"host_memory": ["write-combined", "registered"]}],
        ),
        ({"preprocess_queue": [0, 4], "preprocess_node": [-1, 0]}, {}, "prepnode0",
         "preprocess_node 0 has no effect with preprocess_queue 0",
         [{"preprocess_node": 0, "preprocess_queue": 0}]),
        ({"concurrent_gpus": [1, 4], "concurrent_load": ["pipeline", "copies"]}, {}, "copies-load",
         "concurrent_load copies has no effect with concurrent_gpus 1",
         [{"concurrent_load": "copies", "concurrent_gpus": 1}]),
        ({"concurrent_gpus": [1, 4], "concurrent_placement": ["local", "remote", "found"]}, {}, "remote-load",
         "concurrent_placement remote has no effect", None),
        ({"memory_size_mb": [1, 16]}, {}, "pool1", "memory_size_mb 1 does not hold the 2 batches in flight",
         [{"memory_size_mb": 1}]),
        ({"direction": ["both", "d2h"], "preprocess_queue": [0, 4]}, {}, "d2h-only_prep4", "copies nothing in",
         [{"direction": "d2h", "preprocess_queue": 4}]),
        ({"direction": ["both", "d2h"], "host_memory": ["pinned", "write-combined"]}, {}, "write-combined_d2h-only",
         "direction d2h makes none", [{"direction": "d2h", "host_memory": "write-combined"}]),
    ],
)  # fmt: skip
def test_error_names_the_cell_and_what_to_exclude(
    axes: dict, base: dict, suffix: str, words: str, exclude: list | None
) -> None:
    text = refusal(axes=axes, **base)
    assert words in text
    if suffix:
        assert f"pipeline_gpu0_numa0_vit32x2x128_{suffix}: " in text
        assert f"pipeline_gpu1_numa0_vit32x2x128_{suffix}: " in text
    offered = json.loads(re.search(r"exclude: (\[.*?\]); or", text).group(1))
    assert exclude is None or offered == exclude
    # What is offered is enough.
    assert study(axes=axes, exclude=offered, **base).axes.exclude


def test_no_exclude_is_offered_when_nothing_would_remain() -> None:
    text = refusal(axes={"batch_size": [7, 11]})
    assert "4 of 4 combinations are impossible" in text and "exclude" not in text


def test_included_cells_are_not_offered_for_exclude() -> None:
    text = refusal(include=[{"cuda_graph": True, "compile_model": "default"}])
    assert "take them out of include" in text and "exclude:" not in text
    both = refusal(axes={"batch_size": [10, 32]}, include=[{"batch_size": 7, "dtype": "bf16"}])
    assert 'exclude: [{"batch_size": 32}] and take them out of include' in both


def test_only_impossible_models_are_offered_for_exclude() -> None:
    """240 pixels are 15 patches of 16, and no whole number of 32."""
    models = ["vit32x2x128", "vit16x2x128"]
    text = refusal(models=models, axes={"image_size": [224, 240]})
    (entry,) = json.loads(re.search(r"exclude: (\[.*?\]); or", text).group(1))
    assert entry == {"model": "vit32x2x128", "image_size": 240}
    assert study(models=models, axes={"image_size": [224, 240]}, exclude=[entry])


def test_all_is_not_mistaken_for_an_excluded_place() -> None:
    """GPU 0 and node 0 only stand for "all" here: on a host there are others."""
    for key in ("gpu_ids", "numa_nodes"):
        assert study(**{key: "all"}, exclude=[{key: 0}])
        text = refusal(**{key: "all"}, axes={"batch_size": [10, 7]}, exclude=[{key: 0, "batch_size": 7}])
        assert "batch_size 7" in text


def test_error_is_short_when_the_study_has_no_axes() -> None:
    assert "combinations" not in refusal(num_samples=1001)
    assert "no effect" in refusal(preprocess_node=0)
    assert "no effect" in refusal(concurrent_load="copies")


def test_value_may_depend_on_a_setting_that_an_axis_enables() -> None:
    study(concurrent_load="copies", axes={"concurrent_gpus": [1, 4]})
    study(preprocess_node=0, axes={"preprocess_queue": [0, 4]})


def test_error_counts_all_and_names_the_first() -> None:
    text = refusal(models=[f"vit32x{depth}x128" for depth in range(1, 11)], axes={"batch_size": [10, 32]})
    assert "20 of 40 combinations are impossible" in text and "and 12 more" in text


def test_auto_violates_nothing_until_the_host_is_known() -> None:
    assert study(axes={"cuda_graph": [False, True], "dtype": ["fp32", "tf32"]}).settings.device == "auto"
