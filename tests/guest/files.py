"""What guests are made of: Debian's kernel with its modules, and a small root from Debian packages."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numastudy"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
# The kernel of linux-image-amd64: that of the cloud package lacks 9p.
PYTHON = (3, 11)
PACKAGES = "python3,numactl,linux-image-amd64"
# A guest has no modprobe: of what the kernel asks for by itself, crc32c is for ext4.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "virtio_blk", "crc32c_generic", "ext4", "overlay", "nfsd", "nfsv4")


def missing() -> list[str]:
    """What this machine lacks to build and start a guest."""
    programs = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "cpio": "cpio"}
    lacking = [f"{name} (package {package})" for name, package in programs.items() if not shutil.which(name)]
    if busybox() is None:
        lacking.append("busybox, static (package busybox-static)")
    if sys.version_info[:2] != PYTHON:
        lacking.append(f"Python {'.'.join(map(str, PYTHON))}, which the guest has: msgspec is built for it")
    if os.geteuid() != 0:
        lacking.append("root (the guest's files are made from Debian packages)")
    return lacking


def busybox() -> Path | None:
    return next((Path(folder, "busybox") for folder in ("/bin", "/usr/bin") if Path(folder, "busybox").exists()), None)


def guest_files() -> Path:
    """A folder with vmlinuz, modules and root.cpio: built now, or found as they were built before."""
    files = CACHE / f"guest-{SUITE}-3"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "guest.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not files.exists():
            _build(files)
    return files


def _build(files: Path) -> None:
    building = Path(tempfile.mkdtemp(prefix="guest-", dir=CACHE))
    root, made = building / "root", building / "made"
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--include={PACKAGES}"]
    command += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Retries "10"', SUITE, str(root), MIRROR]
    try:
        subprocess.run(command, check=True)
        made.mkdir()
        shutil.copy(max((root / "boot").glob("vmlinuz-*")), made / "vmlinuz")
        found = {path.stem.replace("-", "_"): path for path in (root / "lib/modules").rglob("*.ko")}
        (made / "modules").mkdir()
        for name in with_dependencies(MODULES, found):
            shutil.copy(found[name], made / "modules" / f"{name}.ko")
        for folder in ("boot", "lib/modules", "usr/share", "var"):
            shutil.rmtree(root / folder)
        for folder in ("proc", "sys", "dev", "tmp", "results"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(busybox(), root / "bin" / "busybox")
        pack(root, made / "root.cpio")
        made.rename(files)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def with_dependencies(names: Sequence[str], found: dict[str, Path]) -> list[str]:
    """The modules and what they need, in the order to load them. What is not found is built into the kernel."""
    order: list[str] = []
    for name in names:
        if name in found and name not in order:
            needs = re.search(rb"\0depends=([^\0]*)\0", found[name].read_bytes())
            before = needs.group(1).decode().replace("-", "_").split(",") if needs else []
            order += [each for each in with_dependencies(before, found) if each not in order]
            order.append(name)
    return order


def add_modules(tree: Path, files: Path, names: Sequence[str]) -> None:
    """Put the modules, and the order to load them, into a guest's tree."""
    folder = tree / "guest-modules"
    folder.mkdir(parents=True)
    found = {path.stem: path for path in (files / "modules").iterdir()}
    order = with_dependencies(names, found)
    for name in order:
        shutil.copy(found[name], folder)
    (folder / "order").write_text("".join(f"{name}.ko\n" for name in order))


def pack(tree: Path, image: Path) -> None:
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))).encode()
    with open(image, "wb") as out:
        subprocess.run(["cpio", "-oH", "newc", "--quiet"], cwd=tree, input=names, stdout=out, check=True)
