import mmap
from contextlib import nullcontext

import pytest
import torch

from bench.records.base import plain
from bench.workload import measure
from bench.workload.devices import CpuDevice
from bench.workload.failures import RunFailure
from bench.workload.measure import (
    LatencyMarks,
    WarmupRule,
    Window,
    first_batch_again,
    measure_windows,
    trace_pass,
    warm_up,
)
from bench.workload.progress import LAYOUT, Phase, PhaseTimes, Progress
from bench.workload.run import build_pipeline

from .cells import NO_COMPUTE, small_cell
from .test_ranges import Written


@pytest.fixture
def pipeline():
    with torch.inference_mode():
        yield build_pipeline(small_cell(model=NO_COMPUTE), CpuDevice(), PhaseTimes())


def test_warm_up_runs_its_samples_and_reports_settling(pipeline):
    rule = WarmupRule(window_s=0.002, min_batches=500, min_s=0.01)
    warmup = warm_up(pipeline, rule, Progress())
    facts = warmup.record
    assert facts.batches == pipeline.next_batch >= 500
    assert facts.settled is rule.settled(warmup.windows)
    assert facts.duration_s >= 0.01
    assert warmup.batch_s > 0


def test_warm_up_of_a_traced_run_has_its_prefix(pipeline):
    written = Written()
    warm_up(pipeline, WarmupRule(window_s=0.001, min_batches=3, min_s=0.001), Progress(), written)
    assert written.tree[0][0] == "warmup_batch_0"
    assert all(name.startswith("warmup_batch_") for name, _ in written.tree)


def test_windows_are_of_one_size_and_long_enough(pipeline):
    seen: list[int] = []
    marks = LatencyMarks(CpuDevice(), max_marked=4)
    measured = measure_windows(pipeline, 9, 10, 0.003, Progress(), marks, see_cpu=lambda: seen.append(1))
    assert len(measured.windows) == 9
    assert len({window.batches for window in measured.windows}) == 1
    assert min(window.duration_s for window in measured.windows) >= 0.003
    starts = [window.start_ns for window in measured.windows]
    assert starts == sorted(starts)
    assert len(seen) >= sum(window.batches for window in measured.windows)
    per_window = sum(start is not None for start in marks.events(measured.windows[0].batches)[0])
    assert len(measured.latencies_us) == 9 * per_window
    assert min(measured.latencies_us) > 0


def test_window_counts_its_minor_faults(pipeline):
    pages = 512
    fresh = mmap.mmap(-1, pages * mmap.PAGESIZE)
    fresh.madvise(mmap.MADV_NOHUGEPAGE)

    def touch() -> None:
        for page in range(pages):
            fresh[page * mmap.PAGESIZE] = 1

    first, again = (measure.run_window(pipeline, 1, touch) for _ in range(2))
    assert first.minor_faults >= pages > again.minor_faults
    assert plain(first)["minor_faults"] == first.minor_faults


def test_all_windows_are_measured_again_if_one_is_short(pipeline, monkeypatch):
    """The first two windows are said to have taken long, the third not: none of the three is kept."""
    asked: list[int] = []

    def run_window(pipeline, count, beat, marks=None):
        asked.append(count)
        return Window(batches=count, duration_s=0.05 if len(asked) == 3 else count * 0.011)

    monkeypatch.setattr(measure, "run_window", run_window)
    measured = measure_windows(pipeline, 3, 13, 0.1, Progress(), LatencyMarks(CpuDevice()))
    assert asked == [13] * 3 + [33] * 3
    assert [window.batches for window in measured.windows] == [33] * 3


def test_traced_pass_is_inside_the_window_range(pipeline):
    written = Written()
    window = trace_pass(pipeline, 3, written, nullcontext(), Progress())
    assert window.batches == 3
    [(name, batches)] = written.tree
    assert name == "test_double_buffer"
    assert [name for name, _ in batches] == [f"test_batch_{index}" for index in range(3)]


def test_counter_ends_as_done(pipeline, tmp_path):
    path = tmp_path / "progress"
    path.write_bytes(bytes(LAYOUT.size))
    trace_pass(pipeline, 3, Written(), nullcontext(), Progress(path))
    assert path.read_bytes()[12] == Phase.DONE


def test_checksum_does_not_depend_on_what_ran_before(pipeline):
    first = first_batch_again(pipeline)
    warm_up(pipeline, WarmupRule(window_s=0.001, min_batches=7, min_s=0.001), Progress())
    assert first_batch_again(pipeline) == first
    assert first == pytest.approx(float(pipeline.rings.inputs[0][0].abs().mean()))


def test_lost_batch_is_a_named_failure(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "d2h", lambda slot, target, end: None)
    with pytest.raises(RunFailure, match="the output of the first batch is nan"):
        first_batch_again(pipeline)
