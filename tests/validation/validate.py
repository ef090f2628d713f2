"""Measure every promise of the statistics, print the table, and write it into docs/validity_figures.md.

The positive controls need a GPU and an idle machine: their section is made anew from the figures that are kept.

    python tests/validation/validate.py [--studies 2000] [--no-docs]

Exit code 1 if a promise is not kept.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from tests.validation import control_page, crossed, nights, statements, through_commands
from tests.validation.goals import GOALS, Figure, measured

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "validity_figures.md"
CONTROLS = sorted((ROOT / "docs" / "reference").glob("positive_controls_*.json"))
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
NIGHTS_BEGIN, NIGHTS_END = "<!-- nights: begin -->", "<!-- nights: end -->"
CROSSED_BEGIN, CROSSED_END = "<!-- crossings: begin -->", "<!-- crossings: end -->"
COMMANDS_BEGIN, COMMANDS_END = "<!-- commands: begin -->", "<!-- commands: end -->"
STATEMENTS_BEGIN, STATEMENTS_END = "<!-- statements: begin -->", "<!-- statements: end -->"
QUICK_STUDIES = 6
CONTROLS_BEGIN, CONTROLS_END = "<!-- controls: begin -->", "<!-- controls: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a figure (default 1000)")
    parser.add_argument("--no-docs", action="store_true", help="print only")
    parser.add_argument("--controls", action="store_true", help="only the section of the positive controls")
    parser.add_argument("--crossings", action="store_true", help="only the section of the crossings")
    parser.add_argument("--nights", action="store_true", help="only the section of the nights")
    parser.add_argument("--commands", action="store_true", help="only the section of the commands")
    parser.add_argument("--quick", action="store_true", help="a small part, which writes no page: below five minutes")
    parser.add_argument("--statements", action="store_true", help="only the section of the statements")
    parser.add_argument("--years", type=int, default=20, help="simulated years of nights a row (default 20)")
    options = parser.parse_args()
    if options.quick:
        tasks = [*through_commands.goals(QUICK_STUDIES), *nights.goals(1)]
        return 0 if _write(measured(tasks), "", PAGE, True, "", "") else 1
    if options.controls:
        write_controls(PAGE, CONTROLS)
        return 0
    if options.crossings:
        return 0 if write_crossings(PAGE, options.studies, options.no_docs) else 1
    if options.commands:
        return 0 if write_commands(PAGE, options.studies, options.no_docs) else 1
    if options.nights:
        return 0 if write_nights(PAGE, options.years, options.no_docs) else 1
    if options.statements:
        return 0 if write_statements(PAGE, options.studies, options.no_docs) else 1
    started, figures = time.monotonic(), []
    for goal in GOALS:
        for figure in goal(options.studies):
            figures.append(figure)
            print(line(figure), flush=True)
    kept = all(figure.ok is not False for figure in figures)
    print(f"{len(figures)} figures in {time.monotonic() - started:.0f} s: {'all kept' if kept else 'NOT KEPT'}")
    if not options.no_docs:
        write_page(PAGE, section(figures, f"{options.studies} simulated studies"))
        write_controls(PAGE, CONTROLS)
    kept = write_crossings(PAGE, options.studies, options.no_docs) and kept
    kept = write_commands(PAGE, options.studies, options.no_docs) and kept
    kept = write_nights(PAGE, options.years, options.no_docs) and kept
    kept = write_statements(PAGE, options.studies, options.no_docs) and kept
    return 0 if kept else 1


def line(figure: Figure) -> str:
    return f"{mark(figure):8s} {figure.promise:38s} {figure.case:48s} {formatted(figure):>16s}  {figure.goal}"


def section(figures: Iterable[Figure], of_what: str) -> str:
    """of_what: how many of what were simulated for each figure."""
    rows = [
        f"`make validate` with {of_what} a figure; Python {platform.python_version()}, "
        f"numpy {version('numpy')}, scipy {version('scipy')}.",
        "",
        "| promise | case | measured | goal | |",
        "|---|---|---|---|---|",
    ]
    rows += [f"| {one.promise} | {one.case} | {formatted(one)} | {one.goal or '-'} | {mark(one)} |" for one in figures]
    return "\n".join(rows)


def formatted(figure: Figure) -> str:
    if figure.promise.startswith(("interval width", "nights: cells measured again")):
        return f"{figure.value:.2f}"
    digits = 3 if figure.promise.startswith(("bias", "the same")) else 1
    error = f" ± {100 * figure.error:.1f}" if figure.error else ""
    return f"{100 * figure.value:.{digits}f}{error} %"


def mark(figure: Figure) -> str:
    return "" if figure.ok is None else "kept" if figure.ok else "NOT KEPT"


def write_controls(page: Path, figures: Iterable[Path]) -> None:
    """One section for each GPU measured."""
    sections = [control_page.section(json.loads(file.read_bytes())) for file in figures]
    write_page(page, "\n\n".join(sections), CONTROLS_BEGIN, CONTROLS_END)


def write_crossings(page: Path, studies: int, no_docs: bool) -> bool:
    """Whether all was kept."""
    return _write(crossed.figures(studies), f"{studies} simulated studies", page, no_docs, CROSSED_BEGIN, CROSSED_END)


def write_commands(page: Path, studies: int, no_docs: bool) -> bool:
    """Whether all was kept."""
    number = max(QUICK_STUDIES, studies // 20)
    figures = measured(through_commands.goals(number))
    return _write(figures, f"{number} simulated studies", page, no_docs, COMMANDS_BEGIN, COMMANDS_END)


def write_statements(page: Path, studies: int, no_docs: bool) -> bool:
    """Whether all was kept."""
    figures, what = measured(statements.tasks(studies)), f"{studies} simulated studies, of the costly goals fewer,"
    return _write(figures, what, page, no_docs, STATEMENTS_BEGIN, STATEMENTS_END)


def write_nights(page: Path, years: int, no_docs: bool) -> bool:
    """Whether all was kept."""
    return _write(measured(nights.goals(years)), f"{years} simulated years", page, no_docs, NIGHTS_BEGIN, NIGHTS_END)


def _write(figures: Iterable[Figure], of_what: str, page: Path, no_docs: bool, begin: str, end: str) -> bool:
    known = []
    for figure in figures:
        known.append(figure)
        print(line(figure), flush=True)
    if not no_docs:
        write_page(page, section(known, of_what), begin, end)
    return all(figure.ok is not False for figure in known)


def write_page(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    whole = page.read_text()
    before, rest = whole.split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    sys.exit(main())
