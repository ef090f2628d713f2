"""The link between a GPU and the memory of a placement: bandwidth over sizes, small copies, launches.

python -m bench.workload.microbenchmark, in place of the pipeline of a cell. Copies move memory of the cell's kind, in
trains that are timed by events.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from msgspec.structs import replace

from bench.host.certificate import Certifier
from bench.records.base import Direction
from bench.records.run import ChildReport, LinkCopy, LinkResult
from bench.records.study import Cell
from bench.units import duration
from bench.workload.devices import CpuDevice, Device, open_device, versions
from bench.workload.failures import read_input, write_report
from bench.workload.host_memory import MIB, HostMemory, require_host_memory
from bench.workload.progress import process_start

KIB = 1024
LARGEST_MB = {"cuda": 1024, "cpu": 64}
TRAINS, TRAIN_S = 5, 0.005
# Of the driver's queue, which holds about a thousand commands.
MAX_TRAIN = 400
NVBANDWIDTH_BYTES, NVBANDWIDTH_COPIES, NVBANDWIDTH_TRIALS = 512 * MIB, 16, 3
NVBANDWIDTH = ("nvbandwidth_h2d_gb_s", "nvbandwidth_d2h_gb_s")
SMALL_BYTES, SMALL_TIMES = 64, 500
# What the CPU may take to issue one copy while the stream is held back.
ISSUE_S = 10e-6
MAX_HOLD_S = 0.02


@dataclass(frozen=True)
class Route:
    """Copies of one direction on one stream: (target, source) in turn."""

    stream: Any
    select: Callable[[], None]
    pairs: list[tuple[torch.Tensor, torch.Tensor]]


def make_route(device: Device, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Route:
    stream = device.stream()
    return Route(stream, device.selector(stream), pairs)


def train_s(device: Device, routes: Sequence[Route], count: int) -> float:
    """Seconds from the common start of all routes to the end of the last one, `count` copies on each.

    They are issued while the first stream is held back, so that small copies too follow each other at the device's
    speed and not at the CPU's.
    """
    start = device.event(timing=True)
    ends = [device.event(timing=True) for _ in routes]
    device.hold(routes[0].stream, min(MAX_HOLD_S, count * len(routes) * ISSUE_S))
    start.record(routes[0].stream)
    for route in routes[1:]:
        start.wait(route.stream)
    for index in range(count):
        for route in routes:
            target, source = route.pairs[index % len(route.pairs)]
            route.select()
            target.copy_(source, non_blocking=True)
    for route, end in zip(routes, ends, strict=True):
        end.record(route.stream)
    device.synchronize()
    return max(start.elapsed_time(end) for end in ends) / 1e3


def sizes_bytes(largest_bytes: int) -> list[int]:
    """4 KiB to 1 GiB by powers of 4, and 512 MiB; none above the largest."""
    sizes = {4 * KIB * 4**power for power in range(10)} | {NVBANDWIDTH_BYTES}
    return sorted(size for size in sizes if size <= largest_bytes)


@dataclass(frozen=True)
class Ends:
    """Flat buffers of equal length, one for each direction at each end of the link."""

    host_in: torch.Tensor
    host_out: torch.Tensor
    there: torch.Tensor
    back: torch.Tensor

    def routes(self, device: Device, size: int) -> dict[Direction, list[Route]]:
        """Copies of `size` bytes, spread over the whole of the host's buffers: they come from memory, not cache."""
        pieces = min(MAX_TRAIN, self.host_in.numel() // size)
        step = self.host_in.numel() // pieces
        spread = range(0, pieces * step, step)
        inwards = make_route(device, [(self.there[:size], self.host_in[i : i + size]) for i in spread])
        outwards = make_route(device, [(self.host_out[i : i + size], self.back[:size]) for i in spread])
        return {Direction.H2D: [inwards], Direction.D2H: [outwards], Direction.BOTH: [inwards, outwards]}


def make_ends(device: Device, memory: HostMemory, nbytes: int, mem_node: int | None) -> Ends:
    """Raise RunFailure (oom) if the host does not hold them."""
    require_host_memory(2 * memory.taken_bytes(nbytes), mem_node)
    host = memory.inputs((nbytes,), torch.uint8).fill_(1), memory.outputs((nbytes,), torch.uint8).fill_(2)
    there, back = (torch.ones(nbytes, dtype=torch.uint8, device=device.torch_device) for _ in "io")
    return Ends(*host, there, back)


def measure(cell: Cell, largest_mb: int | None = None) -> LinkResult:
    """Raise RunFailure, or what torch raises."""
    device = open_device(cell)
    largest_bytes = (largest_mb or LARGEST_MB[cell.device]) * MIB
    memory = HostMemory(cell.host_memory, device)
    ends = make_ends(device, memory, largest_bytes, cell.mem_node if cell.binding == "numactl" else None)
    device.synchronize()
    buffers = {"host_in": ends.host_in, "host_out": ends.host_out}
    certifier = Certifier(cell, {name: (buffer.data_ptr(), buffer.nbytes) for name, buffer in buffers.items()})
    certifier.start()
    began = time.perf_counter()
    rows = [row for size in sizes_bytes(largest_bytes) for row in copies(device, ends, size, certifier.see_cpu)]
    target, source = ends.there[:SMALL_BYTES], ends.host_in[:SMALL_BYTES]
    return replace(
        _link_only(device, ends),
        copies=rows,
        small_copy_us=waited_us(device, lambda: target.copy_(source, non_blocking=True)),
        device=device.describe(),
        versions=versions(),
        host_memory=memory.describe((ends.host_in,), (ends.host_out,)),
        measured_s=time.perf_counter() - began,
        process_s=time.clock_gettime(time.CLOCK_BOOTTIME) - process_start(),
        certificate=certifier.finish(),
    )


def copies(device: Device, ends: Ends, size: int, see_cpu: Callable[[], None]) -> list[LinkCopy]:
    """Copies of one size: the median over trains of about TRAIN_S, for each direction and for both at once.

    count: copies of a direction in all trains.
    """
    rows = []
    for direction, routes in ends.routes(device, size).items():
        few = 4 if size <= MIB else 1
        copy_s = min(train_s(device, routes, few) for _ in range(2)) / few
        count = max(1, min(MAX_TRAIN, math.ceil(TRAIN_S / copy_s)))
        values = []
        for _ in range(TRAINS):
            see_cpu()
            values.append(size * count / 1e9 / train_s(device, routes, count))
        rows.append(LinkCopy(direction=direction, bytes=size, median_gb_s=median(values), count=TRAINS * count))
    return rows


def _link_only(device: Device, ends: Ends) -> LinkResult:
    """What only a GPU's link has; None elsewhere, with the reason."""
    if isinstance(device, CpuDevice):
        reason = "on the cpu device nothing crosses a link and nothing is launched"
        return LinkResult(reasons=dict.fromkeys((*NVBANDWIDTH, "launch_us"), reason))
    launch_us = waited_us(device, lambda: torch.cuda._sleep(0))
    if ends.host_in.numel() < NVBANDWIDTH_BYTES:
        return LinkResult(launch_us=launch_us, reasons=dict.fromkeys(NVBANDWIDTH, "--largest-mb is below 512"))
    routes = ends.routes(device, NVBANDWIDTH_BYTES)
    return LinkResult(
        launch_us=launch_us,
        nvbandwidth_h2d_gb_s=nvbandwidth_gb_s(device, routes[Direction.H2D]),
        nvbandwidth_d2h_gb_s=nvbandwidth_gb_s(device, routes[Direction.D2H]),
    )


def nvbandwidth_gb_s(device: Device, routes: Sequence[Route]) -> float:
    """The median of 3 trials; a trial is 16 copies of 512 MiB on one stream, issued while the stream is held back.

    As nvbandwidth defines it: https://github.com/NVIDIA/nvbandwidth, Measurement Details.
    """
    trials = [train_s(device, routes, NVBANDWIDTH_COPIES) for _ in range(NVBANDWIDTH_TRIALS)]
    return NVBANDWIDTH_BYTES * NVBANDWIDTH_COPIES / 1e9 / median(trials)


def waited_us(device: Device, issue: Callable[[], object]) -> float:
    """The median time of a command that is issued through torch to an idle stream and waited for."""
    stream = device.stream()
    device.selector(stream)()
    wait = stream.synchronize if stream is not None else lambda: None
    times_ns = []
    for _ in range(SMALL_TIMES):
        start_ns = time.perf_counter_ns()
        issue()
        wait()
        times_ns.append(time.perf_counter_ns() - start_ns)
    return median(times_ns) / 1e3


@click.command()
@click.option("--cell", "cell_path", type=click.Path(path_type=Path), required=True, help="The placement: a cell.")
@click.option("--result", type=click.Path(path_type=Path), required=True, help="File for the result.")
@click.option("--largest-mb", type=click.IntRange(1, 1024), help="Of a copy, MiB.  [default: 1024, cpu device 64]")
def main(cell_path: Path, result: Path, largest_mb: int | None) -> None:
    """Measure the link between the memory of a placement and its GPU."""

    def measured() -> ChildReport:
        with torch.inference_mode():
            link = measure(read_input(cell_path, Cell), largest_mb)
        print(f"link measured in {duration(link.process_s)}")
        return ChildReport(link=link)

    sys.exit(write_report(result, measured))


if __name__ == "__main__":
    main()
