"""What a study varies: what is read, what becomes of it, what is refused and with which words."""

from itertools import product

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import StudyError
from bench.study.axes import Combination, combinations, idle_excludes, name_cells
from bench.study.load import StudyDefinition, read_study

BASE = {"name": "s", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit32x2x128"]}


def study(overrides: dict | None = None, **values: object) -> StudyDefinition:
    return read_study({key: value for key, value in (BASE | values).items() if value is not None}, "f.yaml", overrides)


def grid(study: StudyDefinition) -> list[Combination]:
    return combinations(study.gpu_ids, study.placements, study.models, study.axes, study.settings, "f")


def names(study: StudyDefinition) -> list[str]:
    return [name.removeprefix("pipeline_gpu0_numa0_") for _, name, _ in name_cells(grid(study))]


def test_axes_are_crossed_in_written_order() -> None:
    made = study(axes={"dtype": ["fp32", "bf16"], "batch_size": [10, 20]})
    assert names(made) == ["vit32x2x128", "vit32x2x128_bs20", "vit32x2x128_bf16", "vit32x2x128_bs20_bf16"]


def test_axis_of_places_or_models_replaces_the_key() -> None:
    axes = {"gpu_ids": [0, 1], "numa_nodes": [[0], [2]], "model": ["vit0x0x0", "vit0x0x0"]}
    made = study(axes=axes, gpu_ids=None, numa_nodes=None, models=None)
    assert made == study(gpu_ids=[0, 1], numa_nodes=[0, 2], models=["vit0x0x0", "vit0x0x0"])
    assert study(axes={"placements": [[0, 0], [0, 2]]}).placements == ((0, 0), (0, 2))
    assert study(axes={"gpu_ids": "all"}).gpu_ids == "all"


def test_axis_of_a_shape_varies_models_that_compute() -> None:
    made = study(models=["vit0x0x0", "vit32x2x128", "vit32x6x128"], axes={"depth": [2, 4]})
    assert names(made) == ["vit0x0x0", "vit32x2x128", "vit32x4x128"]
    assert [one.model.heads for one in grid(study(axes={"dim": [256, 1024]}))] == [8, 16]


def test_whole_shape_makes_one_model() -> None:
    axes = {"patch_size": [16, 32], "depth": [1, 2], "dim": [64]}
    assert names(study(models=["vit0x0x0", "vit32x6x512", "vit32x6x512"], axes=axes)) == [
        "vit16x1x64", "vit16x2x64", "vit32x1x64", "vit32x2x64",
    ]  # fmt: skip


def test_model_listed_twice_stays_twice_along_every_axis() -> None:
    made = study(models=["vit32x2x128"] * 2, axes={"depth": [2, 4], "dtype": ["bf16", "bf16"]})
    assert names(made) == [
        "vit32x2x128_bf16", "vit32x4x128_bf16", "vit32x2x128_bf16_again", "vit32x4x128_bf16_again",
    ]  # fmt: skip


def test_zip_varies_its_lists_together() -> None:
    made = study(zip=[{"image_size": [224, 448], "patch_size": [16, 32]}], axes={"dtype": ["fp32", "bf16"]})
    assert names(made) == [
        "vit16x2x128", "vit32x2x128_px448", "vit16x2x128_bf16", "vit32x2x128_px448_bf16",
    ]  # fmt: skip


def test_zip_gives_each_gpu_its_own_nodes() -> None:
    made = study(gpu_ids=[0, 1, 2, 3], zip=[{"gpu_ids": [[0, 1], [2, 3]], "numa_nodes": [0, 2]}])
    assert [(one.gpu, one.placement) for one in grid(made)] == [
        (0, (0, 0)), (1, (0, 0)), (2, (2, 2)), (3, (2, 2)),
    ]  # fmt: skip


def test_exclude_drops_combinations_that_match_every_key() -> None:
    made = study(
        models=["vit32x2x128", "vit32x4x128"],
        axes={"dtype": ["fp32", "bf16", "fp16"], "batch_size": [10, 20]},
        exclude=[{"dtype": ["bf16", "fp16"], "batch_size": 20}, {"model": "vit32x4x128", "dtype": "fp16"}],
    )
    assert names(made) == [
        "vit32x2x128", "vit32x2x128_bs20", "vit32x2x128_bf16", "vit32x2x128_fp16",
        "vit32x4x128", "vit32x4x128_bs20", "vit32x4x128_bf16",
    ]  # fmt: skip


def test_exclude_matches_places_shapes_and_heads() -> None:
    values = {"gpu_ids": [0, 1], "numa_nodes": [0, 2], "axes": {"depth": [2, 4]}}
    made = study(**values, exclude=[{"gpu_ids": 0, "numa_nodes": 2}, {"gpu_ids": 1, "depth": 4}])
    assert [(one.gpu, one.placement[1], one.model.depth) for one in grid(made)] == [
        (0, 0, 2), (0, 0, 4), (1, 0, 2), (1, 2, 2),
    ]  # fmt: skip
    models = ["vit32x2x256", {"model": "vit32x2x256", "heads": 4}]
    assert names(study(models=models, exclude=[{"model": {"model": "vit32x2x256", "heads": 4}}])) == ["vit32x2x256"]


def test_include_fills_other_keys_from_the_study() -> None:
    made = study(
        models=["vit32x2x128", "vit0x0x0"],
        axes={"dtype": ["bf16"]},
        exclude=[{"batch_size": 20}],
        include=[{"batch_size": [20, 50]}, {"model": "vit16x1x64", "dtype": "fp16"}, {"dtype": "bf16"}],
    )
    assert names(made) == [
        "vit32x2x128_bf16", "vit0x0x0_bf16",
        "vit32x2x128_bs20", "vit32x2x128_bs50", "vit0x0x0_bs20", "vit0x0x0_bs50",
        "vit16x1x64_fp16",
    ]  # fmt: skip


def test_sweep_adds_axes_and_replaces_the_same_key() -> None:
    file = {"axes": {"dtype": ["fp32", "bf16"], "batch_size": [10, 20]}}
    made = study({"sweep": {"dtype": ["fp16"], "buffers": [1, 2]}}, **file)
    assert made == study(axes={"batch_size": [10, 20], "dtype": ["fp16"], "buffers": [1, 2]})
    zipped = study({"sweep": {"dtype": ["fp16"]}}, zip=[{"dtype": ["fp32", "bf16"], "batch_size": [10, 20]}])
    assert zipped == study(zip=[{"batch_size": [10, 20]}], axes={"dtype": ["fp16"]})


def test_override_replaces_the_axis_of_the_file() -> None:
    file = {"axes": {"dtype": ["fp32", "bf16"], "depth": [2, 4]}}
    assert names(study({"dtype": "fp16"}, **file)) == ["vit32x2x128", "vit32x4x128"]
    assert names(study({"depth": 6}, **file)) == ["vit32x6x128", "vit32x6x128_bf16"]
    assert names(study({"models": ["vit32x8x128"]}, **file)) == ["vit32x8x128", "vit32x8x128_bf16"]
    assert names(study({"dtype": "bf16", "sweep": {"dtype": ["fp32", "bf16"]}})) == ["vit32x2x128_fp32", "vit32x2x128"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"axes": {"dtyp": ["bf16"]}}, ["unknown key 'dtyp'", "did you mean dtype?", "f.yaml: axes"]),
        ({"axes": {"repeats": [1, 2]}}, ["unknown key 'repeats'", "the keys are gpu_ids"]),
        ({"axes": {"device": ["cpu", "cuda"]}}, ["unknown key 'device'"]),
        ({"axes": {"dtype": ["bf61"]}}, ["f.yaml: axes.dtype[0]", "one of fp32", "did you mean bf16?"]),
        ({"axes": {"dtype": "bf16"}}, ["allowed is a list", "f.yaml: axes.dtype", 'write ["bf16"]']),
        ({"gpu_ids": 0}, ["allowed is a list, or all", "f.yaml: gpu_ids", "for example [0, 1]"]),
        ({"exclude": {"dtype": "fp32"}}, ["allowed is a list of mappings", "put it in brackets"]),
        ({"axes": {"batch_size": []}}, ["an empty list"]),
        ({"axes": ["dtype"]}, ["allowed is a mapping"]),
        ({"axes": {"numa_nodes": [0], "placements": [[0, 2]]}}, ["exclude each other"]),
        ({"axes": {"placements": [[0]]}}, ["[CPU node, memory node]", "axes.placements[0]"]),
        ({"axes": {"binding": ["auto", "none"]}}, ["auto cannot be a value of an axis"]),
        ({"zip": {"dtype": ["bf16"]}}, ["allowed is a list of mappings", "f.yaml: zip"]),
        ({"zip": [{"dtype": ["bf16"], "batch_size": [10, 20]}]}, ["dtype has 1, batch_size has 2", "zip[0]"]),
        ({"zip": [{"dtype": ["bf16"]}], "axes": {"dtype": ["fp16"]}}, ["dtype is varied twice"]),
        ({"axes": {"numa_nodes": [0], "placements": [[0, 1]]}}, ["axes", "numa_nodes and placements are one axis"]),
        ({"zip": [{"numa_nodes": [0], "placements": [[0, 1]]}]}, ["zip[0]", "numa_nodes and placements are one axis"]),
        ({"exclude": [{"placements": [[1, 1]], "numa_nodes": 0}]}, ["exclude[0]", "placements and numa_nodes are"]),
        ({"include": [{"model": "vit0x0x0", "models": "vit32x2x64"}]}, ["include[0]", "model and models are one axis"]),
        ({"exclude": [{"depht": 4}]}, ["did you mean depth?", "f.yaml: exclude[0]"]),
        ({"exclude": [{"dtype": "fp32"}]}, ["exclude drops every combination"]),
        ({"include": [{"model": "vit32"}]}, ["'vit32' is not the name of a model", "include[0].model"]),
        ({"axes": {"batch_size": list(range(1, 1001)), "num_samples": list(range(1, 1001))}}, ["1,000,000"]),
    ],
)  # fmt: skip
def test_error_names_place_and_allowed_values(values: dict, words: list[str]) -> None:
    with pytest.raises(StudyError) as refused:
        study(**values)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("key", ["gpu_ids", "models", "exclude"])
def test_error_recognises_invalid_json(key: str) -> None:
    with pytest.raises(StudyError, match="this is not valid JSON"):
        study({key: "[0"})


def test_error_in_a_sweep_names_the_option() -> None:
    for sweep, word in (
        ({"dtype": ["x"]}, "--sweep.dtype[0]"),
        ([1], "--sweep"),
        ({"dephs": [1]}, "did you mean depth"),
        ("{dtype: [bf16]}", "this is not valid JSON"),
    ):
        with pytest.raises(StudyError) as refused:
            study({"sweep": sweep})
        assert word in str(refused.value)


def test_axes_survive_yaml() -> None:
    made = study(
        models=["vit0x0x0", "vit32x2x128"],
        axes={"compile_model": [False, True], "depth": [2, 4]},
        zip=[{"gpu_ids": [[0, 1], 2], "placements": [[[0, 0], [0, 2]], [2, 2]]}],
        exclude=[{"model": ["vit0x0x0", {"model": "vit32x2x128", "heads": 4}]}],
        include=[{"model": "vit32x2x128", "placements": [0, 1]}],
    )
    plain = yaml.safe_load(yaml.safe_dump(made.as_json()))
    assert read_study(plain, "f") == made
    assert plain["axes"] == {"compile_model": ["off", "default"], "depth": [2, 4]}
    assert "axes" not in study().as_json()


_DTYPES, _BATCHES, _GPUS = ("fp32", "bf16", "fp16"), (10, 20, 50), (0, 1, 2)


def _subset(values: tuple) -> st.SearchStrategy[list]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=4)


_ENTRY = {"dtype": _subset(_DTYPES), "batch_size": _subset(_BATCHES), "gpu_ids": _subset(_GPUS)}
_entries = st.lists(st.fixed_dictionaries({}, optional=_ENTRY), max_size=3)


@given(_subset(_DTYPES), _subset(_BATCHES), _entries, _entries)
def test_any_grid_has_the_cells_of_a_brute_force_oracle(
    dtypes: list, batches: list, exclude: list, include: list
) -> None:
    def matches(dtype: str, batch: int, gpu: int, entry: dict) -> bool:
        found = {"dtype": dtype, "batch_size": batch, "gpu_ids": gpu}
        return all(found[key] in values for key, values in entry.items())

    wanted = {
        point for point in product(dtypes, batches, _GPUS) if not any(matches(*point, entry) for entry in exclude)
    }
    for entry in include:
        wanted |= set(product(entry.get("dtype", ["fp32"]), entry.get("batch_size", [10]), entry.get("gpu_ids", _GPUS)))
    axes = {"dtype": dtypes, "batch_size": batches}
    if not wanted:
        with pytest.raises(StudyError, match="drops every"):
            study(gpu_ids=list(_GPUS), axes=axes, exclude=exclude, include=include)
        return
    made = study(gpu_ids=list(_GPUS), axes=axes, exclude=exclude, include=include)
    found = [(one.changes.get("dtype", "fp32"), one.changes.get("batch_size", 10), one.gpu) for one in grid(made)]
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert len({name for _, name, _ in name_cells(grid(made))}) == len(found)
    idle = idle_excludes(made.gpu_ids, made.placements, made.models, made.axes, made.settings)
    assert idle == [
        index
        for index, entry in enumerate(exclude)
        if not any(matches(*point, entry) for point in product(dtypes, batches, _GPUS))
    ]
