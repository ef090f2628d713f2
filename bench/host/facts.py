"""What the preflight judges: read from files (live or recorded), and tried on the live host.

Gathering is here, judging in bench.host.doctor: so that a recorded host can stand for a real one.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.files import read_json
from bench.host.binding import bindable_node
from bench.host.cpulist import parse_cpulist
from bench.host.fingerprint import container, hypervisor
from bench.host.gpus import query_nvml
from bench.host.meminfo import meminfo
from bench.host.nsys import find_importer, find_nsys
from bench.host.topology import Topology, read_topology


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
