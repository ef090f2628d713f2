"""Throughput against depth and against width, where a study has such a series of models."""

from bench.results.intervals import interval_of
from bench.results.report.labels import device_label, place_of, placements, row_label
from bench.results.report.plots.style import Picture, canvas, colour, draw_interval, to_svg
from bench.results.series import settings_of
from bench.results.words import rate

AXES = {"depth": ("patch_size", "dim"), "dim": ("patch_size", "depth")}
NAMES = {"depth": "layers", "dim": "width"}
SHORTEST = 3
MOST_PANELS = 6


def series(cells: list[dict], axis: str) -> dict[tuple, list[dict]]:
    """Cells that differ in `axis` alone, in series of at least three different values, by what they share, model first.

    A model listed twice is in its series twice.
    """
    groups: dict[tuple, list[dict]] = {}
    for cell in cells:
        if cell["model"]["depth"] and cell["throughput_samples_s"]:
            shared = tuple(cell["model"][key] for key in AXES[axis])
            groups.setdefault((shared, cell["gpu"], place_of(cell), settings_of(cell)), []).append(cell)
    long = {key: sorted(group, key=lambda cell: cell["model"][axis]) for key, group in groups.items()}
    return {key: group for key, group in long.items() if len({c["model"][axis] for c in group}) >= SHORTEST}


def scaling_pictures(cells: list[dict]) -> list[Picture]:
    """A panel for each series; none where there are so many that only the comparison along the axis can be read."""
    pictures = []
    if sum(len({key[0] for key in series(cells, axis)}) for axis in AXES) > MOST_PANELS:
        return []
    for axis in AXES:
        found = series(cells, axis)
        for shared in dict.fromkeys(key[0] for key in found):
            lines = {key: group for key, group in found.items() if key[0] == shared}
            pictures.append(_panel(axis, shared, list(lines.values()), placements(cells)))
    return pictures


def _panel(axis: str, shared: tuple, lines: list[list[dict]], places: list[tuple[int, int]]) -> Picture:
    constant = " and ".join(
        f"{value} {'pixels a patch' if key == 'patch_size' else NAMES[key]}" if key != "dim" else f"width {value}"
        for key, value in zip(AXES[axis], shared, strict=True)
    )
    title = f"By {NAMES[axis] if axis == 'depth' else 'width'}"
    alt = f"Throughput against {NAMES[axis]}, at {constant}. " + " ".join(
        f"{row_label(line[0])}: "
        + ", ".join(f"{cell['model'][axis]}: {rate(cell['throughput_samples_s'])}" for cell in line)
        + "." for line in lines
    )  # fmt: skip
    largest = 1.5 * max(cell["throughput_samples_s"] for line in lines for cell in line)
    with canvas(3.6, 2.9, bottom_in=0.45) as figure:
        axes = figure.add_subplot()
        for line in lines:
            shade = colour(places.index(place_of(line[0])))
            xs = [cell["model"][axis] for cell in line]
            axes.plot(xs, [cell["throughput_samples_s"] for cell in line], "-", color=shade, alpha=0.4)
            for x, cell in zip(xs, line, strict=True):
                runs = cell["throughput_runs"]
                if len(runs) > 1:
                    draw_interval(axes, interval_of(runs), x, (0.0, largest), upright=True, color=shade)
                hollow = "again" in cell["name"].rsplit("_", 1)[-1]
                face = "white" if hollow else shade
                dot = axes.plot(x, cell["throughput_samples_s"], "o", color=shade, markerfacecolor=face,
                                markersize=5.5 if hollow else 4.5, label=device_label(cell))[0]  # fmt: skip
                dot.set_url(f"#runs-{cell['name']}")
        axes.set_title(title)
        axes.set_xlabel(f"{NAMES[axis]}, at {constant}")
        axes.set_xticks(sorted({cell["model"][axis] for line in lines for cell in line}))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return Picture(title, alt, to_svg(figure, alt, f"scaling {axis} {shared}"))
