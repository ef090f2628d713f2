"""Every study key: type, limits, default, meaning, name suffix; derived from records.Settings where shared."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.errors import StudyError
from bench.host.binding import BINDINGS
from bench.host.peers import FOUND, LOCAL, REMOTE
from bench.workload.cell import VALUES

# --- settings
# Every key of a study: its type, what is allowed, its default and its meaning. One table, used by the study
# files, the command line, the errors and the documentation.

@dataclass(frozen=True)
class Setting:
    """suffix: how a cell's name tells a value that is not the study's own; {} is the value.

    named: the values that are told in other words. A setting without either is no axis of a study.
    """

    key: str
    kind: type
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = 2**31
    suffix: str = ""
    named: Mapping[Any, str] = field(default_factory=dict)

    @property
    def is_axis(self) -> bool:
        return bool(self.suffix or self.named)

    def told(self, value: Any) -> str:
        """The suffix of a cell's name for this value."""
        return self.named[value] if value in self.named else self.suffix.format(value)

    @property
    def allowed(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a text"
        if self.kind is int:
            return f"a whole number from {int(self.minimum)} to {int(self.maximum)}"
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def read(self, value: Any, where: str) -> Any:
        """The value in its own type. Raise StudyError with what was found and what is allowed."""
        if self.key == "compile_model":
            value = {"False": "off", "True": "default", "false": "off", "true": "default"}.get(str(value), value)
        kinds = int | float if self.kind is float else self.kind
        good = isinstance(value, kinds) and (self.kind is bool or not isinstance(value, bool))
        if good and self.choices:
            good = value in self.choices
        elif good and self.kind in (int, float):
            good = self.minimum <= value <= self.maximum
        if not good:
            hint = nearest(str(value), self.choices)
            raise StudyError(f"found {json.dumps(value, default=str)}, allowed is {self.allowed}{hint}", where)
        return self.kind(value)


SETTINGS = {
    setting.key: setting
    for setting in (
        Setting("batch_size", int, 10, "samples copied and computed together", minimum=1, maximum=65536, suffix="bs{}"),
        Setting("image_size", int, 224, "pixels of a side of the square input", minimum=1, maximum=8192, suffix="px{}"),
        Setting("dtype", str, "fp32", "type of weights and samples", VALUES["dtype"], suffix="{}"),
        Setting(
            "cuda_graph",
            bool,
            False,
            "replay the forward pass as one CUDA graph",
            named={True: "graph", False: "eager"},
        ),
        Setting(
            "compile_model",
            str,
            "off",
            "torch.compile mode of the model",
            VALUES["compile_model"],
            suffix="compiled-{}",
            named={"off": "uncompiled", "default": "compiled"},
        ),
        Setting("buffers", int, 2, "device buffers in flight; 1 is synchronous", minimum=1, maximum=16, suffix="buf{}"),
        Setting(
            "memory_size_mb", int, 512, "MiB of the ring of host batches", minimum=1, maximum=2**20, suffix="pool{}"
        ),
        Setting(
            "host_memory",
            str,
            "pinned",
            "kind of host memory that the copies start from and end in",
            VALUES["host_memory"],
            suffix="{}",
        ),
        Setting(
            "copy_granularity", str, "batch", "what one copy moves", VALUES["copy_granularity"], suffix="{}-copies"
        ),
        Setting(
            "direction",
            str,
            "both",
            "which copies are made",
            VALUES["direction"],
            suffix="{}-only",
            named={"both": "both-ways"},
        ),
        Setting(
            "preprocess_queue",
            int,
            0,
            "batches that a CPU thread prepares ahead of the copies; 0: none, samples are ready",
            maximum=1024,
            suffix="prep{}",
        ),
        Setting(
            "preprocess_node",
            int,
            -1,
            "node of the preparing thread; -1: the cell's CPU node",
            minimum=-1,
            maximum=4095,
            suffix="prepnode{}",
            named={-1: "prepnode-own"},
        ),
        Setting(
            "concurrent_gpus",
            int,
            1,
            "GPUs busy at once, the measured one included",
            minimum=1,
            maximum=64,
            suffix="gpus{}",
        ),
        Setting(
            "concurrent_load",
            str,
            "pipeline",
            "what the other GPUs do meanwhile",
            VALUES["concurrent_load"],
            suffix="{}-load",
        ),
        Setting(
            "concurrent_placement",
            str,
            "local",
            "where the other GPUs' processes are bound: to their nearest node, to another one, or not at all",
            (LOCAL, REMOTE, FOUND),
            suffix="{}-load",
        ),
        Setting(
            "num_samples",
            int,
            1000,
            "samples of one pass: what is traced, and the most a window holds beyond window_s",
            minimum=1,
            suffix="n{}",
        ),
        Setting("warmup_samples", int, 100, "samples before the first window, at least", suffix="warm{}"),
        Setting(
            "windows",
            int,
            9,
            "windows of a timed run; its value is their median",
            minimum=9,
            maximum=10_000,
            suffix="windows{}",
        ),
        Setting("window_s", float, 0.1, "seconds of a window, at least", minimum=0.1, maximum=60, suffix="window{}s"),
        Setting("seed", int, 0, "of the samples, the weights and the order", suffix="seed{}"),
        Setting(
            "binding",
            str,
            "auto",
            "how a run is bound to its nodes",
            BINDINGS,
            named={"numactl": "bound", "none": "unbound"},
        ),
        Setting("device", str, "auto", "where the model runs", choices=("auto", *VALUES["device"])),
        Setting("profiler", str, "auto", "what records the traced run", choices=("auto", *VALUES["profiler"])),
        Setting(
            "start",
            str,
            "exec",
            "how a timed run gets its interpreter: a new one, or forked from one that has imported torch",
            ("exec", "fork"),
        ),
        Setting("repeats", int, 1, "timed runs of each cell", minimum=1, maximum=100_000),
        Setting(
            "target_precision",
            float,
            0.0,
            "half-width of a penalty that is narrow enough; 0: repeats decide",
            maximum=0.5,
        ),
        Setting(
            "max_repeats", int, 20, "timed runs of a cell that target_precision may ask for", minimum=1, maximum=1000
        ),
        Setting("disturbed_repeats", int, 3, "blocks measured again where a run of a pair was disturbed", maximum=20),
        Setting("margin", float, 0.02, "a difference below this is the same", minimum=0.0001, maximum=0.5),
        Setting("timeout_s", float, 600.0, "seconds for the whole process of a run", minimum=1, maximum=86_400),
        Setting("measure_link", bool, True, "measure each GPU's link from each placement before the first run"),
        Setting("retention", str, "keep", "which traces stay", choices=("keep", "failed", "none")),
        Setting("placement_threshold", float, 1.0, "share of pages that must lie on the node", maximum=1),
    )
}
# What can be overridden beside the settings: the grid, in words for the command lines.
GRID = {
    "gpu_ids": "GPUs, as '[0,1]' or all",
    "numa_nodes": "nodes, as '[0,2]' or all; CPU node = memory node",
    "placements": "[CPU node, memory node] pairs, as '[[0,0],[0,2]]', in place of numa_nodes",
    "models": "models, as '[\"vit32x6x512\"]'",
    "patch_size": "patch size of every model of the study",
    "depth": "depth of every model of the study",
    "dim": "dim of every model of the study",
    "sweep": "more axes, as '{\"compile_model\": [false, true]}': every value with every cell of the study",
    "axes": "in place of the study's axes; as sweep",
    "zip": 'lists that vary together, as \'[{"gpu_ids": [0,1], "numa_nodes": [0,2]}]\'',
    "exclude": 'combinations left out, as \'[{"dtype": "bf16", "depth": [2,4]}]\'',
    "include": "combinations added, as '[{\"batch_size\": 64}]'; what is not named is as the study says",
}
# Every override by key, with its meaning and what is allowed.
OVERRIDES = GRID | {key: f"{setting.meaning} ({setting.allowed})" for key, setting in SETTINGS.items()}
TEXTS = ("name", "question")
PLACES = ("gpu_ids", "numa_nodes", "placements")
SHAPE = ("patch_size", "depth", "dim")
COMBINING = ("axes", "zip", "exclude", "include")
KEYS = (*TEXTS, *PLACES, "models", *COMBINING, *SETTINGS)
# What the combining keys may vary. "model" stands for "models": one of them a combination.
AXIS_KEYS = (*PLACES, "model", *SHAPE, *(key for key, setting in SETTINGS.items() if setting.is_axis))


def nearest(word: str, words: tuple[str, ...]) -> str:
    """' (did you mean ...?)' where a name is near, else ''."""
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def check_keys(keys: list[Any], where: str, allowed: tuple[str, ...] = KEYS) -> None:
    for key in keys:
        if key not in allowed:
            hint = nearest(str(key), allowed)
            raise StudyError(f"unknown key {key!r}{hint}", where, "the keys are " + ", ".join(allowed))


# --- values
# Lists, ids and places of a study file, each read with the place it stands at.

Placement = tuple[int, int]


def not_json(value: Any) -> str:
    """What to do about a text that was meant as JSON and could not be read as that; "" for anything else."""
    meant = isinstance(value, str) and value.lstrip().startswith(("[", "{"))
    return "this is no JSON: look at brackets and quotes; words stand in double quotes" if meant else ""


def read_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        found = json.dumps(value, default=str)
        advice = not_json(value) or (f"write [{found}]" if isinstance(value, str | int | float) else "")
        raise StudyError(f"found {found}, allowed is a list", where, advice)
    if not value:
        raise StudyError("an empty list: nothing would be measured", where, "name at least one value")
    return list(value)


def read_id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 4096:
        raise StudyError(f"found {json.dumps(value, default=str)}, allowed is a whole number from 0 up", where)
    return value


def read_ids(value: Any, where: str) -> tuple[int, ...] | str:
    """Ids without a double, or "all"."""
    if value == "all":
        return "all"
    if not isinstance(value, list | tuple):
        found = json.dumps(value, default=str)
        raise StudyError(f"found {found}, allowed is a list, or all", where, not_json(value) or "for example [0, 1]")
    ids = tuple(read_id(item, f"{where}[{index}]") for index, item in enumerate(read_list(value, where)))
    if len(set(ids)) != len(ids):
        raise StudyError(f"found {list(ids)}, where an id stands twice", where, "name each once")
    return ids


def read_placement(value: Any, where: str) -> Placement:
    """[CPU node, memory node]."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise StudyError(f"found {json.dumps(value, default=str)}, allowed is [CPU node, memory node]", where)
    return read_id(value[0], f"{where}[0]"), read_id(value[1], f"{where}[1]")


def read_placements(value: Any, where: str) -> tuple[Placement, ...]:
    pairs = [read_placement(pair, f"{where}[{index}]") for index, pair in enumerate(read_list(value, where))]
    if len(set(pairs)) != len(pairs):
        raise StudyError("a placement stands twice", where, "name each once")
    return tuple(pairs)
