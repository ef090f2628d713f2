"""Hosts as trees of the files that are read of them, made by hand from public facts, not recorded on the machines.

host_root("dgx_a100") writes one into a temporary folder; host_topology() reads it. A trap is the clean host
(two_sockets) with a few other files, and the check of the doctor that it must trigger.
"""

import atexit
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.host.topology import read_topology
from bench.records.host import CheckName, CheckState, Topology

Files = dict[str, str]
GIB = 1 << 30
LIVE = {"bind_failure": None, "nsys": "/opt/nvidia/nsight-systems/2025.3.2/bin/nsys", "nsys_importer": True,
         "disk_free_bytes": 500 * GIB}  # fmt: skip


def host_files(nodes: dict[int, tuple[str, int]], gpus: list[Any], **more: Any) -> Files:
    """nodes: id -> (cpulist, GiB); more: distances (rows by node), allowed (cpus, mems), files, live, nvml."""
    files = {}
    base = "sys/devices/system/node"
    files[f"{base}/online"] = ranges(list(nodes))
    rows = more.get("distances") or [[10 if a == b else 21 for b in nodes] for a in nodes]
    for (node, (cpus, gib)), row in zip(nodes.items(), rows, strict=True):
        files[f"{base}/node{node}/cpulist"] = cpus
        files[f"{base}/node{node}/distance"] = " ".join(map(str, row))
        size = gib * 1024 * 1024
        files[f"{base}/node{node}/meminfo"] = "\n".join(
            f"Node {node} {label}: {kilobytes} kB"
            for label, kilobytes in (
                *(("MemTotal", size), ("MemFree", size * 9 // 10)),
                *(("Active(file)", size // 100), ("Inactive(file)", size // 100)),
            )
        )
    every_cpu = ",".join(cpus for cpus, _ in nodes.values() if cpus)
    cpus, mems = more.get("allowed", (every_cpu, ranges([node for node, (_, gib) in nodes.items() if gib])))
    files["sys/devices/system/cpu/online"] = every_cpu
    files["sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"] = "performance"
    files["sys/kernel/mm/transparent_hugepage/enabled"] = "always [madvise] never"
    files["sys/fs/cgroup/cpuset.cpus.effective"] = cpus
    files["sys/fs/cgroup/cpuset.mems.effective"] = mems
    files["proc/self/cgroup"] = "0::/"
    files["proc/self/status"] = f"Name:\tpython\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}"
    files["proc/sys/kernel/numa_balancing"] = "0"
    files["proc/sys/kernel/perf_event_paranoid"] = "2"
    files["proc/sys/kernel/osrelease"] = "6.1.0-50-amd64"
    files["proc/cpuinfo"] = "processor\t: 0\nmodel name\t: A CPU of a made-up host\nflags\t\t: fpu sse2"
    nvml: dict[str, Any] = {
        "error": None,
        "driver_version": "580.95.05",
        "cuda_driver_version": 13000,
        "gpus": [],
    }
    nvml |= more.get("nvml", {})
    for bus_id, sysfs, answers in gpus:
        device = f"sys/bus/pci/devices/{bus_id}"
        files |= {f"{device}/numa_node": str(sysfs), f"{device}/vendor": "0x10de", f"{device}/class": "0x030200"}
        nvml["gpus"].append(gpu(bus_id, answers))
    files["nvml.json"] = json.dumps(nvml, indent=1)
    files["live.json"] = json.dumps(LIVE | more.get("live", {}), indent=1)
    files |= more.get("files", {})
    return {name: text.rstrip("\n") + "\n" for name, text in files.items()}


def gpu(bus_id: str, answers: dict[str, Any]) -> dict[str, Any]:
    plain = {
        "pci_bus_id": bus_id,
        "uuid": "GPU-" + bus_id.replace(":", "").replace(".", "") + "-0000-0000-0000-000000000000",
        "name": "NVIDIA A100-SXM4-40GB",
        "memory_affinity": None,
        "cpu_affinity": None,
        "link_generation": 4,
        "link_generation_max": 4,
        "link_width": 16,
        "link_width_max": 16,
        "mig": False,
        "ecc": True,
        "ecc_uncorrected": 0,
        "throttle_reasons": [],
        "performance_state": 0,
        "remapped_rows": {"corrected": 0, "uncorrected": 0, "pending": 0, "failed": 0},
        "persistence": True,
        "processes": [],
        "memory_total_bytes": 40 * GIB,
        "memory_used_bytes": GIB // 2,
        "power_limit_mw": 400000,
        "clocks": {"graphics_max_mhz": 1410, "graphics_application_mhz": 1095},
    }
    return plain | answers


def near(node: int, cpulist: str, **more: Any) -> dict[str, Any]:
    return {"memory_affinity": str(node), "cpu_affinity": cpulist, **more}


def ranges(numbers: list[int]) -> str:
    whole = list(range(numbers[0], numbers[-1] + 1)) == numbers and len(numbers) > 1
    return f"{numbers[0]}-{numbers[-1]}" if whole else ",".join(map(str, numbers))


TWO = {0: ("0-31", 256), 1: ("32-63", 256)}
FOUR_GPUS = [
    *(("0000:17:00.0", 0, near(0, "0-31")), ("0000:65:00.0", 0, near(0, "0-31"))),
    *(("0000:ca:00.0", 1, near(1, "32-63")), ("0000:e3:00.0", 1, near(1, "32-63"))),
]
DGX = {node: (f"{16 * node}-{16 * node + 15},{128 + 16 * node}-{128 + 16 * node + 15}", 128) for node in range(8)}
DGX_NEAR = (3, 3, 1, 1, 7, 7, 5, 5)
DGX_BUS = ("07", "0f", "47", "4e", "87", "90", "b7", "bd")


HOSTS: dict[str, Files] = {}


def _add(name: str, nodes: dict[int, tuple[str, int]], gpus: list[Any], **more: Any) -> None:
    HOSTS[name] = host_files(nodes, gpus, **more)


# Two sockets, two GPUs on each: the clean host.
_add("two_sockets", TWO, FOUR_GPUS)
# DGX A100: two EPYC 7742 with four nodes each. GPU 0 is near node 3 (`nvidia-smi topo -m` in NVIDIA's guide).
_add(
    "dgx_a100",
    DGX,
    [(f"0000:{bus}:00.0", node, near(node, DGX[node][0])) for bus, node in zip(DGX_BUS, DGX_NEAR, strict=True)],
    distances=[[10 if a == b else 12 if a // 4 == b // 4 else 32 for b in range(8)] for a in range(8)],
)
# A virtual machine with four H200: one node reported, numa_node -1, NVML naming every CPU.
_add(
    "virtual_machine",
    {0: ("0-63", 1024)},
    [(f"0000:0{n}:00.0", -1, near(0, "0-63", name="NVIDIA H200")) for n in range(1, 5)],
    files={"proc/cpuinfo": "model name\t: INTEL(R) XEON(R)\nflags\t\t: fpu hypervisor sse2"},
)
# GH200: node 0 has the CPUs, node 1 is the GPU's own memory (96 GiB), nodes 2-8 wait empty for MIG.
_add(
    "grace_hopper",
    {0: ("0-71", 480), 1: ("", 96), **dict.fromkeys(range(2, 9), ("", 0))},
    [("0009:01:00.0", 0, {"memory_affinity": "0-1", "cpu_affinity": "0-71", "name": "NVIDIA GH200 480GB"})],
    distances=[[10 if a == b else 80 if 0 in (a, b) else 160 for b in range(9)] for a in range(9)],
)
# Two sockets and a CXL expander: node 2 has memory and no CPUs.
_add(
    "cxl_memory",
    {**TWO, 2: ("", 128)},
    FOUR_GPUS,
    distances=[[10, 21, 14], [21, 10, 24], [14, 24, 10]],
)
# A POWER9-like host: node ids 0 and 8, GPU memory as node 255, and a CPU-only node 4.
_add(
    "sparse_ids",
    {0: ("0-31", 256), 4: ("64-67", 0), 8: ("32-63", 256), 255: ("", 16)},
    [("0004:04:00.0", 0, near(0, "0-31")), ("0035:03:00.0", 8, near(8, "32-63"))],
    distances=[[10, 20, 40, 80], [20, 10, 40, 80], [40, 40, 10, 80], [80, 80, 80, 10]],
)
# The two-socket host from a container held to 12 CPUs and the memory of node 1.
_add(
    "container_cpuset",
    TWO,
    FOUR_GPUS[2:],
    allowed=("32-43", "1"),
)


# A desktop: bare metal, one node, numa_node -1, NVML naming every CPU.
_add("one_node", {0: ("0-15", 64)}, [("0000:01:00.0", -1, near(0, "0-15"))])
# The firmware names the GPU's own memory, or a node that is not online.
_add("memory_only_answer", {0: ("0-63", 64), 1: ("", 96)}, [("0009:01:00.0", 1, near(0, "0-63"))])
_add("offline_answer", {1: ("32-63", 64)}, [("0000:17:00.0", 0, {})])
# A virtual machine with two nodes, from a job that may use one of them: NVML cuts the affinity to the job's cpuset.
_add(
    "job_in_virtual_machine",
    {0: ("0-31", 64), 1: ("32-63", 64)},
    [(f"0000:0{n}:00.0", -1, {"memory_affinity": "0-1", "cpu_affinity": "32-47"}) for n in (5, 6)],
    allowed=("32-47", "0-1"),
    files={"proc/cpuinfo": "model name\t: A CPU\nflags\t\t: fpu hypervisor sse2"},
)
# cgroup v2 with the cpuset controller on an ancestor of the session's group only (systemd AllowedCPUs=).
_add(
    "cpuset_of_a_slice",
    TWO,
    FOUR_GPUS,
    allowed=("0-63", "0"),
    files={
        "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-3.scope",
        "sys/fs/cgroup/user.slice/cpuset.cpus.effective": "0-7",
    },
)
# An early Threadripper: two of four dies have CPUs and no memory.
_add(
    "nodes_without_memory",
    {0: ("0-5", 0), 1: ("6-11", 64), 2: ("12-17", 64), 3: ("18-23", 0)},
    [("0000:0a:00.0", 0, near(0, "0-5")), ("0000:43:00.0", 1, near(1, "6-11"))],
)
# GB200: the memory of each GPU is a node of its own, and more nodes wait empty for MIG.
_add(
    "two_graces",
    {0: ("0-71", 480), 1: ("72-143", 480), 2: ("", 185), 3: ("", 0), 4: ("", 185), 5: ("", 0)},
    [
        ("0008:01:00.0", 0, {"memory_affinity": "0,2-3", "cpu_affinity": "0-71"}),
        ("0018:01:00.0", 1, {"memory_affinity": "1,4-5", "cpu_affinity": "72-143"}),
    ],
)
# One node with two kinds of cores, as DGX Spark.
_add(
    "two_kinds_of_cores",
    {0: ("0-19", 128)},
    [("000f:01:00.0", -1, {})],
    files={
        f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": str(718 + cpu if cpu % 10 < 5 else 1024 - cpu)
        for cpu in range(20)
    },
)
# Old kernels end lists with a NUL byte, and list offline CPUs with their node.
_add(
    "old_kernel",
    TWO,
    FOUR_GPUS,
    files={"sys/devices/system/node/online": "0-1\n\0", "sys/devices/system/cpu/online": "0-47"},
)


@dataclass(frozen=True)
class Trap:
    """The files of a host, and the one check that is not ok on it."""

    check: CheckName
    state: CheckState
    files: Files


TRAPS: dict[str, Trap] = {}


def trap(check: str, name: str = "", state: str = "warning", gpu: dict[str, Any] | None = None, **more: Any) -> None:
    gpus = more.pop("gpus", None) or [
        (bus, node, answers | (gpu or {}) if index == 1 else answers)
        for index, (bus, node, answers) in enumerate(FOUR_GPUS)
    ]
    TRAPS[name or check] = Trap(CheckName(check), CheckState(state), host_files(TWO, gpus, **more))


unknown = {"memory_affinity": None, "cpu_affinity": None}
wrong = near(0, "0-31")
trap("gpu_node", gpus=[*FOUR_GPUS[:3], ("0000:e3:00.0", -1, unknown)])
trap("gpu_node", name="gpu_node_disagreed", gpus=[*FOUR_GPUS[:3], ("0000:e3:00.0", 1, wrong)])
trap("gpu_busy", gpu={"processes": [4242]})
trap("gpu_busy", name="gpu_busy_hidden", gpu={"memory_used_bytes": 20 * GIB})
trap("mig", gpu={"mig": True})
trap("virtualization", gpu={"virtualization": "vgpu"})
trap("confidential_computing", nvml={"confidential_computing": True})
trap("iommu", files={"sys/bus/pci/devices/0000:65:00.0/iommu_group/type": "DMA\n"})
trap("ecc", gpu={"ecc_uncorrected": 3}, state="error")
trap("throttling", gpu={"throttle_reasons": ["thermal slowdown (hardware)"]})
trap("link", gpu={"link_generation": 3})
trap("link", name="link_narrow", gpu={"link_width": 8, "performance_state": 8})
denied = {
    "status": "bind_failed",
    "reason": "the system refuses to bind CPUs or memory (Operation not permitted)",
    "advice": "--cap-add SYS_NICE",
}
trap("binding", live={"bind_failure": denied, "cpus_failure": denied}, files={".dockerenv": ""})
trap("binding", name="memory_policy", live={"bind_failure": denied})
trap("binding", name="query_of_pages", live={"pages_refused": "[Errno 1] move_pages: Operation not permitted"})
trap("cpuset", allowed=("0-11,32-63", "0-1"))
trap("isolated_cpus", files={"sys/devices/system/cpu/isolated": "8-31,40-63"})
capacities = {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": str((1024, 718)[cpu % 2]) for cpu in range(64)}
trap("cores", files=capacities)
trap("numa_balancing", files={"proc/sys/kernel/numa_balancing": "1"})
full = "Node 1 MemTotal: 268435456 kB\nNode 1 MemFree: 1048576 kB\nNode 1 Inactive(file): 1024 kB"
trap("node_memory", files={"sys/devices/system/node/node1/meminfo": full})
limits = "Max locked memory         8388608              8388608              bytes"
trap("locked_memory", files={"proc/self/limits": limits}, live={"pinning_refused": "out of memory (2)"}, state="error")
trap("governor", files={"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"})
trap("nsys", live={"nsys": None, "nsys_importer": False})
trap("nsys", name="nsys_importer", live={"nsys_importer": False})
trap("perf_permission", files={"proc/sys/kernel/perf_event_paranoid": "4"})
trap("disk", live={"disk_free_bytes": 2 * GIB})
trap("disk", name="disk_full", live={"disk_free_bytes": 1 << 20}, state="error")
no_driver = {"error": "Driver Not Loaded", "gpus": [], "driver_version": None, "cuda_driver_version": None}
trap("driver", files={"nvml.json": json.dumps(no_driver)})
no_answers = [(bus, -1, answers | unknown) for bus, _, answers in FOUR_GPUS]
trap("nodes", gpus=no_answers, files={"proc/meminfo": "MemTotal: 536870912 kB\nMemFree: 500000000 kB"})
for file in [file for file in TRAPS["nodes"].files if file.startswith("sys/devices/system/node/")]:
    del TRAPS["nodes"].files[file]


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="hosts-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def host_root(name: str) -> Path:
    """The root of a host's files. Not to be changed: other tests read it too."""
    return write_host(_folder() / name, HOSTS[name])


def host_topology(name: str) -> Topology:
    return read_topology(host_root(name))


def write_host(root: Path, files: Files) -> Path:
    for file, text in files.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
