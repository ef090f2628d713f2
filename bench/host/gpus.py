"""The GPUs as NVML describes them, in PCI bus order: the indices are those of CUDA_DEVICE_ORDER=PCI_BUS_ID."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench.host.environment import read_text
from bench.records.base import read
from bench.records.host import (
    Nvml,
    NvmlClocks,
    NvmlGpu,
    RemappedRows,
    ThrottleReason,
    VirtualizationMode,
    bits,
    format_cpulist,
)

AFFINITY_WORDS = 64  # 64-bit words of a mask: 4096 CPUs or nodes

_THROTTLE_REASONS = {
    0x0000000000000004: ThrottleReason.POWER_CAP,
    0x0000000000000008: ThrottleReason.HARDWARE,
    0x0000000000000020: ThrottleReason.THERMAL_SOFTWARE,
    0x0000000000000040: ThrottleReason.THERMAL_HARDWARE,
    0x0000000000000080: ThrottleReason.POWER_BRAKE,
}
"""Bits of nvmlClocksEventReasons (nvml.h) that slow a GPU down; idle and user-set clocks do not count."""


def read_nvml(root: Path = Path("/")) -> Nvml:
    """NVML's answers for this host, or the recorded ones of another root. Raise DamagedRecord if those are invalid."""
    if root == Path("/"):
        return query_nvml()
    file = root / "nvml.json"
    return read(file, Nvml) if file.exists() else Nvml(error="not recorded (nvml.json)")


def query_nvml() -> Nvml:
    """Ask NVML all that topology, fingerprint and doctor need."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # a missing library, driver or module, or a mismatch of the two
        return Nvml(error=str(error) or type(error).__name__)
    try:
        count = _ask(pynvml, "nvmlDeviceGetCount") or 0
        handles = [_ask(pynvml, "nvmlDeviceGetHandleByIndex", index) for index in range(count)]
        gpus = [_describe(pynvml, handle) for handle in handles if handle is not None]
        computing = _ask(pynvml, "nvmlSystemGetConfComputeState")
        return Nvml(
            confidential_computing=None if computing is None else bool(computing.ccFeature),
            driver_version=_text(_ask(pynvml, "nvmlSystemGetDriverVersion")),
            cuda_driver_version=_ask(pynvml, "nvmlSystemGetCudaDriverVersion_v2"),
            gpus=tuple(sorted(gpus, key=lambda gpu: gpu.pci_bus_id)),
        )
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _describe(nvml: Any, handle: Any) -> NvmlGpu:
    ask = partial(ask_gpu, nvml, handle)
    pci = ask("PciInfo")
    mig, ecc = ask("MigMode"), ask("EccMode")
    memory = ask("MemoryInfo")
    state, persistence = ask("PerformanceState"), ask("PersistenceMode")
    return NvmlGpu(
        pci_bus_id=normal_bus_id(_text(pci.busId) or "") if pci is not None else "",
        minor=ask("MinorNumber"),
        uuid=_text(ask("UUID")),
        name=_text(ask("Name")) or "unknown GPU",
        memory_affinity=_bits(ask("MemoryAffinity", AFFINITY_WORDS, nvml.NVML_AFFINITY_SCOPE_NODE)),
        cpu_affinity=_bits(ask("CpuAffinityWithinScope", AFFINITY_WORDS, nvml.NVML_AFFINITY_SCOPE_NODE)),
        numa_node=ask("NumaNodeId"),
        link_generation=ask("CurrPcieLinkGeneration"),
        link_generation_max=ask("MaxPcieLinkGeneration"),
        link_width=ask("CurrPcieLinkWidth"),
        link_width_max=ask("MaxPcieLinkWidth"),
        mig=None if mig is None else bool(mig[0]),
        ecc=None if ecc is None else bool(ecc[0]),
        virtualization=_virtualization(ask("VirtualizationMode")),
        ecc_uncorrected=ask("TotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        remapped_rows=_remapped(ask("RemappedRows")),
        throttle_reasons=throttle_reasons(ask("CurrentClocksThrottleReasons")),
        performance_state=None if state is None else int(state),
        persistence=None if persistence is None else bool(persistence),
        processes=tuple(sorted(int(process.pid) for process in ask("ComputeRunningProcesses") or ())),
        memory_total_bytes=None if memory is None else int(memory.total),
        memory_used_bytes=None if memory is None else int(memory.used),
        power_limit_mw=ask("EnforcedPowerLimit"),
        clocks=NvmlClocks(
            graphics_max_mhz=ask("MaxClockInfo", nvml.NVML_CLOCK_GRAPHICS),
            graphics_application_mhz=ask("ApplicationsClock", nvml.NVML_CLOCK_GRAPHICS),
        ),
    )


def ask_gpu(nvml: Any, handle: Any, name: str, *arguments: Any) -> Any:
    """name: of a function behind nvmlDeviceGet. None where NVML refuses."""
    return _ask(nvml, f"nvmlDeviceGet{name}", handle, *arguments)


def _ask(nvml: Any, name: str, *arguments: Any) -> Any:
    try:
        return getattr(nvml, name)(*arguments)
    except Exception:  # NVMLError_NotSupported and similar; AttributeError in old libraries
        return None


def visible_indices(gpus: Sequence[NvmlGpu], variable: str | None) -> set[int]:
    """The GPUs that a value of CUDA_VISIBLE_DEVICES names, by index; None: all of them.

    Entries are indices or UUIDs, which may be shortened; CUDA ignores the rest from the first invalid one on. An
    instance of MIG names no GPU.
    """
    if variable is None:
        return set(range(len(gpus)))
    visible: set[int] = set()
    for entry in (part.strip() for part in variable.split(",")):
        if entry.isdigit():
            matches = [int(entry)] if int(entry) < len(gpus) else []
        else:
            matches = [index for index, gpu in enumerate(gpus) if entry and (gpu.uuid or "").startswith(entry)]
        if len(matches) != 1 and not entry.startswith("MIG-"):
            break
        visible.update(matches)
    return visible


def gpu_users(nvml: Nvml, pids: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """The GPUs, by index, that each of these processes computes on; only those that use one.

    By NVML where it names the process. Else by its open device files: CUDA opens those of all visible GPUs, and
    nvidia-uvm, which monitors do not open. In a container NVML names the processes by their ids outside, or not at all.
    """
    by_minor = {minor: index for index, gpu in enumerate(nvml.gpus) if (minor := minor_of(gpu)) is not None}
    users: dict[int, tuple[int, ...]] = {}
    for pid in pids:
        listed = tuple(index for index, gpu in enumerate(nvml.gpus) if pid in gpu.processes)
        files = device_files(pid)
        if files is None or "nvidia-uvm" in files:
            opened = (int(name[6:]) for name in files or () if name[6:].isdigit())
            gpus = listed or tuple(sorted(by_minor[minor] for minor in opened if minor in by_minor))
            users |= {pid: gpus} if gpus else {}
    return users


def minor_of(gpu: NvmlGpu, root: Path = Path("/")) -> int | None:
    """N of /dev/nvidiaN, which is not the index."""
    if gpu.minor is not None:
        return gpu.minor
    text = read_text(root / "proc/driver/nvidia/gpus" / gpu.pci_bus_id / "information")
    match = re.search(r"^Device Minor:\s*(\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else None


def device_files(pid: int) -> set[str] | None:
    """The device files of the GPU's driver that a process has open, as "nvidia0" and "nvidia-uvm".

    None if they cannot be read.
    """
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return None
    except OSError:
        return set()
    found = set()
    for descriptor in descriptors:
        with suppress(OSError):
            path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            if path.startswith("/dev/nvidia"):
                found.add(path.removeprefix("/dev/"))
    return found


def clock_policy(gpu: NvmlGpu) -> str:
    """What decides the clocks of an unthrottled GPU: application clocks, power limit, persistence."""
    parts = []
    if application := gpu.clocks.graphics_application_mhz:
        most = gpu.clocks.graphics_max_mhz
        parts.append(f"application clock {application} of {'?' if most is None else most} MHz")
    if gpu.power_limit_mw:
        parts.append(f"power limit {gpu.power_limit_mw // 1000} W")
    if gpu.persistence is not None:
        parts.append(f"persistence {'on' if gpu.persistence else 'off'}")
    return ", ".join(parts)


def throttle_reasons(bits: int | None) -> tuple[ThrottleReason, ...] | None:
    """What slows the GPU down right now; None if NVML does not report it."""
    if bits is None:
        return None
    return tuple(reason for bit, reason in _THROTTLE_REASONS.items() if bits & bit)


def normal_bus_id(bus_id: str) -> str:
    """NVML writes 00000000:0F:00.0 where sysfs has 0000:0f:00.0; of a domain above 16 bits both have all digits."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{int(domain or '0', 16):04x}:{rest}"


def _remapped(answer: Iterable[int] | None) -> RemappedRows | None:
    if answer is None:
        return None
    corrected, uncorrected, pending, failed = map(int, answer)
    return RemappedRows(corrected=corrected, uncorrected=uncorrected, pending=pending, failed=failed)


def _bits(words: Iterable[int] | None) -> str | None:
    """A mask of 64-bit words as a kernel list."""
    if words is None:
        return None
    return format_cpulist(bits(sum(word << 64 * place for place, word in enumerate(words))))


def _virtualization(mode: int | None) -> VirtualizationMode | None:
    modes = tuple(VirtualizationMode)  # in the order of nvmlGpuVirtualizationMode_t
    return None if mode is None or mode >= len(modes) else modes[mode]


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
