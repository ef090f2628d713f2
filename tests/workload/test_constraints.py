"""Settings that no process can run together."""

from typing import Any

import pytest
from msgspec import structs

from bench.records.study import NO_COMPUTE, Model, Settings
from bench.workload.constraints import Constraint, why_impossible, why_no_model

VIT = Model(patch_size=16, depth=1, dim=32, heads=2)
CPU, CUDA = Settings(device="cpu", image_size=32), Settings(device="cuda", image_size=32)


@pytest.mark.parametrize("settings", [CPU, CUDA, Settings(cuda_graph=True), structs.replace(CUDA, cuda_graph=True)])
def test_possible_settings_violate_nothing(settings: Settings) -> None:
    assert why_impossible(VIT, settings) is None


@pytest.mark.parametrize(
    ("base", "changes", "constraint", "keys"),
    [
        (CPU, {"cuda_graph": True}, Constraint.NEEDS_CUDA, ("cuda_graph",)),
        (CPU, {"dtype": "tf32"}, Constraint.NEEDS_CUDA, ("dtype",)),
        (CPU, {"compile_model": "reduce-overhead"}, Constraint.NEEDS_CUDA, ("compile_model",)),
        (CPU, {"host_memory": "write-combined"}, Constraint.NEEDS_CUDA, ("host_memory",)),
        (CPU, {"host_memory": "registered"}, Constraint.NEEDS_CUDA, ("host_memory",)),
        (
            CUDA, {"cuda_graph": True, "compile_model": "reduce-overhead"}, Constraint.ONE_EXECUTION,
            ("cuda_graph", "compile_model"),
        ),
        (
            CPU, {"direction": "d2h", "preprocess_queue": 2}, Constraint.NEEDS_COPY_IN,
            ("direction", "preprocess_queue"),
        ),
        (
            CUDA, {"direction": "d2h", "host_memory": "write-combined"}, Constraint.NEEDS_COPY_IN,
            ("direction", "host_memory"),
        ),
        (CPU, {"image_size": 40}, Constraint.NO_SUCH_MODEL, ("model", "image_size")),
    ],
)  # fmt: skip
def test_violation_names_its_constraint_and_keys(
    base: Settings, changes: dict[str, Any], constraint: Constraint, keys: tuple[str, ...]
) -> None:
    violation = why_impossible(VIT, structs.replace(base, **changes))
    assert violation and (violation.constraint, violation.keys) == (constraint, keys)
    assert violation.what and violation.advice


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (structs.replace(VIT, patch_size=15), "cannot be cut into patches of 15"),
        (structs.replace(VIT, heads=3), "not divisible by 3 heads"),
        (structs.replace(VIT, depth=0), "depth cannot be 0"),
    ],
)
def test_impossible_model_is_named(model: Model, what: str) -> None:
    violation = why_no_model(model, 32)
    assert violation and what in violation.what


def test_model_without_compute_is_always_possible() -> None:
    assert why_no_model(NO_COMPUTE, 31) is None
