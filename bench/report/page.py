"""report.html: one file that opens offline, a list of sections in the order of the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.analysis.load import RunData, measured_at
from bench.records.results import Results
from bench.records.study import EXECUTION_SETTINGS
from bench.report import sections
from bench.report.anchors import ANCHORS
from bench.report.host_map import colour_scale, heatmaps, host_map
from bench.report.html import environment
from bench.report.plots.pipeline import (
    LANES,
    STAGES,
    link_pictures,
    link_places,
    perturbation_pictures,
    stage_pictures,
    timeline_pictures,
    why_no_timeline,
)
from bench.report.plots.placement import bandwidth_pictures, latency_pictures, penalty_pictures, throughput_pictures
from bench.report.plots.style import NARROW_LABEL, STAGE_COLOURS, Picture, colour
from bench.report.plots.sweeps import scaling_pictures
from bench.report.recipes import decided
from bench.report.sections import Page, RunFiles
from bench.report.swept import axis_parts, ceilings, contention_parts, link_rows
from bench.report.text.answer import answers, cards
from bench.report.text.axes import Finding, findings, what_matters
from bench.report.text.contention import contention_lines
from bench.report.text.glossary import GLOSSARY
from bench.report.text.headline import Headline, best_settings, headline
from bench.report.text.host import probed_text
from bench.report.text.scale import scale_of
from bench.report.text.trust import concerns, host_facts, notes, trust_items
from bench.report.text.verdicts import MEASURES
from bench.report.view import Place, View
from bench.units import duration

Part = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One section: its element's id, which also names its template; its title in the contents; what its template gets
    as `part`. Without that it is left out."""

    id: str
    title: str
    values: Callable[[Page], Part | None]


def render(data: RunData, results: Results, beside: Path | None = None) -> str:
    """The page as text; of the run directory it reads the traces of the timeline, and which files exist.

    beside: the folder that the page will be in, where that is not the run directory; it links to what is there.
    """
    view = View(results)
    page = Page(view, data, RunFiles(beside or data.path), answers(view))
    swept, best = all_findings(view), best_settings(view)
    parts = [(section, part) for section in _in_order(view) if (part := section.values(page))]
    return (
        environment("bench.report")
        .get_template("page.html.j2")
        .render(
            results=results,
            view=view,
            notes=notes(view),
            host_facts=host_facts(results),
            measured_at=measured_at(results),
            cards=cards(page.answers),
            copies_only=view.copies_only,
            trust=trust_items(results),
            concerns=concerns(results),
            what_matters=what_matters(swept),
            headline=headline(view),
            best=best,
            findings=_beside(best, swept),
            sections=parts,
        )
    )


def _beside(best: Headline | None, found: Sequence[Finding]) -> list[Finding]:
    """Beside the table of the best settings, the title of an axis that it is about: its section has the values."""
    return [
        replace(one, lines=()) if best and {*one.axis.split(", ")} <= {*EXECUTION_SETTINGS} else one for one in found
    ]


def all_findings(view: View) -> list[Finding]:
    """Of the swept axes; that of busy GPUs has its lines from the comparison over loads."""
    return findings(view.results.comparisons, view.cells, contention_lines(view.results))


def _in_order(view: View) -> Sequence[Section]:
    """Without penalties the settings are the subject of the study, and come first."""
    first = [section for section in SECTIONS if section.id == "settings" and not view.results.penalties]
    return [*first, *(section for section in SECTIONS if section not in first)]


# Values of the sections that are no tables


def _use(page: Page) -> Part | None:
    found, note = decided(page.view)
    return {"recipes": found, "note": note} if found else None


def _map(page: Page) -> Part | None:
    found = heatmaps(page.view)
    if not found:
        return None
    scale = scale_of(next((cell.metric for cell in page.view.results.cells if cell.metric), None))
    return {"maps": found, "words": scale.words, "colours": colour_scale(scale)}


def _penalty(page: Page) -> Part | None:
    view = page.view
    if not view.results.penalties:
        return None
    return {
        "pictures": penalty_pictures(view, page.answers),
        "rows": sections.penalty_rows(page),
        "hints": sections.penalty_hints(view),
        "predictions": sections.prediction_rows(view),
        "effects": sections.effect_rows(view),
        "crossed": sections.crossed_rows(view),
        "changes": sections.change_rows(view),
        "measures": [MEASURES[one] for one in sections.measures(view)],
        "anchors": () if view.is_cpu else ANCHORS,
    }


def _settings(page: Page) -> Part | None:
    found = axis_parts(page.view)
    return {"axes": found} if found else None


def _throughput(page: Page) -> Part | None:
    return _gallery(page, throughput_pictures(page.view))


def _scaling(page: Page) -> Part | None:
    found = scaling_pictures(page.view)
    return {"pictures": found, "twins": sections.twin_lines(page.view)} if found else None


def _contention(page: Page) -> Part | None:
    found = contention_parts(page.view)
    return {"groups": found} if found else None


def _stages(page: Page) -> Part | None:
    part = _gallery(page, stage_pictures(page.view))
    return part and part | {"legend": [(name, STAGE_COLOURS[name]) for name in STAGES]}


def _limits(page: Page) -> Part | None:
    rows = sections.bound_rows(page.view)
    heads = sections.bound_heads(page.view)
    return {"rows": rows, "heads": heads, "crossings": sections.crossings(page.view)} if rows else None


def _timeline(page: Page) -> Part | None:
    pictures = timeline_pictures(page.view, page.data.path)
    missing = "" if pictures else why_no_timeline(page.view, page.data.path)
    legend = [(name.upper() if "2" in name else name, STAGE_COLOURS[name]) for name in LANES]
    return {"pictures": pictures, "legend": legend, "missing": missing} if pictures or missing else None


def _latency(page: Page) -> Part | None:
    return _gallery(page, latency_pictures(page.view))


def _links(page: Page) -> Part | None:
    links = page.view.results.links
    rows = [row | {"href": page.files.href(f"links/{row['name']}.json")} for row in link_rows(page.view)]
    legend = _place_legend(page.view, link_places(links))
    return {"rows": rows, "pictures": link_pictures(page.view), "legend": legend} if rows else None


def _bandwidth(page: Page) -> Part | None:
    part = _gallery(page, bandwidth_pictures(page.view))
    return part and part | {"ceilings": ceilings(page.view.results)}


def _perturbation(page: Page) -> Part | None:
    part = _gallery(page, perturbation_pictures(page.view))
    return part and part | {"clocks": sections.clock_rows(page.view)}


def _host(page: Page) -> Part | None:
    found, locality = host_map(page.view.results), page.view.results.locality
    probed = [f"GPU {gpu.index}: {probed_text(gpu)}" for gpu in locality.gpus]
    unchanged = locality.repeated and not locality.changes
    return {"map": found, "probed": probed, "unchanged": unchanged} if found else None


def _cells(page: Page) -> Part:
    return {
        "columns": sections.cell_columns(page.view),
        "rows": sections.cell_rows(page.view),
        "formats": page.files.of_results(),
    }


def _failures(page: Page) -> Part | None:
    groups, damaged = sections.failure_groups(page), page.view.results.damaged
    return {"groups": groups, "damaged": damaged} if groups or damaged else None


def _runs(page: Page) -> Part:
    return {"groups": sections.run_groups(page)}


def _time(page: Page) -> Part:
    results = page.view.results
    spent = {"from first to last run": results.duration_s, "in runs": results.busy_s, "measured": results.measured_s}
    if found := results.crossings:
        spent["in windows and the batches before them"] = found.windows_s + found.lead_ins_s
    return {"spent": {label: duration(time_s) for label, time_s in spent.items()},
            "rows": sections.run_times(page.view)}  # fmt: skip


def _glossary(page: Page) -> Part:
    return {"terms": GLOSSARY}


def _gallery(page: Page, pictures: Sequence[Picture]) -> Part | None:
    """Small pictures with a colour for each placement; broad where a row has a long name."""
    if not pictures:
        return None
    view = page.view
    labels = [label for title, _, rows in view.panels(view.results.cells) if title for label in rows]
    broad = any(len(label) > NARROW_LABEL for label in labels)
    return {"pictures": pictures, "legend": _place_legend(view, view.places), "broad": broad}


def _place_legend(view: View, places: Sequence[Place]) -> list[tuple[str, str]]:
    """Empty for a single placement."""
    return [(view.label(place), colour(index)) for index, place in enumerate(places) if len(places) > 1]


SECTIONS = (
    Section("use", "Lines to paste", _use),
    Section("map", "GPU and node", _map),
    Section("penalty", "Penalty", _penalty),
    Section("settings", "Settings", _settings),
    Section("throughput", "Throughput", _throughput),
    Section("scaling", "Scaling", _scaling),
    Section("contention", "GPUs at once", _contention),
    Section("stages", "Stages", _stages),
    Section("limits", "Limits", _limits),
    Section("timeline", "Timeline", _timeline),
    Section("latency", "Latency", _latency),
    Section("links", "Links", _links),
    Section("bandwidth", "Copies", _bandwidth),
    Section("perturbation", "Profiler", _perturbation),
    Section("host", "Host", _host),
    Section("cells", "All cells", _cells),
    Section("failures", "Failures", _failures),
    Section("runs", "Runs", _runs),
    Section("time", "Time", _time),
    Section("glossary", "Terms", _glossary),
    Section("method", "Method", sections.method),
)
