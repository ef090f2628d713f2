"""The two devices behind one interface: streams, events, buffers.

The pipeline is written once against it. On the cpu device a stream is only a name, work is done when it is issued,
and an event is a clock reading; so the cpu device runs the same loop as a GPU.
"""

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch

from bench.records.run import Device as DeviceFacts
from bench.records.run import Outcome, Versions
from bench.records.study import Cell
from bench.workload.failures import RunFailure

# At least the clock of any GPU: a hold may last longer than requested, never shorter.
HIGHEST_CLOCK_HZ = 2.6e9


class Event(Protocol):
    """As torch.cuda.Event."""

    def record(self, stream: Any) -> None: ...
    def wait(self, stream: Any) -> None: ...
    def elapsed_time(self, end: Any) -> float: ...
    def synchronize(self) -> None: ...


class Device(Protocol):
    torch_device: torch.device

    def stream(self) -> Any: ...
    def selector(self, stream: Any) -> Callable[[], None]: ...
    def event(self, timing: bool) -> Event: ...
    def synchronize(self) -> None: ...
    def hold(self, stream: Any, duration_s: float) -> None: ...
    def allocations(self) -> int: ...
    def describe(self) -> DeviceFacts: ...


class CpuEvent:
    def __init__(self) -> None:
        self.at_ns = 0

    def record(self, stream: Any) -> None:
        self.at_ns = time.perf_counter_ns()

    def wait(self, stream: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "CpuEvent") -> float:
        """In ms, as torch.cuda.Event."""
        return (end.at_ns - self.at_ns) / 1e6


class CpuDevice:
    torch_device = torch.device("cpu")

    def stream(self) -> None:
        return None

    def selector(self, stream: None) -> Callable[[], None]:
        return _nothing

    def event(self, timing: bool) -> CpuEvent:
        return CpuEvent()

    def synchronize(self) -> None:
        pass

    def hold(self, stream: None, duration_s: float) -> None:
        """Work is done when it is issued: nothing can be held back."""

    def allocations(self) -> int:
        return 0

    def describe(self) -> DeviceFacts:
        return DeviceFacts(type="cpu", name=_cpu_name())


class CudaDevice:
    """GPU `index` in PCI bus order, for which the parent sets CUDA_DEVICE_ORDER."""

    def __init__(self, index: int) -> None:
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(index)
        # Creates the context now, so that its time counts as that of the device.
        torch.cuda.synchronize(index)
        self._properties = torch.cuda.get_device_properties(index)

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.torch_device)

    def selector(self, stream: torch.cuda.Stream) -> Callable[[], None]:
        # The context manager torch.cuda.stream reads and restores the current stream on every use; the
        # loop sets all three in turn, so it pays for setting only.
        return partial(torch.cuda.set_stream, stream)

    def event(self, timing: bool) -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=timing)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def hold(self, stream: torch.cuda.Stream, duration_s: float) -> None:
        """Keep the stream busy, so that what is issued meanwhile runs without gaps afterwards."""
        with torch.cuda.stream(stream):
            torch.cuda._sleep(int(duration_s * HIGHEST_CLOCK_HZ))

    def allocations(self) -> int:
        """Calls of cudaMalloc so far; it must not move inside a window."""
        return int(torch.cuda.memory_stats(self.torch_device).get("num_device_alloc", 0))

    def describe(self) -> DeviceFacts:
        properties = self._properties
        return DeviceFacts(
            type="cuda",
            name=properties.name,
            uuid=gpu_uuid(properties),
            pci_bus_id=_pci_bus_id(properties),
            capability=f"{properties.major}.{properties.minor}",
        )


def open_device(cell: Cell) -> Device:
    """Raise RunFailure: not_runnable without CUDA or without that GPU, crashed if it is another one or disappeared."""
    # One thread per CPU this process may use: torch counts the machine's.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if cell.device == "cpu":
        return CpuDevice()
    # The study found this GPU: then it has disappeared since.
    missing = Outcome.CRASHED if cell.gpu_uuid else Outcome.NOT_RUNNABLE
    if not torch.cuda.is_available():
        raise RunFailure(
            missing,
            f"CUDA is not available to torch {torch.__version__}",
            "install a CUDA build of torch and a driver for it, or use device: cpu",
        )
    count = torch.cuda.device_count()
    if not 0 <= cell.gpu < count:
        raise RunFailure(
            missing,
            f"there is no GPU {cell.gpu}: torch sees {count} (0 to {count - 1})",
            "choose gpu_ids among those that numastudy doctor lists",
        )
    device = CudaDevice(cell.gpu)
    found = device.describe().uuid
    if cell.gpu_uuid and found and bare_uuid(found) != bare_uuid(cell.gpu_uuid):
        raise RunFailure(
            Outcome.CRASHED,
            f"GPU {cell.gpu} is {found}, expected {cell.gpu_uuid}",
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID and clear CUDA_VISIBLE_DEVICES",
        )
    return device


def versions() -> Versions:
    """The software that a result depends on."""
    # From the package metadata: a cell without compute does not import timm.
    try:
        timm: str | None = version("timm")
    except PackageNotFoundError:
        timm = None
    return Versions(python=platform.python_version(), torch=str(torch.__version__), cuda=torch.version.cuda, timm=timm)


def gpu_uuid(properties: Any) -> str | None:
    """In the form nvidia-smi prints; None where this torch does not know it."""
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else f"GPU-{bare_uuid(str(uuid))}"


def bare_uuid(text: str) -> str:
    """torch prints a UUID without, NVML with the prefix GPU-."""
    return text.strip().lower().removeprefix("gpu-")


def _pci_bus_id(properties: Any) -> str | None:
    """As in sysfs: domain:bus:device.function."""
    bus = getattr(properties, "pci_bus_id", None)
    if bus is None:
        return None
    domain, slot = getattr(properties, "pci_domain_id", 0), getattr(properties, "pci_device_id", 0)
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "CPU"


def _nothing() -> None:
    pass
