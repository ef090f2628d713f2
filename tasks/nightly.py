"""One night: its studies one after the other, then the verdict against the nights before."""

import atexit
import datetime
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import luigi

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.nightly.config import Entry, Nightly, read_nightly
from bench.nightly.folder import OK, night_folder, read_verdict, second_measurements
from bench.run.record import read_record
from bench.study.directory import RunDirectory
from bench.study.load import configs_folder
from bench.study.settings import nearest
from tasks.luigi_runtime import INVOCATION, OVERRIDES, refusing
from tasks.report import StudyCheck, StudyReport
from tasks.studies import NumaStudy, QuickTest, ScalingStudy, SelfCheck, Study, StudyTask

_KEYS = (*OVERRIDES, "strict", "baseline")
_KINDS = {kind.__name__: kind for kind in (NumaStudy, QuickTest, ScalingStudy, SelfCheck)}


@dataclass(frozen=True)
class Planned:
    """A study of the night, and its run directory; without one, `problem` says why."""

    entry: Entry
    directory: RunDirectory | None
    problem: str

    @property
    def strict(self) -> bool:
        return bool(self.entry.overrides.get("strict"))


class _Night(luigi.DateParameter):
    def parse(self, text: str) -> datetime.date:
        with refusing():
            try:
                return super().parse(text)
            except ValueError:
                raise StudyError(f"found {text!r}, allowed is a date such as 2026-11-22", "--date") from None


class OfNight(luigi.Task):
    date = _Night(default=datetime.date.today(), description="the night, as 2026-11-22")
    config_file = luigi.Parameter(default=str(configs_folder() / "nightly.yaml"), description="what a night measures")
    output_dir = luigi.Parameter(default="outputs", description="where run directories are made")
    host = luigi.Parameter(default=socket.gethostname(), description="this host; not to be set")

    @property
    def night(self) -> str:
        return self.date.isoformat()

    @property
    def folder(self) -> Path:
        return night_folder(Path(self.output_dir).resolve(), self.night)

    def of_night(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("date", "config_file", "output_dir", "host")}

    def verdict(self) -> dict[str, Any] | None:
        return read_verdict(self.folder)

    def _again(self) -> list[str]:
        """Run directories of second measurements."""
        return [entry["run_directory"] for _, entry in sorted(second_measurements(self.folder).items())]

    def inputs(self) -> str:
        """Names what a verdict rests on: it is made again whenever a report was, or the list of studies changed."""
        digest = hashlib.sha256(repr(config_of(self.config_file)).encode())
        for planned in plan_of(self):
            report = read_record(planned.directory.path / "report.json") if planned.directory else None
            digest.update(repr((planned.entry.label, planned.problem, (report or {}).get("state"))).encode())
        for path in self._again():
            digest.update(repr((read_record(Path(path) / "report.json") or {}).get("state")).encode())
        return digest.hexdigest()[:16]


class NightVerdict(OfNight):
    """outputs/nightly/<date>/verdict.json and verdict.html, when every study of the night has its report."""

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.folder / "verdict.json"))

    def complete(self) -> bool:
        verdict = self.verdict()
        if verdict is None or verdict["inputs"] != self.inputs():
            return False
        # A run that failed is to be tried again by a later call, and then judged again.
        again = [StudyReport(run_dir=path, host=self.host) for path in self._again()]
        return all(report.complete() for report in (*self._reports(), *again))

    def _reports(self) -> list[StudyReport]:
        """Of the night's studies; a second measurement follows from what they say."""
        return [StudyReport(run_dir=str(one.directory.path), host=self.host) for one in plan_of(self) if one.directory]

    def run(self) -> Iterator[Any]:
        # One after the other: runs of two studies must not take turns on one host.
        for report in self._reports():
            _ = yield report  # luigi sends the outputs back, which `yield from` a list would not take
        from bench.history.page import write_index
        from bench.history.query import history_path
        from bench.nightly.judge import measure_again, slower_cells
        from bench.nightly.write import write_night

        verdict = self._judge({})
        again = {}
        for one in plan_of(self):
            if cells := slower_cells(verdict).get(one.entry.label):
                first = one.directory.path
                again[one.entry.label] = measure_again(self.folder, one.entry.label, first, cells, INVOCATION)
                _ = yield StudyReport(run_dir=str(again[one.entry.label]), host=self.host)
        if again:
            verdict = self._judge(again)
        command = config_of(self.config_file).on_regression
        if said := write_night(self.folder, verdict | {"inputs": self.inputs()}, command):
            print(said, flush=True)
        write_index(history_path(Path(self.output_dir).resolve()))

    def _judge(self, again: dict[str, Path]) -> dict[str, Any]:
        """again: second measurements, by label."""
        from bench.history.query import history_path
        from bench.nightly.judge import Asked, judge_night

        config, database = config_of(self.config_file), history_path(Path(self.output_dir).resolve())
        asked = [
            Asked(
                one.entry.label,
                one.directory and one.directory.path,
                one.problem,
                one.entry.baseline,
                one.strict,
                again.get(one.entry.label),
            )
            for one in plan_of(self)
        ]
        verdict = judge_night(self.night, self.host, asked, database, config.nights, config.since)
        left_out = [entry.label for entry in config.studies if entry not in entries_of(self.config_file)]
        return verdict | {
            "warnings": [*verdict["warnings"], *(f"{label}: left out, no GPU here" for label in left_out)]
        }


class NightCheck(OfNight):
    """Fails with what got slower, failed or was not measured: a red task that says so."""

    def requires(self) -> NightVerdict:
        return NightVerdict(**self.of_night())

    def complete(self) -> bool:
        return self.requires().complete() and (self.verdict() or {}).get("verdict") == OK

    def run(self) -> None:
        verdict = self.verdict()
        if verdict["verdict"] != OK:
            raise StudyError(
                f"night {self.night}: {verdict['text']}",
                str(self.folder / "verdict.html"),
                "the page compares each cell with the nights before; a change that is meant: set since in "
                + self.config_file,
            )

    def on_failure(self, exception: BaseException) -> str:
        """What the scheduler's page shows for the red task."""
        return str(exception)


class NightlySweep(OfNight):
    """Measure the studies of nightly.yaml for one date; fail if something got slower, failed or was not measured."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        with refusing():
            datetime.date.fromisoformat(self.night)
            studies_of(self)
            known = self.verdict()
            if known and known["host"] != self.host:
                raise StudyError(
                    f"this is the night of the host {known['host']}, and this one is {self.host}",
                    str(self.folder),
                    "give each host its own --output-dir",
                )

    def complete(self) -> bool:
        """By its verdict, not by its runs: a night that went well stays so when the host has changed since."""
        verdict = self.verdict()
        asked = [entry.label for entry in entries_of(self.config_file)]
        return bool(verdict) and verdict["verdict"] == OK and [one["study"] for one in verdict["studies"]] == asked

    def requires(self) -> NightVerdict:
        # What is registered first speaks last: the verdict comes after the tables of the studies.
        _close_with(self.folder)
        # Run directories are found, and made, in luigi's own process, before workers are forked.
        plan_of(self)
        return NightVerdict(**self.of_night())

    def run(self) -> Iterator[Any]:
        checks = [
            StudyCheck(run_dir=str(one.directory.path), host=self.host, strict=one.strict)
            for one in plan_of(self)
            if one.directory
        ]
        yield [NightCheck(**self.of_night()), *checks]


@cache
def config_of(file: str) -> Nightly:
    return read_nightly(Path(file))


def entries_of(file: str) -> list[Entry]:
    """The studies that this host can be asked for at all: without a GPU those that need one are left out."""
    return [entry for entry in config_of(file).studies if not entry.needs_gpu or has_gpu()]


@cache
def has_gpu() -> bool:
    """Also one that the driver does not show: that it is gone is for the night to say."""
    topology = read_topology()
    return bool(topology.gpus or topology.silent_gpus)


def studies_of(night: OfNight) -> list[tuple[Entry, StudyTask]]:
    """The night's studies as tasks. Raise StudyError for what could not be measured anywhere."""
    found = []
    for entry in entries_of(night.config_file):
        given = {"night": night.night, "output_dir": night.output_dir, "host": night.host, **entry.overrides}
        for key in entry.overrides:
            if key not in _KEYS:
                advice = f"the keys are {', '.join(_KEYS)}"
                raise StudyError(f"{entry.label}: unknown key {key!r}{nearest(key, _KEYS)}", night.config_file, advice)
        if entry.config_file:
            found.append((entry, Study(config_file=str(entry.config_file), **given)))
        else:
            found.append((entry, _KINDS[entry.study](**given)))
    return found


_planned: dict[tuple[str, str, str], list[Planned]] = {}


def plan_of(night: OfNight) -> list[Planned]:
    """Where the night's studies lie, resolved once in a call of luigi.

    A study that cannot be measured here is a finding of the night, and costs the others nothing.
    """
    known_as = (night.night, night.config_file, night.output_dir)
    if known_as not in _planned:
        found = []
        for entry, study in studies_of(night):
            try:
                found.append(Planned(entry, study.resolved(), ""))
            except StudyError as error:
                found.append(Planned(entry, None, str(error)))
        _planned[known_as] = found
    return _planned[known_as]


_closing: list[Path] = []


def _close_with(folder: Path) -> None:
    """Say the verdict as the last words of luigi's own process."""
    if not _closing:
        owner = os.getpid()
        atexit.register(lambda: os.getpid() == owner and print(_closing_words(_closing[0]), flush=True))
        _closing.append(folder)


def _closing_words(folder: Path) -> str:
    verdict = read_verdict(folder)
    if verdict is None:
        return f"night {folder.name}: no verdict yet; the same command goes on from here"
    return f"night {folder.name}: {verdict['text']}\nverdict: {folder / 'verdict.html'}"
