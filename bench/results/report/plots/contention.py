"""GB/s into each GPU, and into all of them together, against the number of GPUs busy."""

from typing import Any

from matplotlib.axes import Axes

from bench.results.report.contention import Group, group_title, groups, is_alike
from bench.results.report.plots.style import COLOURS, INK, MUTED, Picture, canvas, colour, to_svg
from bench.results.words import bandwidth

Record = dict[str, Any]


def contention_pictures(entries: list[Record]) -> dict[str, Picture]:
    """By title of the group, one for each model, load and placement of the others: left a GPU, right all together."""
    drawn = {group: own for group, own in groups(entries).items() if any(one["h2d_gb_s"] for one in own)}
    return {group_title(group): _draw(group, own) for group, own in drawn.items()}


def _draw(group: Group, entries: list[Record]) -> Picture:
    busy = sorted({entry["busy"] for entry in entries})
    series = sorted({(entry["gpu"], entry["cpu_node"], entry["mem_node"]) for entry in entries})
    many_places = len({key[1:] for key in series}) > 1
    labels = {key: f"GPU {key[0]}" + (f" · node {key[2]}" if many_places else "") for key in series}
    alt = f"GB/s into each GPU by GPUs busy, {group_title(group)}. " + " ".join(
        f"{label}: " + ", ".join(f"{one['busy']}: {bandwidth(one['h2d_gb_s'])}" for one in _of(entries, key)) + "."
        for key, label in labels.items()
    )
    legend_in = 0.5 + 0.075 * max(map(len, labels.values()))
    with canvas(9.6, 3.1, ["000"], top_in=0.35, bottom_in=0.45, right_in=legend_in) as figure:
        figure.subplots_adjust(wspace=0.22)
        each, all_ = figure.subplots(1, 2)
        for index, (key, label) in enumerate(labels.items()):
            own = [entry for entry in _of(entries, key) if entry["h2d_gb_s"]]
            shade, stroke = colour(index), "-" if index < len(COLOURS) else "--"
            xs = [busy.index(entry["busy"]) for entry in own]
            each.plot(xs, [entry["h2d_gb_s"] for entry in own], stroke, color=shade, alpha=0.5)
            for x, entry in zip(xs, own, strict=True):
                each.plot(x, entry["h2d_gb_s"], "o", color=shade, markersize=4.5)[0].set_url(f"#runs-{entry['cell']}")
                _together(all_, x + 0.02 * (index - len(labels) / 2), entry, shade)
            all_.plot([], [], f"o{stroke}", color=shade, label=label)
        if is_alike(entries) and busy[0] == 1:
            alone = max(entry["h2d_gb_s"] or 0 for entry in entries if entry["busy"] == 1)
            all_.plot(range(len(busy)), [alone * number for number in busy], ":", color=MUTED, linewidth=1)
        for axes, title in ((each, "GB/s into the measured GPU"), (all_, "GB/s into all busy GPUs")):
            axes.set_title(title, fontsize=9.5)
            axes.set_xticks(range(len(busy)), [f"{number}" for number in busy])
            axes.set_xlim(-0.4, len(busy) - 0.6)
            axes.set_xlabel("GPUs busy")
        each.set_ylim(0, 1.1 * max(entry["h2d_gb_s"] or 0 for entry in entries))
        all_.set_ylim(bottom=0)
        all_.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, fontsize=8.5)
        return Picture(group_title(group), alt, to_svg(figure, alt, f"contention {group}"), wide=True)


def _together(axes: Axes, x: float, entry: Record, shade: str) -> None:
    told = entry["together"]["h2d_gb_s"]
    if told["value"]:
        axes.plot(x, told["value"], "o", color=shade, markersize=4.5)
    if told["interval"]:
        axes.plot([x, x], told["interval"], color=INK, linewidth=1.1)


def _of(entries: list[Record], key: tuple[int, int, int]) -> list[Record]:
    own = [entry for entry in entries if (entry["gpu"], entry["cpu_node"], entry["mem_node"]) == key]
    return sorted(own, key=lambda entry: entry["busy"])
