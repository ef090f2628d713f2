"""What only a GPU can show. Skipped where there is none: NUMASTUDY_GPU_TESTS=1 pytest tests/where/test_on_gpu.py -s."""

import json
import subprocess
import sys

import pytest
import torch

from bench.host.gpus import device_files, gpu_users, query_nvml
from bench.records.base import convert
from bench.records.where import MemoryKind, Where

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

PINNED_BYTES = 4 << 30
PROGRAM = f"""
import torch
pool = torch.empty({PINNED_BYTES}, dtype=torch.uint8, pin_memory=True)
device = torch.zeros(1, device="cuda:0")
print("READY", flush=True)
input()
"""


@pytest.fixture(scope="module")
def pinned():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "READY\n"
        yield process.pid
        process.stdin.close()


def look(*arguments):
    command = [sys.executable, "-c", "from bench.cli import main; main()", "where", "--json", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode in (0, 3, 4), ended.stderr
    return convert(json.loads(ended.stdout), Where)


def test_pinned_memory_of_torch_is_found_to_the_page(pinned):
    answer = look("--gpu", "0")
    (gpu,) = answer.gpus
    (place,) = [one for one in gpu.processes if one.pid == pinned]
    found = sum(place.bytes[MemoryKind.PINNED].values())
    per_gib = answer.cost_ms / sum(sum(nodes.values()) for nodes in place.bytes.values()) * (1 << 30)
    print(f"\npinned {found} bytes, {answer.cost_ms:.0f} ms, {per_gib:.1f} ms/GiB, near {gpu.near}: {gpu.text}")
    # torch rounds a pinned block up to a power of two; the driver maps a little for itself.
    assert PINNED_BYTES <= found < PINNED_BYTES + (256 << 20)
    assert per_gib < 50


def test_largest_pinned_area_has_exactly_its_pages(pinned):
    with open(f"/proc/{pinned}/numa_maps") as lines:
        sizes = [
            sum(int(word.partition("=")[2]) for word in line.split() if word[0] == "N" and word[1].isdigit())
            for line in lines
            if "/dev/zero" in line
        ]
    assert max(sizes) * 4096 == PINNED_BYTES


def test_process_is_found_by_nvml_and_by_its_device_file(pinned):
    nvml = query_nvml()
    print(f"\nNVML lists {nvml.gpus[0].processes}; files {device_files(pinned)}; minors {[g.minor for g in nvml.gpus]}")
    assert gpu_users(nvml, [pinned])[pinned][0] == 0
    unlisted = [type(gpu)(pci_bus_id=gpu.pci_bus_id, minor=gpu.minor) for gpu in nvml.gpus]
    assert gpu_users(type(nvml)(gpus=tuple(unlisted)), [pinned])[pinned][0] == 0


def test_sampled_look_agrees_and_is_quick(pinned):
    full, quick = look(str(pinned)), look(str(pinned), "--quick")
    print(f"\nfull {full.cost_ms:.0f} ms, quick {quick.cost_ms:.0f} ms")
    sizes = [sum(answer.gpus[0].processes[0].bytes[MemoryKind.PINNED].values()) for answer in (full, quick)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02
