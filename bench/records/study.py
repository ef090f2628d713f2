"""A study as stored: its settings, its cells, the measuring order.

Settings is the one definition of what can be set: type, limits, default, meaning and, for an axis, the suffix of a
cell's name. Study files, command line, errors, documentation and JSON Schema are derived from it.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from bench.records.base import Count, Name, Record, Repeat
from bench.records.command import Command, CommandBlock
from bench.records.host import CpuList

Dtype = Literal["fp32", "tf32", "bf16", "fp16"]
CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]
Attention = Literal["fused", "unfused"]
HostMemory = Literal["pinned", "pageable", "write-combined", "registered", "huge"]
CopyGranularity = Literal["batch", "sample"]
Directions = Literal["both", "h2d", "d2h"]
ConcurrentLoad = Literal["pipeline", "copies"]
ConcurrentPlacement = Literal["local", "remote", "found"]
Device = Literal["cuda", "cpu"]
Profiler = Literal["nsys", "torch"]
Binding = Literal["numactl", "cpus", "preferred", "interleave", "none", "self"]
"""cpus: memory is not bound, where the system refuses a memory policy; pages prove where it is. self: a command binds
itself, by the nodes that it is given. preferred, interleave: of a command, CPUs are bound and memory is on the node
while it has room, or on all nodes in turn."""
Start = Literal["exec", "fork"]
Design = Literal["crossing", "processes"]
"""How cells are compared: measured by turns inside the same processes, or each in processes of its own."""
Retention = Literal["keep", "failed", "none"]
ModelKind = Literal["vit", "timm", "python", "pt2"]

TRACED: Literal["traced"] = "traced"

# (CPU node, memory node); where groups of CPUs are compared (number of the group, memory node)
Placement = tuple[Count, Count]


@dataclass(frozen=True)
class Axis:
    """Marks a setting that may vary between the cells of one study.

    suffix: added to a cell's name where its value is not the study's own; {} is the value. named: suffixes of single
    values that have one of their own. execution: the samples are the same, so a user may choose the fastest value.
    """

    suffix: str = ""
    named: Mapping[Any, str] = field(default_factory=dict)
    execution: bool = False

    def suffix_of(self, value: Any) -> str:
        return self.named[value] if value in self.named else self.suffix.format(value)


@dataclass(frozen=True)
class StudyMinimum:
    """The least value that a study may set, where a record may hold a smaller one, as those of tests do."""

    value: float


_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+=-]{0,254}")
_SOURCE = re.compile(
    r"timm:[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
    r"|python:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
    r"|pt2:/[^\x00-\x1f\x7f]{1,4095}",
    re.ASCII,
)


class Model(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A ViT of the grid, or with `source` a model from elsewhere, whose shape is all zero.

    patch_size in pixels, depth in encoder layers, dim of the embedding, attention heads; mlp = 4 x dim. A ViT whose
    shape is all zero does not compute: the pipeline returns its input.
    name: of a ViT `vit{patch_size}x{depth}x{dim}`, set from these; else as the study names it.
    source: timm:NAME, python:package.module:factory or pt2:/path. sha256: of the .pt2 file, or of the factory's source
    file. python_path: where the factory is imported from, after all else. own_size: the input size is the model's own,
    whatever image_size is.
    command: of a study of a command what is measured in place of a model, under a name of its own. folder: its cwd from
    that of the block, where a variant differs from another in nothing else.
    """

    name: str = ""
    patch_size: Count
    depth: Count
    dim: Count
    heads: Count
    source: str = ""
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?(?!\n)$")] = ""
    python_path: tuple[str, ...] = ()
    own_size: bool = False
    command: Command | None = None
    folder: str = ""

    def __post_init__(self) -> None:
        if self.source and not _SOURCE.fullmatch(self.source):
            raise ValueError("source is not timm:NAME, python:package.module:factory or pt2:/path")
        if not self.source and self.command is None:
            force_setattr(self, "name", f"vit{self.patch_size}x{self.depth}x{self.dim}")
        elif self.source and not self.name:
            force_setattr(self, "name", _slug(self.source))
        elif not _MODEL_NAME.fullmatch(self.name):
            raise ValueError("a name has letters, digits, and _ . , + = - after the first")

    @property
    def kind(self) -> ModelKind:
        kind: Any = self.source.partition(":")[0]
        return kind or "vit"

    @property
    def computes(self) -> bool:
        return self.depth > 0 or bool(self.source)

    @property
    def needs_timm(self) -> bool:
        return self.computes and self.kind in ("vit", "timm")

    @property
    def identity(self) -> dict[str, Any]:
        """What a cell's key holds of it: not its name, and no path of a machine that the study does not name."""
        if self.command:
            return self.command.identity | ({"cwd": self.folder} if self.folder else {})
        if not self.source:
            return {key: getattr(self, key) for key in ("patch_size", "depth", "dim", "heads")}
        identity = {"source": "pt2" if self.kind == "pt2" else self.source, "sha256": self.sha256}
        return identity | ({"own_size": True} if self.own_size else {})


def _slug(source: str) -> str:
    """timm-resnet50, py-factory or pt2-file."""
    kind, _, rest = source.partition(":")
    last = re.split("[:/]", rest)[-1].removesuffix(".pt2")
    prefix = {"python": "py"}.get(kind, kind)
    return f"{prefix}-{re.sub('[^A-Za-z0-9_.+-]', '-', last)}"[:100]


NO_COMPUTE = Model(patch_size=0, depth=0, dim=0, heads=0)


class Settings(Record, frozen=True, kw_only=True):
    """What a cell measures and how, beside its GPU, nodes and model, in the order of the suffixes of its name."""

    batch_size: Annotated[
        int, Meta(ge=1, le=65536, description="samples copied and computed together"), Axis("bs{}")
    ] = 10
    image_size: Annotated[
        int, Meta(ge=1, le=8192, description="pixels of a side of the square input"), Axis("px{}")
    ] = 224
    dtype: Annotated[Dtype, Meta(description="type of weights and samples"), Axis("{}", execution=True)] = "fp32"
    cuda_graph: Annotated[
        bool,
        Meta(description="replay the forward pass as one CUDA graph"),
        Axis(named={True: "graph", False: "eager"}, execution=True),
    ] = False
    compile_model: Annotated[
        CompileMode,
        Meta(description="torch.compile mode of the model"),
        Axis("compiled-{}", named={"off": "uncompiled", "default": "compiled"}, execution=True),
    ] = "off"
    attention: Annotated[
        Attention,
        Meta(description="how attention is computed: by a fused kernel, or with its tokens x tokens matrix in memory"),
        Axis("{}-attention", execution=True),
    ] = "fused"
    buffers: Annotated[
        int, Meta(ge=1, le=16, description="device buffers in flight; 1 is synchronous"), Axis("buf{}", execution=True)
    ] = 2
    memory_size_mb: Annotated[
        int, Meta(ge=1, le=2**20, description="MiB of the ring of host batches"), Axis("pool{}")
    ] = 512
    host_memory: Annotated[
        HostMemory,
        Meta(description="kind of host memory that the copies start from and end in"),
        Axis("{}", execution=True),
    ] = "pinned"
    copy_granularity: Annotated[
        CopyGranularity, Meta(description="what one copy moves"), Axis("{}-copies", execution=True)
    ] = "batch"
    direction: Annotated[
        Directions, Meta(description="which copies are made"), Axis("{}-only", named={"both": "both-ways"})
    ] = "both"
    preprocess_queue: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="batches that a CPU thread prepares ahead of the copies; 0: none, samples are ready",
        ),
        Axis("prep{}"),
    ] = 0
    preprocess_node: Annotated[
        int,
        Meta(ge=-1, le=4095, description="node of the preparing thread; -1: the cell's CPU node"),
        Axis("prepnode{}", named={-1: "prepnode-own"}),
    ] = -1
    concurrent_gpus: Annotated[
        int, Meta(ge=1, le=64, description="GPUs busy at once, the measured one included"), Axis("gpus{}")
    ] = 1
    concurrent_load: Annotated[
        ConcurrentLoad, Meta(description="what the other GPUs do meanwhile"), Axis("{}-load")
    ] = "pipeline"
    concurrent_placement: Annotated[
        ConcurrentPlacement,
        Meta(
            description="where the other GPUs' processes are bound: "
            "to their nearest node, to another one, or not at all"
        ),
        Axis("{}-load"),
    ] = "local"
    num_samples: Annotated[
        int,
        Meta(
            ge=1,
            le=2**31,
            description="samples of one pass: what is traced, and the most a window holds beyond window_s",
        ),
        Axis("n{}"),
    ] = 1000
    warmup_samples: Annotated[
        int, Meta(ge=0, le=2**31, description="samples before the first window, at least"), Axis("warm{}")
    ] = 100
    windows: Annotated[
        int,
        Meta(ge=1, le=10_000, description="windows of a timed run; its value is their median"),
        StudyMinimum(9),
        Axis("windows{}"),
    ] = 9
    window_s: Annotated[
        float, Meta(gt=0, le=60, description="seconds of a window, at least"), StudyMinimum(0.1), Axis("window{}s")
    ] = 0.1
    seed: Annotated[
        int, Meta(ge=0, le=2**31, description="of the samples, the weights and the order"), Axis("seed{}")
    ] = 0
    binding: Annotated[
        Literal["auto", Binding],
        Meta(description="how a run is bound to its nodes"),
        Axis(
            named={
                "numactl": "bound",
                "cpus": "cpus-bound",
                "none": "unbound",
                "self": "self-bound",
                "interleave": "interleaved",
            },
            suffix="{}",
        ),
    ] = "auto"
    device: Annotated[Literal["auto", Device], Meta(description="where the model runs")] = "auto"
    profiler: Annotated[Literal["auto", Profiler], Meta(description="what records the traced run")] = "auto"
    timeout_s: Annotated[
        float, Meta(gt=0, le=86_400, description="seconds for the whole process of a run"), StudyMinimum(1)
    ] = 600.0
    placement_threshold: Annotated[float, Meta(ge=0, le=1, description="share of pages that must be on the node")] = 1.0

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        """Of a ViT: (batch, channels, height, width)"""
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
        """Of one batch of a ViT, copied or not."""
        return math.prod(self.batch_shape) * self.bytes_per_element

    @property
    def batches_per_pass(self) -> int:
        return -(-self.num_samples // self.batch_size)

    @property
    def batches_in_flight(self) -> int:
        """Host batches that are prepared, copied or waiting at one time: the least a ring of inputs holds."""
        return self.preprocess_queue + self.buffers + 1 if self.preprocess_queue else 2


def _is_execution(annotated: Any) -> bool:
    return any(isinstance(about, Axis) and about.execution for about in get_args(annotated))


EXECUTION_SETTINGS = tuple(
    key for key, annotated in get_type_hints(Settings, include_extras=True).items() if _is_execution(annotated)
)


class StudySettings(Settings, frozen=True, kw_only=True):
    """The settings of a cell, and those of the study as a whole."""

    start: Annotated[
        Start,
        Meta(
            description="how a process that measures by turns gets its interpreter: forked from one that has imported "
            "torch, or a new one"
        ),
    ] = "fork"
    design: Annotated[
        Literal["auto", Design],
        Meta(
            description="what is compared: cells that one process measures by turns (crossing), "
            "or processes of one cell each"
        ),
    ] = "auto"
    repeats: Annotated[int, Meta(ge=1, le=100_000, description="timed runs of each cell")] = 1
    target_precision: Annotated[
        float,
        Meta(ge=0, le=0.5, description="half-width of a penalty that is narrow enough; 0: repeats decide"),
    ] = 0.0
    max_repeats: Annotated[
        int, Meta(ge=1, le=1000, description="timed runs of a cell that target_precision may ask for")
    ] = 20
    disturbed_repeats: Annotated[
        int, Meta(ge=0, le=20, description="blocks measured again where a run of a pair was disturbed")
    ] = 3
    margin: Annotated[float, Meta(ge=0.0001, le=0.5, description="a difference below this is the same")] = 0.02
    measure_link: Annotated[
        bool, Meta(description="measure each GPU's link from each placement before the first run")
    ] = True
    retention: Annotated[Retention, Meta(description="which traces are kept")] = "keep"
    budget: Annotated[
        float,
        Meta(
            ge=0,
            le=1e7,
            description="time for the whole study, as 10m: what decides least is left out, and named; 0: no limit",
        ),
    ] = 0.0


# A cell is known by these across studies, and by each other setting that is not at its default.
_ALWAYS_IN_KEY = (
    "gpu", "cpu_node", "mem_node", "image_size", "batch_size", "num_samples", "memory_size_mb", "buffers",
    "compile_model", "cuda_graph", "dtype", "device", "binding",
)  # fmt: skip
# These change how a number is measured, not the number.
_NEVER_IN_KEY = (
    "warmup_samples", "windows", "window_s", "seed", "profiler", "timeout_s", "placement_threshold",
)  # fmt: skip


class Cell(Settings, frozen=True, kw_only=True):
    """One point of the grid, as the study and the workload know it.

    group: cells of one group differ only in node, or in nothing, or where one process measures them by turns in other
    settings too; they are measured side by side and compared.
    reason: why it cannot run on this host, empty if it can.
    cpus: where groups of CPUs of one node are compared, those that it is bound to; cpu_node is then their number.
    """

    name: Name
    gpu: Count
    gpu_uuid: str | None = None
    cpu_node: Count
    cpus: CpuList = ""
    mem_node: Count
    model: Model
    device: Device
    profiler: Profiler
    binding: Binding
    group: str = ""
    reason: str = ""

    @property
    def placement(self) -> tuple[int, int]:
        """(CPU node, memory node)"""
        return self.cpu_node, self.mem_node

    @property
    def settings(self) -> Settings:
        return Settings(**{key: getattr(self, key) for key in Settings.__struct_fields__})

    @property
    def key(self) -> str:
        """The same for the same settings in every study; 12 hex digits. The history finds a cell by it."""
        if self.model.command:
            own = ("gpu", "cpu_node", "mem_node", "device", "binding")
            return _hashed({key: getattr(self, key) for key in own} | {"command": self.model.identity})
        values: dict[str, Any] = {key: getattr(self, key) for key in _ALWAYS_IN_KEY}
        values["model"] = self.model.identity
        defaults = OPTIONAL_IN_KEY.items()
        values |= {key: getattr(self, key) for key, default in defaults if getattr(self, key) != default}
        return _hashed(values | ({"cpus": self.cpus} if self.cpus else {}))

    @property
    def family(self) -> str:
        """Groups of one GPU and model, which differ in settings; they are measured near each other."""
        return f"gpu{self.gpu}_{self.model.name}"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of a ViT: (batch, patches + 1, dim); with no compute the input's own shape."""
        if not self.model.computes:
            return self.batch_shape
        patches = (self.image_size // self.model.patch_size) ** 2
        return (self.batch_size, patches + 1, self.model.dim)


def _hashed(values: dict[str, Any]) -> str:
    # By json.dumps, whose spaces are part of what is hashed: another text would begin a new series.
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


# Settings that are part of a cell's key only where they are not at this default.
OPTIONAL_IN_KEY: dict[str, Any] = {
    setting.name: setting.default
    for setting in msgspec.structs.fields(Settings)
    if setting.name not in (*_ALWAYS_IN_KEY, *_NEVER_IN_KEY)
}


class Slot(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One run in its place. block counts from 1, position from 0 over the whole study.

    birth: nodes on which the process starts that crosses the whole group; None for a process of this run alone.
    """

    cell: Name
    repeat: Repeat
    block: Count
    position: Count
    group: str = ""
    birth: Placement | None = None

    @property
    def is_traced(self) -> bool:
        return self.repeat == TRACED

    @property
    def run(self) -> str:
        """The name of its run, and of the run's files."""
        return run_name(self.cell, self.repeat)

    @property
    def process(self) -> str:
        """The name of its process, and of the process's logs."""
        return self.run if self.birth is None else run_name(self.group, self.repeat)


def run_name(cell: str, repeat: int | str) -> str:
    return f"{cell}_{TRACED}" if repeat == TRACED else f"{cell}_r{repeat}"


class Grid(Record, frozen=True, kw_only=True, dict=True):
    """grid.json: the cells, and every run in measuring order."""

    cells: Annotated[tuple[Cell, ...], Meta(min_length=1)]
    order: tuple[Slot, ...]

    def __post_init__(self) -> None:
        if len(self._cells) != len(self.cells):
            raise ValueError("two cells have the same name")
        if foreign := next((slot.cell for slot in self.order if slot.cell not in self._cells), None):
            raise ValueError(f"the order names a cell that is not in the grid: {foreign}")

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def _slots(self) -> dict[tuple[str, int | str], Slot]:
        return {(slot.cell, slot.repeat): slot for slot in self.order}

    def cell(self, name: str) -> Cell:
        return self._cells[name]

    def slot(self, cell: str, repeat: int | str) -> Slot:
        return self._slots[cell, repeat]

    @cached_property
    def _processes(self) -> dict[str, tuple[Slot, ...]]:
        found: dict[str, list[Slot]] = {}
        for slot in self.order:
            found.setdefault(slot.process, []).append(slot)
        return {name: tuple(slots) for name, slots in found.items()}

    def process(self, slot: Slot) -> tuple[Slot, ...]:
        """The runs that one process makes: this one, or those of its whole group in a crossing."""
        return self._processes[slot.process]

    def asked(self, repeats: int) -> list[Slot]:
        """The runs that every cell has: its first repeats and the traced run. Later ones are measured on demand."""
        return [slot for slot in self.order if isinstance(slot.repeat, str) or slot.repeat <= repeats]


class ListedModel(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A model as a study file lists it. heads: of a ViT; the others: as of Model."""

    model: str
    heads: Count | None = None
    name: str = msgspec.field(default="", name="as")
    sha256: str = ""
    own_size: bool = False


class LeftOutCell(Record, frozen=True, kw_only=True):
    """model: its name."""

    name: Name
    gpu: Count
    model: str


class LeftOut(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What a budget left out of the study that was asked for.

    on_demand: further runs, which data may demand; repeats: as they were asked for, if there are fewer; traced: every
    traced run; links: the benchmark of each link; cells: whole groups.
    """

    on_demand: bool = False
    repeats: Count = 0
    traced: bool = False
    links: bool = False
    cells: tuple[LeftOutCell, ...] = ()


class Study(StudySettings, frozen=True, kw_only=True):
    """study.yaml of a run directory: the study with its overrides, and what was auto filled in for this host.

    command: in place of models.

    axes, zip, exclude, include: as in a study file (docs/axes.md). cpu_groups: of whose numbers the
    placements are. night: the date a nightly study is for.
    again_of: the run directory of which this one measures some cells once more.
    left_out: by the budget.
    """

    name: Name
    question: str = ""
    gpu_ids: tuple[Count, ...] | Literal["all"] = "all"
    placements: tuple[Placement, ...] | Literal["all"] = "all"
    cpu_groups: tuple[CpuList, ...] = ()
    models: tuple[ListedModel, ...] = ()
    command: CommandBlock | None = None
    python_path: tuple[str, ...] = ()
    axes: dict[str, tuple[Any, ...]] = msgspec.field(default_factory=dict)
    zip: tuple[dict[str, tuple[Any, ...]], ...] = ()
    exclude: tuple[dict[str, tuple[Any, ...]], ...] = ()
    include: tuple[dict[str, tuple[Any, ...]], ...] = ()
    device: Device
    profiler: Profiler
    binding: Binding
    design: Design = "processes"
    binding_reason: str = ""
    created_by: str = ""
    night: str = ""
    again_of: str = ""
    left_out: LeftOut | None = None

    @property
    def settings(self) -> StudySettings:
        return StudySettings(**{key: getattr(self, key) for key in StudySettings.__struct_fields__})

    @property
    def is_traced(self) -> bool:
        """Whether each cell also has a run under a profiler."""
        return self.command is None and not (self.left_out and self.left_out.traced)

    @property
    def most_repeats(self) -> int:
        """Repeats that have a place in the order: asked for, allowed by target_precision, and for disturbed pairs."""
        wanted = max(self.repeats, self.max_repeats) if self.target_precision else self.repeats
        return wanted + self.disturbed_repeats


class IndexEntry(Record, frozen=True, kw_only=True):
    """Of index.json of a study's folder, by the study's fingerprint: its run directory, and the call that made it.

    path: relative to the folder, and inside it.
    """

    path: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,+=-]{0,254}(/[A-Za-z0-9][A-Za-z0-9_.,+=-]{0,254})*(?!\n)$")
    ]
    invocation: str
