"""The real workload with a known delay in one of its paths: a positive control.

    python tests/validation/injected_workload.py --cell CELL --result FILE --stage copy --delay-us 5

Nothing of bench/workload knows of it: the stages of the pipeline are wrapped after they were built.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bench.workload.run as workload
from bench.files import read_json, write_json
from bench.workload.phases import Phases
from bench.workload.pipeline import Pipeline
from bench.workload.progress import Progress

STAGES = ("none", "copy", "launch", "kernel")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES, default="none")
    parser.add_argument("--delay-us", type=float, default=0.0)
    parser.add_argument("--copy-us", type=float, default=0.0, help="the H2D copy of a batch alone")
    options = parser.parse_args()
    build = workload.build_pipeline

    def build_injected(*arguments: Any) -> Pipeline:
        pipeline = build(*arguments)
        inject(pipeline, options.stage, options.delay_us, options.copy_us)
        return pipeline

    workload.build_pipeline = build_injected
    phases = Phases()
    raw = read_json(options.cell)
    write_json(options.result, workload.execute(raw, "timed", Progress(None), phases))
    return 0


def inject(pipeline: Pipeline, stage: str, delay_us: float, copy_us: float = 0.0) -> None:
    """Make every batch of the pipeline spend delay_us more in one path.

    copy: a part of the batch is copied in once more; launch: the CPU spins before it issues; kernel: the
    compute stream is kept busy before the forward pass.
    """
    if stage == "copy":
        pipeline.h2d = _copy_more(pipeline, pipeline.h2d, delay_us / copy_us)
    elif stage == "launch":
        step = pipeline.step

        def slow_step(*arguments: Any) -> None:
            spin(delay_us)
            step(*arguments)

        pipeline.step = slow_step
    elif stage == "kernel":
        pipeline.compute = _compute_more(pipeline, pipeline.compute, delay_us)


def _copy_more(pipeline: Pipeline, h2d: Callable[..., None], share: float) -> Callable[..., None]:
    def copy_more(slot: int, source: torch.Tensor, start: Any) -> None:
        # First the extra part: the event that tells of the arrival is recorded after the real copy. The
        # slot is overwritten too early for the batch before last, whose content nobody looks at.
        count = max(1, round(source.numel() * share))
        _on(pipeline, pipeline.h2d_stream)
        pipeline.slots[slot].view(-1)[:count].copy_(source.view(-1)[:count], non_blocking=True)
        h2d(slot, source, start)

    return copy_more


def _compute_more(pipeline: Pipeline, compute: Callable[..., None], delay_us: float) -> Callable[..., None]:
    cuda = pipeline.device.torch_device.type == "cuda"
    cycles = int(delay_us * _cycles_per_us()) if cuda else 0

    def compute_more(slot: int) -> None:
        _on(pipeline, pipeline.compute_stream)
        if cuda:
            torch.cuda._sleep(cycles)
        else:
            spin(delay_us)
        compute(slot)

    return compute_more


def _on(pipeline: Pipeline, stream: Any) -> None:
    pipeline.device.selector(stream)()


def _cycles_per_us() -> float:
    """Of torch.cuda._sleep, at the clock of now."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        start.record()
        torch.cuda._sleep(20_000_000)
        end.record()
        torch.cuda.synchronize()
    return 20_000_000 / (1e3 * start.elapsed_time(end))


def spin(duration_us: float) -> None:
    end = time.perf_counter_ns() + 1e3 * duration_us
    while time.perf_counter_ns() < end:
        pass


if __name__ == "__main__":
    sys.exit(main())
