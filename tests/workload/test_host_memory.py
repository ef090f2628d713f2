import pytest
import torch

from bench.records.run import HugePages
from bench.workload.devices import CpuDevice
from bench.workload.host_memory import HostMemory

from .huge_pages import in_huge_pages

MIB = 1 << 20


class StubCudaDevice:
    """Stands in for a GPU where none is asked for more than its name."""

    torch_device = torch.device("cuda", 0)


@pytest.mark.parametrize("kind", ["pinned", "pageable"])
def test_cpu_device_copies_normal_memory(kind):
    memory = HostMemory(kind, CpuDevice())
    buffer = memory.inputs((2, 3), torch.bfloat16)
    assert (buffer.shape, buffer.dtype, buffer.device.type) == ((2, 3), torch.bfloat16, "cpu")
    assert memory.taken_bytes(5 * MIB) == 5 * MIB
    facts = memory.describe((buffer,), ())
    assert (facts.kind, facts.inputs, facts.outputs) == (kind, kind, kind)
    assert facts.huge_pages.outputs is None


def test_huge_buffers_have_their_shape():
    memory = HostMemory("huge", CpuDevice())
    buffer = in_huge_pages(lambda: memory.outputs((2, 3, 100), torch.float16))
    assert (buffer.shape, buffer.dtype) == ((2, 3, 100), torch.float16)
    assert buffer.is_contiguous()
    assert memory.describe((), (buffer,)).huge_pages == HugePages(outputs=buffer.nbytes)
    assert memory.taken_bytes(5 * MIB) == 6 * MIB


@pytest.mark.parametrize(("nbytes", "taken"), [(1, 1), (512 * MIB, 512 * MIB), (512 * MIB + 1, 1024 * MIB)])
def test_pinned_blocks_are_powers_of_two(nbytes, taken):
    assert HostMemory("pinned", StubCudaDevice()).taken_bytes(nbytes) == taken
    assert HostMemory("registered", StubCudaDevice()).taken_bytes(nbytes) == nbytes


@pytest.mark.parametrize(
    ("kind", "outputs", "synchronous"),
    [
        ("pinned", "pinned", False),
        ("pageable", "pageable", True),
        ("write-combined", "pinned", False),
        ("registered", "registered", False),
    ],
)
def test_result_has_the_kinds_of_both_sides(kind, outputs, synchronous):
    facts = HostMemory(kind, StubCudaDevice()).describe((), ())
    assert (facts.inputs, facts.outputs, facts.synchronous_copies) == (kind, outputs, synchronous)
