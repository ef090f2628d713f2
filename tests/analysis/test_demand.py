"""Which cells are measured again: disturbed pairs, and comparisons that are not narrow enough. Records are made up."""

import random
from pathlib import Path

import pytest

from bench.analysis.repeats import demanded
from bench.records.host import Node, Topology
from bench.records.study import run_name
from bench.run.record import write_record
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study

BASE = {
    "name": "twins", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0", "vit0x0x0", "vit32x2x128"],
    "device": "cpu", "binding": "none", "repeats": 2, "disturbed_repeats": 2,
}  # fmt: skip
FIRST, TWIN, ALONE = (f"pipeline_gpu0_numa0_{name}" for name in ("vit0x0x0", "vit0x0x0_again", "vit32x2x128"))


def measured(tmp_path: Path, disturbed: set[tuple[str, int]], repeats: int = 2) -> RunDirectory:
    directory = resolve(read_study(BASE, "f"), tmp_path, False, "now")
    for slot in directory.grid().asked(repeats):
        monitor = {"disturbed": ["throttled"] if (slot.cell, slot.repeat) in disturbed else []}
        record = {"cell": slot.cell, "repeat": slot.repeat, "status": "ok", "invocation": "now", "monitor": monitor}
        write_record(directory.record(slot.cell, slot.repeat), record)
    return directory


def test_a_quiet_study_needs_nothing_more(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, set())) == {}


def test_a_disturbed_run_has_its_whole_pair_measured_again(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, {(TWIN, 1)})) == {FIRST: 3, TWIN: 3}


def test_two_runs_of_one_block_are_one_block_to_repeat(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, {(FIRST, 2), (TWIN, 2)})) == {FIRST: 3, TWIN: 3}


def test_a_cell_that_is_compared_with_nothing_has_no_pair_to_lose(tmp_path: Path) -> None:
    assert demanded(measured(tmp_path, {(ALONE, 1)})) == {}


def test_cells_of_an_axis_are_a_pair_too(tmp_path: Path) -> None:
    """On one node each cell of a sweep is a group of its own; its base is in another."""
    swept = {"models": ["vit32x2x128"], "axes": {"dtype": ["fp32", "bf16"], "buffers": [1, 2]}}
    directory = resolve(read_study(BASE | swept, "f"), tmp_path, False, "now")
    names = [cell.name for cell in directory.grid().cells]
    _, plain, other, lost = sorted(names, key=lambda name: ("buf1" in name, "bf16" in name))
    for slot in directory.grid().asked(2):
        monitor = {"disturbed": ["throttled"] if (slot.cell, slot.repeat) == (lost, 1) else []}
        record = {"cell": slot.cell, "repeat": slot.repeat, "status": "ok", "invocation": "now", "monitor": monitor}
        write_record(directory.record(slot.cell, slot.repeat), record)
    assert demanded(directory) == {lost: 3, plain: 3, other: 3}


def test_repeats_that_are_disturbed_too_end_at_the_limit(tmp_path: Path) -> None:
    everywhere = {(FIRST, repeat) for repeat in (1, 2, 3, 4)}
    assert demanded(measured(tmp_path, everywhere, repeats=4)) == {FIRST: 4, TWIN: 4}


def test_target_precision_asks_for_the_next_look_only_where_it_is_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stub of a host with two nodes: here only records are read, nothing is run.
    nodes = tuple(Node(id=i, cpus=str(i), allowed_cpus=str(i), memory_bytes=1 << 34) for i in (0, 1))
    two_nodes = Topology(nodes=nodes)
    monkeypatch.setattr("bench.study.directory.read_topology", lambda: two_nodes)
    changes = {"numa_nodes": [0, 1], "models": ["vit0x0x0", "vit32x2x128"], "repeats": 6, "target_precision": 0.02}
    directory = resolve(read_study(BASE | changes, "f"), tmp_path, False, "now")
    noise = random.Random(1)
    for slot in directory.grid().asked(6):
        rate = 1000 * (1 + noise.gauss(0, 0.03 if "vit32" in slot.cell else 0.002))
        record = {
            "run": run_name(slot.cell, slot.repeat), "cell": slot.cell, "repeat": slot.repeat, "block": slot.block,
            "position": slot.position, "status": "ok", "reason": "", "advice": "", "invocation": "now",
            "monitor": None, "wall_s": 1.0, "result": {"throughput_samples_s": rate},
        }  # fmt: skip
        write_record(directory.record(slot.cell, slot.repeat), record)
    assert demanded(directory) == {f"pipeline_gpu0_numa{node}_vit32x2x128": 10 for node in (0, 1)}
