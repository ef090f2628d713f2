"""Tables of what sets the pace: bound, clocks, predictions. Plain values for the templates."""

from typing import Any

from bench.results.bound import TERMS, copy_state
from bench.results.report.labels import device_label, node_label, place_of
from bench.results.series import series_label
from bench.results.words import NONE, microseconds, percent, signed_share

Record = dict[str, Any]


_HEADS = {"h2d": "copy in", "d2h": "copy out"}


def limit_heads(results: Record) -> list[str]:
    """Columns of the terms that any cell has."""
    return [_HEADS.get(term, term) for term in _terms(results)]


def _terms(results: Record) -> list[str]:
    bounds = [cell["bound"]["terms_us"] for cell in results["cells"] if cell["bound"]]
    return [term for term in TERMS if any(term in terms for terms in bounds)]


def limit_rows(results: Record) -> list[Record]:
    """Cells whose stages were measured alone: terms of the bound, both efficiencies, regime, and the copy."""
    return [
        _who(cell)
        | {
            "terms": [
                (microseconds(cell["bound"]["terms_us"].get(term)), term == cell["bound"]["limit"])
                for term in _terms(results)
            ],
            "bound": microseconds(cell["bound"]["bound_us"]),
            "batch": microseconds(cell["bound"]["batch_us"]),
            "solo": percent(cell["efficiency_solo"]) if cell["efficiency_solo"] else NONE,
            "reason": cell["bound"]["reason"],
            "in_situ": percent((cell["metrics"] or {}).get("pipeline_efficiency")),
            "regime": (cell["metrics"] or {}).get("regime") or NONE,
            "copied": copy_state(cell["bound"]["terms_us"]),
        }
        for cell in results["cells"]
        if cell["bound"]
    ]


def crossings(results: Record) -> list[tuple[str, str, str]]:
    """(label, cell, sentence) for each model measured at several batch sizes."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    found = []
    for group in results["hidden_copies"]:
        if len(group["cells"]) > 1:
            cell = cells[group["cells"][0]]
            who = f"{cell['model']['name']}, {device_label(cell)}, {node_label(*place_of(cell))}"
            found.append((who, cell["name"], group["text"]))
    return found


def clock_rows(results: Record) -> list[Record]:
    return [
        _who(cell)
        | {
            "traced": percent(cell["perturbation"], 3),
            "perturbed": not cell["clocks"]["events_comparable"],
            "host": _off(cell["clocks"]["host_over_trace"]),
            "events": _off(cell["clocks"]["events_over_trace"]),
            "said": "; ".join(cell["clocks"]["disagree"]) or _agreement(cell["clocks"]),
            "disagree": bool(cell["clocks"]["disagree"]),
        }
        for cell in results["cells"]
        if cell["clocks"]["host_over_trace"] and cell["perturbation"]
    ]


def prediction_rows(results: Record) -> list[Record]:
    cells = {cell["name"]: cell for cell in results["cells"]}
    observed = {entry["remote_cell"]: entry for entry in results["penalties"]}
    return [
        _who(cells[said["remote_cell"]])
        | {
            "predicted": percent(said["predicted"]),
            "bracket": f"{percent(said['low'])} to {percent(said['high'])}",
            "observed": signed_share(*(observed[said["remote_cell"]][key] for key in ("penalty", "interval"))),
            "agrees": said["agrees"],
        }
        for said in results["predictions"]
    ]


def _who(cell: Record) -> Record:
    return {
        "cell": cell["name"],
        "model": series_label(cell),
        "device": device_label(cell),
        "node": node_label(*place_of(cell)),
    }


def _agreement(clocks: Record) -> str:
    if not clocks["events_over_trace"]:
        return "host's timer and trace agree"
    if not clocks["events_comparable"]:
        return "host's timer and trace agree; events not judged, the profiler changed the pace"
    return "all agree"


def _off(ratio: float | None) -> str:
    """How far a ratio is from one."""
    return NONE if ratio is None else f"{100 * (ratio - 1):+.2f} %".replace("-", "−")
