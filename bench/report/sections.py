"""The tables of the page as values: the templates have no logic, and no markup is here."""

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from msgspec.structs import asdict

from bench.analysis.bound import CopyState, copy_state
from bench.analysis.load import RunData
from bench.analysis.noise_floor import evaluate
from bench.records.command import Arguments, Command
from bench.records.results import Contrast, Measure, MeasuredCell, Term
from bench.records.run import Outcome, Versions
from bench.records.trace import Metrics
from bench.report.tables import columns, display_row
from bench.report.text.answer import Answer, Loss
from bench.report.text.cells import (
    bound_reason,
    clocks_text,
    hidden_copies_text,
    outcome_text,
    remarks,
)
from bench.report.text.crossing import birth_text, crossed, crossed_text, interaction_text
from bench.report.text.deciding import Cells, hint_groups, penalty_text
from bench.report.text.scale import scale_of
from bench.report.text.traces import traces_text
from bench.report.text.trust import drift_text, fingerprint_facts, method_text
from bench.report.text.verdicts import MEASURES, change_text, disturbed_text, verdict_text, verdict_word
from bench.report.view import View, place_of
from bench.study.command import COMMAND_SETTINGS
from bench.study.settings import SETTINGS
from bench.units import DASH, duration, grouped, microseconds, percent, rate, signed_percent, signed_share

TOP_KERNELS = 8
Row = dict[str, Any]
# (label, href)
Href = tuple[str, str]
_FORMATS = {"CSV": "results.csv", "JSON": "results.json", "SQLite": "results.db", "Markdown": "report.md"}
_TERM_HEADS = {Term.H2D: "copy in", Term.D2H: "copy out"}
_COPY_STATES = {CopyState.CPU_PACED: "CPU sets the pace"}
# Columns of a row of cells that come from its trace.
_FROM_TRACE = ("H2D GB/s", "D2H GB/s", "efficiency")


class RunFiles:
    """Relative links to the files beside the page, only to those that exist; the directory is listed once."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    @cached_property
    def _present(self) -> set[str]:
        folders = ("runs", "logs", "nsys_reports", "latency", "links")
        found = {file.name for file in self._run_dir.iterdir()} if self._run_dir.is_dir() else set()
        for folder in folders:
            if (self._run_dir / folder).is_dir():
                found |= {f"{folder}/{file.name}" for file in (self._run_dir / folder).iterdir()}
        return found

    def href(self, path: str) -> str | None:
        """None if there is no such file."""
        return quote(path) if path in self._present else None

    def of_results(self) -> list[Href]:
        """The same results in other formats."""
        return self._existing(_FORMATS)

    def of_run(self, run: str, log: str = "") -> list[Href]:
        """A run's record and logs; the runs of a crossing share those of their process."""
        log = log or run
        return self._existing(
            {"record": f"runs/{run}.json", "stdout": f"logs/{log}.stdout", "stderr": f"logs/{log}.stderr"}
        )

    def of_trace(self, cell: str) -> list[Href]:
        """A cell's trace, its export and its metrics."""
        traces = {"nsys-rep": f"nsys_reports/{cell}.nsys-rep", "torch trace": f"nsys_reports/{cell}.torch.json.gz"}
        return self._existing(traces | {"sqlite": f"nsys_reports/{cell}.sqlite", "metrics": f"latency/{cell}.json"})

    def _existing(self, paths: dict[str, str]) -> list[Href]:
        return [(label, href) for label, path in paths.items() if (href := self.href(path))]


@dataclass(frozen=True)
class Page:
    """What the sections of one page are made from."""

    view: View
    data: RunData
    files: RunFiles
    answers: list[Answer]


def _log(page: Page, run: str) -> str:
    record = page.data.runs.get(run)
    return record.log if record else ""


def _who(view: View, cell: MeasuredCell) -> Row:
    return {
        "cell": cell.name,
        "model": view.series(cell),
        "device": view.device(cell),
        "node": view.label(place_of(cell)),
    }


# Penalties


def penalty_rows(page: Page) -> list[Row]:
    """One row for each comparison, those that could not be made included."""
    view = page.view
    losses: dict[str, Loss] = {loss.cell: loss for answer in page.answers for loss in answer.losses}
    rows = []
    for entry in view.results.penalties:
        loss, scale = losses.get(entry.remote_cell), scale_of(view.cells[entry.remote_cell].metric)
        rows.append(
            _who(view, view.cells[entry.remote_cell])
            | {
                "local_node": view.label(place_of(view.cells[entry.local_cell])),
                "local_cell": entry.local_cell,
                "figure": signed_share(loss.share, loss.interval) if loss else DASH,
                "verdict": verdict_word(entry.verdict),
                "probable": entry.is_probable,
                "text": penalty_text(view.results, entry, scale),
                "disturbed": disturbed_text(entry),
                "detectable": percent(scale.share(entry.mde)) if entry.mde and not entry.is_uninformative else DASH,
                "pairs": entry.pairs,
                "regime": metrics.regime if (metrics := view.cells[entry.local_cell].metrics) else DASH,
            }
        )
    return rows


def penalty_hints(view: View) -> list[tuple[str, Cells]]:
    """What would decide those that are undecided."""
    found = [(entry, view.cells[entry.remote_cell]) for entry in view.results.penalties]
    return hint_groups(
        view.results, [(one, f"{view.series(cell)}, {view.row(cell)}", cell.name) for one, cell in found]
    )


def measures(view: View) -> list[Measure]:
    """Of latency and steadiness, those that any comparison has: a command has its own latencies."""
    return [one for one in MEASURES if any(one in entry.changes for entry in view.results.penalties)]


def change_rows(view: View) -> list[Row]:
    """Latency and steadiness of each comparison that has them."""
    shown = measures(view)
    return [
        _who(view, view.cells[entry.remote_cell])
        | {"changes": [change_text(entry.changes[one]) if one in entry.changes else DASH for one in shown]}
        for entry in view.results.penalties
        if entry.changes
    ]


def crossed_rows(view: View) -> list[Row]:
    """What was measured inside the same processes, and what the start of a process adds."""
    rules, groups = view.results.rules, view.results.cpu_groups
    return [
        _who(view, view.cells[entry.remote_cell])
        | {
            "text": crossed_text(entry, groups),
            "births": [birth_text(birth, rules, groups) for birth in entry.births],
            "interactions": [interaction_text(birth, rules, groups) for birth in entry.births],
        }
        for entry in crossed(view.results.penalties)
    ]


def effect_rows(view: View) -> list[Row]:
    """CPU part, memory part and interaction, where a study has all four placements."""
    return [
        _who(view, view.cells[entry.remote_cell])
        | {
            "effects": [
                verdict_text(
                    entry.effects[part],
                    entry.effects[part].penalty,
                    view.results.rules,
                    scale_of(view.cells[entry.remote_cell].metric),
                )
                for part in Contrast
            ]
        }
        for entry in view.results.penalties
        if entry.effects
    ]


def prediction_rows(view: View) -> list[Row]:
    return [
        _who(view, view.cells[one.remote_cell])
        | {
            "bracket": f"{percent(one.low)} to {percent(one.high)}",
            "observed": signed_share(
                view.penalties[one.remote_cell].penalty or 0.0, view.penalties[one.remote_cell].interval
            ),
            "agrees": one.agrees,
        }
        for one in view.results.predictions
    ]


def twin_lines(view: View) -> list[str]:
    """A model listed twice, against itself."""
    measured = [cell for cell in view.results.cells if cell.value]
    rules = view.results.rules
    found = [(view.cells[entry.cells[0]], entry) for entry in evaluate(measured, rules.margin).comparisons]
    return [
        f"{view.series(cell)}: {verdict_text(entry, entry.penalty, rules, scale_of(cell.metric))}"
        for cell, entry in found
    ]


# Bound and clocks


def bound_terms(view: View) -> list[Term]:
    """Those that any cell has."""
    found = {term for cell in view.results.cells if cell.bound for term in cell.bound.terms_us}
    return [term for term in Term if term in found]


def bound_heads(view: View) -> list[str]:
    return [_TERM_HEADS.get(term, str(term)) for term in bound_terms(view)]


def bound_rows(view: View) -> list[Row]:
    """Cells whose stages were measured in isolation: terms of the bound, both efficiencies, regime, and the copy."""
    terms = bound_terms(view)
    return [
        _who(view, cell)
        | {
            "terms": [(microseconds(bound.terms_us.get(term)), term is bound.limit) for term in terms],
            "bound": microseconds(bound.bound_us),
            "batch": microseconds(bound.batch_us),
            "solo": percent(cell.efficiency_solo),
            "reason": bound_reason(cell),
            "in_situ": percent(cell.metrics.pipeline_efficiency if cell.metrics else None),
            "regime": cell.metrics.regime if cell.metrics else DASH,
            "copy_state": _COPY_STATES.get(state := copy_state(bound.terms_us), str(state)),
        }
        for cell in view.results.cells
        if (bound := cell.bound)
    ]


def crossings(view: View) -> list[tuple[str, str, str]]:
    """(label, cell, sentence) for each model measured at several batch sizes."""
    found = []
    for group in view.results.hidden_copies:
        if len(group.cells) > 1:
            cell = view.cells[group.cells[0]]
            label = f"{cell.model.name}, {view.device(cell)}, {view.label(place_of(cell))}"
            found.append((label, cell.name, hidden_copies_text(group)))
    return found


def clock_rows(view: View) -> list[Row]:
    return [
        _who(view, cell)
        | {
            "traced": percent(cell.perturbation, 3),
            "perturbed": not clocks.events_comparable,
            "host": signed_percent(clocks.host_over_trace - 1),
            "events": signed_percent(clocks.events_over_trace - 1 if clocks.events_over_trace else None),
            "text": clocks_text(clocks),
            "disagree": clocks.host_differs or clocks.events_differ,
        }
        for cell in view.results.cells
        if (clocks := cell.clocks) and clocks.host_over_trace and cell.perturbation
    ]


# Cells and runs


def cell_columns(view: View) -> list[str]:
    """The numbers of a row of cells; without a trace no column that would be empty."""
    numbers = list(columns(view.results.cells)[2:-1])
    if view.is_command:
        return numbers
    if any(cell.waited_share is not None for cell in view.results.cells):
        numbers.append("waited")
    if view.is_untraced:
        return [*(column for column in numbers if column not in _FROM_TRACE), "solo"]
    return [*numbers, "solo", "traced"]


def cell_rows(view: View) -> list[Row]:
    """The numbers in the order of cell_columns."""
    shown = cell_columns(view)
    rows = []
    for cell in view.results.cells:
        numbers = display_row(cell)
        numbers |= {"solo": percent(cell.efficiency_solo), "traced": percent(cell.perturbation)}
        numbers["waited"] = percent(cell.waited_share)
        rows.append(
            _who(view, cell)
            | {
                "outcome": cell.outcome,
                "outcome_text": outcome_text(cell),
                "numbers": [numbers.get(column, DASH) for column in shown],
                "regime": cell.metrics.regime if cell.metrics else DASH,
                "remarks": len(remarks(cell)),
                "perturbed": bool(cell.perturbation is not None and cell.clocks and not cell.clocks.events_comparable),
            }
        )
    return rows


def failure_groups(page: Page) -> list[Row]:
    """Cells that are not ok; those with the same outcome, reason and log in one group, only missing ones last."""
    groups: dict[tuple[object, ...], Row] = {}
    for cell in page.view.results.cells:
        if cell.outcome is Outcome.OK:
            continue
        text = outcome_text(cell)
        group = groups.setdefault(
            (cell.outcome, cell.reason, cell.advice, cell.log_tail, text),
            {
                "outcome": cell.outcome,
                "outcome_text": text,
                "reason": cell.reason,
                "advice": cell.advice,
                "log_tail": cell.log_tail,
                "cells": [],
            },
        )
        run = cell.failed_run or cell.name
        group["cells"].append((cell.name, run, page.files.of_run(run, _log(page, run))))
    return sorted(groups.values(), key=lambda group: group["outcome"] is Outcome.MISSING)


def run_groups(page: Page) -> list[Row]:
    """Every run of every cell with its links."""
    return [
        {
            "name": cell.name,
            "outcome": cell.outcome,
            "outcome_text": outcome_text(cell),
            "runs": [
                {
                    "run": run.run,
                    "repeat": run.repeat,
                    "status": run.status,
                    "throughput": rate(run.value),
                    "placement": (run.placement or DASH).replace("_", " "),
                    "disturbed": run.disturbed,
                    "position": DASH if run.position is None else run.position,
                    "wall": duration(run.wall_s),
                    "links": page.files.of_run(run.run, _log(page, run.run)),
                }
                for run in cell.runs
            ],
            "links": page.files.of_trace(cell.name),
            "remarks": remarks(cell),
            "kernels": kernel_rows(cell.metrics),
        }
        for cell in page.view.results.cells
    ]


def kernel_rows(metrics: Metrics | None) -> list[tuple[str, str, str, str]]:
    """(name, calls, time of one, share of the window) of the kernels that took most time."""
    if metrics is None:
        return []
    return [
        (
            kernel.name,
            grouped(kernel.calls),
            microseconds(kernel.total_ns / kernel.calls / 1e3),
            percent(kernel.total_ns / metrics.window_ns),
        )
        for kernel in metrics.top_kernels[:TOP_KERNELS]
    ]


def run_times(view: View) -> list[Row]:
    """By series: number of runs, median wall time of a timed and of a traced run, wall time of all."""
    rows = []
    for series, cells in view.by_series(view.results.cells).items():
        walls_s = [
            (run.repeat == "traced", run.wall_s) for cell in cells for run in cell.runs if run.wall_s is not None
        ]
        kinds = [[wall_s for is_traced, wall_s in walls_s if is_traced is traced] for traced in (False, True)]
        timed, traced = (duration(median(kind)) if kind else DASH for kind in kinds)
        total = duration(sum(wall_s for _, wall_s in walls_s))
        rows.append({"model": series, "runs": len(walls_s), "timed": timed, "traced": traced, "total": total})
    return rows


def method(page: Page) -> Row:
    """Versions, seed, order, command lines, fingerprint."""
    results, runs = page.view.results, page.data.runs
    command = results.study.command
    study = {
        key.replace("_", " "): value
        for key, value in asdict(results.study).items()
        if key not in ("name", "question", "command")
        and not isinstance(value, list | tuple | dict)
        # Those of the pipeline apply to no command.
        and value not in ("", None)
        and (not command or key not in SETTINGS or key in COMMAND_SETTINGS)
    } | {key: shlex.join(argv) for key, argv in _started(command).items() if argv}
    versions = next((run.result.versions for run in runs.values() if run.result), Versions())
    return {
        "text": method_text(results),
        "drift": drift_text(results.drift),
        "traces": traces_text(results.cells),
        "study": study,
        "versions": {key: value for key, value in asdict(versions).items() if value},
        "fingerprint": fingerprint_facts(results.fingerprint),
        "commands": _commands(page.data),
        # The grid also has slots for runs that nothing asked for.
        "order": [f"{slot.cell} {slot.repeat}" for slot in page.data.order if slot.run in runs],
        "seed": results.study.seed,
        "run_directory": results.run_directory,
    }


def _started(command: Command | None) -> dict[str, Arguments]:
    return {"command": command.run, "server": command.server} if command else {}


def _commands(data: RunData) -> list[tuple[str, str, str]]:
    """(kind, run, line) of the first timed and the first traced run that has one."""
    found: dict[str, tuple[str, str, str]] = {}
    for run in sorted(data.runs.values(), key=lambda run: run.position or 0):
        kind = "Timed run" if run.timed else "Traced run"
        if run.command:
            found.setdefault(kind, (kind, run.run, " ".join(run.command)))
    return list(found.values())
