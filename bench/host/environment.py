"""The virtual machine, the container and the distribution of a host, from the files of a live or recorded one."""

import re
import shlex
from pathlib import Path

from bench.storage import read_regular

_NVIDIA = "https://developer.download.nvidia.com"
_KEYRING = "/usr/share/keyrings/nvidia-devtools.asc"
# Of a checkout; as root, on Debian.
_INSTALL_NSYS = Path(__file__).parents[2] / ".ci/install-nsys"

# /proc/cpuinfo of 4,096 CPUs has 6 MB.
MOST_BYTES = 64 << 20


def hypervisor(root: Path = Path("/")) -> str:
    """The hypervisor's name as far as the guest can see it; "none" on bare metal."""
    vendor = read_text(root / "sys/class/dmi/id/sys_vendor")
    known = {"QEMU": "QEMU", "Amazon EC2": "Amazon EC2", "Google": "Google", "VMware, Inc.": "VMware"}
    if "hypervisor" not in read_text(root / "proc/cpuinfo").split():
        return "none" if vendor != "QEMU" else "QEMU"
    return known.get(vendor) or read_text(root / "sys/hypervisor/type") or vendor or "unnamed"


def container(root: Path = Path("/")) -> str:
    """docker, podman, kubepods, lxc, ...; "none" outside of one."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if named := read_text(root / "run/systemd/container"):
        return named
    first = read_text(root / "proc/1/cgroup")
    return next((name for name in ("kubepods", "docker", "lxc", "libpod") if name in first), "none")


def nsys_installation(root: Path = Path("/")) -> str:
    """A line for a shell that installs Nsight Systems on this distribution; "" where none is known."""
    release = dict(re.findall(r"""^(\w+)=['"]?(.*?)['"]?$""", read_text(root / "etc/os-release"), re.MULTILINE))
    if release.get("ID") == "debian" and _INSTALL_NSYS.exists():
        return f"sudo {shlex.quote(str(_INSTALL_NSYS))}"
    if release.get("ID") != "ubuntu":
        return ""
    repository = f"{_NVIDIA}/devtools/repos/ubuntu{release.get('VERSION_ID', '').replace('.', '')}"
    # As NVIDIA's installation guide has it, without apt-key, which is no more.
    return (
        f"curl -fsS {_NVIDIA}/compute/cuda/repos/ubuntu1804/x86_64/7fa2af80.pub | sudo tee {_KEYRING} >/dev/null && "
        f'echo "deb [signed-by={_KEYRING}] {repository}/$(dpkg --print-architecture) /" | '
        "sudo tee /etc/apt/sources.list.d/nvidia-devtools.list && "
        "sudo apt-get update && sudo apt-get install -y nsight-systems-cli"
    )


def read_text(path: Path) -> str:
    """The text of a file of the kernel without the white space around it; "" where it cannot be read.

    Old kernels end some files with a NUL byte.
    """
    try:
        return read_regular(path, MOST_BYTES).decode(errors="replace").replace("\0", "").strip()
    except OSError:
        return ""


def selected(modes: str) -> str:
    """The one in brackets of "always [madvise] never"; "" where there is none."""
    return modes.partition("[")[2].partition("]")[0]
