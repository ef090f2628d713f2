"""The GPUs as NVML describes them: plain answers that can be recorded as JSON, and the values made of them.

Indices are those of CUDA_DEVICE_ORDER=PCI_BUS_ID. A call that NVML refuses gives null, named under "refused".
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bench.host.cpulist import format_cpulist

AFFINITY_WORDS = 64  # 64-bit words of a mask: 4096 CPUs or nodes

_THROTTLE_REASONS = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "thermal slowdown (software)",
    0x0000000000000040: "thermal slowdown (hardware)",
    0x0000000000000080: "power brake",
}
"""Bits of nvmlClocksEventReasons (nvml.h) that slow a GPU down; idle and user-set clocks do not count."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. `answers` keeps what each source says of the nearest nodes; () means that it says nothing.

    node is the nearest NUMA node if the sources agree, else None: never a default.
    """

    index: int
    pci_bus_id: str
    uuid: str | None
    name: str
    node: int | None
    verdict: str
    explanation: str
    answers: dict[str, tuple[int, ...]]
    link_generation: int | None = None
    link_generation_max: int | None = None
    link_width: int | None = None
    link_width_max: int | None = None
    mig: bool | None = None
    ecc: bool | None = None
    clocks: str = ""


def query_nvml() -> dict[str, Any]:
    """Ask NVML all that topology, fingerprint and doctor need. "error" says why where there is no NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # a missing library, driver or module, or a mismatch of the two
        return {"error": str(error) or type(error).__name__, "gpus": []}
    try:
        refused: dict[str, str] = {}
        handles = []
        for index in range(_ask(refused, "count", pynvml.nvmlDeviceGetCount) or 0):
            handle = _ask(refused, f"handle {index}", pynvml.nvmlDeviceGetHandleByIndex, index)
            if handle is not None:
                handles.append(handle)
        gpus = sorted((_describe(pynvml, handle) for handle in handles), key=lambda gpu: gpu["pci_bus_id"])
        return {
            "error": None,
            "driver_version": _text(_ask(refused, "driver version", pynvml.nvmlSystemGetDriverVersion)),
            "cuda_driver_version": _ask(refused, "CUDA version", pynvml.nvmlSystemGetCudaDriverVersion_v2),
            "gpus": gpus,
            "refused": refused,
        }
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _describe(nvml: Any, handle: Any) -> dict[str, Any]:
    refused: dict[str, str] = {}

    def ask(name: str, *arguments: Any) -> Any:
        function = getattr(nvml, f"nvmlDeviceGet{name}", None)
        return None if function is None else _ask(refused, name, function, handle, *arguments)

    pci = ask("PciInfo")
    mig, ecc = ask("MigMode"), ask("EccMode")
    clocks = {
        "graphics_mhz": ask("ClockInfo", nvml.NVML_CLOCK_GRAPHICS),
        "graphics_max_mhz": ask("MaxClockInfo", nvml.NVML_CLOCK_GRAPHICS),
        "graphics_application_mhz": ask("ApplicationsClock", nvml.NVML_CLOCK_GRAPHICS),
        "memory_mhz": ask("ClockInfo", nvml.NVML_CLOCK_MEM),
    }
    memory = ask("MemoryInfo")
    state = ask("PerformanceState")
    return {
        "pci_bus_id": normal_bus_id(_text(pci.busId) or "") if pci is not None else "",
        "uuid": _text(ask("UUID")),
        "name": _text(ask("Name")) or "unknown GPU",
        "memory_affinity": _bits(ask("MemoryAffinity", AFFINITY_WORDS, nvml.NVML_AFFINITY_SCOPE_NODE)),
        "cpu_affinity": _bits(ask("CpuAffinityWithinScope", AFFINITY_WORDS, nvml.NVML_AFFINITY_SCOPE_NODE)),
        "link_generation": ask("CurrPcieLinkGeneration"),
        "link_generation_max": ask("MaxPcieLinkGeneration"),
        "link_width": ask("CurrPcieLinkWidth"),
        "link_width_max": ask("MaxPcieLinkWidth"),
        "mig": None if mig is None else bool(mig[0]),
        "ecc": None if ecc is None else bool(ecc[0]),
        "ecc_uncorrected": ask("TotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        "remapped_rows": _remapped(ask("RemappedRows")),
        "throttle_reasons": throttle_reasons(ask("CurrentClocksThrottleReasons")),
        "performance_state": None if state is None else int(state),
        "persistence": _flag(ask("PersistenceMode")),
        "processes": sorted(int(process.pid) for process in ask("ComputeRunningProcesses") or []),
        "memory_total_bytes": None if memory is None else int(memory.total),
        "memory_used_bytes": None if memory is None else int(memory.used),
        "power_limit_mw": ask("EnforcedPowerLimit"),
        "clocks": clocks,
        "refused": refused,
    }


def _ask(refused: dict[str, str], name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # NVMLError_NotSupported and its many kin; AttributeError in old libraries
        refused[name] = str(error) or type(error).__name__
        return None


def clock_policy(answer: dict[str, Any]) -> str:
    """What decides the clocks of an unthrottled GPU: application clocks, power limit, persistence."""
    clocks = answer.get("clocks") or {}
    parts = []
    if application := clocks.get("graphics_application_mhz"):
        parts.append(f"application clock {application} of {clocks.get('graphics_max_mhz', '?')} MHz")
    if limit := answer.get("power_limit_mw"):
        parts.append(f"power limit {limit // 1000} W")
    if (persistence := answer.get("persistence")) is not None:
        parts.append(f"persistence {'on' if persistence else 'off'}")
    return ", ".join(parts)


def throttle_reasons(bits: int | None) -> list[str] | None:
    """Names of what slows the GPU down right now; None if NVML does not say."""
    if bits is None:
        return None
    return [name for bit, name in _THROTTLE_REASONS.items() if bits & bit]


def normal_bus_id(bus_id: str) -> str:
    """NVML writes 00000000:0F:00.0 where sysfs has 0000:0f:00.0."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _remapped(answer: tuple[int, ...] | None) -> dict[str, int] | None:
    if answer is None:
        return None
    return dict(zip(("corrected", "uncorrected", "pending", "failed"), map(int, answer), strict=True))


def _bits(words: Any) -> str | None:
    """A mask of 64-bit words as a kernel list."""
    if words is None:
        return None
    return format_cpulist(
        64 * place + bit for place, word in enumerate(words) for bit in range(64) if word and word >> bit & 1
    )


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
