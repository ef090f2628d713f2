"""Which delays are put where: groups of conditions of one cell, each with what is known of it beforehand."""

from dataclasses import dataclass, field
from typing import Any

from tests.validation.injected_workload import Injection

BASE_CELL = {
    "gpu": 0, "gpu_uuid": None, "cpu_node": 0, "mem_node": 0, "image_size": 224, "batch_size": 10, "num_samples": 1000,
    "warmup_samples": 100, "memory_size_mb": 256, "buffers": 2, "compile_model": "off", "cuda_graph": False,
    "dtype": "fp32", "profiler": "torch", "binding": "none", "seed": 0, "windows": 9, "window_s": 0.1, "timeout_s": 60,
    "placement_threshold": 1.0,
}  # fmt: skip
PERCENT = (1.0, 2.0, 5.0)
POSITIVE, NEGATIVE, PREDICTION = "positive", "negative", "prediction"


@dataclass(frozen=True)
class Condition:
    """`percent`: delay in percent of the time per batch; `ratio`: of a slower copy, in its place.

    kind: positive (the stage limits: to be found), negative (the stage has slack: to be SAME), prediction (compared
    with bench.results.bound). core: measured in every block, the others in the first `extra_blocks` only.
    """

    name: str
    kind: str
    stage: str
    percent: float = 0.0
    ratio: float = 1.0
    core: bool = True

    def injection(self, batch_us: float, h2d_us: float) -> Injection:
        """For a time per batch and a copy alone that were measured without delay."""
        delay_us = self.percent / 100 * batch_us
        if self.stage != "copy":
            return Injection(self.stage, delay_us)
        ratio = self.ratio + delay_us / h2d_us
        return Injection("copy", (ratio - 1) * h2d_us, ratio)


@dataclass(frozen=True)
class Group:
    """One cell and the conditions that are compared with its first run of the block. pool: whose variances are pooled.

    sham: the base has the wrapper of the launch delay, which counts to nothing.
    most_blocks: it is not worth more. resolvable: False where the noise is known to be larger than the delays; such a
    control is told and not judged. expect_s: of a run, until one has been seen.
    """

    name: str
    model: tuple[str, int, int, int, int]
    regime: str
    conditions: tuple[Condition, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    pool: str = "main"
    sham: bool = False
    expect_s: float = 3.0
    most_blocks: int = 99
    resolvable: bool = True

    @property
    def base(self) -> Injection:
        return Injection("launch", 0.0) if self.sham else Injection()

    def cell(self, device: str) -> dict[str, Any]:
        name, patch, depth, dim, heads = self.model
        shape = {"name": name, "patch_size": patch, "depth": depth, "dim": dim, "heads": heads}
        return BASE_CELL | {"name": f"control_{self.name}", "device": device, "model": shape} | self.settings


NO_COMPUTE = ("vit0x0x0", 0, 0, 0, 0)
SMALL = ("vit32x2x128", 32, 2, 128, 4)


def groups(device: str) -> tuple[Group, ...]:
    return _cuda_groups() if device == "cuda" else _cpu_groups()


def positive(stage: str, *percents: float) -> tuple[Condition, ...]:
    return tuple(Condition(f"{stage} {percent:g} %", POSITIVE, stage, percent) for percent in percents)


def slack(stage: str, percent: float) -> Condition:
    return Condition(f"{stage} {percent:g} %", NEGATIVE, stage, percent)


def slower_copy(*ratios: float, kind: str = PREDICTION) -> tuple[Condition, ...]:
    return tuple(Condition(f"copy x {ratio:g}", kind, "copy", ratio=ratio, core=False) for ratio in ratios)


def _cuda_groups() -> tuple[Group, ...]:
    return (
        # Small copies and no compute: only the CPU limits, and it does the same few calls each time, so that a
        # launch-bound cell is quiet for once. Four buffers, so that waiting for a slot cannot be the limit.
        Group(
            "vit0x0x0_bs1_px64", NO_COMPUTE, "launch-bound", (*positive("launch", *PERCENT), *slower_copy(2.0)),
            {"batch_size": 1, "image_size": 64, "buffers": 4, "num_samples": 400}, pool="quiet launches", sham=True,
            expect_s=2.5,
        ),
        Group(
            "vit0x0x0", NO_COMPUTE, "transfer-bound",
            (*positive("copy", *PERCENT), slack("launch", 5), *slower_copy(1.3, 2.0)), expect_s=2.8,
        ),
        Group(
            "vit32x2x128_graph", SMALL, "compute-bound",
            (*positive("kernel", *PERCENT), slack("launch", 5), *slower_copy(1.3, kind=NEGATIVE), *slower_copy(2.0)),
            {"cuda_graph": True},
        ),
        Group(
            "vit32x2x128_graph_tf32", SMALL, "", slower_copy(1.3, 2.0), {"cuda_graph": True, "dtype": "tf32"},
        ),
        Group(
            "vit32x2x128", SMALL, "launch-bound", positive("launch", 5), pool="eager launches", expect_s=7.0,
            most_blocks=3, resolvable=False,
        ),
    )  # fmt: skip


def _cpu_groups() -> tuple[Group, ...]:
    """The stages run one after the other: every delay adds up, and no stage has slack."""
    size = {"num_samples": 100, "memory_size_mb": 96}
    return (
        Group("vit0x0x0", NO_COMPUTE, "transfer-bound",
              (*positive("copy", *PERCENT), *slower_copy(2.0)), size, expect_s=5),
        Group("vit32x2x128", SMALL, "compute-bound",
              (*positive("kernel", *PERCENT), *positive("launch", *PERCENT)), size, expect_s=6),
    )  # fmt: skip
