"""The swept axes of a study, and every value of an axis against the base, pair by pair."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from bench.analysis.pairs import compared, estimated
from bench.analysis.statistics import Estimate
from bench.analysis.verdicts import judged, rules_of
from bench.records.metric import Better
from bench.records.results import (
    AxisComparison,
    AxisState,
    Line,
    MeasuredCell,
    ModelSummary,
    Rules,
    UndecidedReason,
    Value,
    Values,
    ValueSummary,
    Verdict,
    negated,
)  # fmt: skip
from bench.records.run import Outcome
from bench.records.study import Design, Model, Settings, Study

SHAPE = ("patch_size", "depth", "dim")
# Nodes and GPUs are compared as penalties, models by their shape.
_NO_AXIS = ("gpu_ids", "numa_nodes", "placements", "models", "model")
# What may change along with a setting without being an axis of its own.
_FOLLOWERS = {
    "batch_size": ("num_samples", "warmup_samples"),
    "image_size": ("num_samples", "warmup_samples", "memory_size_mb"),
    "dim": ("heads",),
}
# What has no meaning where the key has this value: one GPU in isolation has no concurrent load to place.
_UNUSED: dict[str, tuple[Value, tuple[str, ...]]] = {
    "concurrent_gpus": (1, ("concurrent_load", "concurrent_placement")),
    "preprocess_queue": (0, ("preprocess_node",)),
}
# Two models that a study lists side by side are no axis; a series of them is.
_SHORTEST_SERIES = 3


@dataclass(frozen=True)
class Axis:
    """keys: settings (or parts of a model's shape) that change together, mostly one.

    values: one tuple for each value, in the order of the study; base: what the others are compared with, the study's
    own value, or the first one where the study's was not run; of concurrent GPUs a single one, where it was run.
    followers: what may change along.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    base: tuple[Value, ...]
    followers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join(self.keys)

    @property
    def of_shape(self) -> bool:
        return any(key in SHAPE for key in self.keys)

    def named(self, value: tuple[Value, ...]) -> Values:
        return dict(zip(self.keys, value, strict=True))


def axes(cells: Sequence[MeasuredCell], study: Study) -> list[Axis]:
    """The axes that the study declares (`axes`, `zip`), then what else varies between its cells.

    Of the latter only single settings, and parts of the models' shape with a series of at least three values.
    """
    declared = [keys for keys in _declared(study) if not set(keys) & set(_NO_AXIS)]
    taken = {key for keys in declared for key in keys}
    others = [(key,) for key in (*Settings.__struct_fields__, *SHAPE) if key not in taken]
    found = []
    for keys in (*declared, *others):
        axis = _axis(keys, cells, study, taken)
        shortest = _SHORTEST_SERIES if keys in others and keys[0] in SHAPE else 2
        if len(axis.values) >= shortest and _longest(axis, cells) >= shortest:
            found.append(axis)
    return found


def value_of(cell: MeasuredCell, keys: Iterable[str]) -> tuple[Value, ...]:
    return tuple(getattr(cell.model if key in SHAPE else cell.settings, key) for key in keys)


def matched(axis: Axis, cells: Sequence[MeasuredCell]) -> list[tuple[MeasuredCell, MeasuredCell]]:
    """(base, other) of cells that differ in this axis only; a duplicate with the base of the same occurrence."""
    exact: dict[Hashable, MeasuredCell] = {}
    loose: dict[Hashable, MeasuredCell] = {}
    others = []
    for cell in cells:
        if value_of(cell, axis.keys) == axis.base:
            exact[_rest(cell, axis)] = cell
            loose.setdefault(_rest(cell, axis, loosely=True), cell)
        else:
            others.append(cell)
    pairs = []
    for cell in others:
        if base := exact.get(_rest(cell, axis)) or loose.get(_rest(cell, axis, loosely=True)):
            pairs.append((base, cell))
    return pairs


def _declared(study: Study) -> list[tuple[str, ...]]:
    """Keys of each axis; those of a zip change together."""
    return [*((key,) for key in study.axes), *(tuple(lists) for lists in study.zip)]


def _axis(keys: tuple[str, ...], cells: Sequence[MeasuredCell], study: Study, taken: set[str]) -> Axis:
    following = {follower for key in keys for follower in _FOLLOWERS.get(key, ())} - taken
    values = tuple(dict.fromkeys(value_of(cell, keys) for cell in cells if not _without_compute(cell, keys)))
    own = tuple(getattr(study, key, None) for key in keys)
    base = own if own in values else next(iter(values), ())
    base = next((value for value in values if ("concurrent_gpus", 1) in zip(keys, value, strict=True)), base)
    unused = {
        follower
        for key, value in zip(keys, base, strict=False)
        for unused_at, followers in [_UNUSED.get(key, (None, ()))]
        if value == unused_at
        for follower in followers
    }
    return Axis(keys, values, base, tuple(sorted(following | unused)))


def _longest(axis: Axis, cells: Sequence[MeasuredCell]) -> int:
    """The largest number of values that one base is compared over, itself included."""
    compared: dict[str, int] = {}
    for base, _ in matched(axis, cells):
        compared[base.name] = compared.get(base.name, 1) + 1
    return max(compared.values(), default=0)


def _rest(cell: MeasuredCell, axis: Axis, loosely: bool = False) -> Hashable:
    """What must be equal besides the axis; loosely: what follows from it may differ as well."""
    ignored = {*axis.keys, *(axis.followers if loosely else ()), *(("name",) if axis.of_shape else ())}
    model = tuple(getattr(cell.model, key) for key in Model.__struct_fields__ if key not in ignored)
    settings = tuple(getattr(cell.settings, key) for key in Settings.__struct_fields__ if key not in ignored)
    return cell.gpu, cell.cpu_node, cell.mem_node, model, settings, cell.occurrence


def _without_compute(cell: MeasuredCell, keys: tuple[str, ...]) -> bool:
    """vit0x0x0 has no depth to vary."""
    return any(key in SHAPE for key in keys) and not cell.model.computes


# Comparisons


def comparisons(cells: Sequence[MeasuredCell], study: Study, rules: Rules | None = None) -> tuple[AxisComparison, ...]:
    """Every value of every axis against its base, before correction (bench.analysis.claims)."""
    rules = rules or rules_of(study)
    is_speed = any(cell.metric and cell.metric.better is Better.LOWER for cell in cells)
    return tuple(_comparison(axis, is_speed, _lines(axis, cells, rules)) for axis in axes(cells, study))


def _lines(axis: Axis, cells: Sequence[MeasuredCell], rules: Rules) -> list[Line]:
    pairs = matched(axis, cells)
    sides = [compared(other.name, base, other) for base, other in pairs]
    estimates = estimated([side.sample for side in sides], rules)
    return [
        _line(axis, base, other, one, rules, side.design)
        for (base, other), side, one in zip(pairs, sides, estimates, strict=True)
    ]


def _line(
    axis: Axis,
    base: MeasuredCell,
    other: MeasuredCell,
    found: Estimate | None,
    rules: Rules,
    design: Design,
) -> Line:
    line = Line(
        name=other.name,
        base_cell=base.name,
        gpu=other.gpu,
        cpu_node=other.cpu_node,
        mem_node=other.mem_node,
        model=_model(axis, other.model),
        settings=shared_settings((base, other)),
        value=axis.named(value_of(other, axis.keys)),
    )
    if found is None:
        failed = next((cell for cell in (other, base) if cell.outcome is not Outcome.OK), other)
        return msgspec.structs.replace(line, failed_cell=failed.name, remedy=None)
    return msgspec.structs.replace(
        line,
        **judged(found, other.settings, rules.max_repeats),
        effect=math.expm1(found.mean_log),
        interval=negated(found.interval),
        design=design,
    )


def shared_settings(cells: Sequence[MeasuredCell]) -> Values:
    """Of the settings that are not the study's own, those that all of the cells have."""
    first, *others = [cell.differing_settings for cell in cells]
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


def _model(axis: Axis, model: Model) -> str:
    """The model's name; along a part of its shape what the series shares, as vit32x*x512."""
    if not axis.of_shape:
        return model.name
    return "vit" + "x".join("*" if key in axis.keys else str(getattr(model, key)) for key in SHAPE)


# Summary


def _comparison(axis: Axis, is_speed: bool, lines: Sequence[Line]) -> AxisComparison:
    values = [axis.named(value) for value in (axis.base, *(value for value in axis.values if value != axis.base))]
    whole = AxisComparison(axis=axis.name, keys=axis.keys, base=values[0], values=tuple(values), is_speed=is_speed)
    return summarise(whole, lines)


def summarise(entry: AxisComparison, lines: Sequence[Line]) -> AxisComparison:
    """By value and model, and whether the axis matters at all."""
    compared = [line for line in lines if line.effect is not None]
    state = _state(compared)
    sizes = [abs(math.log1p(line.effect)) for line in compared if line.headline and line.effect is not None]
    return msgspec.structs.replace(
        entry,
        lines=tuple(lines),
        summary=tuple(_of_value(value, [line for line in lines if line.value == value]) for value in entry.values[1:]),
        state=state,
        undecided_reason=_undecided_reason(state, compared),
        size=max(sizes, default=0.0),
        bound=_bound(compared) if state is AxisState.SAME else None,
    )


def _of_value(value: Values, lines: list[Line]) -> ValueSummary:
    models = dict.fromkeys(line.model for line in lines)
    summaries = [_of_model(model, [line for line in lines if line.model == model]) for model in models]
    return ValueSummary(value=value, models=tuple(summaries))


def _of_model(model: str, lines: list[Line]) -> ModelSummary:
    compared = [line for line in lines if line.effect is not None]
    differ = [line for line in compared if line.differs]
    effects = [line.effect for line in differ or compared if line.effect is not None]
    state = _state(compared)
    return ModelSummary(
        model=model,
        state=state,
        undecided_reason=_undecided_reason(state, compared),
        low=min(effects, default=None),
        high=max(effects, default=None),
        interval=compared[0].interval if len(compared) == 1 else None,
        bound=_bound(compared),
        lines=len(compared),
    )


def _state(lines: list[Line]) -> AxisState:
    if not lines:
        return AxisState.NOT_MEASURED
    if any(line.headline for line in lines):
        return AxisState.MATTERS
    return AxisState.SAME if all(line.verdict is Verdict.SAME for line in lines) else AxisState.UNDECIDED


def _undecided_reason(state: AxisState, lines: list[Line]) -> UndecidedReason | None:
    if state is not AxisState.UNDECIDED:
        return None
    if all(line.interval is None for line in lines):
        return UndecidedReason.ONE_PAIR
    return UndecidedReason.PROBABLE if any(line.differs for line in lines) else UndecidedReason.NOISE


def _bound(lines: list[Line]) -> float | None:
    """No line differs by more than this, as far as its interval reaches; None where one has no interval."""
    intervals = [line.interval for line in lines]
    if not intervals or None in intervals:
        return None
    return max(abs(end) for interval in intervals if interval for end in interval)
