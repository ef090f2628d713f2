"""Sections of swept axes and contention as values."""

from statistics import geometric_mean
from typing import Any

from bench.legacy.aggregate import WAYS, ceiling
from bench.legacy.axes import change
from bench.report.labels import Files, node_label
from bench.units import NONE, at_most, bandwidth, microseconds, percent, rate, share_with_interval

# --- contention
# Several GPUs at once, as plain values for the templates: what each keeps, and what they carry together.

Record = dict[str, Any]
Group = tuple[str, str, str]
_PLACEMENTS = {
    "local": "all on their nearest node",
    "remote": "the others on another node than their nearest",
    "found": "the others not bound",
}
_LOADS = {"pipeline": "the others run the same pipeline", "copies": "the others only copy"}


def groups(entries: list[Record]) -> dict[Group, list[Record]]:
    """Entries that belong into one picture, by (model, load, placement of the others); each with those alone."""
    found: dict[Group, list[Record]] = {}
    for entry in entries:
        if entry["busy"] > 1:
            found.setdefault((entry["model"], entry["load"], entry["placement"]), []).append(entry)
    alone = {entry["cell"]: entry for entry in entries if entry["busy"] == 1}
    for own in found.values():
        own += [alone[cell] for cell in dict.fromkeys(entry["base_cell"] for entry in own) if cell in alone]
        own.sort(key=lambda entry: (entry["gpu"], entry["mem_node"], entry["busy"]))
    return found


def group_title(group: Group) -> str:
    return f"{group[0]}, {_company(group)}"


def contention_parts(results: Record) -> list[Record]:
    """A part a model, load and placement: the sentences, a matrix GPU x GPUs busy, and every comparison."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    parts = []
    for group, entries in groups(results["contention"]).items():
        busy = sorted({entry["busy"] for entry in entries})
        parts.append(
            {
                "title": group_title(group),
                "sentences": [_sentence(entries, number) for number in busy if number > 1],
                "columns": ["alone" if number == 1 else f"{number} busy" for number in busy],
                "matrix": _matrix(entries, busy),
                "rows": [_row(entry, cells) for entry in entries if entry["busy"] > 1],
            }
        )
    return parts


def contention_lines(results: Record) -> list[str]:
    """For the first screen: what is left with most GPUs busy, one line a model over what the others do. With one node
    there is none that is nearest."""
    nodes = len(results["topology"].get("nodes") or [])
    by_model: dict[str, list[tuple[Group, list[Record]]]] = {}
    for group, entries in groups(results["contention"]).items():
        by_model.setdefault(group[0], []).append((group, entries))
    lines = []
    for model, own in by_model.items():
        most = max((max(_busy(entries), default=0) for _, entries in own), default=0)
        found = [(group, entries) for group, entries in own if most in _busy(entries)]
        said = [
            f"{_left(entries, most)} while {_company(group) if nodes > 1 else _load(group)}{_of_link(entries, most)}"
            for group, entries in found
        ]
        lines.append(f"{model}, {most} GPUs busy: {'; '.join(said)}." if said else f"{model}: not measured.")
    return lines


def _busy(entries: list[Record]) -> list[int]:
    """The numbers of GPUs busy together that were measured."""
    return sorted({entry["busy"] for entry in entries if entry["busy"] > 1 and entry["samples_s"]})


def _company(group: Group) -> str:
    return f"{_load(group)}, {_PLACEMENTS.get(group[2], group[2])}"


def _load(group: Group) -> str:
    return _LOADS.get(group[1], group[1])


def _left(entries: list[Record], busy: int) -> str:
    """Of the throughput that each measured GPU has alone: "33 % to 46 % is left"."""
    told = [entry for entry in entries if entry["busy"] == busy and entry["effect"] is not None]
    if not told:
        return "not compared with a GPU alone"
    if all(entry["verdict"] == "SAME" for entry in told):
        return f"all is left (SAME within {at_most(max(abs(end) for entry in told for end in entry['interval']))})"
    low, high = (pick(told, key=lambda entry: entry["effect"]) for pick in (min, max))
    said = f"{percent(1 + low['effect'])} to {percent(1 + high['effect'])}"
    if low is high:
        interval = low["interval"] and [-end for end in reversed(low["interval"])]
        said = share_with_interval(1 + low["effect"], interval)
    undecided = [entry for entry in told if entry["verdict"] not in ("SAME", "SLOWER", "FASTER")]
    doubt = f" ({len(undecided)} of {len(told)} undecided)" if len(told) > 1 else " (undecided)"
    return f"{said} is left{doubt if undecided else ''}"


def _of_link(entries: list[Record], busy: int) -> str:
    """ " (17.9 to 25.3 of 54.1 GB/s in)", where that says more than that all is left."""
    own, alone = ([entry for entry in entries if entry["busy"] == number] for number in (busy, 1))
    if not alone or all(entry["verdict"] == "SAME" for entry in own):
        return ""
    return f" ({_range(own, 'h2d_gb_s')} of {_range(alone, 'h2d_gb_s')} GB/s in)"


def _sentence(entries: list[Record], busy: int) -> str:
    """ "8 GPUs busy: 33 % to 46 % is left; 17.9 to 25.3 GB/s each way for each (alone 54.1), together 172 GB/s in." """
    if busy not in _busy(entries):
        return f"{busy} GPUs busy: not measured."
    own = [entry for entry in entries if entry["busy"] == busy]
    names = {entry["cell"]: entry for entry in entries}
    alone = [names[entry["base_cell"]] for entry in own if entry["base_cell"] in names]
    together = [value for entry in own if (value := entry["together"]["h2d_gb_s"]["value"])]
    # Where the others only copy, what the measured one carries is not what each does.
    each = "for each" if is_alike(own) else "in the measured one"
    said = f"{busy} GPUs busy: {_left(own, busy)}; {_both_ways(own)} {each}"
    if alone:
        said += f" (alone {_both_ways(alone)})"
    return f"{said}, together {bandwidth(geometric_mean(together))} GB/s in." if together else f"{said}."


def is_alike(entries: list[Record]) -> bool:
    """Whether all busy GPUs run the same pipeline, so that their samples and what one carries alone can be added up."""
    return all(entry["load"] in (None, "pipeline") for entry in entries)


def _both_ways(entries: list[Record]) -> str:
    into, out = (_range(entries, f"{way}_gb_s") for way in ("h2d", "d2h"))
    return f"{into} GB/s each way" if into == out else f"{into} GB/s in and {out} out"


def _range(entries: list[Record], key: str) -> str:
    known = [entry[key] for entry in entries if entry[key]]
    if not known:
        return NONE
    low, high = bandwidth(min(known)), bandwidth(max(known))
    return low if low == high else f"{low} to {high}"


def _matrix(entries: list[Record], busy: list[int]) -> list[Record]:
    """Rows of GPU and node: H2D and D2H GB/s for each number of GPUs busy. GPUs that were only ever company of a
    measured one come last, without a node."""
    seen: dict[tuple[int, int | None, str], dict[int, list[Record]]] = {}
    for entry in entries:
        place = node_label(entry["cpu_node"], entry["mem_node"])
        seen.setdefault((entry["gpu"], entry["mem_node"], place), {})[entry["busy"]] = [entry]
    measured = {gpu for gpu, _, _ in seen}
    for entry in entries:
        for peer in entry["others"]:
            if peer["gpu"] not in measured:
                row = seen.setdefault((peer["gpu"], None, "beside the others"), {})
                row.setdefault(entry["busy"], []).append(peer)
    rows = sorted(seen.items(), key=lambda row: (row[0][1] is None, row[0][0]))
    return [
        {"device": f"GPU {gpu}", "node": place, "tiles": [_tile(row.get(number) or []) for number in busy]}
        for (gpu, _, place), row in rows
    ]


def _tile(own: list[Record]) -> Record:
    known = [[one[f"{way}_gb_s"] for one in own if one[f"{way}_gb_s"]] for way in ("h2d", "d2h")]
    text = " / ".join(bandwidth(geometric_mean(values)) if values else NONE for values in known) if own else ""
    return {"text": text, "cell": own[0].get("cell") if own else None}


def _row(entry: Record, cells: dict[str, Record]) -> Record:
    base = cells.get(entry["base_cell"] or "")
    sums = entry["together"]
    return {
        "cell": entry["cell"],
        "device": f"GPU {entry['gpu']}",
        "node": node_label(entry["cpu_node"], entry["mem_node"]),
        "busy": entry["busy"],
        "alone": rate(base["throughput_samples_s"]) if base else NONE,
        "samples": rate(entry["samples_s"]),
        "change": NONE if entry["effect"] is None else change(entry["effect"], entry["interval"]),
        "verdict": entry["verdict"] or "",
        "together": rate(sums["samples_s"]["value"]) if is_alike([entry]) else NONE,
        "together_gb_s": _with_interval(sums["h2d_gb_s"]),
        "runs": sums["runs"],
    }


def _with_interval(told: Record) -> str:
    if told["interval"] is None:
        return bandwidth(told["value"])
    return f"{bandwidth(told['value'])} [{', '.join(map(bandwidth, told['interval']))}]"


# --- link_table
# The measured links as plain values: a row a GPU and placement, and what the percentages refer to.

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
