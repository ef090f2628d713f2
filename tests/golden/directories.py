"""The run directories whose results must not change by a redesign: every shipped study, failures and damage."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.run_directories import build_run_directory, numa_run, quick_run, topology_json

TWO_NODES = partial(topology_json, gpus=2, near=(0, 1), nodes=2)


def _build(study: str, overrides: dict[str, Any], **options: Any) -> Callable[[Path], Path]:
    return lambda path: build_run_directory(path, study, overrides, **options)


def _damaged(path: Path) -> Path:
    """One record cut short, one missing."""
    build_run_directory(path, "quick_test", {"repeats": 2})
    cut, gone = sorted((path / "runs").glob("*.json"))[:2]
    cut.write_text("{")
    gone.unlink()
    return path


_NUMA = "numa_locality_study"
DIRECTORIES: dict[str, Callable[[Path], Path]] = {
    "numa": partial(numa_run, links=True),
    "numa_one_repeat": _build(_NUMA, {"repeats": 1}),
    "numa_two_nodes": _build(
        _NUMA,
        {"numa_nodes": [0, 1], "repeats": 6},
        topology=topology_json(gpus=4, near=(0, 0, 1, 1), nodes=2),
        links=True,
    ),
    "numa_unknown_node": _build(
        _NUMA,
        {"gpu_ids": [0, 1], "numa_nodes": [0, 1], "repeats": 4},
        topology=topology_json(gpus=2, near=(None, None), nodes=2),
    ),
    "numa_precision": _build(_NUMA, {"gpu_ids": [0], "repeats": 5, "target_precision": 0.02, "margin": 0.05}),
    "quick": _build("quick_test", {"repeats": 3}),
    "quick_cpu": quick_run,
    "scaling": _build("model_scaling_study", {"repeats": 4}),
    "self_check": _build("self_check", {"repeats": 6}, topology=TWO_NODES()),
    "graph": _build("quick_test", {"repeats": 5}, variants={"graph": {"cuda_graph": True}}),
    "placement_2x2": _build("placement_2x2", {"repeats": 3}),
    "rq4_numa": _build("rq4_numa", {"repeats": 3}, links=True),
    **{
        study: _build(study, {"repeats": 3}, topology=TWO_NODES())
        for study in (
            "compile_study",
            "rq1_model_architecture",
            "rq2_resolution",
            "rq3_compilation",
            "rq5_pipeline_design",
        )
    },
    "contention": _build(
        "contention_study",
        {"repeats": 4},
        topology=topology_json(gpus=8, near=(0, 0, 0, 0, 1, 1, 1, 1), nodes=2),
        links=True,
    ),
    "damaged": _damaged,
    "other_seed": _build(_NUMA, {"gpu_ids": [0, 2], "repeats": 8}, seed=7),
}
