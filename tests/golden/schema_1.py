"""results.json of schema 1 under the names of schema 2. Sentences are left out: tests/report compares those.

The table in renamed/ is the same for readers.
"""

import math
import re
from typing import Any

Json = Any
# Numbers of another method since: renamed/statistics.md has the reasons.
CHANGED = {
    "cells[].runs[]": ("position", "started_at"),
    "drift": ("change", "interval[]", "range"),
    "penalties[]": ("interval[]", "mde", "p_adjusted", "repeats_needed", "verdict", "headline"),
    "penalties[].effects.memory": ("interval[]", "verdict", "headline"),
    "penalties[].effects.interaction": ("interval[]", "verdict"),
    "comparisons[]": ("state", "undecided_reason", "size", "bound"),
    "comparisons[].lines[]": ("interval[]", "mde", "p_difference", "repeats_needed", "verdict", "headline"),
    "comparisons[].summary[].models[]": ("interval[]", "bound", "state", "undecided_reason", "low"),
    "contention[].isolated": ("interval[]",),
    "fastest[]": ("interval[]",),
    "predictions[]": ("predicted",),
}
# Sentences, places and times; and what is written at another place or not at all.
_TOP_LEFT_OUT = ("schema", "study", "created_at", "run_directory", "invocation", "preflight")
_RENAMED = {"rest": "device-bound", "not measured": "not_measured", "once": "one_pair"}


def renamed(old: Json) -> Json:
    """The numbers, flags, names and labels of a schema 1 result at their paths in schema 2."""
    new = {key: value for key, value in old.items() if key not in _TOP_LEFT_OUT}
    new["host"] = old["host"]["name"]
    new["measured_s"] = new.pop("windows_s")
    new["counts"] = _counts(old["counts"])
    new["trust"] = _trust(old["trust"])
    new["topology"] = _topology(old["topology"])
    new["locality"] = {key: old["locality"][key] for key in ("can_hold", "repeated")}
    new["damaged"] = [{"path": damage["path"]} for damage in old["damaged"]]
    new["cells"] = [_cell(cell) for cell in old["cells"]]
    new["penalties"] = [_judged(penalty) for penalty in old["penalties"]]
    new["comparisons"] = [_axis(axis) for axis in old["comparisons"]]
    new["fastest"] = [_fastest(way) for way in old["fastest"]]
    new["contention"] = [_contention(entry) for entry in old["contention"]]
    new["hidden_copies"] = old["hidden_copies"]
    new["links"] = [_link(entry) for entry in old["links"]]
    new["drift"] = old["drift"] and _moved(old["drift"], swing="range")
    return with_new_labels(new)


def differences(expected: Json, found: Json, path: str = "$") -> list[str]:
    """The paths where `found` lacks something of `expected` or has another value; more in `found` is fine."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return [f"{path}: expected a mapping, found {found!r:.60}"]
        return [
            text
            for key, value in expected.items()
            for text in (
                differences(value, found[key], f"{path}.{key}")
                if key in found
                else []
                if value is None
                else [f"{path}.{key} is missing, expected {value!r:.60}"]
            )
        ]
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return [f"{path}: expected {expected!r:.60}, found {found!r:.60}"]
        return [
            text
            for index, (one, other) in enumerate(zip(expected, found, strict=True))
            for text in differences(one, other, f"{path}[{index}]")
        ]
    return [] if _equal(expected, found) else [f"{path}: expected {expected!r:.60}, found {found!r:.60}"]


def _equal(expected: Any, found: Any) -> bool:
    """Two floats may differ by the rounding of sums in another order."""
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(expected, found, rel_tol=1e-12)
    return bool(expected == found)


def unexplained(found: list[str]) -> list[str]:
    """The differences at paths that no change of method explains."""
    changed = {f"$.{place}.{key}" for place, keys in CHANGED.items() for key in keys}
    return [text for text in found if re.sub(r"\[\d+\]", "[]", re.split(": | is missing", text)[0]) not in changed]


def _moved(old: Json, **names: str) -> Json:
    return {names.get(key, key): value for key, value in old.items()}


def _counts(old: Json) -> Json:
    kept = ("cells", "ok", "runs", "runs_ok")
    outcomes = {key: value for key, value in old.items() if key not in kept}
    return {key: old[key] for key in kept} | {"outcomes": outcomes}


def _trust(old: Json) -> Json:
    left_out = ("doubts", "unseen", "strangers", "disturbed_by")
    kept = {key: value for key, value in old.items() if key not in left_out}
    return kept | {
        "throttling_unknown": old["unseen"],
        "unproved_reasons": {run: [] for run in old["doubts"]},
        "foreign_fingerprints": [{"runs": group["runs"]} for group in old["strangers"]],
    }


def _topology(old: Json) -> Json:
    nodes = [{key: value for key, value in node.items() if key != "kind"} for node in old["nodes"]]
    left_out = ("measured_node", "explanation", "verdict", "answers")
    gpus = [
        {key: value for key, value in gpu.items() if key not in left_out} | {"agreement": gpu["verdict"]}
        for gpu in old["gpus"]
    ]
    return {key: value for key, value in old.items() if key not in ("nvml_error",)} | {"nodes": nodes, "gpus": gpus}


def _cell(old: Json) -> Json:
    new = {key: value for key, value in old.items() if key not in ("remarks", "clocks", "reason", "advice", "bound")}
    if old["outcome"] != "missing":
        new |= {"reason": old["reason"], "advice": old["advice"]}
    if old["clocks"]:
        new["clocks"] = {key: value for key, value in old["clocks"].items() if key != "disagree"}
    if old["bound"]:
        new["bound"] = {key: value for key, value in old["bound"].items() if key != "reason"}
    if old["metrics"]:
        new["metrics"] = {key: value for key, value in old["metrics"].items() if key != "remarks"}
    new["runs"] = [
        {key: value for key, value in run.items() if key != "reason" or value is not None} for run in old["runs"]
    ]
    return new


def _judged(old: Json) -> Json:
    new = {key: value for key, value in old.items() if key not in ("p", "setting")}
    if "p" in old:
        new["p_difference"] = old["p"]
    if old.get("effects"):
        new["effects"] = {part: _judged(effect) for part, effect in old["effects"].items()}
    return new


def _axis(old: Json) -> Json:
    new = _moved(old, doubt="undecided_reason")
    new["lines"] = [_judged(line) for line in old["lines"]]
    new["summary"] = [
        {
            "value": one["value"],
            "models": [
                _moved({key: value for key, value in model.items() if key != "seen"}, doubt="undecided_reason")
                for model in one["models"]
            ],
        }
        for one in old["summary"]
    ]
    return new


def _fastest(old: Json) -> Json:
    left_out = ("model", "way", "dtype", "rivals", "same_dtype")
    new = _moved(
        {key: value for key, value in old.items() if key not in left_out},
        samples_s="throughput_samples_s",
        ways="candidates",
    )
    new["execution"] = {"dtype": old["dtype"]}
    if isinstance(old.get("same_dtype"), dict):
        kept = ("cell", "effect", "interval", "pairs")
        new["same_dtype"] = {key: value for key, value in old["same_dtype"].items() if key in kept}
    return new


def _contention(old: Json) -> Json:
    isolated = ("base_cell", "effect", "interval", "verdict", "text")
    left_out = (*isolated, "model", "together", "others", "pairs")
    new = _moved(
        {key: value for key, value in old.items() if key not in left_out},
        busy="busy_gpus",
        samples_s="throughput_samples_s",
    )
    if old.get("base_cell") and old.get("verdict"):
        new["isolated"] = {key: old[key] for key in isolated if key != "text" and key in old}
    new["total"] = _moved(old["together"], samples_s="throughput_samples_s")
    new["peers"] = old["others"]
    return new


def _link(old: Json) -> Json:
    new = {key: value for key, value in old.items() if key != "nvbandwidth_definition"}
    return new | {"reasons": old.get("reasons") or {}}


def with_new_labels(value: Json) -> Json:
    """Labels that have another name now, keys included; without sentences, and what is no longer stored."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key not in ("text", "hint", "penalty_class")}
        return {_RENAMED.get(key, key): with_new_labels(one) for key, one in kept.items()}
    if isinstance(value, list):
        return [with_new_labels(one) for one in value]
    return _RENAMED.get(value, value) if isinstance(value, str) else value
