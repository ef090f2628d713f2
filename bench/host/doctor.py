"""Preflight checks: the facts of a host, gathered from files (live or recorded) and by trying on the live host."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.errors import StudyError
from bench.host.binding import bindable_node, pages_refused
from bench.host.checks import Facts, Tried, checks
from bench.host.environment import container, hypervisor, nsys_installation, read_text
from bench.host.fingerprint import find_importer, find_nsys
from bench.host.gpus import read_nvml
from bench.host.locked_memory import LockedLimit, how_to_raise, locked_limit, pinning_refused
from bench.host.pci import iommu_mode, redirecting_bridges
from bench.host.recorded import checked
from bench.host.topology import cpu_affinity, free_bytes, read_topology
from bench.records.base import DamagedRecord, read
from bench.records.host import (
    Check,
    CheckState,
    Preflight,
    Topology,
    parse_cpulist,
)
from bench.units import listed, plural

DEFAULT_POOL_BYTES = 512 << 20


def gather(
    root: Path = Path("/"),
    folder: Path = Path(),
    pool_bytes: int = DEFAULT_POOL_BYTES,
    pinned_bytes: int = DEFAULT_POOL_BYTES,
) -> Facts:
    """Read a host's facts, as run_doctor takes them. Under another root, nothing is tried."""
    nvml = read_nvml(root)
    topology = read_topology(root, nvml)
    governors = {
        read_text(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    }
    limit = locked_limit(root)
    paranoid = read_text(root / "proc/sys/kernel/perf_event_paranoid")
    return Facts(
        topology=topology,
        nvml=nvml,
        node_free_bytes={node.id: free_bytes(root, node.id) for node in topology.nodes if node.memory_bytes},
        numa_balancing=read_text(root / "proc/sys/kernel/numa_balancing") or "0",
        memory_demotion=read_text(root / "sys/kernel/mm/numa/demotion_enabled") in ("1", "true"),
        governors=tuple(sorted(governors)),
        perf_event_paranoid=int(paranoid) if paranoid else None,
        affinity=tuple(sorted(cpu_affinity(root) or ())),
        hypervisor=hypervisor(root),
        container=container(root),
        own_pid=os.getpid(),
        iommu_modes={gpu.index: iommu_mode(root, gpu.pci_bus_id) for gpu in topology.gpus},
        redirecting_bridges={gpu.index: redirecting_bridges(root, gpu.pci_bus_id) for gpu in topology.gpus},
        isolated_cpus=parse_cpulist(read_text(root / "sys/devices/system/cpu/isolated")),
        locked_bytes=limit.soft,
        more_locked=how_to_raise(pinned_bytes, limit, root),
        nsys_installation=nsys_installation(root),
        tried=try_live(topology, folder, pinned_bytes, limit) if root == Path("/") else _recorded(root / "live.json"),
        pool_bytes=pool_bytes,
    )


def _recorded(file: Path) -> Tried | None:
    return read(file, Tried) if file.exists() else None


def try_live(topology: Topology, folder: Path, pinned_bytes: int, limit: LockedLimit) -> Tried:
    nsys = find_nsys()
    bind_failure = bindable_node(topology)[1]
    return Tried(
        bind_failure=bind_failure,
        cpus_failure=bind_failure and bindable_node(topology, "cpus")[1],
        pages_refused=pages_refused(),
        pinning_refused=pinning_refused(topology, pinned_bytes, limit),
        nsys=str(nsys) if nsys else None,
        nsys_importer=nsys is not None and find_importer(nsys) is not None,
        disk_free_bytes=shutil.disk_usage(_existing(folder)).free,
    )


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def run_doctor(
    folder: Path = Path(),
    pool_bytes: int = DEFAULT_POOL_BYTES,
    pinned_bytes: int = DEFAULT_POOL_BYTES,
    root: Path = Path("/"),
) -> Preflight:
    """The preflight of a host, for a study that writes under folder. Raise StudyError for an invalid recorded host.

    pool_bytes: host batches of the process that has most; pinned_bytes: of these, what CUDA pins.
    """
    try:
        with checked(root):
            return Preflight(checks=checks(gather(root, folder, pool_bytes, pinned_bytes)))
    except DamagedRecord as error:
        advice = "nvml.json and live.json are optional; leave a damaged one out"
        raise StudyError(f"the recorded host cannot be read: {error}", str(root), advice) from None


def doctor_command(as_json: bool, strict: bool, folder: Path = Path(), root: Path = Path("/")) -> tuple[str, int]:
    """Return (text to print, exit code): 0, or 1 if there is an error, or with strict also a warning.

    root: of the files of a recorded host, on which nothing is tried.
    """
    preflight = run_doctor(folder, root=root)
    text = msgspec.json.format(msgspec.json.encode(preflight), indent=1).decode() if as_json else to_text(preflight)
    return text, 1 if fatal(preflight.checks, strict) else 0


def fatal(found: Iterable[Check], strict: bool) -> list[Check]:
    """The checks that must stop a study."""
    states = (CheckState.ERROR, CheckState.WARNING) if strict else (CheckState.ERROR,)
    return [check for check in found if check.state in states]


def to_text(preflight: Preflight) -> str:
    width = max(len(check.name) for check in preflight.checks)
    lines = []
    for check in preflight.checks:
        lines.append(f"{check.state:<8}{check.name:<{width}}  {check.fact}")
        if check.remedy:
            lines.append(f"{'':<8}{'':<{width}}  -> {check.remedy}")
        if check.command:
            lines.append(f"{'':<8}{'':<{width}}     {check.command}")
    return "\n".join([*lines, "", _conclusion(preflight.checks)])


def _conclusion(found: Iterable[Check]) -> str:
    states = [check.state for check in found]
    errors, warnings = states.count(CheckState.ERROR), states.count(CheckState.WARNING)
    named = [plural(number, one) for number, one in ((errors, "error"), (warnings, "warning")) if number]
    if errors:
        return f"{listed(named)}: to be seen to before a study"
    if warnings:
        return f"{named[0]}: a study can run, and its report says so"
    return "nothing found that makes a study fail or mislead"
