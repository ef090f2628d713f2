"""Where Nsight Systems is on this host, and which one it is."""

import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

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
    """QdstrmImporter: in nsys's own folder or a host folder beside it, where nsys itself looks, else in the usual
    places."""
    own = nsys.resolve().parent
    places = (own, *sorted(own.parent.glob("host-*")), *sorted(own.parent.parent.glob("host-*")))
    beside = (place / "QdstrmImporter" for place in places)
    return next((importer for importer in beside if importer.exists()), None) or _newest(IMPORTERS)


def nsys_version() -> str:
    """For instance "2025.3.2"; "none" where there is no nsys, "unknown" where it does not say."""
    nsys = find_nsys()
    if nsys is None:
        return "none"
    # The installer's folder names the version; starting nsys takes much longer than reading it.
    if match := re.search(r"/(\d{4}\.\d+(?:\.\d+)*)/", os.path.realpath(nsys)):
        return match[1]
    return _ask(nsys)


@lru_cache
def _ask(nsys: Path) -> str:
    try:
        answer = subprocess.run([nsys, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    match = re.search(r"version (\S+)", answer.stdout)
    return match[1] if match else "unknown"


def _newest(patterns: tuple[str, ...]) -> Path | None:
    found = [path for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))]
    return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)
