import json

import pytest

from bench.analysis.load import load
from bench.report.build import build_results
from bench.report.view import View
from tests.run_directories import NUMA_FAILURES, build_run_directory, topology_json


@pytest.fixture(scope="session")
def numa_run(tmp_path_factory):
    """48 cells, 6 repeats, three failed runs; CUDA. Read only."""
    path = tmp_path_factory.mktemp("numa") / "run"
    return build_run_directory(path, "numa_locality_study", {"repeats": 6}, failures=NUMA_FAILURES)


@pytest.fixture
def quick_run(tmp_path):
    """3 cells, 1 repeat, cpu device, one node. A test may damage it."""
    return build_run_directory(tmp_path / "run", "quick_test", {"repeats": 1}, topology=topology_json(gpus=0, nodes=1))


@pytest.fixture(scope="session")
def placed_run(tmp_path_factory):
    """GPU 0 on all four placements of two nodes, three models, each also as a CUDA graph. Read only."""
    path = tmp_path_factory.mktemp("placed")
    study = {"name": "two_by_two", "gpu_ids": [0], "repeats": 6, "placements": [[0, 0], [0, 1], [1, 0], [1, 1]],
             "models": ["vit0x0x0", "vit32x2x128", "vit16x8x768"]}  # fmt: skip
    (path / "two_by_two.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=2, near=(0, 1), nodes=2)
    variants = {"graph": {"cuda_graph": True}}
    return build_run_directory(path / "run", str(path / "two_by_two.yaml"), topology=topology, variants=variants)


@pytest.fixture(scope="session")
def numa_view(numa_run):
    return View(build_results(load(numa_run), "test"))


@pytest.fixture(scope="session")
def placed_view(placed_run):
    return View(build_results(load(placed_run), "test"))


@pytest.fixture
def view_of():
    """The view of a run directory."""
    return lambda path: View(build_results(load(path), "test"))
