"""A number that a workload measures, and which way it is better."""

from collections.abc import Sequence
from enum import StrEnum
from statistics import median
from typing import Annotated

from msgspec import Meta

from bench.records.base import Positive, Record

# llama-bench's names hold "@".
MetricName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,+=@-]{0,99}(?!\n)$")]
Unit = Annotated[str, Meta(min_length=1, max_length=32)]
# The group of a pattern that holds the rank whose number the other group is.
RANK = "rank"


class Better(StrEnum):
    HIGHER = "higher"
    LOWER = "lower"


class Metric(Record, frozen=True, kw_only=True):
    value: Positive
    unit: Unit
    better: Better

    @property
    def rate(self) -> float:
        """The value, or where less is better its inverse: more is always better, and a ratio is the inverse one."""
        return self.value if self.better is Better.HIGHER else 1 / self.value


def slowest_over_median(times: Sequence[float]) -> float:
    """Of GPUs or ranks that work at once: 1 where all are alike; they wait for the slowest where they synchronise."""
    return max(times) / median(times)


def straggler_of(name: str) -> str:
    """The metric slowest_over_median of one that several ranks give."""
    return f"{name}_straggler"


class Measured(Record, frozen=True, kw_only=True):
    """What one run of a command measured. primary: the name of the metric that runs are compared by."""

    metrics: dict[MetricName, Metric]
    primary: MetricName
    remarks: list[str] = []


class Read(StrEnum):
    """The program whose output holds the numbers of a command."""

    JSON = "json"
    """Metrics in our own form, as a script of the user writes them."""
    VLLM = "vllm"
    """vllm bench serve --save-result, and SGLang's bench_serving."""
    LLAMA_BENCH = "llama-bench"
    NCCL_TESTS = "nccl-tests"
    HYPERFINE = "hyperfine"
    NVBANDWIDTH = "nvbandwidth"
    TRTLLM = "trtllm"
    """trtllm-bench --report_json."""
    MLPERF = "mlperf"
    """mlperf_log_summary.txt of LoadGen."""
    WALL = "wall"
    """The time that the command took; nothing is read."""
