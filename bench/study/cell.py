"""One point of the grid, and its name."""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from bench.study.model import Model
from bench.study.settings import SETTINGS

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
    """reason: why it cannot run on this host, empty if it can.

    group: cells of one group differ only in node, or in nothing; they are measured side by side and compared.
    Run directories of version 0.1 do not name it: there only the order does.

    A setting that came later has the default that says what cells did before it came.
    """

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
    host_memory: str = "pinned"
    copy_granularity: str = "batch"
    direction: str = "both"
    preprocess_queue: int = 0
    preprocess_node: int = -1
    concurrent_gpus: int = 1
    concurrent_load: str = "pipeline"
    concurrent_placement: str = "local"
    group: str = ""
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        outcome = {"outcome": "not_runnable"} if self.reason else {}
        return {**vars(self), "model": self.model.as_json(), "key": self.key, **outcome}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Cell":
        values = {key: value for key, value in record.items() if key not in ("key", "outcome")}
        values["model"] = Model(**{key: value for key, value in record["model"].items() if key != "name"})
        return cls(**values)

    @property
    def key(self) -> str:
        """The same for the same settings in every study; 12 hex digits."""
        plain = {**vars(self), "model": asdict(self.model)}
        # Cells of studies made before a setting came keep their key.
        later = {field: plain[field] for field in LATER_SETTINGS if plain[field] != getattr(type(self), field)}
        text = json.dumps({field: plain[field] for field in _KEY_FIELDS} | later, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def family(self) -> str:
        """Groups of one GPU and model, which differ in settings; they are measured near each other."""
        return f"gpu{self.gpu}_{self.model.name}"


CELL_SETTINGS = tuple(key for key in SETTINGS if key in Cell.__dataclass_fields__)
LATER_SETTINGS = tuple(field.name for field in fields(Cell) if field.name in SETTINGS and field.default is not MISSING)
