import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from bench.records.base import Direction, read
from bench.records.run import ChildReport
from bench.workload.devices import CpuDevice
from bench.workload.microbenchmark import Ends, sizes_bytes

from .cells import raw_cell

KIB, MIB = 1 << 10, 1 << 20


def run(folder, *more: str, **changes) -> tuple[int, ChildReport]:
    (folder / "cell.json").write_text(json.dumps(raw_cell(**changes)))
    files = ["--cell", str(folder / "cell.json"), "--result", str(folder / "result.json")]
    child = subprocess.run([sys.executable, "-m", "bench.workload.microbenchmark", *files, *more], capture_output=True)
    return child.returncode, read(folder / "result.json", ChildReport)


def test_sizes_go_by_powers_of_four():
    assert sizes_bytes(1024 * MIB) == [
        *(4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB),
        *(1 * MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, 512 * MIB, 1024 * MIB),
    ]
    assert sizes_bytes(20 * KIB) == [4 * KIB, 16 * KIB]


@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_copies_are_spread_over_the_buffer_and_stay_inside(size):
    buffers = [torch.zeros(1000, dtype=torch.uint8) for _ in range(4)]
    routes = Ends(*buffers).routes(CpuDevice(), size)
    sources = [source for _, source in routes[Direction.H2D][0].pairs]
    assert {len(source) for source in sources} == {size}
    starts = [source.data_ptr() - buffers[0].data_ptr() for source in sources]
    assert all(b - a >= size for a, b in pairwise(starts))
    assert 750 <= starts[-1] + size <= 1000
    assert routes[Direction.BOTH] == [*routes[Direction.H2D], *routes[Direction.D2H]]


def test_the_cpu_device(tmp_path):
    # What the pipeline of the cell could not do here does not matter.
    code, report = run(tmp_path, "--largest-mb", "1", cuda_graph=True, dtype="tf32")
    found = report.link
    assert (code, report.failure, found.device.type) == (0, None, "cpu")
    seen = [(row.direction, row.bytes) for row in found.copies]
    assert seen == [(way, size) for size in sizes_bytes(MIB) for way in ("h2d", "d2h", "both")]
    assert all(row.median_gb_s > 0 and row.count >= 5 for row in found.copies)
    assert found.small_copy_us > 0
    assert found.host_memory.kind == "pinned"
    empty = {"nvbandwidth_h2d_gb_s", "nvbandwidth_d2h_gb_s", "launch_us"}
    assert {key for key in found.__struct_fields__ if getattr(found, key) is None} == empty == set(found.reasons)
    assert set(found.certificate.buffers) == {"host_in", "host_out"}
    assert found.certificate.cpus_seen


def test_failure_is_reported_by_name(tmp_path):
    code, report = run(tmp_path, device="cuda", gpu=99)
    assert (code, report.failure.status) == (3, "not_runnable")
    assert report.failure.advice
