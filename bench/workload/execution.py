"""How the forward pass is executed: eager, compiled, or as one CUDA graph per slot."""

from collections.abc import Callable

import torch

from bench.workload.cell import GRAPHED_COMPILE_MODES, Cell
from bench.workload.compilation import compiled
from bench.workload.devices import Device
from bench.workload.failures import CRASHED, RunFailure, first_line, is_out_of_memory
from bench.workload.models import TORCH_DTYPES
from bench.workload.rings import fill_ring
from bench.workload.stages import Forward


def make_slots(cell: Cell, device: Device) -> list[torch.Tensor]:
    """The device's input slots. Zeroed, so that warm-up calls before the first copy see finite values; where nothing
    is copied in, each holds a batch of its own, those that would have been copied first."""
    dtype = TORCH_DTYPES[cell.dtype]
    slots = [torch.zeros(cell.batch_shape, dtype=dtype, device=device.torch_device) for _ in range(cell.buffers)]
    if not cell.copies_in:
        batches = torch.empty((cell.buffers, *cell.batch_shape), dtype=dtype)
        fill_ring(batches, cell.seed)
        for slot, batch in zip(slots, batches, strict=True):
            slot.copy_(batch)
    return slots


def make_forward(
    cell: Cell, device: Device, model: torch.nn.Module | None, slots: list[torch.Tensor]
) -> Forward | None:
    """The forward pass by slot, compiled or captured as the cell asks and called until it is ready.

    Raise RunFailure (crashed) if the asked mode fails: another mode would be another measurement.
    """
    if model is None:
        return None
    call: Callable[[torch.Tensor], torch.Tensor] = model.forward_features
    if cell.compile_model != "off":
        call = compiled(cell, device, call, slots)
    if cell.cuda_graph:
        forward = _captured(call, slots)
    elif cell.compile_model in GRAPHED_COMPILE_MODES and cell.device == "cuda":
        forward = _copied_out(cell, device, call, slots)
    else:
        forward = _eager(call, slots)
    _check_output(cell, forward(0))
    device.synchronize()
    return forward


def _eager(call: Callable[[torch.Tensor], torch.Tensor], slots: list[torch.Tensor]) -> Forward:
    def forward(slot: int) -> torch.Tensor:
        return call(slots[slot])

    return forward


def _copied_out(
    cell: Cell, device: Device, call: Callable[[torch.Tensor], torch.Tensor], slots: list[torch.Tensor]
) -> Forward:
    """For modes that record CUDA graphs themselves: their output is overwritten by the next call, while the
    copy out of the last batch may still read it. So the output is first copied to a buffer of the slot."""
    outputs = [
        torch.empty(cell.output_shape, dtype=TORCH_DTYPES[cell.dtype], device=device.torch_device) for _ in slots
    ]

    def forward(slot: int) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        output = outputs[slot]
        output.copy_(call(slots[slot]))
        return output

    return forward


def _captured(call: Callable[[torch.Tensor], torch.Tensor], slots: list[torch.Tensor]) -> Forward:
    """One CUDA graph per slot, reading the slot's input and writing an output of its own.

    The graphs share one memory pool. That is safe: they are replayed one after another on one stream, so
    they may share scratch memory, and every output stays referenced, so no later graph is given its block.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Library handles and workspaces must be there before the capture, which allows no synchronisation.
        for slot in slots:
            call(slot)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    graphs: list[torch.cuda.CUDAGraph] = []
    outputs: list[torch.Tensor] = []
    for slot in slots:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool):
                output = call(slot)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise RunFailure(
                CRASHED, f"CUDA graph capture failed: {first_line(error)}", "set cuda_graph to false"
            ) from error
        graphs.append(graph)
        outputs.append(output)
    replays = [graph.replay for graph in graphs]

    def forward(slot: int) -> torch.Tensor:
        replays[slot]()
        return outputs[slot]

    # The graphs know the weights by address only: once nobody refers to the model, its memory is given to others.
    forward.reads = call  # type: ignore[attr-defined]
    return forward


def _check_output(cell: Cell, output: torch.Tensor) -> None:
    """The copy out moves exactly the bytes the record says, in one piece."""
    expected = (tuple(cell.output_shape), TORCH_DTYPES[cell.dtype])
    found = (tuple(output.shape), output.dtype)
    if found != expected or not output.is_contiguous():
        raise RunFailure(
            CRASHED,
            f"the model returned {found}, expected {expected}, contiguous",
            "this timm is not the one that was tested: install it with constraints.txt",
        )
