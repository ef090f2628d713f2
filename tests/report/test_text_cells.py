import pytest

from bench.records.base import convert
from bench.records.results import CeilingSource, CellRemark, Clocks, HiddenCopies
from bench.report.text.cells import (
    advice_text,
    bound_reason,
    ceilings_text,
    clocks_text,
    hidden_copies_text,
    outcome_text,
    reason_text,
    remark_text,
    remarks,
)
from tests.report import made


def run(repeat, status):
    return {"run": f"c_{repeat}", "repeat": repeat, "status": status, "reason": "", "block": 1, "position": 1,
            "attempts": 1, "wall_s": 1.0, "throughput_samples_s": 1.0, "placement": None, "disturbed": False,
            "started_at": None}  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "state", "runs", "text"),
    [
        ("ok", "done", [(1, "ok")], "ok"),
        ("oom", "failed", [(1, "ok"), (2, "oom")], "oom"),
        ("bind_failed", "failed", [], "bind failed"),
        ("missing", "not_started", [], "missing"),
        ("missing", "started", [(1, "ok")], "1 run so far"),
        ("missing", "started", [(1, "ok"), (2, "ok"), ("traced", "ok")], "2 runs so far"),
        ("missing", "not_traced", [(1, "ok")], "not traced"),
        ("missing", "trace_not_read", [(1, "ok"), ("traced", "ok")], "trace not read"),
    ],
)
def test_a_missing_cell_states_how_far_it_has_come(outcome, state, runs, text):
    found = made.cell(outcome=outcome, state=state, runs=[run(*one) for one in runs])
    assert outcome_text(found) == text


@pytest.mark.parametrize(
    ("state", "reason", "texts"),
    [
        ("failed", "killed", ("killed", "")),
        ("not_started", "", ("not measured yet", "start the study again")),
        ("started", "", ("not measured yet", "start the study again")),
        ("not_traced", "", ("the traced run is to come", "start the study again")),
        ("trace_not_read", "", ("the trace has not been read yet", "start the study again")),
        ("done", "", ("", "")),
    ],
)
def test_a_missing_cell_states_what_is_to_come(state, reason, texts):
    found = made.cell(state=state, reason=reason)
    assert (reason_text(found), advice_text(found)) == texts


@pytest.mark.parametrize(
    ("remark", "text"),
    [
        ({"kind": "profiler_changed_rate", "ratio": 0.54}, "the traced run reached 54 % of the timed throughput"),
        ({"kind": "host_clock_differs", "ratio": 1.03}, "3.0 % longer by the host's timer"),
        ({"kind": "event_clock_differs", "ratio": 0.9}, "10 % shorter by the events of the timed runs"),
        ({"kind": "bound_above_measured", "ratio": 1.4, "term": "compute"},
         "no efficiency against the bound: in isolation, compute took 1.40 times as long"),
        ({"kind": "warmup_not_settled", "ratio": 0.097, "count": 3, "total": 4},
         "the warm-up of 3 of 4 timed runs had not settled at its limit: its last windows differed by up to 9.7 %"),
        ({"kind": "disturbed_excluded", "count": 1, "total": 6}, "1 of 6 timed runs were disturbed and are excluded"),
        ({"kind": "second_attempt", "count": 2, "total": 6, "other": "the command ended with exit code 1"},
         "2 of 6 timed runs needed a second attempt; the first failed: the command ended with exit code 1"),
        ({"kind": "of_output", "count": 2, "total": 6, "other": "x was waived"}, "in 2 of 6 runs: x was waived"),
        ({"kind": "from_storage", "count": 1, "total": 6, "bytes": 3 << 30},
         "1 of 6 runs read from the storage, up to 3.00 GiB: its speed is in their numbers"),
        ({"kind": "page_cache", "count": 2, "bytes": 4 << 30, "ratio": 0.75, "bytes_by_node": {"0": 3 << 30}},
         "75 % of 2 large files that it read (4.00 GiB) was in the page cache after the last run: 3.00 GiB on node 0"),
    ],
)  # fmt: skip
def test_each_remark_has_its_sentence(remark, text):
    assert text in remark_text(convert(remark, CellRemark))


def test_remarks_on_the_trace_come_first():
    traced = made.metrics(remarks=[{"kind": "several_devices", "count": 2, "total": 2}])
    found = made.cell(metrics=traced, remarks=[{"kind": "disturbed_excluded", "count": 1, "total": 6}])
    assert [text[:6] for text in remarks(found)] == ["2 GPUs", "1 of 6"]


def test_a_bound_above_the_measured_time_has_its_reason():
    bound = {"bound_us": 140.0, "terms_us": {"compute": 140.0}, "limit": "compute", "batch_us": 100.0}
    assert "compute took 1.40 times" in bound_reason(made.cell(bound=bound | {"efficiency": None}))
    assert bound_reason(made.cell(bound=bound | {"efficiency": 0.9})) == bound_reason(made.cell()) == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "all agree"),
        ({"events_over_trace": None}, "host's timer and trace agree"),
        ({"events_comparable": False}, "events not judged, because the profiler changed the pace"),
        ({"host_over_trace": 0.97, "host_differs": True}, "3.0 % shorter by the host's timer"),
        ({"events_over_trace": 1.1, "events_differ": True}, "10 % longer by the events"),
    ],
)
def test_clocks_agree_or_differ_by_an_amount(changes, text):
    quiet = {"host_over_trace": 1.0, "events_over_trace": 1.0, "events_comparable": True, "host_differs": False,
             "events_differ": False}  # fmt: skip
    assert text in clocks_text(convert(quiet | changes, Clocks))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"computes": False}, "no compute that could hide the copy"),
        ({"hidden": [1, 2]}, "the copy is hidden at batches 1, 2"),
        ({"hidden": [1], "exposed": [4], "batch_size": 2.6}, "the copy stops being hidden at about batch 3"),
        ({"exposed": [1, 4]}, "the copy is exposed already at batch 1"),
        ({"cpu_paced": [1], "hidden": [4]}, "the CPU sets the pace at batch 1; the copy is hidden at batch 4"),
    ],
)
def test_states_where_the_copy_stops_being_hidden(changes, text):
    empty = {"cells": [], "computes": True, "batch_size": None, "hidden": [], "exposed": [], "cpu_paced": []}
    assert hidden_copies_text(convert(empty | changes, HiddenCopies)) == text


def test_ceilings_name_each_source_once():
    sources = [CeilingSource.NVBANDWIDTH, CeilingSource.NVBANDWIDTH, CeilingSource.ISOLATED_BATCH]
    assert ceilings_text(sources) == "nvbandwidth's definition and the best copy of a batch in isolation"
