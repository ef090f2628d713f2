"""Cells and studies with chosen values. No measurement: every number is made up."""

from typing import Any

import numpy as np

from bench.records.base import convert
from bench.records.results import CellRun, MeasuredCell, NoiseClass
from bench.records.run import Outcome
from bench.records.study import Model, Settings, Study

CUDA = {"device": "cuda", "profiler": "torch", "binding": "none"}


def made_study(**changes: Any) -> Study:
    return convert({"name": "made"} | CUDA | changes, Study)


def made_model(name: str, **changes: Any) -> Model:
    patch, depth, dim = map(int, name.removeprefix("vit").split("x"))
    return Model(**{"patch_size": patch, "depth": depth, "dim": dim, "heads": 4 if dim else 0} | changes)


def made_cell(
    throughputs: list[float],
    *,
    gpu: int = 0,
    cpu_node: int = 0,
    mem_node: int | None = None,
    model: str | Model = "vit32x2x128",
    name: str | None = None,
    noise_class: str = "device-bound",
    first_block: int = 1,
    study: Study | None = None,
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> MeasuredCell:
    """throughputs: of block first_block, first_block + 1, ... ; nan is a failed run. more: other fields of the cell."""
    mem_node = cpu_node if mem_node is None else mem_node
    study = study or made_study()
    values = convert(CUDA | settings, Settings)
    kind = model if isinstance(model, Model) else made_model(model)
    differing = {key: getattr(values, key) for key in settings if getattr(values, key) != getattr(study, key)}
    name = name or f"pipeline_gpu{gpu}_numa{mem_node}_{kind.name}_cpu{cpu_node}_{'_'.join(map(str, settings.values()))}"
    runs = [
        CellRun(
            run=f"{name}_r{block}",
            repeat=block,
            status=Outcome.CRASHED if np.isnan(throughput) else Outcome.OK,
            reason="",
            block=block,
            position=block,
            attempts=1,
            wall_s=1.0,
            throughput_samples_s=None if np.isnan(throughput) else float(throughput),
            placement=None,
            disturbed=False,
            started_at=None,
        )
        for block, throughput in enumerate(throughputs, first_block)
    ]
    good = [throughput for throughput in throughputs if not np.isnan(throughput)]
    facts: dict[str, Any] = {
        "name": name,
        "key": f"{gpu} {cpu_node} {mem_node} {kind.name} {sorted(settings.items())}",
        "gpu": gpu,
        "gpu_uuid": None,
        "cpu_node": cpu_node,
        "mem_node": mem_node,
        "model": kind,
        "settings": values,
        "differing_settings": differing,
        "outcome": Outcome.OK if good else Outcome.CRASHED,
        "reason": "" if good else "killed by SIGSEGV",
        "noise_class": NoiseClass(noise_class),
        "throughput_samples_s": float(np.exp(np.mean(np.log(good)))) if good else None,
        "runs": tuple(runs),
    }
    return MeasuredCell(**facts | (more or {}))


def noisy(level: float, runs: int = 6, sd: float = 0.002, seed: int = 0) -> list[float]:
    return [float(rate) for rate in level * np.exp(np.random.default_rng(seed).normal(0, sd, runs))]
