"""report.md: the answer and the table of cells, to be pasted into an issue; and a comment on a pull request."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence

from bench.analysis.load import measured_at
from bench.records.results import Results
from bench.records.run import Outcome
from bench.report.page import all_findings
from bench.report.recipes import decided
from bench.report.tables import cells_rows
from bench.report.text.answer import answers, cards
from bench.report.text.axes import what_matters
from bench.report.text.cells import outcome_text
from bench.report.text.crossing import birth_text, crossed, crossed_text, interaction_text
from bench.report.text.fastest import fastest_findings
from bench.report.text.glossary import GLOSSARY, MODEL_NAME
from bench.report.text.headline import headline
from bench.report.text.trust import concerns, notes, trust_items
from bench.report.view import View
from bench.units import listed, plural, timestamp

MOST_NAMED = 3
# Of GPUs, and of findings, in a comment on a pull request.
MOST_LINES = 8


def markdown(results: Results) -> str:
    """Plain GitHub-flavoured Markdown; text from outside is escaped."""
    view = View(results)
    lines = [f"# {_safe(results.study_name)}", ""]
    if results.study.question:
        lines += [_safe(results.study.question), ""]
    lines += [f"> **{_safe(note)}**\n" for note in notes(view)]
    if found := headline(view):
        lines += [f"**{_safe(found.title)}.** {_safe(' '.join(found.lines))}", ""]
    lines += [f"Host {_safe(results.host)}, measured {timestamp(measured_at(results))} UTC.", ""]
    # As on the page: without penalties the settings are the subject of the study.
    first, second = (_answers, _settings) if results.penalties else (_settings, _answers)
    lines += [*first(view), *second(view)]
    lines += [*_to_paste(view), *_model_names(view)]
    lines += _crossed(view)
    lines += ["Trust: " + "; ".join(f"{item.figure} {item.label}" for item in trust_items(results)) + ".", ""]
    lines += [f"- {_safe(one.title)}: {_safe(one.text)}{_named(one.runs)}" for one in concerns(results)] + [""]
    heads, rows = cells_rows(results.cells)
    lines += ["| " + " | ".join(map(_safe, heads)) + " |", "|" + "---|" * 2 + "---:|" * (len(heads) - 3) + "---|"]
    lines += ["| " + " | ".join(map(_safe, row)) + " |" for row in rows]
    failed = [cell for cell in results.cells if cell.outcome is not Outcome.OK]
    if failed:
        lines += ["", "## Not ok", ""]
        lines += [
            f"- `{cell.name}`: **{_safe(outcome_text(cell))}**: {_safe(cell.reason)}"
            + (f" To do: {_safe(cell.advice)}." if cell.advice else "")
            for cell in failed
        ]
    return "\n".join(lines) + "\n"


def pull_request(results: Results) -> str:
    """What a reader of a pull request needs: the answer, what matters, what failed; at most some 30 lines."""
    view = View(results)
    lines = [f"### {_safe(results.study_name)}", ""]
    lines += [f"> **{_safe(note)}**\n" for note in notes(view)]
    if head := headline(view):
        lines += [f"**{_safe(head.title)}**", ""]
    found = [f"- **{answer.device}**: {_safe(answer.sentence)}" for answer in cards(answers(view))]
    swept = all_findings(view)
    matters = [f"- {_safe(one.lead)}" for one in [*fastest_findings(results), *swept]]
    lines += [*_first(found, "GPU"), *_first(matters, "finding"), ""]
    failed = [cell for cell in results.cells if cell.outcome is not Outcome.OK]
    if failed:
        outcomes = Counter(outcome_text(cell) for cell in failed)
        names = ", ".join(f"`{cell.name}`" for cell in failed[:MOST_NAMED])
        text = ", ".join(f"{number} {_safe(outcome)}" for outcome, number in outcomes.items())
        lines += [f"Not ok: {text} ({names}{' and others' if len(failed) > MOST_NAMED else ''}).", ""]
    lines += ["; ".join(f"{item.figure} {item.label}" for item in trust_items(results)) + ".", ""]
    lines += [f"<sub>numastudy on {_safe(results.host)}, {timestamp(measured_at(results))} UTC</sub>"]
    return "\n".join(lines)


def _first(lines: list[str], what: str) -> list[str]:
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"- {plural(more, f'more {what}')} in the report"]


def _answers(view: View) -> list[str]:
    lines = []
    for answer in cards(answers(view)):
        name = f" ({_safe(answer.name)})" if answer.name else ""
        lines.append(f"- **{answer.device}**{name}: {_safe(answer.sentence)}")
        if answer.command:
            lines.append(f"  - {_safe(answer.open)} `{answer.command}`")
    return [*lines, ""]


def _to_paste(view: View) -> list[str]:
    """The lines of the first tool; `numastudy advise` has those of the others."""
    found, about = decided(view)
    if not found:
        return []
    first, run = found[0], shlex.quote(view.results.run_directory)
    lines = [" ".join(filter(None, (about, first.note))), "", "```sh", first.lines, "```", ""]
    if others := [one.tool for one in found[1:]]:
        lines += [f"For {listed(others)}: `numastudy advise {run} --format {others[0].lower()}`", ""]
    return lines


def _model_names(view: View) -> list[str]:
    if not any(not cell.model.command and cell.model.kind == "vit" for cell in view.results.cells):
        return []
    return [f"Names of models, such as {MODEL_NAME}: {GLOSSARY[MODEL_NAME]}", ""]


def _settings(view: View) -> list[str]:
    found = all_findings(view)
    if not found:
        return []
    lines = [f"**{_safe(what_matters(found))}**", ""]
    for one in [*fastest_findings(view.results), *found]:
        lines += [f"- {_safe(one.lead)}", *(f"  - {_safe(line)}" for line in one.lines)]
    return [*lines, ""]


def _crossed(view: View) -> list[str]:
    """What was measured inside the same processes."""
    entries = crossed(view.results.penalties)
    if not entries:
        return []
    lines = ["## In the same process", ""]
    rules, groups = view.results.rules, view.results.cpu_groups
    for entry in entries:
        remote = view.cells[entry.remote_cell]
        lines.append(f"- {view.device(remote)}, {_safe(view.series(remote))}: {_safe(crossed_text(entry, groups))}")
        lines += [f"  - {_safe(birth_text(birth, rules, groups))}" for birth in entry.births]
        lines += [f"  - {_safe(interaction_text(birth, rules, groups))}" for birth in entry.births]
    return [*lines, ""]


def _named(runs: Sequence[str]) -> str:
    if not runs:
        return ""
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    return f" ({', '.join(map(_safe, runs[:MOST_NAMED]))}{more})"


def _safe(text: str) -> str:
    """One line without markup: characters that Markdown or HTML would read as such are escaped."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", line)
