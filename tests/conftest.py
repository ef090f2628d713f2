"""No test may depend on a GPU, a home directory or a lock that happens to be here.

NUMASTUDY_GPU_TESTS=1 lets the tests that are about a GPU (tests/workload/test_on_gpu.py, the benchmarks) see it.
"""

import os
from collections.abc import Iterator

import hypothesis
import pytest

from bench.host.nsys import find_nsys
from tests import real_nsys as nsys_of_tests

# No test times anything: a busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _apart_from_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["NUMASTUDY_LOCK_DIR"] = str(tmp_path_factory.mktemp("lock"))
    if os.environ.get("NUMASTUDY_GPU_TESTS") != "1":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Several tests' processes share two cores.
    os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture
def real_nsys() -> Iterator[None]:
    if find_nsys() is None:
        pytest.skip("no nsys on this machine: run .ci/install-nsys")
    with nsys_of_tests.alone():
        yield
