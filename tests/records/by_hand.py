"""A study written by hand, from what `numastudy schema` prints and nothing of this program: two nodes and one GPU.

Only what is required, and what the reports read. The files are also how tests/validation writes many studies fast.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Node = tuple[str, int]
HOST = {"host": "by-hand", "machine": "x86_64", "cpu": "Some CPU", "gpus": "1 x Some GPU"}
SETTINGS = {"device": "cuda", "profiler": "torch", "binding": "numactl", "design": "processes"}


def write_study(
    folder: Path,
    runs: Mapping[Node, Sequence[Record]],
    name: str = "by_hand",
    order: Sequence[Record] | None = None,
    **study: Any,
) -> Path:
    """runs: of each model ("vit32x2x128") and node, one result a repeat: throughput_samples_s, latency_us, windows, ...

    order: the slots of grid.json; without it the runs of a block follow one another, in the next block in reverse.
    """
    folder.mkdir(parents=True)
    cells = [_cell(model, node) for model, node in runs]
    repeats = max(map(len, runs.values()))
    order = order or _in_blocks(cells, repeats)
    files = {
        "study.yaml": {"name": name, "repeats": repeats, **SETTINGS} | study,
        "topology.json": {
            "fingerprint": HOST,
            "nodes": [{"id": node, "cpus": f"{8 * node}-{8 * node + 7}"} for node in (0, 1)],
            "gpus": [{"index": 0, "name": "Some GPU", "node": 0}],
        },
        "grid.json": {"cells": cells, "order": order},
    }
    for file, record in files.items():
        (folder / file).write_text(json.dumps(record))
    (folder / "runs").mkdir()
    by_cell = {cell["name"]: list(own) for cell, own in zip(cells, runs.values(), strict=True)}
    for slot in order:
        own = by_cell[slot["cell"]]
        if slot["repeat"] <= len(own):
            record = run(slot, own[slot["repeat"] - 1])
            (folder / f"runs/{record['run']}.json").write_text(json.dumps(record))
    return folder


def _in_blocks(cells: Sequence[Record], repeats: int) -> list[Record]:
    order: list[Record] = []
    for block in range(1, repeats + 1):
        for cell in cells if block % 2 else reversed(cells):
            slot = {"cell": cell["name"], "repeat": block, "block": block, "position": len(order)}
            order.append(slot | {"group": cell["group"]})
    return order


def run(slot: Record, result: Record) -> Record:
    return {
        "run": f"{slot['cell']}_r{slot['repeat']}",
        "cell": slot["cell"],
        "repeat": slot["repeat"],
        "block": slot["block"],
        "position": slot["position"],
        "status": "ok",
        "started_at": f"2026-01-01T00:{slot['position'] // 60:02}:{slot['position'] % 60:02}+00:00",
        "wall_s": 1.0,
        "fingerprint": HOST,
        "result": result,
    }


def _cell(model: str, node: int) -> Record:
    patch_size, depth, dim = map(int, model.removeprefix("vit").split("x"))
    return {
        "name": f"pipeline_gpu0_numa{node}_{model}",
        "group": f"gpu0_{model}",
        "gpu": 0,
        "cpu_node": node,
        "mem_node": node,
        "model": {"patch_size": patch_size, "depth": depth, "dim": dim, "heads": 4},
        **{key: SETTINGS[key] for key in ("device", "profiler", "binding")},
    }
