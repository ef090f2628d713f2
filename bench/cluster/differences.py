"""How hosts of one type are set up differently: BIOS, kernel, driver, links, and what the doctor found."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.host.fingerprint import LABELS, NOT_COMPARED

Record = dict[str, Any]
# GPU ids differ everywhere; the names are part of the type.
_NOT_OF_SETTING = NOT_COMPARED | {"gpus"}


@dataclass(frozen=True)
class Difference:
    """One setting that hosts of a type do not share. usual: what more than half of them have, None if none is."""

    setting: str
    usual: str | None
    others: dict[str, str]


def host_type(results: Record) -> str:
    """Hosts of one type have the same CPU and the same GPUs, in the same number."""
    names = Counter(gpu.get("name") or "unknown GPU" for gpu in results["topology"].get("gpus") or [])
    gpus = ", ".join(f"{count} x {name}" for name, count in sorted(names.items())) or "no GPU"
    return f"{gpus}; {results['fingerprint'].get('cpu', 'unknown CPU')}"


def settings_of(results: Record) -> dict[str, str]:
    """By name what can differ between hosts of a type: the fingerprint, each GPU's link, warnings of the doctor."""
    facts = {
        LABELS.get(key, key): str(value) for key, value in results["fingerprint"].items() if key not in _NOT_OF_SETTING
    }
    for gpu in results["topology"].get("gpus") or []:
        link = f"generation {gpu.get('link_generation_max')}, {gpu.get('link_width')} lanes"
        facts[f"GPU {gpu.get('index')}: PCIe link"] = link
        facts[f"GPU {gpu.get('index')}: nearest node"] = str(gpu.get("node"))
        facts[f"GPU {gpu.get('index')}: ECC"] = str(gpu.get("ecc"))
    for check in results.get("preflight") or []:
        # Facts hold figures of the moment: it is the judgement that should be the same.
        facts[f"numastudy doctor: {check['name']}"] = check["state"]
    return facts


def differences(hosts: Mapping[str, Mapping[str, str]]) -> list[Difference]:
    """hosts: settings by host, all of one type."""
    names = list(dict.fromkeys(name for settings in hosts.values() for name in settings))
    found = []
    for name in names:
        values = {host: settings.get(name, "not recorded") for host, settings in hosts.items()}
        (most, count), *_ = Counter(values.values()).most_common()
        if count == len(values):
            continue
        usual = most if count > math.floor(len(values) / 2) else None
        found.append(Difference(name, usual, {host: value for host, value in values.items() if value != usual}))
    return found
