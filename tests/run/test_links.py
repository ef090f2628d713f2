"""Links, measured by the real program on the cpu device, and what is left where it fails."""

from pathlib import Path

import pytest
from msgspec import structs

from bench.records.base import read
from bench.records.run import Link
from bench.records.study import Cell
from bench.run.lock import HostLock
from bench.run.stages import link_cells, link_name, measure_link
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study

TINY = {
    "name": "tiny", "gpu_ids": [0, 1], "numa_nodes": [0], "models": ["vit0x0x0", "vit32x2x64"], "image_size": 32,
    "num_samples": 20, "warmup_samples": 2, "batch_size": 2, "memory_size_mb": 1, "timeout_s": 600, "device": "cpu",
    "binding": "none", "concurrent_gpus": 2, "host_memory": "pageable",
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return resolve(read_study(TINY, "f"), tmp_path / "outputs", False, "now")


def cells_of(directory: RunDirectory) -> list[Cell]:
    return [*directory.grid().cells]


def test_one_link_for_each_runnable_gpu_and_placement(directory: RunDirectory) -> None:
    cells = cells_of(directory)
    assert [*link_cells(cells)] == ["gpu0_numa0", "gpu1_numa0"]
    apart = structs.replace(cells[0], cpu_node=3)
    absent = structs.replace(cells[0], gpu=7, reason="no such GPU: 7")
    found = link_cells([*cells, apart, absent])
    assert [*found] == ["gpu0_numa0", "gpu1_numa0", "gpu0_numa0_cpu3"] and found["gpu0_numa0_cpu3"].cpu_node == 3
    assert link_name(apart) == "gpu0_numa0_cpu3"


def test_link_is_measured_with_default_settings(directory: RunDirectory) -> None:
    link = link_cells(cells_of(directory))["gpu1_numa0"]
    assert (link.gpu, link.concurrent_gpus, link.host_memory, link.direction) == (1, 1, "pinned", "both")


def test_measured_link_is_a_record_of_its_own(directory: RunDirectory, tmp_path: Path) -> None:
    name, cell = next(iter(link_cells(cells_of(directory)).items()))
    lock = HostLock(tmp_path)
    record = measure_link(directory, name, cell, "now", lock, lambda *_: None)
    assert record == read(directory.path / "links" / "gpu0_numa0.json", Link)
    assert (record.schema, record.status, record.invocation) == (2, "ok", "now")
    assert (record.gpu, record.cpu_node, record.mem_node) == (0, 0, 0)
    copies = record.result.copies
    assert {copy.direction for copy in copies} == {"h2d", "d2h", "both"}
    assert all(copy.median_gb_s > 0 for copy in copies)
    assert lock.holder().study == str(directory.path) and lock.sessions() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "outcome", "words"),
    [
        ({"timeout_s": 0.1}, "timeout", "not finished after 0.1 s"),
        ({"dtype": "fp8"}, "crashed", "'fp8' - at `$.dtype`"),
    ],
)
def test_failed_link_is_a_record_with_its_outcome(
    directory: RunDirectory, tmp_path: Path, change: dict, outcome: str, words: str
) -> None:
    name, cell = next(iter(link_cells(cells_of(directory)).items()))
    record = measure_link(directory, name, structs.replace(cell, **change), "now", HostLock(tmp_path), lambda *_: None)
    assert record.status == outcome and words in record.reason and record.advice
