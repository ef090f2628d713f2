"""Templates of the small pages, in the look of report.html. Loads no plotting library."""

import re
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.results import words


@cache
def environment(package: str) -> Environment:
    """Templates of `package`, else the report's. All text is escaped; what is not known is an error."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("bench.results.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source, _, _ = made.loader.get_source(made, "style.css")
    made.globals["css"] = Markup(source)
    made.filters["svg"] = Markup
    made.filters["rate"] = words.rate
    made.filters["signed"] = signed_percent
    made.filters["share"] = words.percent
    made.filters["anchor"] = anchor
    return made


def signed_percent(share: float | None) -> str:
    """A change: +1.2 %, −5.0 %, or a dash."""
    if share is None:
        return words.NONE
    return f"{'−' if share < 0 else '+'}{abs(100 * share):.{1 if abs(share) >= 0.00995 else 2}f} %"


def anchor(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)
