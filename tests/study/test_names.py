"""What cells are called: each setting that differs from the study's own has its suffix."""

import pytest

from bench.study.axes import combinations, name_cells
from bench.study.load import read_study
from bench.study.settings import AXIS_KEYS, SETTINGS

BASE = {"name": "s", "gpu_ids": [1], "numa_nodes": [2], "models": ["vit32x6x512"]}
STEM = "pipeline_gpu1_numa2_vit32x6x512"


def called(**values: object) -> list[tuple[str, str]]:
    study = read_study(BASE | values, "f")
    found = combinations(study.gpu_ids, study.placements, study.models, study.axes, study.settings, "f")
    return [(name, group) for _, name, group in name_cells(found)]


@pytest.mark.parametrize(
    ("key", "value", "suffix", "base"),
    [
        ("batch_size", 50, "bs50", {}),
        ("image_size", 512, "px512", {}),
        ("dtype", "bf16", "bf16", {}),
        ("dtype", "fp16", "fp16", {}),
        ("dtype", "tf32", "tf32", {}),
        ("dtype", "fp32", "fp32", {"dtype": "bf16"}),
        ("cuda_graph", True, "graph", {}),
        ("cuda_graph", False, "eager", {"cuda_graph": True}),
        ("compile_model", True, "compiled", {}),
        ("compile_model", "reduce-overhead", "compiled-reduce-overhead", {}),
        ("compile_model", "max-autotune", "compiled-max-autotune", {}),
        ("compile_model", "off", "uncompiled", {"compile_model": "default"}),
        ("attention", "unfused", "unfused-attention", {}),
        ("attention", "fused", "fused-attention", {"attention": "unfused"}),
        ("buffers", 1, "buf1", {}),
        ("memory_size_mb", 256, "pool256", {}),
        ("host_memory", "pageable", "pageable", {}),
        ("host_memory", "write-combined", "write-combined", {}),
        ("host_memory", "registered", "registered", {}),
        ("host_memory", "huge", "huge", {}),
        ("host_memory", "pinned", "pinned", {"host_memory": "huge"}),
        ("copy_granularity", "sample", "sample-copies", {}),
        ("copy_granularity", "batch", "batch-copies", {"copy_granularity": "sample"}),
        ("direction", "h2d", "h2d-only", {}),
        ("direction", "d2h", "d2h-only", {}),
        ("direction", "both", "both-ways", {"direction": "h2d"}),
        ("preprocess_queue", 4, "prep4", {}),
        ("preprocess_queue", 0, "prep0", {"preprocess_queue": 4}),
        ("preprocess_node", 2, "prepnode2", {"preprocess_queue": 4}),
        ("preprocess_node", -1, "prepnode-own", {"preprocess_queue": 4, "preprocess_node": 2}),
        ("concurrent_gpus", 4, "gpus4", {}),
        ("concurrent_load", "copies", "copies-load", {"concurrent_gpus": 4}),
        ("concurrent_load", "pipeline", "pipeline-load", {"concurrent_gpus": 4, "concurrent_load": "copies"}),
        ("concurrent_placement", "remote", "remote-load", {"concurrent_gpus": 4}),
        ("concurrent_placement", "found", "found-load", {"concurrent_gpus": 4}),
        ("concurrent_placement", "local", "local-load", {"concurrent_gpus": 4, "concurrent_placement": "found"}),
        ("num_samples", 2000, "n2000", {}),
        ("warmup_samples", 50, "warm50", {}),
        ("windows", 15, "windows15", {}),
        ("window_s", 0.25, "window0.25s", {}),
        ("seed", 7, "seed7", {}),
        ("binding", "none", "unbound", {"binding": "numactl"}),
        ("binding", "numactl", "bound", {"binding": "none"}),
        ("binding", "cpus", "cpus-bound", {"binding": "none"}),
    ],
)  # fmt: skip
def test_setting_has_a_suffix_when_it_differs(key: str, value: object, suffix: str, base: dict) -> None:
    own = getattr(read_study(BASE | base, "f").settings, key)
    assert called(**base, axes={key: [own, value]}) == [
        (STEM, "gpu1_vit32x6x512"),
        (f"{STEM}_{suffix}", f"gpu1_vit32x6x512_{suffix}"),
    ]


def test_every_value_of_every_choice_has_its_own_suffix() -> None:
    suffixes = [
        setting.axis.suffix_of(value)
        for key, setting in SETTINGS.items()
        if key in AXIS_KEYS
        for value in (setting.choices or ((True, False) if setting.kind is bool else (7,)))
        if value != "auto"
    ]
    assert len(set(suffixes)) == len(suffixes)
    assert not any("_" in suffix or "/" in suffix or " " in suffix for suffix in suffixes)


def test_suffixes_have_one_order_and_again_is_last() -> None:
    values = {"batch_size": 50, "dtype": "bf16", "cuda_graph": True, "buffers": 3, "num_samples": 2000}
    axes = {key: [value] for key, value in reversed(values.items())}
    (first, _), (again, group) = called(models=["vit32x6x512"] * 2, axes=axes)
    assert first == f"{STEM}_bs50_bf16_graph_buf3_n2000"
    assert again == f"{first}_again"
    assert group == "gpu1_vit32x6x512_bs50_bf16_graph_buf3_n2000"


def test_group_has_no_places_and_cpu_node_comes_first() -> None:
    study = BASE | {"placements": [[2, 2], [0, 2]], "axes": {"dtype": ["bf16"]}}
    del study["numa_nodes"]
    study = read_study(study, "f")
    found = combinations(study.gpu_ids, study.placements, study.models, study.axes, study.settings, "f")
    assert [(name, group) for _, name, group in name_cells(found)] == [
        (f"{STEM}_bf16", "gpu1_vit32x6x512_bf16"),
        (f"{STEM}_cpu0_bf16", "gpu1_vit32x6x512_bf16"),
    ]


def test_heads_distinguish_models_of_one_name() -> None:
    models = ["vit32x6x512", {"model": "vit32x6x512", "heads": 4}]
    assert called(models=models, axes={"dtype": ["bf16"]})[1] == (
        f"{STEM}_heads4_bf16", "gpu1_vit32x6x512_heads4_bf16",
    )  # fmt: skip
