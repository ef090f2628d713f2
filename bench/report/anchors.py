"""What others have published about a wrong or no placement: a scale for the penalties of a report.

Only what the source states; a loss is the share of throughput that is lost against the best placement.
"""

from dataclasses import dataclass

from bench.units import percent


@dataclass(frozen=True)
class Anchor:
    """least, most: the loss as a share. figure: as the source has it."""

    name: str
    least: float
    most: float
    figure: str
    conditions: str
    source: str
    url: str

    @property
    def is_range(self) -> bool:
        return self.least < self.most

    @property
    def text(self) -> str:
        """The loss: "33 %", "1.0 % to 9.1 %", "none"."""
        if not self.most:
            return "none"
        return f"{percent(self.least)} to {percent(self.most)}" if self.is_range else percent(self.most)


ANCHORS = (
    Anchor(
        name="ROCm",
        least=0.0,
        most=0.0,
        figure="28 GB/s one way and 45 GB/s both ways from either node",
        conditions="copies of large blocks, MI210 on PCIe 4, two EPYC 9554",
        source="rocm_bandwidth_test #129",
        url="https://github.com/ROCm/rocm_bandwidth_test/issues/129",
    ),
    Anchor(
        name="PyTorch",
        least=1 - 1 / 1.01,
        most=1 - 1 / 1.1,
        figure="1 to 10 % gained by binding, much more or nothing for some workloads",
        conditions="torchrun --numa-binding, training in general",
        source="PyTorch, NUMA binding",
        url="https://docs.pytorch.org/docs/main/elastic/numa.html",
    ),
    Anchor(
        name="vLLM",
        least=1 - 1 / 1.5,
        most=1 - 1 / 1.5,
        figure="about 1.5 times as fast on the best nodes as on any others",
        conditions="4 GB of weights offloaded to the CPU, Qwen3-4B, two ranks on a node of four GB200",
        source="vllm #30492",
        url="https://github.com/vllm-project/vllm/pull/30492",
    ),
    Anchor(
        name="gearshifft",
        least=1 - 3.7834 / 12.1507,
        most=1 - 3.7834 / 12.1507,
        figure="12.15 GB/s from the near node, 3.78 GB/s from the other one",
        conditions="copies of 32 MiB of pinned memory to a P100 on PCIe, in 2017",
        source="gearshifft #82",
        url="https://github.com/mpicbg-scicomp/gearshifft/pull/82",
    ),
    Anchor(
        name="srt-slurm",
        least=1 - 14.1 / 70.4,
        most=1 - 14.1 / 70.4,
        figure="70.4 ms for a decode step unbound, 14.1 ms bound",
        conditions="eight ranks that contend for CPUs of eight nodes, B300, EPYC 9575F, TensorRT-LLM",
        source="srt-slurm #332",
        url="https://github.com/NVIDIA/srt-slurm/pull/332",
    ),
)
"""By their loss."""
