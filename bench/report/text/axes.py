"""What each swept setting does: summaries by value, titles, regimes along an axis, and the cost of compiling."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from msgspec.structs import asdict

from bench.analysis.contention import AXIS as BUSY_GPUS
from bench.records.results import (
    AxisComparison,
    AxisState,
    Line,
    MeasuredCell,
    ModelSummary,
    UndecidedReason,
    ValueSummary,
    Verdict,
)
from bench.records.trace import Regime
from bench.report.text.verdicts import DECIDED
from bench.report.view import settings_label
from bench.units import (
    change,
    change_range,
    duration,
    farthest_end,
    keyed_values_text,
    listed,
    plural,
    values_text,
)

Cells = Mapping[str, MeasuredCell]
COMPILE = "compile_model"
# On the first screen; the sections have all.
_VALUES_SHOWN = 3
_MODELS_NAMED = 4
_SETTINGS_NAMED = 2
_SERIES_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """What one axis does, for the first screen. id: of its section."""

    id: str
    axis: str
    state: AxisState | None
    lead: str
    lines: tuple[str, ...]


def section_id(axis: str) -> str:
    return "axis-" + axis.replace(", ", "-")


def axis_name(axis: str) -> str:
    """ "CUDA graph"; of several keys "depth and dim"."""
    return listed([key.replace("_", " ").replace("cuda", "CUDA").replace("gpus", "GPUs") for key in axis.split(", ")])


def findings(entries: Iterable[AxisComparison], cells: Cells, contention: Sequence[str] = ()) -> list[Finding]:
    """Axes that matter first, the largest effect at their head. contention: the lines of the number of busy GPUs."""
    rank = {AxisState.MATTERS: 0, AxisState.SAME: 1}
    compared = sorted(entries, key=lambda entry: (rank.get(entry.state, 2), -entry.size))
    return [
        replace(_finding(entry, cells), lines=tuple(contention)) if BUSY_GPUS in entry.keys else _finding(entry, cells)
        for entry in compared
    ]


def what_matters(found: Sequence[Finding]) -> str:
    """One sentence over all axes."""
    labels = {AxisState.MATTERS: "What matters", AxisState.SAME: "What does not"}
    names: dict[str, list[str]] = {label: [] for label in (*labels.values(), "Undecided")}
    for one in found:
        names[labels.get(one.state or AxisState.UNDECIDED, "Undecided")].append(axis_name(one.axis))
    return " ".join(f"{label}: {', '.join(own)}." for label, own in names.items() if own)


def _finding(entry: AxisComparison, cells: Cells) -> Finding:
    lines: list[str] = []
    if entry.state in (AxisState.MATTERS, AxisState.UNDECIDED):
        ranked = sorted(entry.summary, key=_size, reverse=True)
        lines = [summary_text(entry, one) for one in ranked[:_VALUES_SHOWN]]
        if len(ranked) > _VALUES_SHOWN:
            lines.append(f"{plural(len(ranked) - _VALUES_SHOWN, 'more value')} below")
    lines += compile_lines(entry, cells)
    if regimes := regime_line(entry, cells):
        lines.append(regimes)
    return Finding(section_id(entry.axis), entry.axis, entry.state, axis_title(entry), tuple(lines))


def _size(summary: ValueSummary) -> float:
    ends = [end for model in summary.models for end in (model.low, model.high) if end is not None]
    return max((abs(math.log1p(effect)) for effect in ends), default=0.0)


def axis_title(entry: AxisComparison) -> str:
    """ "Dtype matters, against fp32"."""
    name = axis_name(entry.axis)
    several = name.endswith("s") or " and " in name
    compared = [line for line in entry.lines if line.effect is not None]
    inside = ", in the same process" if _is_crossed(compared) else ""
    verb, why = {
        AxisState.MATTERS: ("matter" if several else "matters", ""),
        AxisState.SAME: (
            f"{'do' if several else 'does'} not matter: no difference above {_farthest(compared)}",
            "",
        ),
        AxisState.UNDECIDED: _undecided(entry.undecided_reason, compared, several),
        AxisState.NOT_MEASURED: (f"{'were' if several else 'was'} not measured", ""),
    }[entry.state]
    return f"{name[0].upper()}{name[1:]} {verb}, against {_base(entry)}{inside}{why}"


def _undecided(reason: UndecidedReason | None, compared: Sequence[Line], several: bool) -> tuple[str, str]:
    if reason is UndecidedReason.ONE_PAIR:
        return f"{'were' if several else 'was'} measured once", ": uncertainty unknown"
    if reason is UndecidedReason.PROBABLE:
        differ = sum(line.differs for line in compared)
        return (
            f"{'differ' if several else 'differs'} in {differ} of {len(compared)} comparisons",
            ", but in none beyond the noise after correction for their number",
        )
    units = ("process", "processes") if _is_crossed(compared) else ("pair", "pairs")
    pairs = plural(max((line.pairs for line in compared), default=0), *units)
    return (
        f"{'are' if several else 'is'} undecided",
        f": at most {_farthest(compared)} either way (95 %), from {pairs} a comparison",
    )


def _farthest(lines: Iterable[Line]) -> str:
    """No line differs by more."""
    return farthest_end(line.interval for line in lines if line.interval)


def _is_crossed(compared: Sequence[Line]) -> bool:
    """Every value was measured by turns with the base."""
    return bool(compared) and all(line.design == "crossing" for line in compared)


def _base(entry: AxisComparison) -> str:
    values = values_text(entry.base)
    return f"{axis_name(entry.axis)} {values}" if values.replace(".", "").isdigit() else values


# Summaries of a value


def summary_text(entry: AxisComparison, summary: ValueSummary) -> str:
    """One value over all models: "dtype bf16: vit32x2x128 +38 % [35, 41]; vit0x0x0 SAME within 1 %"."""
    parts = "; ".join(_over_models(entry, summary)) or "not measured"
    most = max((one.lines for one in summary.models), default=0)
    over = f" (over {most} combinations)" if most > 1 else ""
    speed = ", in speed" if entry.is_speed else ""
    return f"{keyed_values_text(summary.value)}{over}{speed}: {parts}"


def model_text(entry: AxisComparison, summary: ValueSummary, model: ModelSummary) -> str:
    """One value of one model, in all its combinations with other settings, nodes and GPUs."""
    lines = _lines(entry, summary, model)
    if not lines:
        return "not measured"
    if all(line.verdict is Verdict.SAME for line in lines):
        return f"SAME within {_farthest(lines)}"
    return _where_different(lines) if any(line.differs for line in lines) else f"undecided ({_range(lines)})"


def _lines(entry: AxisComparison, summary: ValueSummary, model: ModelSummary) -> list[Line]:
    return [
        line
        for line in entry.lines
        if line.value == summary.value and line.model == model.model and line.effect is not None
    ]


def _over_models(entry: AxisComparison, summary: ValueSummary) -> Iterator[str]:
    """Models that differ, the largest effect first; those that are the same together; the rest."""

    def found(model: ModelSummary) -> str:
        return f"{model.model} {_where_different(_lines(entry, summary, model))}"

    by_state = {state: [one for one in summary.models if one.state is state] for state in AxisState}
    differ = sorted(by_state[AxisState.MATTERS], key=_model_size, reverse=True)
    if len(differ) > _MODELS_NAMED + 2:
        low = min(differ, key=lambda one: one.low or 0.0)
        high = max(differ, key=lambda one: one.high or 0.0)
        yield f"{len(differ)} models {_ends([low, high])} ({low.model} to {high.model})"
    else:
        yield from (f"{one.model} {model_text(entry, summary, one)}" for one in differ)
    if same := by_state[AxisState.SAME]:
        lines = [line for one in same for line in _lines(entry, summary, one)]
        yield f"{_names(same)} SAME within {_farthest(lines)}"
    for reason, before, after in (
        (UndecidedReason.PROBABLE, "probably ", ""),
        (UndecidedReason.NOISE, "undecided: ", ""),
        (UndecidedReason.ONE_PAIR, "", " in one pair"),
    ):
        if undecided := [one for one in summary.models if one.undecided_reason is reason]:
            few = len(undecided) <= _MODELS_NAMED
            numbers = ", ".join(map(found, undecided)) if few else f"{len(undecided)} models {_ends(undecided)}"
            yield f"{before}{numbers}{after}"
    if missing := by_state[AxisState.NOT_MEASURED]:
        yield f"{_names(missing)} not measured"


def _ends(models: Sequence[ModelSummary]) -> str:
    return change_range(min(one.low or 0.0 for one in models), max(one.high or 0.0 for one in models))


def _names(models: Sequence[ModelSummary]) -> str:
    names = [one.model for one in models]
    return listed(names) if len(names) <= _MODELS_NAMED else f"{len(names)} models"


def _model_size(one: ModelSummary) -> float:
    return max(abs(math.log1p(one.low or 0.0)), abs(math.log1p(one.high or 0.0)))


def _where_different(lines: Sequence[Line]) -> str:
    """The effect where lines differ, and where else they are the SAME or undecided: "× 8.9 in graph, undecided in
    base". A line that is not known to differ is no end of a range."""
    differ = [line for line in lines if line.differs]
    rest = {
        "SAME": [line for line in lines if line.verdict is Verdict.SAME],
        "undecided": [line for line in lines if line.verdict not in DECIDED],
    }
    if not differ or len(differ) == len(lines):
        return _range(lines)
    named = {key: list(dict.fromkeys(map(_setting, own))) for key, own in rest.items() if own}
    at = list(dict.fromkeys(map(_setting, differ)))
    all_named = [name for own in (at, *named.values()) for name in own]
    # A setting that occurs twice does not identify a line.
    few = len(set(all_named)) == len(all_named) and all(len(own) <= _SETTINGS_NAMED for own in named.values())
    others = [f"{key} in {listed(own) if few else f'{len(rest[key])} of {len(lines)}'}" for key, own in named.items()]
    where = f" in {at[0]}" if few and len(differ) == 1 else ""
    return ", ".join([f"{_range(differ)}{where}", *others])


def _range(lines: Sequence[Line]) -> str:
    """The effects, whatever their verdict: one change, or the range with the settings at its ends."""
    if not lines:
        return ""
    ranked = sorted(lines, key=lambda line: line.effect or 0.0)
    low, high = ranked[0], ranked[-1]
    if len(lines) == 1:
        return change(low.effect or 0.0, low.interval)
    settings = settings_label(low.settings), settings_label(high.settings)
    named = (settings[0] or "base", settings[1] or "base") if settings[0] != settings[1] else ("", "")
    return change_range(low.effect or 0.0, high.effect or 0.0, named)


def _setting(line: Line) -> str:
    return settings_label(line.settings) or "base"


# Regimes

# Regimes along an axis, each with its values, ascending.
Steps = tuple[tuple[Regime, tuple[float, ...]], ...]


def regime_line(entry: AxisComparison, cells: Cells) -> str:
    """ "Regime: launch-bound up to 8, compute-bound from 16 on: vit32x6x512; transfer-bound throughout: vit0x0x0."

    Empty where the values are no numbers, where no regime changes along the axis, and where nothing was traced.
    """
    if len(entry.keys) > 1 or not all(_is_number(value) for one in entry.values for value in one.values()):
        return ""
    paths: dict[Steps, list[str]] = {}
    for label, regimes in _regimes(entry, cells):
        names = paths.setdefault(_steps(regimes), [])
        names += [label] * (label not in names)
    if all(len(steps) == 1 for steps in paths):
        return ""
    ranked = sorted(paths.items(), key=lambda path: (len(path[0]) == 1, -len(path[1])))
    return f"Regime: {'; '.join(f'{_steps_text(steps)}: {_series_names(names)}' for steps, names in ranked)}."


def _regimes(entry: AxisComparison, cells: Cells) -> list[tuple[str, dict[float, Regime]]]:
    """(model and settings, regime by value) of the cells that are compared with one base, the base included.

    The base is one of several series where the others differ in a setting that it does not have.
    """
    (key,) = entry.keys
    apart = _distinguishing(entry.lines, cells)
    found: dict[Any, tuple[str, dict[float, Regime]]] = {}
    for line in entry.lines:
        own = {name: _facts(cells[line.name]).get(name) for name in apart[line.base_cell]}
        label = " ".join(filter(None, (line.model, settings_label(line.settings), keyed_values_text(own))))
        _, regimes = found.setdefault((line.base_cell, repr(own)), (label, {}))
        for name, value in ((line.base_cell, entry.base[key]), (line.name, line.value[key])):
            metrics = cells[name].metrics
            if metrics and isinstance(value, int | float):
                regimes[value] = metrics.regime
    return [one for one in found.values() if len(one[1]) > 1]


def _distinguishing(lines: Sequence[Line], cells: Cells) -> dict[str, list[str]]:
    """By base cell, the settings in which cells of one value differ; mostly there are none."""
    alike: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for line in lines:
        (value,) = line.value.values()
        alike.setdefault((line.base_cell, value), []).append(_facts(cells[line.name]))
    apart: dict[str, list[str]] = {}
    for (base, _), (first, *others) in alike.items():
        names = apart.setdefault(base, [])
        names += [name for name in first if name not in names and any(one.get(name) != first[name] for one in others)]
    return apart


def _facts(cell: MeasuredCell) -> dict[str, Any]:
    """Settings, and the shape of the model."""
    shape = {key: value for key, value in asdict(cell.model).items() if key != "name"}
    return asdict(cell.settings) | shape


def _steps(regimes: Mapping[float, Regime]) -> Steps:
    grouped = groupby(sorted(regimes.items()), key=lambda one: one[1])
    return tuple((regime, tuple(value for value, _ in own)) for regime, own in grouped)


def _steps_text(steps: Steps) -> str:
    if len(steps) == 1:
        return f"{steps[0][0]} throughout"
    return ", ".join(f"{regime} {_where(values, at, len(steps) - 1)}" for at, (regime, values) in enumerate(steps))


def _where(values: Sequence[float], at: int, last: int) -> str:
    if len(values) == 1:
        return f"at {values[0]}"
    if at == 0:
        return f"up to {values[-1]}"
    return f"from {values[0]} on" if at == last else f"from {values[0]} to {values[-1]}"


def _series_names(names: Sequence[str]) -> str:
    if len(names) <= _SERIES_NAMED:
        return listed(names)
    return f"{', '.join(names[:_SERIES_NAMED])} and {len(names) - _SERIES_NAMED} more"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Compiling


def compile_lines(entry: AxisComparison, cells: Cells) -> list[str]:
    """One line a mode: "compiling with default took 2.4 to 14 s a run; ..."; empty unless the axis sets the mode."""
    if COMPILE not in entry.keys:
        return []
    texts = []
    for mode in dict.fromkeys(value[COMPILE] for value in entry.values):
        lines = [line for line in entry.lines if line.value[COMPILE] == mode]
        names = [line.name for line in lines]
        if entry.base[COMPILE] == mode:
            names += dict.fromkeys(line.base_cell for line in entry.lines)
        known = [found for name in names if (found := cells[name].compile_s)]
        if known:
            took = _between([end for one in known for end in (one.least, one.most)])
            texts.append(f"compiling with {mode} took {took} a run{_payback(lines, cells)}")
    return texts


def compile_cost(line: Line, cells: Cells) -> str:
    """Of one comparison, beside its gain; empty where nothing was compiled, and along other axes."""
    own, base = cells[line.name].compile_s, cells[line.base_cell].compile_s
    if own is None or COMPILE not in line.value:
        return ""
    after_s = payback_s(line, own.most - (base.most if base else 0.0))
    gained = f", regained after {duration(after_s)} of work" if after_s else ""
    return f"compiled in {_between([own.least, own.most])}{gained}"


def payback_s(line: Line, more_s: float) -> float | None:
    """Seconds of work after which the faster cell has done as much as its base, more_s seconds more of compiling
    included: with a throughput of 1 + effect of the base's (T - C) (1 + effect) = T, so T = C (1 + effect) / effect.

    None unless it is faster, and where the base compiles as long.
    """
    if line.verdict is not Verdict.FASTER or line.effect is None or more_s <= 0:
        return None
    return more_s * (1 + line.effect) / line.effect


def _payback(lines: Sequence[Line], cells: Cells) -> str:
    """Over the lines that differ after correction. Of a model in several places or settings only the first compiles
    without a cache: its longest compilation is used for all."""

    def longest_s(model: str, of_base: bool) -> float:
        names = [line.base_cell if of_base else line.name for line in lines if line.model == model]
        return max((found.most for name in names if (found := cells[name].compile_s)), default=0.0)

    models = {line.model for line in lines}
    more_s = {model: longest_s(model, False) - longest_s(model, True) for model in models}
    times = [(payback_s(line, more_s[line.model]), line.model) for line in lines if line.headline]
    found = [(after_s, model) for after_s, model in times if after_s is not None]
    if not found:
        return ""
    ends = [f"{duration(after_s)} ({model})" for after_s, model in (min(found), max(found))]
    return f"; the gain makes up for the longest after {' to '.join(dict.fromkeys(ends))} of work"


def _between(values_s: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys((duration(min(values_s)), duration(max(values_s)))))
