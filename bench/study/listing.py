"""`numastudy list`: every study that ships, with its size and its time on this host."""

import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tabulate import tabulate

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.study.duration import measured_rate
from bench.study.load import TASKS, load_study, shipped_names
from bench.study.plan import plan
from bench.units import DASH, duration

_HEADERS = ("study", "cells", "can run", "time", "question")
_LEAST_WIDTH = 20


def listing(output_dir: Path) -> str:
    """One line a study, those with a task of their own first. time: for what is still to do; "done" for nothing.

    A study that cannot be started here has the reason in place of a time.
    """
    topology, rate = read_topology(), cache(measured_rate)
    rows = []
    for name in (*TASKS, *sorted(set(shipped_names()) - set(TASKS.values()))):
        definition = load_study(name)
        try:
            planned = plan(definition, output_dir, topology=topology, rate=rate)
        except StudyError as error:
            rows.append((name, DASH, DASH, error.what, definition.question))
            continue
        runnable = sum(not cell.reason for cell in planned.cells)
        time = duration(planned.estimate_s) if planned.runs_to_do else "done"
        if planned.refused:
            time = "no pair here"
        rows.append((name, str(len(planned.cells)), str(runnable), time, definition.question))
    return f"{table(rows)}\n\nnumastudy run STUDY measures it; numastudy plan STUDY --cells prints its cells."


def table(rows: Sequence[Sequence[str]]) -> str:
    """On a terminal the questions are broken into lines that fit it."""
    aligned = ("left", "right", "right", "right", "left")
    widths = [None] * 4 + [_question_width(rows)]
    return tabulate(rows, _HEADERS, tablefmt="simple", colalign=aligned, maxcolwidths=widths)


def _question_width(rows: Sequence[Sequence[str]]) -> int | None:
    """What the other columns leave to the last one; None where the output is no terminal."""
    if not sys.stdout.isatty():
        return None
    columns = list(zip(_HEADERS, *rows, strict=True))[:-1]
    # tabulate adds two to the width of a head, and two between columns.
    others = sum(2 + max(len(head) + 2, *map(len, texts)) for head, *texts in columns)
    return max(_LEAST_WIDTH, shutil.get_terminal_size().columns - others)
