"""Beneath the trust line: the runs that are not beyond doubt, by name, and what was found before the study."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Doubt:
    """state: warn or error; what, then text; runs it is about, remedy: what to do, may be empty."""

    state: str
    what: str
    text: str
    runs: tuple[str, ...] = ()
    remedy: str = ""


def doubts(results: Record) -> list[Doubt]:
    return [*_runs(results), *_locality(results["locality"]), *_preflight(results)]


def _runs(results: Record) -> Iterator[Doubt]:
    trust = results["trust"]
    if results["binding"] != "none":
        for reason, runs in _by_reason(trust["doubts"]).items():
            yield Doubt("warn", "placement not proved", reason, runs)
    for reason, runs in _by_reason({run: "; ".join(said) for run, said in trust["disturbed_by"].items()}).items():
        yield Doubt("warn", "disturbed", reason, runs)
    calm = [run for run in trust["throttled"] if run not in trust["disturbed_by"]]
    if calm:
        yield Doubt("warn", "clocks held back", "for too short a time to count as a disturbance, or by the power limit",
                    tuple(calm))  # fmt: skip
    for group in trust["strangers"]:
        what = "another fingerprint, yet counted with the others"
        yield Doubt("warn", what, "; ".join(group["differs"]), tuple(group["runs"]))


def _locality(locality: Record) -> Iterator[Doubt]:
    if locality["error"]:
        yield Doubt("warn", "no measured locality", locality["error"])
    if locality["can_hold"] is False:
        yield Doubt("warn", "placement", "cannot be held on this machine: CPUs changed groups between two scans")
    for change in locality["changes"]:
        yield Doubt("warn", "changed during the study", change)


def _preflight(results: Record) -> Iterator[Doubt]:
    for check in results["preflight"]:
        if check["state"] != "ok":
            state = "error" if check["state"] == "error" else "warn"
            # The doctor advises to probe; this study did.
            probed = check["name"] == "gpu_node" and results["locality"]["texts"]
            remedy = "" if probed else check.get("remedy") or ""
            yield Doubt(state, check["name"].replace("_", " "), check["fact"], remedy=remedy)


def _by_reason(reasons: Record) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for run, reason in sorted(reasons.items()):
        groups[reason] = (*groups.get(reason, ()), run)
    return groups
