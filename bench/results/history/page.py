"""index.html: every study, newest first, and every cell through time."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.results.history.query import Point, Series, Trend
from bench.results.history.trend import Change, Mark, seconds_of, trend_svg
from bench.results.pages import environment

Record = dict[str, Any]
# So many stand before the plots; the rest comes after them.
NEWEST = 10


def render(found: Sequence[Series], database: Path) -> str:
    """The page as text; links are relative to the database's folder."""
    studies = sorted((study for one in found for study in one.studies), key=lambda study: study["measured_at"])
    folder = database.parent
    template = environment("bench.results.history").get_template("index.html.j2")
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
