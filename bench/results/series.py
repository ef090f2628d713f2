"""What sets a cell apart from the others of its model, read from the suffixes of its name."""

import re
from typing import Any

Record = dict[str, Any]


def series_label(cell: Record) -> str:
    """The model, with the suffixes that tell cells of one model apart: "vit32x6x512 again"."""
    model = cell["model"]["name"]
    _, found, rest = cell["name"].partition(f"_{model}")
    suffixes = [part for part in rest.split("_") if part and not re.fullmatch(r"cpu\d+", part)]
    return " ".join([model, *suffixes]) if found else cell["name"]


def settings_of(cell: Record) -> str:
    """The suffixes of the cell's name, but for a model listed twice."""
    parts = series_label(cell).split(" ")[1:]
    return " ".join(part for part in parts if not re.fullmatch(r"again\d*", part))
