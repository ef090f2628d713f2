"""Small copies, by a stand-in for the CUDA driver: the real one needs a GPU."""

from collections.abc import Callable

import pytest

from bench.host.timed_copies import CudaError, SmallCopy


class StandInDriver:
    """Every call goes well, but for copies after the first `good` ones."""

    def __init__(self, good: int) -> None:
        self.good, self.copies = good, 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        return self._copy if name == "cuMemcpyHtoDAsync_v2" else lambda *_: 0

    def _copy(self, *_: object) -> int:
        self.copies += 1
        return 0 if self.copies <= self.good else 700


def test_latency_of_copies_is_measured() -> None:
    driver = StandInDriver(good=10**9)
    assert SmallCopy(driver, "0000:01:00.0").latency_us(0.001) > 0 and driver.copies > 20


@pytest.mark.parametrize("good", [0, 30])
def test_no_latency_when_copies_fail(good: int) -> None:
    """The GPU may be lost while it is probed."""
    with pytest.raises(CudaError, match="error 700"):
        SmallCopy(StandInDriver(good), "0000:01:00.0").latency_us(0.001)
