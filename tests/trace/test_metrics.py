from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import TraceError
from bench.records.base import Direction, plain
from bench.records.trace import Copies, RemarkKind, TraceRemark
from bench.trace.export import ENUMS
from bench.trace.metrics import check_conservation, exact_sum, metrics, remarks
from bench.trace.reader import read_trace
from tests.trace.oracle import oracle
from tests.trace.trace_builder import OTHER_THREAD, VERSIONS, Launch, built_traces, pipeline, write


def contract(found):
    """What the oracle knows too."""
    values = plain(found)
    del values["latency_us"]["reasons"]
    for key in ("name", "devices", "remarks", "launch_gaps", "top_kernels", "export"):
        del values[key]
    return values


def test_real_exports_equal_the_oracle_to_the_nanosecond(real_export):
    assert contract(metrics(read_trace(real_export))) == oracle(real_export)


def test_graph_export_has_the_known_facts(graph_export):
    found = metrics(read_trace(graph_export))
    assert found.batches == 200
    assert found.h2d.bytes == 200 * 6_021_120
    assert found.d2h.bytes == 200 * 256_000
    assert found.regime == "compute-bound"
    assert round(found.regime_evidence.rho, 2) == 0.48
    assert round(found.regime_evidence.idle_share, 3) == 0.011
    assert found.latency_us.reasons == {"p99": "p99 needs 299 batches, there are 200"}


def test_eager_export_has_the_known_facts(eager_export):
    found = metrics(read_trace(eager_export))
    assert found.batches == 20
    assert found.regime == "launch-bound"
    assert round(found.regime_evidence.rho, 2) == 0.09
    assert round(found.regime_evidence.idle_share, 2) == 0.65
    assert round(found.regime_evidence.call_share, 2) == 0.96
    assert found.latency_us.p99 is None
    assert found.latency_us.reasons == {
        "p90": "p90 needs 29 batches, there are 20", "p99": "p99 needs 299 batches, there are 20",
    }  # fmt: skip


@settings(max_examples=150)
@given(built_traces(), st.sampled_from(VERSIONS), st.integers(0, 99))
def test_random_traces_equal_the_oracle(tmp_path_factory, built, version, seed):
    path = write(tmp_path_factory.mktemp("random") / "x.sqlite", built, version, seed)
    found = metrics(read_trace(path))
    assert contract(found) == oracle(path)
    assert found.compute.busy_ns + found.exposed_copy_ns + found.idle_ns == found.window_ns
    assert 0 < found.pipeline_efficiency <= 1


@settings(max_examples=40)
@given(built_traces(), st.integers(0, 99))
def test_versions_and_row_orders_give_one_answer(tmp_path_factory, built, seed):
    folder = tmp_path_factory.mktemp("versions")
    answers = [
        metrics(read_trace(write(folder / f"{version}{order}.sqlite", built, version, order)))
        for version in VERSIONS
        for order in (None, seed)
    ]
    assert all(same(answer) == same(answers[0]) for answer in answers[1:])


def same(found):
    """All but the file's name and what the plain version does not say: names of calls and of what wrote the export."""
    return {key: value for key, value in contract(found).items() if key != "complete"}


def test_a_tidy_pipeline_by_hand(tmp_path):
    found = metrics(read_trace(write(tmp_path / "x.sqlite", pipeline(batches=3))))
    assert found.window_ns == 300
    assert found.h2d == Copies(bytes=18000, copies=3, busy_ns=120, bandwidth_gb_s=150.0, link_gb_s=150.0)
    assert (found.compute.kernels, found.compute.busy_ns, found.idle_ns) == (3, 120, 0)
    assert found.latency_us.p50 == 0.1
    assert found.regime == "balanced"


def test_copies_of_several_streams_overlap(tmp_path):
    built = pipeline(1).with_launches(Launch(1002, 1003, 1020, 1060, "h2d", 6000, stream=14))
    h2d = metrics(read_trace(write(tmp_path / "x.sqlite", built))).h2d
    assert (h2d.busy_ns, h2d.copies) == (50, 2)
    assert h2d.link_gb_s > h2d.bandwidth_gb_s


def test_idle_is_stalled_if_everything_was_launched_in_time(tmp_path):
    built = pipeline(1).with_launches(Launch(1006, 1007, 2000, 2010, "kernel"))
    assert metrics(read_trace(write(tmp_path / "x.sqlite", built))).regime == "stalled"


def test_idle_is_launch_bound_if_the_call_came_late(tmp_path):
    built = pipeline(1).with_launches(Launch(1006, 1990, 2000, 2010, "kernel"))
    assert metrics(read_trace(write(tmp_path / "x.sqlite", built))).regime == "launch-bound"


def test_no_compute_is_transfer_bound_without_rho(tmp_path):
    built = pipeline(2)
    copies = tuple(item for item in built.launches if item.kind != "kernel")
    quick = tuple(
        Launch(item.call_start, item.call_end, item.start - 40 * (item.kind == "d2h"), item.end, item.kind, item.bytes)
        for item in copies
    )
    path = write(tmp_path / "x.sqlite", type(built)(built.ranges, quick, drop=("StringIds",)))
    found = metrics(read_trace(path))
    assert found.regime == "transfer-bound"
    assert found.regime_evidence.rho is None
    assert (found.compute.kernels, found.compute.busy_ns) == (0, 0)


def test_copies_that_took_no_time_have_no_rate(tmp_path):
    built = pipeline(1)
    flat = tuple(
        item if item.kind != "d2h" else Launch(item.call_start, item.call_end, item.start, item.start, "d2h", 9)
        for item in built.launches
    )
    d2h = metrics(read_trace(write(tmp_path / "x.sqlite", type(built)(built.ranges, flat)))).d2h
    assert d2h == Copies(bytes=9, copies=1, busy_ns=0, bandwidth_gb_s=None, link_gb_s=None)


def test_conservation_says_both_numbers(graph_export):
    found = metrics(read_trace(graph_export))
    check_conservation(found, 6_021_120, 256_000, batches=200)
    with pytest.raises(TraceError, match=r"51200000 bytes.*51200200"):
        check_conservation(found, 6_021_120, 256_001)
    with pytest.raises(TraceError, match="H2D"):
        check_conservation(found, 6_021_121, 256_000)
    with pytest.raises(TraceError, match="200 batches, the run made 201"):
        check_conservation(found, 6_021_120, 256_000, batches=201)


@given(st.lists(st.integers(0, 2**62), max_size=40))
def test_sums_do_not_overflow(values):
    import numpy as np

    assert exact_sum(np.array(values, np.int64)) == sum(values)


def test_a_copy_per_sample_as_the_original_pipeline_made_them(tmp_path):
    """Ten copies in and out per batch, ranges of the same names before the window, D2H after the range has closed."""
    thread = pipeline().ranges[0][3]
    ranges = [("test_batch_0", 100, 190, thread), ("test_double_buffer", 1000, 1200, thread)]
    launches = [Launch(101 + i, 102 + i, 110 + i, 111 + i, "h2d", 600) for i in range(10)]
    for batch, start in enumerate((1000, 1100)):
        ranges.append((f"test_batch_{batch}", start, start + 100, thread))
        for i in range(10):
            launches.append(Launch(start + i, start + i + 1, start + 20 + 4 * i, start + 23 + 4 * i, "h2d", 600))
            launches.append(Launch(start + 50 + i, start + 51 + i, start + 400 + 2 * i, start + 401 + 2 * i, "d2h", 25))
        launches.append(Launch(start + 40, start + 41, start + 60, start + 400, "kernel"))
    path = write(tmp_path / "x.sqlite", type(pipeline())(tuple(ranges), tuple(launches)))
    found = metrics(read_trace(path))
    check_conservation(found, 6000, 250, batches=2)
    assert (found.h2d.copies, found.d2h.copies) == (20, 20)
    assert found.latency_us.max == 0.399
    assert contract(found) == oracle(path)


def found_remarks(tmp_path, *launches):
    return remarks(read_trace(write(tmp_path / "x.sqlite", pipeline().with_launches(*launches))))


def test_no_remark_on_a_tidy_trace(tmp_path, real_export):
    assert found_remarks(tmp_path) == []
    assert remarks(read_trace(real_export)) == []


@pytest.mark.parametrize(
    ("kind", "direction", "changes"),
    [
        (RemarkKind.PAGEABLE_COPIES, Direction.H2D, {"host_memory": 0}),
        (RemarkKind.DEFAULT_STREAM_COPIES, Direction.D2H, {"stream": 7}),
    ],
)
def test_remark_on_copies_that_wait(tmp_path, kind, direction, changes):
    remark = TraceRemark(kind=kind, count=1, total=4, direction=direction)
    assert found_remarks(tmp_path, Launch(1005, 1006, 1010, 1020, direction.value, 5, **changes)) == [remark]


def test_remark_on_several_devices(tmp_path):
    remark = TraceRemark(kind=RemarkKind.SEVERAL_DEVICES, count=2, total=2)
    assert found_remarks(tmp_path, Launch(1005, 1006, 1010, 1020, "kernel", device=2)) == [remark]


def test_remark_on_work_of_other_threads(tmp_path):
    remark = TraceRemark(kind=RemarkKind.OTHER_THREADS, count=1, total=10)
    assert found_remarks(tmp_path, Launch(1005, 1006, 1010, 1020, "kernel", thread=OTHER_THREAD)) == [remark]


@pytest.mark.parametrize("version", VERSIONS)
def test_unified_memory_is_left_out_and_remarked(tmp_path, version):
    launches = tuple(replace(item, copy_kind=11 if item.kind == "h2d" else None) for item in pipeline().launches)
    enum = [*ENUMS["ENUM_CUDA_MEMCPY_OPER"], (11, "CUDA_MEMCPY_KIND_UVM_HTOD", "Unified Host-to-Device")]
    extra = {} if version == "plain" else {"ENUM_CUDA_MEMCPY_OPER": enum}
    built = replace(pipeline(), launches=launches, extra=extra)
    trace = read_trace(write(tmp_path / "x.sqlite", built, version))
    assert remarks(trace) == [TraceRemark(kind=RemarkKind.UNIFIED_MEMORY_COPIES, count=3, total=6)]
    found = metrics(trace)
    assert (found.h2d.copies, found.d2h.copies, found.latency_us.max) == (0, 3, None)


def test_kinds_of_compute_are_counted_apart(tmp_path):
    kinds = ("kernel", "graph", "graph", "memset", "memset", "memset", "d2d")
    launches = [Launch(1005, 1006, 1010 + i, 1020 + i, kind) for i, kind in enumerate(kinds)]
    found = metrics(read_trace(write(tmp_path / "x.sqlite", pipeline().with_launches(*launches)))).compute
    assert (found.kernels, found.graph_launches, found.memsets, found.device_copies) == (4, 2, 3, 1)
