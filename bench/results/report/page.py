"""report.html: one file that opens offline. Everything that is not markup is escaped by the templates."""

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.results import words
from bench.results.load import Stored
from bench.results.report import sections
from bench.results.report.answer import answers
from bench.results.report.links import Files
from bench.results.report.plots.stages import stage_pictures
from bench.results.report.plots.throughput import throughput_pictures

Record = dict[str, Any]


def render(stored: Stored, results: Record) -> str:
    """The page as text; reads no files but the names of those that it links to."""
    files = Files(stored.path)
    cells = results["cells"]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            files=files,
            notes=sections.notes(results),
            answers=answers(results),
            trust=sections.trust_items(results),
            columns=sections.GRID_COLUMNS,
            rows=sections.grid_rows(results),
            failures=sections.failures(results),
            groups=sections.run_groups(results, files),
            method=sections.method(results, stored.runs, stored.order),
            throughput=throughput_pictures(cells),
            stages=stage_pictures(cells),
        )
    )


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bench.results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "svg": Markup,
        "percent": words.percent,
        "rate": words.rate,
        "seconds": words.seconds,
        "plural": words.plural,
        "size": words.size,
    }
    source = environment.loader.get_source(environment, "style.css")[0]
    environment.globals["css"] = Markup(source)
    return environment
