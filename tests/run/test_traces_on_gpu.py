"""One process traces every cell of a group on a GPU. Skipped without one.

NUMASTUDY_GPU_TESTS=1 python -m pytest tests/run/test_traces_on_gpu.py
"""

from pathlib import Path

import pytest
import torch

from bench.host.fingerprint import find_nsys
from bench.records.run import Outcome, PlacementVerdict
from bench.run.crossing import execute_group
from bench.run.lock import HostLock
from bench.run.stages import export_trace, extract_metrics
from bench.study.directory import resolve
from bench.study.load import read_study
from bench.trace.export import open_export
from bench.trace.reader import read_window

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

STUDY = {
    "name": "traced_on_gpu", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit32x2x128"], "repeats": 1,
    "num_samples": 100, "batch_size": 10, "memory_size_mb": 64, "device": "cuda", "design": "crossing",
}  # fmt: skip


CELLS = {
    "equal": {"models": ["vit32x2x128"] * 3},
    "sides": {"include": [{"cuda_graph": True, "buffers": 3}, {"dtype": "bf16", "batch_size": 20}]},
}


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("profiler", ["nsys", "torch"])
def test_every_capture_is_the_trace_of_its_own_cell(tmp_path: Path, profiler: str, cells: str) -> None:
    if profiler == "nsys" and not find_nsys():
        pytest.skip("nsys is not installed: .ci/install-nsys")
    directory = resolve(
        read_study(STUDY | CELLS[cells] | {"profiler": profiler}, "f"), tmp_path / "outputs", False, "now"
    )
    grid = directory.grid()
    traced = [slot for slot in grid.order if slot.is_traced]
    slots, lock = grid.process(traced[0]), HostLock(tmp_path)
    assert len(slots) == 3
    runs = execute_group(directory, slots, "now", lock, lambda progress: None)
    lock.release()
    for one in runs:
        assert one.status is Outcome.OK, (one.reason, one.log_tail)
        assert one.certificate and one.certificate.verdict is PlacementVerdict.PROVED
        assert one.crossing and one.crossing.captured == [cell.name for cell in grid.cells]
    starts, durations = set[int](), list[int]()
    for cell in grid.cells:
        export = export_trace(directory, cell, "now")
        assert export.ok, export.reason
        with open_export(directory.sqlite(cell.name)) as opened:
            window = read_window(opened)
            starts.add(window.start)
            durations.append(window.end - window.start)
        # Batches x bytes of its own pass, no more and no less.
        read = extract_metrics(directory, cell, "now")
        assert read.ok, read.reason
    # Equal to the nanosecond would be one capture thrice.
    assert len(starts) == len(set(durations)) == 3
    leftovers = [path.name for path in (directory.path / "nsys_reports").iterdir() if "traced" in path.name]
    assert leftovers == []
