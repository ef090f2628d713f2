"""The limit of locked memory: read from the kernel, tried on the driver, and the line that raises it."""

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

import bench.host.probe as probe
from bench.errors import StudyError
from bench.host.checks import locked_memory
from bench.host.doctor import gather
from bench.host.locked_memory import LockedLimit, how_to_raise, locked_limit, pin, pinning_refused
from bench.host.topology import read_topology
from tests.host.made_hosts import HOSTS, host_topology, write_host

MIB = 1 << 20
LIMITS = "Limit   Soft Limit  Hard Limit  Units\nMax locked memory   {}   {}   bytes\n"
SMALL = LockedLimit(8 * MIB, 8 * MIB)


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_limit_is_that_of_this_process() -> None:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    soft, hard = (None if bytes_ == resource.RLIM_INFINITY else bytes_ for bytes_ in limit)
    assert locked_limit() == LockedLimit(soft, hard)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (LIMITS.format(8388608, "unlimited"), LockedLimit(8 * MIB, None)),
        (LIMITS.format("unlimited", "unlimited"), LockedLimit(None, None)),
        ("", LockedLimit(None, None)),
    ],
)
def test_limit_is_read_of_a_recorded_host(tmp_path: Path, text: str, limit: LockedLimit) -> None:
    write_host(tmp_path, {"proc/self/limits": text})
    assert locked_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("files", "hard", "line"),
    [
        ({"proc/self/cgroup": "0::/system.slice/bench.service"}, None, "systemctl edit bench.service"),
        ({"proc/self/cgroup": "0::/user.slice/session-3.scope"}, None, "ulimit -l unlimited"),
        ({"proc/self/cgroup": "0::/user.slice/session-3.scope"}, 64 * MIB, "ulimit -l 65536"),
        ({"proc/self/cgroup": "0::/user.slice/session-3.scope"}, 8 * MIB, "limits.d"),
        ({".dockerenv": ""}, None, "--ulimit memlock=-1"),
    ],
)
def test_line_that_helps_is_that_of_the_place(tmp_path: Path, files: dict[str, str], hard: int, line: str) -> None:
    assert line in how_to_raise(32 * MIB, LockedLimit(8 * MIB, hard), write_host(tmp_path, files))


def test_slurm_step_is_raised_by_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "PropagateResourceLimitsExcept=MEMLOCK" in how_to_raise(32 * MIB, SMALL)


class StandInDriver:
    """Pins `most` bytes in all, any number without it."""

    def __init__(self, most: int | None = None) -> None:
        self.most, self.pinned = most, 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        return self._pin if name == "cuMemHostAlloc" else lambda *_: 0

    def _pin(self, where: object, nbytes: object, flags: int) -> int:
        self.pinned += nbytes.value
        return 2 if self.most is not None and self.pinned > self.most else 0


def test_driver_is_asked_for_more_than_the_limit() -> None:
    driver = StandInDriver()
    assert pin(driver, "0000:01:00.0", 9 * MIB) == "" and driver.pinned == 10 * MIB
    assert "cuMemHostAlloc" in pin(StandInDriver(8 * MIB), "0000:01:00.0", 9 * MIB)


def test_trial_is_made_only_where_the_limit_could_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(probe, "run_child", lambda command: asked.append(command) or "refused\n")
    host = host_topology("two_sockets")
    assert pinning_refused(host, 512 * MIB, LockedLimit(None, None)) == ""
    assert pinning_refused(host, 4 * MIB, SMALL) == "" and not asked
    assert pinning_refused(host, 512 * MIB, SMALL) == "refused"
    assert asked[0][-2:] == [host.visible_gpus[0].pci_bus_id, str(9 * MIB)]


def test_driver_that_cannot_be_asked_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str]) -> str:
        raise StudyError("the probe failed", "here", "")

    monkeypatch.setattr(probe, "run_child", fails)
    assert pinning_refused(host_topology("two_sockets"), 512 * MIB, SMALL) == ""


def test_limit_that_no_driver_applies_is_only_stated(tmp_path: Path) -> None:
    files = {"proc/self/limits": LIMITS.format(8388608, 8388608)}
    check = locked_memory(gather(write_host(tmp_path / "gpus", HOSTS["two_sockets"] | files)))
    assert (check.state, check.fact) == ("ok", "limited to 8.00 MiB (ulimit -l): pools that CUDA pins do not count")


def test_driver_pins_more_than_the_limit() -> None:
    """What this project relies on: NVIDIA's driver does not count what it pins."""
    host = read_topology()
    if not host.visible_gpus:
        pytest.skip("needs an NVIDIA GPU")
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (MIB, before[1]))
    try:
        assert pinning_refused(host, 64 * MIB, locked_limit()) == ""
        assert pin(ctypes.CDLL("libcuda.so.1"), host.visible_gpus[0].pci_bus_id, 2 * MIB) == ""
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
