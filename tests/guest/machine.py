"""A virtual machine of its own kernel that sees this machine's files, is root, and whose power can be cut."""

import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.guest.files import add_modules, busybox, guest_files, pack

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "virtio_blk", "crc32c_generic", "ext4", "overlay", "nfsd", "nfsv4")
DISK_BYTES = 256 << 20
ENDED = b"ended with "
# On a busy host too few ticks of the emulated timer come while the kernel counts them, and it would not boot.
NO_TIMER_CHECK = "no_timer_check"
ONE_NODE = ("-smp", "1", "-m", "2G")
FOUR_NODES = (
    "node,nodeid=0,cpus=0-1,memdev=m0",
    "node,nodeid=1,cpus=2,memdev=m1",
    "node,nodeid=2,cpus=3,memdev=m2",
    "node,nodeid=3,memdev=m3",  # memory without CPUs
)
DISTANCES = ((0, 1, 21), (0, 2, 31), (0, 3, 17), (1, 2, 21), (1, 3, 28), (2, 3, 28))


def four_nodes(memory_mb: tuple[int, int, int, int]) -> list[str]:
    """QEMU's options for CPUs 0-1 on node 0, 2 on node 1, 3 on node 2, and memory without CPUs on node 3."""
    options = ["-smp", "4", "-m", f"{sum(memory_mb)}M"]
    for node, size in enumerate(memory_mb):
        options += ["-object", f"memory-backend-ram,id=m{node},size={size}M"]
    for node in FOUR_NODES:
        options += ["-numa", node]
    for first, second, distance in DISTANCES:
        options += ["-numa", f"dist,src={first},dst={second},val={distance}"]
    return options


class Machine:
    """Boot it, run commands in it. What they leave in /disk is there after the next boot; the rest is gone.

    The interpreter and its packages are this machine's: the guest's root lies over this machine's, which is read only.
    """

    def __init__(self, folder: Path, hardware: Sequence[str] = ONE_NODE) -> None:
        """hardware: QEMU's options for CPUs and memory."""
        self._hardware = hardware
        self._console, self._disk, self._initrd = folder / "console", folder / "disk", folder / "initrd"
        self._files = guest_files()
        tree = folder / "tree"
        add_modules(tree, self._files, MODULES)
        shutil.copy(HERE / "machine_init", tree / "init")
        (tree / "init").chmod(0o755)
        (tree / "bin").mkdir()
        shutil.copy(busybox(), tree / "bin" / "busybox")
        pack(tree, self._initrd)
        with self._disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._disk)], check=True)
        self._qemu: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        # Emulated: KVM inside a virtual machine may be offered and then hang. Emulating a second CPU takes more than it
        # gives to programs that do one thing at a time.
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", *self._hardware]
        command += ["-nodefaults", "-no-reboot", "-display", "none"]
        command += ["-serial", f"file:{self._console}", "-serial", "stdio"]
        command += ["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
        command += ["-drive", f"file={self._disk},format=raw,if=virtio"]
        command += ["-kernel", str(self._files / "vmlinuz"), "-initrd", str(self._initrd)]
        command += ["-append", f"console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on {NO_TIMER_CHECK}"]
        self._qemu = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answer(600)

    def run(self, *command: str, timeout_s: float = 2400) -> str:
        """What the command says, its errors included. AssertionError where it ends with another exit code than 0."""
        here = ["env", f"PYTHONPATH={CHECKOUT}", f"HOME={os.environ['HOME']}", "LC_ALL=C.UTF-8", "OMP_NUM_THREADS=1"]
        self._qemu.stdin.write(f"{shlex.join([*here, *command])}\n".encode())
        self._qemu.stdin.flush()
        code, said = self._answer(timeout_s)
        assert code == 0, f"{shlex.join(command)} ended with {code}:\n{said}"
        return said

    def cut_power(self) -> None:
        if self._qemu:
            self._qemu.kill()
            self._qemu.communicate()

    def _answer(self, timeout_s: float) -> tuple[int, str]:
        said: list[bytes] = []
        late = threading.Timer(timeout_s, self._qemu.kill)
        late.start()
        try:
            for line in self._qemu.stdout:
                if line.startswith(ENDED):
                    return int(line.removeprefix(ENDED)), b"".join(said).decode(errors="replace")
                said.append(line)
        finally:
            late.cancel()
        raise AssertionError(
            f"the guest ended, or did not answer for {timeout_s:g} s:\n{b''.join(said).decode(errors='replace')}\n"
            f"its console:\n{self._console.read_text(errors='replace')[-3000:]}"
        )
