"""The contract metrics by brute force: plain Python, written from docs/metrics.md alone, shares no code with bench.

Lengths of sets are found by cutting the time axis at every start and end, and asking of each piece what covers it.
"""

import gzip
import re
import sqlite3
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path


def oracle(path):
    path = Path(path)
    if path.suffix == ".gz":
        with tempfile.NamedTemporaryFile(suffix=".sqlite") as plain:
            plain.write(gzip.decompress(path.read_bytes()))
            plain.flush()
            return _metrics(*_read(plain.name))
    return _metrics(*_read(path))


def _read(path):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row

    def table(name):
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is None:
            return []
        return [dict(row) for row in db.execute(f"SELECT * FROM {name}")]

    strings = {row["id"]: row["value"] for row in table("StringIds")}
    ranges = []
    for row in table("NVTX_EVENTS"):
        text = row.get("text")
        if text is None:
            text = strings.get(row.get("textId"))
        if row["eventType"] == 59 and text is not None:
            ranges.append((row["start"], row["end"], row["globalTid"], text))
    [(w0, w1, thread, _)] = [r for r in ranges if r[3] == "test_double_buffer"]
    batches = sorted(
        r for r in ranges if re.fullmatch(r"test_batch_[0-9]+", r[3]) and r[2] == thread and w0 <= r[0] < w1
    )
    copy_names = {row["id"]: row["name"] for row in table("ENUM_CUDA_MEMCPY_OPER")} or {
        1: "HTOD", 2: "DTOH", 8: "DTOD"
    }  # fmt: skip

    calls, launches, elsewhere = {}, set(), set()
    for row in table("CUPTI_ACTIVITY_KIND_RUNTIME"):
        if row["globalTid"] // 2**24 == thread // 2**24 and row["globalTid"] != thread and w0 <= row["start"] < w1:
            elsewhere.add(row["correlationId"])
        if row["globalTid"] == thread and w0 <= row["start"] < w1:
            name = strings.get(row.get("nameId"), "")
            if row.get("returnValue") == 0 and re.match(r"cu(da)?(Launch.*Kernel|GraphLaunch|Memcpy|Memset)", name):
                launches.add(row["correlationId"])
            end = row["end"] if row["end"] is not None else float("inf")
            calls.setdefault(row["correlationId"], []).append((row["start"], -end))
    activities, recorded, others = [], set(), 0
    for name in ("MEMCPY", "KERNEL", "MEMSET", "GRAPH_TRACE"):
        for row in table("CUPTI_ACTIVITY_KIND_" + name):
            if "globalPid" in row and row["globalPid"] // 2**24 != thread // 2**24:
                continue
            recorded.add(row["correlationId"])
            others += row["correlationId"] in elsewhere - calls.keys()
            if row["correlationId"] not in calls:
                continue
            kind = {"KERNEL": "kernels", "MEMSET": "memsets", "GRAPH_TRACE": "graph_launches"}.get(name)
            if name == "MEMCPY":
                kind = {"HTOD": "H", "DTOH": "D", "DTOD": "device_copies"}[copy_names[row["copyKind"]][-4:]]
            call_start, call_end = min(calls[row["correlationId"]])
            inside = [i for i, batch in enumerate(batches) if batch[0] <= call_start < batch[1]]
            activities.append({
                "start": row["start"], "end": row["end"], "kind": kind if kind in "HD" else "K", "name": kind,
                "bytes": row.get("bytes", 0),
                "call_end": -call_end, "batch": inside[0] if inside else None,
            })  # fmt: skip
    complete = {
        "launches": len(launches) or None, "recorded": len(launches & recorded) or None, "untimed": 0,
        "before_call": 0, "other_threads": others,
    }  # fmt: skip
    return activities, len(batches), complete


def _metrics(activities, batches, complete):
    first = min(a["start"] for a in activities)
    last = max(a["end"] for a in activities)
    pieces = _pieces(activities)

    def length(condition):
        return sum(end - start for start, end, kinds in pieces if condition(kinds))

    def copies(kind):
        mine = [a for a in activities if a["kind"] == kind]
        size = sum(a["bytes"] for a in mine)
        copying = sum(a["end"] - a["start"] for a in mine)
        busy = length(lambda kinds: kind in kinds)
        return {
            "bytes": size, "copies": len(mine), "busy_ns": busy,
            "bandwidth_gb_s": size / copying if copying else None, "link_gb_s": size / busy if busy else None,
        }  # fmt: skip

    h2d, d2h = copies("H"), copies("D")
    busy = {
        "h2d": h2d["busy_ns"],
        "compute": length(lambda kinds: "K" in kinds),
        "d2h": d2h["busy_ns"],
    }
    idle = length(lambda kinds: not kinds)
    window = last - first
    return {
        "batches": batches,
        "window_ns": window,
        "h2d": h2d,
        "d2h": d2h,
        "compute": {
            **{
                name: sum(a["name"] == name for a in activities)
                for name in ("kernels", "graph_launches", "memsets", "device_copies")
            },
            "busy_ns": busy["compute"],
        },
        "complete": complete,
        "overlap_ns": length(lambda kinds: "K" in kinds and kinds & {"H", "D"}),
        "exposed_h2d_ns": length(lambda kinds: "H" in kinds and "K" not in kinds),
        "exposed_d2h_ns": length(lambda kinds: "D" in kinds and "K" not in kinds),
        "exposed_copy_ns": length(lambda kinds: "K" not in kinds and kinds & {"H", "D"}),
        "idle_ns": idle,
        "pipeline_efficiency": max(busy.values()) / window,
        "bottleneck": next(stage for stage in ("h2d", "compute", "d2h") if busy[stage] == max(busy.values())),
        "latency_us": _latency(activities, batches),
        **_regime(activities, pieces, window, idle, busy),
    }


def _pieces(activities):
    """(start, end, set of the kinds that cover it), neighbours alike in kinds joined."""
    cuts = sorted({a["start"] for a in activities} | {a["end"] for a in activities})
    events = sorted([(a["start"], 1, a["kind"]) for a in activities] + [(a["end"], -1, a["kind"]) for a in activities])
    open_now, position, pieces = {"H": 0, "D": 0, "K": 0}, 0, []
    for start, end in pairwise(cuts):
        while position < len(events) and events[position][0] <= start:
            open_now[events[position][2]] += events[position][1]
            position += 1
        kinds = {kind for kind, count in open_now.items() if count}
        if pieces and pieces[-1][2] == kinds:
            pieces[-1] = (pieces[-1][0], end, kinds)
        else:
            pieces.append((start, end, kinds))
    return pieces


def _latency(activities, batches):
    values = []
    for batch in range(batches):
        mine = [a for a in activities if a["batch"] == batch]
        values.append(
            max(a["end"] for a in mine if a["kind"] == "D") - min(a["start"] for a in mine if a["kind"] == "H")
        )
    values.sort()
    result = {"count": len(values), "max": values[-1] / 1000}
    for percent, needed in ((50, 2), (90, 29), (99, 299)):
        place = Fraction((len(values) - 1) * percent, 100)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        value = values[below] + (place - below) * (values[above] - values[below])
        result[f"p{percent}"] = float(value / 1000) if len(values) >= needed else None
    return result


def _regime(activities, pieces, window, idle, busy):
    late = before_return = 0
    for start, end, kinds in pieces:
        if not kinds and all(a["call_end"] > start for a in activities if a["start"] == end):
            late += end - start
            before_return += min([end, *(a["call_end"] for a in activities if a["start"] == end)]) - start
    copy = max(busy["h2d"], busy["d2h"])
    if Fraction(idle, window) >= Fraction(20, 100):
        regime = "launch-bound" if Fraction(late, idle) >= Fraction(1, 2) else "stalled"
    elif busy["compute"] == 0 or Fraction(copy, busy["compute"]) >= Fraction(125, 100):
        regime = "transfer-bound"
    else:
        regime = "compute-bound" if Fraction(copy, busy["compute"]) <= Fraction(80, 100) else "balanced"
    return {
        "regime": regime,
        "regime_evidence": {
            "idle_share": idle / window,
            "late_idle_ns": late,
            "late_share": late / idle if idle else None,
            "call_idle_ns": before_return,
            "call_share": before_return / idle if idle else None,
            "rho": copy / busy["compute"] if busy["compute"] else None,
        },
    }
