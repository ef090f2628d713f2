"""Against sets of points: every ns of a small trace is looked at by itself."""

from hypothesis import given, settings

from bench.records.base import plain
from bench.records.trace import LaunchGaps, TopKernel
from bench.trace.activities import Kind
from bench.trace.batches import per_batch
from bench.trace.metrics import launch_gaps, top_kernels
from bench.trace.reader import read_trace
from tests.trace.trace_builder import Launch, built_traces, pipeline, write

STAGES = {"h2d": Kind.H2D, "compute": Kind.COMPUTE, "d2h": Kind.D2H}


def rows_of(trace):
    a = trace.activities
    return list(zip(a.start.tolist(), a.end.tolist(), a.kind.tolist(), a.batch.tolist(), strict=True))


def points(rows):
    return {point for start, end, _, _ in rows for point in range(start, end)}


def expected_per_batch(trace):
    rows, count = rows_of(trace), len(trace.window.batch_start)
    busy = points(rows)
    first = min(row[0] for row in rows)
    computing = points([row for row in rows if row[2] == Kind.COMPUTE])
    result = {}
    for name, kind in STAGES.items():
        mine = [[row for row in rows if row[2] == kind and row[3] == batch] for batch in range(count)]
        result[f"{name}_ns"] = [len(points(own)) for own in mine]
        result[f"idle_before_{name}_ns"] = []
        for own in mine:
            solid = [row[0] for row in own if row[1] > row[0]]
            idle = min(solid) - 1 if solid else first - 1
            while idle >= first and idle not in busy:
                idle -= 1
            result[f"idle_before_{name}_ns"].append(min(solid) - 1 - idle if solid else 0)
        if kind == Kind.COMPUTE:
            sets = [points(own) for own in mine]
            result["launch_gap_ns"] = [max(own) + 1 - min(own) - len(own) if own else 0 for own in sets]
    copies = [
        points([row for row in rows if row[2] != Kind.COMPUTE and row[3] == batch]) - computing
        for batch in range(count)
    ]
    result["exposed_copy_ns"] = [len(own) for own in copies]
    return result


def expected_launch_gaps(trace):
    rows = rows_of(trace)
    busy, gaps = points(rows), []
    for batch in range(len(trace.window.batch_start)):
        own = sorted(row for row in rows if row[2] == Kind.COMPUTE and row[3] == batch)
        reach = None
        for start, end, _, _ in own:
            if reach is not None and start > reach and not busy.intersection(range(reach, start)):
                gaps.append(start - reach)
            reach = end if reach is None else max(reach, end)
    return LaunchGaps(count=len(gaps), total_ns=sum(gaps), max_ns=max(gaps, default=0))


@settings(max_examples=100)
@given(built_traces())
def test_random_traces_batch_by_batch(tmp_path_factory, built):
    trace = read_trace(write(tmp_path_factory.mktemp("batches") / "x.sqlite", built))
    found = plain(per_batch(trace))
    expected = expected_per_batch(trace)
    assert {name: found[name] for name in expected} == expected
    assert launch_gaps(trace) == expected_launch_gaps(trace)


def test_batches_far_apart_do_not_overflow(tmp_path):
    far = 2**60
    built = pipeline(2)
    ranges = [("test_double_buffer", 0, far + 200, built.ranges[0][3])]
    launches = []
    for i, t in enumerate((100, far)):
        ranges.append((f"test_batch_{i}", t, t + 90, built.ranges[0][3]))
        for kind, start, end in (("h2d", 0, 10), ("kernel", 10, 30), ("kernel", 40, 50), ("d2h", 50, 60)):
            launches.append(Launch(t, t + 1, t + start, t + end, kind, 1))
    for name, batches in (("near", 2), ("many", 2)):
        path = write(tmp_path / f"{name}.sqlite", type(built)(tuple(ranges[: batches + 1]), tuple(launches)))
        found = per_batch(read_trace(path))
        assert found.compute_ns == [30, 30]
        assert found.launch_gap_ns == [10, 10]
        assert found.latency_ns == [60, 60]


def test_top_kernels_are_sorted_by_time(graph_export, eager_export):
    assert top_kernels(read_trace(graph_export)) == [TopKernel(name="CUDA graph", calls=200, total_ns=49016598)]
    top = top_kernels(read_trace(eager_export), count=3)
    assert [row.total_ns for row in top] == sorted((row.total_ns for row in top), reverse=True)
    assert top[0].calls == 240 and "gemm" in top[0].name
