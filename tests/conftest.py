"""No test may use a GPU, a home directory or a host lock of this machine, and CI skips no test but those of a GPU.

NUMASTUDY_GPU_TESTS=1 shows the GPU to the tests of a GPU (tests/workload/test_on_gpu.py, the benchmarks).
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import needs
from tests import real_nsys as nsys_of_tests
from tests.folders import folder_for_everybody

# The processes of several tests share two cores: a thread of OpenMP that waits must not spin, which took 80 % of the
# CPU time of tests with torch. libgomp reads both when torch is imported, for some tests while they are collected.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no failure: no example has a deadline, and examples may be made slowly. CI tries the same ones every
# time, so that a change is judged by what it changes; elsewhere they are new ones.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=needs.in_ci()
)
hypothesis.settings.load_profile("untimed")

if TYPE_CHECKING:
    from bench.records.results import Results

_refused_skips: list[str] = []


@pytest.fixture(autouse=True, scope="session")
def _isolate_from_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    # A file in place of a folder: nothing can be read or written below it, not even by root.
    home = tmp_path_factory.mktemp("home") / "unusable"
    home.touch()
    os.environ["HOME"] = str(home)
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]
    # matplotlib rebuilds its list of fonts in each process that finds no cache: some seconds.
    os.environ["MPLCONFIGDIR"] = str(_shared_folder(tmp_path_factory) / "matplotlib")
    os.environ["NUMASTUDY_LOCK_DIR"] = str(tmp_path_factory.mktemp("lock"))
    if os.environ.get("NUMASTUDY_GPU_TESTS") != "1":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this pytest call: with xdist, each worker has a folder of its own inside it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


# Run directories that tests of several rooms read. Imported where they are made: most tests need none.


@pytest.fixture(scope="session")
def numa_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 cells, 6 repeats, three failed runs; CUDA. Not to be written to."""
    from tests.run_directories import numa_run

    return numa_run(tmp_path_factory.mktemp("numa") / "run")


@pytest.fixture(scope="session")
def placed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPU 0 on all four placements of two nodes, three models, each also as a CUDA graph. Not to be written to."""
    from tests.run_directories import placed_run

    return placed_run(tmp_path_factory.mktemp("placed") / "run")


@pytest.fixture(scope="session")
def numa_results(numa_run: Path) -> "Results":
    return _results_of(numa_run)


@pytest.fixture(scope="session")
def placed_results(placed_run: Path) -> "Results":
    return _results_of(placed_run)


@pytest.fixture
def results_of() -> Callable[[Path], "Results"]:
    """Results of a run directory."""
    return _results_of


def _results_of(run: Path) -> "Results":
    from bench.analysis.load import load
    from bench.report.build import build_results

    return build_results(load(run), "test")


@pytest.fixture
def quick_run(tmp_path: Path) -> Path:
    """3 cells, 1 repeat, cpu device, one node. A test may damage it."""
    from tests.run_directories import quick_run

    return quick_run(tmp_path / "run")


@pytest.fixture
def public_path() -> Iterator[Path]:
    with folder_for_everybody() as folder:
        yield folder


@pytest.fixture
def real_nsys() -> Iterator[None]:
    needs.require("nsys")
    with nsys_of_tests.alone():
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_root"):
        needs.require_root()
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            needs.require(program)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as a skip too.
    if needs.in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not needs.allowed_in_ci(reason):
            _refused_skips.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _refused_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _refused_skips:
        terminalreporter.section("skipped in CI, where only tests of a GPU may be skipped")
        for line in _refused_skips:
            terminalreporter.write_line(line)
