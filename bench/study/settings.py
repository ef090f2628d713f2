"""Every key of a study: its type, what is allowed, its default and its meaning. One table, used by the study
files, the command line, the errors and the documentation."""

import difflib
import json
from dataclasses import dataclass
from typing import Any

from bench.errors import StudyError

HOST_MEMORIES = ("pinned", "pageable", "write-combined", "registered", "huge")
MODES = ("off", "default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Setting:
    key: str
    kind: type
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = 2**31

    @property
    def allowed(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a text"
        number = "a whole number" if self.kind is int else "a number"
        return f"{number} from {self.minimum:g} to {self.maximum:g}"

    def read(self, value: Any, where: str) -> Any:
        """The value in its own type. Raise StudyError with what was found and what is allowed."""
        if self.key == "compile_model":
            value = {"False": "off", "True": "default", "false": "off", "true": "default"}.get(str(value), value)
        good = isinstance(value, self.kind) and not (self.kind is int and isinstance(value, bool))
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value, good = float(value), True
        if good and self.choices:
            good = value in self.choices
        elif good and self.kind in (int, float):
            good = self.minimum <= value <= self.maximum
        if not good:
            hint = nearest(str(value), self.choices)
            raise StudyError(f"found {json.dumps(value, default=str)}, allowed is {self.allowed}{hint}", where)
        return value


SETTINGS = {
    setting.key: setting
    for setting in (
        Setting("image_size", int, 224, "pixels of a side of the square input", minimum=1, maximum=8192),
        Setting("num_samples", int, 1000, "samples of one pass", minimum=1),
        Setting("warmup_samples", int, 100, "samples before the first window, at least"),
        Setting("batch_size", int, 10, "samples copied and computed together", minimum=1, maximum=65536),
        Setting("memory_size_mb", int, 512, "MiB of the ring of host batches", minimum=1, maximum=2**20),
        Setting("buffers", int, 2, "device buffers in flight; 1 is synchronous", minimum=1, maximum=16),
        Setting("compile_model", str, "off", "torch.compile mode of the model", choices=MODES),
        Setting("cuda_graph", bool, False, "replay the forward pass as one CUDA graph"),
        Setting("dtype", str, "fp32", "type of weights and samples", choices=("fp32", "tf32", "bf16", "fp16")),
        Setting(
            "host_memory", str, "pinned", "kind of host memory that the copies start from and end in", HOST_MEMORIES
        ),
        Setting("copy_granularity", str, "batch", "what one copy moves", ("batch", "sample")),
        Setting("direction", str, "both", "which copies are made", ("both", "h2d", "d2h")),
        Setting(
            "preprocess_queue",
            int,
            0,
            "batches that a CPU thread prepares ahead of the copies; 0: none, samples are ready",
            maximum=1024,
        ),
        Setting(
            "preprocess_node",
            int,
            -1,
            "node of the preparing thread; -1: the cell's CPU node",
            minimum=-1,
            maximum=4095,
        ),
        Setting("concurrent_gpus", int, 1, "GPUs busy at once, the measured one included", minimum=1, maximum=64),
        Setting("concurrent_load", str, "pipeline", "what the other GPUs do meanwhile", ("pipeline", "copies")),
        Setting(
            "concurrent_placement",
            str,
            "local",
            "where the other GPUs' processes are bound: to their nearest node, to another one, or not at all",
            ("local", "remote", "found"),
        ),
        Setting("device", str, "auto", "where the model runs", choices=("auto", "cuda", "cpu")),
        Setting("profiler", str, "auto", "what records the traced run", choices=("auto", "nsys", "torch")),
        Setting("binding", str, "auto", "how a run is bound to its nodes", choices=("auto", "numactl", "none")),
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
        Setting("seed", int, 0, "of the samples, the weights and the order"),
        Setting("windows", int, 9, "windows of a timed run; its value is their median", minimum=9, maximum=10_000),
        Setting("window_s", float, 0.1, "seconds of a window, at least", minimum=0.1, maximum=60),
        Setting("timeout_s", float, 600.0, "seconds for the whole process of a run", minimum=1, maximum=86_400),
        Setting("retention", str, "keep", "which traces stay", choices=("keep", "failed", "none")),
        Setting("placement_threshold", float, 1.0, "share of pages that must lie on the node", maximum=1),
    )
}
TEXTS = ("name", "question")
AXES = ("gpu_ids", "numa_nodes", "placements", "models")
KEYS = (*TEXTS, *AXES, *SETTINGS)


def nearest(word: str, words: tuple[str, ...]) -> str:
    """' (did you mean ...?)' where a name is near, else ''."""
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def check_keys(keys: list[Any], where: str) -> None:
    for key in keys:
        if key not in KEYS:
            raise StudyError(f"unknown key {key!r}{nearest(str(key), KEYS)}", where, "the keys are " + ", ".join(KEYS))
