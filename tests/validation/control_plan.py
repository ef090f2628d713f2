"""Which delays are put where: groups of conditions of one cell, each with what is known of it beforehand."""

from dataclasses import dataclass, field
from typing import Any

BASE_CELL = {
    "gpu": 0, "gpu_uuid": None, "cpu_node": 0, "mem_node": 0, "image_size": 224, "batch_size": 10, "num_samples": 1000,
    "warmup_samples": 100, "memory_size_mb": 256, "buffers": 2, "compile_model": "off", "cuda_graph": False,
    "dtype": "fp32", "profiler": "torch", "binding": "none", "seed": 0, "windows": 9, "window_s": 0.1, "timeout_s": 60,
    "placement_threshold": 1.0, "direction": "both",
}  # fmt: skip
BASE = "base"
# Of one size and direction, as single ones and as a train: CUDA events against the trace.
CLOCK_COPIES = 16
PERCENT = (1.0, 2.0, 5.0)
POSITIVE, NEGATIVE, PREDICTION = "positive", "negative", "prediction"


@dataclass(frozen=True)
class Injection:
    """counting: the wrapper of the launch delay is there; elsewhere than in `launch` it counts to nothing."""

    stage: str = "none"
    delay_us: float = 0.0
    copy_ratio: float = 1.0
    counting: bool = False


@dataclass(frozen=True)
class Condition:
    """`percent`: delay in percent of the time per batch; `ratio`: of a slower copy, in its place.

    kind: positive (the stage limits: to be found), negative (the stage has slack, or there is no delay: to be SAME),
    prediction (compared with bench.analysis.bound).
    """

    name: str
    kind: str
    stage: str
    percent: float = 0.0
    ratio: float = 1.0

    def injection(self, batch_us: float, h2d_us: float, counting: bool = False) -> Injection:
        """For a time per batch and a copy alone that were measured without delay."""
        delay_us = self.percent / 100 * batch_us
        if self.stage != "copy":
            return Injection(self.stage, delay_us, counting=counting or self.stage == "launch")
        ratio = self.ratio + delay_us / h2d_us
        return Injection("copy", (ratio - 1) * h2d_us, ratio, counting)


@dataclass(frozen=True)
class Group:
    """One cell and its conditions, all of them measured by turns in each process.

    counting: every side has the wrapper of the launch delay: what the wrapper itself costs is in none of the ratios.
    window_s: short, so that a spell of the host is longer than a round; measure_s: of the rounds of one process.
    most_blocks: processes; it is not worth more. traced_blocks: how many of them trace every side.
    resolvable: False where the noise is known to be larger than the delays; such a control is shown and not judged.
    """

    name: str
    model: tuple[str, int, int, int, int]
    regime: str
    conditions: tuple[Condition, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    counting: bool = False
    window_s: float = 0.02
    measure_s: float = 3.5
    most_blocks: int = 99
    traced_blocks: int = 3
    resolvable: bool = True

    @property
    def base(self) -> Injection:
        return Injection(counting=self.counting)

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


def slower_copy(*ratios: float) -> tuple[Condition, ...]:
    """Compared with the prediction. One that compute hides is not free: it slows the kernels that run beside it."""
    return tuple(Condition(f"copy x {ratio:g}", PREDICTION, "copy", ratio=ratio) for ratio in ratios)


def no_delay() -> Condition:
    """The same again, as another pipeline of the process: what that alone makes of a comparison."""
    return Condition("no delay", NEGATIVE, "none")


def _cuda_groups() -> tuple[Group, ...]:
    return (
        # Small copies and no compute: only the CPU limits, and it does the same few calls each time, so that a
        # launch-bound cell is quiet for once. Many buffers, so that waiting for a slot cannot be the limit.
        Group(
            "vit0x0x0_bs1_px64", NO_COMPUTE, "launch-bound",
            (no_delay(), *positive("launch", *PERCENT), *slower_copy(2.0)),
            {"batch_size": 1, "image_size": 64, "buffers": 16, "num_samples": 400},
            counting=True, window_s=0.01, measure_s=6.0,
        ),
        # One direction only: the longer copy is the only thing on the link, and all of it is lost.
        Group(
            "vit0x0x0_h2d-only", NO_COMPUTE, "transfer-bound", (no_delay(), *positive("copy", *PERCENT)),
            {"direction": "h2d"}, measure_s=2.5,
        ),
        Group(
            "vit32x2x128_graph", SMALL, "compute-bound",
            (no_delay(), *positive("kernel", *PERCENT), slack("launch", 5), *slower_copy(1.3, 2.0)),
            {"cuda_graph": True},
        ),
        # Both directions share the link: a longer copy costs between nothing and all of it.
        Group(
            "vit0x0x0", NO_COMPUTE, "transfer-bound",
            (no_delay(), *positive("copy", *PERCENT), slack("launch", 5), *slower_copy(1.3, 2.0)), traced_blocks=2,
        ),
        Group(
            "vit32x2x128", SMALL, "launch-bound", (no_delay(), *positive("launch", *PERCENT)),
            counting=True, measure_s=5.0, most_blocks=5, traced_blocks=2, resolvable=False,
        ),
        Group(
            "vit32x2x128_graph_tf32", SMALL, "", slower_copy(1.3, 2.0), {"cuda_graph": True, "dtype": "tf32"},
            measure_s=1.5, most_blocks=3, traced_blocks=1,
        ),
    )  # fmt: skip


def _cpu_groups() -> tuple[Group, ...]:
    """The stages run one after the other: every delay adds up, and no stage has slack.

    Small batches where they compute, so that a window is shorter than what other users of the machine take at a time.
    """
    size = {"num_samples": 100, "memory_size_mb": 96}
    window = {"window_s": 0.005, "measure_s": 10.0, "traced_blocks": 99}
    return (
        Group("vit0x0x0", NO_COMPUTE, "transfer-bound",
              (no_delay(), *positive("copy", *PERCENT), *slower_copy(2.0)), size, **window),
        Group("vit32x2x128_bs2", SMALL, "compute-bound",
              (no_delay(), *positive("kernel", *PERCENT), *positive("launch", *PERCENT)),
              {**size, "batch_size": 2}, **window),
    )  # fmt: skip
