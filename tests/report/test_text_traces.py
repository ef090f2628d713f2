"""The English of traces: remarks, completeness, and what `numastudy analyze` prints."""

from types import SimpleNamespace

import pytest

from bench.records.base import Direction
from bench.records.trace import Complete, RemarkKind, TraceRemark
from bench.report.text.traces import completeness_text, trace_remark_text, traces_text

WHOLE = Complete(launches=1360, recorded=1360, untimed=0, before_call=0, other_threads=0)
UNNAMED = Complete(launches=None, recorded=None, untimed=0, before_call=0, other_threads=0)
SHARED = Complete(launches=640, recorded=640, untimed=0, before_call=0, other_threads=660)


@pytest.mark.parametrize(
    ("kind", "direction", "text"),
    [
        (RemarkKind.PAGEABLE_COPIES, Direction.H2D,
         "1 of 4 H2D copies use pageable host memory: they are staged and block the CPU; pin the buffers"),
        (RemarkKind.DEFAULT_STREAM_COPIES, Direction.D2H,
         "1 of 4 D2H copies run on the default stream, which waits for other streams and makes them wait; "
         "copy on a separate stream"),
        (RemarkKind.UNIFIED_MEMORY_COPIES, None,
         "1 of 4 copies move unified memory on demand; they are not counted as H2D or D2H"),
        (RemarkKind.SEVERAL_DEVICES, None, "1 GPUs were used in one window"),
        (RemarkKind.OTHER_THREADS, None,
         "1 of 4 activities of the window were launched by other threads of the process and are not counted; "
         "idle time does not mean that the GPU was idle"),
    ],
)  # fmt: skip
def test_remarks_on_a_trace(kind, direction, text):
    assert trace_remark_text(TraceRemark(kind=kind, count=1, total=4, direction=direction)) == text


def test_completeness_of_a_trace():
    assert completeness_text(WHOLE) == ("1360 of 1360 launches have an activity, none without time or before its call")
    assert completeness_text(UNNAMED) == (
        "the trace names no launches; every activity has a time and starts after its call"
    )


@pytest.mark.parametrize(
    ("traces", "text"),
    [
        ([], ""),
        ([None], ""),
        ([UNNAMED], "1 trace: every activity has a time and starts after the call that launched it."),
        ([WHOLE, SHARED, None],
         "2 traces: every activity has a time and starts after the call that launched it; 2,000 of 2,000 launches "
         "have an activity; in 1 trace other threads of the process launched work that is not counted."),
    ],
)  # fmt: skip
def test_completeness_of_the_traces_of_a_study(traces, text):
    cells = [SimpleNamespace(metrics=complete and SimpleNamespace(complete=complete)) for complete in traces]
    assert traces_text(cells) == text
