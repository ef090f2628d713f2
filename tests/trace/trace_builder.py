"""Small traces from a few numbers, written as any of three schema versions, rows in any order."""

import random
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from bench.trace.export import ENUMS, TABLES, global_tid, write_export

PID, TID = 4242, 4243
THREAD, PROCESS = global_tid(PID, TID), global_tid(PID, 0)
OTHER_THREAD = global_tid(PID, TID + 1)
OTHER_PID = 5151

VERSIONS = ("plain", "registered", "current")


@dataclass(frozen=True)
class Launch:
    """One activity and the call that launched it. kind: h2d, d2h, d2d, kernel, graph or memset."""

    call_start: int
    call_end: int | None
    start: int
    end: int | None
    kind: str
    bytes: int = 0
    thread: int = THREAD
    stream: int = 13
    device: int = 0
    copy_kind: int | None = None
    host_memory: int = 1
    correlation: int | None = None


@dataclass(frozen=True)
class Built:
    """ranges: (name, start, end, thread)."""

    ranges: tuple[tuple, ...] = ()
    launches: tuple[Launch, ...] = ()
    drop: tuple[str, ...] = ()
    null_stream: int = 7
    extra: dict = field(default_factory=dict)

    def with_launches(self, *launches):
        return replace(self, launches=self.launches + launches)

    def with_ranges(self, *ranges):
        return replace(self, ranges=self.ranges + ranges)


def pipeline(batches=3, kernels=1):
    """A tidy trace: per batch 100 ns of issuing, then H2D 0-40, kernels 40-80, D2H 80-100 of its own 100 ns."""
    ranges = [("test_double_buffer", 1000, 1000 + 100 * batches, THREAD)]
    launches = []
    for i in range(batches):
        t, d = 1000 + 100 * i, 1010 + 100 * i
        ranges.append((f"test_batch_{i}", t, t + 90, THREAD))
        launches.append(Launch(t + 1, t + 2, d, d + 40, "h2d", 6000))
        step = 40 // kernels
        for k in range(kernels):
            launches.append(Launch(t + 3, t + 4, d + 40 + k * step, d + 40 + (k + 1) * step, "kernel"))
        launches.append(Launch(t + 5, t + 6, d + 80, d + 100, "d2h", 250))
    return Built(tuple(ranges), tuple(launches))


@st.composite
def built_traces(draw):
    """Valid traces of every awkward kind: ties, zero lengths, overlaps, warm-up, other threads, shared ids."""
    small = st.integers(0, 30)
    ranges, launches = [], []
    clock = 100

    def launch(kind, earliest, latest, **more):
        call = draw(st.integers(earliest, latest))
        start = call + draw(st.integers(0, 40))
        return Launch(
            call,
            draw(st.one_of(st.none(), st.integers(call, call + 25))),
            start,
            start + draw(small),
            kind,
            draw(st.integers(0, 400_000)) if kind in ("h2d", "d2h", "d2d") else 0,
            **more,
        )

    kinds = st.sampled_from(["h2d", "d2h", "d2d", "kernel", "graph", "memset"])
    if draw(st.booleans()):  # warm-up under the same names
        ranges.append(("test_batch_0", clock - 80, clock - 10, THREAD))
        launches += [launch(draw(kinds), clock - 80, clock - 11) for _ in range(draw(st.integers(0, 3)))]
    first = clock
    for batch in range(draw(st.integers(1, 12))):
        length = draw(st.integers(1, 40))
        inside = ["h2d", "d2h", *draw(st.lists(kinds, max_size=5))]
        launches += [launch(kind, clock, clock + length - 1) for kind in inside]
        ranges.append((f"test_batch_{batch}", clock, clock + length, THREAD))
        ranges.append((f"test_h2d_batch_{batch}", clock, clock + length, THREAD))
        clock += length
        between = draw(small)
        if between:  # calls between two batches belong to the window and to no batch
            launches += [launch(draw(kinds), clock, clock + between - 1) for _ in range(draw(st.integers(0, 2)))]
        clock += between
    # One activity that takes time, so that the window is not empty.
    launches.append(Launch(first, first + 1, first + 5, first + 25, "h2d", 7))
    ranges.append(("test_double_buffer", first, clock, THREAD))
    others = draw(st.integers(0, 3))
    launches += [launch(draw(kinds), first, clock - 1, thread=OTHER_THREAD) for _ in range(others)]
    other = global_tid(OTHER_PID, OTHER_PID)
    launches += [
        launch(draw(kinds), first, clock - 1, thread=other, correlation=draw(st.integers(1, 20)))
        for _ in range(draw(st.integers(0, 3)))
    ]
    launches += [launch(draw(kinds), clock, clock + 30) for _ in range(draw(st.integers(0, 2)))]
    return Built(tuple(ranges), tuple(launches))


def write(path, built, version="current", seed=None):
    """Write an export. With a seed the rows of every table are shuffled."""
    rows = _rows(built)
    columns = dict(TABLES)
    if version == "plain":  # explicit texts, no ENUM_ and no TARGET_INFO tables, few columns
        for table in [name for name in rows if name.startswith(("ENUM_", "TARGET_INFO_"))]:
            del rows[table]
        _keep(rows, columns, "NVTX_EVENTS", ["text", "start", "end", "eventType", "globalTid"])
        _keep(rows, columns, "CUPTI_ACTIVITY_KIND_RUNTIME", ["correlationId", "globalTid", "start", "end"])
    elif version == "registered":  # registered strings only, and columns that this project does not know
        strings = {}
        rows["NVTX_EVENTS"] = [
            (*row[:3], None, row[4], strings.setdefault(row[3], 900 + len(strings))) for row in rows["NVTX_EVENTS"]
        ]
        rows["StringIds"] += [(key, text) for text, key in strings.items()]
        for table in [name for name in rows if name.startswith("CUPTI_")]:
            columns[table] = ("greenContextId", *columns[table])
            rows[table] = [(None, *row) for row in rows[table]]
    if seed is not None:
        for content in rows.values():
            random.Random(seed).shuffle(content)
    for table in built.drop:
        rows.pop(table, None)
    write_export(path, rows | built.extra, columns)
    return path


def _keep(rows, columns, table, kept):
    places = [columns[table].index(name) for name in kept]
    rows[table] = [tuple(row[place] for place in places) for row in rows[table]]
    columns[table] = kept


def _rows(built):
    copy_kinds = {"h2d": 1, "d2h": 2, "d2d": 8}
    rows = {
        "NVTX_EVENTS": [(start, end, 59, name, thread, None) for name, start, end, thread in built.ranges],
        "StringIds": [(1, "cudaLaunchKernel_v7000"), (2, "gemm"), (3, "cudaMemcpyAsync_v3020")],
        "CUPTI_ACTIVITY_KIND_RUNTIME": [],
        "CUPTI_ACTIVITY_KIND_MEMCPY": [],
        "CUPTI_ACTIVITY_KIND_KERNEL": [],
        "CUPTI_ACTIVITY_KIND_MEMSET": [],
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": [],
        "TARGET_INFO_CUDA_CONTEXT_INFO": [(built.null_stream, PID, 0, 1)],
        **{name: list(values) for name, values in ENUMS.items()},
    }
    for number, item in enumerate(built.launches, 1):
        correlation = item.correlation if item.correlation is not None else number
        process = item.thread >> 24 << 24
        call = (item.call_start, item.call_end, 0, item.thread, correlation, 3 if item.kind in copy_kinds else 1, 0)
        rows["CUPTI_ACTIVITY_KIND_RUNTIME"].append(call)
        head = (item.start, item.end, item.device, 1, item.stream, correlation, process)
        if item.kind in copy_kinds:
            host = item.host_memory
            source, target = {"h2d": (host, 2), "d2h": (2, host), "d2d": (2, 2)}[item.kind]
            kind = item.copy_kind if item.copy_kind is not None else copy_kinds[item.kind]
            rows["CUPTI_ACTIVITY_KIND_MEMCPY"].append((*head, item.bytes, kind, source, target))
        else:
            table = {"kernel": "KERNEL", "graph": "GRAPH_TRACE", "memset": "MEMSET"}[item.kind]
            last = {"kernel": 2, "graph": 1, "memset": 0}[item.kind]
            rows[f"CUPTI_ACTIVITY_KIND_{table}"].append((*head, last))
    return rows
