"""What changed between two studies: each cell of NEW against the cell of BASE with the same settings."""

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from bench.analysis import latency
from bench.analysis.crossing import design_of
from bench.analysis.load import load, read_results, read_results_file
from bench.analysis.pairs import class_of, runs_that_count, throughputs
from bench.analysis.statistics import Estimate, Sample, estimate, holm, unpaired
from bench.analysis.verdicts import judge, judged
from bench.errors import StudyError
from bench.host.fingerprint import fingerprint_changes
from bench.records.base import plain
from bench.records.host import Fingerprint, FingerprintChange
from bench.records.nightly import ComparedCell, ComparisonWarning, ComparisonWarningKind, StudyComparison
from bench.records.results import Changes, Measure, MeasuredCell, Results, Rules, Verdict
from bench.report.tables import csv_table
from bench.report.text.studies import UNIT, comparison_warning_text, with_text
from bench.report.text.verdicts import MEASURES

EXIT_SLOWER = 3
# On other hardware a difference says nothing about the software. Everything else is compared on purpose.
_HARDWARE = ("machine", "cpu", "gpus")
_CSV_OF_COMMAND = ("base_value", "new_value", "unit")
_CSV_COLUMNS = ("name", "verdict", "effect", "low", "high", "base_samples_s", "new_samples_s", "text", "hint")
_RULES = Rules()
_ADVICE = "name a run directory, or its results.json"
Pair = tuple[MeasuredCell, MeasuredCell]


@dataclass(frozen=True)
class HostDifferences:
    """incomparable: other hardware or another device. notable: whatever else differs."""

    incomparable: tuple[FingerprintChange, ...]
    notable: tuple[FingerprintChange, ...]


def compare_command(
    base: str, new: str, output: str = "text", rules: Rules = _RULES, force: bool = False
) -> tuple[str, int]:
    """(what to print, exit code): the work of `numastudy compare BASE NEW`. output: text, json or csv.

    Raises StudyError for places without results, and for hosts that cannot be compared unless forced.
    """
    compared = compare(results_at(Path(base)), results_at(Path(new)), rules, force)
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


def compare(base: Results, new: Results, rules: Rules = _RULES, force: bool = False) -> StudyComparison:
    """Cells with the same settings against each other, as two independent groups of runs.

    The runs of two studies were not measured side by side: block r of one has nothing to do with block r of the
    other. Whatever differs between the two times is therefore part of the effect. Intervals are Welch's; headline:
    the difference holds after Holm's correction over the cells compared and their latencies.
    Raises StudyError if the studies ran on different hardware (unless forced) or have no cell in common.
    """
    differences = host_differences(base.device, base.fingerprint, new.device, new.fingerprint)
    if differences.incomparable and not force:
        texts = (warning.text for warning in _host_warnings(differences.incomparable))
        raise StudyError(
            "these studies ran on different machines: " + "; ".join(texts),
            "fingerprint",
            "compare studies of one machine, or add --force to compare them anyway",
        )
    matched, unmatched = _matched(base.cells, new.cells)
    if not matched:
        raise StudyError("no cell of the two studies has the same settings", "compare", "run the same study twice")
    samples = [_sample(*pair) for pair in matched]
    # Either study may have been ended by its own intervals.
    confidence = max(rules.confidence, base.rules.confidence, new.rules.confidence)
    known = [sample for sample in samples if sample]
    found = estimate(known, confidence, rules.margin)
    level = replace(rules, confidence=confidence)
    estimated = latency.changes([_other_samples(*pair) for pair in matched], level)
    others = [
        latency.judged_changes(own, fresh.settings, level, "processes")
        for own, (_, fresh) in zip(estimated, matched, strict=True)
    ]
    every = [*(one.p_difference for one in found), *(p for own in others for p in latency.p_values(own))]
    p_values = [p for p in every if p is not None]
    adjusted = dict(zip(p_values, holm(p_values), strict=True))
    estimates = iter(found)
    cells = []
    for sample, pair, own in zip(samples, matched, others, strict=True):
        one = next(estimates) if sample else None
        holds = bool(one and one.p_difference is not None and adjusted[one.p_difference] <= 1 - confidence)
        cells.append(_compared(one, *pair, rules, holds, latency.corrected(own, adjusted, level)))
    warnings = [*_host_warnings(differences.incomparable), *_host_warnings(differences.notable)]
    if not (plain(base.fingerprint) and plain(new.fingerprint)):
        warnings.append(_warning(ComparisonWarningKind.NO_FINGERPRINT))
    if _is_same_study(base, new):
        warnings.append(_warning(ComparisonWarningKind.SAME_STUDY))
    if any(design_of(old) is not design_of(fresh) for old, fresh in matched):
        warnings.append(_warning(ComparisonWarningKind.DESIGN_DIFFERS))
    return StudyComparison(
        margin=rules.margin,
        max_repeats=rules.max_repeats,
        cells=tuple(with_text(cell, rules, len(p_values)) for cell in cells),
        warnings=(*warnings, *unmatched),
        unit=UNIT,
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


def _matched(base: Sequence[MeasuredCell], new: Sequence[MeasuredCell]) -> tuple[list[Pair], list[ComparisonWarning]]:
    """Cells by key (a hash of the settings) and occurrence; then a warning for each that has no counterpart.

    Models from elsewhere are compared where their program changed too: that is why someone compares them.
    """
    old, fresh = ({_known_as(cell): cell for cell in cells} for cells in (base, new))
    changed = (
        fresh[known_as].name
        for known_as, cell in old.items()
        if known_as in fresh and fresh[known_as].model.sha256 != cell.model.sha256
    )
    only_base = (cell.name for known_as, cell in old.items() if known_as not in fresh)
    only_new = (cell.name for known_as, cell in fresh.items() if known_as not in old)
    unmatched = [_warning(ComparisonWarningKind.ONLY_IN_BASE, cell=name) for name in only_base]
    unmatched += [_warning(ComparisonWarningKind.ONLY_IN_NEW, cell=name) for name in only_new]
    unmatched += [_warning(ComparisonWarningKind.PROGRAM_DIFFERS, cell=name) for name in changed]
    return [(cell, fresh[known_as]) for known_as, cell in old.items() if known_as in fresh], unmatched


def _known_as(cell: MeasuredCell) -> Hashable:
    model = cell.model
    if not model.sha256:
        return cell.key, cell.occurrence
    return cell.gpu, cell.cpu_node, cell.mem_node, model.kind, model.name, cell.settings, cell.occurrence


def _sample(old: MeasuredCell, fresh: MeasuredCell) -> Sample | None:
    sides = [list(throughputs(cell).values()) for cell in (old, fresh)]
    return unpaired(fresh.name, class_of(old, fresh), *sides) if all(sides) else None


def _other_samples(old: MeasuredCell, fresh: MeasuredCell) -> latency.Samples:
    return latency.unpaired_samples(fresh.name, old, fresh, [runs_that_count(cell) for cell in (old, fresh)])


def _compared(
    estimated: Estimate | None, old: MeasuredCell, fresh: MeasuredCell, rules: Rules, holds: bool, changes: Changes
) -> ComparedCell:
    cell = ComparedCell(
        name=fresh.name,
        base_outcome=old.outcome,
        new_outcome=fresh.outcome,
        base_reason=old.reason,
        new_reason=fresh.reason,
        base_samples_s=old.throughput_samples_s,
        new_samples_s=fresh.throughput_samples_s,
        base_value=old.value if old.metric else None,
        new_value=fresh.value if fresh.metric else None,
        metric=fresh.metric.primary if fresh.metric else None,
        changes=changes,
    )
    if estimated is None:
        return cell
    judgement = judge(estimated, fresh.settings, rules.max_repeats)
    return replace(
        cell,
        **judged(estimated, judgement),
        effect=math.expm1(estimated.mean_log),
        interval=estimated.interval and (-estimated.interval[1], -estimated.interval[0]),
        headline=judgement.differs and holds,
    )


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


def _as_text(compared: StudyComparison) -> str:
    lines = [f"warning: {warning.text}" for warning in compared.warnings]
    width = max(len(cell.name) for cell in compared.cells)
    for cell in compared.cells:
        lines.append(f"{cell.name:<{width}}  {cell.verdict or '-':<14}  {cell.text}")
        for measure, one in cell.changes.items():
            if one.headline:
                lines.append(f"{'':<{width}}  {'':<14}  {MEASURES[measure]} {one.text}")
        if cell.hint:
            lines.append(f"{'':<{width}}  {'':<14}  {cell.hint}")
    lines.append(compared.unit)
    return "\n".join(lines)
