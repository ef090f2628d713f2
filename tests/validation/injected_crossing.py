"""A process that measures by turns, with a delay of known size for one of its cells: the one that is listed again.

The fork server of such processes is this program, in place of bench.workload.serve: bench/workload does not know of it.

* copy: every copy is followed by another one of `share` of its bytes, on the same stream.
* launch: the CPU counts for `share` of a batch's time after every batch it has issued.
* kernel: work for as long before the forward pass, on its stream.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.workload import crossing as workload
from bench.workload import serve
from bench.workload.pipeline import Side
from tests.validation.injected_workload import _cpu_work, _gpu_work, ns_per_count

STAGES = ("copy", "launch", "kernel")
SIDE = "_again"


def server(stage: str, share: float) -> list[str]:
    """The words of a command that start it, in place of `-m bench.workload.serve`."""
    root = str(Path(__file__).parents[2])
    # Its imports first: they start no threads, with which it would refuse to fork.
    code = (
        f"import sys; sys.path.insert(0, {root!r}); from bench.workload import serve; serve.import_all(); "
        f"from tests.validation.injected_crossing import main; sys.exit(main({stage!r}, {share!r}))"
    )
    return ["-c", code]


def main(stage: str, share: float) -> int:
    workload._Crossing = type("Injected", (InjectedCrossing,), {"stage": stage, "share": share})
    return serve.main(sys.argv[1:])


class InjectedCrossing(workload._Crossing):
    stage, share = "launch", 0.02
    # How often the CPU counts after a batch of the side that is measured.
    counts = range(0)

    def _count_batches(self, paces: Any) -> None:
        super()._count_batches(paces)
        # Of the last pilot round: a delay is a share of what its own side takes.
        self.paces = dict(paces)

    def _warm_up(self) -> float:
        pace_s = super()._warm_up()
        if self.stage == "launch":
            self._launch_more()
        else:
            for side in self.sides:
                if side.cell.name.endswith(SIDE) and side.part:
                    side.part = replace(side.part, stages=self._slower(side.part, self.paces[side]))
            # The last one to warm up would else keep the stages that it has.
            self.last = None
        return pace_s

    def _place(self, side: Any) -> int:
        is_delayed = side.cell.name.endswith(SIDE) and hasattr(self, "ns_per_count")
        self.counts = range(round(1e9 * self.share * self.paces[side] / self.ns_per_count) if is_delayed else 0)
        return super()._place(side)

    def _slower(self, side: Side, pace_s: float) -> tuple[Any, Any, Any]:
        pipeline, (h2d, compute, d2h) = self.pipeline, side.stages
        if self.stage == "kernel":
            return h2d, self._with_work(compute, pace_s), d2h
        if side.rings.inputs:
            host, device = self._parts(side.rings.inputs[0][0])
            h2d = self._with_copy(h2d, pipeline.h2d_stream, device, host)
        if side.rings.outputs:
            host, device = self._parts(side.rings.outputs[0][0])
            d2h = self._with_copy(d2h, pipeline.d2h_stream, host, device)
        return h2d, compute, d2h

    def _parts(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(1, round(self.share * batch.numel()))
        is_cuda = self.pipeline.device.torch_device.type == "cuda"
        host = torch.zeros(length, dtype=batch.dtype, pin_memory=is_cuda)
        return host, torch.zeros(length, dtype=batch.dtype, device=self.pipeline.device.torch_device)

    def _with_copy(self, stage: Any, stream: Any, target: torch.Tensor, source: torch.Tensor) -> Any:
        select = self.pipeline.device.selector(stream)

        def copy(*arguments: Any) -> None:
            stage(*arguments)
            select()
            target.copy_(source, non_blocking=True)

        return copy

    def _with_work(self, compute: Any, pace_s: float) -> Any:
        device = self.pipeline.device
        select, is_cuda = device.selector(self.pipeline.compute_stream), device.torch_device.type == "cuda"
        work = (_gpu_work if is_cuda else _cpu_work)(1e6 * self.share * pace_s)

        def slow(*arguments: Any) -> None:
            select()
            work()
            compute(*arguments)

        return slow

    def _launch_more(self) -> None:
        run, self.ns_per_count = self.pipeline.run, ns_per_count()

        def slow_run(count: int, beat: Any, *more: Any, **named: Any) -> None:
            # All sides have the loop, so that what it costs by itself is in no ratio.
            counts = self.counts

            def slow_beat() -> None:
                for _ in counts:
                    pass
                beat()

            run(count, slow_beat, *more, **named)

        self.pipeline.run = slow_run
