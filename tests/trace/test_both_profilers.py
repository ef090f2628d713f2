"""The same 20 batches on one H200, once by Nsight Systems 2025.3 and once by torch.profiler: the same answer."""

from pathlib import Path

import pytest

from bench.trace.metrics import check_conservation, metrics
from bench.trace.reader import read_trace
from bench.trace.torch_trace import convert
from tests.trace.oracle import oracle
from tests.trace.test_metrics import contract

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"
NSYS = TRACES / "h200_vit32x2x128_eager_nsys.sqlite.gz"


@pytest.fixture(scope="module")
def torch_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sqlite = tmp_path_factory.mktemp("torch") / "torch.sqlite"
    convert(TRACES / "h200_vit32x2x128_eager_torch.json.gz", sqlite)
    return sqlite


def test_counts_and_bytes_are_equal_and_busy_times_agree(torch_export: Path) -> None:
    by_nsys, by_torch = (metrics(read_trace(path)) for path in (NSYS, torch_export))
    for found in (by_nsys, by_torch):
        check_conservation(found, 6_021_120, 256_000, 20)
        assert found.compute.kernels == 500
        assert found.regime == "launch-bound"
    for stage in ("h2d", "d2h", "compute"):
        by_one, by_other = getattr(by_torch, stage), getattr(by_nsys, stage)
        assert by_one.busy_ns == pytest.approx(by_other.busy_ns, rel=0.02)


def test_a_torch_trace_of_a_gpu_equals_the_oracle(torch_export: Path) -> None:
    assert contract(metrics(read_trace(torch_export))) == oracle(torch_export)
