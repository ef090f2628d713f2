import pytest

from bench.report.view import View


@pytest.fixture(scope="session")
def numa_view(numa_results):
    return View(numa_results)


@pytest.fixture(scope="session")
def placed_view(placed_results):
    return View(placed_results)


@pytest.fixture
def view_of(results_of):
    """The view of a run directory."""
    return lambda path: View(results_of(path))
