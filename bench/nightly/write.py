"""outputs/nightly/<date>/: the page, verdict.json, and the word to whoever wants to hear of it."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.legacy.verdicts import Verdict
from bench.nightly.folder import OK, read_verdict
from bench.nightly.judge import FAILED, NOT_MEASURED
from bench.report.html import environment
from bench.storage import write_json, write_text

Record = dict[str, Any]
HOOK_TIMEOUT_S = 60.0
_SAID = ("verdict", "slower", "failed", "not_measured")


def write_night(folder: Path, verdict: Record, command: Sequence[str]) -> str:
    """Write verdict.html and verdict.json, and run the command if something is wrong that it has not heard of.

    Returns what became of the command, "" if it was not run. Its own failure changes no verdict.
    """
    known = read_verdict(folder)
    write_text(folder / "verdict.html", render(verdict, folder))
    write_json(folder / "verdict.json", verdict)
    news = known is None or any(known.get(key) != verdict[key] for key in _SAID)
    return notify(command, verdict, folder) if command and verdict["verdict"] != OK and news else ""


def notify(command: Sequence[str], verdict: Record, folder: Path) -> str:
    """Run the command as it is written, without a shell, in the night's folder, the verdict as JSON on stdin.

    What it says goes to on_regression.log there: a pipe would stay open as long as anything that it started lives.
    """
    log = folder / "on_regression.log"
    try:
        with log.open("wb") as said:
            done = subprocess.run(
                command,
                input=json.dumps(verdict, allow_nan=False).encode(),
                cwd=folder,
                stdout=said,
                stderr=said,
                timeout=HOOK_TIMEOUT_S,
            )
    except OSError as error:
        return f"on_regression: {command[0]} cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"on_regression: {command[0]} did not end within {HOOK_TIMEOUT_S:g} s and was ended; see {log}"
    if done.returncode:
        return f"on_regression: {command[0]} ended with exit code {done.returncode}; see {log}"
    return f"on_regression: told {command[0]}"


def render(verdict: Record, folder: Path) -> str:
    """The page as text; links are relative to `folder`."""
    studies = [
        study
        | {"report": _report(study["run_directory"], folder), "report_again": _report(study.get("again"), folder)}
        | {"cells": sorted(study["cells"], key=_urgency)}
        for study in verdict["studies"]
    ]
    counts = [(len(verdict[key]), label) for key, label in (
        ("slower", "slower"), ("failed", "failed"), ("not_measured", "not measured"))]  # fmt: skip
    figures = [(count, label, "warn" if count else "good") for count, label in counts]
    figures += [
        (verdict["compared"], "cells compared", ""),
        (len(verdict["faster"]), "faster", ""),
        (len(verdict["too_noisy"]), "too noisy to guard at 5 %", ""),
    ]
    template = environment("bench.nightly").get_template("verdict.html.j2")
    return template.render(night=verdict | {"studies": studies}, figures=figures)


def _urgency(cell: Record) -> int:
    """What asks for a look comes first; the rest keeps the order of the study."""
    first = (Verdict.SLOWER.value, FAILED, NOT_MEASURED, Verdict.FASTER.value)
    return first.index(cell["verdict"]) if cell["verdict"] in first else len(first)


def _report(run_directory: str | None, folder: Path) -> str | None:
    return os.path.relpath(Path(run_directory) / "report.html", folder.resolve()) if run_directory else None
