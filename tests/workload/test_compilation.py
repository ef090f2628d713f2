import pytest
import torch

from bench.records.run import Compilation, Mode
from bench.workload import execution
from bench.workload.devices import CpuDevice
from bench.workload.execution import (
    compilation,
    compilations,
    compile_advice,
    make_call,
    make_forward,
    make_slots,
    refuse_compilations,
)
from bench.workload.failures import RunFailure
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import execute
from bench.workload.subject import build_subject
from tests.needs import needs

from .cells import NO_COMPUTE, small_cell

needs_compiler = needs("g++")


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    """A process of a study compiles each call once; what another test compiled would be used again."""
    torch._dynamo.reset()


def forward_of(cell):
    device = CpuDevice()
    subject = build_subject(cell, device.torch_device)
    slots = make_slots(cell, device, subject)
    return make_forward(cell, device, subject, slots, make_call(cell, device, subject, slots)), subject, slots


@needs_compiler
def test_compiled_gives_the_same_tokens_and_compiles_once():
    with torch.inference_mode():
        before = compilations()
        forward, subject, slots = forward_of(small_cell(compile_model="default"))
        ready = compilations()
        assert ready > before
        slots[1].normal_()
        torch.testing.assert_close(forward(1), subject.call(slots[1]), rtol=1e-4, atol=1e-4)
        assert compilations() == ready


@needs_compiler
def test_compile_time_is_a_phase_of_its_own():
    phases = PhaseTimes()
    result = execute(small_cell(compile_model="default"), Mode.TIMED, Progress(), phases)
    facts = result.compile
    assert facts.mode == "default"
    assert facts.compile_s == pytest.approx(result.phases_s["compile"])
    # More than a call of what it makes, also where caches have most of it.
    assert facts.compile_s > result.solo_us.compute / 1e6
    assert result.compilations_in_windows == 0


def test_there_is_nothing_to_compile_without_compute():
    result = execute(small_cell(compile_model="default", model=NO_COMPUTE), Mode.TIMED, Progress(), PhaseTimes())
    assert result.compile == Compilation(mode="default", compile_s=None)
    assert result.phases_s["compile"] == 0
    assert compilation(small_cell(), 1.0) is None


def test_code_that_is_compiled_again_is_counted():
    def double(values: torch.Tensor) -> torch.Tensor:
        return 2 * values

    # Captured as ever; only what inductor would make of it is left out.
    call = torch.compile(double, backend="eager", dynamic=False)
    call(torch.ones(2))
    before = compilations()
    call(torch.ones(2))
    assert compilations() == before
    call(torch.ones(3))
    assert compilations() == before + 1


def test_compilation_inside_the_windows_fails_the_run(monkeypatch):
    """The counter is replaced by one that moves whenever it is read: a warm-up of this project compiles all."""
    refuse_compilations(0)
    counts = iter(range(10))
    monkeypatch.setattr("bench.workload.run.compilations", lambda: next(counts))
    with pytest.raises(RunFailure, match="1 compilations or recordings of CUDA graphs inside the windows") as raised:
        execute(small_cell(model=NO_COMPUTE), Mode.TIMED, Progress(), PhaseTimes())
    assert raised.value.status == "crashed"


# monkeypatch would leave torch without the settings that it had changed, for all later tests of this process.
def test_failed_compile_mode_is_named_and_not_replaced():
    from torch._inductor import config

    compiler = config.patch({"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True})
    # As an environment could set it: the answer to an error would be to run eagerly.
    eagerly = torch._dynamo.config.patch(suppress_errors=True)
    with compiler, eagerly, torch.inference_mode(), pytest.raises(RunFailure, match="mode default failed") as raised:
        forward_of(small_cell(compile_model="default", seed=7))
    assert raised.value.status == "crashed"
    assert "g++" in raised.value.advice


def test_disabled_compiler_is_a_failure():
    """Recent torch refuses by itself, earlier torch would run eagerly and say nothing."""
    refused = pytest.raises(RunFailure, match=r"mode default (failed|compiled nothing)")
    with torch._dynamo.config.patch(disable=True), torch.inference_mode(), refused as raised:
        forward_of(small_cell(compile_model="default"))
    assert raised.value.status == "crashed"


def test_compiler_without_effect_is_detected(monkeypatch):
    """torch.compile is replaced by what it is where it is switched off in earlier torch."""
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    with torch.inference_mode(), pytest.raises(RunFailure, match="mode default compiled nothing") as raised:
        forward_of(small_cell(compile_model="default"))
    assert "TORCHDYNAMO_DISABLE" in raised.value.advice


def test_skipped_cuda_graphs_fail_the_run(monkeypatch):
    """Both counters are replaced: only a GPU has such graphs."""
    values = iter([0, 0, 1, 1])
    monkeypatch.setattr(execution, "_counter", lambda group, name: next(values))
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    cell = small_cell(compile_model="reduce-overhead", device="cuda")
    with pytest.raises(RunFailure, match="mode reduce-overhead recorded no CUDA graph"):
        execution.compiled(
            cell,
            CpuDevice(),
            lambda batch: batch,
            make_slots(cell, CpuDevice(), build_subject(cell, torch.device("cpu"))),
        )


def test_advice_names_the_missing_compiler():
    assert "gcc" in compile_advice(RuntimeError("Failed to find C compiler. Please specify via CC"))
    assert "compile_model to off" in compile_advice(ValueError("something else"))
