"""From how a child ended to an outcome by name."""

import signal

import pytest

from bench.records.run import (
    Certificate,
    ChildReport,
    Doubt,
    DoubtKind,
    Failure,
    Outcome,
    PlacementVerdict,
    Result,
)
from bench.records.study import Cell, Model
from bench.run.child import ChildEnd, judge

CELL = Cell(
    name="pipeline_gpu0_numa3_vit32x2x128", gpu=0, gpu_uuid=None, cpu_node=3, mem_node=3, 
    model=Model(patch_size=32, depth=2, dim=128, heads=4),
    image_size=224, batch_size=10, num_samples=100, warmup_samples=10, memory_size_mb=64, buffers=2,
    compile_model="off", cuda_graph=False, dtype="fp32", device="cpu", profiler="torch", binding="numactl", seed=0,
    windows=9, window_s=0.1, timeout_s=60.0, placement_threshold=1.0,
)  # fmt: skip


def report(verdict: str | None, *doubts: str) -> ChildReport:
    reasons = [Doubt(kind=DoubtKind.PAGES, text=text) for text in doubts]
    certificate = Certificate(verdict=PlacementVerdict(verdict), reasons=reasons) if verdict else None
    return ChildReport(result=Result(throughput_samples_s=1.0, certificate=certificate))


OOM = ChildReport(failure=Failure(status=Outcome.OOM, reason="CUDA out of memory", advice="less"))


def end(exit_code: int = 0, timed_out: bool = False, oom_kills: int = 0) -> ChildEnd:
    return ChildEnd(exit_code, timed_out, 1.0, oom_kills)


@pytest.mark.parametrize(
    ("how", "written", "tail", "status", "words"),
    [
        (end(), report("proved"), [], "ok", ""),
        (end(), report(None), [], "ok", ""),
        (end(-9, timed_out=True), None, [], "timeout", "60 s"),
        (end(3), OOM, [], "oom", "CUDA out of memory"),
        (end(0), report("misplaced", "input_ring: 40 %"), [], "misplaced", "input_ring: 40 %"),
        (end(1), None, ["libnuma: Warning: node argument 3 is out of range"], "bind_failed", "node 3"),
        (end(1), None, ["sched_setaffinity: Invalid argument"], "bind_failed", "no CPUs"),
        (end(-9, oom_kills=1), None, [], "oom", "memory node 3 cannot hold"),
        (end(1, oom_kills=1), None, [], "oom", "memory node 3 cannot hold"),
        (end(-11, oom_kills=1), None, [], "crashed", "SIGSEGV"),
        (end(137), None, ["working"], "crashed", 'SIGKILL): "working"'),
        (end(-signal.SIGSEGV), None, [], "crashed", "signal 11 (SIGSEGV) without output"),
        (end(139), None, [], "crashed", "SIGSEGV"),
        (end(7), None, ["boom", ""], "crashed", 'exit code 7: "boom"'),
        (end(0), None, [], "crashed", "exit code 0"),
    ],
)  # fmt: skip
def test_each_end_has_its_outcome_and_reason(
    how: ChildEnd, written: ChildReport | None, tail: list[str], status: str, words: str
) -> None:
    failure = judge(CELL, how, written, tail)
    if status == "ok":
        assert failure is None
    else:
        assert failure.status == status
        assert words in failure.reason and failure.advice and failure.log_tail == tail
