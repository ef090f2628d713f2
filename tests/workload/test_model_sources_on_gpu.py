"""Models from elsewhere on a GPU. Skipped where there is none. Their traces: tests/run/test_model_sources.py."""

import pytest
import torch

from bench.records.run import Mode, Outcome
from bench.workload.devices import CudaDevice
from bench.workload.failures import RunFailure
from bench.workload.measure import first_batch_again
from bench.workload.pipeline import Pipeline, no_beat
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import build_pipeline, execute
from bench.workload.subject import as_batch, leaves_of

from .families import FAMILIES
from .test_model_sources import factory, run_program, timm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

EXECUTIONS = [{}, {"cuda_graph": True}, {"compile_model": "default"}, {"compile_model": "reduce-overhead"}]
ON_GPU = {"device": "cuda", "memory_size_mb": 16}


@pytest.fixture(autouse=True)
def inference():
    torch._dynamo.reset()
    with torch.inference_mode():
        yield


def check_every_batch(pipeline: Pipeline, tolerance: float) -> None:
    """The last of a hundred that are still in the ring of outputs."""
    pipeline.run(100, no_beat)
    pipeline.drain()
    device = pipeline.device.torch_device
    for index in range(100 - min(50, len(pipeline.host_out)), 100):
        source = [leaf.to(device) for leaf in leaves_of(pipeline.host_in[index % len(pipeline.host_in)])]
        expected = leaves_of(pipeline.subject.call(as_batch(source)))
        for found, leaf in zip(leaves_of(pipeline.output_of(index)), expected, strict=True):
            torch.testing.assert_close(found.to(device), leaf, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("buffers", [1, 2, 4])
@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
@pytest.mark.parametrize("name", ["plain", "nested", "mask", "ragged", "tokens", "transposed"])
def test_every_batch_of_a_factory_is_right(name, execution, buffers):
    pipeline = build_pipeline(factory(name, buffers=buffers, **ON_GPU, **execution), CudaDevice(0), PhaseTimes())
    check_every_batch(pipeline, 1e-4)


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_every_batch_of_a_timm_model_is_right(execution):
    """Batches differ from each other."""
    cell = timm("resnet18", image_size=224, buffers=2, **ON_GPU, **execution)
    check_every_batch(build_pipeline(cell, CudaDevice(0), PhaseTimes()), 1e-2)


@pytest.mark.parametrize("name", ["alias", "in_place", "dropout"])
def test_what_the_pipeline_cannot_measure_is_refused(name):
    with pytest.raises(RunFailure) as raised:
        build_pipeline(factory(name, **ON_GPU), CudaDevice(0), PhaseTimes())
    assert raised.value.status is Outcome.NOT_RUNNABLE


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_224"])
@pytest.mark.parametrize("execution", EXECUTIONS[:2], ids=str)
def test_timed_run_allocates_nothing_in_its_windows(name, execution):
    result = execute(
        timm(name, image_size=224, **ON_GPU | {"memory_size_mb": 64}, **execution), Mode.TIMED, Progress(), PhaseTimes()
    )
    assert result.device_allocations_in_windows == 0
    assert result.bytes_in_per_batch == 4 * 3 * 224 * 224 * 4 and result.solo_us.compute > 0


@pytest.mark.parametrize(("name", "image_size"), FAMILIES.items())
def test_graph_of_a_family_is_right_or_named(name, image_size):
    """A model that cannot be captured is crashed by name: never a result of another execution."""
    cell = timm(name, image_size=image_size, batch_size=2, **ON_GPU)
    eager = first_batch_again(build_pipeline(cell, CudaDevice(0), PhaseTimes()))
    try:
        graph = build_pipeline(
            timm(name, image_size=image_size, batch_size=2, cuda_graph=True, **ON_GPU), CudaDevice(0), PhaseTimes()
        )
    except RunFailure as failure:
        assert failure.status is Outcome.CRASHED and "CUDA graph capture failed" in failure.what
        return
    assert first_batch_again(graph) == pytest.approx(eager, rel=1e-3)


def test_forked_run_gives_what_an_executed_one_gives(tmp_path):
    cell = timm("resnet18", image_size=224, batch_size=2, windows=1, **ON_GPU)
    executed, forked = (run_program(tmp_path, cell, f"bench.workload{end}").result for end in ("", ".serve"))
    assert forked.output_checksum == executed.output_checksum
