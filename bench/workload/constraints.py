"""Settings that no process can run together. A study refuses them before anything runs, the workload at its start."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from bench.records.study import Model, Settings


class Constraint(StrEnum):
    """What a combination of settings can violate. Those from WHOLE_BATCHES on could run; only a study refuses them."""

    ONE_EXECUTION = "one_execution"
    NEEDS_CUDA = "needs_cuda"
    NEEDS_COPY_IN = "needs_copy_in"
    NO_SUCH_MODEL = "no_such_model"
    NOT_FOR_MODEL = "not_for_model"
    WHOLE_BATCHES = "whole_batches"
    NO_EFFECT = "no_effect"
    POOL_TOO_SMALL = "pool_too_small"
    NOT_CROSSED = "not_crossed"
    BOUND_ELSEWHERE = "bound_elsewhere"


@dataclass(frozen=True)
class Violation:
    """keys: the settings, or "model", that together violate the constraint."""

    constraint: Constraint
    what: str
    advice: str
    keys: tuple[str, ...]


_NEEDS_CUDA = {
    ("cuda_graph", True): "cuda_graph needs device cuda",
    ("dtype", "tf32"): "tf32 is a mode of a GPU's matrix units, it needs device cuda",
    ("compile_model", "reduce-overhead"): "compile_model reduce-overhead records CUDA graphs: "
    "on the cpu device it is default",
    ("host_memory", "write-combined"): "host_memory write-combined is an allocation of the CUDA driver, "
    "it needs device cuda",
    ("host_memory", "registered"): "host_memory registered is memory that the CUDA driver has pinned, "
    "it needs device cuda",
}


def why_impossible(model: Model, settings: Settings) -> Violation | None:
    """The first constraint that no process can meet, or None.

    A device of auto needs nothing: the question is asked again when the host is known.
    """
    return (
        next(_violations(settings), None)
        or next(_not_for_model(model, settings), None)
        or why_no_model(model, settings.image_size)
    )


def _violations(settings: Settings) -> Iterator[Violation]:
    if settings.cuda_graph and settings.compile_model != "off":
        yield Violation(
            Constraint.ONE_EXECUTION,
            "cuda_graph and compile_model exclude each other",
            "choose one of them: compile_model reduce-overhead uses CUDA graphs itself",
            ("cuda_graph", "compile_model"),
        )
    if settings.device == "cpu":
        for (key, value), what in _NEEDS_CUDA.items():
            if getattr(settings, key) == value:
                yield Violation(Constraint.NEEDS_CUDA, what, f"leave {key} out, or set device: cuda", (key,))
    if settings.direction == "d2h" and settings.preprocess_queue:
        yield Violation(
            Constraint.NEEDS_COPY_IN,
            "direction d2h copies nothing in: what preprocess_queue prepares would be thrown away",
            "set direction to both or h2d, or preprocess_queue to 0",
            ("direction", "preprocess_queue"),
        )
    if settings.direction == "d2h" and settings.host_memory == "write-combined":
        yield Violation(
            Constraint.NEEDS_COPY_IN,
            "host_memory write-combined is for copies in, and direction d2h makes none",
            "set direction to both or h2d, or host_memory to pinned",
            ("direction", "host_memory"),
        )


def _not_for_model(model: Model, settings: Settings) -> Iterator[Violation]:
    """What a model that brings its own inputs, or its own execution, does not follow."""
    exported = model.kind == "pt2"
    refused = {
        "preprocess_queue": (model.kind in ("python", "pt2"), 0, "it brings its own inputs, and images are prepared"),
        "attention": (model.kind in ("python", "pt2"), "fused", "how it computes attention is its own"),
        "compile_model": (exported, "off", "an exported program is executed as it is"),
        "dtype": (exported and settings.dtype != "tf32", "fp32", "its types are in the file"),
    }
    for key, (is_refused, allowed, reason) in refused.items():
        value = getattr(settings, key)
        if is_refused and value != allowed:
            what = f"{model.source} excludes {key} {value}: {reason}"
            yield Violation(Constraint.NOT_FOR_MODEL, what, f"set {key} to {allowed}", ("model", key))


@lru_cache(maxsize=4096)
def why_no_model(model: Model, image_size: int) -> Violation | None:
    """Why there is no such model for images of image_size x image_size pixels; None if there is."""
    problem = _model_problem(model, image_size)
    return Violation(Constraint.NO_SUCH_MODEL, *problem, ("model", "image_size")) if problem else None


def _model_problem(model: Model, image_size: int) -> tuple[str, str] | None:
    if model.source:
        return None
    zeros = [key for key in ("patch_size", "depth", "dim") if getattr(model, key) == 0]
    if len(zeros) == 3:
        return None
    if zeros:
        return (
            f"{model.name}: {' and '.join(zeros)} cannot be 0 unless patch, depth and dim all are",
            "vit0x0x0 is the model without compute",
        )
    if image_size % model.patch_size:
        near = _near_divisors(image_size, model.patch_size)
        return (
            f"{model.name}: an image of {image_size} pixels cannot be cut into patches of {model.patch_size}",
            f"use a patch that divides {image_size}, the nearest are {near}, or another image_size",
        )
    if model.heads == 0 or model.dim % model.heads:
        near = _near_divisors(model.dim, model.heads)
        return (
            f"{model.name}: dim {model.dim} is not divisible by {model.heads} heads",
            f"set heads to a divisor of {model.dim}, the nearest are {near}",
        )
    return None


def _near_divisors(number: int, wanted: int) -> str:
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    return " and ".join(map(str, sorted(sorted(divisors, key=lambda divisor: abs(divisor - wanted))[:2])))
