"""What the link gives: batch-sized copies of pinned memory, one way and both ways at once.

python -m bench.workload.link prints it. The both-ways figure is the ceiling of a pipeline without compute. Over
sizes, without a pipeline in mind: microbench.py.
"""

import json
import math
from dataclasses import asdict, dataclass
from statistics import median

import click
import torch

from bench.workload.devices import CpuDevice, CudaDevice, Device
from bench.workload.host_memory import MIB, HostMemory, require_host_memory
from bench.workload.microbenchmark import Route, make_route, train_s

BURSTS = 5


@dataclass(frozen=True)
class Link:
    """GB = 1e9 bytes. `both_gb_s`: what each direction carries while the other one is busy too."""

    batch_bytes: int
    h2d_gb_s: float
    d2h_gb_s: float
    both_gb_s: float

    def samples_s(self, batch_size: int) -> float:
        """Ceiling of a pipeline that moves batch_bytes in and as many out per batch."""
        return self.both_gb_s * 1e9 / self.batch_bytes * batch_size


def measure_link(device: Device, batch_bytes: int, pool_bytes: int, burst_s: float = 0.1) -> Link:
    """Median over bursts of about burst_s; copies cycle through pools of pool_bytes, as the pipeline's do."""
    length = max(2, pool_bytes // batch_bytes)
    memory = HostMemory("pinned", device)
    require_host_memory(2 * memory.taken_bytes(length * batch_bytes), None)
    shape = (length, batch_bytes)
    host_in, host_out = memory.inputs(shape, torch.uint8).fill_(1), memory.outputs(shape, torch.uint8).fill_(2)
    there, back = (torch.ones(2, batch_bytes, dtype=torch.uint8, device=device.torch_device) for _ in "io")
    inwards = make_route(device, [(there[i % 2], host_in[i]) for i in range(length)])
    outwards = make_route(device, [(host_out[i], back[i % 2]) for i in range(length)])
    device.synchronize()

    def gb_s(routes: list[Route]) -> float:
        train_s(device, routes, 2)
        count = max(2, math.ceil(burst_s / (train_s(device, routes, 8) / 8)))
        return batch_bytes / 1e9 / median(train_s(device, routes, count) / count for _ in range(BURSTS))

    return Link(batch_bytes, gb_s([inwards]), gb_s([outwards]), gb_s([inwards, outwards]))


@click.command()
@click.option("--gpu", type=int, default=0, show_default=True, help="In PCI bus order.")
@click.option("--batch-bytes", type=int, default=6_021_120, show_default=True)
@click.option("--pool-mb", type=int, default=512, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
def main(gpu: int, batch_bytes: int, pool_mb: int, device: str) -> None:
    """Measure the link between host memory and the device, one way and both ways."""
    opened = CpuDevice() if device == "cpu" else CudaDevice(gpu)
    print(json.dumps(asdict(measure_link(opened, batch_bytes, pool_mb * MIB)), indent=1))


if __name__ == "__main__":
    main()
