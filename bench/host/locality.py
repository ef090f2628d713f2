"""The probe as a study uses it: never fatal, and silent where there is nothing to find out."""

from typing import Any

from bench.host.probe import ProbeError, probe
from bench.host.topology import read_topology


def measured_locality(device: str) -> dict[str, Any] | None:
    """What the probe found, {"error": text} if it failed, None on the cpu device: there is no GPU to be near to."""
    if device != "cuda":
        return None
    try:
        return probe(read_topology())
    except ProbeError as error:
        return {"error": str(error)}
