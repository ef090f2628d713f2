"""What a reader should know of one cell before believing its numbers."""

from typing import Any

from bench.results.clocks import PERTURBED
from bench.results.words import percent

Record = dict[str, Any]
PENALTY_CLASSES = {"transfer-bound": "memory-bound", "balanced": "balanced", "compute-bound": "compute-bound"}
"""By measured regime. Launch-bound and stalled cells have none: neither copies nor kernels set their pace."""


def penalty_class(regime: str | None) -> str | None:
    return PENALTY_CLASSES.get(regime or "")


def remarks(cell: Record, runs: list[Record]) -> list[str]:
    """Sentences, none if all is well. cell: of results.json, with clocks and bound; runs: its records."""
    said = list((cell["metrics"] or {}).get("remarks") or [])
    said += cell["clocks"]["disagree"]
    if cell["perturbation"] is not None and abs(cell["perturbation"] - 1) > PERTURBED:
        said.append(f"the profiler changed the pace: the traced run made {percent(cell['perturbation'])} of the "
                    "timed throughput, and shares and regime are those of that run")  # fmt: skip
    if (cell["bound"] or {}).get("reason"):
        said.append(f"no efficiency against the bound: {cell['bound']['reason']}")
    return said + _unsettled(runs)


def _unsettled(runs: list[Record]) -> list[str]:
    timed = [run for run in runs if run["repeat"] != "traced" and run["status"] == "ok"]
    warmups = [(run.get("result") or {}).get("warmup") or {} for run in timed]
    spreads = [warmup.get("spread") or 0.0 for warmup in warmups if warmup.get("settled") is False]
    if not spreads:
        return []
    return [f"the warm-up of {len(spreads)} of {len(timed)} timed runs had not settled when its limit came: "
            f"its last windows differed by up to {percent(max(spreads))}"]  # fmt: skip
