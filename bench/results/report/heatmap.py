"""GPU x node, one small map a model: throughput, coloured by what is surely lost against the best node of the row."""

from dataclasses import dataclass
from typing import Any

from bench.results.report.labels import by_series, device_label, node_label, place_of, placements
from bench.results.words import percent, rate

Record = dict[str, Any]
FULL_LOSS = 0.4
"""The loss at which the colour is fullest. One scale for all maps, so that colours can be compared."""
_SCALE = ((255, 255, 255), (253, 224, 189), (246, 173, 106))


@dataclass(frozen=True)
class Tile:
    """text and note are what stands in the tile; local marks the node the penalties are counted from."""

    text: str
    note: str
    colour: str
    cell: str | None
    local: bool


@dataclass(frozen=True)
class Map:
    model: str
    places: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]


def maps(results: Record) -> list[Map]:
    """Empty where there is nothing to compare: one placement only."""
    cells = results["cells"]
    places = placements(cells)
    if len(places) < 2:
        return []
    local = {entry["gpu"]: entry["local_node"] for entry in results["penalties"]}
    notes = {entry["remote_cell"]: _not_sure(entry) for entry in results["penalties"]}
    return [_map(model, group, places, local, notes) for model, group in by_series(cells).items()]


def _not_sure(entry: Record) -> str:
    """What stands in a tile instead of a loss that may be noise; of a single pair nothing better is known."""
    verdict = entry["verdict"]
    if entry["interval"] is None:
        return ""
    if verdict in ("SLOWER", "FASTER"):
        return "" if entry["headline"] else f"probably {verdict.lower()}"
    return "same" if verdict == "SAME" else "not decided"


def _map(
    model: str, cells: list[Record], places: list[tuple[int, int]], local: dict[int, int], notes: dict[str, str]
) -> Map:
    rows = []
    for gpu in sorted({cell["gpu"] for cell in cells}):
        own = {place_of(cell): cell for cell in cells if cell["gpu"] == gpu}
        sure = [cell for cell in own.values() if not notes.get(cell["name"])]
        best = max((cell["throughput_samples_s"] or 0.0 for cell in sure), default=0.0)
        near = (local.get(gpu), local.get(gpu))
        alone = len(sure) < 2
        tiles = tuple(_tile(own.get(place), best, place == near, notes, alone) for place in places)
        rows.append((device_label(next(iter(own.values()))), tiles))
    return Map(model, tuple(node_label(*place) for place in places), tuple(rows))


def _tile(cell: Record | None, best: float, local: bool, notes: dict[str, str], alone: bool) -> Tile:
    """alone: no other node of the row is surely better or worse."""
    if cell is None:
        return Tile("", "", "#FFFFFF", None, local)
    rate_here = cell["throughput_samples_s"]
    if not rate_here:
        return Tile(cell["outcome"].replace("_", " "), "", "#EDEFF2", cell["name"], False)
    if note := notes.get(cell["name"]):
        return Tile(rate(rate_here), note, "#FFFFFF", cell["name"], local)
    loss = 1 - rate_here / best
    if loss == 0 and alone:
        return Tile(rate(rate_here), "", "#FFFFFF", cell["name"], local)
    return Tile(rate(rate_here), "best" if loss == 0 else f"−{percent(loss)}", shade(loss), cell["name"], local)


def shade(loss: float) -> str:
    """White for nothing lost to orange for FULL_LOSS and more; dark text stays readable on all of it."""
    place = min(max(loss / FULL_LOSS, 0.0), 1.0) * (len(_SCALE) - 1)
    low = min(int(place), len(_SCALE) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(_SCALE[low], _SCALE[low + 1], strict=True))
    return "#" + "".join(f"{round(part):02X}" for part in mixed)
