"""Read recorded hosts of other projects, such as hwloc's tests/hwloc/linux: trees of sys and proc in tar archives.

usage: python -m tests.validation.recorded_hosts FOLDER      one line a host; exit code 1 if one cannot be read
"""

import sys
import tarfile
import tempfile
from pathlib import Path

from bench.errors import StudyError
from bench.host.binding import bind_prefix
from bench.host.doctor import run_doctor
from bench.host.fingerprint import fingerprint
from bench.host.topology import read_topology
from bench.records.base import DamagedRecord
from bench.records.host import format_cpulist


def describe(root: Path) -> str:
    """What every reader of the host room finds under a root. Whatever they raise is a bug."""
    topology = read_topology(root)
    run_doctor(root=root)
    fingerprint(topology, root)
    for node in topology.nodes:
        bind_prefix("numactl", node.id, node.id, root=root)
    cpus = [cpu for node in topology.nodes for cpu in node.cpu_ids]
    kinds = "; ".join(topology.core_kinds)
    notes = [f"kinds of cores {kinds}"] if kinds else []
    notes += ["overlapping nodes"] if len(cpus) != len(set(cpus)) else []
    notes += [f"node {node.id} without memory" for node in topology.nodes if node.cpu_ids and not node.memory_bytes]
    return f"{len(topology.nodes)} nodes, CPUs {format_cpulist(cpus)}{''.join(f', {note}' for note in notes)}"


def main(folder: Path) -> int:
    failed = 0
    for archive in sorted(folder.glob("*.tar*")):
        with tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
            root = next((path.parents[1] for path in Path(scratch).rglob("sys/devices") if path.is_dir()), None)
            if root is None:
                print(f"{archive.name}: no sys/devices")
                continue
            try:
                print(f"{archive.name}: {describe(root)}")
            except (StudyError, DamagedRecord, ValueError, OSError) as error:
                failed += 1
                print(f"{archive.name}: FAILED: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
