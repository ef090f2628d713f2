"""The templates of all pages, in one look. Loads no plotting library."""

import re
from functools import cache

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench import units


@cache
def environment(package: str) -> Environment:
    """Templates of `package`, else the report's. All text is escaped; an unknown name is an error."""
    loader: BaseLoader = ChoiceLoader([PackageLoader(package), PackageLoader("bench.report")])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source, _, _ = loader.get_source(made, "style.css")
    made.globals |= {"css": Markup(source), "plural": units.plural}
    made.filters |= {
        "svg": Markup,
        "cell_label": units.cell_label,
        "rate": units.rate,
        "microseconds": units.microseconds,
        "tick": units.tick,
        "timestamp": units.timestamp,
        "duration": units.duration,
        "byte_size": units.byte_size,
        "share": units.percent,
        "signed": units.signed_percent,
        "setting": units.exact_percent,
        "nb": units.no_break,
        "anchor": anchor,
        "inline_code": inline_code,
    }
    return made


def anchor(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def inline_code(text: str) -> Markup:
    """Commands in a remedy are between backticks; all of it is escaped."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))
