"""The run directory of a study: found again, made anew, refused when the host has changed; and its plan."""

import errno
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import structs

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.records.base import plain
from bench.records.run import Head, Outcome, write_record
from bench.records.study import TRACED
from bench.storage import write_json
from bench.study.directory import RunDirectory, find, resolve
from bench.study.duration import BY_OPERATIONS
from bench.study.load import StudyDefinition, load_study, read_study
from bench.study.plan import plan, render
from tests.host.made_hosts import host_topology

TINY = {
    "name": "tiny", "gpu_ids": [0], "numa_nodes": [0, 99], "models": ["vit0x0x0", "vit32x2x128"], "device": "cpu",
    "binding": "none", "num_samples": 20, "batch_size": 2, "disturbed_repeats": 0,
}  # fmt: skip


def study(**changes: object) -> StudyDefinition:
    return read_study(TINY | changes, "f")


def test_same_study_has_the_same_directory(tmp_path: Path) -> None:
    first = resolve(study(), tmp_path, False, "a")
    assert resolve(study(), tmp_path, False, "b") == first
    assert resolve(study(num_samples=40), tmp_path, False, "b") != first
    assert find(study(), tmp_path) == first
    assert find(study(seed=7), tmp_path) is None


def test_sweep_is_part_of_the_identity_of_a_study(tmp_path: Path) -> None:
    plain = resolve(study(), tmp_path, False, "a")
    swept = resolve(read_study(TINY, "f", {"sweep": {"buffers": [1, 2]}}), tmp_path, False, "a")
    assert swept != plain and len(swept.grid().cells) == 2 * len(plain.grid().cells)
    assert find(study(axes={"buffers": [1, 2]}), tmp_path) == swept
    assert find(read_study(TINY, "f", {"sweep": {"buffers": [1, 3]}}), tmp_path) is None
    assert swept.study().axes == {"buffers": (1, 2)}


def test_variants_of_a_gpu_and_model_are_neighbours(tmp_path: Path) -> None:
    axes = {"buffers": [1, 2, 3], "dtype": ["fp32", "bf16"]}
    directory = resolve(study(axes=axes, models=["vit0x0x0", "vit32x2x128", "vit32x4x128"]), tmp_path, False, "a")
    grid = directory.grid()
    families = [grid.cell(slot.cell).family for slot in grid.order if slot.block == 1]
    assert sum(one != other for one, other in pairwise(families)) == 2
    groups = [slot.group for slot in grid.order if slot.block == 1]
    assert sum(one != other for one, other in pairwise(groups)) == 3 * 6 - 1
    assert [slot.group for slot in grid.order if slot.block == 2] != groups


def test_fresh_creates_one_directory_a_call(tmp_path: Path) -> None:
    first = resolve(study(), tmp_path, False, "a")
    second = resolve(study(), tmp_path, True, "b")
    assert second != first
    assert resolve(study(), tmp_path, True, "b") == second
    assert resolve(study(), tmp_path, False, "c") == second


def test_removed_directory_is_created_again(tmp_path: Path) -> None:
    first = resolve(study(), tmp_path, False, "a")
    shutil.rmtree(first.path)
    assert (resolve(study(), tmp_path, False, "b").path / "grid.json").exists()


def test_interrupted_directory_is_completed_unless_it_has_runs(tmp_path: Path) -> None:
    first = resolve(study(), tmp_path, False, "a")
    (first.path / "grid.json").unlink()
    assert resolve(study(), tmp_path, False, "b") == first
    assert (first.path / "grid.json").exists()
    (first.path / "grid.json").unlink()
    (first.path / "runs" / "cell_r1.json").touch()
    # Else its runs would be measured again, and lost.
    assert resolve(study(), tmp_path, False, "c") == first and not (first.path / "grid.json").exists()
    with pytest.raises(StudyError, match="the grid of the study cannot be read") as refused:
        plan(study(), tmp_path)
    assert "--fresh" in refused.value.advice
    assert plan(study(), tmp_path, fresh=True).runs_to_do and resolve(study(), tmp_path, True, "d") != first


def test_frozen_study_and_grid_are_read_back(tmp_path: Path) -> None:
    directory = resolve(study(), tmp_path, False, "a")
    grid = directory.grid()
    assert len(grid.cells) == 4
    assert [slot.position for slot in grid.order] == list(range(8))
    assert directory.study().profiler == "torch"
    assert directory.host().node(0) is not None


def test_changed_host_is_refused_and_named(tmp_path: Path) -> None:
    directory = resolve(study(), tmp_path, False, "a")
    host = directory.host()
    changed = structs.replace(host, fingerprint=structs.replace(host.fingerprint, kernel="2.6.32"))
    write_json(directory.path / "topology.json", plain(changed))
    with pytest.raises(StudyError, match="--fresh") as refused:
        resolve(study(), tmp_path, False, "b")
    assert "the kernel was 2.6.32" in str(refused.value)
    assert resolve(study(), tmp_path, True, "b") != directory


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_useless_profiler_is_refused_before_anything_is_created(tmp_path: Path, device: str) -> None:
    asked, no_gpu = study(profiler="nsys", device=device), structs.replace(read_topology(), gpus=())
    with pytest.raises(StudyError, match="profiler nsys records what CUDA does"):
        plan(asked, tmp_path, topology=no_gpu)
    with pytest.raises(StudyError, match="profiler nsys records what CUDA does"):
        resolve(study(profiler="nsys"), tmp_path, False, "a")
    assert not list(tmp_path.rglob("grid.json"))


def test_read_only_output_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="--output-dir"):
        resolve(study(), tmp_path / "file", False, "a")


def test_loop_of_links_as_output_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert plan(study(), tmp_path / "loop").runs
    with pytest.raises(StudyError, match="cannot write there: Too many levels of symbolic links"):
        resolve(study(), tmp_path / "loop", False, "a")


def test_run_directory_that_cannot_be_created_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.study.directory.time.strftime", lambda form: form.replace("%", ""))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "Y-m-d").write_text("")
    with pytest.raises(StudyError, match="cannot write there: Not a directory"):
        resolve(study(), tmp_path, False, "a")


def test_plan_runs_nothing_and_reports_what_is_done(tmp_path: Path) -> None:
    made = plan(study(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert [cell.state for cell in made.cells] == ["todo", "todo", "not_runnable", "not_runnable"]
    assert (made.runs, made.runs_to_do) == (8, 4)
    assert made.estimate_from == BY_OPERATIONS
    assert f" ({BY_OPERATIONS})\n" in render(made)

    directory = resolve(study(), tmp_path, False, "a")
    for name, status in (("vit0x0x0", "ok"), ("vit32x2x128", "timeout")):
        cell = f"pipeline_gpu0_numa0_{name}"
        head = Head(status=Outcome(status), reason="late", invocation="a", wall_s=3.0)
        for path in (directory.record(cell, 1), directory.record(cell, TRACED), directory.metrics(cell)):
            write_record(path, head)
    made = plan(study(), tmp_path)
    assert [cell.state for cell in made.cells] == ["done", "failed", "not_runnable", "not_runnable"]
    assert made.cells[1].reason == "timeout: late"
    assert made.runs_to_do == 2
    assert "continues in" in render(made)
    json.dumps(made.as_json())

    # What was stopped before its metrics were made has no run left to do, and is not done.
    directory.metrics("pipeline_gpu0_numa0_vit0x0x0").unlink()
    made = plan(study(), tmp_path)
    assert (made.cells[0].state, made.runs_to_do) == ("todo", 2)

    fresh = plan(study(), tmp_path, fresh=True)
    assert fresh.directory is None and fresh.runs_to_do == 4


def test_plan_shows_cells_that_a_run_found_not_runnable(tmp_path: Path) -> None:
    """As where the kernel has no huge pages: the next call tries it again."""
    directory = resolve(study(), tmp_path, False, "a")
    head = Head(status=Outcome.NOT_RUNNABLE, reason="no huge pages", invocation="a", wall_s=3.0)
    for cell in (cell.name for cell in directory.grid().cells):
        for path in (directory.record(cell, 1), directory.record(cell, TRACED), directory.metrics(cell)):
            write_record(path, head)
    made = plan(study(), tmp_path)
    assert {cell.state for cell in made.cells} == {"not_runnable"}
    assert made.cells[0].reason == "no huge pages"
    assert made.runs_to_do == 4, "node 99 is not there: the grid says so, and nothing will try those cells"


def test_estimate_comes_from_earlier_runs_of_the_kind(tmp_path: Path) -> None:
    directory = resolve(study(), tmp_path, False, "a")
    for cell in (cell.name for cell in directory.grid().cells):
        for repeat, wall_s in ((1, 2.0), (TRACED, 5.0)):
            write_record(directory.record(cell, repeat), Head(status=Outcome.OK, invocation="a", wall_s=wall_s))
    made = plan(study(), tmp_path, fresh=True)
    assert (made.estimate_s, made.estimate_from) == (14.0, "earlier runs on this host")


def write_walls(directory: RunDirectory, walls: dict[str, float]) -> None:
    """Runs of the two runnable cells that went well, by model and repeat, as "vit0x0x0_1"."""
    for run, wall_s in walls.items():
        model, _, repeat = run.partition("_")
        head = Head(status=Outcome.OK, invocation="a", wall_s=wall_s)
        write_record(directory.record(f"pipeline_gpu0_numa0_{model}", repeat), head)


def test_interrupted_study_estimates_its_rest(tmp_path: Path) -> None:
    directory = resolve(study(repeats=2), tmp_path, False, "a")
    write_walls(directory, {"vit0x0x0_1": 2.0, "vit32x2x128_1": 4.0})
    # One more run of each cell as its first; of the traced runs nothing is known but what the study's runs take.
    made = plan(study(repeats=2), tmp_path)
    assert (made.runs_to_do, made.estimate_s, made.estimate_from) == (4, 6.0 + 2 * 3.0, "earlier runs on this host")
    write_walls(directory, {"vit0x0x0_traced": 10.0})
    assert plan(study(repeats=2), tmp_path).estimate_s == 6.0 + 10.0
    # Its runs tell the time though five other studies are newer.
    for repeats in range(3, 8):
        write_walls(resolve(study(repeats=repeats), tmp_path, False, "a"), {"vit0x0x0_1": 1000.0})
    assert plan(study(repeats=2), tmp_path, fresh=True).estimate_s == 2 * 6.0 + 2 * 10.0


def test_another_study_estimates_only_its_own_kinds(tmp_path: Path) -> None:
    other = resolve(study(seed=1), tmp_path, False, "a")
    write_walls(other, {"vit0x0x0_1": 2.0, "vit0x0x0_traced": 3.0})
    asked = study(seed=1, repeats=2)  # another study of the same cells
    assert plan(asked, tmp_path).estimate_from == BY_OPERATIONS
    write_walls(other, {"vit32x2x128_1": 4.0})
    assert plan(asked, tmp_path).estimate_s == 2 * 2.0 + 3.0 + 3 * 4.0
    write_json(other.path / "topology.json", plain(structs.replace(other.host(), host="elsewhere")))
    assert plan(asked, tmp_path).estimate_from == BY_OPERATIONS


def test_estimate_is_typical_when_a_gpu_host_has_no_runs(tmp_path: Path) -> None:
    two_sockets = host_topology("two_sockets")
    made = plan(study(device="cuda"), tmp_path, topology=two_sockets)
    assert made.estimate_s == 2 * (11.0 + 18.0) and "typical times of an H100 host" in made.estimate_from


def test_plan_names_entries_that_exclude_nothing(tmp_path: Path) -> None:
    exclude = [{"model": "vit0x0x0", "dtype": "bf16"}, {"dtype": ["fp16"], "model": "vit32x2x128"}]
    said = 'exclude[1] drops nothing: {"dtype": ["fp16"], "model": ["vit32x2x128"]}'
    asked = study(axes={"dtype": ["fp32", "bf16"]}, exclude=exclude)
    made = plan(asked, tmp_path)
    assert [note for note in made.notes if "exclude" in note] == [said] and said in render(made)
    resolve(asked, tmp_path, False, "a")
    assert said in plan(asked, tmp_path).notes, "of a study that is there already too"
    made = plan(study(exclude=[{"numa_nodes": 7}]), tmp_path)
    assert 'exclude[0] drops nothing: {"numa_nodes": [7]}' in made.notes


def test_plan_skips_an_earlier_study_that_cannot_be_read(tmp_path: Path) -> None:
    other = tmp_path / "of_another_user" / "2026-11-22" / "22-00-00"
    (other / "grid.json").mkdir(parents=True)  # in place of a file that may not be read
    (other / "runs").mkdir()
    (other / "runs" / "cell_r1.json").write_text("{}")
    assert plan(study(), tmp_path).runs_to_do == 4


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch):
    """As where a share is withdrawn; root reads every folder of a disk."""

    def stale(folder):
        raise OSError(errno.ESTALE, "Stale file handle", str(folder))

    monkeypatch.setattr("bench.study.directory.read_index", stale)
    with pytest.raises(StudyError, match="cannot read there: Stale file handle"):
        find(load_study("quick_test"), tmp_path)
