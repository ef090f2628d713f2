"""What the kernel says of memory: /proc/meminfo, and the file of the same name of each node."""

import re
from pathlib import Path


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
