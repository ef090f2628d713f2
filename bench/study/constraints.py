"""Combinations that no host can run, or that would measure what another one measures."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.errors import StudyError
from bench.study.model import Model, check_model
from bench.study.settings import SETTINGS

Settings = dict[str, Any]
_TOLD = 8


@dataclass(frozen=True)
class Contradiction:
    """keys: the settings (or parts of the model's shape) that contradict each other."""

    what: str
    advice: str
    keys: tuple[str, ...]


def contradiction(model: Model, settings: Settings, varied: Collection[str] = ()) -> Contradiction | None:
    """Why the settings cannot go together; None if they can. varied: the keys that the study varies.

    A device of auto contradicts nothing: the same question is asked again when the host is known.
    """
    rules = (_whole_batches, _one_execution, _needs_cuda, _needs_copies_in, _needs_queue, _needs_company, _needs_room)
    for rule in rules:
        if found := rule(settings, varied):
            return found
    return _no_such_model(model, settings["image_size"], bool({"patch_size", "depth", "dim"} & set(varied)))


def refuse(
    found: Sequence[tuple[str, Contradiction, Callable[[str], Any], bool]],
    count: int,
    varied: Collection[str],
    where: str,
) -> None:
    """Raise StudyError naming the impossible cells of `count`, and what to exclude.

    found: (name of the cell, why, its value by key, whether include adds it).
    """
    if not found:
        return
    first = found[0][1]
    keys = [key for key in first.keys if key in varied]
    if not keys:
        raise StudyError(first.what, where, first.advice)
    lines = [f"{name}: {why.what}" for name, why, _, _ in found[:_TOLD]]
    if len(found) > _TOLD:
        lines.append(f"and {len(found) - _TOLD} more")
    wanted = [{key: value(key) for key in why.keys if key in varied} for _, why, value, added in found if not added]
    # Of what is impossible as a whole nothing would be left.
    excluded = any(wanted) and len(found) < count
    advice = [f"leave them out with exclude: {json.dumps(_merged(wanted))}"] if excluded else []
    if any(added for _, _, _, added in found):
        advice.append("take them out of include, which adds them")
    raise StudyError(
        f"{len(found)} of {count} combinations are impossible:\n  " + "\n  ".join(lines),
        where,
        "; or ".join([" and ".join(advice), first.advice] if advice else [first.advice]),
    )


@lru_cache(maxsize=4096)
def _no_such_model(model: Model, image_size: int, shaped: bool) -> Contradiction | None:
    """shaped: parts of the shape are varied, and say which model it is."""
    try:
        check_model(model, image_size, "")
    except StudyError as error:
        keys = ("patch_size", "depth", "dim") if shaped else ("model",)
        return Contradiction(error.what, error.advice, (*keys, "image_size"))
    return None


def _whole_batches(settings: Settings, varied: Collection[str]) -> Contradiction | None:
    samples, batch = settings["num_samples"], settings["batch_size"]
    if samples % batch == 0:
        return None
    return Contradiction(
        f"num_samples {samples} is not a multiple of batch_size {batch}",
        "a pass is made of whole batches: change one of the two",
        ("batch_size", "num_samples"),
    )


def _one_execution(settings: Settings, varied: Collection[str]) -> Contradiction | None:
    if not settings["cuda_graph"] or settings["compile_model"] == "off":
        return None
    return Contradiction(
        "cuda_graph and compile_model exclude each other",
        "choose one of them: compile_model reduce-overhead uses CUDA graphs itself",
        ("cuda_graph", "compile_model"),
    )


def _needs_cuda(settings: Settings, varied: Collection[str]) -> Contradiction | None:
    if settings["device"] != "cpu":
        return None
    why = {
        "cuda_graph": {True: "cuda_graph needs device cuda"},
        "dtype": {"tf32": "tf32 is a mode of a GPU's matrix units, it needs device cuda"},
        "compile_model": {
            "reduce-overhead": "compile_model reduce-overhead records CUDA graphs: on the cpu device it is default"
        },
        "host_memory": {
            "write-combined": "host_memory write-combined is an allocation of the CUDA driver, it needs device cuda",
            "registered": "host_memory registered is memory that the CUDA driver has pinned, it needs device cuda",
        },
    }
    for key, values in why.items():
        if settings[key] in values:
            return Contradiction(values[settings[key]], f"leave {key} out, or set device: cuda", (key,))
    return None


def _needs_copies_in(settings: Settings, varied: Collection[str]) -> Contradiction | None:
    if settings["direction"] != "d2h":
        return None
    if settings["preprocess_queue"]:
        return Contradiction(
            "direction d2h copies nothing in: what preprocess_queue prepares would be thrown away",
            "set direction to both or h2d, or preprocess_queue to 0",
            ("direction", "preprocess_queue"),
        )
    if settings["host_memory"] == "write-combined":
        return Contradiction(
            "host_memory write-combined is for copies in, and direction d2h makes none",
            "set direction to both or h2d, or host_memory to pinned",
            ("direction", "host_memory"),
        )
    return None


def _needs_queue(settings: Settings, varied: Collection[str]) -> Contradiction | None:
    if settings["preprocess_queue"]:
        return None
    return _idle("preprocess_node", "preprocess_queue", settings, varied)


def _needs_company(settings: Settings, varied: Collection[str]) -> Contradiction | None:
    if settings["concurrent_gpus"] > 1:
        return None
    idle = (_idle(key, "concurrent_gpus", settings, varied) for key in ("concurrent_load", "concurrent_placement"))
    return next((found for found in idle if found), None)


def _needs_room(settings: Settings, varied: Collection[str]) -> Contradiction | None:
    """A pool is made large enough for the batches in flight (bench.workload.host_memory): as an axis it would be one
    value under several names."""
    if "memory_size_mb" not in varied or settings["direction"] == "d2h":
        return None
    queue = settings["preprocess_queue"]
    in_flight = queue + settings["buffers"] + 1 if queue else 2
    element_bytes = 2 if settings["dtype"] in ("bf16", "fp16") else 4
    needed_bytes = in_flight * settings["batch_size"] * 3 * settings["image_size"] ** 2 * element_bytes
    if settings["memory_size_mb"] << 20 >= needed_bytes:
        return None
    return Contradiction(
        f"memory_size_mb {settings['memory_size_mb']} does not hold the {in_flight} batches in flight: it would become "
        f"{-(-needed_bytes >> 20)}",
        "vary pools that hold them; smaller batches need less",
        ("memory_size_mb", "batch_size", "image_size", "dtype", *(("preprocess_queue", "buffers") if queue else ())),
    )


def _idle(key: str, needs: str, settings: Settings, varied: Collection[str]) -> Contradiction | None:
    """A value that has no effect while `needs` is off.

    It may stand in a study that varies `needs`; varied itself it would make two cells of one thing.
    """
    if settings[key] == SETTINGS[key].default or (key not in varied and needs in varied):
        return None
    return Contradiction(
        f"{key} {settings[key]} has no effect with {needs} {settings[needs]}", f"set {needs} too", (key, needs)
    )


def _merged(entries: list[Settings]) -> list[Settings]:
    """The distinct entries; those that differ in their last key only are one with a list."""
    merged: dict[Any, list[Any]] = {}
    for entry in entries:
        *others, (last, value) = entry.items()
        values = merged.setdefault((tuple(others), last), [])
        if value not in values:
            values.append(value)
    return [
        {**dict(others), last: values[0] if len(values) == 1 else values} for (others, last), values in merged.items()
    ]
