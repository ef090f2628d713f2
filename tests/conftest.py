"""No test may depend on a GPU, a home directory or a lock that happens to be here."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _apart_from_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["NUMASTUDY_LOCK_DIR"] = str(tmp_path_factory.mktemp("lock"))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Several tests' processes share two cores.
    os.environ.setdefault("OMP_NUM_THREADS", "2")
