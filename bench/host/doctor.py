"""Preflight checks."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host.binding import bindable_node
from bench.host.cpulist import format_cpulist, parse_cpulist
from bench.host.fingerprint import container, find_importer, find_nsys, hypervisor
from bench.host.gpus import query_nvml
from bench.host.topology import Topology, meminfo, read_topology
from bench.storage import read_json

# --- facts
# What the preflight judges: read from files (live or recorded), and tried on the live host.
#
# Gathering is here, judging in bench.host.doctor: so that a recorded host can stand for a real one.

@dataclass(frozen=True)
class Tried:
    """What only trying tells; a recorded host has it in live.json.

    bind_failure: (reason, advice) of a refused trial bind. nsys_importer: whether its stream can
    become a .nsys-rep.
    """

    bind_failure: tuple[str, str] | None
    nsys: str | None
    nsys_importer: bool
    disk_free_bytes: int


@dataclass(frozen=True)
class Facts:
    """One host, as the preflight sees it. nvml: the answers of query_nvml(); sizes by node id."""

    topology: Topology
    nvml: dict[str, Any]
    node_free_bytes: dict[int, int]
    numa_balancing: str
    governors: tuple[str, ...]
    perf_event_paranoid: int | None
    affinity: tuple[int, ...]
    hypervisor: str
    container: str
    own_pid: int
    tried: Tried


def gather(root: Path = Path("/"), folder: Path = Path()) -> Facts:
    """Read a host's facts. folder: where the study will write. Under another root, nothing is tried."""
    live = root == Path("/")
    nvml = query_nvml() if live else read_json(root / "nvml.json")
    topology = read_topology(root, nvml)
    governors = {_read(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    paranoid = _read(root / "proc/sys/kernel/perf_event_paranoid")
    return Facts(
        topology=topology,
        nvml=nvml,
        node_free_bytes={node.id: _free(root, node.id) for node in topology.nodes if node.memory_bytes},
        numa_balancing=_read(root / "proc/sys/kernel/numa_balancing") or "0",
        governors=tuple(sorted(governors)),
        perf_event_paranoid=int(paranoid) if paranoid else None,
        affinity=_affinity(root),
        hypervisor=hypervisor(root),
        container=container(root),
        own_pid=os.getpid(),
        tried=try_live(topology, folder) if live else recorded(root / "live.json"),
    )


def try_live(topology: Topology, folder: Path) -> Tried:
    _, failure = bindable_node(topology)
    nsys = find_nsys()
    return Tried(
        bind_failure=failure[1:] if failure else None,
        nsys=str(nsys) if nsys else None,
        nsys_importer=nsys is not None and find_importer(nsys) is not None,
        disk_free_bytes=shutil.disk_usage(_existing(folder)).free,
    )


def recorded(path: Path) -> Tried:
    record = read_json(path)
    failure = record["bind_failure"]
    return Tried(**record | {"bind_failure": tuple(failure) if failure else None})


def _free(root: Path, node: int) -> int:
    """Memory a new process could get on a node: free pages and the page cache that would make room."""
    values = meminfo(root, node)
    return values.get("MemFree", 0) + values.get("Active(file)", 0) + values.get("Inactive(file)", 0)


def _affinity(root: Path) -> tuple[int, ...]:
    for line in _read(root / "proc/self/status").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpulist(line.partition(":")[2])
    return ()


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# --- doctor
# The preflight: one line for each trap that makes a NUMA study lie or fail.

OK, WARNING, ERROR = "ok", "warning", "error"

PROCESS_BYTES = 3 << 30
"""Host memory of a run besides its pool: torch, CUDA and the driver's shadow of them (2.1-2.6 GiB seen)."""
DISK_LOW_BYTES, DISK_FULL_BYTES = 5 << 30, 512 << 20
HIDDEN_USE_BYTES = 4 << 30
"""GPU memory in use beyond what a driver reserves for itself: another process, if a hidden one."""
ACTIVE_STATE = 2  # performance states P0-P2: the link runs at full speed; P8 is idle


@dataclass(frozen=True)
class Check:
    """One line of the preflight. state: ok, warning or error; remedy is empty where there is nothing to do."""

    name: str
    state: str
    fact: str
    remedy: str = ""


def checks(facts: Facts, pool_bytes: int = 512 << 20) -> list[Check]:
    """Judge a host; one check per trap, always in this order. pool_bytes: the pinned pool of one run."""
    judges: tuple[Callable[[Facts], Check], ...] = (
        *(driver, nodes, gpu_node, gpu_busy, mig, ecc, throttling, link),
        *(binding, cpuset, numa_balancing, lambda facts: node_memory(facts, pool_bytes)),
        *(governor, nsys, perf_permission, disk),
    )
    return [judge(facts) for judge in judges]


def run_doctor(folder: Path = Path(), pool_bytes: int = 512 << 20) -> list[Check]:
    """The preflight of this host, for a study that writes under folder."""
    return checks(gather(folder=folder), pool_bytes)


def doctor_command(as_json: bool, strict: bool, folder: Path = Path()) -> tuple[str, int]:
    """Return (text to print, exit code): 0, or 1 if there is an error, or with strict also a warning."""
    found = run_doctor(folder)
    return (to_json(found) if as_json else to_text(found)), (1 if fatal(found, strict) else 0)


def fatal(found: Iterable[Check], strict: bool) -> list[Check]:
    """The checks that must stop a study."""
    return [check for check in found if check.state == ERROR or (strict and check.state == WARNING)]


def to_json(found: list[Check]) -> str:
    return json.dumps({"checks": [dataclasses.asdict(check) for check in found]}, indent=1)


def to_text(found: list[Check]) -> str:
    wide = max(len(check.name) for check in found)
    lines = []
    for check in found:
        lines.append(f"{check.state:<8}{check.name:<{wide}}  {check.fact}")
        if check.remedy:
            lines.append(f"{'':<8}{'':<{wide}}  -> {check.remedy}")
    return "\n".join(lines)


def driver(facts: Facts) -> Check:
    if facts.topology.gpus:
        topology = facts.topology
        versions = f"driver {topology.driver_version}, CUDA {topology.cuda_driver_version}"
        return Check("driver", OK, f"{len(topology.gpus)} GPU(s), {versions}")
    if facts.topology.silent_gpus:
        return Check(
            "driver",
            WARNING,
            f"GPU(s) at {', '.join(facts.topology.silent_gpus)} without NVML: {facts.topology.nvml_error}",
            "install the NVIDIA driver, or start the container with its GPUs (--gpus all)",
        )
    return Check("driver", OK, "no GPU: studies run on the cpu device")


def nodes(facts: Facts) -> Check:
    if not facts.topology.numa:
        return Check(
            "nodes",
            WARNING,
            "the kernel reports no NUMA nodes; the whole machine counts as node 0",
            "use a kernel with CONFIG_NUMA, not started with numa=off",
        )
    kinds = "; ".join(f"node {node.id} {node.kind}" for node in facts.topology.nodes)
    return Check("nodes", OK, kinds)


def gpu_node(facts: Facts) -> Check:
    unsure = [gpu for gpu in facts.topology.gpus if gpu.node is None]
    if not unsure:
        known = "; ".join(f"GPU {gpu.index} near node {gpu.node}" for gpu in facts.topology.gpus)
        return Check("gpu_node", OK, known or "no GPU")
    fact = "; ".join(f"GPU {gpu.index} {gpu.verdict}: {gpu.explanation}" for gpu in unsure)
    virtual = f" (hypervisor: {facts.hypervisor})" if facts.hypervisor != "none" else ""
    return Check("gpu_node", WARNING, fact + virtual, "run `numastudy probe`: it measures the nearest node of each GPU")


def gpu_busy(facts: Facts) -> Check:
    busy = []
    for index, gpu in enumerate(facts.nvml["gpus"]):
        others = [pid for pid in gpu.get("processes") or () if pid != facts.own_pid]
        used = gpu.get("memory_used_bytes") or 0
        if others:
            busy.append(f"GPU {index} is used by process {', '.join(map(str, others))}")
        elif used > HIDDEN_USE_BYTES:
            busy.append(f"GPU {index} has {used / 2**30:.1f} GiB in use by a process not visible here")
    return _warn("gpu_busy", busy, "no other process", "stop it, or leave the GPU out (gpu_ids): it disturbs every run")


def mig(facts: Facts) -> Check:
    split = [f"GPU {gpu.index} is split by MIG" for gpu in facts.topology.gpus if gpu.mig]
    return _warn(
        "mig", split, "off", "nvidia-smi -i <GPU> -mig 0 (root, idle GPU); until then its cells are not_runnable"
    )


def ecc(facts: Facts) -> Check:
    broken, worn = [], []
    for index, gpu in enumerate(facts.nvml["gpus"]):
        rows = gpu.get("remapped_rows") or {}
        if gpu.get("ecc_uncorrected"):
            broken.append(f"GPU {index}: {gpu['ecc_uncorrected']} uncorrected ECC errors since the driver started")
        if rows.get("failed"):
            broken.append(f"GPU {index}: a row remapping failed")
        if rows.get("pending"):
            worn.append(f"GPU {index}: a row remapping waits for a reset")
    if broken:
        return Check("ecc", ERROR, "; ".join(broken), "reset the GPU (nvidia-smi -r), and have it tested")
    return _warn("ecc", worn, "no uncorrected errors", "reset the GPU (nvidia-smi -r) before the study")


def throttling(facts: Facts) -> Check:
    slowed = [
        f"GPU {index}: {', '.join(gpu['throttle_reasons'])}"
        for index, gpu in enumerate(facts.nvml["gpus"])
        if gpu.get("throttle_reasons")
    ]
    return _warn(
        "throttling", slowed, "none", "mend cooling or the power limit (nvidia-smi -q -d PERFORMANCE), then start"
    )


def link(facts: Facts) -> Check:
    """Below its maximum: a narrow link always; a slow one only if the GPU is active, since idle links slow down."""
    slow = []
    for index, gpu in enumerate(facts.nvml["gpus"]):
        width, most = gpu.get("link_width"), gpu.get("link_width_max")
        generation, best = gpu.get("link_generation"), gpu.get("link_generation_max")
        state = gpu.get("performance_state")
        active = state is not None and state <= ACTIVE_STATE
        if width and most and width < most:
            slow.append(f"GPU {index}: link x{width} of x{most}")
        if active and generation and best and generation < best:
            slow.append(f"GPU {index}: link generation {generation} of {best} in P{state}")
    return _warn(
        "link", slow, "at full width; runs check the generation under load", "reseat the card, check BIOS and slot"
    )


def binding(facts: Facts) -> Check:
    if facts.tried.bind_failure is None:
        return Check("binding", OK, "a trial bind with numactl works")
    reason, advice = facts.tried.bind_failure
    where = f" (container: {facts.container})" if facts.container != "none" else ""
    return Check("binding", WARNING, f"nothing can be bound: {reason}{where}", advice)


def cpuset(facts: Facts) -> Check:
    all_nodes = facts.topology.nodes
    cut = [
        f"node {node.id}: {len(node.allowed_cpus)} of {len(node.cpus)} CPUs allowed"
        for node in all_nodes
        if len(node.allowed_cpus) < len(node.cpus)
    ]
    cut += [
        f"node {node.id}: memory not allowed" for node in all_nodes if node.memory_bytes and not node.memory_allowed
    ]
    cpus = {cpu for node in all_nodes for cpu in node.allowed_cpus}
    if not cut and facts.affinity and not cpus <= set(facts.affinity):
        cut.append(f"this process is held to CPUs {format_cpulist(facts.affinity)} (taskset?)")
    return _warn(
        "cpuset",
        cut,
        f"all {len(cpus)} CPUs and all memory nodes",
        "ask for whole nodes (Slurm: --exclusive --mem=0, srun --cpu-bind=none; Docker: no --cpuset-*)",
    )


def numa_balancing(facts: Facts) -> Check:
    on = ["automatic NUMA balancing is on: it moves and unmaps pages during runs"]
    return _warn(
        "numa_balancing", on if facts.numa_balancing != "0" else [], "off", "sysctl -w kernel.numa_balancing=0"
    )


def node_memory(facts: Facts, pool_bytes: int) -> Check:
    needed = pool_bytes + PROCESS_BYTES
    # A node of other memory (CXL, a GPU's own) is judged like any other: cells may name it.
    small = {node: free for node, free in facts.node_free_bytes.items() if free < needed}
    if not small:
        return Check("node_memory", OK, f"at least {needed / 2**30:.1f} GiB on every node with memory")
    fact = "; ".join(f"node {node} has {free / 2**30:.1f} GiB" for node, free in small.items())
    return Check(
        "node_memory",
        ERROR if len(small) == len(facts.node_free_bytes) else WARNING,
        f"{fact}; a bound run of this pool needs about {needed / 2**30:.1f} GiB, or it is killed",
        "free memory there, or lower memory_size_mb",
    )


def governor(facts: Facts) -> Check:
    slow = [name for name in facts.governors if name != "performance"]
    return _warn(
        "governor",
        [f"CPU frequency governor: {', '.join(slow)}"] if slow else [],
        "performance" if facts.governors else "the host does not say",
        "cpupower frequency-set -g performance",
    )


def nsys(facts: Facts) -> Check:
    if not facts.topology.gpus and facts.tried.nsys is None:
        return Check("nsys", OK, "not installed, and not needed without a GPU")
    if facts.tried.nsys is None:
        return Check("nsys", WARNING, "nsys is not installed: torch.profiler traces instead",
                     "install Nsight Systems (developer.nvidia.com/nsight-systems)")  # fmt: skip
    if not facts.tried.nsys_importer:
        return Check(
            "nsys",
            WARNING,
            f"{facts.tried.nsys} has no QdstrmImporter: it would leave a .qdstrm and exit 0",
            "install all of Nsight Systems: QdstrmImporter is in its host folder (host-linux-x64)",
        )
    return Check("nsys", OK, facts.tried.nsys)


def perf_permission(facts: Facts) -> Check:
    level = facts.perf_event_paranoid
    if facts.tried.nsys is None or level is None or level <= 2:
        return Check("perf_permission", OK, f"perf_event_paranoid {level}" if level is not None else "not limited")
    return Check(
        "perf_permission",
        WARNING,
        f"perf_event_paranoid is {level}: nsys may refuse to start",
        "sysctl -w kernel.perf_event_paranoid=2",
    )


def disk(facts: Facts) -> Check:
    free = facts.tried.disk_free_bytes
    state = ERROR if free < DISK_FULL_BYTES else WARNING if free < DISK_LOW_BYTES else OK
    remedy = "make room, or choose another --output-dir" if state != OK else ""
    return Check("disk", state, f"{free / 2**30:.1f} GiB free for the run directory", remedy)


def _warn(name: str, found: list[Any], fine: str, remedy: str) -> Check:
    return Check(name, WARNING, "; ".join(found), remedy) if found else Check(name, OK, fine)
