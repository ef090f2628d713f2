"""Link bandwidth over sizes; small copies; launches."""

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

from bench.host.certificate import Certifier
from bench.records.base import convert, plain
from bench.records.study import Cell as StudyCell
from bench.storage import read_json
from bench.workload.cell import Cell, parse_cell
from bench.workload.devices import CpuDevice, Device, open_device
from bench.workload.host_memory import MIB, HostMemory, require_host_memory
from bench.workload.result import write_result
from bench.workload.run import process_start, versions

# --- copies
# Trains of copies, timed by events: the one way in which the link is measured.

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

    They are issued while the first stream is held back, so that small copies too follow each other at the
    device's pace and not at the CPU's.
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


# --- microbench
# What the link of one GPU gives from one placement: bandwidth over sizes, small copies, launches.
#
# python -m bench.workload.microbenchmark, in place of the pipeline of a cell. Copies move memory of the cell's kind.

KIB = 1024
LARGEST_MB = {"cuda": 1024, "cpu": 64}
TRAINS, TRAIN_S = 5, 0.005
# Of the driver's queue, which holds about a thousand commands.
MAX_TRAIN = 400
NVBANDWIDTH_BYTES, NVBANDWIDTH_COPIES, NVBANDWIDTH_TRIALS = 512 * MIB, 16, 3
NVBANDWIDTH = (
    "median of 3 trials; a trial is 16 copies of 512 MiB on one stream, issued while the stream is held back, "
    "timed by events (https://github.com/NVIDIA/nvbandwidth, Measurement Details)"
)
SMALL_BYTES, SMALL_TIMES = 64, 500
# Nothing of these is used here, so nothing of them can be impossible.
NO_PIPELINE = {
    "compile_model": "off", "cuda_graph": False, "dtype": "fp32", "direction": "both", "preprocess_queue": 0,
}  # fmt: skip

Record = dict[str, Any]


def sizes_bytes(largest_bytes: int) -> list[int]:
    """4 KiB to 1 GiB by powers of 4, and 512 MiB; none above the largest."""
    sizes = {4 * KIB * 4**power for power in range(10)} | {NVBANDWIDTH_BYTES}
    return sorted(size for size in sizes if size <= largest_bytes)


@dataclass(frozen=True)
class Ends:
    """Flat buffers of equal length, one a direction at each end of the link."""

    host_in: torch.Tensor
    host_out: torch.Tensor
    there: torch.Tensor
    back: torch.Tensor

    def routes(self, device: Device, size: int) -> dict[str, list[Route]]:
        """Copies of `size` bytes, spread over the whole of the host's buffers: they come from memory, not cache."""
        pieces = min(MAX_TRAIN, self.host_in.numel() // size)
        step = self.host_in.numel() // pieces
        spread = range(0, pieces * step, step)
        inwards = make_route(device, [(self.there[:size], self.host_in[i : i + size]) for i in spread])
        outwards = make_route(device, [(self.host_out[i : i + size], self.back[:size]) for i in spread])
        return {"h2d": [inwards], "d2h": [outwards], "both": [inwards, outwards]}


def make_ends(device: Device, memory: HostMemory, nbytes: int, mem_node: int | None) -> Ends:
    """Raise RunFailure (oom) if the host does not hold them."""
    require_host_memory(2 * memory.taken_bytes(nbytes), mem_node)
    host = memory.inputs((nbytes,), torch.uint8).fill_(1), memory.outputs((nbytes,), torch.uint8).fill_(2)
    there, back = (torch.ones(nbytes, dtype=torch.uint8, device=device.torch_device) for _ in "io")
    return Ends(*host, there, back)


def measure(raw: Record, largest_mb: int | None = None) -> Record:
    """Raise RunFailure, or what torch raises."""
    cell = parse_cell(raw | NO_PIPELINE)
    device = open_device(cell)
    largest_bytes = (largest_mb or LARGEST_MB[cell.device]) * MIB
    memory = HostMemory(cell.host_memory, device)
    ends = make_ends(device, memory, largest_bytes, cell.mem_node if cell.binding == "numactl" else None)
    device.synchronize()
    places = {name: getattr(ends, name) for name in ("host_in", "host_out")}
    addresses = {name: (place.data_ptr(), place.nbytes) for name, place in places.items()}
    witness = Certifier(convert(raw, StudyCell), addresses)
    witness.start()
    began = time.perf_counter()
    rows = [row for size in sizes_bytes(largest_bytes) for row in copies(device, ends, size, witness.see_cpu)]
    rest, reasons = _rest(device, cell, ends)
    return {
        "status": "ok",
        "device": device.describe(),
        "versions": versions(),
        "host_memory": memory.describe(ends.host_in, ends.host_out),
        "copies": rows,
        **rest,
        "reasons": reasons,
        "nvbandwidth_definition": NVBANDWIDTH,
        "measured_s": time.perf_counter() - began,
        "process_s": time.clock_gettime(time.CLOCK_BOOTTIME) - process_start(),
        "certificate": plain(witness.finish()),
    }


def copies(device: Device, ends: Ends, size: int, see_cpu: Callable[[], None]) -> list[Record]:
    """GB/s of one direction (GB = 1e9), and for `both` what each carries while the other is busy: the median
    of trains of about TRAIN_S. count: copies of a direction in all trains."""
    rows = []
    for direction, routes in ends.routes(device, size).items():
        few = 4 if size <= MIB else 1
        copy_s = min(train_s(device, routes, few) for _ in range(2)) / few
        count = max(1, min(MAX_TRAIN, math.ceil(TRAIN_S / copy_s)))
        values = []
        for _ in range(TRAINS):
            see_cpu()
            values.append(size * count / 1e9 / train_s(device, routes, count))
        row = {"direction": direction, "bytes": size, "median_gb_s": median(values), "count": TRAINS * count}
        rows.append(row)
    return rows


def _rest(device: Device, cell: Cell, ends: Ends) -> tuple[Record, dict[str, str]]:
    """The single figures, null where they mean nothing here, and why."""
    found: Record = dict.fromkeys(("nvbandwidth_h2d_gb_s", "nvbandwidth_d2h_gb_s", "launch_us"))
    reasons = {}
    if isinstance(device, CpuDevice):
        reasons = dict.fromkeys(found, "on the cpu device nothing crosses a link and nothing is launched")
    else:
        found["launch_us"] = waited_us(device, lambda: torch.cuda._sleep(0))
        if ends.host_in.numel() >= NVBANDWIDTH_BYTES:
            routes = ends.routes(device, NVBANDWIDTH_BYTES)
            for direction in ("h2d", "d2h"):
                found[f"nvbandwidth_{direction}_gb_s"] = nvbandwidth_gb_s(device, routes[direction])
        else:
            reasons = dict.fromkeys(("nvbandwidth_h2d_gb_s", "nvbandwidth_d2h_gb_s"), "--largest-mb is below 512")
    target, source = ends.there[:SMALL_BYTES], ends.host_in[:SMALL_BYTES]
    found["small_copy_us"] = waited_us(device, lambda: target.copy_(source, non_blocking=True))
    return found, reasons


def nvbandwidth_gb_s(device: Device, routes: Sequence[Route]) -> float:
    trials = [train_s(device, routes, NVBANDWIDTH_COPIES) for _ in range(NVBANDWIDTH_TRIALS)]
    return NVBANDWIDTH_BYTES * NVBANDWIDTH_COPIES / 1e9 / median(trials)


def waited_us(device: Device, issue: Callable[[], object]) -> float:
    """The median time of a command issued through torch to an idle stream and waited for."""
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
@click.option("--result", type=click.Path(path_type=Path), required=True, help="Where the result goes.")
@click.option("--largest-mb", type=click.IntRange(1, 1024), help="Of a copy, MiB.  [default: 1024, cpu device 64]")
def main(cell_path: Path, result: Path, largest_mb: int | None) -> None:
    """Measure the link between the memory of a placement and its GPU."""

    def measured() -> Record:
        with torch.inference_mode():
            found = measure(read_json(cell_path), largest_mb)
        print(f"links measured in {found['process_s']:.1f} s")
        return found

    sys.exit(write_result(result, measured))


if __name__ == "__main__":
    main()
