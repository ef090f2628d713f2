"""outputs/nightly/<date>/: the page, verdict.json, and the command that is run when something is wrong."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.records.base import plain
from bench.records.nightly import Night, NightCell, NightlyVerdict, NightStudy, read_night
from bench.report.html import environment
from bench.report.text.verdicts import MEASURES
from bench.storage import write_json, write_text
from bench.units import exact_seconds

COMMAND_TIMEOUT_S = 60.0
_MOST_URGENT = (
    NightlyVerdict.SLOWER,
    NightlyVerdict.PENDING,
    NightlyVerdict.FAILED,
    NightlyVerdict.NOT_MEASURED,
    NightlyVerdict.FASTER,
)


def write_night(folder: Path, night: Night, command: Sequence[str]) -> str:
    """Write verdict.html and verdict.json, and run the command if there is a finding that it was not run for yet.

    Returns the result of the command, "" if it was not run. Its own failure changes no verdict.
    """
    known = read_night(folder)
    write_text(folder / "verdict.html", render(night, folder))
    write_json(folder / "verdict.json", plain(night))
    is_new = known is None or _findings(known) != _findings(night)
    return notify(command, night, folder) if command and not night.ok and is_new else ""


def _findings(night: Night) -> tuple[object, ...]:
    return night.verdict, night.slower, night.failed, night.not_measured


def notify(command: Sequence[str], night: Night, folder: Path) -> str:
    """Run the command as it is written, without a shell, in the night's folder, with the verdict as JSON on stdin.

    Its output goes to on_regression.log there: a pipe would stay open as long as any process that it started lives.
    """
    log = folder / "on_regression.log"
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                input=json.dumps(plain(night), allow_nan=False).encode(),
                cwd=folder,
                stdout=output,
                stderr=output,
                timeout=COMMAND_TIMEOUT_S,
            )
    except OSError as error:
        return f"on_regression: {command[0]} cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        limit = exact_seconds(COMMAND_TIMEOUT_S)
        return f"on_regression: {command[0]} did not end within {limit} and was killed; see {log}"
    if done.returncode:
        return f"on_regression: {command[0]} ended with exit code {done.returncode}; see {log}"
    return f"on_regression: {command[0]} was run"


def render(night: Night, folder: Path) -> str:
    """The page as text; links are relative to `folder`."""
    studies = [
        {
            "study": study,
            "report": _report(study.run_directory, folder),
            "second_report": _report(study.second_run_directory, folder),
            "cells": _by_urgency(study),
        }
        for study in night.studies
    ]
    template = environment("bench.nightly").get_template("verdict.html.j2")
    return template.render(night=night, studies=studies, measures=MEASURES)


def _by_urgency(study: NightStudy) -> list[NightCell]:
    """What needs attention first; otherwise the order of the study."""
    return sorted(study.cells, key=lambda cell: (*_MOST_URGENT, cell.verdict).index(cell.worst))


def _report(run_directory: str | None, folder: Path) -> str | None:
    return os.path.relpath(Path(run_directory) / "report.html", folder.resolve()) if run_directory else None
