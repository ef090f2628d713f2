"""report.md: the answer and the table of cells, to be pasted into an issue."""

import re
from typing import Any

from bench.legacy.load import measured_at
from bench.report.axes import findings, what_matters
from bench.report.tables import COLUMNS, display_row
from bench.report.text import answers, cards, doubts, fastest_ways, notes, trust_items

Record = dict[str, Any]
MOST_NAMED = 3


def markdown(results: Record) -> str:
    """Plain GitHub-flavoured Markdown; what came from outside is escaped."""
    lines = [f"# {_safe(results['study_name'])}", ""]
    if question := results["study"].get("question"):
        lines += [_safe(question), ""]
    lines += [f"> **{_safe(note)}**\n" for note in notes(results)]
    host = results["host"].get("name", "")
    lines += [f"Host {_safe(host)}, measured {_safe(measured_at(results))}.", ""]
    # As on the page: without penalties the settings are what the study is about.
    first, second = (_placed, _swept) if results["penalties"] else (_swept, _placed)
    lines += [*first(results), *second(results)]
    lines += [
        "Trust: " + "; ".join(f"{figure} {label}" for figure, label, _ in trust_items(results)) + ".",
        "",
    ]
    lines += [f"- {_safe(doubt.what)}: {_safe(doubt.text)}{_named(doubt.runs)}" for doubt in doubts(results)] + [""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * 2 + "---:|" * (len(COLUMNS) - 3) + "---|"]
    lines += ["| " + " | ".join(map(_safe, display_row(cell))) + " |" for cell in results["cells"]]
    failed = [cell for cell in results["cells"] if cell["outcome"] != "ok"]
    if failed:
        lines += ["", "## Not ok", ""]
        lines += [
            f"- `{cell['name']}`: **{cell['outcome']}**: {_safe(cell['reason'])}"
            + (f" To do: {_safe(cell['advice'])}." if cell["advice"] else "")
            for cell in failed
        ]
    return "\n".join(lines) + "\n"


def _placed(results: Record) -> list[str]:
    lines = []
    for answer in cards(answers(results)):
        name = f" ({_safe(answer.name)})" if answer.name else ""
        lines.append(f"- **{answer.device}**{name}: {_safe(answer.sentence)}")
    return [*lines, ""]


def _swept(results: Record) -> list[str]:
    found = findings(results)
    if not found:
        return []
    lines = [f"**{_safe(what_matters(found))}**", ""]
    for one in [*fastest_ways(results), *found]:
        lines += [f"- {_safe(one.lead)}", *(f"  - {_safe(line)}" for line in one.lines)]
    return [*lines, ""]


def _named(runs: tuple[str, ...]) -> str:
    if not runs:
        return ""
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    return f" ({', '.join(map(_safe, runs[:MOST_NAMED]))}{more})"


def _safe(text: Any) -> str:
    """One line without markup: what Markdown or HTML would read as such is escaped."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", line)
