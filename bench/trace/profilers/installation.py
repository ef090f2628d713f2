"""Where Nsight Systems is on this host."""

import re
import shutil
from functools import lru_cache
from pathlib import Path

from bench.trace.profilers.process import run_tool

INSTALLATIONS = (
    "/opt/nvidia/nsight-systems*/*/bin/nsys",
    "/opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/usr/lib/nsight-systems/bin/nsys",
)
# Nsight Compute brings an nsys too; it cannot make a report and is not looked for.
IMPORTERS = (
    "/usr/lib/nsight-systems/host-*/QdstrmImporter",
    "/opt/nvidia/nsight-systems*/*/host-*/QdstrmImporter",
)


def find_nsys() -> Path | None:
    """nsys on PATH, else the newest of the usual places."""
    on_path = shutil.which("nsys")
    return Path(on_path) if on_path else _newest(INSTALLATIONS)


def find_importer(nsys: Path) -> Path | None:
    """QdstrmImporter: beside nsys's own folder, where nsys itself looks, else in the usual places."""
    beside = sorted(nsys.resolve().parent.parent.glob("host-*/QdstrmImporter"))
    return beside[0] if beside else _newest(IMPORTERS)


@lru_cache(maxsize=4)
def nsys_version(nsys: Path) -> str:
    """For instance "2025.3.2.367"; "" if nsys does not say. Raise ProfilerError if it cannot be run."""
    found = re.search(r"version (\d[\d.]*\d)", run_tool([str(nsys), "--version"], timeout_s=30).output)
    return found[1] if found else ""


def _newest(patterns: tuple[str, ...]) -> Path | None:
    found = [path for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))]
    return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)
