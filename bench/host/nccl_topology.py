"""A topology file of NCCL as a witness: virtual machines that hide the host's nodes often come with one.

The format is NCCL's (src/graph/xml.cc): <system> holds <cpu numaid= affinity=>, which holds the <pci busid=> of GPUs,
bridges and network cards at any depth. A file that NCCL dumped on this host repeats what sysfs reports.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from bench.host.gpus import AFFINITY_WORDS, normal_bus_id
from bench.records.host import CpuList, bits, format_cpulist
from bench.storage import read_regular

DEFAULT = Path("var/run/nvidia-topologyd/virtualTopology.xml")
"""Where NCCL looks without NCCL_TOPO_FILE; cloud images put their file there."""
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """The NUMA node of a PCI device, and that node's CPUs, as the file has them; cpus: "" if it does not list them."""

    node: int
    cpus: CpuList


@dataclass(frozen=True)
class NcclTopology:
    """nodes: every node id of the file. places: by PCI bus id, written as in sysfs."""

    nodes: frozenset[int]
    places: Mapping[str, Place]


def read_nccl_topology(root: Path = Path("/")) -> NcclTopology | None:
    """The file that NCCL would read, or None. One that cannot be read names no node.

    Under another root than "/" NCCL_TOPO_FILE of this process has no meaning.
    """
    named = os.environ.get("NCCL_TOPO_FILE") if root == Path("/") else None
    file = Path(named) if named else root / DEFAULT
    if not named and not file.exists():
        return None
    try:
        return parse_nccl_topology(read_regular(file, MOST_BYTES))
    except (OSError, ValueError):
        return NcclTopology(frozenset(), {})


def parse_nccl_topology(content: bytes) -> NcclTopology:
    """Raise ValueError if it is no XML of this format. A document type is refused: entities could grow without end."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("a topology file has no document type")
    try:
        system = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    nodes, places = set(), {}
    for cpu in system.iter("cpu"):
        number = cpu.get("numaid", "")
        if not number.isdecimal():
            continue
        place = Place(int(number), _cpus(cpu.get("affinity", "")))
        nodes.add(place.node)
        for device in cpu.iter("pci"):
            bus_id = device.get("busid", "")
            if re.fullmatch(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]", bus_id):
                places[normal_bus_id(bus_id)] = place
    return NcclTopology(frozenset(nodes), places)


def _cpus(mask: str) -> CpuList:
    """A mask as the kernel writes it: 32-bit words, the highest first, which may be shorter: "ff,ffff0000"."""
    words = mask.split(",")
    if len(words) > AFFINITY_WORDS * 2 or not re.fullmatch(r"[0-9a-fA-F]{1,8}(,[0-9a-fA-F]{8})*", mask):
        return ""
    cpus = bits(int("".join(words), 16))
    return format_cpulist(cpus) if cpus else ""
