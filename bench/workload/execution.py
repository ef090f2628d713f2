"""Eager, compiled or CUDA graph."""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch

from bench.workload.cell import GRAPHED_COMPILE_MODES, Cell
from bench.workload.devices import Device
from bench.workload.failures import CRASHED, RunFailure, first_line, is_out_of_memory
from bench.workload.host_memory import fill_ring
from bench.workload.models import TORCH_DTYPES
from bench.workload.pipeline import Forward

# --- compilation
# torch.compile: compiled in the mode that was asked for, or a failure with a name; never another mode silently.

# Modes that record CUDA graphs need a first call, a recording and a first replay.
SETTLING_CALLS = 4
NOTHING = "this model computes nothing: there is nothing to compile, and the run is that of compile_model off"

Call = Callable[[torch.Tensor], torch.Tensor]


def compiled(cell: Cell, device: Device, call: Call, slots: list[torch.Tensor]) -> Call:
    """`call`, compiled in the cell's mode and called until it is ready. Raise RunFailure (crashed) if it fails."""
    import torch._dynamo

    torch._dynamo.reset()
    # An error must not be answered by running eagerly, whatever the environment says.
    torch._dynamo.config.suppress_errors = False
    captured, skipped = _captured_of_compilation(), _counter("inductor", "cudagraph_skips")
    try:
        # fullgraph: a graph break would leave part of the model eager without saying so.
        result = torch.compile(call, mode=cell.compile_model, fullgraph=True, dynamic=False)
        for _ in range(SETTLING_CALLS):
            for slot in slots:
                result(slot)
        device.synchronize()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = f"torch.compile in mode {cell.compile_model} failed: {type(error).__name__}: {first_line(error)}"
        raise RunFailure(CRASHED, text, compile_advice(error)) from error
    if _captured_of_compilation() == captured:
        raise RunFailure(
            CRASHED,
            f"torch.compile in mode {cell.compile_model} compiled nothing: the model would run eagerly",
            "unset TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE",
        )
    graphed = cell.compile_model in GRAPHED_COMPILE_MODES and cell.device == "cuda"
    if graphed and _counter("inductor", "cudagraph_skips") > skipped:
        raise RunFailure(
            CRASHED,
            f"torch.compile in mode {cell.compile_model} recorded no CUDA graph of this model",
            "set compile_model to default; the run's .stderr log has torch's reason (TORCH_LOGS=perf_hints)",
        )
    return result


def compilations() -> int:
    """Graphs captured to be compiled, and CUDA graphs recorded by compiled code, in this process so far.

    Of the recordings torch counts the inputs that change: one of this project's models has one.
    """
    return _captured_of_compilation() + _counter("inductor", "cudagraph_recorded_non_static_inputs")


def refuse_compilations(count: int) -> None:
    """Raise RunFailure (crashed) if code was compiled inside the windows."""
    if count:
        raise RunFailure(
            CRASHED,
            f"{count} compilations or recordings of CUDA graphs inside the windows: the warm-up was too short for them",
            "raise warmup_samples, or set compile_model to off",
        )


def compile_facts(cell: Cell, compile_s: float) -> dict[str, Any] | None:
    """For the result: mode, seconds (none of them in a window), and what it means without compute. None: not asked."""
    if cell.compile_model == "off":
        return None
    computes = cell.model.computes
    return {
        "mode": cell.compile_model,
        "compile_s": compile_s if computes else None,
        "reason": "" if computes else NOTHING,
    }


def compile_advice(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "cxxcompiler" in text or "c++ compiler" in text:
        return "install a C++ compiler (apt-get install g++), or set compile_model to off"
    if "c compiler" in text:
        return "install a C compiler (apt-get install gcc), or set compile_model to off"
    if importlib.util.find_spec("triton") is None and "triton" in text:
        return "install triton, or set compile_model to off"
    return "set compile_model to off, or to another mode; the run's .stderr log has the whole error"


def _captured_of_compilation() -> int:
    return _counter("stats", "unique_graphs")


def _counter(group: str, name: str) -> int:
    # Not imported for this: an eager run pays no second for it.
    utils = sys.modules.get("torch._dynamo.utils")
    return int(utils.counters[group][name]) if utils else 0


# --- execution
# How the forward pass is executed: eager, compiled, or as one CUDA graph per slot.

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
