"""A GPU is waited for. NVML is a stand-in here: its answers are of an H200 host, one list of processes a call."""

import itertools
import os
from types import SimpleNamespace

import pytest

from bench.records.run import Disturbance, DisturbanceKind
from bench.run import free_gpu
from bench.run.free_gpu import wait_until_free
from bench.run.progress import Progress

UUID = "GPU-6b4f1f3c-0000-0000-0000-000000000000"


class Nvml:
    """A stand-in for pynvml: `answers` are the pids on the GPU, call by call, the last one for ever."""

    def __init__(self, *answers: list[int]) -> None:
        self._answers, self.calls = list(answers), 0

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == UUID
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> list[SimpleNamespace]:
        self.calls += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [SimpleNamespace(pid=pid, usedGpuMemory=1 << 30) for pid in answer]


@pytest.fixture(autouse=True)
def _nobody_stayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_gpu, "_staying", set())
    monkeypatch.setattr(free_gpu, "FREE_INTERVAL_S", 0.01)


def test_free_gpu_is_not_waited_for() -> None:
    reports: list[Progress] = []
    assert wait_until_free([UUID], reports.append, nvml=Nvml([])) == []
    assert reports == []


def test_waits_for_a_context_being_torn_down() -> None:
    reports: list[Progress] = []
    nvml = Nvml([os.getpid()], [os.getpid()], [])
    assert wait_until_free([UUID], reports.append, nvml=nvml) == []
    assert len(reports) == 2 and f"free of process {os.getpid()} (" in reports[0].waiting_for


def texts(disturbances: list[Disturbance]) -> list[str]:
    assert {one.kind for one in disturbances} == {DisturbanceKind.GPU_NOT_FREE}
    return [one.text for one in disturbances]


def test_waits_once_for_a_process_that_stays_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # A second passes with each look at the clock, however busy the machine is.
    clock = SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda _: None)
    monkeypatch.setattr(free_gpu, "time", clock)
    nvml, reports = Nvml([2**22 + 1]), []
    expected = [f"the GPU was not free: process {2**22 + 1} on {UUID}"]
    assert texts(wait_until_free([UUID], reports.append, limit_s=5, nvml=nvml)) == expected
    calls, waited = nvml.calls, len(reports)
    assert waited > 0
    assert texts(wait_until_free([UUID], reports.append, limit_s=60, nvml=nvml)) == expected
    assert (nvml.calls, len(reports)) == (calls + 1, waited)


def test_nothing_to_wait_for_without_gpu_or_nvml() -> None:
    class Broken(Nvml):
        def nvmlInit(self) -> None:
            raise RuntimeError("driver not loaded")

    assert wait_until_free([None], print) == []
    assert wait_until_free([UUID], print, nvml=Broken([1])) == []
