"""Models from elsewhere, on the cpu device: what they move, what they give, and what is refused."""

import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.records.base import plain, read
from bench.records.run import ChildReport, Mode, Outcome
from bench.study.models import timm_names
from bench.workload.devices import CpuDevice
from bench.workload.failures import RunFailure
from bench.workload.measure import first_batch_again
from bench.workload.models import import_timm
from bench.workload.pipeline import no_beat
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import build_pipeline, execute
from bench.workload.subject import build_subject
from tests.needs import needs

from . import factories
from .cells import small_cell
from .families import FAMILIES

HERE = Path(__file__).parent
CPU = torch.device("cpu")
# One input tensor of batch size 4, or what else is in it.
GOOD = {
    "plain": ([4 * 8 * 4], [4 * 4 * 4]),
    "arguments": ([4 * 8 * 4, 3 * 8 * 4], [4 * 3 * 4]),
    "named": ([4 * 8 * 4], [4 * 8 * 4]),
    "nested": ([4 * 2 * 4] * 3, [4 * 2 * 4] * 2),
    "tokens": ([4 * 6 * 8], [4 * 3 * 4]),
    "integers": ([4 * 3 * 8], [4 * 3 * 8]),
    "mask": ([4 * 4 * 4, 4 * 4], [4 * 4 * 4]),
    "scalar": ([4 * 4 * 4], [4]),
    "ragged": ([4 * 1 * 4, 4 * 5 * 4, 4 * 9 * 4], [4 * 4] * 3),
    "transposed": ([4 * 4 * 4], [4 * 4 * 4]),
    "constants": ([4 * 4 * 4], [4 * 4 * 4]),
    "any_keyword": ([4 * 8 * 4], [4 * 4 * 4]),
    "half": ([4 * 8 * 4], [4 * 4 * 4]),
}
REFUSED = {
    "alias": "output 0 shares its memory with an input",
    "in_place": "it changes its input 0",
    "dropout": "two calls on the same inputs give different values of output 0",
    "changing": r"two calls on the same inputs return shapes \[\[1, 4\]\] and \[\[2, 4\]\]",
    "empty": "input 1 is empty",
    "no_tensor": "its example inputs have no tensor",
    "returns_nothing": "it returns no tensor",
    "returns_infinity": "output 0 is not finite",
    "other_batch": r"no input begins with the batch size 4: their shapes are \[7, 4\]",
    "wants_more": "it requires vocabulary",
    "not_a_pair": "it returned Tensor",
    "imports": "it raised ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
    "not_callable": "the module has no function not_callable",
    "missing": "the module has no function missing",
}


def sha256(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def model_from(source: str, **more):
    return {"patch_size": 0, "depth": 0, "dim": 0, "heads": 0, "source": source} | more


def factory(name: str, **changes):
    model = model_from(f"python:tests.workload.factories:{name}", sha256=sha256(HERE / "factories.py"))
    return small_cell(model=model, **changes)


def timm(name: str, **changes):
    return small_cell(model=model_from(f"timm:{name}"), **changes)


def built(cell):
    return build_pipeline(cell, CpuDevice(), PhaseTimes())


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


# Factories


@pytest.mark.parametrize("name", GOOD)
def test_factory_moves_exactly_its_bytes(name):
    pipeline = built(factory(name))
    into, back = GOOD[name]
    assert [ring[0].nbytes for ring in pipeline.rings.inputs] == into
    assert [ring[0].nbytes for ring in pipeline.rings.outputs] == back
    assert (pipeline.subject.input_bytes, pipeline.subject.output_bytes) == (sum(into), sum(back))
    assert first_batch_again(pipeline) == first_batch_again(built(factory(name)))


@pytest.mark.parametrize("name", ["nested", "mask", "ragged", "transposed"])
@pytest.mark.parametrize("buffers", [1, 3])
def test_every_batch_of_several_leaves_is_right(name, buffers):
    """Outputs are compared with the call itself; every batch repeats the example."""
    pipeline = built(factory(name, buffers=buffers))
    pipeline.run(7, no_beat)
    pipeline.drain()
    expected = pipeline.subject.call(pipeline.slots[0])
    for index in range(7):
        for found, leaf in zip(as_list(pipeline.output_of(index)), as_list(expected), strict=True):
            assert torch.equal(found, leaf)


def as_list(batch):
    return batch if isinstance(batch, list) else [batch]


def test_inputs_are_repeated_exactly():
    pipeline = built(factory("tokens"))
    (ring,) = pipeline.rings.inputs
    assert len(ring) > 2 and all(torch.equal(batch, ring[0]) for batch in ring)
    assert torch.equal(ring[0], pipeline.subject.example[0])


def test_integers_have_an_exact_checksum():
    assert first_batch_again(built(factory("integers"))) == 2 * sum(range(12))


def test_batch_that_never_came_back_is_no_result():
    for name in ("plain", "integers"):
        pipeline = built(factory(name))
        (ring,) = pipeline.rings.outputs
        worst = torch.isnan(ring) if name == "plain" else ring == torch.iinfo(ring.dtype).max
        assert worst.all()


def test_output_in_pieces_is_copied_in_one():
    subject = build_subject(factory("transposed"), CPU)
    assert subject.facts.made_contiguous == [0]
    assert build_subject(factory("plain"), CPU).facts.made_contiguous == []


def test_shape_that_follows_constant_data_is_constant():
    pipeline = built(factory("chosen"))
    assert pipeline.subject.output_bytes == int((pipeline.subject.example[0] > 0).sum()) * 4
    first_batch_again(pipeline)


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_one_way_moves_all_leaves_of_that_way(direction):
    result = execute(factory("nested", direction=direction), Mode.TIMED, Progress(), PhaseTimes())
    assert (result.bytes_in_per_batch, result.bytes_out_per_batch) == {"h2d": (96, 0), "d2h": (0, 64)}[direction]
    rings = {"h2d": {"input_ring0", "input_ring1", "input_ring2"}, "d2h": {"output_ring0", "output_ring1"}}
    assert set(result.certificate.buffers) == rings[direction]


def test_half_precision_reaches_the_factory():
    assert built(factory("half", dtype="bf16")).subject.input_bytes == 4 * 8 * 2
    with pytest.raises(RunFailure, match="it takes no dtype, and the study has bf16") as raised:
        built(factory("plain", dtype="bf16"))
    assert raised.value.status is Outcome.NOT_RUNNABLE


@pytest.mark.parametrize("name", REFUSED)
def test_factory_that_cannot_be_measured_is_refused(name, capsys):
    with pytest.raises(RunFailure, match=f"python:tests.workload.factories:{name}: {REFUSED[name]}") as raised:
        built(factory(name))
    assert raised.value.status is Outcome.NOT_RUNNABLE and raised.value.advice
    assert "Traceback" not in capsys.readouterr().err


def test_factory_that_raises_is_named_with_its_traceback(capsys):
    with pytest.raises(RunFailure, match="it raised ValueError: no weights here") as raised:
        built(factory("raises"))
    assert raised.value.status is Outcome.CRASHED
    assert "Traceback" in capsys.readouterr().err


def test_factory_that_changed_since_the_study_is_refused():
    cell = small_cell(model=model_from("python:tests.workload.factories:plain", sha256="0" * 64))
    with pytest.raises(RunFailure, match="is not the file that the study was made with"):
        built(cell)


@pytest.mark.parametrize("name", ["plain", "nested"])
def test_copies_by_sample_need_one_leaf(name):
    cell = factory(name, copy_granularity="sample")
    if name == "plain":
        assert [len(parts) for parts in built(cell).host_in[:2]] == [4, 4]
    else:
        with pytest.raises(RunFailure, match="copy_granularity sample, and its inputs are not one tensor"):
            built(cell)


@needs("g++")
@pytest.mark.slow
def test_nested_inputs_compile_whole():
    plain, compiled = (built(factory("nested", compile_model=mode)) for mode in ("off", "default"))
    assert first_batch_again(plain) == pytest.approx(first_batch_again(compiled), rel=1e-5)


# The program: what it imports


def run_program(folder: Path, cell, module="bench.workload") -> ChildReport:
    (folder / "cell.json").write_text(json.dumps(plain(cell)))
    argv = [sys.executable, "-P", "-m", module, "--cell", str(folder / "cell.json"), "--mode", "timed"]
    ended = subprocess.run([*argv, "--result", str(folder / "r.json")], capture_output=True, text=True, cwd=folder)
    assert ended.returncode in (0, 3), ended.stderr
    return read(folder / "r.json", ChildReport)


def test_planted_libraries_are_never_imported(tmp_path):
    """In the folder of the factory too, which is searched after everything that is installed."""
    for name in ("torch", "timm", "numpy", "bench"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    source = tmp_path / "own_factory.py"
    source.write_text("import torch\n\ndef make(batch_size):\n    return torch.nn.ReLU(), torch.randn(batch_size, 4)\n")
    model = model_from("python:own_factory:make", sha256=sha256(source), python_path=[str(tmp_path)])
    report = run_program(tmp_path, small_cell(model=model))
    assert report.failure is None and report.result.bytes_in_per_batch == 64
    assert report.result.subject.inputs == ["float32 [4, 4]"]


def test_module_in_the_current_folder_is_not_found(tmp_path):
    (tmp_path / "lying_here.py").write_text("raise SystemExit('planted')")
    report = run_program(tmp_path, small_cell(model=model_from("python:lying_here:make")))
    assert report.failure.status is Outcome.NOT_RUNNABLE
    assert report.failure.reason == "python:lying_here:make: there is no module lying_here"


# Exported programs


def exported(folder: Path, *rows: int, named: dict[str, int] | None = None, **more) -> dict:
    """Of a network with inputs of 8 columns."""
    with torch.inference_mode(False):
        inputs = tuple(torch.ones(count, 8) for count in rows)
        by_name = {name: torch.ones(count, 8) for name, count in (named or {}).items()}
        program = torch.export.export(factories.Net().eval(), inputs, by_name, **more)
    file = folder / "net.pt2"
    torch.export.save(program, file)
    file.chmod(0o600)
    return model_from(f"pt2:{file}", sha256=sha256(file))


def test_exported_program_is_run_on_its_own_inputs(tmp_path):
    cell = small_cell(model=exported(tmp_path, 4))
    pipeline = built(cell)
    assert (pipeline.subject.input_bytes, pipeline.subject.output_bytes) == (128, 64)
    assert torch.equal(pipeline.rings.inputs[0][1], torch.ones(4, 8))
    assert first_batch_again(pipeline) == first_batch_again(built(cell)) > 0


def test_exported_program_with_named_inputs_and_any_batch(tmp_path):
    batch = torch.export.Dim("batch", min=2, max=64)
    model = exported(tmp_path, named={"x": 6}, dynamic_shapes={"x": {0: batch}})
    assert built(small_cell(model=model, batch_size=6)).subject.input_bytes == 6 * 8 * 4
    with pytest.raises(RunFailure, match=r"no input begins with the batch size 4: their shapes are \[6, 8\]"):
        built(small_cell(model=model, batch_size=4))


def test_exported_program_that_others_can_write_is_refused(tmp_path):
    model = exported(tmp_path, 4)
    (tmp_path / "net.pt2").chmod(0o620)
    with pytest.raises(RunFailure, match=r"can be written by other users \(chmod go-w\)"):
        built(small_cell(model=model))


def test_file_that_is_no_exported_program_is_refused(tmp_path):
    file = tmp_path / "x.pt2"
    file.write_text("no zip")
    file.chmod(0o600)
    with pytest.raises(RunFailure, match="this is not an exported program"):
        built(small_cell(model=model_from(f"pt2:{file}", sha256=sha256(file))))


# timm

FAST = {"resnet18": 64, "mobilenetv3_small_050": 64, "mixer_s32_224": 224, "efficientvit_m0": 224, "test_vit": 160}


@pytest.mark.parametrize(("name", "image_size"), FAST.items())
def test_timm_model_moves_exactly_its_bytes(name, image_size):
    subject = build_subject(timm(name, image_size=image_size, batch_size=2), CPU)
    assert subject.input_bytes == 2 * 3 * image_size**2 * 4
    assert subject.output_bytes % (2 * 4) == 0 and subject.facts.repeatable
    assert subject.kernels > 10


def test_names_of_timm_are_those_that_it_registers():
    """The study reads them from the source, because to import timm takes seconds."""
    import_timm()
    registry = importlib.import_module("timm.models._registry")
    assert set(registry._model_entrypoints) == timm_names() and len(timm_names()) > 1000


def test_timm_weights_depend_on_the_seed_only():
    one, same, other = (first_batch_again(built(timm("test_vit", image_size=160, seed=seed))) for seed in (3, 3, 4))
    assert one == same != other


@pytest.mark.slow
def test_forked_timm_run_gives_what_an_executed_one_gives(tmp_path):
    cell = timm("test_vit", image_size=160, batch_size=2, windows=1)
    executed, forked = (run_program(tmp_path, cell, f"bench.workload{end}").result for end in ("", ".serve"))
    assert forked.output_checksum == executed.output_checksum and forked.subject == executed.subject


def test_zero_heads_are_redrawn():
    subject = build_subject(timm("mixer_s32_224", image_size=224, batch_size=1), CPU)
    assert subject.facts.redrawn_weights == 1
    assert float(subject.call(torch.ones(1, 3, 224, 224)).abs().mean()) > 0


def test_timm_model_has_its_own_size_where_none_is_set():
    cell = small_cell(model=model_from("timm:test_vit", own_size=True), image_size=224, batch_size=1)
    assert build_subject(cell, CPU).facts.inputs == ["float32 [1, 3, 160, 160]"]


def test_timm_model_of_another_size_is_refused():
    with pytest.raises(RunFailure, match="timm:crossvit_tiny_240: it does not run with 224 x 224 pixels") as raised:
        build_subject(timm("crossvit_tiny_240", image_size=224, batch_size=1), CPU)
    assert raised.value.status is Outcome.NOT_RUNNABLE
    assert "its own size is 240 x 240" in raised.value.advice


@pytest.mark.parametrize(
    ("name", "reason"),
    [("resnet5", "has no such model .did you mean timm:resnet50.?"), ("resnet50.nope", "Invalid pretrained tag")],
)
def test_unknown_timm_model_is_refused(name, reason):
    with pytest.raises(RunFailure, match=reason):
        build_subject(timm(name, batch_size=1), CPU)


def test_attention_is_unfused_only_where_there_is_some():
    with pytest.raises(RunFailure, match="it has no attention that could be computed unfused"):
        build_subject(timm("resnet18", image_size=64, batch_size=1, attention="unfused"), CPU)


@pytest.mark.slow
def test_thirty_families_move_exactly_their_bytes():
    for name, image_size in FAMILIES.items():
        subject = build_subject(timm(name, image_size=image_size, batch_size=1), CPU)
        assert subject.input_bytes == 3 * image_size**2 * 4, name
        assert subject.outputs[0].shape[0] == 1 and subject.facts.repeatable, name
        example = torch.full((1, 3, image_size, image_size), 0.5)
        assert 0 < float(subject.call(example).double().abs().mean()) < float("inf"), name
