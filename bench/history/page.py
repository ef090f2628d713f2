"""index.html with trends."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.errors import StudyError
from bench.history.database import add_study, open_history
from bench.history.query import Point, Series, Trend, history_path, series
from bench.report.html import environment
from bench.storage import write_text
from bench.units import rate

# --- trend
# A cell through time as a small SVG: written by hand, since a page has one for every cell of every study.

WIDTH, HEIGHT = 520, 132
LEFT, RIGHT, TOP, BOTTOM = 58, 8, 16, 20
LINE, SLOWER, CHANGE, MUTED, RULE = "#0072B2", "#D55E00", "#CC79A7", "#5A6772", "#E3E7EB"
# Closer than this a wiggle of noise would fill the plot.
SMALLEST_RANGE = 0.02
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Mark:
    """One measurement. href: its report; note: what a pointer over it shows, for the ones that need a word."""

    time: float
    samples_s: float | None
    slower: bool = False
    href: str = ""
    note: str = ""


@dataclass(frozen=True)
class Change:
    """The host was not the same any more. letter: as in the list of changes."""

    time: float
    letter: str
    text: str


def seconds_of(text: str) -> float:
    """Seconds since the epoch of an ISO date and time; 0 if it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def trend_svg(title: str, marks: Sequence[Mark], changes: Sequence[Change], span: tuple[float, float]) -> str:
    """marks: oldest first; span: first and last time of the axis, the same for all cells of a series.

    A failed measurement is a cross at the foot and breaks the line.
    """
    known = [mark.samples_s for mark in marks if mark.samples_s]
    low, high = _range(known)

    def x(time: float) -> float:
        share = (time - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [*_axis(low, high, y), *_dates(span, x), *(_change(change, x(change.time)) for change in changes)]
    parts += _line([(x(mark.time), y(mark.samples_s) if mark.samples_s else None) for mark in marks])
    parts += [_special(mark, x(mark.time), y(mark.samples_s) if mark.samples_s else None) for mark in marks]
    told = (
        f"{title}: {len(known)} measurements, the last {rate(known[-1])} samples/s" if known else f"{title}: no figures"
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}" style="max-width: {WIDTH}px" '
        f'font-size="10" fill="{MUTED}">{"".join(parts)}</svg>'
    )


def _range(known: Sequence[float]) -> tuple[float, float]:
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    middle, half = (low + high) / 2, max((high - low) * 0.55, (low + high) / 2 * SMALLEST_RANGE)
    return middle - half, middle + half


def _axis(low: float, high: float, y: Scale) -> list[str]:
    parts = []
    for value in _ticks(low, high):
        at = round(y(value), 1)
        parts.append(f'<path d="M{LEFT} {at}H{WIDTH - RIGHT}" stroke="{RULE}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3}" text-anchor="end">{rate(value)}</text>')
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Two to four round values inside the range."""
    rough = (high - low) / 3
    power = 10 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)] or [(low + high) / 2]


def _dates(span: tuple[float, float], x: Scale) -> list[str]:
    count = 4 if span[1] - span[0] > 3 * 86400 else 1
    times = (
        [span[0] + (span[1] - span[0]) * step / count for step in range(count + 1)] if span[1] > span[0] else [span[0]]
    )
    anchors = ["start", *["middle"] * (len(times) - 2), "end"] if len(times) > 1 else ["middle"]
    days = [f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}" for time in times]
    return [
        f'<text x="{x(time):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{day}</text>'
        for time, anchor, day in zip(times, anchors, days, strict=True)
    ]


def _change(change: Change, x: float) -> str:
    return (
        f'<g><title>{escape(change.text)}</title><path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{CHANGE}" '
        f'stroke-dasharray="3 3"/><text x="{x:.1f}" y="{TOP - 4}" text-anchor="middle" fill="{CHANGE}" '
        f'font-weight="700">{change.letter}</text></g>'
    )


def _line(points: Sequence[tuple[float, float | None]]) -> list[str]:
    """The line, and its dots as strokes of no length: two paths, however many points."""
    line, dots, pen = [], [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        line.append(f"{pen}{x:.1f} {y:.1f}")
        dots.append(f"M{x:.1f} {y:.1f}h0")
        pen = "L"
    if not line:
        return []
    shape = 'fill="none" stroke-linecap="round" stroke-linejoin="round"'
    return [
        f'<path d="{"".join(line)}" stroke="{LINE}" stroke-width="1.2" stroke-opacity=".55" {shape}/>',
        f'<path d="{"".join(dots)}" stroke="{LINE}" stroke-width="{3 if len(dots) > 100 else 4.5}" {shape}/>',
    ]


def _special(mark: Mark, x: float, y: float | None) -> str:
    if y is None:
        foot = HEIGHT - BOTTOM - 5
        drawn = f'<path d="M{x - 3:.1f} {foot - 3}l6 6m0 -6l-6 6" stroke="{SLOWER}" stroke-width="1.6"/>'
    elif mark.slower:
        drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{SLOWER}"/>'
    else:
        return ""
    linked = f'<a href="{escape(mark.href)}">{drawn}</a>' if mark.href else drawn
    return f"<g><title>{escape(mark.note)}</title>{linked}</g>"


# --- page
# index.html: every study, newest first, and every cell through time.

Record = dict[str, Any]
# So many stand before the plots; the rest comes after them.
NEWEST = 10


def render(found: Sequence[Series], database: Path) -> str:
    """The page as text; links are relative to the database's folder."""
    studies = sorted((study for one in found for study in one.studies), key=lambda study: study["measured_at"])
    folder = database.parent
    template = environment("bench.history").get_template("index.html.j2")
    return template.render(
        studies=[study | _links(study, folder) for study in reversed(studies)],
        series=[_section(one, folder) for one in found],
        folder=folder.resolve().name,
        newest=NEWEST,
    )


def _section(one: Series, folder: Path) -> Record:
    by_id = {study["id"]: study for study in one.studies}
    times = {study_id: seconds_of(study["measured_at"]) for study_id, study in by_id.items()}
    marks = [
        Change(times[study_id], _letter(number), "; ".join(texts))
        for number, (study_id, texts) in enumerate(one.changes.items())
    ]
    span = min(times.values()), max(times.values())
    current = {point.study_id for trend in one.trends for point in trend.points[-1:]}
    newest = max(current, key=lambda study_id: times[study_id], default=None)
    return {
        "study_name": one.study_name,
        "host": one.host,
        "count": len(one.studies),
        "changes": [
            {"letter": mark.letter, "when": by_id[study_id]["measured_at"][:10], "texts": texts}
            for mark, (study_id, texts) in zip(marks, one.changes.items(), strict=True)
        ],
        "plots": [
            {
                "cell": trend.cell,
                "title": trend.cell.removeprefix("pipeline_"),
                "svg": _plot(trend, by_id, times, marks, span, folder),
                "old": bool(trend.points) and trend.points[-1].study_id != newest,
            }
            for trend in one.trends
        ],
    }


def _plot(
    trend: Trend,
    by_id: dict[int, Record],
    times: dict[int, float],
    changes: Sequence[Change],
    span: tuple[float, float],
    folder: Path,
) -> str:
    return trend_svg(
        trend.cell, [_mark(point, by_id[point.study_id], times, folder) for point in trend.points], changes, span
    )


def _mark(point: Point, study: Record, times: dict[int, float], folder: Path) -> Mark:
    slower = point.verdict == "SLOWER"
    if point.samples_s and not slower:
        return Mark(times[point.study_id], point.samples_s)
    when = study["night"] or study["measured_at"][:10]
    said = f"{when}: slower" if slower else f"{when}: {point.outcome} {point.reason}".rstrip()
    return Mark(times[point.study_id], point.samples_s, slower, _links(study, folder)["report"], said)


def _links(study: Record, folder: Path) -> Record:
    night = study["night"] and f"nightly/{study['night']}/verdict.html"
    return {
        "report": _href(folder, study["run_directory"], "report.html"),
        "night_page": quote(night) if night and (folder / night).is_file() else "",
    }


def _href(folder: Path, *parts: str) -> str:
    return quote(os.path.relpath(folder.joinpath(*parts), folder))


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


# --- remember
# What the end of a study does to the history: best effort, a locked history must not cost a study.

def into_history(results: dict[str, Any], output_dir: Path) -> bool:
    """Add a study to outputs/history.db and draw outputs/index.html again. If that fails: a line, and False."""
    database = history_path(output_dir)
    try:
        add_study(results, database)
        write_index(database)
    except StudyError as error:
        by_hand = f"numastudy history --add {results['run_directory']}"
        print(f"not in the history: {error}\nlater: {by_hand}; the same command tries it too", flush=True)
        return False
    return True


def write_index(database: Path) -> Path:
    """index.html beside the database. Raises StudyError."""
    with open_history(database) as history:
        text = render(series(history), database)
    path = database.parent / "index.html"
    write_text(path, text)
    return path
