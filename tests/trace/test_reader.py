import gzip
import random
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from bench.errors import StudyError, TraceError
from bench.records.trace import Copies
from bench.trace.activities import Kind
from bench.trace.batches import per_batch
from bench.trace.export import TABLES, global_tid
from bench.trace.metrics import check_conservation, metrics
from bench.trace.reader import read_trace
from tests.trace.trace_builder import OTHER_PID, OTHER_THREAD, PID, THREAD, VERSIONS, Launch, pipeline, write


def read(tmp_path, built, version="current"):
    return read_trace(write(tmp_path / "x.sqlite", built, version))


def test_reads_devices_streams_and_names(eager_export):
    trace = read_trace(eager_export)
    assert [device.uuid for device in trace.devices] == ["GPU-5b3dfa57-6c7f-3b64-3666-7a8ca3d28a86"]
    assert trace.devices[0].pci_bus_id == "0000:00:06.0"
    assert trace.null_streams == {7}
    assert trace.name == "h200_vit32x6x512_eager"
    assert any("gemm" in name or "elementwise" in name for name in trace.names.values())


def test_devices_are_renumbered_as_the_process_saw_them(tmp_path):
    gpus = [(0, "A", "0000:01:00.0", "aa"), (3, "B", "0000:02:00.0", "bb")]
    extra = {"TARGET_INFO_GPU": gpus, "TARGET_INFO_CUDA_DEVICE": [(3, 0, PID), (0, 0, OTHER_PID)]}
    [device] = read(tmp_path, replace(pipeline(), extra=extra)).devices
    assert (device.id, device.uuid, device.name) == (0, "GPU-bb", "B")


def test_every_gpu_of_the_window_is_named(tmp_path):
    built = pipeline().with_launches(Launch(1050, 1051, 1060, 1070, "kernel", device=5))
    assert [device.id for device in read(tmp_path, built).devices] == [0, 5]


def test_another_process_with_the_same_ids_does_not_count(tmp_path):
    stranger = Launch(1005, 1006, 1010, 9999, "kernel", thread=global_tid(OTHER_PID, 1), correlation=1)
    expected, together = read(tmp_path, pipeline()), read(tmp_path, pipeline().with_launches(stranger))
    assert metrics(expected) == metrics(together)


@pytest.mark.parametrize("change", ["other thread", "before the window", "at its end", "no call"])
def test_what_the_window_did_not_launch_does_not_count(tmp_path, change):
    call, thread = {"other thread": (1005, OTHER_THREAD), "before the window": (999, THREAD)}.get(
        change, (1300, THREAD)
    )
    built = pipeline().with_launches(Launch(call, call + 1, 1020, 5000, "kernel", thread=thread))
    if change == "no call":
        built = pipeline()
        path = write(tmp_path / "x.sqlite", built)
        with sqlite3.connect(path) as db:
            db.execute(
                "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL (start, end, deviceId, correlationId, globalPid, shortName)"
                "VALUES (1, 9000, 0, 777, ?, 2), (1, 9000, 0, NULL, ?, 2)",
                (PID << 24, PID << 24),
            )
        assert metrics(read_trace(path)).window_ns == 300
    else:
        assert metrics(read(tmp_path, built)).window_ns == 300


def test_calls_nested_under_one_correlation_id_count_once(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    before = metrics(read_trace(path))
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME SELECT start + 1, end, eventClass, globalTid, correlationId,"
            " nameId, returnValue FROM CUPTI_ACTIVITY_KIND_RUNTIME"
        )
    assert metrics(read_trace(path)) == before


def test_host_to_host_copies_are_not_work_of_the_device(tmp_path):
    built = pipeline().with_launches(Launch(1005, 1006, 1010, 9999, "h2d", 5, copy_kind=9))
    found, expected = metrics(read(tmp_path, built)), metrics(read(tmp_path, pipeline()))
    assert found.complete.recorded == expected.complete.recorded + 1
    assert replaced(found, complete=expected.complete) == expected


def without(built, kind):
    return replace(built, launches=tuple(item for item in built.launches if item.kind != kind))


def batch_renamed(built, index, name):
    ranges = list(built.ranges)
    ranges[index] = (name, *ranges[index][1:])
    return replace(built, ranges=tuple(ranges))


RUNTIME, MEMCPY = "CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_MEMCPY"
ALL_CUDA = tuple(name for name in TABLES if name.startswith("CUPTI"))
BROKEN = {
    "no range test_double_buffer": (batch_renamed(pipeline(), 0, "test_other"), "no range test_double_buffer"),
    "two windows": (pipeline().with_ranges(("test_double_buffer", 1, 5, THREAD)), "2 ranges test_double_buffer"),
    "window never closed": (
        replace(pipeline(), ranges=(("test_double_buffer", 1000, None, THREAD), *pipeline().ranges[1:])),
        "test_double_buffer was never closed",
    ),
    "no batch": (replace(pipeline(), ranges=pipeline().ranges[:1]), "no test_batch_ range"),
    "batch never closed": (pipeline().with_ranges(("test_batch_9", 1295, None, THREAD)), "test_batch_9 was never"),
    "batches overlap": (pipeline().with_ranges(("test_batch_9", 1050, 1120, THREAD)), "overlap"),
    "no nvtx": (replace(pipeline(), drop=("NVTX_EVENTS",)), "no range in this trace"),
    "no cuda": (replace(pipeline(), drop=ALL_CUDA), "no CUDA activity in this trace"),
    "no runtime": (replace(pipeline(), drop=(RUNTIME,)), f"table {RUNTIME} is missing"),
    "no memcpy": (replace(pipeline(), drop=(MEMCPY,)), f"table {MEMCPY} is missing"),
    "no d2h": (without(pipeline(), "d2h"), "no D2H copy inside the window"),
    "no h2d": (without(pipeline(), "h2d"), "no H2D copy inside the window"),
    "a batch without d2h": (replace(pipeline(), launches=pipeline().launches[:-1]), "1 of 3 batches .* test_batch_2"),
    "unknown enum": (pipeline().with_launches(Launch(1005, 1006, 1010, 1020, "h2d", copy_kind=77)), "copyKind 77"),
    "enum unknown": (pipeline().with_launches(Launch(1005, 1006, 1010, 1020, "h2d", copy_kind=0)), "copyKind 0"),
    "unfinished": (pipeline().with_launches(Launch(1005, 1006, 1010, None, "kernel")), "1 of 4 .* no end"),
    "ends before it starts": (pipeline().with_launches(Launch(1005, 1006, 1010, 1009, "kernel")), "have no end"),
    "beyond all time": (pipeline().with_launches(Launch(1005, 1006, 1010, 2**62, "kernel")), "times beyond"),
    "negative bytes": (pipeline().with_launches(Launch(1005, 1006, 1010, 1011, "h2d", -1)), "negative"),
    "calls elsewhere": (replace(pipeline(), ranges=tuple((n, s, e, OTHER_THREAD) for n, s, e, _ in pipeline().ranges)),
                        "no CUDA API call inside the window"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["no nvtx", "no cuda", "no runtime", "no memcpy"])
def test_an_empty_table_is_like_a_missing_one(tmp_path, name):
    built, message = BROKEN[name]
    path = write(tmp_path / "x.sqlite", replace(built, drop=()))
    with sqlite3.connect(path) as db:
        for table in built.drop:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                db.execute(f"DELETE FROM {table}")
    with pytest.raises(TraceError, match=message):
        read_trace(path)


@pytest.mark.parametrize("name", BROKEN)
def test_errors_that_falsify_numbers_are_named(tmp_path, name):
    built, message = BROKEN[name]
    with pytest.raises(TraceError, match=message) as caught:
        read(tmp_path, built)
    assert caught.value.where.endswith("x.sqlite")
    assert caught.value.advice


def test_lost_kernels_are_refused(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL")
    with pytest.raises(TraceError, match="3 launches by cudaLaunchKernel_v7000, 0 recorded"):
        read_trace(path)


def test_an_unfinished_activity_outside_the_window_does_no_harm(tmp_path):
    built = pipeline().with_launches(Launch(1, 2, 3, None, "kernel"))
    assert metrics(read(tmp_path, built)) == metrics(read(tmp_path, pipeline()))


def test_two_processes_without_global_pid_are_refused(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    expected = metrics(read_trace(path))
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_MEMCPY DROP COLUMN globalPid")
    assert metrics(read_trace(path)) == expected
    with sqlite3.connect(path) as db:
        db.execute(
            f"INSERT INTO {RUNTIME} (start, end, globalTid, correlationId) VALUES (1, 2, ?, 1)", (OTHER_PID << 24,)
        )
    with pytest.raises(TraceError, match="2 processes"):
        read_trace(path)


def test_a_missing_column_is_named(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_MEMCPY DROP COLUMN copyKind")
    with pytest.raises(TraceError, match="MEMCPY has no column copyKind"):
        read_trace(path)


@pytest.mark.parametrize("value", ["'soon'", "1.5", "x'00'"])
def test_values_that_are_not_integers_are_refused(tmp_path, value):
    path = write(tmp_path / "x.sqlite", pipeline())
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE CUPTI_ACTIVITY_KIND_MEMCPY SET start = {value}")
    with pytest.raises(TraceError, match="values that are not integers"):
        read_trace(path)


def test_an_activity_without_a_start_is_refused(tmp_path):
    path = write(tmp_path / "x.sqlite", pipeline())
    with sqlite3.connect(path) as db:
        db.execute("UPDATE CUPTI_ACTIVITY_KIND_MEMCPY SET start = NULL WHERE rowid = 1")
    with pytest.raises(TraceError, match="has no start"):
        read_trace(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_packed_and_plain_give_one_answer(tmp_path, version):
    path = write(tmp_path / "x.sqlite", pipeline(), version)
    packed = tmp_path / "x.sqlite.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert metrics(read_trace(path)) == metrics(read_trace(packed))
    assert read_trace(packed).name == "x"


def test_activities_know_their_batch(tmp_path):
    activities = read(tmp_path, pipeline(batches=4)).activities
    assert activities.batch[activities.of(Kind.H2D)].tolist() == [0, 1, 2, 3]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
def test_damaged_exports_only_raise_study_errors(tmp_path_factory, seed, changes, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz.sqlite"
    data = bytearray(_sound(path))
    generator = random.Random(seed)
    for _ in range(changes):
        data[generator.randrange(len(data))] = generator.randrange(256)
    if cut:
        del data[generator.randrange(len(data)) :]
    path.write_bytes(data)
    try:
        found = metrics(read_trace(path))
    except StudyError:
        return
    assert found.compute.busy_ns + found.exposed_copy_ns + found.idle_ns == found.window_ns


SOUND: list[bytes] = []


def _sound(path):
    if not SOUND:
        SOUND.append(write(path, pipeline(batches=12)).read_bytes())
    return SOUND[0]


@given(st.binary(max_size=300))
def test_any_bytes_only_raise_study_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.sqlite"
    for content in (data, b"SQLite format 3\0" + data, gzip.compress(data)):
        path.write_bytes(content)
        with pytest.raises(StudyError):
            read_trace(path)


def one_way(missing, batches=3):
    """A trace without copies in one direction; the workload leaves out the ranges of that stage."""
    built = pipeline(batches)
    stages = [stage for stage in ("h2d", "compute", "d2h") if stage != missing]
    ranges = [
        (f"test_{stage}_batch_{i}", 1000 + 100 * i + place, 1001 + 100 * i + place, THREAD)
        for i in range(batches)
        for place, stage in enumerate(stages)
    ]
    return replace(built.with_ranges(*ranges), launches=tuple(x for x in built.launches if x.kind != missing))


@pytest.mark.parametrize("missing", ["h2d", "d2h"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_direction_that_was_not_asked_for_may_lack_copies(tmp_path, missing, version):
    trace = read(tmp_path, one_way(missing), version)
    found = metrics(trace)
    assert getattr(found, missing) == Copies(bytes=0, copies=0, busy_ns=0, bandwidth_gb_s=None, link_gb_s=None)
    assert found.latency_us.p50 is found.latency_us.max is None
    assert set(found.latency_us.reasons) == {"p50", "p90", "p99", "max"}
    assert per_batch(trace).latency_ns == [None] * 3
    bytes_in, bytes_out = (0, 250) if missing == "h2d" else (6000, 0)
    check_conservation(found, bytes_in, bytes_out, 3)
    with pytest.raises(TraceError, match=f"{missing.upper()} copies of the trace carry 0 bytes"):
        check_conservation(found, 6000, 250, 3)


@pytest.mark.parametrize("missing", ["h2d", "d2h"])
def test_a_direction_that_was_asked_for_needs_copies(tmp_path, missing):
    """Its ranges are there, or no stage has ranges at all."""
    named = one_way(missing).with_ranges((f"test_{missing}_batch_0", 1000, 1001, THREAD))
    silent = replace(one_way(missing), ranges=pipeline().ranges)
    for built in (named, silent):
        with pytest.raises(TraceError, match=f"no {missing.upper()} copy inside the window"):
            read(tmp_path, built)


@pytest.mark.parametrize("missing", ["h2d", "d2h"])
def test_a_copy_that_was_not_asked_for_is_seen(tmp_path, missing):
    built = one_way(missing).with_launches(Launch(1001, 1002, 1020, 1030, missing, 64))
    with pytest.raises(TraceError, match="2 of 3 batches have no"):
        read(tmp_path, built)
