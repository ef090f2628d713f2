"""The measured window of a trace and its batches, from the NVTX ranges."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.trace.export import NVTX, PID_MASK, PUSH_POP, START_END, STRINGS, THREAD_BITS, Export
from bench.trace.intervals import Times

WINDOW = "test_double_buffer"
BATCH = re.compile(r"test_batch_\d+")
STAGES = ("h2d", "compute", "d2h")
STAGE = re.compile(rf"test_({'|'.join(STAGES)})_batch_\d+")


@dataclass(frozen=True)
class Window:
    """[start, end) of the measured range, on one thread; batches ascending and disjoint within it, ns.

    named: from the first to the last range of a name that the user gave, each of which is a batch.
    """

    start: int
    end: int
    global_tid: int
    batch_start: Times
    batch_end: Times
    batch_names: tuple[str, ...]
    named: bool = False

    @property
    def process(self) -> int:
        """All bits above the thread: host and virtual machine too, as in exports merged from several hosts."""
        return self.global_tid >> THREAD_BITS

    @property
    def pid(self) -> int:
        return self.process & PID_MASK


def read_window(export: Export, name: str | None = None) -> Window:
    """Raise TraceError unless the trace has exactly one closed window with closed batches.

    name: of the ranges to take instead of the workload's.
    """
    if not export.filled(NVTX):
        export.fail("no range in this trace", "trace with nsys -t cuda,nvtx", "name the ranges with record_function")
    if name is not None:
        return _named_window(export, name)
    ranges = named_ranges(export, "test_[bd]*")
    start, end, thread, _ = _only_window(export, ranges)
    batches = sorted(
        (row for row in ranges if BATCH.fullmatch(row[3]) and row[2] == thread and start <= row[0] < end),
        key=lambda row: (row[0], row[1] if row[1] is not None else end),
    )
    if not batches:
        export.fail(f"no test_batch_ range inside {WINDOW}")
    opens, closes = _disjoint(export, batches)
    return Window(start, end, thread, opens, closes, tuple(row[3] for row in batches))


def _named_window(export: Export, name: str) -> Window:
    ranges = sorted(named_ranges(export, literal(name)), key=lambda row: row[0])
    if not ranges:
        export.fail(f"no range {name} in this trace", "name a range that the program pushes and pops")
    if len(threads := {row[2] for row in ranges}) > 1:
        export.fail(
            f"{len(ranges)} ranges {name} on {len(threads)} threads", "name a range that only one thread of it opens"
        )
    opens, closes = _disjoint(export, ranges)
    names = tuple(row[3] for row in ranges)
    return Window(int(opens[0]), int(closes[-1]), ranges[0][2], opens, closes, names, named=True)


def literal(name: str) -> str:
    """The pattern of GLOB that fits this name only."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _disjoint(export: Export, batches: list[tuple[Any, ...]]) -> tuple[Times, Times]:
    """(starts, ends). Raise TraceError for a range that was never closed, and for two that overlap."""
    for row in batches:
        if row[1] is None or row[1] < row[0]:
            export.fail(f"range {row[3]} was never closed", "the run was cut short: measure the cell again")
    opens, closes = (np.array([row[column] for row in batches], np.int64) for column in (0, 1))
    overlapping = np.flatnonzero(opens[1:] < closes[:-1])
    if len(overlapping):
        one, other = batches[overlapping[0]][3], batches[overlapping[0] + 1][3]
        export.fail(f"ranges {one} and {other} overlap", "batch ranges follow each other on one thread")
    return opens, closes


def _only_window(export: Export, ranges: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    windows = [row for row in ranges if row[3] == WINDOW]
    if not windows:
        if any(row[3] == WINDOW for row in named_ranges(export, WINDOW, START_END)):
            export.fail(
                f"{WINDOW} is an NVTX Start/End range, which belongs to no thread",
                "open it with nvtxRangePush and close it with nvtxRangePop",
            )
        export.fail(
            f"no range {WINDOW} in this trace",
            "trace a run of this project's workload with nsys -t cuda,nvtx",
            "trace a run of this project's workload; its ranges are those of record_function",
        )
    if len(windows) > 1:
        pids = sorted({row[2] >> THREAD_BITS & PID_MASK for row in windows})
        export.fail(
            f"{len(windows)} ranges {WINDOW} in this trace, of process {', '.join(map(str, pids))}",
            "trace one process and one window at a time",
        )
    if windows[0][1] is None or windows[0][1] < windows[0][0]:
        export.fail(f"range {WINDOW} was never closed", "the run was cut short: measure the cell again")
    return windows[0]


def named_ranges(
    export: Export, pattern: str, kind: int = PUSH_POP, first_in: Window | None = None
) -> list[tuple[Any, ...]]:
    """(start, end or None, globalTid, text) of the ranges of a kind whose names fit the pattern (GLOB).

    first_in: only one, which begins in this window, on its thread.
    """
    export.need(NVTX, "start", "end", "eventType", "globalTid")
    text, join = "", ""
    if export.has(NVTX, "text"):
        text = "n.text"
    if export.has(NVTX, "textId") and export.has(STRINGS, "id", "value"):
        text = f"COALESCE({text}, s.value)" if text else "s.value"
        join = f"LEFT JOIN {STRINGS} s ON s.id = n.textId"
    if not text:
        export.fail(f"table {NVTX} has no text", "export it with a newer nsys")
    name = {PUSH_POP: "NvtxPushPopRange", START_END: "NvtxStartEndRange"}[kind]
    kinds = [key for key, label in export.enum("ENUM_NSYS_EVENT_TYPE", {}).items() if label == name] or [kind]
    sql = (
        f"SELECT n.start, n.end, n.globalTid, {text} AS name FROM {NVTX} n {join} WHERE n.eventType = ? AND name GLOB ?"
    )
    parameters: tuple[Any, ...] = (kinds[0], pattern)
    if first_in:
        sql += " AND n.globalTid = ? AND n.start >= ? AND n.start < ? LIMIT 1"
        parameters += (first_in.global_tid, first_in.start, first_in.end)
    found = export.rows(sql, parameters)
    for row in found:
        if not (isinstance(row[0], int) and isinstance(row[2], int) and isinstance(row[1], int | None)):
            export.fail(f"NVTX range {row[3]} has no times or no thread")
    return found


def named_stages(export: Export, window: Window) -> frozenset[str]:
    """Which of h2d, compute and d2h have ranges of their own in the window; the workload names those it makes."""
    return frozenset(stage for stage in STAGES if named_ranges(export, f"test_{stage}_batch_[0-9]*", first_in=window))
