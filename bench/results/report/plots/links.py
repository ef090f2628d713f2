"""Bandwidth of a GPU's link over the size of a copy, a line a placement."""

from typing import Any

from matplotlib.ticker import NullLocator

from bench.results.report.labels import node_label
from bench.results.report.link_table import link_device
from bench.results.report.plots.style import Picture, canvas, colour, to_svg
from bench.results.words import bandwidth

Record = dict[str, Any]
_TITLES = {"h2d": "H2D", "d2h": "D2H", "both": "both, each way"}
_TICKS = {2**12: "4 KiB", 2**20: "1 MiB", 2**30: "1 GiB"}


def link_pictures(links: list[Record]) -> list[Picture]:
    """One figure a GPU: a panel for each direction."""
    measured = [link for link in links if link["copies"]]
    places = sorted({_place(link) for link in measured}, key=lambda place: (place[0] != place[1], place))
    gpus = dict.fromkeys(link["gpu"] for link in measured)
    return [_draw(gpu, [link for link in measured if link["gpu"] == gpu], places) for gpu in gpus]


def link_legend(links: list[Record]) -> list[tuple[str, str]]:
    places = sorted({_place(link) for link in links if link["copies"]}, key=lambda place: (place[0] != place[1], place))
    return [(node_label(*place), colour(index)) for index, place in enumerate(places) if len(places) > 1]


def _draw(gpu: int, links: list[Record], places: list[tuple[int, int]]) -> Picture:
    device = link_device(links[0])
    told = []
    with canvas(4.9, 2.0, ["00"], top_in=0.55, bottom_in=0.3, right_in=0.25) as figure:
        figure.subplots_adjust(wspace=0.3)
        panels = figure.subplots(1, len(_TITLES), sharey=True)
        for axes, (direction, title) in zip(panels, _TITLES.items(), strict=True):
            for link in links:
                points = sorted(
                    (copy["bytes"], copy["median_gb_s"]) for copy in link["copies"] if copy["direction"] == direction
                )
                if not points:
                    continue
                shade = colour(places.index(_place(link)))
                axes.plot(*zip(*points, strict=True), "o-", color=shade, markersize=2.6, linewidth=1.2)
                told.append(f"{title}, {node_label(*_place(link))}: up to {bandwidth(max(y for _, y in points))} GB/s")
            axes.set_xscale("log")
            axes.set_xticks(list(_TICKS), list(_TICKS.values()), fontsize=7.5)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(title, fontsize=9, fontweight="normal")
        panels[0].set_ylim(0, 1.08 * max(copy["median_gb_s"] for link in links for copy in link["copies"]))
        figure.text(0.01, 1 - 0.2 / figure.get_figheight(), f"{device}, GB/s", fontsize=10, fontweight="bold")
        alt = f"Bandwidth of {device} over the size of a copy. " + "; ".join(told)
        return Picture(device, alt, to_svg(figure, alt, f"link {gpu}"))


def _place(link: Record) -> tuple[int, int]:
    return link["cpu_node"], link["mem_node"]
