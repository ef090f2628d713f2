"""The measured links as plain values: a row a GPU and placement, and what the percentages refer to."""

from typing import Any

from bench.results.links import WAYS, ceiling
from bench.results.report.labels import node_label
from bench.results.report.links import Files
from bench.results.words import NONE, bandwidth, microseconds

Record = dict[str, Any]
_DEFINED = "median bandwidth of copies of 512 MiB, timed by events"


def link_rows(links: list[Record], files: Files) -> list[Record]:
    return [
        {
            "name": link["name"],
            "href": files.link(f"links/{link['name']}.json"),
            "device": link_device(link),
            "node": node_label(link["cpu_node"], link["mem_node"]),
            "status": link["status"],
            "reason": link["reason"] or "",
            "placement": link["placement"] or NONE,
            "figures": [
                *(bandwidth(link[f"nvbandwidth_{way}_gb_s"]) for way in WAYS),
                *(bandwidth(_best(link, direction)) for direction in (*WAYS, "both")),
                *(microseconds(link[key]) for key in ("small_copy_us", "launch_us")),
            ],
        }
        for link in links
    ]


def link_device(link: Record) -> str:
    """ "GPU 2"; the cpu device is not called one."""
    return "CPU" if link["device"] == "cpu" else f"GPU {link['gpu']}"


def definition(links: list[Record]) -> str:
    """How nvbandwidth's figures are defined, in the words of what measured them; empty where there are none."""
    for link in links:
        if any(link[f"nvbandwidth_{way}_gb_s"] for way in WAYS):
            return link["nvbandwidth_definition"] or _DEFINED
    return ""


def ceilings(results: Record) -> str:
    """What 100 % of each GPU's link is, in one sentence."""
    gpus = sorted({cell["gpu"] for cell in results["cells"]})
    found = {gpu: [ceiling(results["links"], results["cells"], gpu, way) for way in WAYS] for gpu in gpus}
    sources = dict.fromkeys(one.source for both in found.values() for one in both if one)
    return " and ".join(sources)


def _best(link: Record, direction: str) -> float | None:
    return max((copy["median_gb_s"] for copy in link["copies"] if copy["direction"] == direction), default=None)
