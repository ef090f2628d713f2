"""The fastest execution settings of each model, for the first screen."""

from collections.abc import Sequence

from bench.records.results import Execution, Fastest, Results
from bench.records.study import EXECUTION_SETTINGS
from bench.report.text.axes import Finding, axis_name
from bench.report.view import settings_label
from bench.units import change, change_range, listed, plural, rate, value_text

_RIVALS_NAMED = 3
# On the first screen; results.json has all.
_MODELS_SHOWN = 12


def fastest_findings(results: Results) -> list[Finding]:
    """A line a model and workload; no finding where none was measured with several execution settings."""
    models = by_workload(results)
    if not models:
        return []
    lines = [f"{model}: {_line(own[0]) if len(own) == 1 else _over_places(own)}" for model, own in models.items()]
    if len(lines) > _MODELS_SHOWN:
        lines[_MODELS_SHOWN:] = [f"{len(lines) - _MODELS_SHOWN} more in results.json"]
    has_base = any(entry.execution.is_base or entry.base_cell for entry in results.fastest)
    against = f", and their gain over the base ({_base(results)})" if has_base else ""
    return [Finding("throughput", "execution", None, f"The fastest settings of each model{against}", tuple(lines))]


def execution_label(execution: Execution) -> str:
    """ "bf16 graph"; the study's own values are "base"."""
    if execution.is_base:
        return "base"
    return settings_label(execution.settings) or execution.dtype


def by_workload(results: Results) -> dict[str, list[Fastest]]:
    """By the model, and what all its candidates have that is not the study's own."""
    models: dict[str, list[Fastest]] = {}
    for entry in results.fastest:
        models.setdefault(" ".join(filter(None, (entry.model, settings_label(entry.settings)))), []).append(entry)
    return models


def _line(entry: Fastest) -> str:
    """ "bf16 graph, 15,520 samples/s, × 2.0 [2.0, 2.1], ahead of all 5 others; with fp32 ..."."""
    parts = [execution_label(entry.execution), f"{rate(entry.throughput_samples_s)} samples/s"]
    if entry.effect is not None:
        parts.append(change(entry.effect, entry.interval))
    text = ", ".join([*parts, _certainty(entry)])
    if any(rival.is_base for rival in entry.rivals) and entry.pairs > 1:
        text = f"none distinguishable from the base; the highest was {', '.join(parts)}"
    same = entry.same_dtype
    return f"{text}; with {same.execution.dtype} {_line(same)}" if same else text


def _certainty(entry: Fastest) -> str:
    rivals, others = entry.rivals, entry.candidates - 1
    if not rivals:
        return f"ahead of {'all ' if others > 1 else ''}{plural(others, 'other')}"
    if entry.pairs <= 1:
        return f"the fastest of {entry.candidates} in one pair"
    few = len(rivals) <= _RIVALS_NAMED
    names = listed(list(map(execution_label, rivals))) if few else f"{len(rivals)} of the other {others}"
    return f"not distinguishable from {names}"


def _over_places(entries: Sequence[Fastest]) -> str:
    """ "bf16 graph on 7 of 8 GPUs and nodes, × 2.0 to 2.1; base on 1 of 8"."""
    groups: dict[str, list[Fastest]] = {}
    for entry in entries:
        groups.setdefault(execution_label(entry.execution), []).append(entry)
    texts = []
    for label, own in sorted(groups.items(), key=lambda group: -len(group[1])):
        gains = [entry.effect for entry in own if entry.effect is not None]
        gain = f", {change_range(min(gains), max(gains))}" if gains else ""
        clear = sum(not entry.rivals for entry in own)
        texts.append(
            f"{label} on {len(own)} of {len(entries)} GPUs and nodes{gain}, ahead of all others on {clear or 'none'}"
        )
    return "; ".join(texts)


def _base(results: Results) -> str:
    varied = [
        key for key in EXECUTION_SETTINGS if len({repr(getattr(cell.settings, key)) for cell in results.cells}) > 1
    ]
    return ", ".join(f"{axis_name(key)} {value_text(getattr(results.study, key))}" for key in varied)
