"""What of a host and its tools can change its numbers, as short texts that can be compared."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.host.environment import container, hypervisor, read_text, selected
from bench.records.host import Fingerprint, FingerprintChange, Topology

NOT_COMPARED = frozenset({"host"})
LATER = frozenset({"cpu_part", "kernel_parameters"})
"""Facts that earlier versions did not record: compared only where both sides have them."""
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
LABELS = {
    "kernel": "the kernel",
    "cpu": "the CPU",
    "cpu_part": "the part of the CPU",
    "kernel_parameters": "the kernel's boot parameters",
    "nodes": "the NUMA nodes",
    "governor": "the CPU frequency governor",
    "smt": "SMT (hyper-threading)",
    "numa_balancing": "automatic NUMA balancing",
    "hugepages": "the huge page settings",
    "hypervisor": "the hypervisor",
    "container": "the container",
    "driver": "the NVIDIA driver",
    "cuda_driver": "the CUDA version of the driver",
    "gpus": "the GPUs",
    "gpu_clocks": "the GPUs' clock and power policy",
    "nsys": "Nsight Systems",
    "constraints": "constraints.txt",
}
# Their labels are plurals.
_SEVERAL = ("kernel_parameters", "nodes", "hugepages", "gpus")
INSTALLATIONS = (
    "/opt/nvidia/nsight-systems*/*/bin/nsys",
    "/opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/usr/lib/nsight-systems/bin/nsys",
)
# Nsight Compute brings an nsys too; it cannot make a report and is not looked for.
IMPORTERS = (
    "/usr/lib/nsight-systems/host-*/QdstrmImporter",
    "/opt/nvidia/nsight-systems*/*/host-*/QdstrmImporter",
)


# Only these: the command line may hold secrets and ids of disks.
_PARAMETERS = re.compile(
    r"(numa|numa_balancing|isolcpus|nohz|nohz_full|rcu_nocbs|irqaffinity|maxcpus|nr_cpus|nosmt|mitigations|mem|memmap"
    r"|transparent_hugepage|default_hugepagesz|hugepagesz|hugepages|iommu|intel_iommu|amd_iommu|iommu\.\w+|pci|pcie_\w+"
    r"|intel_pstate|amd_pstate|intel_idle\.\w+|processor\.\w+|idle|cpuidle\.\w+|cpufreq\.\w+|clocksource|tsc|preempt"
    r"|init_on_alloc|init_on_free|nvidia\.\w+)(=\S*)?"
)


def fingerprint(topology: Topology, root: Path = Path("/")) -> Fingerprint:
    """Under another root than "/" the machine is the recorded one, and nothing is known of its tools."""
    here = root == Path("/")
    cpuinfo = read_text(root / "proc/cpuinfo")
    return Fingerprint(
        host=platform.node() if here else read_text(root / "proc/sys/kernel/hostname"),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or "unknown",
        machine=platform.machine() if here else read_text(root / "proc/sys/kernel/arch"),
        cpu=cpu_model(cpuinfo),
        cpu_part=cpu_part(cpuinfo),
        kernel_parameters=kernel_parameters(read_text(root / "proc/cmdline")),
        nodes="; ".join(f"{node.id}: CPUs {node.cpus or 'none'}" for node in topology.nodes),
        governor=read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "none",
        smt=read_text(root / "sys/devices/system/cpu/smt/control") or "unknown",
        numa_balancing=read_text(root / "proc/sys/kernel/numa_balancing") or "not in this kernel",
        hugepages=hugepages(root),
        hypervisor=hypervisor(root),
        container=container(root),
        driver=topology.driver_version or "none",
        cuda_driver=topology.cuda_driver_version or "none",
        gpus="; ".join(f"{gpu.name} {gpu.uuid or gpu.pci_bus_id}" for gpu in topology.gpus) or "none",
        gpu_clocks=gpu_clocks(topology),
        python=platform.python_version() if here else "",
        torch=_package("torch") if here else "",
        timm=_package("timm") if here else "",
        nsys=nsys_version() if here else "",
        constraints=_hash(_CONSTRAINTS) if here else "",
    )


def fingerprint_changes(old: Fingerprint, new: Fingerprint) -> tuple[FingerprintChange, ...]:
    """The facts that differ. Empty if the hosts are alike."""
    facts = [fact for fact in Fingerprint.__struct_fields__ if fact not in NOT_COMPARED]
    changes = (FingerprintChange(fact=fact, before=getattr(old, fact), after=getattr(new, fact)) for fact in facts)
    return tuple(
        change
        for change in changes
        if change.before != change.after and (change.fact not in LATER or (change.before and change.after))
    )


def describe_change(change: FingerprintChange) -> str:
    """ "the kernel was 6.1.0, is 6.8.0"."""
    before, after = change.before or "not recorded", change.after or "not recorded"
    verbs = ("were", "are") if change.fact in _SEVERAL else ("was", "is")
    return f"{LABELS.get(change.fact, change.fact)} {verbs[0]} {before}, {verbs[1]} {after}"


def cpu_model(cpuinfo: str) -> str:
    for label in ("model name", "CPU implementer", "uarch"):
        if match := re.search(rf"^{label}\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
            return match[1] if label == "model name" else f"{platform.machine()} {label} {match[1]}"
    return "unknown"


def cpu_part(cpuinfo: str) -> str:
    """The implementer and parts of Arm CPUs, the model of POWER; "" where the model name says it."""
    if power := re.search(r"^cpu\s*:\s*(POWER.+)$", cpuinfo, re.MULTILINE):
        return power[1]
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)))
    implementer = re.search(r"^CPU implementer\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)
    return f"implementer {implementer[1]}, part {', '.join(parts)}" if implementer and parts else ""


def kernel_parameters(command_line: str) -> str:
    """The parameters that can change speed, sorted; "none" if there are none, "" without a command line."""
    found = sorted(word for word in command_line.split() if _PARAMETERS.fullmatch(word))
    return " ".join(found) or ("none" if command_line else "")


def hugepages(root: Path) -> str:
    """The selected mode of transparent huge pages (anonymous, shared) and the count of reserved pages."""
    folder = "sys/kernel/mm/transparent_hugepage"
    modes = [selected(read_text(root / folder / name)) or "unknown" for name in ("enabled", "shmem_enabled")]
    return f"thp {modes[0]}, shmem {modes[1]}, reserved {read_text(root / 'proc/sys/vm/nr_hugepages') or '0'}"


def gpu_clocks(topology: Topology) -> str:
    texts = sorted({gpu.clocks for gpu in topology.gpus if gpu.clocks})
    return "; ".join(texts) or "none"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "none"


def find_nsys() -> Path | None:
    """nsys on PATH, else the newest of the usual places."""
    on_path = shutil.which("nsys")
    return Path(on_path) if on_path else _newest(INSTALLATIONS)


def find_importer(nsys: Path) -> Path | None:
    """QdstrmImporter: in nsys's own folder or a host folder beside it, where nsys itself searches, else in the usual
    places."""
    own = nsys.resolve().parent
    places = (own, *sorted(own.parent.glob("host-*")), *sorted(own.parent.parent.glob("host-*")))
    beside = (place / "QdstrmImporter" for place in places)
    return next((importer for importer in beside if importer.exists()), None) or _newest(IMPORTERS)


def nsys_version() -> str:
    """For instance "2025.3.2"; "none" where there is no nsys, "unknown" where its version cannot be read."""
    nsys = find_nsys()
    if nsys is None:
        return "none"
    # The installer's folder names the version; starting nsys takes much longer than reading it.
    if match := re.search(r"/(\d{4}\.\d+(?:\.\d+)*)/", os.path.realpath(nsys)):
        return match[1]
    return _ask_version(nsys)


@lru_cache
def _ask_version(nsys: Path) -> str:
    try:
        answer = subprocess.run([nsys, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    match = re.search(r"version (\S+)", answer.stdout)
    return match[1] if match else "unknown"


def _newest(patterns: tuple[str, ...]) -> Path | None:
    found = [path for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))]
    return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)
