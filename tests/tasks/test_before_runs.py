"""The doctor's look at the host before a study. What it finds is a stand-in: a host may be in order or not."""

import json
from pathlib import Path

import pytest

from bench.errors import StudyError
from bench.records.host import Check, CheckName, CheckState, Preflight
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study
from tasks.before_runs import preflight

STUDY = {
    "name": "s", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "device": "cpu", "binding": "none",
    "num_samples": 10, "memory_size_mb": 64,
}  # fmt: skip


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pools that the doctor checked, in bytes."""
    checked: list[int] = []

    def doctor(folder: Path, pool_bytes: int, pinned_bytes: int) -> Preflight:
        checked.append(pool_bytes)
        disk = Check(name=CheckName.DISK, state=CheckState.OK, fact="room")
        fact, remedy = "node 0 is nearly full", "free some"
        memory = Check(name=CheckName.NODE_MEMORY, state=CheckState.WARNING, fact=fact, remedy=remedy)
        return Preflight(checks=(disk, memory))

    monkeypatch.setattr("bench.host.doctor.run_doctor", doctor)
    return checked


def directory(tmp_path: Path, **sweep: list[int]) -> RunDirectory:
    return resolve(read_study(STUDY, "f", {"sweep": sweep}), tmp_path, False, "now")


def test_preflight_checks_the_largest_pool(tmp_path: Path, pools: list[int]) -> None:
    preflight(directory(tmp_path, memory_size_mb=[64, 4096, 512]), strict=False)
    assert pools == [4096 << 20]


def test_pools_that_cannot_be_pinned_are_refused_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fact, remedy = "limited to 8.00 MiB (ulimit -l), and the driver pins no more", "ulimit -l unlimited"
    refused = Check(name=CheckName.LOCKED_MEMORY, state=CheckState.ERROR, fact=fact, remedy=remedy)
    monkeypatch.setattr("bench.host.doctor.run_doctor", lambda *_: Preflight(checks=(refused,)))
    study = directory(tmp_path)
    for _ in range(2):
        with pytest.raises(StudyError, match=r"limited to 8\.00 MiB") as error:
            preflight(study, strict=False)
        assert error.value.advice == remedy
    assert not study.preflight.exists()


def test_preflight_checks_once_and_prints_failures(
    tmp_path: Path, pools: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    study = directory(tmp_path)
    preflight(study, strict=False)
    text = capsys.readouterr().err
    assert text == "warning: node_memory: node 0 is nearly full\n  to do: free some\n"
    assert [check["name"] for check in json.loads(study.preflight.read_text())["checks"]] == ["disk", "node_memory"]
    preflight(study, strict=False)
    assert capsys.readouterr().err == "" and len(pools) == 1


def test_strict_preflight_repeats_and_refuses(tmp_path: Path, pools: list[int]) -> None:
    study = directory(tmp_path)
    preflight(study, strict=False)
    with pytest.raises(StudyError, match="1 warnings of the preflight are errors with --strict: node_memory"):
        preflight(study, strict=True)
    assert len(pools) == 2
