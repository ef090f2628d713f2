"""What changed between two studies, or several a side: each cell of NEW against that of BASE with the same settings."""

import json
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from bench.analysis import latency
from bench.analysis.crossing import design_of
from bench.analysis.load import load, read_results, read_results_file
from bench.analysis.pairs import class_of, runs_between
from bench.analysis.statistics import Estimate, Sample, estimate, holm, of_studies
from bench.analysis.verdicts import is_headline, judged
from bench.errors import StudyError
from bench.host.fingerprint import fingerprint_changes
from bench.records.base import plain
from bench.records.host import Fingerprint, FingerprintChange
from bench.records.nightly import ComparedCell, ComparisonWarning, ComparisonWarningKind, StudyComparison
from bench.records.results import Changes, Measure, MeasuredCell, Results, Rules, Verdict, negated
from bench.records.run import Outcome
from bench.records.study import Settings
from bench.report.tables import csv_table
from bench.report.text.studies import comparison_warning_text, unit_text, with_text
from bench.report.text.verdicts import MEASURES, verdict_word

EXIT_SLOWER = 3
# On other hardware a difference says nothing about the software. Everything else is compared on purpose.
_HARDWARE = ("machine", "cpu", "gpus")
_CSV_OF_COMMAND = ("base_value", "new_value", "unit")
_CSV_COLUMNS = ("name", "verdict", "effect", "low", "high", "base_samples_s", "new_samples_s", "text", "hint")
_RULES = Rules()
_ADVICE = "name a run directory, or its results.json"
_MOST_NAMES = 5
Cells = Sequence[MeasuredCell]


@dataclass(frozen=True)
class Matched:
    """One cell in the studies of each side that have it; at least one of each."""

    base: Cells
    new: Cells

    @property
    def settings(self) -> Settings:
        return self.new[0].settings

    def compared(self, several: bool) -> "Compared":
        """several: see statistics.of_studies."""
        name, noise = self.new[0].name, class_of(*self.base, *self.new)
        known = runs_between((*self.base, *self.new))
        sides = known[: len(self.base)], known[len(self.base) :]
        base, new = ([runs for runs in side if runs] for side in sides)
        runs = min(sum(map(len, base)), sum(map(len, new)))
        if not runs:
            return Compared(self, None, {}, 0)
        before, after = ([[run.rate or 0.0 for run in own] for own in side] for side in (base, new))
        others = latency.samples_of_studies(name, noise, base, new, several)
        return Compared(self, of_studies(name, noise, before, after, several), others, runs)


@dataclass(frozen=True)
class Compared:
    """A cell with what is estimated of it. sample: None where a side has no run. runs: of the side that has fewer."""

    cell: Matched
    sample: Sample | None
    others: latency.Samples
    runs: int


@dataclass(frozen=True)
class HostDifferences:
    """incomparable: other hardware or another device. notable: whatever else differs."""

    incomparable: tuple[FingerprintChange, ...]
    notable: tuple[FingerprintChange, ...]


def compare_command(
    base: Sequence[str], new: Sequence[str], output: str = "text", rules: Rules = _RULES, force: bool = False
) -> tuple[str, int]:
    """(what to print, exit code): the work of `numastudy compare BASE NEW`. output: text, json or csv.

    base, new: the places of one study or several of each side. Raises StudyError for places without results, and for
    hosts that cannot be compared unless forced.
    """
    before, after = ([results_at(Path(place)) for place in side] for side in (base, new))
    compared = compare(before, after, rules, force)
    slower = any(map(_is_slower, compared.cells))
    text = {"json": _as_json, "csv": _as_csv, "text": _as_text}[output](compared)
    return text, EXIT_SLOWER if slower else 0


def _is_slower(cell: ComparedCell) -> bool:
    """In throughput or in latency; a cell that is only less steady is not."""
    latencies = [cell.changes[one] for one in (Measure.LATENCY_P50, Measure.LATENCY_P99) if one in cell.changes]
    return any(one.verdict is Verdict.SLOWER and one.headline for one in (cell, *latencies))


def results_at(place: Path) -> Results:
    """The results of an earlier study: a run directory, or its results.json. Raises StudyError."""
    if place.is_dir():
        if (place / "results.json").is_file():
            return read_results(place)
        from bench.report.build import build_results

        return build_results(load(place), invocation="compare")
    if not place.is_file():
        raise StudyError("no results here", str(place), _ADVICE)
    return read_results_file(place)


def compare(
    base: Sequence[Results], new: Sequence[Results], rules: Rules = _RULES, force: bool = False
) -> StudyComparison:
    """Cells with the same settings against each other, as two independent groups of runs, or of studies.

    The runs of two studies were not measured side by side: block r of one has nothing to do with block r of the
    other. With one study a side, whatever differs between the two times is therefore part of the effect; with several
    the study is the unit (statistics.of_studies). Intervals are Welch's; headline: the difference holds after Holm's
    correction over the cells compared and their latencies, from six runs a side on.
    Raises StudyError if the studies ran on different hardware (unless forced), have no cell in common, or if one is
    listed twice on a side.
    """
    _refuse_listed_twice(base)
    _refuse_listed_twice(new)
    changes = _host_changes([*base, *new])
    if changes.incomparable and not force:
        texts = (warning.text for warning in _host_warnings(changes.incomparable))
        raise StudyError(
            "these studies ran on different machines: " + "; ".join(texts),
            "fingerprint",
            "compare studies of one machine, or add --force to compare them anyway",
        )
    matched, unmatched = _matched(base, new)
    if not matched:
        first = [side[0].cells[0].name for side in (base, new)]
        advice = f"run the same study twice; BASE has {first[0]}, for example, and NEW {first[1]}"
        raise StudyError("no cell of the two studies has the same settings", "compare", advice)
    few = _few_in_common(len(matched), base, new)
    several = len(base) + len(new) > 2
    compared = [cell.compared(several) for cell in matched]
    # Any of the studies may have been ended by its own intervals.
    level = replace(rules, confidence=max(rules.confidence, *(one.rules.confidence for one in (*base, *new))))
    found = iter(estimate([one.sample for one in compared if one.sample], level.confidence, rules.margin))
    effects = [next(found) if one.sample else None for one in compared]
    others = [
        latency.judged_changes(own, one.cell.settings, level, "processes")
        for own, one in zip(latency.changes([one.others for one in compared], level), compared, strict=True)
    ]
    every = [*(one.p_difference for one in effects if one), *(p for own in others for p in latency.p_values(own))]
    p_values = [p for p in every if p is not None]
    adjusted = dict(zip(p_values, holm(p_values), strict=True))
    cells = [
        _judged(one, effect, latency.corrected(own, adjusted, level, one.runs), adjusted, rules, level)
        for one, effect, own in zip(compared, effects, others, strict=True)
    ]
    warnings = [*few, *_host_warnings(changes.incomparable), *_host_warnings(changes.notable)]
    if not all(plain(one.fingerprint) for one in (*base, *new)):
        warnings.append(_warning(ComparisonWarningKind.NO_FINGERPRINT))
    if any(_is_same_study(one, other) for one in base for other in new):
        warnings.append(_warning(ComparisonWarningKind.SAME_STUDY))
    if any(len({design_of(own) for own in (*cell.base, *cell.new)}) > 1 for cell in matched):
        warnings.append(_warning(ComparisonWarningKind.DESIGN_DIFFERS))
    return StudyComparison(
        margin=rules.margin,
        max_repeats=rules.max_repeats,
        base_studies=len(base),
        new_studies=len(new),
        cells=tuple(with_text(cell, rules, len(p_values), several) for cell in cells),
        warnings=(*warnings, *unmatched),
        unit=unit_text(len(base), len(new)),
    )


def _few_in_common(in_common: int, base: Sequence[Results], new: Sequence[Results]) -> list[ComparisonWarning]:
    """A warning if the cells in common are less than half of those of either side."""
    before, after = len(_by_identity(base)), len(_by_identity(new))
    if 2 * in_common >= max(before, after):
        return []
    few = ComparisonWarning(kind=ComparisonWarningKind.FEW_IN_COMMON, in_common=in_common, base=before, new=after)
    return [replace(few, text=comparison_warning_text(few))]


def _refuse_listed_twice(side: Sequence[Results]) -> None:
    for at, one in enumerate(side):
        if any(_is_same_study(one, other) for other in side[:at]):
            advice = "name studies that were measured at different times"
            raise StudyError("this study is listed twice on one side", one.run_directory, advice)


def _host_changes(studies: Sequence[Results]) -> "HostDifferences":
    """From the first study to each of the others, each change once."""
    first = studies[0]
    found = [host_differences(first.device, first.fingerprint, one.device, one.fingerprint) for one in studies[1:]]
    return HostDifferences(
        incomparable=tuple(dict.fromkeys(change for one in found for change in one.incomparable)),
        notable=tuple(dict.fromkeys(change for one in found for change in one.notable)),
    )


def host_differences(base_device: str, base: Fingerprint, new_device: str, new: Fingerprint) -> HostDifferences:
    changes = fingerprint_changes(base, new)
    devices = [FingerprintChange(fact="device", before=base_device, after=new_device)] * (base_device != new_device)
    return HostDifferences(
        incomparable=(*devices, *(change for change in changes if change.fact in _HARDWARE)),
        notable=tuple(change for change in changes if change.fact not in _HARDWARE),
    )


def _is_same_study(base: Results, new: Results) -> bool:
    """created_at does not count: a regenerated report has another one, its run directory is the same."""
    return base.run_directory == new.run_directory and base.fingerprint == new.fingerprint


def _matched(base: Sequence[Results], new: Sequence[Results]) -> tuple[list[Matched], list[ComparisonWarning]]:
    """Cells by key (a hash of the settings) and occurrence; then a warning for each that has no counterpart.

    Models from elsewhere are compared where their program changed too: that is why someone compares them.
    """
    old, fresh = _by_identity(base), _by_identity(new)
    matched = {known_as: Matched(cells, fresh[known_as]) for known_as, cells in old.items() if known_as in fresh}
    kinds = ComparisonWarningKind
    unmatched = [_warning(kinds.ONLY_IN_BASE, cell=cells[0].name) for one, cells in old.items() if one not in fresh]
    unmatched += [_warning(kinds.ONLY_IN_NEW, cell=cells[0].name) for one, cells in fresh.items() if one not in old]
    for one in matched.values():
        if len({cell.model.sha256 for cell in (*one.base, *one.new)}) > 1:
            unmatched.append(_warning(kinds.PROGRAM_DIFFERS, cell=one.new[0].name))
    return list(matched.values()), unmatched


def _by_identity(side: Sequence[Results]) -> dict[Hashable, list[MeasuredCell]]:
    found: dict[Hashable, list[MeasuredCell]] = {}
    for study in side:
        for cell in study.cells:
            found.setdefault(_known_as(cell), []).append(cell)
    return found


def _known_as(cell: MeasuredCell) -> Hashable:
    model = cell.model
    if not model.sha256:
        return cell.key, cell.occurrence
    return cell.gpu, cell.cpu_node, cell.cpus, cell.mem_node, model.kind, model.name, cell.settings, cell.occurrence


def _judged(
    compared: Compared,
    effect: Estimate | None,
    changes: Changes,
    adjusted: Mapping[float, float],
    rules: Rules,
    level: Rules,
) -> ComparedCell:
    """adjusted: by p-value, what the correction makes of it. level: with the confidence of the intervals."""
    old, fresh = compared.cell.base, compared.cell.new
    cell = ComparedCell(
        name=fresh[0].name,
        base_outcome=_outcome(old).outcome,
        new_outcome=_outcome(fresh).outcome,
        base_reason=_outcome(old).reason,
        new_reason=_outcome(fresh).reason,
        base_samples_s=_mean([one.throughput_samples_s for one in old]),
        new_samples_s=_mean([one.throughput_samples_s for one in fresh]),
        base_value=_mean([one.value if one.metric else None for one in old]),
        new_value=_mean([one.value if one.metric else None for one in fresh]),
        metric=next((one.metric.primary for one in fresh if one.metric), None),
        changes=changes,
        runs=compared.runs,
    )
    if effect is None:
        return cell
    cell = replace(
        cell,
        **judged(effect, compared.cell.settings, rules.max_repeats),
        effect=math.expm1(effect.mean_log),
        interval=negated(effect.interval),
    )
    holds = effect.p_difference is not None and is_headline(
        cell, effect.mean_log, adjusted[effect.p_difference], level, compared.runs
    )
    return replace(cell, headline=holds)


def _outcome(cells: Cells) -> MeasuredCell:
    """The first that has a throughput, else the first."""
    return next((cell for cell in cells if cell.outcome is Outcome.OK), cells[0])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.geometric_mean(known) if known else None


def _host_warnings(changes: Sequence[FingerprintChange]) -> list[ComparisonWarning]:
    return [_warning(ComparisonWarningKind.HOST_DIFFERS, change=change) for change in changes]


def _warning(kind: ComparisonWarningKind, change: FingerprintChange | None = None, cell: str = "") -> ComparisonWarning:
    warning = ComparisonWarning(kind=kind, change=change, cell=cell)
    return replace(warning, text=comparison_warning_text(warning))


def _as_json(compared: StudyComparison) -> str:
    return json.dumps(plain(compared), indent=1, allow_nan=False)


def _as_csv(compared: StudyComparison) -> str:
    rows = []
    for cell in compared.cells:
        low, high = cell.interval or (None, None)
        rows.append(plain(cell) | {"low": low, "high": high, "unit": cell.metric and cell.metric.unit})
    of_command = any(cell.metric for cell in compared.cells)
    return csv_table((*_CSV_COLUMNS, *_CSV_OF_COMMAND) if of_command else _CSV_COLUMNS, rows).rstrip("\n")


def _warning_texts(warnings: Sequence[ComparisonWarning]) -> list[str]:
    """Each, but cells that only one side has in one line a side."""
    only = {ComparisonWarningKind.ONLY_IN_BASE: "BASE", ComparisonWarningKind.ONLY_IN_NEW: "NEW"}
    texts = [warning.text for warning in warnings if warning.kind not in only]
    for kind, side in only.items():
        names = [warning.cell for warning in warnings if warning.kind is kind]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        texts += [f"only in {side}: {', '.join(names[:_MOST_NAMES])}{more}"] * bool(names)
    return texts


def _as_text(compared: StudyComparison) -> str:
    lines = [f"warning: {text}" for text in _warning_texts(compared.warnings)]
    width = max(len(cell.name) for cell in compared.cells)
    for cell in compared.cells:
        lines.append(f"{cell.name:<{width}}  {verdict_word(cell.verdict) or '-':<9}  {cell.text}")
        for measure, one in cell.changes.items():
            if one.headline:
                lines.append(f"{'':<{width}}  {'':<9}  {MEASURES[measure]} {one.text}")
        if cell.hint:
            lines.append(f"{'':<{width}}  {'':<9}  {cell.hint}")
    lines.append(compared.unit)
    return "\n".join(lines)
