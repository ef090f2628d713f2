import struct
from pathlib import Path

import pytest

from bench.host.pci import iommu_mode, redirecting_bridges

GPU, BRIDGE, ROOT_PORT = "0000:0f:00.0", "0000:0e:00.0", "0000:00:01.0"
ERRORS, ACS = 0x0001, 0x000D


def registers(*capabilities: tuple[int, int, int]) -> bytes:
    """A configuration space with extended capabilities, each as (offset, id, control register)."""
    config = bytearray(4096)
    for place, (at, kind, control) in enumerate(capabilities):
        following = capabilities[place + 1][0] if place + 1 < len(capabilities) else 0
        struct.pack_into("<IHH", config, at, kind | 1 << 16 | following << 20, 0x1F, control)
    return bytes(config)


def host(root: Path, bridge: bytes, root_port: bytes = registers()) -> Path:
    """Real sysfs nests devices below their bridges and links them all in one folder."""
    port = root / "sys/devices/pci0000:00" / ROOT_PORT
    (port / BRIDGE / GPU).mkdir(parents=True)
    (port / "config").write_bytes(root_port)
    (port / BRIDGE / "config").write_bytes(bridge)
    links = root / "sys/bus/pci/devices"
    links.mkdir(parents=True)
    for folder in (port, port / BRIDGE, port / BRIDGE / GPU):
        (links / folder.name).symlink_to(f"../../../{folder.relative_to(root / 'sys')}")
    return root


@pytest.mark.parametrize(
    ("bridge", "found"),
    [
        (registers((0x100, ERRORS, 0), (0x148, ACS, 0x1D)), (BRIDGE,)),
        (registers((0x100, ACS, 0x01)), ()),
        (registers((0x100, ERRORS, 0)), None),
        (registers((0x100, ACS, 0x1D))[:64], None),
        (struct.pack("<I", 0x100 << 20 | ERRORS).rjust(0x104, b"\0") + bytes(60), None),
    ],
    ids=["redirects", "validates only", "no ACS", "not root", "a list that ends nowhere"],
)
def test_redirecting_bridges(tmp_path: Path, bridge: bytes, found: tuple[str, ...] | None) -> None:
    assert redirecting_bridges(host(tmp_path, bridge), GPU) == found


def test_every_bridge_up_to_the_root_is_read(tmp_path: Path) -> None:
    both = registers((0x100, ACS, 0x0C))
    assert redirecting_bridges(host(tmp_path, both, both), GPU) == (BRIDGE, ROOT_PORT)


def test_a_device_without_iommu_or_bridges(tmp_path: Path) -> None:
    assert iommu_mode(tmp_path, GPU) == ""
    assert redirecting_bridges(tmp_path, GPU) is None


def test_the_mode_of_the_iommu_is_that_of_the_group(tmp_path: Path) -> None:
    root = host(tmp_path, registers())
    group = root / "sys/kernel/iommu_groups/7"
    group.mkdir(parents=True)
    (group / "type").write_text("identity\n")
    (root / "sys/bus/pci/devices" / GPU / "iommu_group").symlink_to(group)
    assert iommu_mode(root, GPU) == "identity"
