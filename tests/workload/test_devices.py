import os
from types import SimpleNamespace

import pytest
import torch

from bench.records.run import Device
from bench.workload import devices
from bench.workload.devices import CpuDevice, CpuEvent, bare_uuid, gpu_uuid, open_device
from bench.workload.failures import RunFailure

from .cells import small_cell

UUID = "8a1b2c3d-0000-1111-2222-333344445555"


def test_cpu_device_uses_the_cpus_it_may_use():
    assert open_device(small_cell()).describe().type == "cpu"
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


def test_event_of_the_cpu_is_a_clock_reading_in_ms():
    start, end = CpuEvent(), CpuEvent()
    start.at_ns, end.at_ns = 1_000_000, 3_500_000
    assert start.elapsed_time(end) == 2.5


def test_cpu_device_has_no_gpu_facts():
    facts = CpuDevice().describe()
    assert facts.name
    assert facts.uuid is facts.pci_bus_id is facts.capability is None


def test_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunFailure, match="CUDA is not available") as raised:
        open_device(small_cell(device="cuda"))
    assert raised.value.status == "not_runnable"


class StubGpu:
    """Stands in for CudaDevice: two GPUs that answer with one UUID."""

    def __init__(self, index: int) -> None:
        self.index = index

    def describe(self) -> Device:
        return Device(uuid=f"GPU-{UUID}")


@pytest.fixture
def two_stub_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "CudaDevice", StubGpu)


def test_no_such_gpu(two_stub_gpus):
    with pytest.raises(RunFailure, match="no GPU 2: torch sees 2") as raised:
        open_device(small_cell(device="cuda", gpu=2))
    assert raised.value.status == "not_runnable"


def test_gpu_that_disappeared_is_a_crash(monkeypatch, two_stub_gpus):
    for there, gpu in ((True, 2), (False, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with pytest.raises(RunFailure) as raised:
            open_device(small_cell(device="cuda", gpu=gpu, gpu_uuid=UUID))
        assert raised.value.status == "crashed"


@pytest.mark.parametrize("expected", [None, UUID, f"GPU-{UUID}", f"GPU-{UUID.upper()}"])
def test_right_gpu_in_any_spelling(two_stub_gpus, expected):
    assert open_device(small_cell(device="cuda", gpu=1, gpu_uuid=expected)).index == 1


def test_another_gpu_than_expected(two_stub_gpus):
    with pytest.raises(RunFailure, match=f"GPU 0 is GPU-{UUID}, expected GPU-ffff") as raised:
        open_device(small_cell(device="cuda", gpu_uuid="GPU-ffff"))
    assert raised.value.status == "crashed"


def test_uuid_forms():
    assert gpu_uuid(SimpleNamespace(uuid=UUID)) == f"GPU-{UUID}"
    assert gpu_uuid(SimpleNamespace()) is None
    assert bare_uuid(f" GPU-{UUID.upper()}\n") == UUID
