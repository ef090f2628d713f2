"""Synthetic nights in the shape of real results. Every number is made up, which the host's name says."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]
HOST = "synthetic-host"
FIRST = date(2026, 1, 1)
MODELS = ("vit0x0x0", "vit32x2x128", "vit32x4x256", "vit32x6x512", "vit16x8x768", "vit16x12x1024")
FINGERPRINT = {
    "host": HOST,
    "machine": "x86_64",
    "cpu": "Synthetic CPU",
    "gpus": "4 x Synthetic GPU",
    "driver": "580.1",
}


def night_of(number: int) -> str:
    """The date of night 1, 2, ..."""
    return (FIRST + timedelta(days=number - 1)).isoformat()


def places(gpus: int = 4) -> list[tuple[int, int, str]]:
    return [(gpu, node, model) for gpu in range(gpus) for node in (0, 2) for model in MODELS]


def made_results(
    folder: Path,
    number: int,
    rates: Mapping[str, float | None],
    *,
    repeats: int = 3,
    fingerprint: Mapping[str, str] | None = None,
    noise_class: str = "rest",
    night: str | None = None,
) -> Record:
    """results.json of one night of a study in `folder`. rates: samples/s by cell name, None for a crashed cell."""
    day = night_of(number) if night is None else night
    started = datetime.combine(FIRST + timedelta(days=number - 1), datetime.min.time(), UTC) + timedelta(hours=1.5)
    cells = [_cell(name, rate, repeats, started, noise_class) for name, rate in rates.items()]
    ok = sum(cell["outcome"] == "ok" for cell in cells)
    return {
        "schema": 1,
        "study": {"name": "numa_locality_study", "night": day},
        "study_name": "numa_locality_study",
        "run_directory": str(folder / "numa_locality_study" / started.strftime("%Y-%m-%d/%H-%M-%S")),
        "created_at": (started + timedelta(hours=1)).isoformat(timespec="seconds"),
        "invocation": f"synthetic{number}",
        "host": {"name": HOST},
        "fingerprint": dict(fingerprint or FINGERPRINT),
        "device": "cuda",
        "counts": {"cells": len(cells), "ok": ok, "runs": len(cells) * (repeats + 1), "runs_ok": ok * (repeats + 1)},
        "duration_s": 2400.0,
        "cells": cells,
        "penalties": [],
    }


def cell_names(gpus: int = 4) -> list[str]:
    return [f"pipeline_gpu{gpu}_numa{node}_{model}" for gpu, node, model in places(gpus)]


def quiet_rates(
    nights: int, seed: int = 7, gpus: int = 4, spread: tuple[float, float] = (0.0016, 0.0075)
) -> np.ndarray:
    """nights x cells samples/s: each cell has a level and a nightly spread of its own, from 0.16 to 0.75 %."""
    noise = np.random.default_rng(seed)
    cells = len(places(gpus))
    levels, spreads = noise.uniform(600, 78_000, cells), noise.uniform(*spread, cells)
    return levels * np.exp(noise.normal(size=(nights, cells)) * spreads)


def rates_of(row: np.ndarray, gpus: int = 4) -> dict[str, float | None]:
    return dict(zip(cell_names(gpus), map(float, row), strict=True))


def _cell(name: str, rate: float | None, repeats: int, started: datetime, noise_class: str) -> Record:
    _, gpu, node, model = name.split("_")[:4]
    status = "ok" if rate else "crashed"
    runs = [
        {
            "run": f"{name}_r{repeat}",
            "repeat": repeat,
            "status": status,
            "reason": "",
            "block": repeat,
            "position": repeat,
            "throughput_samples_s": rate,
            "disturbed": False,
            "started_at": started.isoformat(),
        }
        for repeat in range(1, repeats + 1)
    ]
    return {
        "name": name,
        "key": f"key of {name}",
        "gpu": int(gpu[3:]),
        "cpu_node": int(node[4:]),
        "mem_node": int(node[4:]),
        "model": {"name": model},
        "settings": {"batch_size": 10, "device": "cuda", "cuda_graph": False, "dtype": "fp32", "num_samples": 1000},
        "outcome": status,
        "reason": "" if rate else "killed by SIGSEGV",
        "noise_class": noise_class,
        "throughput_samples_s": rate,
        "throughput_spread": 0.002,
        "latency_us": {"p50": 400.0, "p99": 450.0},
        "metrics": {"h2d": {"bandwidth_gb_s": 50.0}, "d2h": {"bandwidth_gb_s": 50.0}, "pipeline_efficiency": 0.9},
        "runs": runs,
    }
