"""NUMA nodes, GPUs and distances of a host, live or recorded."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.host.cpulist import format_cpulist, parse_cpulist
from bench.host.gpus import Gpu, clock_policy, query_nvml
from bench.storage import read_json

# --- meminfo
# What the kernel says of memory: /proc/meminfo, and the file of the same name of each node.

def meminfo(root: Path, node: int) -> dict[str, int]:
    """Bytes by name, of a node; of the machine where the kernel reports no such node; {} where it says nothing."""
    folder = root / f"sys/devices/system/node/node{node}"
    try:
        text = ((folder if folder.is_dir() else root / "proc") / "meminfo").read_text()
    except OSError:
        return {}
    # "MemFree: 1 kB", of a node "Node 0 MemFree: 1 kB".
    found = re.findall(r"^(?:Node +\d+ +)?([\w()]+): +(\d+) kB", text, re.MULTILINE)
    return {name: int(kibibytes) * 1024 for name, kibibytes in found}


# --- topology
# The host's NUMA nodes and GPUs, read from a live machine or from a recorded tree of the same files.

_NODES = "sys/devices/system/node"


@dataclass(frozen=True)
class Node:
    """One NUMA node. cpus: online; allowed_cpus: of these, the ones this process may be bound to.

    distances: ACPI SLIT distances by node id (10 = itself).
    """

    id: int
    cpus: tuple[int, ...]
    allowed_cpus: tuple[int, ...]
    memory_bytes: int
    memory_allowed: bool
    distances: dict[int, int]

    @property
    def kind(self) -> str:
        if self.cpus:
            return "cpu+memory" if self.memory_bytes else "cpu only"
        return "memory only" if self.memory_bytes else "empty"

    @property
    def usable(self) -> bool:
        """Whether a process may be bound to it, CPUs and memory."""
        return bool(self.allowed_cpus and self.memory_bytes and self.memory_allowed)


@dataclass(frozen=True)
class Topology:
    """Nodes by ascending id (ids may have gaps) and GPUs in PCI bus order.

    numa: False if the kernel reports no nodes; then node 0 stands for the whole machine.
    silent_gpus: PCI ids of NVIDIA GPUs that sysfs shows while NVML is missing (no driver, or a container
    without it).
    """

    nodes: tuple[Node, ...]
    gpus: tuple[Gpu, ...]
    numa: bool
    driver_version: str | None
    cuda_driver_version: str | None
    nvml_error: str | None
    silent_gpus: tuple[str, ...] = ()

    def node(self, node_id: int) -> Node | None:
        return next((node for node in self.nodes if node.id == node_id), None)

    def gpu(self, index: int) -> Gpu | None:
        return next((gpu for gpu in self.gpus if gpu.index == index), None)

    def local_node(self, gpu: int) -> int | None:
        """The node that the sources agree to be nearest to the GPU; None if unknown, never a default."""
        found = self.gpu(gpu)
        return found.node if found else None

    def to_json(self) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        for node, plain in zip(self.nodes, record["nodes"], strict=True):
            plain |= {"kind": node.kind, "cpus": _list(node.cpus), "allowed_cpus": _list(node.allowed_cpus)}
            plain["distances"] = {str(key): value for key, value in node.distances.items()}
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Topology":
        nodes = []
        for plain in record["nodes"]:
            plain = {key: value for key, value in plain.items() if key != "kind"}
            plain |= {key: parse_cpulist(plain[key]) for key in ("cpus", "allowed_cpus")}
            plain["distances"] = {int(key): value for key, value in plain["distances"].items()}
            nodes.append(Node(**plain))
        gpus = []
        for plain in record["gpus"]:
            answers = {source: tuple(said) for source, said in plain["answers"].items()}
            gpus.append(Gpu(**plain | {"answers": answers}))
        whole = {"nodes": tuple(nodes), "gpus": tuple(gpus), "silent_gpus": tuple(record["silent_gpus"])}
        return cls(**record | whole)


def read_topology(root: Path = Path("/"), nvml: dict[str, Any] | None = None) -> Topology:
    """Read sysfs, procfs and NVML. Under another root than "/" NVML's answers are those of root/nvml.json.

    nvml: answers of bench.host.gpus.query_nvml() that the caller already has.
    """
    if nvml is None:
        nvml = query_nvml() if root == Path("/") else read_json(root / "nvml.json")
    allowed_cpus = _allowed(root, "cpus")
    allowed_mems = _allowed(root, "mems")
    nodes = _read_nodes(root, allowed_cpus, allowed_mems)
    numa = bool(nodes)
    if not numa:
        nodes = (_whole_machine(root, allowed_cpus),)
    gpus = tuple(_gpu(root, nodes, index, answer) for index, answer in enumerate(nvml["gpus"]))
    cuda = nvml.get("cuda_driver_version")
    return Topology(
        nodes=nodes,
        gpus=gpus,
        numa=numa,
        driver_version=nvml.get("driver_version"),
        cuda_driver_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        nvml_error=nvml.get("error"),
        silent_gpus=_pci_gpus(root) if nvml.get("error") else (),
    )


def _read_nodes(root: Path, allowed_cpus: set[int] | None, allowed_mems: set[int] | None) -> tuple[Node, ...]:
    online = parse_cpulist(_read(root / _NODES / "online"))
    nodes = []
    for node_id in online:
        folder = root / _NODES / f"node{node_id}"
        cpus = parse_cpulist(_read(folder / "cpulist"))
        distances = map(int, _read(folder / "distance").split())
        nodes.append(
            Node(
                id=node_id,
                cpus=cpus,
                allowed_cpus=tuple(cpu for cpu in cpus if allowed_cpus is None or cpu in allowed_cpus),
                memory_bytes=meminfo(root, node_id).get("MemTotal", 0),
                memory_allowed=allowed_mems is None or node_id in allowed_mems,
                # The kernel writes one distance per online node, in their order, without the ids.
                distances=dict(zip(online, distances, strict=False)),
            )
        )
    return tuple(nodes)


def _whole_machine(root: Path, allowed_cpus: set[int] | None) -> Node:
    cpus = parse_cpulist(_read(root / "sys/devices/system/cpu/online")) or tuple(sorted(allowed_cpus or {0}))
    allowed = tuple(cpu for cpu in cpus if allowed_cpus is None or cpu in allowed_cpus)
    return Node(0, cpus, allowed, meminfo(root, 0).get("MemTotal", 0), True, {0: 10})


def _gpu(root: Path, nodes: tuple[Node, ...], index: int, answer: dict[str, Any]) -> Gpu:
    answers = nearest_nodes(root, nodes, answer)
    node, verdict, explanation = judge_nearest(answers)
    same = (
        *("pci_bus_id", "uuid", "name", "mig", "ecc"),
        *("link_generation", "link_generation_max", "link_width", "link_width_max"),
    )
    return Gpu(
        index=index,
        node=node,
        verdict=verdict,
        explanation=explanation,
        answers=answers,
        clocks=clock_policy(answer),
        **{key: answer.get(key) for key in same},
    )


def nearest_nodes(root: Path, nodes: tuple[Node, ...], answer: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """What each source says of the nodes nearest to one GPU; () where it says nothing.

    Only nodes with CPUs count (a GPU's own memory may be a node too), and an NVML answer that names every
    one of them says nothing, also where there is only one: that is what a virtual machine shows.
    """
    with_cpus = {node.id for node in nodes if node.cpus}
    by_cpu = {cpu: node.id for node in nodes for cpu in node.cpus}
    sysfs = _read(root / "sys/bus/pci/devices" / answer["pci_bus_id"] / "numa_node").strip()
    by_memory = set(parse_cpulist(answer.get("memory_affinity") or "")) & with_cpus
    by_cpus = {by_cpu[cpu] for cpu in parse_cpulist(answer.get("cpu_affinity") or "") if cpu in by_cpu}
    return {
        "sysfs numa_node": (int(sysfs),) if sysfs and int(sysfs) >= 0 else (),
        "NVML memory affinity": tuple(sorted(by_memory)) if by_memory != with_cpus else (),
        "NVML CPU affinity": tuple(sorted(by_cpus)) if by_cpus != with_cpus else (),
    }


def judge_nearest(answers: dict[str, tuple[int, ...]]) -> tuple[int | None, str, str]:
    """Return (node, verdict, who says what); verdict is agreed, disagreed or unknown."""
    said = {source: set(nodes) for source, nodes in answers.items() if nodes}
    silent = ", ".join(source for source, nodes in answers.items() if not nodes)
    if not said:
        return None, "unknown", f"no answer from {silent}"
    who = "; ".join(f"{source} says {format_cpulist(nodes)}" for source, nodes in said.items())
    who += f"; no answer from {silent}" if silent else ""
    common = set.intersection(*said.values())
    if not common:
        return None, "disagreed", who
    if len(common) > 1:
        return None, "unknown", f"only narrowed to nodes {format_cpulist(common)}: {who}"
    return common.pop(), "agreed", who


def _allowed(root: Path, what: str) -> set[int] | None:
    """The cpuset's CPUs or memory nodes ("cpus", "mems"); failing that those of /proc/self/status.

    The cpuset comes first: a bind can widen a narrow affinity (taskset) again, a cpuset it cannot.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        base, name = root / "sys/fs/cgroup", f"cpuset.{what}.effective"
        if controllers == "cpuset":
            base, name = base / "cpuset", f"cpuset.effective_{what}"
        elif controllers:
            continue
        # A container sees its own group at the mount point, whatever the path says.
        for folder in (base / path.lstrip("/"), base):
            if numbers := parse_cpulist(_read(folder / name)):
                return set(numbers)
    label = "Cpus_allowed_list:" if what == "cpus" else "Mems_allowed_list:"
    for line in _read(root / "proc/self/status").splitlines():
        if line.startswith(label):
            return set(parse_cpulist(line.removeprefix(label)))
    return None


def _pci_gpus(root: Path) -> tuple[str, ...]:
    devices = root / "sys/bus/pci/devices"
    return tuple(
        device.name
        for device in sorted(devices.iterdir() if devices.is_dir() else ())
        if _read(device / "vendor").strip() == "0x10de" and _read(device / "class").startswith(("0x0300", "0x0302"))
    )


def _list(numbers: tuple[int, ...]) -> str:
    return format_cpulist(numbers) if numbers else ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
