"""One run from the grid to its record: real processes, each way it can end."""

from pathlib import Path

import pytest

from bench.run.attempt import execute
from bench.run.child import log_tail
from bench.run.lock import HostLock
from bench.run.record import OUTCOMES, is_final, passed_on, read_record, write_record
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study

TINY = {
    "name": "tiny", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "image_size": 32, "num_samples": 20,
    "warmup_samples": 2, "batch_size": 2, "memory_size_mb": 1, "timeout_s": 120, "device": "cpu", "binding": "none",
    "disturbed_repeats": 0,
}  # fmt: skip


def run(tmp_path: Path, repeat: int | str = 1, **changes: object) -> tuple[RunDirectory, dict, list]:
    directory = resolve(read_study(TINY | changes, "f"), tmp_path / "outputs", False, "now")
    grid = directory.grid()
    (cell,) = grid.cells
    said: list[tuple[str, int]] = []
    lock = HostLock(tmp_path / "lock")
    slot = grid.slot(cell.name, repeat)
    record = execute(directory, cell, slot, "now", lock, lambda text, percent: said.append((text, percent)))
    assert record == read_record(directory.record(cell.name, repeat))
    return directory, record, said


def test_a_timed_run_measures_nine_windows_and_says_how_far_it_is(tmp_path: Path) -> None:
    directory, record, said = run(tmp_path)
    assert (record["status"], record["attempts"], record["exit_code"]) == ("ok", 1, 0)
    assert "peers" not in record and "--barrier" not in record["command"]
    result = record["result"]
    assert len(result["windows"]) == 9
    assert all(window["duration_s"] >= 0.1 for window in result["windows"])
    assert result["throughput_samples_s"] > 0
    percents = [percent for _, percent in said]
    assert percents == sorted(percents) and percents[-1] > 15
    assert any(text.startswith("measuring") for text, _ in said)
    assert record["run"] in directory.experiment_log.read_text()


def test_a_traced_run_leaves_a_trace(tmp_path: Path) -> None:
    directory, record, _ = run(tmp_path, "traced")
    assert record["status"] == "ok"
    assert list((directory.path / "nsys_reports").iterdir())


def test_a_timeout_has_its_name(tmp_path: Path) -> None:
    _, record, _ = run(tmp_path, timeout_s=1, num_samples=2_000_000)
    assert (record["status"], record["attempts"]) == ("timeout", 1)
    assert "raise timeout_s" in record["advice"]


def test_a_pool_that_does_not_fit_is_oom_with_the_remedy(tmp_path: Path) -> None:
    _, record, _ = run(tmp_path, memory_size_mb=2**20)
    assert record["status"] == "oom"
    assert "memory_size_mb" in record["advice"]


def test_a_repeat_does_not_wait_for_what_ended_the_one_before(tmp_path: Path) -> None:
    run(tmp_path, 1, memory_size_mb=2**20, repeats=2)
    _, record, said = run(tmp_path, 2, memory_size_mb=2**20, repeats=2)
    assert (record["status"], record["attempts"], said) == ("oom", 0, [])
    assert record["reason"].startswith("as repeat 1: ")


def test_numactl_that_is_absent_is_bind_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, record, _ = run(tmp_path, binding="numactl")
    assert record["status"] == "bind_failed"
    assert "numactl is not installed" in record["reason"] and "binding none" in record["advice"]


def test_a_cell_that_takes_the_host_down_is_given_up(tmp_path: Path) -> None:
    directory = resolve(read_study(TINY, "f"), tmp_path / "outputs", False, "now")
    (name,) = (cell.name for cell in directory.grid().cells)
    starts = directory.record(name, 1).with_suffix(".starts")
    starts.write_text("an-earlier-boot\nanother-boot\na-third-boot")
    _, record, _ = run(tmp_path)
    assert record["status"] == "crashed" and "the host went down during 3 starts" in record["reason"]
    assert not starts.exists()


def test_starts_that_were_only_killed_are_no_reason_to_give_up(tmp_path: Path) -> None:
    directory = resolve(read_study(TINY, "f"), tmp_path / "outputs", False, "now")
    (name,) = (cell.name for cell in directory.grid().cells)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    directory.record(name, 1).with_suffix(".starts").write_text("\n".join([boot] * 5))
    assert run(tmp_path)[1]["status"] == "ok"


def test_log_tail_of_a_huge_log_is_short(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 50_000_000 + b"\n" + b"last\n" * 30)
    tail = log_tail(path)
    assert len(tail) == 20 and tail[-1] == "last"
    assert log_tail(tmp_path / "none") == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "fine"}', '{"status": null}'])
def test_half_a_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    assert read_record(tmp_path / "r.json") is None


def test_what_the_grid_says_cannot_run_here_is_final_and_what_a_run_found_missing_is_not(tmp_path: Path) -> None:
    refused = {"status": "not_runnable", "reason": "no node 2", "advice": "", "invocation": "a", "by_grid": True}
    record = write_record(tmp_path / "r.json", refused)
    assert is_final(record, "b") and is_final(passed_on(record) | {"invocation": "a"}, "b")
    missing = write_record(tmp_path / "r.json", refused | {"reason": "no huge pages", "by_grid": False})
    assert not is_final(missing, "b") and not is_final(passed_on(missing) | {"invocation": "a"}, "b")


@pytest.mark.parametrize("status", OUTCOMES)
def test_only_what_went_well_or_was_tried_now_is_final(tmp_path: Path, status: str) -> None:
    record = write_record(tmp_path / "r.json", {"status": status, "invocation": "a"})
    assert is_final(record, "a")
    assert is_final(record, "b") is (status == "ok")
    assert not is_final(None, "a")
