import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench.host.gpus import _describe, clock_policy, normal_bus_id, query_nvml, throttle_reasons, visible_indices
from bench.records.base import decode
from bench.records.host import Nvml, NvmlClocks, NvmlGpu, ThrottleReason


def test_nvml_bus_ids_are_written_as_in_sysfs() -> None:
    assert normal_bus_id("00000000:0F:00.0") == "0000:0f:00.0"
    assert normal_bus_id("00010000:E1:00.0") == "10000:e1:00.0"


@pytest.mark.parametrize(
    ("variable", "visible"),
    [
        (None, {0, 1, 2}),
        ("", set()),
        ("-1", set()),
        ("NoDevFiles", set()),
        ("0,2", {0, 2}),
        (" 1 , 0", {0, 1}),
        ("1,7,0", {1}),
        ("GPU-a", {0}),
        ("GPU-bb,GPU-a1", {0, 1}),
        ("GPU-", set()),
        ("MIG-GPU-a1/1/0", set()),
        ("MIG-x,2", {2}),
    ],
)
def test_visible_gpus_follow_cuda(variable: str | None, visible: set[int]) -> None:
    gpus = [NvmlGpu(pci_bus_id=f"0000:0{n}:00.0", uuid=uuid) for n, uuid in enumerate(("GPU-a1", "GPU-bb", "GPU-bc"))]
    assert visible_indices(gpus, variable) == visible


def test_idle_and_user_clocks_are_not_throttling() -> None:
    assert throttle_reasons(0x1 | 0x2) == ()
    assert throttle_reasons(0x40 | 0x4) == ("power cap", "thermal slowdown (hardware)")
    assert throttle_reasons(None) is None


def test_clock_policy_names_what_decides() -> None:
    for clocks, named in (
        (NvmlClocks(graphics_max_mhz=1980), ""),
        (NvmlClocks(graphics_max_mhz=1980, graphics_application_mhz=1095), "application clock 1095 of 1980 MHz, "),
    ):
        gpu = NvmlGpu(pci_bus_id="0000:01:00.0", clocks=clocks, power_limit_mw=700000, persistence=True)
        assert clock_policy(gpu) == f"{named}power limit 700 W, persistence on"


def test_nvml_answers_survive_json_with_or_without_a_driver() -> None:
    nvml = query_nvml()
    assert nvml.error is None or (nvml.error and not nvml.gpus)
    assert decode(msgspec.json.encode(nvml), Nvml) == nvml


class StandInNvml:
    """The functions of pynvml for one device; those that are not in `answers` are refused."""

    NVML_AFFINITY_SCOPE_NODE = NVML_VOLATILE_ECC = NVML_CLOCK_GRAPHICS = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*_: object) -> Any:
            if (call := name.removeprefix("nvmlDeviceGet")) not in self.answers:
                raise RuntimeError("Not Supported")
            return self.answers[call]

        return ask


def test_answers_of_nvml_become_a_record() -> None:
    nvml = StandInNvml(
        PciInfo=SimpleNamespace(busId=b"00000000:0F:00.0"),
        Name=b"NVIDIA H200",
        MigMode=(0, 0),
        MemoryAffinity=[3, 0],
        CpuAffinityWithinScope=[0xF0],
        NumaNodeId=1,
        RemappedRows=(0, 1, 0, 0),
        ComputeRunningProcesses=[SimpleNamespace(pid=9), SimpleNamespace(pid=7)],
        CurrentClocksThrottleReasons=0x4,
    )
    gpu = _describe(nvml, object())
    assert (gpu.pci_bus_id, gpu.name, gpu.mig, gpu.ecc) == ("0000:0f:00.0", "NVIDIA H200", False, None)
    assert (gpu.memory_affinity, gpu.cpu_affinity, gpu.numa_node) == ("0-1", "4-7", 1)
    assert gpu.processes == (7, 9) and gpu.remapped_rows.uncorrected == 1
    assert gpu.throttle_reasons == (ThrottleReason.POWER_CAP,)
    assert decode(msgspec.json.encode(gpu), NvmlGpu) == gpu


def test_nvml_is_queried_without_torch() -> None:
    code = "import sys; from bench.host.gpus import query_nvml; query_nvml(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
