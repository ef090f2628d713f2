"""What is between a GPU and host memory: the IOMMU, and PCIe bridges with Access Control Services (ACS)."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from bench.host.environment import read_text
from bench.storage import open_regular

_DEVICES = "sys/bus/pci/devices"
_EXTENDED = 0x100  # where the list of extended capabilities begins (PCI Express Base Specification, 7.6)
_ACS = 0x000D
_REDIRECTS = 0x000C  # P2P request redirect and completion redirect, bits of the ACS control register (7.7.11)


def iommu_mode(root: Path, pci_bus_id: str) -> str:
    """The default domain of a device's IOMMU group: "identity" (no translation), "DMA", "DMA-FQ"; "" without one.

    See Documentation/ABI/testing/sysfs-kernel-iommu_groups of the kernel.
    """
    return read_text(root / _DEVICES / pci_bus_id / "iommu_group/type")


def redirecting_bridges(root: Path, pci_bus_id: str) -> tuple[str, ...] | None:
    """The bridges above a device that send copies between GPUs through the root complex.

    None if this cannot be read: only root may read the registers, and a virtual machine sees bridges of its own.
    """
    registers = {bridge: _acs_control(root / _DEVICES / bridge / "config") for bridge in _bridges(root, pci_bus_id)}
    known = {bridge: control for bridge, control in registers.items() if control is not None}
    return tuple(bridge for bridge, control in known.items() if control & _REDIRECTS) if known else None


def _bridges(root: Path, pci_bus_id: str) -> Iterator[str]:
    """sysfs holds a device in the folder of the bridge above it."""
    for folder in (root / _DEVICES / pci_bus_id).resolve().parents:
        if re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", folder.name):
            yield folder.name


def _acs_control(file: Path) -> int | None:
    """The ACS control register; None if the device has none, or not all registers can be read."""
    try:
        with open_regular(file) as registers:
            config = registers.read(4096)
    except OSError:
        return None
    at, seen = _EXTENDED, set[int]()
    while at >= _EXTENDED and at not in seen and at + 8 <= len(config):
        seen.add(at)
        (header,) = struct.unpack_from("<I", config, at)
        if header & 0xFFFF == _ACS:
            return int(struct.unpack_from("<H", config, at + 6)[0])
        at = header >> 20
    return None
