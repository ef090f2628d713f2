"""Beneath the trust line: the runs that are not beyond doubt, by name, and what was found before the study."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Doubt:
    """state: warn or error; what, then text; runs it is about, remedy: what to do, may be empty.

    own: what is said of each run, in the order of runs, where that is not the same for all.
    """

    state: str
    what: str
    text: str
    runs: tuple[str, ...] = ()
    remedy: str = ""
    own: tuple[str, ...] = ()

    @property
    def named(self) -> list[tuple[str, str]]:
        return list(zip(self.runs, self.own or [""] * len(self.runs), strict=True))


def doubts(results: Record) -> list[Doubt]:
    return [*_runs(results), *_locality(results["locality"]), *_preflight(results)]


def _runs(results: Record) -> Iterator[Doubt]:
    trust = results["trust"]
    if results["binding"] != "none":
        yield from _by_reason("placement not proved", trust["doubts"].items())
    yield from _by_reason("disturbed", ((run, "; ".join(said)) for run, said in trust["disturbed_by"].items()))
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


def _by_reason(what: str, reasons: Iterable[tuple[str, str]]) -> Iterator[Doubt]:
    """One for each kind of reason: those that differ in numbers only, as in the process they name, are of one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for run, reason in sorted(reasons):
        kinds.setdefault(re.sub(r"\d+(?:[.,]\s*\d+)*", "…", reason), []).append((run, reason))
    for kind, found in kinds.items():
        alike = len({reason for _, reason in found}) == 1
        runs, own = (tuple(column) for column in zip(*found, strict=True))
        text = found[0][1] if alike else kind.removesuffix(": …")
        yield Doubt("warn", what, text, runs, own=() if alike else own)
