import pytest

from bench.results.load import load
from bench.results.results import build_results
from tests.results.builder import NUMA_FAILURES, build_run_directory, topology_json


@pytest.fixture(scope="session")
def numa_run(tmp_path_factory):
    """48 cells, 6 repeats, three failed runs; CUDA. Not to be written to."""
    path = tmp_path_factory.mktemp("numa") / "run"
    return build_run_directory(path, "numa_locality_study", {"repeats": 6}, failures=NUMA_FAILURES)


@pytest.fixture
def quick_run(tmp_path):
    """3 cells, 1 repeat, cpu device, one node. A test may damage it."""
    return build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=topology_json(gpus=0, nodes=1))


@pytest.fixture(scope="session")
def numa_results(numa_run):
    """Not to be written to."""
    return build_results(load(numa_run), "test")


@pytest.fixture
def results_of():
    """Results of a run directory, or of a new one made as build_run_directory makes it."""
    return lambda path: build_results(load(path), "test")
