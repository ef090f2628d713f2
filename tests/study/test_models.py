"""Models from elsewhere in a study: their names, keys and files; nothing of them is imported here."""

import hashlib
import json
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import yaml

from bench.errors import StudyError
from bench.records.base import DamagedRecord, convert
from bench.records.study import Cell, Model
from bench.study.duration import Earlier, estimated
from bench.study.grid import expand_here
from bench.study.load import load_study, read_study
from bench.study.models import source_file
from tests.workload.cells import raw_cell

BASE = {"name": "s", "gpu_ids": [0], "numa_nodes": [0], "device": "cpu"}
FACTORY = "raise SystemExit('imported')\n\ndef make(batch_size): ...\n"


def study(folder: Path, models, **more):
    return read_study(BASE | {"models": models} | more, "study.yaml", folder=folder)


def refused(folder: Path, models, **more) -> StudyError:
    with pytest.raises(StudyError) as raised:
        study(folder, models, **more)
    return raised.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    (tmp_path / "own").mkdir(mode=0o755)
    (tmp_path / "own" / "factory.py").write_text(FACTORY)
    (tmp_path / "own" / "factory.py").chmod(0o644)
    (tmp_path / "net.pt2").write_bytes(b"program")
    (tmp_path / "net.pt2").chmod(0o644)
    return tmp_path


def names(definition) -> list[str]:
    return [model.name for model in definition.models]


def test_names_come_from_the_source_or_from_as(folder):
    models = ["timm:resnet50", "python:factory:make", "pt2:net.pt2", "vit32x6x512",
              {"model": "timm:resnet50", "own_size": True, "as": "own"}]  # fmt: skip
    found = study(folder, models, python_path=["own"], image_size=256)
    assert names(found) == ["timm-resnet50", "py-make", "pt2-net", "vit32x6x512", "own"]
    assert [model.own_size for model in found.models] == [False] * 4 + [True]


def test_cells_are_named_by_the_model(folder):
    found = study(folder, ["timm:resnet50.a1_in1k", "pt2:net.pt2"])
    cells = expand_here(found, topology()).grid.cells
    assert [cell.name for cell in cells] == ["pipeline_gpu0_numa0_timm-resnet50.a1_in1k", "pipeline_gpu0_numa0_pt2-net"]


def topology():
    from bench.host.topology import read_topology

    return read_topology()


def test_models_of_one_name_need_another(folder):
    (folder / "more").mkdir(mode=0o755)
    (folder / "more" / "net.pt2").write_bytes(b"other")
    (folder / "more" / "net.pt2").chmod(0o644)
    error = refused(folder, ["pt2:net.pt2", "pt2:more/net.pt2"])
    assert error.what == "two models are named pt2-net" and "as: NAME" in error.advice
    assert names(study(folder, ["pt2:net.pt2", {"model": "pt2:more/net.pt2", "as": "b"}])) == ["pt2-net", "b"]


def test_model_listed_twice_is_measured_twice(folder):
    found = study(folder, ["timm:resnet50", "timm:resnet50"])
    assert len(expand_here(found, topology()).grid.cells) == 2


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("resnet50", "'resnet50' is not the name of a model (did you mean timm:resnet50?)"),
        ("resnet", "'resnet' is not the name of a model"),
        ("timm:resnet5", "timm has no model resnet5 (did you mean resnet50?)"),
        ("timm:hf-hub:a/b", "'timm:hf-hub:a/b': source is not timm:NAME"),
        ("timm:../x", "'timm:../x': source is not timm:NAME"),
        ("python:factory", "'python:factory': source is not timm:NAME"),
        ("python:os.system('x'):y", "source is not timm:NAME"),
        ("python:nowhere.here:make", "there is no module nowhere"),
        ("python:factory.more:make", "there is no module factory.more"),
        ("python:sys:make", "there is no module sys"),
        ("pt2:missing.pt2", "No such file or directory"),
        ("pt2:" + 300 * "x", "File name too long"),
        ("pt2:", "is no regular file"),
        ("pt2:a\0b", "source is not timm:NAME"),
        ("pt2:\ud800", "is no path"),
        ({"model": "timm:resnet50", "heads": 8}, "heads is for ViTs of the grid"),
        ({"model": "vit32x6x512", "as": "big"}, "as is for models from elsewhere"),
        ({"model": "timm:resnet50", "as": "vit32x6x512"}, "vit32x6x512 is the name of a ViT"),
        ({"model": "timm:resnet50", "as": "a/b"}, "a name has letters, digits"),
        ({"model": "timm:resnet50", "as": 7}, "Expected `str`"),
        ({"model": "python:factory:make", "own_size": True}, "own_size is for timm models"),
        ({"model": "pt2:net.pt2", "sha256": "0" * 64}, "is not the file with sha256 000"),
        ({"model": "pt2:net.pt2", "sha256": "0"}, "matching regex"),
        ({"model": "timm:resnet50", "size": 3}, "allowed is a name or a mapping with the keys model, heads"),
        (7, "7 is not the name of a model"),
        ([7], "[7] is not the name of a model"),
        ({"model": {}}, "{} is not the name of a model"),
    ],
)
def test_model_that_does_not_exist_is_refused(folder, model, what):
    assert what in refused(folder, [model], python_path=["own"]).what


def test_file_that_others_can_write_is_refused(folder):
    (folder / "net.pt2").chmod(0o664)
    error = refused(folder, ["pt2:net.pt2"])
    assert "can be written by other users (chmod go-w)" in error.what
    (folder / "own" / "factory.py").chmod(0o666)
    error = refused(folder, ["python:factory:make"], python_path=["own"])
    assert error.what.endswith("factory.py can be written by other users (chmod go-w)")
    (folder / "own" / "factory.py").chmod(0o644)
    (folder / "own").chmod(0o777)
    assert "can be written by other users" in refused(folder, ["python:factory:make"], python_path=["own"]).what


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (["nowhere"], "No such file"),
        (["net.pt2"], "is not a folder"),
        ("own", "a list"),
        ([7], "found 7"),
        (["\0"], "is no path"),
    ],
)
def test_python_path_is_folders_that_exist(folder, path, what):
    assert what in refused(folder, ["python:factory:make"], python_path=path).what


@pytest.mark.parametrize(
    ("model", "settings", "what"),
    [
        ("pt2:net.pt2", {"compile_model": "default"}, "excludes compile_model default"),
        ("pt2:net.pt2", {"dtype": "bf16"}, "excludes dtype bf16"),
        ("pt2:net.pt2", {"axes": {"image_size": [224, 256]}}, "which image_size does not change"),
        ("python:factory:make", {"axes": {"image_size": [224, 256]}}, "which image_size does not change"),
        ("python:factory:make", {"preprocess_queue": 2}, "excludes preprocess_queue 2"),
        ("python:factory:make", {"attention": "unfused"}, "excludes attention unfused"),
    ],
)
def test_settings_that_do_not_reach_a_model_are_refused(folder, model, settings, what):
    assert what in refused(folder, [model], python_path=["own"], **settings).what


def test_excluding_what_is_impossible_leaves_the_rest(folder):
    axes = {"compile_model": ["off", "default"]}
    advice = refused(folder, ["pt2:net.pt2", "vit32x6x512"], axes=axes).advice
    exclude = json.loads(advice.split("exclude: ")[1].split("; ")[0].split(" and ")[0])
    found = study(folder, ["pt2:net.pt2", "vit32x6x512"], axes=axes, exclude=exclude)
    assert len(expand_here(found, topology()).grid.cells) == 3


def test_time_of_a_model_from_elsewhere_is_unknown_on_the_cpu_device(folder):
    for models, known in ((["timm:resnet50"], False), (["vit32x6x512"], True)):
        grid = expand_here(study(folder, models), topology()).grid
        assert (estimated(grid, grid.order, Earlier({}, 0, 0), lambda: 1e9) is not None) is known


def test_own_size_unless_the_study_sets_one(folder):
    assert study(folder, ["timm:resnet50"]).models[0].own_size
    for more in ({"image_size": 224}, {"axes": {"image_size": [224, 256]}}):
        assert not study(folder, ["timm:resnet50"], **more).models[0].own_size


def test_parts_of_a_shape_change_vits_only(folder):
    found = read_study(BASE | {"models": ["timm:resnet50", "vit32x6x512"]}, str(folder / "s.yaml"), {"depth": 2})
    assert names(found) == ["timm-resnet50", "vit32x2x512"]


def test_models_as_an_axis_are_identified_too(folder):
    axes = {"model": ["pt2:net.pt2", "timm:resnet50"]}
    found = read_study(BASE | {"axes": axes}, "s.yaml", folder=folder)
    assert names(found) == ["pt2-net", "timm-resnet50"] and len(found.models[0].sha256) == 64
    values = BASE | {"models": ["vit32x6x512"], "include": [{"model": "pt2:net.pt2"}]}
    (added,) = read_study(values, "s.yaml", folder=folder).axes.include[0]["model"]
    assert len(added.sha256) == 64


def test_written_study_is_the_same_study(folder):
    models = ["timm:resnet50", {"model": "python:factory:make", "as": "mine"}, "pt2:net.pt2", "vit32x6x512"]
    found = study(folder, models, python_path=["own"])
    other = folder / "elsewhere"
    other.mkdir()
    (other / "study.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(found.as_json()))))
    again = load_study(other / "study.yaml")
    assert again.models == found.models and again.as_json() == found.as_json()
    record = expand_here(found, topology()).study
    assert [one.model for one in record.models] == [
        "timm:resnet50", "python:factory:make", f"pt2:{folder}/net.pt2", "vit32x6x512",
    ]  # fmt: skip


def test_changed_program_is_another_study(folder):
    before = study(folder, ["python:factory:make"], python_path=["own"]).as_json()
    (folder / "own" / "factory.py").write_text(FACTORY + "# changed\n")
    assert study(folder, ["python:factory:make"], python_path=["own"]).as_json() != before


def test_paths_of_the_command_line_are_relative_to_where_it_is(folder, monkeypatch):
    monkeypatch.chdir(folder)
    given = {"models": ["pt2:net.pt2", "python:factory:make"], "python_path": ["own"]}
    found = read_study(BASE | {"models": ["vit32x6x512"]}, "/elsewhere/s.yaml", given)
    assert found.models[0].source == f"pt2:{folder}/net.pt2"
    assert found.models[1].python_path == (f"{folder}/own",)


def test_factory_is_found_and_not_imported(folder):
    package = folder / "own" / "package"
    package.mkdir(mode=0o755)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "inner.py").write_text(FACTORY)
    assert source_file("package.inner", [str(folder / "own")], "") == package / "inner.py"
    assert source_file("torch.nn", [str(folder)], "").parts[-2:] == ("nn", "__init__.py")
    assert "torch.nn" not in sys.modules or sys.modules["torch"].__file__.endswith("torch/__init__.py")


def test_current_folder_is_not_searched(folder, monkeypatch):
    monkeypatch.chdir(folder / "own")
    monkeypatch.syspath_prepend(str(folder / "own"))
    assert "there is no module factory" in refused(folder, ["python:factory:make"]).what
    # A package that is installed in place is found where it is, also from there.
    monkeypatch.chdir(Path(__file__).parents[2])
    assert source_file("bench.units", [], "") == Path.cwd() / "bench" / "units.py"


def test_package_that_is_installed_by_a_finder_is_found(folder, monkeypatch):
    """As setuptools installs a package in place whose folder has another name."""

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            file = folder / "own" / "factory.py"
            return spec_from_file_location(name, file) if name == "installed_in_place" else None

    Finder.__module__ = "__editable___own_1_0_finder"
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert source_file("installed_in_place", [], "") == folder / "own" / "factory.py"


def test_what_is_installed_goes_before_python_path(folder):
    (folder / "own" / "torch.py").write_text("raise SystemExit('planted')")
    assert "site-packages" in str(source_file("torch", [str(folder / "own")], ""))


# Keys and records


def key(**model) -> str:
    shape = {"patch_size": 0, "depth": 0, "dim": 0, "heads": 0}
    return convert(raw_cell(model=shape | model), Cell).key


def test_key_holds_the_program_and_no_path():
    one, other = "a" * 64, "b" * 64
    assert key(source="pt2:/here/net.pt2", sha256=one) == key(source="pt2:/there/x.pt2", sha256=one, name="x")
    assert key(source="pt2:/here/net.pt2", sha256=one) != key(source="pt2:/here/net.pt2", sha256=other)
    assert key(source="timm:resnet18") != key(source="timm:resnet50") != key(source="timm:resnet50", own_size=True)
    assert key(source="python:a:b", sha256=one, python_path=["/x"]) == key(source="python:a:b", sha256=one)


def test_key_of_a_vit_is_what_it_was():
    """As written by versions before models from elsewhere."""
    model = {"name": "vit32x6x512", "patch_size": 32, "depth": 6, "dim": 512, "heads": 8}
    assert convert(raw_cell(model=model, device="cuda", image_size=224), Cell).key == KNOWN
    assert convert(raw_cell(model=model, device="cuda", image_size=224), Cell).model == Model(
        patch_size=32, depth=6, dim=512, heads=8
    )


KNOWN = "61662a698013"


@pytest.mark.parametrize("source", ["timm:", "http://x", "pt2:net.pt2", "python:a", "timm:a\n", "pt2:/a\nb"])
def test_record_with_another_source_is_damaged(source):
    with pytest.raises(DamagedRecord):
        convert({"patch_size": 0, "depth": 0, "dim": 0, "heads": 0, "source": source}, Model)


def test_digest_is_that_of_the_file(folder):
    (model,) = study(folder, ["pt2:net.pt2"]).models
    assert model.sha256 == hashlib.sha256(b"program").hexdigest()
