"""The guest's own kernel as an NFS server, and as its client over loopback. No program of nfs-utils is needed: what
exportfs and mountd tell the kernel (man 7 nfsd) is written by hand."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

NFSD = Path("/proc/fs/nfsd")
CACHES = Path("/proc/net/rpc")
FOR_EVER = 9_999_999_999
# insecure ports, no subtree check, a number for its id; sync and no squashing are where flags are not.
FLAGS = 0x2 | 0x400 | 0x2000
# The shortest that the kernel allows. For so long a server that was started asks clients what they had open.
LEASE_S = 10


class Server:
    """Serves the folder `export`, which is mounted at `place`."""

    def __init__(self, export: Path, place: Path) -> None:
        self.export, self._place = export, place
        export.mkdir()
        place.mkdir()
        subprocess.run(["mount", "-t", "nfsd", "nfsd", str(NFSD)], check=True)
        # Where the server remembers its clients over a restart.
        os.makedirs("/var/lib/nfs/v4recovery", exist_ok=True)
        _tell(NFSD / "versions", "-2 -3 +4 +4.1 +4.2")
        _tell(NFSD / "nfsv4leasetime", str(LEASE_S))
        _tell(NFSD / "nfsv4gracetime", str(LEASE_S))

    def start(self) -> None:
        _tell(NFSD / "portlist", "tcp 2049")
        _tell(NFSD / "threads", "4")

    def stop(self) -> None:
        """All that the server knew of its clients is gone, and their connections with it."""
        _tell(NFSD / "threads", "0")

    def publish(self) -> None:
        _tell(CACHES / "auth.unix.ip/channel", f"nfsd 127.0.0.1 {FOR_EVER} here")
        _tell(CACHES / "nfsd.export/channel", f"here {self.export} {FOR_EVER} {FLAGS} 65534 65534 0")
        _tell(CACHES / "nfsd.fh/channel", rf"here 1 \x00000000 {FOR_EVER} {self.export}")

    def withdraw(self) -> None:
        """As exportfs -u: from now on every handle is stale."""
        _tell(CACHES / "nfsd.export/channel", f"here {self.export} {FOR_EVER}")
        _tell(CACHES / "nfsd.fh/channel", rf"here 1 \x00000000 {FOR_EVER}")

    def mount(self) -> None:
        """Anew, where it was mounted."""
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "--lazy", str(self._place)], check=True, capture_output=True)
        # -i: by the kernel alone. Hard, as by default: a server that does not answer is waited for.
        options = "addr=127.0.0.1,clientaddr=127.0.0.1,vers=4.2,hard"
        subprocess.run(["mount", "-i", "-t", "nfs4", "-o", options, "127.0.0.1:/", str(self._place)], check=True)


def _tell(file: Path, line: str) -> None:
    # One write: the kernel takes each for a message.
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
