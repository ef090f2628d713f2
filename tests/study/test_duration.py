"""How long runs take on the cpu device, by their floating-point operations. From earlier runs: test_directory.py."""

from pathlib import Path

import pytest
from msgspec import structs

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.study import plan as plan_module
from bench.study import start as start_module
from bench.study.duration import CPU_EFFICIENCY, CPU_PROCESS_S, measured_rate, slowest_rate
from bench.study.load import StudyDefinition, read_study
from bench.study.plan import plan, render
from bench.study.start import refuse_start
from tests.host.made_hosts import host_topology

BASE = {
    "name": "one", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit32x2x128"], "device": "cpu", "binding": "none",
    "num_samples": 100, "batch_size": 10, "warmup_samples": 0, "measure_link": False,
}  # fmt: skip
NO_GPU = structs.replace(read_topology(), gpus=(), silent_gpus=())
# Of one sample, by hand: 49 patches of 32 x 32 x 3 and 50 tokens.
FLOPS = 2 * 49 * 3072 * 128 + 2 * (24 * 50 * 128**2 + 4 * 50**2 * 128)


def study(**changes: object) -> StudyDefinition:
    return read_study(BASE | changes, "f")


def test_run_takes_its_process_and_what_its_model_computes(tmp_path: Path) -> None:
    # Ten batches a second: a pass, and a window, of one second; two seconds to warm up.
    rate = FLOPS * 100 / CPU_EFFICIENCY
    made = plan(study(), tmp_path, topology=NO_GPU, rate=lambda: rate)
    timed_s, traced_s = CPU_PROCESS_S + 2 + 9 * 1.0, CPU_PROCESS_S + 2 + 1.0
    assert made.estimate_s == pytest.approx(timed_s + traced_s, abs=0.1)
    assert "by floating-point operations" in made.estimate_from and not made.needs_long
    twice = plan(study(warmup_samples=100 * 5), tmp_path, topology=NO_GPU, rate=lambda: rate)
    assert twice.estimate_s == pytest.approx(made.estimate_s + 2 * 3, abs=0.1)


def test_run_ends_by_its_timeout_and_its_repeats_do_not_start(tmp_path: Path) -> None:
    made = plan(study(repeats=5, timeout_s=60), tmp_path, topology=NO_GPU, rate=lambda: 1.0)
    assert made.estimate_s == 60 + 60
    assert "1 cell may need longer than timeout_s for one run" in render(made)


def test_rate_of_this_host_is_measured_and_plausible() -> None:
    assert 1e8 < measured_rate() < 1e15
    assert slowest_rate() >= 2e9


def test_a_recorded_host_without_gpu_has_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(study(), tmp_path, topology=NO_GPU, root=tmp_path)
    assert (made.estimate_s, made.at_most_s) == (None, None)
    assert "time: unknown (no earlier run" in render(made)


def test_long_study_is_refused_on_hosts_without_gpu_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = study(repeats=200, timeout_s=60, models=["vit32x2x128"] * 2)
    monkeypatch.setattr(start_module, "slowest_rate", lambda: 1.0)
    monkeypatch.setattr(plan_module, "measured_rate", lambda: FLOPS * 100.0)
    monkeypatch.setattr(start_module, "read_topology", lambda: NO_GPU)
    with pytest.raises(StudyError, match=r"one would take about .* on the cpu device") as refused:
        refuse_start(long, tmp_path, False, False, "luigi X")
    assert "QuickTest is a smaller study; to measure all of it: luigi X --long" in str(refused.value)
    monkeypatch.setattr(plan_module, "measured_rate", lambda: FLOPS * 1e6)
    refuse_start(study(repeats=200), tmp_path, False, False, "luigi X")
    monkeypatch.setattr(plan_module, "measured_rate", lambda: FLOPS * 100.0)
    monkeypatch.setattr(start_module, "read_topology", lambda: host_topology("two_sockets"))
    refuse_start(long, tmp_path, False, False, "luigi X")


def test_rate_is_measured_once_and_not_for_models_from_elsewhere(tmp_path: Path) -> None:
    asked: list[float] = []

    def rate() -> float:
        asked.append(1e12)
        return 1e12

    assert plan(study(models=["vit32x2x128", "vit32x4x128"]), tmp_path, topology=NO_GPU, rate=rate).estimate_s
    assert len(asked) == 1
    made = plan(study(models=["timm:resnet18"]), tmp_path, topology=NO_GPU, rate=rate)
    assert made.estimate_s is None and len(asked) == 1
