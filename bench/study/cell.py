"""One point of the grid, and its name."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from bench.study.model import Model

# What a cell is known by across studies: everything that can change the number it gives.
_KEY_FIELDS = (
    "gpu",
    "cpu_node",
    "mem_node",
    "model",
    "image_size",
    "batch_size",
    "num_samples",
    "memory_size_mb",
    "buffers",
    "compile_model",
    "cuda_graph",
    "dtype",
    "device",
    "binding",
)


@dataclass(frozen=True)
class Cell:
    """reason: why it cannot run on this host, empty if it can."""

    name: str
    gpu: int
    gpu_uuid: str | None
    cpu_node: int
    mem_node: int
    model: Model
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
    timeout_s: float
    placement_threshold: float
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        outcome = {"outcome": "not_runnable"} if self.reason else {}
        return {**asdict(self), "model": self.model.as_json(), "key": self.key, **outcome}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Cell":
        values = {key: value for key, value in record.items() if key not in ("key", "outcome")}
        values["model"] = Model(**{key: value for key, value in record["model"].items() if key != "name"})
        return cls(**values)

    @property
    def key(self) -> str:
        """The same for the same settings in every study; 12 hex digits."""
        plain = asdict(self)
        text = json.dumps({field: plain[field] for field in _KEY_FIELDS}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def group(self) -> str:
        """Cells of one group differ only in node, or in nothing; they are measured side by side and compared."""
        name = self.name.split("_", 3)
        suffixes = [part for part in name[3].split("_") if not part.startswith(("cpu", "again"))]
        return f"gpu{self.gpu}_{'_'.join(suffixes)}"


def cell_name(gpu: int, cpu_node: int, mem_node: int, model: Model, suffixes: tuple[str, ...] = ()) -> str:
    """`pipeline_gpu{N}_numa{memory node}_vit{patch}x{depth}x{dim}` and a suffix for each thing that differs."""
    parts = [f"pipeline_gpu{gpu}_numa{mem_node}_{model.name}"]
    if cpu_node != mem_node:
        parts.append(f"cpu{cpu_node}")
    return "_".join([*parts, *suffixes])
