"""The sentences of an answer."""

from bench.records.trace import ExportTool
from bench.records.whatif import Decision, GpuWhatIf, LinkUse, Path, Refusal, Slower, WhatIf
from bench.whatif.text import decision_text, gpu_text

LINK = LinkUse(
    bytes=1 << 30, copies=100, pageable=0, gb_s=50.0, busy_share=0.1, exposed_share=0.05, sizes={1 << 23: 100}
)
PATH = Path(kernels=0.9, h2d=0.1, d2h=0, api_calls=0, between_calls=0, long_calls=0, lags=0, unexplained=0)


def gpu(**more):
    slower = Slower(factor=2.0, at_least=0.0, at_most=0.34, estimate=(0.032, 0.138))
    return GpuWhatIf(
        **{
            "device": 0, "activities": 1000, "window_ms": 55.0, "compute_share": 0.9, "idle_share": 0.05,
            "late_launch_share": 0.01, "collective_share": 0, "cpu_free_ms": 54.0, "h2d": LINK, "d2h": LINK,
            "path": PATH, "copies": (slower,), "cpu": (), **more,
        }
    )  # fmt: skip


def found(*gpus, **more):
    return WhatIf(
        **{
            "trace": "x", "tool": ExportTool(product=None, version=None, schema=None), "decision": Decision.CAN_MATTER,
            "factor": 2.0, "most": 0.34, "activities": 1000, "calls": 2000, "launches": 1000, "recorded": 1000,
            "has_event_records": True, "traced_ms": 55.0, "gpus": gpus or (gpu(),), **more,
        }
    )  # fmt: skip


def test_sentence_names_bound_estimate_and_command_when_it_can_matter():
    assert decision_text(found()) == (
        "Placement of memory can slow this program by up to 34 % (estimate 3.2 to 14 %), if host copies took twice as "
        "long; to measure it: numastudy run --read wall -- COMMAND"
    )


def test_sentence_names_only_the_bound_when_it_cannot_matter():
    assert decision_text(found(decision=Decision.CANNOT_MATTER, most=0.0087)) == (
        "Placement of memory cannot slow this program by more than 0.87 %, even if host copies took twice as long."
    )
    assert "by more than 0.87 % on any of 2 GPUs, even" in decision_text(
        found(gpu(), gpu(device=1), decision=Decision.CANNOT_MATTER, most=0.0087)
    )


def test_sentence_names_what_is_missing_when_nothing_can_be_said():
    lost = gpu(refusals=(Refusal.INCOMPLETE, Refusal.UNEXPLAINED), copies=())
    unknown = found(lost, decision=Decision.UNKNOWN, most=None, recorded=900)
    assert decision_text(unknown) == (
        "This trace cannot say what placement of memory costs: the profiler lost the activities of 100 of 1,000 "
        "launches. To measure it: numastudy run --read wall -- COMMAND"
    )
    assert gpu_text(lost, unknown) == (
        "No estimate: the profiler lost the activities of 100 of 1,000 launches and too much of the critical path has "
        "no cause in the trace."
    )


def test_sentence_says_that_a_trace_is_short():
    short = found(gpu(short=True, activities=98), decision=Decision.CANNOT_MATTER, most=0.001)
    assert decision_text(short).startswith(
        "Placement of memory cannot slow this program (only 98 activities in 55.0 ms) by"
    )


def test_sentence_of_a_program_without_copies():
    none = LinkUse(bytes=0, copies=0, pageable=0, gb_s=None, busy_share=0, exposed_share=0)
    without = found(gpu(h2d=none, d2h=none), decision=Decision.CANNOT_MATTER, most=0.0)
    assert (
        decision_text(without) == "Placement of memory slows no copy of this program: it has none between host and GPU."
    )
    assert gpu_text(without.gpus[0], without) == "No copies between host and GPU."
