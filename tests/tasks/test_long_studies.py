"""A study that a CPU would need hours for is refused at the start, with the command that starts it; runs are stubs."""

import subprocess
from pathlib import Path

import pytest
import yaml

from bench.host.topology import read_topology
from tests.tasks.instant_calls import InstantCalls
from tests.tasks.study_calls import BIN

# Of floating-point operations: hours on any CPU.
LONG = {"models": ["vit16x12x1024"], "image_size": 224, "num_samples": 100_000, "timeout_s": 86_400, "repeats": 2}
pytestmark = pytest.mark.skipif(bool(read_topology().gpus), reason="hosts with GPUs are not asked")


@pytest.fixture
def calls(tmp_path: Path) -> InstantCalls:
    calls = InstantCalls(tmp_path / "work", ["--local-scheduler"])
    calls.study |= LONG
    calls.write()
    return calls


def assert_started(done: subprocess.CompletedProcess[str], calls: InstantCalls) -> None:
    assert done.returncode == 0, done.stderr
    assert len(calls.measured()) == 3


def test_long_study_is_refused_with_the_command_that_starts_it(calls: InstantCalls) -> None:
    refused = calls.run()
    assert refused.returncode == 2
    assert "would take about" in refused.stderr and "on the cpu device (by floating-point operations" in refused.stderr
    assert "QuickTest is a smaller study" in refused.stderr
    assert "--log-level INFO --long\n" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (calls.folder / "outputs").exists()


def test_long_study_starts_with_long_and_continues_without(calls: InstantCalls) -> None:
    assert_started(calls.run("--long"), calls)
    for path in calls.run_directory().glob("runs/*_r2.json"):
        path.unlink()
    again = calls.run()
    assert again.returncode == 0, again.stderr
    assert len(calls.measured()) == 4


def test_job_of_a_cluster_is_not_asked(calls: InstantCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert_started(calls.run(), calls)


def test_night_is_not_asked(calls: InstantCalls) -> None:
    (calls.folder / "nightly.yaml").write_text(yaml.safe_dump({"studies": [{"study": "tiny.yaml"}]}))
    command = [*calls.command()[:3], "NightlySweep", "--config-file", "nightly.yaml", "--local-scheduler"]
    done = subprocess.run(
        command, cwd=calls.folder, env=calls.environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert "would take" not in done.stderr
    assert len(calls.measured()) == 3, done.stderr


def test_plan_reports_what_a_start_refuses(calls: InstantCalls) -> None:
    command = [str(BIN / "numastudy"), "plan", str(calls.write())]
    done = subprocess.run(command, cwd=calls.folder, capture_output=True, text=True, timeout=240, check=False)
    assert "on the cpu device: luigi starts it with --long only" in done.stdout, done.stdout + done.stderr
