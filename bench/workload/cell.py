"""The cell a run executes, parsed once at the edge."""

import math
from dataclasses import dataclass
from typing import Any

from bench.workload.failures import CRASHED, NOT_RUNNABLE, RunFailure

VALUES = {
    "dtype": ("fp32", "tf32", "bf16", "fp16"),
    "compile_model": ("off", "default", "reduce-overhead", "max-autotune"),
    "host_memory": ("pinned", "pageable", "write-combined", "registered", "huge"),
    "copy_granularity": ("batch", "sample"),
    "direction": ("both", "h2d", "d2h"),
    "concurrent_load": ("pipeline", "copies"),
    "device": ("cuda", "cpu"),
    "profiler": ("nsys", "torch"),
}
"""What a cell may say by key; a study offers the same."""
# These modes of torch.compile record CUDA graphs themselves.
GRAPHED_COMPILE_MODES = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class ModelShape:
    name: str
    patch_size: int
    depth: int
    dim: int
    heads: int

    @property
    def computes(self) -> bool:
        """False for vit0x0x0: the device returns its input."""
        return self.dim > 0


@dataclass(frozen=True)
class Cell:
    """What one run needs to know of its cell. Sizes: image_size in pixels, memory_size_mb in MiB."""

    name: str
    gpu: int
    gpu_uuid: str | None
    mem_node: int | None
    model: ModelShape
    image_size: int
    batch_size: int
    num_samples: int
    warmup_samples: int
    memory_size_mb: int
    buffers: int
    compile_model: str
    cuda_graph: bool
    dtype: str
    device: str
    profiler: str
    binding: str
    seed: int
    windows: int
    window_s: float
    timeout_s: float = 600.0
    host_memory: str = "pinned"
    copy_granularity: str = "batch"
    direction: str = "both"
    preprocess_queue: int = 0
    preprocess_node: int = -1
    concurrent_gpus: int = 1
    concurrent_load: str = "pipeline"
    concurrent_placement: str = "local"

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        return (self.batch_size, 3, self.image_size, self.image_size)

    @property
    def bytes_per_element(self) -> int:
        """Of a batch on the link: half-precision studies copy half-precision batches."""
        return 2 if self.dtype in ("bf16", "fp16") else 4

    @property
    def copies_in(self) -> bool:
        """False: the input stays on the device."""
        return self.direction != "d2h"

    @property
    def copies_out(self) -> bool:
        """False: the output stays on the device."""
        return self.direction != "h2d"

    @property
    def input_bytes(self) -> int:
        """Of one batch, copied or not."""
        return math.prod(self.batch_shape) * self.bytes_per_element

    @property
    def output_bytes(self) -> int:
        """Of one batch, copied or not."""
        return math.prod(self.output_shape) * self.bytes_per_element

    @property
    def bytes_in_per_batch(self) -> int:
        """On the link."""
        return self.input_bytes if self.copies_in else 0

    @property
    def output_shape(self) -> tuple[int, ...]:
        """batch x (patches + 1) x dim; with no compute the input's own shape."""
        if not self.model.computes:
            return self.batch_shape
        patches = (self.image_size // self.model.patch_size) ** 2
        return (self.batch_size, patches + 1, self.model.dim)

    @property
    def bytes_out_per_batch(self) -> int:
        """On the link."""
        return self.output_bytes if self.copies_out else 0

    @property
    def batches_per_pass(self) -> int:
        return -(-self.num_samples // self.batch_size)


def parse_cell(raw: dict[str, Any]) -> Cell:
    """Raise RunFailure for a cell that cannot be read or that this workload cannot run."""
    try:
        model = ModelShape(**{key: raw["model"][key] for key in ModelShape.__dataclass_fields__})
        known = raw.keys() & Cell.__dataclass_fields__.keys() - {"model"}
        cell = Cell(**{key: raw[key] for key in known}, model=model)
    except (KeyError, TypeError) as error:
        raise RunFailure(
            CRASHED, f"the cell is incomplete: {error}", "write cell.json with all keys of a cell"
        ) from None
    _refuse_unknown(cell)
    _refuse_impossible(cell)
    return cell


def as_load(raw: dict[str, Any]) -> dict[str, Any]:
    """The cell of a process that loads the host: with concurrent_load `copies` it copies and computes nothing."""
    if raw.get("concurrent_load") != "copies":
        return raw
    return raw | {"model": {"name": "vit0x0x0", "patch_size": 0, "depth": 0, "dim": 0, "heads": 0}}


def _refuse_unknown(cell: Cell) -> None:
    for key, allowed in VALUES.items():
        if getattr(cell, key) not in allowed:
            raise RunFailure(CRASHED, f"{key} is {getattr(cell, key)!r}", f"{key} is one of {', '.join(allowed)}")


def _refuse_impossible(cell: Cell) -> None:
    """Raise RunFailure (not_runnable) for the first thing that cannot be."""
    cpu, no_copy_in = cell.device == "cpu", not cell.copies_in
    impossible = {
        "cuda_graph asks for a CUDA device, the cell has device cpu": (cpu and cell.cuda_graph, "cuda_graph to false"),
        "compile_model reduce-overhead records CUDA graphs, the cell has device cpu": (
            cpu and cell.compile_model == "reduce-overhead",
            "compile_model to default",
        ),
        "tf32 is a mode of CUDA matrix units, the cell has device cpu": (cpu and cell.dtype == "tf32", "dtype to fp32"),
        f"host_memory {cell.host_memory} is a kind of CUDA's, the cell has device cpu": (
            cpu and cell.host_memory in ("write-combined", "registered"),
            "host_memory to pinned or huge",
        ),
        f"compile_model {cell.compile_model} makes CUDA graphs of its own": (
            cell.cuda_graph and cell.compile_model in GRAPHED_COMPILE_MODES,
            "cuda_graph to false, or compile_model to default",
        ),
        "write-combined memory is for the copy in, direction d2h makes none": (
            no_copy_in and cell.host_memory == "write-combined",
            "host_memory to pinned",
        ),
        "batches are prepared for the copy in, direction d2h makes none": (
            no_copy_in and cell.preprocess_queue > 0,
            "preprocess_queue to 0",
        ),
    }
    for what, (is_so, remedy) in impossible.items():
        if is_so:
            elsewhere = ", or run on a CUDA host" if "device cpu" in what else ""
            raise RunFailure(NOT_RUNNABLE, what, f"set {remedy}{elsewhere}")
