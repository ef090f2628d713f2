"""Cells and links: how far a cell has come, and what a reader should know before using its numbers."""

from collections.abc import Iterable, Sequence

from bench.records.results import (
    CeilingSource,
    CellRemark,
    CellRemarkKind,
    CellState,
    Clocks,
    HiddenCopies,
    MeasuredCell,
    Term,
)
from bench.records.run import Outcome
from bench.report.text.traces import trace_remark_text
from bench.units import byte_size, duration, fixed, percent, plural

TERMS = {
    Term.H2D: "the copy in",
    Term.COMPUTE: "compute",
    Term.D2H: "the copy out",
    Term.ISSUE: "issuing",
    Term.BUFFERS: "copy and compute of one buffer",
    Term.PREPARE: "preprocessing",
}


def outcome_text(cell: MeasuredCell) -> str:
    """The outcome of a cell; of one that is not complete how far it has come: "2 runs so far", "not traced"."""
    match cell.state:
        case CellState.STARTED:
            timed = sum(run.repeat != "traced" and run.status is Outcome.OK for run in cell.runs)
            return f"{plural(timed, 'run')} so far"
        case CellState.NOT_TRACED:
            return "not traced"
        case CellState.TRACE_NOT_READ:
            return "trace not read"
    return cell.outcome.replace("_", " ")


# A cell that is only missing has no record with a reason.
_MISSING = {
    CellState.NOT_STARTED: "not measured yet",
    CellState.STARTED: "not measured yet",
    CellState.NOT_TRACED: "the traced run is to come",
    CellState.TRACE_NOT_READ: "the trace has not been read yet",
}


def reason_text(cell: MeasuredCell) -> str:
    """Why a cell is not ok."""
    return cell.reason or _MISSING.get(cell.state, "")


def advice_text(cell: MeasuredCell) -> str:
    """What to do about it."""
    return cell.advice or ("start the study again" if cell.state in _MISSING else "")


def remarks(cell: MeasuredCell) -> list[str]:
    """Of its trace, then of the cell; empty if there is nothing to know."""
    traced = cell.metrics.remarks if cell.metrics else []
    return [*map(trace_remark_text, traced), *map(remark_text, cell.remarks)]


def remark_text(remark: CellRemark) -> str:
    ratio, count, total = remark.ratio or 0.0, remark.count or 0, remark.total or 0
    match remark.kind:
        case CellRemarkKind.PROFILER_CHANGED_RATE:
            return (
                f"the profiler changed the pace: the traced run reached {percent(ratio)} of the timed throughput; "
                "shares and regime describe that run"
            )
        case CellRemarkKind.HOST_CLOCK_DIFFERS:
            return _host_differs(ratio)
        case CellRemarkKind.EVENT_CLOCK_DIFFERS:
            return _events_differ(ratio)
        case CellRemarkKind.BOUND_ABOVE_MEASURED:
            return f"no efficiency against the bound: {_too_long(remark.term, ratio)}"
        case CellRemarkKind.WARMUP_NOT_SETTLED:
            return (
                f"the warm-up of {count} of {total} timed runs had not settled at its limit: "
                f"its last windows differed by up to {percent(ratio)}"
            )
        case CellRemarkKind.DISTURBED_EXCLUDED:
            return f"{count} of {total} timed runs were disturbed and are excluded"
        case CellRemarkKind.DISTURBED_ALIKE:
            return f"{count} of {total} processes were disturbed; they count, because all placements had it alike"
        case CellRemarkKind.WINDOWS_DIFFER:
            return f"the windows of {count} of {total} timed runs differ among themselves, by up to {percent(ratio)}"
        case CellRemarkKind.STOPPED:
            return (
                f"{count} of {total} timed runs stood still inside a window, for up to {duration(remark.seconds)}: "
                "throughput is the median of the windows and does not show it, mean_samples_s does"
            )
        case CellRemarkKind.CARRY_OVER_DIFFERS:
            return (
                f"what a turn leaves behind differs by {percent(abs(ratio))} from {remark.other}: "
                "the lead-in is too short for one of the two"
            )
        case CellRemarkKind.HUGE_PAGES_DIFFER:
            more = "more" if ratio > 0 else "less"
            return (
                f"{percent(abs(ratio))} {more} of its host buffers was in huge pages than of {remark.other}: "
                "how small pages lie in memory can look like distance"
            )
        case CellRemarkKind.SECOND_ATTEMPT:
            return f"{count} of {total} timed runs needed a second attempt; the first failed: {remark.other}"
        case CellRemarkKind.OF_OUTPUT:
            return f"in {count} of {total} runs: {remark.other}"
        case CellRemarkKind.FROM_STORAGE:
            return (
                f"{count} of {total} runs read from the storage, up to {byte_size(remark.bytes or 0)}: its speed is in "
                "their numbers; warmup_runs fills the page cache before the first run, evict empties it before each"
            )
        case CellRemarkKind.PAGE_CACHE:
            nodes = [f"{byte_size(size)} on node {node}" for node, size in remark.bytes_by_node.items()]
            where = f": {', '.join(nodes)}" if nodes else ""
            files = f"{plural(count, 'large file')} that it read ({byte_size(remark.bytes or 0)})"
            return f"{percent(ratio)} of {files} was in the page cache after the last run{where}"


def bound_reason(cell: MeasuredCell) -> str:
    """Why there is no efficiency against the bound; empty where there is one, or no bound."""
    bound = cell.bound
    if bound is None or not bound.is_above_measured:
        return ""
    return _too_long(bound.limit, bound.bound_us / bound.batch_us)


def clocks_text(clocks: Clocks) -> str:
    """Whether the host's timer, CUDA events and the trace agree."""
    differ = [_host_differs(clocks.host_over_trace)] if clocks.host_differs and clocks.host_over_trace else []
    if clocks.events_differ and clocks.events_over_trace:
        differ.append(_events_differ(clocks.events_over_trace))
    if differ:
        return "; ".join(differ)
    if not clocks.events_over_trace:
        return "host's timer and trace agree"
    if not clocks.events_comparable:
        return "host's timer and trace agree; events not judged, because the profiler changed the pace"
    return "all agree"


def hidden_copies_text(entry: HiddenCopies) -> str:
    if not entry.computes:
        return "no compute that could hide the copy"
    parts = [f"the CPU sets the pace at {_batches(entry.cpu_paced)}"] if entry.cpu_paced else []
    if entry.batch_size is not None:
        parts.append(f"the copy stops being hidden at about batch {fixed(entry.batch_size, 0)}")
    elif entry.exposed:
        parts.append(f"the copy is exposed already at batch {entry.exposed[0]}")
    elif entry.hidden:
        parts.append(f"the copy is hidden at {_batches(entry.hidden)}")
    return "; ".join(parts)


def _host_differs(ratio: float) -> str:
    return f"the traced pass is {_differs(ratio)} by the host's timer than in its trace"


def _events_differ(ratio: float) -> str:
    return f"the median latency is {_differs(ratio)} by the events of the timed runs than in the trace"


def _differs(ratio: float) -> str:
    return f"{percent(abs(ratio - 1))} {'longer' if ratio > 1 else 'shorter'}"


def _too_long(term: Term | None, ratio: float) -> str:
    return (
        f"in isolation, {TERMS[term] if term else 'a stage'} took {fixed(ratio)} times as long as a batch of the whole "
        "pipeline: something slowed it down while it was measured"
    )


def _batches(sizes: Sequence[int]) -> str:
    return f"batch {sizes[0]}" if len(sizes) == 1 else f"batches {', '.join(map(str, sizes))}"


_CEILINGS = {
    CeilingSource.NVBANDWIDTH: "nvbandwidth's definition",
    CeilingSource.MICROBENCHMARK: "the best copy of the microbenchmarks",
    CeilingSource.ISOLATED_BATCH: "the best copy of a batch in isolation",
}


def ceilings_text(sources: Iterable[CeilingSource]) -> str:
    """What 100 % of a link is."""
    return " and ".join(dict.fromkeys(map(_CEILINGS.__getitem__, sources)))
