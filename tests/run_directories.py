"""Synthetic run directories in the shape of real ones. Every number is invented (and marked so in the host's
name); only the shapes are those of the contract. The grid and the order come from the real code."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from msgspec import structs

from bench.records.base import convert, plain
from bench.records.host import Host
from bench.records.study import Grid, Slot, Study
from bench.study.crossing import with_sides
from bench.study.directory import freeze
from bench.study.grid import expand
from bench.study.load import configs_folder, load_study
from bench.study.order import measuring_order
from tests.child_results import child_result, command_result, made_link, pace_s, peers
from tests.crossings import Windows, crossing_facts, noisy_windows, windows_by_turns

SYNTHETIC = "synthetic-host"
Record = dict[str, Any]


def topology_json(gpus: int = 4, near: tuple[int | None, ...] = (0, 0, 2, 2), nodes: int = 3) -> Record:
    """Nodes 0.. of 16 CPUs (the middle one without memory affinity of its own), GPUs near `near`."""
    distance = {"same": 10, "near": 12, "far": 21}
    return {
        "nodes": [
            {
                "id": node,
                "cpus": f"{16 * node}-{16 * node + 15}",
                "allowed_cpus": f"{16 * node}-{16 * node + 15}",
                "memory_bytes": 128 << 30,
                "memory_allowed": True,
                "distances": {
                    str(other): distance["same" if other == node else "near" if abs(other - node) == 1 else "far"]
                    for other in range(nodes)
                },
            }
            for node in range(nodes)
        ],
        "gpus": [
            {
                "index": gpu,
                "pci_bus_id": f"0000:{17 + gpu:02x}:00.0",
                "uuid": f"GPU-synthetic-{gpu}",
                "name": "Synthetic GPU 80GB",
                "node": near[gpu],
                "agreement": "agreed" if near[gpu] is not None else "unknown",
                "answers": {} if near[gpu] is None else {"sysfs numa_node": {"state": "counts", "nodes": [near[gpu]]}},
                "link_generation": 5,
                "link_generation_max": 5,
                "link_width": 16,
                "link_width_max": 16,
            }
            for gpu in range(gpus)
        ],
        "numa": True,
        "driver_version": "580.00" if gpus else None,
        "cuda_driver_version": "13.0" if gpus else None,
        "nvml_error": None if gpus else "no NVML",
        "silent_gpus": [],
    }


def build_run_directory(
    path: Path,
    config: str,
    overrides: Record | None = None,
    *,
    topology: Record | None = None,
    failures: dict[str, Record] | None = None,
    variants: dict[str, Record] | None = None,
    links: bool = False,
    seed: int = 1,
    crossed: "CrossedProcess | None" = None,
) -> Path:
    """A finished run directory at `path`, of configs/<config>.yaml or of another study file.

    variants: each cell again under another suffix with other settings, {"graph": {"cuda_graph": True}}.
    links: also microbenchmarks of every GPU and placement.
    crossed: cells of one group were measured by turns in the same processes, whose windows it makes (crossed_process).
    failures: by "<cell>_<repeat>", the status of its record in place of ok (status, reason, advice, log_tail).
    """
    topology = topology or topology_json()
    file = Path(config) if config.endswith(".yaml") else configs_folder() / f"{config}.yaml"
    definition = load_study(file, overrides)
    device = definition.settings.device.replace("auto", "cuda" if topology["gpus"] else "cpu")
    resolved = {
        "device": device,
        "profiler": "nsys" if device == "cuda" else "torch",
        "binding": definition.settings.binding.replace("auto", "numactl"),
        "design": definition.settings.design.replace("auto", "crossing" if crossed else "processes"),
    }
    study = convert(definition.as_json() | resolved, Study)
    host = convert(topology, Host)
    cells = expand(replace(definition, settings=study.settings), host)
    cells = with_sides(cells, host) if crossed else cells
    for suffix, changes in (variants or {}).items():
        cells += [
            structs.replace(cell, name=f"{cell.name}_{suffix}", group=f"{cell.group}_{suffix}", **changes)
            for cell in cells
            if suffix not in cell.name
        ]
    births = births_of_groups(cells) if crossed else {}
    named = [(cell.name, cell.group) for cell in cells]
    order = measuring_order(named, study.repeats, 0, traced=study.command is None, births=births)
    path.mkdir(parents=True)
    for part in ("runs", "logs", "nsys_reports", "latency"):
        (path / part).mkdir()
    facts = fingerprint(topology)
    freeze(path, study, convert(topology | {"fingerprint": facts}, Host), Grid(cells=tuple(cells), order=tuple(order)))
    near = {gpu["index"]: gpu["node"] for gpu in topology["gpus"]}
    start = datetime(2026, 11, 22, 18, tzinfo=UTC)
    shared = _crossings(cells, order, near, seed, crossed) if crossed else {}
    for slot in order:
        cell = plain(next(cell for cell in cells if cell.name == slot.cell))
        failure = (failures or {}).get(f"{slot.cell}_{slot.repeat}")
        turns = shared.get((slot.cell, slot.repeat))
        start += timedelta(seconds=write_run(path, cell, slot, start, facts, near, failure, seed, turns))
    if links:
        write_links(path, cells, near)
    return path


def numa_run(path: Path, links: bool = False) -> Path:
    """48 cells, 6 repeats, three failed runs; CUDA."""
    return build_run_directory(path, "numa_locality_study", {"repeats": 6}, failures=NUMA_FAILURES, links=links)


def quick_run(path: Path) -> Path:
    """3 cells, 1 repeat, cpu device, one node."""
    return build_run_directory(path, "quick_test", {"repeats": 1}, topology=topology_json(gpus=0, nodes=1))


def placed_run(path: Path) -> Path:
    """GPU 0 on all four placements of two nodes, three models, each also as a CUDA graph."""
    study = {
        "name": "two_by_two", "gpu_ids": [0], "repeats": 6, "placements": [[0, 0], [0, 1], [1, 0], [1, 1]],
        "models": ["vit0x0x0", "vit32x2x128", "vit16x8x768"],
    }  # fmt: skip
    topology = topology_json(gpus=2, near=(0, 1), nodes=2)
    return build_run_of(study, path, topology=topology, variants={"graph": {"cuda_graph": True}})


def swept_run(path: Path, links: bool = False) -> Path:
    """96 cells: six models on two nodes, eager, as a graph and compiled in two modes, in two types."""
    study = {
        "name": "modes", "gpu_ids": [0], "numa_nodes": [0, 1], "repeats": 6,
        "models": ["vit0x0x0", "vit32x2x128", "vit32x4x256", "vit32x6x512", "vit16x8x768", "vit16x12x1024"],
        "zip": [{"compile_model": ["off", "off", "default", "reduce-overhead"],
                 "cuda_graph": [False, True, False, False]}],
        "axes": {"dtype": ["fp32", "bf16"]},
    }  # fmt: skip
    return build_run_of(study, path, topology=topology_json(gpus=1, near=(0,), nodes=2), links=links)


def build_run_of(study: Record, path: Path, **options: Any) -> Path:
    """build_run_directory of a study that has no file: one is written beside `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{study['name']}.yaml")
    file.write_text(json.dumps(study))
    return build_run_directory(path, str(file), **options)


# (group, process, birth, paces in seconds per batch by cell) -> windows by cell
CrossedProcess = Callable[[str, int, int, dict[str, float]], Windows]


def crossed_process(
    spread: float = 0.02, noise: float = 0.004, rounds: int = 8, penalty: float | None = None
) -> CrossedProcess:
    """Processes whose level spreads by `spread`, which all cells of a process share, with normal noise of each window.

    penalty: of every other cell against the first of its group, in place of the one in the paces.
    """

    def process(group: str, number: int, birth: int, paces_s: dict[str, float]) -> Windows:
        seed = f"{group} {number}"
        level = random.Random(f"level {seed}").gauss(1.0, spread)
        first = next(iter(paces_s.values()))
        if penalty is not None:
            paces_s = {cell: first / (1 - penalty * (at > 0)) for at, cell in enumerate(paces_s)}
        paces_s = {cell: level * pace for cell, pace in paces_s.items()}
        return windows_by_turns(paces_s, rounds, seed, noisy_windows(seed, noise))

    return process


def births_of_groups(cells: list[Any]) -> dict[str, list[tuple[int, int]]]:
    """The CPU nodes of each group of several cells."""
    groups: dict[str, list[Any]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return {
        group: list(dict.fromkeys((cell.cpu_node, cell.cpu_node) for cell in own))
        for group, own in groups.items()
        if len(own) > 1
    }


def _crossings(
    cells: list[Any], order: list[Slot], near: Record, seed: int, process: CrossedProcess
) -> dict[tuple[str, int | str], tuple[Record, list[Record]]]:
    """By cell and process, the crossing and the cell's windows; of groups of several cells."""
    by_process: dict[tuple[str, int], list[Slot]] = {}
    for slot in order:
        if slot.birth and isinstance(slot.repeat, int):
            by_process.setdefault((slot.group, slot.repeat), []).append(slot)
    paces_s = {cell.name: pace_s(plain(cell), near, seed) for cell in cells}
    found: dict[tuple[str, int | str], tuple[Record, list[Record]]] = {}
    for (group, number), slots in by_process.items():
        birth = slots[0].birth[0] if slots[0].birth else 0
        windows = process(group, number, birth, {slot.cell: paces_s[slot.cell] for slot in slots})
        facts = crossing_facts(group, number, birth, windows)
        found |= {(cell, number): (facts, turns) for cell, turns in windows.items()}
    return found


def write_links(path: Path, cells: list[Any], near: Record) -> None:
    """links/*.json, one for each GPU and placement of the cells."""
    (path / "links").mkdir()
    for gpu, cpu_node, mem_node in dict.fromkeys((cell.gpu, cell.cpu_node, cell.mem_node) for cell in cells):
        name = f"gpu{gpu}_numa{mem_node}" + (f"_cpu{cpu_node}" if cpu_node != mem_node else "")
        write(path / f"links/{name}.json", made_link(gpu, cpu_node, mem_node, near))


def fingerprint(topology: Record) -> dict[str, str]:
    return {
        "host": SYNTHETIC,
        "kernel": "6.1.0-synthetic",
        "machine": "x86_64",
        "cpu": "Synthetic CPU",
        "numa_balancing": "0",
        "governor": "performance",
        "driver": topology["driver_version"] or "none",
        "python": "3.11.2",
        "torch": "2.13.0",
        "timm": "1.0.31",
        "nsys": "2025.3.2",
    }


def write_run(
    path: Path,
    cell: Record,
    slot: Any,
    start: datetime,
    facts: Record,
    near: Record,
    failure: Record | None,
    seed: int,
    turns: tuple[Record, list[Record]] | None = None,
) -> float:
    """Returns how many seconds it took: runs follow one another. turns: the crossing and the cell's windows."""
    label = f"r{slot.repeat}" if slot.repeat != "traced" else "traced"
    run = f"{cell['name']}_{label}"
    if cell["reason"]:
        failure = {"status": "not_runnable", "reason": cell["reason"], "advice": ""}
    of_command = command_result(cell, slot, near) if cell["model"].get("command") else None
    result = None if failure or of_command else child_result(cell, slot, near, seed)
    if result and turns:
        windows = turns[1]
        pace = median(window["duration_s"] / window["batches"] for window in windows)
        result |= {"mode": "crossed", "windows": windows, "throughput_samples_s": cell["batch_size"] / pace}
    wall_s = round(sum(result["phases_s"].values()) + 1.6, 1) if result else 6.4
    record = {
        "schema": 1,
        "run": run,
        "cell": cell["name"],
        "repeat": slot.repeat,
        "status": "ok",
        "reason": "",
        "advice": "",
        "invocation": "synthetic",
        "attempts": 1,
        "started_at": start.isoformat(),
        "wall_s": wall_s,
        "position": slot.position,
        "block": slot.block,
        "command": [
            "numactl",
            f"--cpunodebind={cell['cpu_node']}",
            f"--membind={cell['mem_node']}",
            "python",
            "-m",
            "bench.workload",
            "--cell",
            "cell.json",
            "--mode",
            "traced" if label == "traced" else "timed",
        ],
        "exit_code": 0,
        "fingerprint": facts,
        "log_tail": [],
        "result": result,
        "of_command": of_command,
        "peers": [] if failure or of_command else peers(cell, slot, near, seed),
        "crossing": turns[0] if turns else None,
        "group": slot.group,
        "log": slot.process,
        "monitor": None if label == "traced" or cell["device"] == "cpu" else quiet_monitor(),
    }
    write(path / f"runs/{run}.json", record | (failure or {}))
    if cell["reason"]:
        return wall_s
    for stream in ("stdout", "stderr"):
        (path / f"logs/{slot.process}.{stream}").write_text("synthetic\n")
    if slot.repeat != "traced":
        return wall_s
    passed_on = {key: (failure or {}).get(key, "") for key in ("reason", "advice")}
    stage = {
        "schema": 1,
        "status": (failure or {}).get("status", "ok"),
        "invocation": "synthetic",
        **passed_on,
    }
    sqlite = f"{cell['name']}.sqlite"
    write(
        path / f"nsys_reports/{cell['name']}.export.json",
        stage
        | {
            "cell": cell["name"],
            "profiler": "nsys",
            "sqlite": sqlite,
            "sqlite_bytes": 1 << 20,
            "wall_s": 0.3,
        },
    )
    metrics = {} if failure else trace_metrics(cell, result)
    write(path / f"latency/{cell['name']}.json", stage | {"name": cell["name"]} | metrics)
    return wall_s


def quiet_monitor() -> Record:
    steady = {"min": 1980, "p10": 1980, "p50": 1980, "max": 1980}
    return {
        "samples": 60,
        "rate_hz": 12.0,
        "at_work": 40,
        "throttle_known": True,
        "throttle_reasons": [],
        "throttle_shares": {},
        "other_processes": [],
        "foreign_cpus": 0.05,
        "sm_clock_mhz": steady,
        "disturbed": [],
    }


def trace_metrics(cell: Record, result: Record) -> Record:
    """Consistent in itself: compute + exposed copy + idle = window."""
    batches, whole_us = result["batches_per_pass"], result["synthetic_latency_us"]
    batch_ns = 1e9 * cell["batch_size"] / result["throughput_samples_s"]
    h2d, compute, d2h = (1e3 * result["synthetic_us"][stage] for stage in ("h2d", "compute", "d2h"))
    compute = min(0.97 * batch_ns, compute)
    busy, window = int(batches * compute), int(batches * batch_ns)
    exposed = int(min(window - busy, batches * max(0.0, h2d - compute)))
    idle = window - busy - exposed
    regime = "launch-bound" if idle > 0.2 * window else "transfer-bound" if h2d > 1.25 * compute else "compute-bound"

    def copy(bytes_per_batch: int, busy_ns: float) -> Record:
        return {
            "bytes": bytes_per_batch * batches,
            "copies": batches,
            "busy_ns": int(busy_ns * batches),
            "bandwidth_gb_s": bytes_per_batch / busy_ns,
            "link_gb_s": bytes_per_batch / busy_ns,
        }

    return {
        "batches": batches,
        "window_ns": window,
        "h2d": copy(result["bytes_in_per_batch"], h2d),
        "d2h": copy(result["bytes_out_per_batch"], d2h),
        "compute": {"kernels": batches * 40, "graph_launches": 0, "memsets": 0, "device_copies": 0, "busy_ns": busy},
        "overlap_ns": int(batches * min(h2d, compute)),
        "exposed_h2d_ns": exposed,
        "exposed_d2h_ns": 0,
        "exposed_copy_ns": exposed,
        "idle_ns": idle,
        "pipeline_efficiency": min(1.0, max(busy, h2d * batches) / window),
        "bottleneck": "compute" if compute > h2d else "h2d",
        "regime": regime,
        "regime_evidence": dict.fromkeys(("late_share", "call_share", "rho"))
        | {"idle_share": idle / window, "late_idle_ns": 0, "call_idle_ns": 0},
        "latency_us": {
            "count": batches,
            "p50": whole_us,
            "p90": 1.05 * whole_us,
            "p99": None,
            "max": 1.1 * whole_us,
            "reasons": {},
        },
        "complete": {
            "launches": 42 * batches,
            "recorded": 42 * batches,
            "untimed": 0,
            "before_call": 0,
            "other_threads": 0,
        },
        "devices": [],
        "launch_gaps": {"count": 0, "total_ns": 0, "max_ns": 0},
        "export": {"product": "synthetic", "version": None, "schema": None},
        "remarks": [],
        "top_kernels": [{"name": "synthetic_gemm<float>", "calls": 12 * batches, "total_ns": int(0.7 * busy)}]
        if result["synthetic_us"]["compute"]
        else [],
    }


def write(path: Path, record: Record) -> None:
    path.write_text(json.dumps(record))


def edit_study(path: Path, **changes: Any) -> None:
    study = yaml.safe_load((path / "study.yaml").read_text())
    (path / "study.yaml").write_text(yaml.safe_dump(study | changes))


NUMA_FAILURES: dict[str, Record] = {
    "pipeline_gpu1_numa2_vit16x12x1024_1": {
        "status": "oom",
        "reason": "CUDA out of memory: 2.1 GiB asked for, 0.4 GiB free",
        "advice": "reduce batch_size or memory_size_mb",
        "log_tail": ["Traceback", "torch.OutOfMemoryError: CUDA"],
    },
    "pipeline_gpu2_numa0_vit16x8x768_1": {
        "status": "timeout",
        "reason": "not done after 600 s",
        "advice": "raise timeout_s",
        "log_tail": ["batch 12"],
    },
    "pipeline_gpu3_numa0_vit32x2x128_2": {
        "status": "misplaced",
        "reason": "3.1 % of the pages of the input ring lay on node 2, asked for was node 0",
        "advice": "free memory on node 0",
        "log_tail": [],
    },
}
"""Keys are <cell>_<repeat> as in build_run_directory: oom, timeout, misplaced."""
