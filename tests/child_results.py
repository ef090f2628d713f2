"""Results of measured processes, by a simple synthetic model of GPU, link and settings. Nothing was measured."""

import random
import zlib
from typing import Any

from bench.records.study import Slot

Record = dict[str, Any]
_COMPUTE = {"fp32": 1.0, "tf32": 0.45, "bf16": 0.2, "fp16": 0.2}
_ISSUE = {"off": 1.0, "default": 0.55, "reduce-overhead": 0.03, "max-autotune": 0.03}
_COPY = {"pinned": 1.0, "registered": 1.0, "huge": 1.0, "write-combined": 1.0, "pageable": 0.25}
# What is left of the link by GPUs busy at once, for the first half of the GPUs and the second.
_SHARE = {1: (1.0, 1.0), 2: (1.0, 1.0), 4: (0.9, 0.9), 8: (0.46, 0.33)}


def command_result(cell: Record, slot: Any, near: Record) -> Record:
    """What a run of a command gave: requests per second, and their latency."""
    noise = random.Random(f"{cell['name']} {slot.repeat}").gauss(1.0, 0.004)
    rate = (1.0 if near.get(cell["gpu"]) == cell["mem_node"] else 0.9) * noise
    metrics = {
        "requests_per_s": {"value": 410.0 * rate, "unit": "requests/s", "better": "higher"},
        "p99_ms": {"value": 21.0 / rate, "unit": "ms", "better": "lower"},
    }
    measured = {"metrics": metrics, "primary": "requests_per_s"}
    return {"measured": measured, "certificate": {"verdict": "proved"}, "seconds": 8.0, "ready_s": 2.5}


def child_result(cell: Record, slot: Any, near: Record, seed: int) -> Record:
    """result.json of a run. near: the nearest node of each GPU."""
    noise = random.Random(zlib.crc32(f"{cell['name']} {slot.repeat}".encode()) + seed)
    model, batch, traced = cell["model"], cell["batch_size"], slot.repeat == "traced"
    width_bytes = 2 if cell["dtype"] in ("bf16", "fp16") else 4
    bytes_in = batch * 3 * cell["image_size"] ** 2 * width_bytes
    tokens = (cell["image_size"] // model["patch_size"]) ** 2 + 1 if model["depth"] else 0
    bytes_out = batch * tokens * model["dim"] * width_bytes if model["depth"] else bytes_in
    far = near.get(cell["gpu"]) not in (None, cell["mem_node"])
    link = _COPY[cell["host_memory"]] * share(cell["gpu"], cell["concurrent_gpus"])
    h2d_us = bytes_in / (38e3 if far else 54e3) / link * (cell["direction"] != "d2h")
    d2h_us = bytes_out / (41e3 if far else 55e3) / link * (cell["direction"] != "h2d")
    compute_us = batch * tokens * model["depth"] * 24 * model["dim"] ** 2 / 45e6 * _COMPUTE[cell["dtype"]]
    compute_us += 4.0 * model["depth"]
    graph = cell["cuda_graph"] or cell["compile_model"] not in ("off", "default")
    issue_us = 20.0 + (0 if graph else 250.0 * model["depth"] * _ISSUE[cell["compile_model"]])
    issue_us += 8.0 * batch if cell["copy_granularity"] == "sample" else 0.0
    prepare_us = 55.0 * batch if cell["preprocess_queue"] else 0.0
    slowed = 1.12 if issue_us > compute_us + h2d_us else 1.01
    spread = 0.05 if issue_us > compute_us + h2d_us else 0.002
    stages = (h2d_us, d2h_us, compute_us, issue_us, prepare_us)
    paced_us = h2d_us + compute_us + d2h_us if cell["buffers"] == 1 else max(stages)
    batch_us = paced_us * 1.04 * noise.gauss(slowed if traced else 1.0, spread)
    whole_us = 1.2 * (h2d_us + compute_us + d2h_us) + 0.4 * issue_us
    passes = cell["num_samples"] // batch
    windows = 1 if traced else 9
    window_s = batch_us * passes / 1e6 + 2e-4
    quantiles = [whole_us * (1 + 0.06 * (step / 100) ** 6 + 0.0002 * step) for step in range(101)]
    latency = {"count": 9000, "p50": quantiles[50], "p90": quantiles[90], "p99": quantiles[99], "max": quantiles[100]}
    return {
        "status": "ok",
        "mode": "traced" if traced else "timed",
        "device": {
            "type": cell["device"],
            "name": "Synthetic GPU 80GB" if cell["device"] == "cuda" else "Synthetic CPU",
            "uuid": cell["gpu_uuid"],
            "pci_bus_id": None,
            "capability": "9.0",
        },
        "versions": {"python": "3.11.2", "torch": "2.13.0", "cuda": "13.0", "timm": "1.0.31"},
        "batches_per_pass": passes,
        "bytes_in_per_batch": bytes_in,
        "bytes_out_per_batch": bytes_out,
        "input_ring_batches": 88,
        "output_ring_batches": 4,
        "buffer_layout": "separate",
        "compile": _compiled(cell, slot),
        "warmup": {"batches": 400, "duration_s": 0.7, "settled": True, "spread": 0.004},
        "windows": [{"batches": passes, "duration_s": window_s, "start_ns": 1}] * windows,
        "waited_batches_in_windows": windows * passes // 4 if cell["preprocess_queue"] else 0,
        "throughput_samples_s": 1e6 * batch / batch_us,
        "latency_us": None if traced else latency | {"quantiles": quantiles},
        "issue_us": issue_us,
        "solo_us": None if traced else {"h2d": h2d_us, "compute": compute_us, "d2h": d2h_us},
        "output_checksum": 0.5,
        "synthetic_pace_us": 1.04 * paced_us,
        "synthetic_latency_us": quantiles[50],
        "synthetic_us": {"h2d": h2d_us, "compute": compute_us, "d2h": d2h_us},
        "phases_s": {"imports": 2.0, "measure": 1.1 + windows * window_s},
        "certificate": {"verdict": "proved"} if cell["binding"] == "numactl" else None,
    }


def pace_s(cell: Record, near: Record, seed: int) -> float:
    """Seconds per batch of a cell, without noise."""
    slot = Slot(cell=cell["name"], repeat=1, block=1, position=0)
    return float(child_result(cell, slot, near, seed)["synthetic_pace_us"]) / 1e6


def _compiled(cell: Record, slot: Any) -> Record | None:
    """The first process compiles without a cache."""
    mode = cell["compile_model"]
    if mode == "off":
        return None
    if not cell["model"]["depth"]:
        return {"mode": mode, "compile_s": None, "reason": "nothing to compile"}
    whole_s = cell["model"]["depth"] * {"max-autotune": 12.0}.get(mode, 1.2)
    return {"mode": mode, "compile_s": whole_s if slot.repeat == 1 else 0.3 * whole_s, "reason": ""}


def share(gpu: int, busy: int) -> float:
    """What is left of a GPU's link while `busy` GPUs copy at once."""
    first, second = _SHARE[busy]
    return first if gpu < busy / 2 else second


def peers(cell: Record, slot: Any, near: Record, seed: int) -> list[Record]:
    """The other GPUs' processes of a run with several GPUs busy; a traced run has none."""
    if slot.repeat == "traced":
        return []
    others = [gpu for gpu in range(cell["concurrent_gpus"]) if gpu != cell["gpu"]]
    return [_peer(cell, gpu, slot, near, seed) for gpu in others[: cell["concurrent_gpus"] - 1]]


def _peer(cell: Record, gpu: int, slot: Any, near: Record, seed: int) -> Record:
    node = near.get(gpu) or 0
    if cell["concurrent_placement"] == "remote":
        node = next(other for other in {*near.values(), 0, 1} if other is not None and other != node)
    bound = cell["concurrent_placement"] != "found"
    own = cell | {"gpu": gpu, "gpu_uuid": f"GPU-synthetic-{gpu}", "cpu_node": node, "mem_node": node,
                  "name": f"{cell['name']} peer {gpu}"}  # fmt: skip
    if cell["concurrent_load"] == "copies":
        own["model"] = {"name": "vit0x0x0", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0}
    return {
        "gpu": gpu,
        "gpu_uuid": own["gpu_uuid"],
        "cpu_node": node if bound else None,
        "mem_node": node if bound else None,
        "command": ["python", "-m", "bench.workload", "--mode", "load"],
        "status": "ok",
        "exit_code": 0,
        "result": child_result(own, slot, near, seed),
    }


def made_link(gpu: int, cpu_node: int, mem_node: int, near: Record) -> Record:
    """links/<gpu>_<placement>.json: time = latency + bytes / bandwidth.

    Both ways at once the link carries what the pipeline of child_result copies at.
    """
    far = near.get(gpu) not in (None, mem_node)
    best = {"h2d": 38.0 if far else 55.0, "d2h": 41.0 if far else 55.2, "both": 38.0 if far else 54.0}
    sizes = [*(4096 * 4**power for power in range(10)), 512 * 2**20]
    copies = [
        {"direction": direction, "bytes": size, "median_gb_s": size / (2000 + size / best[direction]), "count": 40}
        for direction in best
        for size in sorted(sizes)
    ]
    result = {
        "status": "ok",
        "device": {"type": "cuda", "name": "Synthetic GPU 80GB"},
        "copies": copies,
        "nvbandwidth_h2d_gb_s": best["h2d"],
        "nvbandwidth_d2h_gb_s": best["d2h"],
        "small_copy_us": 11.2 if cpu_node != near.get(gpu) else 9.1,
        "launch_us": 2.3 if cpu_node != near.get(gpu) else 2.1,
        "certificate": {"verdict": "proved"},
    }
    stage = {"schema": 1, "status": "ok", "reason": "", "advice": "", "invocation": "synthetic"}
    return stage | {"gpu": gpu, "cpu_node": cpu_node, "mem_node": mem_node, "result": result}
