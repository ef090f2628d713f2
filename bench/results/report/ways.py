"""The fastest way to run each model, in words for the first screen."""

from typing import Any

from bench.results.effects import between, change, listed, plain
from bench.results.fastest import WAYS
from bench.results.report.axes import Finding, axis_name
from bench.results.words import plural, rate

Record = dict[str, Any]
_BASE = "base"
_RIVALS_NAMED = 3
# On the first screen; results.json has all.
_MODELS_TOLD = 12


def fastest_ways(results: Record) -> list[Finding]:
    """A line a model and workload; no finding where none was measured in several ways."""
    models: dict[str, list[Record]] = {}
    for entry in results["fastest"]:
        models.setdefault(entry["model"], []).append(entry)
    if not models:
        return []
    lines = [f"{model}: {_line(own[0]) if len(own) == 1 else _over_places(own)}" for model, own in models.items()]
    if len(lines) > _MODELS_TOLD:
        lines[_MODELS_TOLD:] = [f"{len(lines) - _MODELS_TOLD} more in results.json"]
    against = f", and its gain on the base ({_base(results)})" if any(map(_has_base, results["fastest"])) else ""
    lead = f"The fastest way to run each model{against}"
    return [Finding("throughput", "ways", "fastest", lead, tuple(lines))]


def _line(entry: Record) -> str:
    """ "bf16 graph, 15,520 samples/s, × 2.0 [2.0, 2.1], ahead of all 5 others; with fp32 ..."."""
    parts = [entry["way"], f"{rate(entry['samples_s'])} samples/s"]
    if entry["effect"] is not None:
        parts.append(change(entry["effect"], entry["interval"]))
    said = ", ".join([*parts, _certainty(entry)])
    if _BASE in entry["rivals"] and entry["pairs"] > 1:
        said = f"none told apart from the base; the most was seen of {', '.join(parts)}"
    alike = entry["same_dtype"]
    return f"{said}; with {alike['dtype']} {_line(alike | {'same_dtype': None})}" if alike else said


def _certainty(entry: Record) -> str:
    rivals, others = entry["rivals"], entry["ways"] - 1
    if not rivals:
        return f"ahead of {'all ' if others > 1 else ''}{plural(others, 'other')}"
    if entry["pairs"] <= 1:
        return f"the fastest of {entry['ways']} in one pair"
    named = listed(rivals) if len(rivals) <= _RIVALS_NAMED else f"{len(rivals)} of the other {others}"
    return f"not told apart from {named}"


def _over_places(entries: list[Record]) -> str:
    """ "bf16 graph on 7 of 8 GPUs and nodes, × 2.0 to 2.1; base on 1 of 8"."""
    ways: dict[str, list[Record]] = {}
    for entry in entries:
        ways.setdefault(entry["way"], []).append(entry)
    said = []
    for way, own in sorted(ways.items(), key=lambda each: -len(each[1])):
        gains = [entry["effect"] for entry in own if entry["effect"] is not None]
        sure = sum(not entry["rivals"] for entry in own)
        gain = f", {between(min(gains), max(gains))}" if gains else ""
        said.append(f"{way} on {len(own)} of {len(entries)} GPUs and nodes{gain}, told apart from all others on {sure}")
    return "; ".join(said)


def _has_base(entry: Record) -> bool:
    return entry["way"] == _BASE or entry["base_cell"] is not None


def _base(results: Record) -> str:
    varied = [key for key in WAYS if len({repr(cell["settings"].get(key)) for cell in results["cells"]}) > 1]
    return ", ".join(f"{axis_name(key)} {plain(results['study'].get(key))}" for key in varied)
