"""Study files: what is read, what is refused, and with which words."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import StudyError
from bench.study.load import configs_folder, load_study, read_study
from bench.study.settings import AXIS_KEYS, KEYS, SETTINGS

GOOD = {"name": "s", "gpu_ids": [0], "numa_nodes": [0, 2], "models": ["vit32x2x128"]}


def changed(**changes: object) -> dict:
    return {key: value for key, value in (GOOD | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("stem", "gpus", "placements", "models", "samples"),
    [
        ("numa_locality_study", 4, 2, 6, 1000),
        ("quick_test", 1, 1, 3, 100),
        ("model_scaling_study", 1, 1, 9, 2000),
    ],
)
def test_shipped_studies_have_their_grids(stem: str, gpus: int, placements: int, models: int, samples: int) -> None:
    study = load_study(configs_folder() / f"{stem}.yaml")
    assert (study.name, len(study.gpu_ids), len(study.placements), len(study.models)) == (
        stem, gpus, placements, models,
    )  # fmt: skip
    assert study.settings.num_samples == samples


def test_heads_of_the_shipped_models_are_those_of_the_design() -> None:
    def heads(stem: str) -> list[int]:
        return [model.heads for model in load_study(configs_folder() / f"{stem}.yaml").models]

    assert heads("numa_locality_study") == [0, 4, 8, 8, 12, 16]
    assert heads("quick_test") == [0, 4, 8]
    assert heads("model_scaling_study") == [8] * 9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batchsize": 4}, ["unknown key 'batchsize'", "did you mean batch_size?", "f.yaml"]),
        ({"batch_size": 0}, ["found 0", "from 1 to", "f.yaml: batch_size"]),
        ({"batch_size": "ten"}, ['found "ten"', "a whole number", "f.yaml: batch_size"]),
        ({"batch_size": True}, ["found true", "a whole number"]),
        ({"num_samples": 1001}, ["1001 is not a multiple of batch_size 10"]),
        ({"models": []}, ["empty list", "f.yaml: models"]),
        ({"gpu_ids": []}, ["empty list", "f.yaml: gpu_ids"]),
        ({"gpu_ids": [0, -1]}, ["found -1", "f.yaml: gpu_ids[1]"]),
        ({"gpu_ids": [1, 1]}, ["an id twice"]),
        ({"numa_nodes": None}, ["missing key numa_nodes"]),
        ({"name": "../../etc"}, ["'../../etc'", "f.yaml: name"]),
        ({"models": ["vit30x2x128"]}, ["224 pixels cannot be cut into patches of 30", "28 and 32"]),
        ({"models": [{"model": "vit32x2x130", "heads": 8}]}, ["dim 130 is not divisible by 8 heads", "5 and 10"]),
        ({"models": ["vit32x2x0"]}, ["dim cannot be 0"]),
        ({"models": ["resnet50"]}, ["'resnet50' is not the name of a model", "f.yaml: models[0]"]),
        ({"models": [{"model": "vit32x2x128", "head": 4}]}, ["keys model, heads"]),
        ({"dtype": "fp23"}, ['found "fp23"', "one of fp32, tf32, bf16, fp16", "did you mean fp32?"]),
        ({"cuda_graph": True, "compile_model": True}, ["exclude each other"]),
        ({"cuda_graph": True, "device": "cpu"}, ["cuda_graph needs device cuda"]),
        ({"placements": [[0, 2]]}, ["numa_nodes and placements exclude each other"]),
        ({"numa_nodes": None, "placements": [[0]]}, ["[CPU node, memory node]", "placements[0]"]),
        ({"windows": 3}, ["from 9 to"]),
        ({"question": ["why", "how"]}, ["found ['why', 'how']", "a text", "f.yaml: question"]),
        ({"question": "half of \ud800"}, ["a text"]),
        ({"timeout_s": 10**400}, ["a number from 1 to", "f.yaml: timeout_s"]),
    ],
)  # fmt: skip
def test_bad_values_are_refused_with_place_and_remedy(changes: dict, words: list[str]) -> None:
    with pytest.raises(StudyError) as refused:
        read_study(changed(**changes), "f.yaml")
    for word in words:
        assert word in str(refused.value)


def test_everything_that_is_wrong_by_itself_is_reported_at_once() -> None:
    values = changed(gpu_id=[0], repeat=3, repeats=0, models=["resnet50"], name="a/b")
    with pytest.raises(StudyError) as refused:
        read_study(values, "f.yaml", {"batch_size": "ten", "dtyp": "bf16"})
    assert refused.value.what.splitlines() == [
        "6 errors",
        "  f.yaml: unknown keys 'gpu_id' (did you mean gpu_ids?), 'repeat' (did you mean repeats?)",
        "  command line: unknown key 'dtyp' (did you mean dtype?)",
        "  f.yaml: name: found 'a/b', allowed are up to 64 letters, digits, '_', '-' and '.'",
        "  f.yaml: models[0]: 'resnet50' is not the name of a model (did you mean timm:resnet50?)",
        "  f.yaml: repeats: found 0, allowed is a whole number from 1 to 100000",
        '  --batch-size: found "ten", allowed is a whole number from 1 to 65536',
    ]
    assert "timm:NAME" in refused.value.advice and "the name becomes a folder" in refused.value.advice


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        ({"batch_size": 3}, "--batch-size; f.yaml: num_samples"),
        ({"batch_size": 3, "num_samples": 100}, "--batch-size; --num-samples"),
        ({"image_size": 30}, "--image-size"),
        ({"patch_size": 30}, "--patch-size"),
        ({"sweep": {"dtype": ["fp32", "tf32"]}, "device": "cpu"}, "--sweep"),
        ({"models": ["vit32x2x128", "vit30x2x128"]}, "--models[1]"),
    ],
)
def test_source_of_what_is_wrong_together_is_where_it_was_given(overrides: dict, where: str) -> None:
    with pytest.raises(StudyError) as refused:
        read_study(changed(num_samples=1000), "f.yaml", overrides)
    assert refused.value.where == where


def test_question_may_be_empty() -> None:
    assert read_study(GOOD | {"question": None}, "f").question == ""


def test_overrides_win_and_are_named_as_options() -> None:
    study = read_study(GOOD, "f.yaml", {"gpu_ids": "all", "numa_nodes": [1], "batch_size": 5, "compile_model": True})
    assert (study.gpu_ids, study.placements, study.settings.batch_size) == ("all", ((1, 1),), 5)
    assert study.settings.compile_model == "default"
    with pytest.raises(StudyError, match="--batch-size"):
        read_study(GOOD, "f.yaml", {"batch_size": 0})


def test_numa_nodes_option_replaces_placements_of_the_file() -> None:
    values = changed(numa_nodes=None, placements=[[0, 2], [2, 2]])
    assert read_study(values, "f").placements == ((0, 2), (2, 2))
    assert read_study(values, "f", {"numa_nodes": [1]}).placements == ((1, 1),)


def test_placements_option_replaces_numa_nodes_of_the_file() -> None:
    assert read_study(GOOD, "f", {"placements": [[0, 2], [2, 0]]}).placements == ((0, 2), (2, 0))
    with pytest.raises(StudyError, match="numa_nodes and placements exclude each other"):
        read_study(GOOD, "f", {"placements": [[0, 2]], "numa_nodes": [0]})


def test_model_overrides_change_every_model_that_computes_once() -> None:
    values = changed(models=["vit0x0x0", "vit32x2x128", "vit32x4x128"])
    study = read_study(values, "f", {"depth": 3})
    assert [model.name for model in study.models] == ["vit0x0x0", "vit32x3x128"]
    study = read_study(values, "f", {"patch_size": 16, "depth": 1, "dim": 64})
    assert [model.name for model in study.models] == ["vit16x1x64"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "not valid YAML"),
        ("just a text", "a study is a mapping"),
        ("a: &x [1]\nb: *x", "anchors and aliases"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_file_that_is_not_a_study_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=words) as refused:
        load_study(path)
    assert str(path) in str(refused.value)


def test_error_for_a_missing_file_names_shipped_studies() -> None:
    with pytest.raises(StudyError, match="quick_test"):
        load_study("nowhere.yaml")


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), _PLAIN, max_size=8))
def test_any_mapping_is_a_study_or_a_study_error(values: dict) -> None:
    try:
        read_study(GOOD | values, "f.yaml")
    except StudyError as error:
        assert str(error)


_AXES = st.dictionaries(
    st.sampled_from(AXIS_KEYS) | st.text(max_size=8), _PLAIN | st.lists(_PLAIN, max_size=3), max_size=3
)


@given(_AXES, st.lists(_AXES, max_size=2), st.lists(_AXES, max_size=2), st.lists(_AXES, max_size=2), _AXES)
def test_any_axes_are_a_study_or_a_study_error(
    axes: dict, zipped: list, exclude: list, include: list, sweep: dict
) -> None:
    values = GOOD | {"axes": axes, "zip": zipped, "exclude": exclude, "include": include}
    try:
        read_study(values, "f.yaml", {"sweep": sweep})
    except StudyError as error:
        assert str(error)


def test_as_json_reads_back_as_the_same_study() -> None:
    study = read_study(changed(placements=None, question="why?"), "f")
    plain = yaml.safe_load(yaml.safe_dump(study.as_json()))
    assert read_study(plain, "f") == study


def test_every_default_is_allowed() -> None:
    for setting in SETTINGS.values():
        assert setting.read(setting.default, setting.key) == setting.default
