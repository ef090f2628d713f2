"""One night: its studies one after the other, then the verdict against the nights before."""

import datetime
import hashlib
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import luigi

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.nightly.config import Entry, Nightly, read_nightly
from bench.records.nightly import Night, night_folder, read_night, second_measurements
from bench.records.run import ReportStage, read_record
from bench.storage import real
from bench.study.directory import RunDirectory
from bench.study.load import configs_folder
from bench.study.settings import nearest
from bench.terminal import show_anyhow
from tasks.base import ReasonTask
from tasks.luigi_runtime import (
    INVOCATION,
    AlreadyRunning,
    at_exit,
    handle_signals,
    lock_folder,
    refusing,
    release_stale_tasks,
)
from tasks.report import StudyCheck, StudyReport
from tasks.studies import OVERRIDES, NumaStudy, QuickTest, ScalingStudy, SelfCheck, Study, StudyTask

_KEYS = (*OVERRIDES, "strict", "baseline")
_KINDS: dict[str, type[StudyTask]] = {kind.__name__: kind for kind in (NumaStudy, QuickTest, ScalingStudy, SelfCheck)}


@dataclass(frozen=True)
class Planned:
    """A study of the night and its run directory; without one, `problem` is the reason."""

    entry: Entry
    directory: RunDirectory | None
    problem: str

    @property
    def strict(self) -> bool:
        return bool(self.entry.overrides.get("strict"))


class NightParameter(luigi.DateParameter):
    def parse(self, text: str) -> datetime.date:
        with refusing():
            try:
                return super().parse(text)
            except ValueError:
                raise StudyError(f"found {text!r}, allowed is a date such as 2026-11-22", "--date") from None


class NightTask(ReasonTask):
    """A task of one night."""

    date: datetime.date = NightParameter(default=datetime.date.today(), description="the night, as 2026-11-22")
    config_file: str = luigi.Parameter(
        default=str(configs_folder() / "nightly.yaml"), description="the list of the studies of a night"
    )
    output_dir: str = luigi.Parameter(default="outputs", description="the folder of all run directories")
    host: str = luigi.Parameter(default=socket.gethostname(), description="this host; not to be set")

    @property
    def night(self) -> str:
        return self.date.isoformat()

    @property
    def outputs(self) -> Path:
        return real(Path(self.output_dir))

    @property
    def folder(self) -> Path:
        return night_folder(self.outputs, self.night)

    @property
    def where(self) -> dict[str, Any]:
        """The parameters that every task of this night shares."""
        return {"date": self.date, "config_file": self.config_file, "output_dir": self.output_dir, "host": self.host}

    def verdict(self) -> Night | None:
        return read_night(self.folder)


class NightVerdict(NightTask):
    """outputs/nightly/<date>/verdict.json and verdict.html, when every study of the night has its report."""

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.folder / "verdict.json"))

    def complete(self) -> bool:
        verdict = self.verdict()
        if verdict is None or verdict.inputs != self._inputs():
            return False
        # A run that failed is tried again by a later call, and then judged again.
        second = [StudyReport(run_dir=str(path), host=self.host) for path in self._second_directories()]
        return all(report.complete() for report in (*self._reports(), *second))

    def run(self) -> Iterator[Any]:
        # One after the other: runs of two studies must not alternate on one host.
        for report in self._reports():
            _ = yield report  # luigi sends the outputs back, which `yield from` a list would not accept
        from bench.history.database import history_path
        from bench.history.page import write_index
        from bench.nightly.night import measure_again
        from bench.nightly.write import write_night

        night = self._judge({})
        second: dict[str, Path] = {}
        for one, study in zip(plan_of(self), night.studies, strict=True):
            if study.unconfirmed and one.directory:
                second[study.study] = measure_again(
                    self.folder, study.study, one.directory.path, study.unconfirmed, INVOCATION
                )
                _ = yield StudyReport(run_dir=str(second[study.study]), host=self.host)
        if second:
            night = self._judge(second)
        if notice := write_night(self.folder, night, config_of(self.config_file).on_regression):
            show_anyhow(notice)
        write_index(history_path(self.outputs))

    def _reports(self) -> list[StudyReport]:
        """Of the night's studies; a second measurement follows from their results."""
        return [StudyReport(run_dir=str(one.directory.path), host=self.host) for one in plan_of(self) if one.directory]

    def _second_directories(self) -> list[Path]:
        return [Path(entry.run_directory) for _, entry in sorted(second_measurements(self.folder).items())]

    def _inputs(self) -> str:
        """A digest of the inputs: the night is judged again whenever a report or the list of studies changes."""
        digest = hashlib.sha256(repr(config_of(self.config_file)).encode())
        for one in plan_of(self):
            state = _report_state(one.directory.path) if one.directory else None
            digest.update(repr((one.entry.label, one.problem, state)).encode())
        for path in self._second_directories():
            digest.update(repr(_report_state(path)).encode())
        return digest.hexdigest()[:16]

    def _judge(self, second: dict[str, Path]) -> Night:
        """second: run directories of second measurements, by label."""
        from bench.history.database import history_path
        from bench.nightly.night import NightlyStudy, judge_night

        config = config_of(self.config_file)
        studies = [
            NightlyStudy(
                label=one.entry.label,
                run_dir=one.directory.path if one.directory else None,
                problem=one.problem,
                pinned=one.entry.baseline,
                strict=one.strict,
                second=second.get(one.entry.label),
            )
            for one in plan_of(self)
        ]
        return judge_night(
            self.night,
            self.host,
            studies,
            history_path(self.outputs),
            config.nights,
            config.since,
            inputs=self._inputs(),
            without_gpu=[entry.label for entry in config.studies if entry not in entries_of(self.config_file)],
            confirm_next_night=config.confirm_next_night,
        )


class NightCheck(NightTask):
    """Fails with what got slower, failed or was not measured: a red task with the reason."""

    def requires(self) -> NightVerdict:
        return NightVerdict(**self.where)

    def complete(self) -> bool:
        verdict = self.verdict()
        return verdict is not None and verdict.ok and self.requires().complete()

    def run(self) -> None:
        verdict = self.verdict()
        if verdict is None or not verdict.ok:
            raise StudyError(
                f"night {self.night}: {verdict.text if verdict else 'its verdict is missing'}",
                str(self.folder / "verdict.html"),
                "the page compares each cell with the nights before; after an intended change: set since in "
                + self.config_file,
            )


class NightlySweep(NightTask):
    """Measure the studies of nightly.yaml for one date; fail if something got slower, failed or was not measured."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with refusing():
            self._check_date()
            studies_of(self)
            known = self.verdict()
            if known and known.host != self.host:
                raise StudyError(
                    f"this is the night of the host {known.host}, and this host is {self.host}",
                    str(self.folder),
                    "give each host its own --output-dir",
                )

    def complete(self) -> bool:
        """By its verdict, not by its runs: a night without findings stays complete if the host changes later."""
        verdict = self.verdict()
        labels = [entry.label for entry in entries_of(self.config_file)]
        return verdict is not None and verdict.ok and [study.study for study in verdict.studies] == labels

    def requires(self) -> NightVerdict:
        # Registered before the summaries of the studies, so it is printed after them.
        _print_verdict_at_exit(self.folder)
        # Run directories are found, and created, in luigi's own process, before it forks workers.
        plan_of(self)
        return NightVerdict(**self.where)

    def run(self) -> Iterator[Any]:
        checks = [
            StudyCheck(run_dir=str(one.directory.path), host=self.host, strict=one.strict)
            for one in plan_of(self)
            if one.directory
        ]
        yield [NightCheck(**self.where), *checks]

    def _check_date(self) -> None:
        today = datetime.date.today()
        if self.date > today:
            raise StudyError(f"{self.night} is in the future; today is {today.isoformat()}", "--date", "omit --date")
        if self.date < today and self.verdict() is None:
            meaning = "it is measured now, stored under that date and compared with the nights before it"
            print(f"the night {self.night} is in the past: {meaning}", file=sys.stderr, flush=True)


@cache
def config_of(file: str) -> Nightly:
    return read_nightly(Path(file))


def entries_of(file: str) -> list[Entry]:
    """The studies that this host can measure at all: without a GPU those that need one are left out."""
    return [entry for entry in config_of(file).studies if not entry.needs_gpu or has_gpu()]


@cache
def has_gpu() -> bool:
    """Including one that the driver does not show: its loss is a finding of the night."""
    topology = read_topology()
    return bool(topology.gpus or topology.silent_gpus)


def studies_of(night: NightTask) -> list[tuple[Entry, StudyTask]]:
    """The night's studies as tasks. Raise StudyError for what cannot be measured on any host."""
    studies: list[tuple[Entry, StudyTask]] = []
    for entry in entries_of(night.config_file):
        for key in entry.overrides:
            if key not in _KEYS:
                advice = f"the keys are {', '.join(_KEYS)}"
                raise StudyError(f"{entry.label}: unknown key {key!r}{nearest(key, _KEYS)}", night.config_file, advice)
        given = {"night": night.night, "output_dir": night.output_dir, "host": night.host, **entry.overrides}
        if entry.config_file:
            studies.append((entry, Study(config_file=str(entry.config_file), **given)))
        else:
            studies.append((entry, _KINDS[entry.study](**given)))
    return studies


_planned: dict[tuple[str, str, str], list[Planned]] = {}


def plan_of(night: NightTask) -> list[Planned]:
    """The night's studies with their run directories, resolved once in a call of luigi.

    A study that cannot be measured here is a finding of the night, and does not stop the others. On the command line
    a second call of the same night ends here with exit code 10.
    """
    key = (night.night, night.config_file, night.output_dir)
    if key not in _planned:
        handle_signals(night)
        with refusing():
            night.folder.mkdir(parents=True, exist_ok=True)
            lock_folder(night.folder)
            release_stale_tasks(night.folder, date=night.night, output_dir=night.output_dir, host=night.host)
            _planned[key] = [_planned_study(entry, study) for entry, study in studies_of(night)]
    return _planned[key]


def _planned_study(entry: Entry, study: StudyTask) -> Planned:
    try:
        return Planned(entry, study.resolved(), "")
    except AlreadyRunning:
        raise
    except StudyError as error:
        return Planned(entry, None, str(error))


def _report_state(run_directory: Path) -> str | None:
    stage = read_record(run_directory / "report.json", ReportStage)
    return stage.state if stage else None


@cache
def _print_verdict_at_exit(folder: Path) -> None:
    at_exit(lambda: show_anyhow(_summary(folder)))


def _summary(folder: Path) -> str:
    verdict = read_night(folder)
    if verdict is None:
        return f"night {folder.name}: no verdict yet; repeat the command to continue"
    return f"night {folder.name}: {verdict.text}\nverdict: {folder / 'verdict.html'}"
