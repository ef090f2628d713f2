"""report.html: sections from values, one environment."""

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench import units
from bench.legacy.aggregate import MISSING, is_untraced, told_outcome
from bench.legacy.axes import series_label
from bench.legacy.bound import TERMS, copy_state
from bench.legacy.load import Stored, measured_at
from bench.legacy.verdicts import is_blind, rules_of
from bench.report import axes
from bench.report import swept as contention
from bench.report import swept as link_table
from bench.report import text as notes
from bench.report.host_map import FULL_LOSS, host_map, maps, shade
from bench.report.labels import Files, device_label, node_label, panels, place_of, placements
from bench.report.plots.pipeline import (
    STAGES,
    link_legend,
    link_pictures,
    perturbation_pictures,
    stage_pictures,
    timeline_pictures,
    why_no_timeline,
)
from bench.report.plots.placement import bandwidth_pictures, latency_pictures, penalty_pictures, throughput_pictures
from bench.report.plots.style import NARROW_LABEL, STAGE_COLOURS, colour
from bench.report.plots.sweeps import contention_pictures, scaling_pictures
from bench.report.tables import COLUMNS, display_row
from bench.report.text import Answer, answers, cards, doubts, fastest_ways
from bench.units import NONE, microseconds, percent, rate, seconds, signed_share

# --- sections
# The tables of the page as plain values: no markup here, no thinking in the templates.

Record = dict[str, Any]
TOP_KERNELS = 8
_WHO = ("model", "device", "node", "outcome")
# Of the numbers of a row in tables.COLUMNS, those that come from a trace.
_FROM_TRACE = ("H2D GB/s", "D2H GB/s", "efficiency")


def grid_columns(results: Record) -> list[str]:
    """Those that say who a cell is, its numbers, and its regime; without a trace none that would be empty."""
    if is_untraced(results["cells"]):
        return [*_WHO, *(column for column in COLUMNS[2:-1] if column not in _FROM_TRACE), "solo"]
    return [*_WHO, *COLUMNS[2:-1], "solo", "traced", "regime"]


def grid_rows(results: Record) -> list[Record]:
    """The table of cells, the numbers in the order of grid_columns."""
    columns = grid_columns(results)
    rows = []
    for cell in results["cells"]:
        numbers = dict(zip(COLUMNS[2:-1], display_row(cell)[2:-1], strict=True))
        numbers |= {"solo": percent(cell["efficiency_solo"]), "traced": percent(cell["perturbation"])}
        rows.append(
            {
                "name": cell["name"],
                "outcome": cell["outcome"],
                "told": told_outcome(cell),
                "model": series_label(cell),
                "device": device_label(cell),
                "node": node_label(*place_of(cell)),
                "values": [numbers[column] for column in columns if column in numbers],
                "regime": (cell["metrics"] or {}).get("regime") or NONE,
                "remarks": len(cell["remarks"]),
                "perturbed": cell["perturbation"] is not None and not cell["clocks"]["events_comparable"],
            }
        )
    return rows


def penalty_rows(results: Record, answers: list[Answer]) -> list[Record]:
    """One row for each comparison, those that could not be made included."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    figures = {loss.cell: loss for answer in answers for loss in answer.losses}
    rows = []
    for entry in results["penalties"]:
        remote, loss = cells[entry["remote_cell"]], figures.get(entry["remote_cell"])
        rows.append(
            {
                "model": series_label(remote),
                "device": device_label(remote),
                "local_node": entry["local_node"],
                "local_cell": entry["local_cell"],
                "remote_cell": entry["remote_cell"],
                "place": node_label(*place_of(remote)),
                "figure": signed_share(loss.share, loss.interval) if loss else NONE,
                "verdict": entry["verdict"] or "",
                "text": entry["text"],
                "hint": entry.get("hint") or "",
                "detectable": NONE if is_blind(entry["mde"]) else percent(entry["mde"]),
                "pairs": entry["pairs"],
                "class": cells[entry["local_cell"]]["penalty_class"] or NONE,
            }
        )
    return rows


def effect_rows(results: Record) -> list[Record]:
    """CPU part, memory part and interaction, where a study has all four placements."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    return [
        {
            "model": series_label(cells[entry["remote_cell"]]),
            "device": device_label(cells[entry["remote_cell"]]),
            "place": f"node {entry['remote_node']}",
            "cell": entry["remote_cell"],
            "effects": [entry["effects"][part]["text"] for part in ("cpu", "memory", "interaction")],
        }
        for entry in results["penalties"]
        if entry.get("effects")
    ]


def failure_groups(results: Record, files: Files) -> list[Record]:
    """Cells that are not ok; those with the same outcome, reason and log stand together, what is only missing last."""
    groups: dict[Any, Record] = {}
    for cell in results["cells"]:
        if cell["outcome"] == "ok":
            continue
        said = {key: cell[key] for key in ("outcome", "reason", "advice", "log_tail")} | {"told": told_outcome(cell)}
        group = groups.setdefault(repr(said), said | {"cells": []})
        run = cell["failed_run"] or cell["name"]
        group["cells"].append((cell["name"], run, files.of_run(run)))
    return sorted(groups.values(), key=lambda group: group["outcome"] == MISSING)


def run_groups(results: Record, files: Files) -> list[Record]:
    """Every run of every cell with its links."""
    groups = []
    for cell in results["cells"]:
        runs = [
            {
                "run": run["run"],
                "repeat": run["repeat"],
                "status": run["status"],
                "throughput": rate(run["throughput_samples_s"]),
                "placement": run["placement"] or NONE,
                "disturbed": run["disturbed"],
                "position": NONE if run["position"] is None else run["position"],
                "wall": seconds(run["wall_s"]),
                "links": files.of_run(run["run"]),
            }
            for run in cell["runs"]
        ]
        links = files.of_trace(cell["name"])
        said = {"remarks": cell["remarks"], "kernels": kernel_rows(cell["metrics"] or {})}
        known = {"name": cell["name"], "outcome": cell["outcome"], "told": told_outcome(cell)}
        groups.append(known | {"runs": runs, "links": links} | said)
    return groups


def kernel_rows(metrics: Record) -> list[tuple[str, str, str, str]]:
    """(name, calls, time of one, share of the window) of the kernels that took most time."""
    return [
        (
            kernel["name"],
            f"{kernel['calls']:,}",
            microseconds(kernel["total_ns"] / kernel["calls"] / 1e3),
            percent(kernel["total_ns"] / metrics["window_ns"]),
        )
        for kernel in (metrics.get("top_kernels") or [])[:TOP_KERNELS]
    ]


def twins(results: Record) -> list[Record]:
    """A model listed twice, against itself: name and what came out."""
    from bench.legacy.noise_floor import evaluate

    cells = [cell for cell in results["cells"] if cell["throughput_samples_s"]]
    labels = {cell["name"]: series_label(cell) for cell in cells}
    told = []
    for pair in evaluate(cells, rules_of(results["study"]).margin).comparisons:
        name = pair["name"].split(" / ", 1)[0]
        told.append({"name": labels.get(name, name), "text": pair["text"]})
    return told


# --- limits
# Tables of what sets the pace: bound, clocks, predictions. Plain values for the templates.

Record = dict[str, Any]


_HEADS = {"h2d": "copy in", "d2h": "copy out"}


def limit_heads(results: Record) -> list[str]:
    """Columns of the terms that any cell has."""
    return [_HEADS.get(term, term) for term in _terms(results)]


def _terms(results: Record) -> list[str]:
    bounds = [cell["bound"]["terms_us"] for cell in results["cells"] if cell["bound"]]
    return [term for term in TERMS if any(term in terms for terms in bounds)]


def limit_rows(results: Record) -> list[Record]:
    """Cells whose stages were measured alone: terms of the bound, both efficiencies, regime, and the copy."""
    return [
        _who(cell)
        | {
            "terms": [
                (microseconds(cell["bound"]["terms_us"].get(term)), term == cell["bound"]["limit"])
                for term in _terms(results)
            ],
            "bound": microseconds(cell["bound"]["bound_us"]),
            "batch": microseconds(cell["bound"]["batch_us"]),
            "solo": percent(cell["efficiency_solo"]) if cell["efficiency_solo"] else NONE,
            "reason": cell["bound"]["reason"],
            "in_situ": percent((cell["metrics"] or {}).get("pipeline_efficiency")),
            "regime": (cell["metrics"] or {}).get("regime") or NONE,
            "copied": copy_state(cell["bound"]["terms_us"]),
        }
        for cell in results["cells"]
        if cell["bound"]
    ]


def crossings(results: Record) -> list[tuple[str, str, str]]:
    """(label, cell, sentence) for each model measured at several batch sizes."""
    cells = {cell["name"]: cell for cell in results["cells"]}
    found = []
    for group in results["hidden_copies"]:
        if len(group["cells"]) > 1:
            cell = cells[group["cells"][0]]
            who = f"{cell['model']['name']}, {device_label(cell)}, {node_label(*place_of(cell))}"
            found.append((who, cell["name"], group["text"]))
    return found


def clock_rows(results: Record) -> list[Record]:
    return [
        _who(cell)
        | {
            "traced": percent(cell["perturbation"], 3),
            "perturbed": not cell["clocks"]["events_comparable"],
            "host": _off(cell["clocks"]["host_over_trace"]),
            "events": _off(cell["clocks"]["events_over_trace"]),
            "said": "; ".join(cell["clocks"]["disagree"]) or _agreement(cell["clocks"]),
            "disagree": bool(cell["clocks"]["disagree"]),
        }
        for cell in results["cells"]
        if cell["clocks"]["host_over_trace"] and cell["perturbation"]
    ]


def prediction_rows(results: Record) -> list[Record]:
    cells = {cell["name"]: cell for cell in results["cells"]}
    observed = {entry["remote_cell"]: entry for entry in results["penalties"]}
    return [
        _who(cells[said["remote_cell"]])
        | {
            "predicted": percent(said["predicted"]),
            "bracket": f"{percent(said['low'])} to {percent(said['high'])}",
            "observed": signed_share(*(observed[said["remote_cell"]][key] for key in ("penalty", "interval"))),
            "agrees": said["agrees"],
        }
        for said in results["predictions"]
    ]


def _who(cell: Record) -> Record:
    return {
        "cell": cell["name"],
        "model": series_label(cell),
        "device": device_label(cell),
        "node": node_label(*place_of(cell)),
    }


def _agreement(clocks: Record) -> str:
    if not clocks["events_over_trace"]:
        return "host's timer and trace agree"
    if not clocks["events_comparable"]:
        return "host's timer and trace agree; events not judged, the profiler changed the pace"
    return "all agree"


def _off(ratio: float | None) -> str:
    """How far a ratio is from one."""
    return NONE if ratio is None else f"{100 * (ratio - 1):+.2f} %".replace("-", "−")


# --- paste
# Lines to paste: how to hold a program to the nodes that the study found.

Record = dict[str, Any]


def near_nodes(results: Record, found: list[Answer]) -> dict[int, int]:
    """Node by GPU: the answer's; where only one node was measured, that one."""
    nodes = {}
    for answer in found:
        own = {cell["mem_node"] for cell in results["cells"] if cell["gpu"] == answer.gpu}
        if answer.node is not None:
            nodes[answer.gpu] = answer.node
        elif len(own) == 1:
            nodes[answer.gpu] = own.pop()
    return nodes


def recipe_note(found: list[Answer]) -> str:
    """What the lines do not rest on, where nothing was compared."""
    if any(answer.node is not None for answer in found):
        return ""
    return "They hold a program where this study measured it; which node is nearest was not compared."


def recipes(results: Record, nodes: dict[int, int]) -> list[tuple[str, str, str]]:
    """(tool, lines, note) for each way to bind. Empty where no node is known."""
    if not nodes or len(results["topology"].get("nodes") or []) == 1:
        return []  # with a single node there is nothing to choose
    if results["device"] == "cpu":
        node = next(iter(nodes.values()))
        return [("numactl", f"numactl --cpunodebind={node} --membind={node} python serve.py", "")]
    cpus = {node["id"]: node.get("cpus", "") for node in results["topology"].get("nodes", [])}
    return [_numactl(nodes), _slurm(nodes), _torchrun(nodes), _docker(nodes, cpus), _kubernetes()]


def _numactl(nodes: dict[int, int]) -> tuple[str, str, str]:
    lines = [
        f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={gpu} "
        f"numactl --cpunodebind={node} --membind={node} python serve.py"
        for gpu, node in nodes.items()
    ]
    return "numactl", "\n".join(lines), "One process per GPU; bind before the process starts."


def _slurm(nodes: dict[int, int]) -> tuple[str, str, str]:
    """map_ldom and map_mem: node of task 0, 1, ...; see srun(1)."""
    listed = ",".join(map(str, nodes.values()))
    text = (
        f"srun --nodes=1 --exclusive --mem=0 --ntasks={len(nodes)} --gpus-per-node={max(nodes) + 1} \\\n"
        f"     --cpu-bind=map_ldom:{listed} --mem-bind=map_mem:{listed} \\\n"
        f"     sh -c 'set -- {' '.join(map(str, nodes))}; shift $SLURM_LOCALID; "
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=$1 exec python serve.py'"
    )
    note = "Binds only where the job has the whole host. Slurm counts nodes in order: mind gaps in their ids."
    return "Slurm", text, note


def _torchrun(nodes: dict[int, int]) -> tuple[str, str, str]:
    gpus, listed = ",".join(map(str, nodes)), " ".join(map(str, nodes.values()))
    text = (
        "cat > near.sh <<'END'\n"
        "#!/bin/sh\n"
        f'set -- {listed} -- "$@"; shift "$LOCAL_RANK"; node=$1\n'
        'while [ "$1" != -- ]; do shift; done; shift\n'
        'exec numactl --cpunodebind="$node" --membind="$node" python "$@"\n'
        "END\n"
        f"chmod +x near.sh\n"
        f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={gpus} \\\n"
        f"torchrun --nproc-per-node={len(nodes)} --no-python ./near.sh train.py"
    )
    return "torchrun", text, "torchrun's own --numa-binding binds CPUs only, not the memory."


def _docker(nodes: dict[int, int], cpus: dict[int, str]) -> tuple[str, str, str]:
    lines = [
        f"docker run --gpus '\"device={gpu}\"' --cpuset-cpus={cpus.get(node) or f'<CPUs of node {node}>'} "
        f"--cpuset-mems={node} IMAGE"
        for gpu, node in nodes.items()
    ]
    return "docker", "\n".join(lines), "Device numbers are nvidia-smi's, which are in PCI bus order."


def _kubernetes() -> tuple[str, str, str]:
    text = (
        "# KubeletConfiguration\n"
        "cpuManagerPolicy: static\n"
        "memoryManagerPolicy: Static\n"
        "topologyManagerPolicy: single-numa-node\n"
        "# and a pod of class Guaranteed: requests equal limits, whole CPUs\n"
        "resources:\n"
        '  limits: {nvidia.com/gpu: 1, cpu: "8", memory: 32Gi}'
    )
    note = "The kubelet picks the node that the device plugin reports; it cannot be named. Static needs reservedMemory."
    return "Kubernetes", text, note


# --- page
# report.html: one file that opens offline. Everything that is not markup is escaped by the templates.

Record = dict[str, Any]
_CONTENTS = {
    "recipes": ("use", "Lines to paste"),
    "maps": ("map", "GPU and node"),
    "penalties": ("penalty", "Penalty"),
    "throughput": ("throughput", "Throughput"),
    "scaling": ("scaling", "Scaling"),
    "axes": ("settings", "Settings"),
    "busy": ("contention", "GPUs at once"),
    "stages": ("stages", "Stages"),
    "limits": ("limits", "Limits"),
    "timelines": ("timeline", "Timeline"),
    "latency": ("latency", "Latency"),
    "link_rows": ("links", "Links"),
    "bandwidths": ("bandwidth", "Copies"),
    "perturbation": ("perturbation", "Profiler"),
    "host": ("host", "Host"),
    "rows": ("cells", "All cells"),
    "failures": ("failures", "Failures"),
    "groups": ("runs", "Runs"),
    "method": ("method", "Method"),
}


def render(stored: Stored, results: Record, beside: Path | None = None) -> str:
    """The page as text; of the run directory it reads the traces of the timeline, and which files exist.

    beside: the folder that the page will lie in, where that is not the run directory; it links to what is there.
    """
    files = Files(beside or stored.path)
    found, swept = answers(results), axes.findings(results)
    parts = {
        "results": results,
        "notes": notes.notes(results),
        "host_facts": notes.host_facts(results),
        "measured_at": measured_at(results),
        "cards": cards(found),
        "trust": notes.trust_items(results),
        "doubts": doubts(results),
        "recipes": recipes(results, near_nodes(results, found)),
        "recipe_note": recipe_note(found),
        "penalties": penalty_rows(results, found),
        "effects": effect_rows(results),
        "predictions": prediction_rows(results),
        "axes": axes.axis_sections(results),
        "findings": [*fastest_ways(results), *swept],
        "what_matters": axes.what_matters(swept),
        "axis_pictures": axes.axis_pictures(results),
        "busy": contention.contention_parts(results),
        "link_rows": link_table.link_rows(results["links"], files),
        "link_definition": link_table.definition(results["links"]),
        "link_legend": link_legend(results["links"]),
        "ceilings": link_table.ceilings(results),
        "limits": limit_rows(results),
        "limit_heads": limit_heads(results),
        "crossings": crossings(results),
        "clocks": clock_rows(results),
        "columns": grid_columns(results),
        "untraced": is_untraced(results["cells"]),
        "formats": files.of_results(),
        "rows": grid_rows(results),
        "failures": failure_groups(results, files),
        "groups": run_groups(results, files),
        "twins": twins(results),
        "method": notes.method(results, stored.runs, stored.order),
        "maps": maps(results),
        "host": host_map(results),
        **_legends(results["cells"]),
        **_pictures(stored, results, found),
    }
    missing = "" if parts["timelines"] else _no_timeline(stored, results)
    parts["no_timeline"] = missing
    # Without penalties the settings are what the study is about, and come first.
    order = _CONTENTS if results["penalties"] else {"axes": _CONTENTS["axes"]} | _CONTENTS
    parts["contents"] = [entry for key, entry in order.items() if parts[key]]
    return _environment().get_template("page.html.j2").render(parts)


def _pictures(stored: Stored, results: Record, found: list) -> Record:
    cells = results["cells"]
    return {
        "throughput": throughput_pictures(cells),
        "penalty_pictures": penalty_pictures(cells, found),
        "scaling": scaling_pictures(cells),
        "stages": stage_pictures(cells),
        "timelines": timeline_pictures(stored.path, cells),
        "latency": latency_pictures(cells),
        "bandwidths": bandwidth_pictures(cells, results["links"]),
        "contention": contention_pictures(results["contention"]),
        "link_pictures": link_pictures(results["links"]),
        "perturbation": perturbation_pictures(cells),
    }


def _no_timeline(stored: Stored, results: Record) -> str:
    return why_no_timeline(stored.path, results["cells"], str(results["study"].get("retention") or "keep"))


def _legends(cells: list[Record]) -> Record:
    places = placements(cells)
    return {
        "crowded": any(len(label) > NARROW_LABEL for panel in panels(cells) if panel[0] for label in panel[2]),
        "intervals": any(len(cell["throughput_runs"]) > 1 for cell in cells),
        "place_legend": [(node_label(*place), colour(index)) for index, place in enumerate(places) if len(places) > 1],
        "stage_legend": [(name, STAGE_COLOURS[name]) for name in STAGES],
        "lane_legend": [
            (name.upper() if "2" in name else name, STAGE_COLOURS[name]) for name in ("h2d", "compute", "d2h")
        ],
        "scale": [(units.percent(FULL_LOSS * part / 4), shade(FULL_LOSS * part / 4)) for part in range(5)],
    }


def _keep_numbers_whole(text: str) -> str:
    """No line break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=[%±])|(?<=[±×]) |(?<=%) (?=±)", "\u00a0", text)


def _ticked(text: str) -> Markup:
    """What stands between backticks is code; all of it is escaped."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    environment.filters["nb"] = _keep_numbers_whole
    environment.filters["ticked"] = _ticked
    environment.filters["micro"] = lambda text: re.sub(r"(?<=\d) us\b", " µs", text)
    source, _, _ = environment.loader.get_source(environment, "style.css")
    environment.globals["css"] = Markup(source)
    return environment


# --- pages
# Templates of the small pages, in the look of report.html. Loads no plotting library.

@cache
def environment(package: str) -> Environment:
    """Templates of `package`, else the report's. All text is escaped; what is not known is an error."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("bench.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source, _, _ = made.loader.get_source(made, "style.css")
    made.globals["css"] = Markup(source)
    made.filters["svg"] = Markup
    made.filters["rate"] = units.rate
    made.filters["signed"] = signed_percent
    made.filters["share"] = units.percent
    made.filters["anchor"] = anchor
    return made


def signed_percent(share: float | None) -> str:
    """A change: +1.2 %, −5.0 %, or a dash."""
    if share is None:
        return units.NONE
    return f"{'−' if share < 0 else '+'}{abs(100 * share):.{1 if abs(share) >= 0.00995 else 2}f} %"


def anchor(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)
