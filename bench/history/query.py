"""Questions to the history, and what `numastudy history` prints."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from sqlite_utils import Database
from tabulate import tabulate

from bench.history.database import add_study, history_path, open_history
from bench.records.base import DamagedRecord, Record, convert, decode, plain
from bench.records.host import Fingerprint
from bench.records.metric import Better
from bench.records.nightly import HistoryCell, HistoryListing, HistoryStudy, NightlyVerdict
from bench.units import DASH, timestamp

# Samples per second that a plot can show.
Rate = Annotated[float, msgspec.Meta(gt=1e-9, lt=1e15)]
# Only those that say what a command measures: the others are long, and many.
SETTINGS = "CASE WHEN instr(coalesce(cells.settings, ''), '\"metric\"') THEN cells.settings ELSE '{}' END"
_HEADERS = ("measured (UTC)", "study", "host", "night", "cells ok", "slower", "driver", "run directory")


class Shown(Record, frozen=True, kw_only=True):
    """What settings of a cell say of its values. metric: of a command; the pipeline has none."""

    metric: str = ""
    unit: str = "samples/s"
    better: Better = Better.HIGHER

    def value(self, rate: float | None) -> float | None:
        return 1 / rate if rate and self.better is Better.LOWER else rate


def history_command(
    output_dir: Path, study: str, host: str, since: str, as_json: bool, add: Sequence[Path], page: bool
) -> str:
    """Add run directories, write index.html, and list the studies of the history, newest first.

    Raises StudyError for what cannot be added or read.
    """
    path = history_path(output_dir)
    for run_dir in add:
        _add(run_dir, path)
    if page or add:
        from bench.history.page import write_index

        written = write_index(path)
        if page:
            return f"page: {written}"
    with open_history(path) as history:
        selected = studies(history, study, host, since)
        if as_json:
            listing = HistoryListing(history=str(path), studies=with_cells(history, selected))
            return json.dumps(plain(listing), indent=1)
    rows = [_row(one) for one in selected]
    return tabulate(rows, _HEADERS, tablefmt="simple", disable_numparse=True) if rows else "no study matches"


def studies(database: Database, study: str = "", host: str = "", since: str = "") -> list[HistoryStudy]:
    """Studies, newest first; `since` is a date or the beginning of one."""
    rows = database.query(
        "SELECT studies.*, (SELECT count(*) FROM verdicts WHERE study_id = studies.id AND verdict = :slower) "
        "AS slower FROM studies WHERE (:study = '' OR study_name = :study) AND (:host = '' OR host = :host) "
        "AND (measured_at >= :since OR night >= :since AND night != '') ORDER BY measured_at DESC, id DESC",
        {"study": study, "host": host, "since": since, "slower": NightlyVerdict.SLOWER.value},
    )
    return [convert(row | {"fingerprint": stored_fingerprint(row["fingerprint"])}, HistoryStudy) for row in rows]


def stored_fingerprint(text: Any) -> Fingerprint:
    """Of a column that may hold anything. Raise DamagedRecord."""
    return decode(text.encode(), Fingerprint) if isinstance(text, str) and text else Fingerprint()


def with_cells(database: Database, selected: Iterable[HistoryStudy]) -> tuple[HistoryStudy, ...]:
    """The studies, each with its cells."""
    return tuple(msgspec.structs.replace(study, measured=_cells(database, study.id)) for study in selected)


def _cells(database: Database, study_id: int) -> tuple[HistoryCell, ...]:
    rows = database.query(
        "SELECT cells.name, cells.key, cells.gpu, cells.cpu_node, cells.mem_node, cells.model, m.outcome, "
        "m.reason, m.throughput_samples_s, m.throughput_spread, m.latency_p50_us, m.latency_p99_us, "
        "m.h2d_bandwidth_gb_s, m.d2h_bandwidth_gb_s, m.pipeline_efficiency, m.regime, verdicts.verdict, "
        f"m.undisturbed_samples_s AS rate, {SETTINGS} AS settings "
        "FROM measurements m JOIN cells ON cells.id = m.cell_id "
        "LEFT JOIN verdicts ON verdicts.study_id = m.study_id AND verdicts.cell_id = m.cell_id "
        "WHERE m.study_id = ? ORDER BY m.id",
        [study_id],
    )
    return tuple(_cell(row) for row in rows)


def _cell(row: dict[str, Any]) -> HistoryCell:
    rate, shown = row.pop("rate"), shown_as(row.pop("settings"))
    own = {"unit": shown.unit, "value": shown.value(rate)} if shown.metric else {}
    return convert(row | own, HistoryCell)


@lru_cache(maxsize=1024)
def shown_as(settings: str) -> "Shown":
    """How a cell's rate is shown. settings: of the cell, in JSON."""
    try:
        return decode(settings.encode(), Shown)
    except DamagedRecord:
        return Shown()


def _add(run_dir: Path, path: Path) -> None:
    from bench.analysis.load import read_results

    results = read_results(run_dir)
    if not Path(results.run_directory).exists():
        # The folder was moved since its results were written.
        results = msgspec.structs.replace(results, run_directory=str(run_dir.resolve()))
    add_study(results, path)


def _row(study: HistoryStudy) -> tuple[str, ...]:
    return (
        timestamp(study.measured_at),
        study.study_name,
        study.host,
        study.night or DASH,
        f"{study.cells_ok} of {study.cells}",
        str(study.slower or DASH),
        study.driver or DASH,
        study.run_directory,
    )
