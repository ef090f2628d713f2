"""Read recorded hosts of other projects, such as hwloc's tests/hwloc/linux: trees of sys and proc in tar archives.

usage: python -m tests.validation.recorded_hosts FOLDER      one line a host; exit code 1 if one cannot be read
Where lstopo (hwloc) is installed, each host is compared with what it reads from the same files. Topology files of NCCL
in the folder (*.xml, such as those of RCCL's topo_expl) must give a node to every GPU.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.errors import StudyError
from bench.host.binding import bind_prefix
from bench.host.doctor import run_doctor
from bench.host.fingerprint import fingerprint
from bench.host.gpus import normal_bus_id
from bench.host.nccl_topology import parse_nccl_topology
from bench.host.topology import read_topology
from bench.records.base import DamagedRecord
from bench.records.host import Topology, format_cpulist

Seen = Mapping[str, object]


def describe(topology: Topology, root: Path) -> str:
    """What every reader of the host room finds under a root. Whatever they raise is a bug."""
    run_doctor(root=root)
    fingerprint(topology, root)
    for node in topology.nodes:
        bind_prefix("numactl", node.id, node.id, root=root)
    cpus = [cpu for node in topology.nodes for cpu in node.cpu_ids]
    kinds = "; ".join(topology.core_kinds)
    notes = [f"kinds of cores {kinds}"] if kinds else []
    notes += ["overlapping nodes"] if len(cpus) != len(set(cpus)) else []
    notes += [f"node {node.id} without memory" for node in topology.nodes if node.cpu_ids and not node.memory_bytes]
    return f"{len(topology.nodes)} nodes, CPUs {format_cpulist(cpus)}{''.join(f', {note}' for note in notes)}"


def ours(topology: Topology) -> Seen:
    nodes = topology.nodes
    return {
        "nodes": [node.id for node in nodes],
        "CPUs": {node.id: node.cpus for node in nodes},
        "memory": {node.id: node.memory_bytes for node in nodes},
        # hwloc leaves out the table of a single node.
        "distances": {node.id: [*node.distances.values()] for node in nodes if node.distances and len(nodes) > 1},
        "allowed CPUs": format_cpulist(cpu for node in nodes for cpu in node.allowed_cpu_ids),
        "allowed memory": [node.id for node in nodes if node.memory_allowed],
    }


def lstopo(root: Path) -> Seen:
    """What hwloc reads from the same files. Raise OSError or CalledProcessError."""
    environment = {"HWLOC_FSROOT": str(root), "HWLOC_KEEP_NVIDIA_GPU_NUMA_NODES": "1", "HWLOC_COMPONENTS": "linux,stop"}
    command = ["lstopo-no-graphics", "--of", "xml", "--disallowed"]
    printed = subprocess.run(command, env=os.environ | environment, capture_output=True, check=True, timeout=240).stdout
    tree = ElementTree.fromstring(printed)
    machine = tree.find("object")
    assert machine is not None
    found = sorted(tree.iter("object"), key=lambda one: int(one.get("os_index", "-1")))
    nodes = [one for one in found if one.get("type") == "NUMANode"]
    table = next((one for one in tree.iter("distances2") if one.get("name") == "NUMALatency"), None)
    ids = _words(table, "indexes")
    values = _words(table, "u64values")
    return {
        "nodes": [int(node.get("os_index", "0")) for node in nodes],
        "CPUs": {int(node.get("os_index", "0")): _list(node.get("cpuset", "")) for node in nodes},
        "memory": {int(node.get("os_index", "0")): int(node.get("local_memory", "0")) for node in nodes},
        "distances": {node: values[place * len(ids) :][: len(ids)] for place, node in enumerate(ids)},
        "allowed CPUs": _list(machine.get("allowed_cpuset", "")) or "none",
        "allowed memory": _bits(machine.get("allowed_nodeset", "")),
    }


def _words(table: ElementTree.Element | None, name: str) -> list[int]:
    return [] if table is None else [int(word) for part in table.findall(name) for word in (part.text or "").split()]


def _list(mask: str) -> str:
    return format_cpulist(_bits(mask)) if _bits(mask) else ""


def _bits(mask: str) -> list[int]:
    """hwloc writes masks as 32-bit words, the highest first; an empty word is zero."""
    words = [int(word or "0", 16) for word in mask.split(",")][::-1]
    return [32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1]


def main(folder: Path) -> int:
    failed = 0
    counts: Counter[str] = Counter()
    compare = shutil.which("lstopo-no-graphics") is not None
    for archive in sorted(folder.glob("*.tar*")):
        with tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
            root = next((path.parents[1] for path in Path(scratch).rglob("sys/devices") if path.is_dir()), None)
            if root is None:
                print(f"{archive.name}: no sys/devices")
                continue
            try:
                topology = read_topology(root)
                print(f"{archive.name}: {describe(topology, root)}")
            except (StudyError, DamagedRecord, ValueError, OSError) as error:
                failed += 1
                print(f"{archive.name}: FAILED: {error}")
                continue
            if compare:
                _compare(ours(topology), root, counts)
    for file in sorted(folder.glob("*.xml")):
        content = file.read_bytes()
        placed = parse_nccl_topology(content).places
        devices = ElementTree.fromstring(content).iter("pci")
        gpus = [device.get("busid", "") for device in devices if device.find("gpu") is not None]
        missing = [gpu for gpu in gpus if normal_bus_id(gpu) not in placed]
        failed += bool(missing)
        counts["GPUs of topology files placed"] += len(gpus) - len(missing)
        print(f"{file.name}: {len(gpus)} GPUs{', without a node: ' if missing else ''}{', '.join(missing)}")
    for what, count in sorted(counts.items()):
        print(f"{what}: {count}")
    return 1 if failed else 0


def _compare(own: Seen, root: Path, counts: Counter[str]) -> None:
    try:
        theirs = lstopo(root)
    except (OSError, subprocess.SubprocessError) as error:
        counts["not read by lstopo"] += 1
        print(f"    lstopo: {error}")
        return
    for what, value in own.items():
        counts[f"{what} {'equal' if value == theirs[what] else 'different'}"] += 1
        if value != theirs[what]:
            print(f"    {what}: {value}\n    lstopo: {theirs[what]}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
