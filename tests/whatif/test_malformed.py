"""Traces that are damaged, cut short or of an unexpected shape: an answer with a note, or an error by name."""

import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.trace.export import EVENT, KERNEL, MEMCPY, RUNTIME, SYNCHRONIZATION, open_export
from bench.whatif.answer import Interval, whatif
from bench.whatif.read import read_program
from tests.whatif.simulator import execute, program, write


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "x.sqlite"
    write(path, execute(program("ring", 2002), 2002))
    return path


def change(path, *statements):
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def answered(path):
    result = CliRunner().invoke(main, ["whatif", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def test_lost_kernels_leave_no_answer(trace):
    change(trace, f"DELETE FROM {MEMCPY} WHERE rowid % 3 = 0")
    code, text = answered(trace)
    assert code == 4
    assert text.startswith(
        "This trace cannot say what placement of memory costs: the profiler lost the activities of 79"
    )
    assert "at most" not in text


def test_launches_that_had_not_run_at_the_end_are_not_lost(trace):
    change(trace, *(f"DELETE FROM {table} WHERE start > 5000000" for table in (KERNEL, MEMCPY)))
    code, text = answered(trace)
    assert code == 3
    assert "lost" not in text


def test_activities_without_calls_have_bounds_and_no_estimate(trace):
    change(trace, f"DROP TABLE {RUNTIME}")
    code, text = answered(trace)
    assert code == 3
    assert "No estimate: less than half of the activities have their API call in the trace." in text


def test_missing_event_records_are_noted(trace):
    change(trace, f"DROP TABLE {EVENT}", f"DROP TABLE {SYNCHRONIZATION}")
    code, text = answered(trace)
    assert code == 3
    assert "without records of events: waits between streams are inferred from times" in text


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (f"UPDATE {KERNEL} SET start = 0, end = 0 WHERE rowid = 3", "1 of 360 activities have no time"),
        (f"UPDATE {MEMCPY} SET end = start - 1 WHERE rowid = 3", "have no start, or end before it"),
        (f"UPDATE {MEMCPY} SET bytes = -1", "negative number of bytes"),
        (f"UPDATE {MEMCPY} SET copyKind = 77", "unknown copyKind 77"),
        (f"UPDATE {MEMCPY} SET start = 4611686018427387904, end = 4611686018427387905", "beyond"),
        (f"UPDATE {RUNTIME} SET correlationId = correlationId * 1000000000000", "correlation ids beyond"),
        (f"UPDATE {MEMCPY} SET start = 'x'", "not integers"),
    ],
)
def test_what_cannot_be_true_is_an_error(trace, statement, error):
    change(trace, statement)
    code, text = answered(trace)
    assert code == 2
    assert error in text


def test_empty_trace_is_an_error(trace):
    change(trace, *(f"DELETE FROM {table}" for table in (KERNEL, MEMCPY)))
    code, text = answered(trace)
    assert code == 2
    assert "no GPU activity in this trace" in text


def test_other_files_are_errors(tmp_path):
    for content in (b"", b"hello", b"SQLite format 3\0" + b"\0" * 100, b'{"traceEvents": []}'):
        path = tmp_path / "x"
        path.write_bytes(content)
        assert answered(path)[0] == 2


def test_managed_memory_leaves_no_answer(trace):
    change(trace, f"UPDATE {MEMCPY} SET copyKind = 11 WHERE rowid = 3")
    code, text = answered(trace)
    assert code == 4
    assert "managed memory" in text


def test_equal_and_epoch_times_change_nothing(tmp_path):
    run = execute(program("serial", 2004), 2004)
    answers = []
    for name, offset in (("zero", 0), ("epoch", 1_700_000_000_000_000_000)):
        path = tmp_path / name
        write(path, run)
        change(
            path,
            *(
                f"UPDATE {table} SET start = start + {offset}, end = end + {offset}"
                for table in (KERNEL, MEMCPY, RUNTIME)
            ),
        )
        answers.append(answered(path)[1].replace(name, ""))
    assert answers[0] == answers[1]
    path = tmp_path / "rounded"
    write(path, run)
    change(
        path,
        *(
            f"UPDATE {table} SET start = start / 1000 * 1000, end = end / 1000 * 1000"
            for table in (KERNEL, MEMCPY, RUNTIME)
        ),
    )
    assert answered(path)[0] == 3


def test_two_gpus_and_processes_are_answered_apart(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, execute(program("ring", 2002), 2002))
    write(second, execute(program("prefetch", 2001), 2001))
    alone = []
    for path in (first, second):
        with open_export(path) as export:
            alone.append(whatif(read_program(export), "x", export.tool, Interval(), None).gpus[0])
    other = 1 << 24
    change(
        second,
        *(f"UPDATE {table} SET globalPid = globalPid + {other}, deviceId = 1" for table in (KERNEL, MEMCPY)),
        *(f"UPDATE {table} SET globalPid = globalPid + {other}" for table in (EVENT, SYNCHRONIZATION)),
        f"UPDATE {RUNTIME} SET globalTid = globalTid + {other}",
    )
    with closing(sqlite3.connect(first)) as db:
        db.execute("ATTACH ? AS other", (str(second),))
        for table in (KERNEL, MEMCPY, RUNTIME, EVENT, SYNCHRONIZATION):
            db.execute(f"INSERT INTO {table} SELECT * FROM other.{table}")
        db.commit()
    with open_export(first) as export:
        both = whatif(read_program(export), "x", export.tool, Interval(), None).gpus
    assert [gpu.device for gpu in both] == [0, 1]
    for one, apart in zip(both, alone, strict=True):
        assert [copies.at_most for copies in one.copies] == pytest.approx(
            [copies.at_most for copies in apart.copies], rel=1e-3
        )
        assert one.h2d == apart.h2d
        assert one.path.h2d == pytest.approx(apart.path.h2d, abs=0.02)
