"""report.html: one file that opens offline. Everything that is not markup is escaped by the templates."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.results import words
from bench.results.load import Stored
from bench.results.measured import measured_at
from bench.results.outcomes import is_untraced
from bench.results.report import axes, contention, limits, link_table, notes, sections
from bench.results.report.answer import answers, cards
from bench.results.report.basis import doubts
from bench.results.report.heatmap import FULL_LOSS, maps, shade
from bench.results.report.hostmap import host_map
from bench.results.report.labels import node_label, panels, placements
from bench.results.report.links import Files
from bench.results.report.paste import near_nodes, recipe_note, recipes
from bench.results.report.plots.bandwidth import bandwidth_pictures
from bench.results.report.plots.contention import contention_pictures
from bench.results.report.plots.latency import latency_pictures
from bench.results.report.plots.links import link_legend, link_pictures
from bench.results.report.plots.penalty import penalty_pictures
from bench.results.report.plots.perturbation import perturbation_pictures
from bench.results.report.plots.scaling import scaling_pictures
from bench.results.report.plots.stages import STAGES, stage_pictures
from bench.results.report.plots.style import NARROW_LABEL, STAGE_COLOURS, colour
from bench.results.report.plots.throughput import throughput_pictures
from bench.results.report.plots.timeline import timeline_pictures, why_no_timeline
from bench.results.report.ways import fastest_ways

Record = dict[str, Any]
_CONTENTS = {
    "recipes": ("use", "Lines to paste"),
    "maps": ("map", "GPU and node"),
    "penalties": ("penalty", "Penalty"),
    "throughput": ("throughput", "Throughput"),
    "scaling": ("scaling", "Scaling"),
    "axes": ("settings", "Settings"),
    "busy": ("contention", "GPUs at once"),
    "stages": ("stages", "Stages"),
    "limits": ("limits", "Limits"),
    "timelines": ("timeline", "Timeline"),
    "latency": ("latency", "Latency"),
    "link_rows": ("links", "Links"),
    "bandwidths": ("bandwidth", "Copies"),
    "perturbation": ("perturbation", "Profiler"),
    "host": ("host", "Host"),
    "rows": ("cells", "All cells"),
    "failures": ("failures", "Failures"),
    "groups": ("runs", "Runs"),
    "method": ("method", "Method"),
}


def render(stored: Stored, results: Record, beside: Path | None = None) -> str:
    """The page as text; of the run directory it reads the traces of the timeline, and which files exist.

    beside: the folder that the page will lie in, where that is not the run directory; it links to what is there.
    """
    files = Files(beside or stored.path)
    found, swept = answers(results), axes.findings(results)
    parts = {
        "results": results,
        "notes": notes.notes(results),
        "host_facts": notes.host_facts(results),
        "measured_at": measured_at(results),
        "cards": cards(found),
        "trust": notes.trust_items(results),
        "doubts": doubts(results),
        "recipes": recipes(results, near_nodes(results, found)),
        "recipe_note": recipe_note(found),
        "penalties": sections.penalty_rows(results, found),
        "effects": sections.effect_rows(results),
        "predictions": limits.prediction_rows(results),
        "axes": axes.axis_sections(results),
        "findings": [*fastest_ways(results), *swept],
        "what_matters": axes.what_matters(swept),
        "axis_pictures": axes.axis_pictures(results),
        "busy": contention.contention_parts(results),
        "link_rows": link_table.link_rows(results["links"], files),
        "link_definition": link_table.definition(results["links"]),
        "link_legend": link_legend(results["links"]),
        "ceilings": link_table.ceilings(results),
        "limits": limits.limit_rows(results),
        "limit_heads": limits.limit_heads(results),
        "crossings": limits.crossings(results),
        "clocks": limits.clock_rows(results),
        "columns": sections.grid_columns(results),
        "untraced": is_untraced(results["cells"]),
        "formats": files.of_results(),
        "rows": sections.grid_rows(results),
        "failures": sections.failure_groups(results, files),
        "groups": sections.run_groups(results, files),
        "twins": sections.twins(results),
        "method": notes.method(results, stored.runs, stored.order),
        "maps": maps(results),
        "host": host_map(results),
        **_legends(results["cells"]),
        **_pictures(stored, results, found),
    }
    missing = "" if parts["timelines"] else _no_timeline(stored, results)
    parts["no_timeline"] = missing
    # Without penalties the settings are what the study is about, and come first.
    order = _CONTENTS if results["penalties"] else {"axes": _CONTENTS["axes"]} | _CONTENTS
    parts["contents"] = [entry for key, entry in order.items() if parts[key]]
    return _environment().get_template("page.html.j2").render(parts)


def _pictures(stored: Stored, results: Record, found: list) -> Record:
    cells = results["cells"]
    return {
        "throughput": throughput_pictures(cells),
        "penalty_pictures": penalty_pictures(cells, found),
        "scaling": scaling_pictures(cells),
        "stages": stage_pictures(cells),
        "timelines": timeline_pictures(stored.path, cells),
        "latency": latency_pictures(cells),
        "bandwidths": bandwidth_pictures(cells, results["links"]),
        "contention": contention_pictures(results["contention"]),
        "link_pictures": link_pictures(results["links"]),
        "perturbation": perturbation_pictures(cells),
    }


def _no_timeline(stored: Stored, results: Record) -> str:
    return why_no_timeline(stored.path, results["cells"], str(results["study"].get("retention") or "keep"))


def _legends(cells: list[Record]) -> Record:
    places = placements(cells)
    return {
        "crowded": any(len(label) > NARROW_LABEL for panel in panels(cells) if panel[0] for label in panel[2]),
        "intervals": any(len(cell["throughput_runs"]) > 1 for cell in cells),
        "place_legend": [(node_label(*place), colour(index)) for index, place in enumerate(places) if len(places) > 1],
        "stage_legend": [(name, STAGE_COLOURS[name]) for name in STAGES],
        "lane_legend": [
            (name.upper() if "2" in name else name, STAGE_COLOURS[name]) for name in ("h2d", "compute", "d2h")
        ],
        "scale": [(words.percent(FULL_LOSS * part / 4), shade(FULL_LOSS * part / 4)) for part in range(5)],
    }


def _keep_numbers_whole(text: str) -> str:
    """No line break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=[%±])|(?<=[±×]) |(?<=%) (?=±)", "\u00a0", text)


def _ticked(text: str) -> Markup:
    """What stands between backticks is code; all of it is escaped."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bench.results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    environment.filters["nb"] = _keep_numbers_whole
    environment.filters["ticked"] = _ticked
    environment.filters["micro"] = lambda text: re.sub(r"(?<=\d) us\b", " µs", text)
    source, _, _ = environment.loader.get_source(environment, "style.css")
    environment.globals["css"] = Markup(source)
    return environment
