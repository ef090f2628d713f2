"""Damage to a good export: what is lost, untimed, early or recorded twice is refused, with both numbers.

Of shifts that stay causal those are found that break the order of a stream's kernels by more than 1 ms.
python -m tests.trace.test_complete [CASES] counts them.
"""

import gzip
import random
import re
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import TraceError
from bench.records.trace import RemarkKind
from bench.trace.export import ENUMS, global_tid
from bench.trace.metrics import metrics
from bench.trace.reader import read_trace
from tests.trace.trace_builder import OTHER_THREAD, PID, THREAD, Launch, built_traces, pipeline, write

ACTIVITIES = ("MEMCPY", "KERNEL", "MEMSET", "GRAPH_TRACE")
# By damage: what the refusal says.
REFUSED = {
    "lost": r"the window is not complete: \d+ launches by \w+, \d+ recorded",
    "untimed": r"\d+ of \d+ activities of the window have no time",
    "early": r"\d+ of \d+ activities start before the API call .* by up to \d+ ns",
    "twice": r"\d+ of \d+ activities of the window are recorded twice",
    "unfinished": r"\d+ of \d+ activities of the window have no end",
}


def own_activities(db, window):
    """(table, rowid, start of the call) of what the window's thread launched."""
    found = []
    for name in ACTIVITIES:
        table = f"CUPTI_ACTIVITY_KIND_{name}"
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            rows = db.execute(
                f"SELECT a.rowid, r.start FROM {table} a JOIN CUPTI_ACTIVITY_KIND_RUNTIME r"
                " ON r.correlationId = a.correlationId AND r.globalTid = ? AND a.globalPid >> 24 = ?"
                " WHERE r.start >= ? AND r.start < ? ORDER BY a.rowid",
                (window.global_tid, window.process, window.start, window.end),
            )
            found += [(table, *row) for row in rows]
    return found


def damage(path, kind, chosen, window, most_ns=10**9):
    """Damage one activity of the window; chosen: a random number generator."""
    with closing(sqlite3.connect(path)) as db:
        table, row, called = chosen.choice(own_activities(db, window))
        by = chosen.randint(1, most_ns)
        if kind == "twice":
            columns = ", ".join(name[1] for name in db.execute(f"PRAGMA table_info({table})"))
            db.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE rowid = ?", (row,))
        elif kind == "other thread":
            db.execute(
                "UPDATE CUPTI_ACTIVITY_KIND_RUNTIME SET globalTid = ? WHERE globalTid = ? AND correlationId ="
                f" (SELECT correlationId FROM {table} WHERE rowid = ?)",
                (OTHER_THREAD, THREAD, row),
            )
        else:
            change = {
                "lost": f"DELETE FROM {table}",
                "untimed": f"UPDATE {table} SET start = 0, end = 0",
                "early": f"UPDATE {table} SET end = end - start + {called - by}, start = {called - by}",
                "unfinished": f"UPDATE {table} SET end = start - {by}",
                "late": f"UPDATE {table} SET start = start + {by}, end = end + {by}",
                "longer": f"UPDATE {table} SET end = end + {by}",
            }[kind]
            db.execute(f"{change} WHERE rowid = ?", (row,))
        db.commit()


@pytest.mark.parametrize("kind", REFUSED)
@settings(max_examples=40)
@given(built=built_traces(), seed=st.integers(0, 2**32))
def test_damage_is_refused_with_both_numbers(tmp_path_factory, kind, built, seed):
    path = write(tmp_path_factory.mktemp("damage") / "x.sqlite", built)
    damage(path, kind, random.Random(seed), read_trace(path).window)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    # Without its only copy table nothing of a trace is left to compare.
    expected = REFUSED[kind] + "|no copy in this trace" * (kind == "lost")
    assert re.search(expected, caught.value.what)
    assert caught.value.where == str(path) and caught.value.advice


@settings(max_examples=40)
@given(built=built_traces(), seed=st.integers(0, 2**32))
def test_work_of_other_threads_is_counted(tmp_path_factory, built, seed):
    path = write(tmp_path_factory.mktemp("threads") / "x.sqlite", built)
    before = read_trace(path).complete
    damage(path, "other thread", random.Random(seed), read_trace(path).window)
    try:
        found = metrics(read_trace(path))
    except TraceError as error:  # the copy was the only one of its batch, or of all
        assert re.search("batches have no|no ... copy inside|no CUDA API call|takes any time", error.what)
        return
    assert found.complete.other_threads == before.other_threads + 1
    assert found.complete.launches == found.complete.recorded == before.launches - 1
    [remark] = [remark for remark in found.remarks if remark.kind is RemarkKind.OTHER_THREADS]
    assert remark.count == before.other_threads + 1


def damaged_pipeline(tmp_path, statement, built=None):
    path = write(tmp_path / "x.sqlite", built or pipeline())
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()
    return path


def test_half_of_the_kernels_lost_is_refused_beside_memsets(tmp_path):
    memset = Launch(1050, 1051, 1060, 1061, "memset")
    path = damaged_pipeline(
        tmp_path, "DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE rowid % 2", pipeline(4).with_launches(memset)
    )
    with pytest.raises(TraceError, match="5 launches by cudaLaunchKernel_v7000, 3 recorded"):
        read_trace(path)


def test_a_launch_that_failed_needs_no_activity(tmp_path):
    path = damaged_pipeline(tmp_path, "DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE rowid = 1")
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE CUPTI_ACTIVITY_KIND_RUNTIME SET returnValue = 719 WHERE correlationId = 2")
        db.commit()
    complete = read_trace(path).complete
    assert (complete.launches, complete.recorded) == (8, 8)


def test_kernels_of_one_stream_cannot_overlap_for_long(tmp_path):
    def built(overlap_ns, **changes):
        first = Launch(1006, 1007, 1100, 1100 + 3_000_000, "kernel", stream=20)
        second = Launch(1008, 1009, first.end - overlap_ns, first.end + 2_000_000, "kernel", stream=20)
        return pipeline().with_launches(first, replace(second, **changes))

    read_trace(write(tmp_path / "x.sqlite", built(1_000_000)))
    read_trace(write(tmp_path / "x.sqlite", built(1_000_001, stream=21)))
    read_trace(write(tmp_path / "x.sqlite", built(1_000_001, device=1)))
    with pytest.raises(TraceError, match=r"a kernel starts 1000001 ns before .* at most 1000000 ns"):
        read_trace(write(tmp_path / "x.sqlite", built(1_000_001)))


def test_kernels_of_one_graph_may_overlap(tmp_path):
    one, other = (Launch(1006, 1007, 1100, 3_000_000 + more, "kernel", correlation=500) for more in (0, 1))
    path = write(tmp_path / "x.sqlite", pipeline().with_launches(one, other))
    assert metrics(read_trace(path)).compute.kernels == 5


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_a_copy_faster_than_any_link_is_refused(tmp_path, direction):
    copy = Launch(1006, 1007, 1100, 1200, direction, 400_000)
    read_trace(write(tmp_path / "x.sqlite", pipeline().with_launches(copy)))
    with pytest.raises(TraceError, match=f"1 of 4 {direction.upper()} copies .* 400001 bytes in 100 ns"):
        read_trace(write(tmp_path / "x.sqlite", pipeline().with_launches(replace(copy, bytes=400_001))))


# Exports of other versions, and merged ones.


def test_the_same_pid_on_another_host_does_not_count(tmp_path):
    """Process ids are compared with all bits above the thread: hardware, virtual machine, process."""
    elsewhere = global_tid(1 << 24 | PID, 7)
    stranger = Launch(1005, 1006, 1010, 9999, "h2d", 77, thread=elsewhere, correlation=1)
    found = metrics(read_trace(write(tmp_path / "x.sqlite", pipeline().with_launches(stranger))))
    assert (found.h2d.copies, found.window_ns, found.complete.other_threads) == (3, 300, 0)


@pytest.mark.parametrize("table", ["RUNTIME", "MEMCPY", "KERNEL"])
def test_tables_may_end_in_a_version(tmp_path, table):
    name = f"CUPTI_ACTIVITY_KIND_{table}"
    path = damaged_pipeline(tmp_path, f"ALTER TABLE {name} RENAME TO {name}_V2")
    found = metrics(read_trace(path))
    assert (found.window_ns, found.complete.launches, found.compute.kernels) == (300, 9, 3)


def test_the_default_stream_of_exports_of_2022(tmp_path):
    built = pipeline().with_launches(Launch(1005, 1006, 1010, 1020, "h2d", 5, stream=7))
    path = damaged_pipeline(
        tmp_path, "CREATE TABLE TARGET_INFO_CUDA_NULL_STREAM (streamId, hwId, vmId, processId)",
        replace(built, drop=("TARGET_INFO_CUDA_CONTEXT_INFO",)),
    )  # fmt: skip
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO TARGET_INFO_CUDA_NULL_STREAM VALUES (7, 0, 1, ?), (13, 0, 1, 99)", (PID,))
        db.commit()
    assert read_trace(path).null_streams == {7}
    assert [remark.count for remark in metrics(read_trace(path)).remarks] == [1]


@pytest.mark.parametrize("column", ["uuid", "busLocation", "name"])
def test_gpu_tables_may_lack_a_column(tmp_path, column):
    built = replace(pipeline(), extra={"TARGET_INFO_GPU": [(0, "A", "0000:01:00.0", "aa")]})
    path = damaged_pipeline(tmp_path, f"ALTER TABLE TARGET_INFO_GPU DROP COLUMN {column}", built)
    [device] = read_trace(path).devices
    facts = {"uuid": device.uuid, "busLocation": device.pci_bus_id, "name": device.name}
    assert facts == {"uuid": "GPU-aa", "busLocation": "0000:01:00.0", "name": "A"} | {column: None}


def test_start_end_ranges_are_called_what_they_are(tmp_path):
    path = damaged_pipeline(tmp_path, "UPDATE NVTX_EVENTS SET eventType = 60 WHERE text = 'test_double_buffer'")
    with pytest.raises(TraceError, match="test_double_buffer is an NVTX Start/End range"):
        read_trace(path)


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
def test_a_log_beside_an_export_is_refused(tmp_path, ending):
    path = write(tmp_path / "x.sqlite", pipeline())
    log = tmp_path / f"x.sqlite{ending}"
    log.write_bytes(b"")
    read_trace(path)
    log.write_bytes(b"x" * 4152)
    with pytest.raises(TraceError, match=f"x.sqlite{ending} beside it has 4152 bytes"):
        read_trace(path)


def test_the_tool_and_its_schema_are_named(eager_export):
    tool = read_trace(eager_export).tool
    assert (tool.product, tool.version, tool.schema) == ("NVIDIA Nsight Systems", "2025.3.2.0", "3.20.3")


def test_unified_copies_are_known_by_number(tmp_path):
    """Exports of 2022 have no ENUM_ tables."""
    launches = [Launch(1005, 1006, 1010, 9999, "h2d", 5, copy_kind=kind) for kind in (11, 12, 13)]
    built = replace(pipeline().with_launches(*launches), drop=tuple(ENUMS))
    found = metrics(read_trace(write(tmp_path / "x.sqlite", built)))
    assert (found.window_ns, found.h2d.copies, found.d2h.copies, found.compute.device_copies) == (300, 3, 3, 0)
    assert [(remark.kind, remark.count) for remark in found.remarks] == [(RemarkKind.UNIFIED_MEMORY_COPIES, 3)]


def count_found(cases):
    """How many damages of one activity in a real export are found. Shifts: by up to 10 ms and by up to 1 s."""
    packed = Path(__file__).parents[1] / "fixtures" / "traces" / "h200_vit32x6x512_eager.sqlite.gz"
    window, sound = read_trace(packed).window, gzip.decompress(packed.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.sqlite"
        for kind, most_ns in [*((kind, 10**7) for kind in REFUSED), *product(("late", "longer"), (10**7, 10**9))]:
            found = 0
            for seed in range(cases):
                path.write_bytes(sound)
                damage(path, kind, random.Random(seed), window, most_ns)
                try:
                    read_trace(path)
                except TraceError:
                    found += 1
            print(f"{kind:12} up to {most_ns / 1e6:g} ms: {found} of {cases} found", flush=True)


if __name__ == "__main__":
    count_found(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
