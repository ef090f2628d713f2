"""Measure every promise of the statistics, print the table, and write it into docs/validity_figures.md.

The positive controls need a GPU and an idle machine: their section is made anew from the figures that are kept.

    python -m tests.validation [--studies 1000] [--years 10] [--crossings ...] [--no-docs]

What was measured by the same code is not measured again (tests/validation/kept.py): a call that was ended is continued
by the same command. Exit code 1 if a promise is not kept.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.validation import control_page, crossed, goals, nights, statements, through_commands
from tests.validation.goals import Figure, Task
from tests.validation.kept import FOLDER, ROOT, measured

PAGE = ROOT / "docs" / "validity_figures.md"
CONTROLS = sorted((ROOT / "docs" / "reference").glob("positive_controls_*.json"))
QUICK_STUDIES = 6


@dataclass(frozen=True)
class Section:
    """A part of the page. size: which option holds how many; divided: that many of them are one study of this part."""

    name: str
    tasks: Callable[[int], Sequence[Task]]
    size: str = "studies"
    divided: int = 1
    least: int = 1


SECTIONS = (
    Section("figures", goals.tasks),
    Section("crossings", crossed.tasks),
    Section("commands", through_commands.tasks, divided=20, least=QUICK_STUDIES),
    Section("nights", nights.tasks, size="years"),
    Section("statements", statements.tasks),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a figure (default 1000)")
    parser.add_argument("--years", type=int, default=10, help="simulated years of nights a row (default 10)")
    parser.add_argument("--no-docs", action="store_true", help="print only")
    parser.add_argument("--keep", type=Path, default=FOLDER, help=f"folder of what was measured (default {FOLDER})")
    parser.add_argument("--processes", type=int, default=2, help="how many measure at once (default 2)")
    parser.add_argument("--quick", action="store_true", help="a small part, which writes no page: below five minutes")
    for name in (*(section.name for section in SECTIONS), "controls"):
        parser.add_argument(f"--{name}", action="store_true", help=f"only the section of the {name}")
    options = parser.parse_args()
    if options.quick:
        quick = _print(
            measured([*through_commands.tasks(QUICK_STUDIES), *nights.tasks(1)], options.keep, options.processes)
        )
        return int(any(figure.ok is False for figure in quick))
    chosen = [section for section in SECTIONS if getattr(options, section.name)]
    kept = True
    for section in chosen or (() if options.controls else SECTIONS):
        number = max(section.least, getattr(options, section.size) // section.divided)
        figures = _print(measured(section.tasks(number), options.keep, options.processes))
        kept = kept and all(figure.ok is not False for figure in figures)
        if not options.no_docs:
            write_page(PAGE, table(figures, f"{number} simulated {section.size}"), section.name)
    if not options.no_docs and not chosen:
        write_controls(PAGE, CONTROLS)
    return 0 if kept else 1


def line(figure: Figure) -> str:
    return f"{mark(figure):8s} {figure.promise:38s} {figure.case:48s} {formatted(figure):>16s}  {figure.goal}"


def table(figures: Iterable[Figure], of_what: str) -> str:
    """of_what: how many of what were simulated for each figure."""
    rows = [
        f"`make validate` with {of_what} a figure, of costly ones fewer; Python {platform.python_version()}, "
        f"numpy {version('numpy')}, scipy {version('scipy')}.",
        "",
        "| promise | case | measured | goal | |",
        "|---|---|---|---|---|",
    ]
    rows += [f"| {one.promise} | {one.case} | {formatted(one)} | {one.goal or '-'} | {mark(one)} |" for one in figures]
    return "\n".join(rows)


def formatted(figure: Figure) -> str:
    if figure.promise.startswith(("interval width", "nights: cells measured again", "nights: nights of a year")):
        return f"{figure.value:.2f}"
    digits = 3 if figure.promise.startswith(("bias", "the same")) else 1
    error = f" ± {100 * figure.error:.1f}" if figure.error else ""
    return f"{100 * figure.value:.{digits}f}{error} %"


def mark(figure: Figure) -> str:
    return "" if figure.ok is None else "kept" if figure.ok else "NOT KEPT"


def write_controls(page: Path, figures: Iterable[Path]) -> None:
    """One section for each GPU measured."""
    sections = [control_page.section(json.loads(file.read_bytes())) for file in figures]
    write_page(page, "\n\n".join(sections), "controls")


def _print(figures: Iterable[Figure]) -> list[Figure]:
    found = []
    for figure in figures:
        found.append(figure)
        print(line(figure), flush=True)
    missed = sum(figure.ok is False for figure in found)
    print(f"{len(found)} figures: {f'{missed} NOT KEPT' if missed else 'all kept'}", flush=True)
    return found


def write_page(page: Path, text: str, name: str) -> None:
    """name: of the section, between comments that hold it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text()
    before, rest = whole.split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    sys.exit(main())
