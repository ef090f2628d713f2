"""index.html: every study, newest first, and every cell through time."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.errors import StudyError
from bench.history.database import add_study, history_path, open_history
from bench.history.trends import Point, Series, Trend, series
from bench.host.fingerprint import describe_change
from bench.records.nightly import HistoryStudy
from bench.records.results import Results
from bench.records.study import Design
from bench.report.html import environment
from bench.storage import write_text
from bench.terminal import show_anyhow

# Studies listed before the plots; the others come after them.
NEWEST = 10
# The frame of a plot in pixels, as trend.svg.j2 draws it.
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 512, 16, 112
# A smaller relative range would fill the plot with noise.
_SMALLEST_RANGE = 0.02
_DAY_S = 86_400
# The end of 9999, the last date that Python knows.
_LATEST_S = 253_402_300_799.0
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Change:
    """A change of the host, x in pixels. letter: as in the list of changes."""

    x: float
    letter: str
    when: str
    text: str


@dataclass(frozen=True)
class Mark:
    """A study in which the cell was slower or failed; y: None if it has no throughput."""

    x: float
    y: float | None
    when: str
    point: Point
    href: str


@dataclass(frozen=True)
class Plot:
    """A trend as trend.svg.j2 draws it, coordinates in pixels. old: the newest study does not have the cell.

    ticks: (y, value in unit). dates: (x, text anchor, day). line, dots: SVG path data, broken where the cell failed.
    """

    cell: str
    design: Design
    continued: bool
    before: Design | None
    old: bool
    unit: str
    known: tuple[float, ...]
    ticks: tuple[tuple[float, float], ...]
    dates: tuple[tuple[float, str, str], ...]
    changes: tuple[Change, ...]
    line: str
    dots: str
    marks: tuple[Mark, ...]


def into_history(results: Results, output_dir: Path) -> bool:
    """Add a study to outputs/history.db and write outputs/index.html. If that fails: print why, and return False.

    A locked history must not cost a study.
    """
    database = history_path(output_dir)
    try:
        add_study(results, database)
        write_index(database)
    except StudyError as error:
        command = f"numastudy history --add {results.run_directory}"
        show_anyhow(f"not in the history: {error}\nlater: {command}; the same command tries it too")
        return False
    return True


def write_index(database: Path) -> Path:
    """Write index.html beside the database. Raises StudyError."""
    with open_history(database) as history:
        text = render(series(history), database)
    path = database.parent / "index.html"
    write_text(path, text)
    return path


def render(every: Sequence[Series], database: Path) -> str:
    """The page as text; links are relative to the database's folder."""
    folder = database.parent
    variants = {study.id: one.variant for one in every for study in one.studies}
    studies = sorted((study for one in every for study in one.studies), key=lambda study: study.measured_at)
    template = environment("bench.history").get_template("index.html.j2")
    return template.render(
        studies=[_row(study, folder, variants[study.id]) for study in reversed(studies)],
        series=[_section(one, folder, number) for number, one in enumerate(every)],
        folder=folder.resolve().name,
        newest=NEWEST,
    )


def _row(study: HistoryStudy, folder: Path, variant: str) -> dict[str, Any]:
    night = f"nightly/{study.night}/verdict.html"
    shown = bool(study.night) and (folder / night).is_file()
    night_page = quote(night) if shown else ""
    return {"study": study, "variant": variant, "report": _report(study, folder), "night_page": night_page}


def _section(one: Series, folder: Path, number: int) -> dict[str, Any]:
    """number: of the series on the page, since several may have one name."""
    times = {study.id: _seconds(study.measured_at) for study in one.studies}
    span = min(times.values()), max(times.values())
    x = _scale(*span, _LEFT, _RIGHT)
    by_id = {study.id: study for study in one.studies}
    changes = tuple(
        Change(
            x(times[study_id]),
            _letter(number),
            by_id[study_id].measured_at[:10],
            "; ".join(map(describe_change, facts)),
        )
        for number, (study_id, facts) in enumerate(one.changes.items())
    )
    last = {trend.points[-1].study_id for trend in one.trends}
    newest = max(last, key=lambda study_id: times[study_id], default=None)

    def plot(trend: Trend) -> Plot:
        known = tuple(point.value for point in trend.points if point.value)
        low, high = _range(known)
        y = _scale(low, high, _BOTTOM, _TOP)
        places = [(x(times[point.study_id]), y(point.value) if point.value else None) for point in trend.points]
        marks = tuple(
            Mark(*place, by_id[point.study_id].night or by_id[point.study_id].measured_at[:10], point,
                 _report(by_id[point.study_id], folder))
            for place, point in zip(places, trend.points, strict=True)
            if point.slower or not point.value
        )  # fmt: skip
        return Plot(
            cell=trend.cell,
            design=trend.design,
            continued=trend.continued,
            before=trend.before,
            old=trend.points[-1].study_id != newest,
            unit=trend.unit,
            known=known,
            ticks=tuple((y(value), value) for value in _ticks(low, high)),
            dates=_dates(span, x),
            changes=changes,
            line=_path(places),
            dots="".join(f"M{x} {y}h0" for x, y in places if y is not None),
            marks=marks,
        )

    return {
        "id": f"{one.study_name}-{one.host}" + (f"-{number}" if one.variant else ""),
        "title": f"{one.study_name} on {one.host}" + (f": {one.variant}" if one.variant else ""),
        "count": len(one.studies),
        "changes": changes,
        "plots": [plot(trend) for trend in one.trends],
    }


def _report(study: HistoryStudy, folder: Path) -> str:
    return quote(os.path.relpath(folder / study.run_directory / "report.html", folder))


def _seconds(text: str) -> float:
    """Since the epoch, of an ISO date and time; 0 if it is not one."""
    try:
        return min(max(datetime.fromisoformat(text).timestamp(), 0.0), _LATEST_S)
    except (ValueError, OverflowError):
        return 0.0


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    """From values to pixels; the middle if there is only one value."""
    if high <= low:
        return lambda _: (start + end) / 2
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _range(known: Sequence[float]) -> tuple[float, float]:
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    middle = (low + high) / 2
    half = max((high - low) * 0.55, middle * _SMALLEST_RANGE)
    return middle - half, middle + half


def _ticks(low: float, high: float) -> list[float]:
    """Two to four round values inside the range."""
    rough = (high - low) / 3
    power = 10 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)] or [(low + high) / 2]


def _dates(span: tuple[float, float], x: Scale) -> tuple[tuple[float, str, str], ...]:
    first, last = span
    if last <= first:
        return ((x(first), "middle", _day(first)),)
    count = 4 if last - first > 3 * _DAY_S else 1
    times = [first + (last - first) * step / count for step in range(count + 1)]
    anchors = ["start", *["middle"] * (count - 1), "end"]
    return tuple((x(time), anchor, _day(time)) for time, anchor in zip(times, anchors, strict=True))


def _day(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}"


def _path(places: Sequence[tuple[float, float | None]]) -> str:
    parts, pen = [], "M"
    for x, y in places:
        if y is None:
            pen = "M"
        else:
            parts.append(f"{pen}{x} {y}")
            pen = "L"
    return "".join(parts)


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
