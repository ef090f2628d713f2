"""A folder of outputs as a page: what it is, what is in it, and how far the study is whose run directory it is."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from bench.errors import StudyError
from bench.records.run import Outcome, ReportStage, Run, read_head, read_record
from bench.records.schema import STORED
from bench.records.study import Grid, Slot
from bench.report.html import environment
from bench.run.lock import Holder, holders, lock_folder
from bench.study.directory import RunDirectory
from bench.study.progress import StudyProgress, read_progress

# Run directories and entries beyond these are counted only.
MOST_RUNS = 50
MOST_ENTRIES = 2000
LAST_RUNS = 10
_HOLDS = {one.file: one.holds for one in STORED.values() if "*" not in one.file} | {
    "cells": "what each process was asked to measure",
    "runs": "the record of each run",
    "logs": "the output of each process, and luigi's log",
    "links": "the measured links",
    "nsys_reports": "the traces, and their exports as SQLite",
    "latency": "what the traces hold, as numbers",
    "hosts": "a run directory of each host",
    "nightly": "the verdict of each night",
    "report.html": "the report",
    "report.md": "the report as Markdown",
    "results.csv": "the cells as a table",
    "results.db": "all results as SQLite",
    "history.db": "the history of all studies as SQLite",
    "index.html": "all studies, and every cell through time",
    "cluster_report.html": "the report of all hosts",
    "verdict.html": "the verdict of the night",
}
_PAGES = ("report.html", "cluster_report.html", "verdict.html", "index.html")


@dataclass(frozen=True)
class Page:
    """changing: what it shows is measured now."""

    text: str
    changing: bool


@dataclass(frozen=True)
class Entry:
    """A file or folder. changed: ISO 8601, UTC."""

    name: str
    href: str
    holds: str
    size_bytes: int | None
    changed: str


@dataclass(frozen=True)
class Measured:
    """A run directory in a list. href: of its folder; report: of its report, empty where it has none."""

    study: str
    date: str
    clock: str
    href: str
    report: str
    is_running: bool


@dataclass(frozen=True)
class EndedRun:
    """One of the last runs. ended: ISO 8601, UTC; ago_s: since then; logs: (label, address)."""

    record: Run
    ended: str
    ago_s: float
    logs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class StudyState:
    """How far the study of a run directory is. name: "" if unknown. holder: the process that measures it; other: the
    study that is measured meanwhile, which this one may wait for. remaining_s: None if unknown. problem: why that
    cannot be read."""

    name: str
    question: str
    host: str
    holder: Holder | None
    other: str
    reported: bool
    progress: StudyProgress = field(default=StudyProgress(0, 0, None, None))
    failed: int = 0
    remaining_s: float | None = None
    last: Sequence[EndedRun] = ()
    problem: str = ""

    @property
    def all_ended(self) -> bool:
        return self.progress.done >= self.progress.total > 0


def folder_page(folder: Path, outputs: Path, with_records: bool, paused: bool = False) -> Page:
    """outputs: the folder that is served. with_records: also what records hold, not only names. Raise OSError."""
    folder, outputs = folder.resolve(), outputs.resolve()
    below = folder.relative_to(outputs).parts
    entries = list(_entries(folder))
    names = {entry.name for entry in entries}
    busy = {holder.study: holder for holder in holders(lock_folder()) if not holder.is_dead} if with_records else {}
    # Not the folder above it, in which `numastudy run` writes the study of a command.
    is_run = {"study.yaml", "runs"} <= names and "cluster.json" not in names
    state = _study_state(folder, busy) if is_run and with_records else None
    measured = [] if is_run or len(below) > 2 or not with_records else sorted(
        _run_directories(folder, below, busy), key=lambda one: (one.date, one.clock), reverse=True
    )  # fmt: skip
    changing = bool(state.holder if state else any(one.is_running for one in measured))
    template = environment("bench.ui").get_template("folder.html.j2")
    text = template.render(
        title=(state and (state.question or state.name)) or _title(below),
        eyebrow=[(name, "../" * (len(below) - at)) for at, name in enumerate(("outputs", *below))],
        holds=_holds_of(folder, below),
        state=state,
        path=str(folder),
        pages=[entry for entry in entries if entry.name in _PAGES],
        measured=measured[:MOST_RUNS],
        further=len(measured[MOST_RUNS:]),
        entries=entries[:MOST_ENTRIES],
        more=len(entries[MOST_ENTRIES:]),
        changing=changing,
        paused=paused,
    )
    return Page(text, changing)


def _title(below: Sequence[str]) -> str:
    return " / ".join(below) or "Outputs"


def _holds_of(folder: Path, below: Sequence[str]) -> str:
    if not below:
        return "Every study of this folder."
    if (folder / "cluster.json").exists():
        return "A study on several hosts."
    if folder.name in _HOLDS:
        text = _HOLDS[folder.name]
        return f"{text[0].upper()}{text[1:]}."
    return {1: "The runs of this study, by date.", 2: "The runs of this study on one day."}.get(len(below), "")


def _entries(folder: Path) -> Iterator[Entry]:
    """Folders first, each kind by name; hidden ones are left out. Raise OSError."""
    with os.scandir(folder) as found:
        shown = [(not os.path.isdir(entry), entry.name, entry) for entry in found if not entry.name.startswith(".")]
    for is_file, _, entry in sorted(shown, key=lambda one: one[:2]):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # it has just gone
            continue
        is_folder = not is_file
        yield Entry(
            name=entry.name,
            # quote: a name may be that of another scheme, or have a query.
            href="./" + quote(os.fsencode(entry.name + "/" * is_folder)),
            holds=_HOLDS.get(entry.name, ""),
            size_bytes=None if is_folder else status.st_size,
            changed=datetime.fromtimestamp(status.st_mtime, UTC).isoformat(),
        )


def _run_directories(folder: Path, below: Sequence[str], busy: dict[str, Holder]) -> Iterator[Measured]:
    """<study>/<date>/<time> below the outputs, of which `folder` has the first part."""
    for path in folder.glob("/".join(["*"] * (3 - len(below)))):
        study, date, clock = (*below, *path.relative_to(folder).parts)
        # os.path: false also for what another user keeps private.
        if not os.path.exists(path / "study.yaml") or any(part.startswith(".") for part in (study, date, clock)):
            continue
        href = "./" + quote(os.fsencode(str(path.relative_to(folder)))) + "/"
        reports = (name for name in ("report.html", "cluster_report.html") if os.path.exists(path / name))
        report = next((href + name for name in reports), "")
        yield Measured(study, date, clock, href, report, str(path) in busy)


def _study_state(folder: Path, busy: dict[str, Holder]) -> StudyState:
    directory, holder = RunDirectory(folder), busy.get(str(folder))
    other = "" if holder else next(iter(busy), "")
    try:
        study, grid, host = directory.study(), directory.grid(), directory.host()
    except (StudyError, OSError) as error:
        what = error.what if isinstance(error, StudyError) else str(error)
        return StudyState(name="", question="", host="", holder=holder, other=other, reported=False, problem=what)
    records = _newest_first(folder / "runs")
    newest = next((run for path, _ in records if (run := read_record(path, Run))), None)
    invocation = newest.invocation if newest else ""
    now_s = time.time()
    progress = read_progress(directory, grid, invocation)
    remaining_s = None
    if holder and records and (current := _current(directory, grid, study.repeats)):
        progress = read_progress(directory, grid, invocation, current=current)
        remaining_s = progress.remaining_s(now_s - records[0][1])
    heads = [read_head(path) for path, _ in records]
    report = read_record(folder / "report.json", ReportStage)
    return StudyState(
        name=study.name,
        question=study.question,
        host=host.host or host.fingerprint.host,
        holder=holder,
        other=other,
        reported=report is not None and report.state == directory.state(),
        progress=progress,
        failed=sum(head is not None and head.status not in (Outcome.OK, Outcome.NOT_RUNNABLE) for head in heads),
        remaining_s=remaining_s,
        last=list(islice(_last_runs(directory, records, now_s), LAST_RUNS)),
    )


def _newest_first(runs: Path) -> list[tuple[Path, float]]:
    """(record, when its run ended)"""
    found = [(path, _ended_s(path)) for path in runs.glob("*.json")]
    return sorted(found, key=lambda one: (one[1], one[0].name), reverse=True)


def _ended_s(path: Path) -> float:
    """As recorded; else as the file says, which has another time where it was copied."""
    head = read_head(path)
    try:
        return datetime.fromisoformat(head.ended_at if head else "").timestamp()
    except (ValueError, OverflowError):
        return path.stat().st_mtime if path.exists() else 0.0


def _current(directory: RunDirectory, grid: Grid, repeats: int) -> tuple[Slot, ...]:
    """The runs of the process that is next in the order."""
    waiting = (slot for slot in grid.asked(repeats) if not read_head(directory.record(slot.cell, slot.repeat)))
    first = next(waiting, None)
    return grid.process(first) if first else ()


def _last_runs(directory: RunDirectory, records: Iterable[tuple[Path, float]], now_s: float) -> Iterator[EndedRun]:
    for path, ended_s in records:
        if run := read_record(path, Run):
            logs = [(stream, directory.log(run.log or run.run, stream)) for stream in ("stdout", "stderr")]
            shown = tuple((stream, "./" + quote(f"logs/{log.name}")) for stream, log in logs if log.exists())
            ended = datetime.fromtimestamp(ended_s, UTC).isoformat()
            yield EndedRun(run, ended, max(now_s - ended_s, 0.0), shown)
