import gzip
from pathlib import Path

import pytest

from bench.report.plots.pipeline import lanes
from bench.trace.reader import read_trace

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"


@pytest.fixture(params=["h100_vit32x2x128_cuda_graph", "h200_vit32x6x512_eager"])
def trace(request, tmp_path):
    path = tmp_path / f"{request.param}.sqlite"
    path.write_bytes(gzip.decompress((TRACES / f"{request.param}.sqlite.gz").read_bytes()))
    return read_trace(path)


def test_shows_batches_from_the_middle(trace):
    found = lanes(trace, count=4)
    total = len(trace.window.batch_start)
    assert found.batches == tuple(range((total - 4) // 2, (total - 4) // 2 + 4))
    for name in ("h2d", "d2h"):
        assert set(found.batches) <= {bar.batch for bar in found.bars[name]}


def test_bars_are_inside_the_picture_and_in_order(trace):
    found = lanes(trace)
    for bars in found.bars.values():
        assert bars
        assert [bar.start_us for bar in bars] == sorted(bar.start_us for bar in bars)
        assert all(0 <= bar.start_us < found.span_us and bar.length_us > 0 for bar in bars)
        assert all(bar.start_us + bar.length_us <= found.span_us * 1.001 for bar in bars)


def test_a_copy_is_as_long_as_in_the_trace(trace):
    found = lanes(trace, count=1)
    batch = found.batches[0]
    activities = trace.activities
    own = (activities.batch == batch) & (activities.kind == 0)
    length_us = (activities.end[own].max() - activities.start[own].min()) / 1e3
    drawn = [bar for bar in found.bars["h2d"] if bar.batch == batch]
    assert sum(bar.length_us for bar in drawn) == pytest.approx(length_us, rel=0.01, abs=found.span_us / 1000)


def test_shows_all_batches_when_asked_for_more(trace):
    assert len(lanes(trace, count=10_000).batches) == len(trace.window.batch_start)
