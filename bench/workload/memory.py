"""How much host memory this process may still take, asked before the pool is allocated."""

import re
from pathlib import Path

from bench.workload.failures import LESS_MEMORY, OOM, RunFailure

MIB = 1 << 20
# Room for what is not the pool: CUDA context, library workspaces, the profiler's buffers.
HEADROOM_BYTES = 256 * MIB


def require_host_memory(needed_bytes: int, mem_node: int | None, root: Path = Path("/")) -> None:
    """Raise RunFailure (oom) if the pool cannot fit. `mem_node`: the node memory is bound to, or None."""
    for source, free_bytes in free_memory(mem_node, root).items():
        if needed_bytes + HEADROOM_BYTES > free_bytes:
            raise RunFailure(
                OOM,
                f"not enough host memory for the pool: it takes {needed_bytes / MIB:.0f} MiB beside"
                f" {HEADROOM_BYTES / MIB:.0f} MiB for the rest, {source} has {free_bytes / MIB:.0f} MiB",
                LESS_MEMORY,
            )


def free_memory(mem_node: int | None, root: Path = Path("/")) -> dict[str, int]:
    """Free bytes by the limit they were read from; limits that this system does not have are left out."""
    free: dict[str, int] = {}
    available = _meminfo(root / "proc/meminfo").get("MemAvailable")
    if available is not None:
        free["the host"] = available
    group = cgroup_free_bytes(root)
    if group is not None:
        free["the control group"] = group
    if mem_node is not None:
        node = _meminfo(root / f"sys/devices/system/node/node{mem_node}/meminfo")
        if "MemFree" in node:
            # Page cache is given up before an allocation fails; the doctor counts the same (bench.host.facts).
            cache = node.get("Active(file)", 0) + node.get("Inactive(file)", 0)
            free[f"NUMA node {mem_node}"] = node["MemFree"] + cache
    return free


def cgroup_free_bytes(root: Path = Path("/")) -> int | None:
    """The tightest limit minus usage over this process's control group and its parents (v2 and v1)."""
    rooms = []
    for directory, limit_name, usage_name in _cgroup_directories(root):
        limit, usage = _number(directory / limit_name), _number(directory / usage_name)
        if limit is not None and usage is not None:
            reclaimable = _inactive_file_bytes(directory / "memory.stat")
            rooms.append(max(0, limit - max(0, usage - reclaimable)))
    return min(rooms) if rooms else None


def _cgroup_directories(root: Path) -> list[tuple[Path, str, str]]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit, usage = (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        found += [(mount.joinpath(*parts[:depth]), limit, usage) for depth in range(len(parts) + 1)]
    return found


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_file_bytes(path: Path) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0
    match = re.search(r"^(?:total_)?inactive_file (\d+)$", text, re.MULTILINE)
    return int(match.group(1)) if match else 0


def _meminfo(path: Path) -> dict[str, int]:
    """Bytes by name; lines read "MemFree: 1 kB" or, for a node, "Node 0 MemFree: 1 kB"."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    found = re.findall(r"^(?:Node \d+ )?([\w()]+):\s+(\d+) kB", text, re.MULTILINE)
    return {name: int(kibibytes) * 1024 for name, kibibytes in found}
