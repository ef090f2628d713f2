"""How the forward pass is executed: eager, compiled, or as one CUDA graph for each slot."""

import importlib.util
import sys

import torch

from bench.records.run import Compilation, Outcome
from bench.records.study import Cell, CompileMode
from bench.workload.devices import Device
from bench.workload.failures import RunFailure, first_line, is_out_of_memory
from bench.workload.host_memory import fill_ring
from bench.workload.pipeline import Forward
from bench.workload.subject import Batch, Call, Subject, as_batch, leaves_of

# These modes of torch.compile record CUDA graphs themselves.
GRAPHED_COMPILE_MODES: tuple[CompileMode, ...] = ("reduce-overhead", "max-autotune")
# Modes that record CUDA graphs need a first call, a recording and a first replay.
SETTLING_CALLS = 4
MOST_GRAPHS = 64


# torch.compile: compiled in the requested mode, or a named failure; never silently in another mode.


def compiled(cell: Cell, device: Device, call: Call, slots: list[Batch]) -> Call:
    """`call`, compiled in the cell's mode and called until it is warm. Raise RunFailure (crashed) if that fails."""
    import torch._dynamo

    # The sides of a crossing are graphs of one model: a graph for each type and batch size. Under this name since
    # before torch 2.6, which has another one for it too.
    torch._dynamo.config.cache_size_limit = MOST_GRAPHS
    # An error must not fall back to running eagerly, whatever the environment asks for.
    torch._dynamo.config.suppress_errors = False
    captured, skipped = _captured_graphs(), _counter("inductor", "cudagraph_skips")
    try:
        # fullgraph: a graph break would silently leave part of the model eager.
        result = torch.compile(call, mode=cell.compile_model, fullgraph=True, dynamic=False)
        for _ in range(SETTLING_CALLS):
            for slot in slots:
                result(slot)
        device.synchronize()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = f"torch.compile in mode {cell.compile_model} failed: {type(error).__name__}: {first_line(error)}"
        raise RunFailure(Outcome.CRASHED, text, compile_advice(error)) from error
    if _captured_graphs() == captured:
        raise RunFailure(
            Outcome.CRASHED,
            f"torch.compile in mode {cell.compile_model} compiled nothing: the model would run eagerly",
            "unset TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE",
        )
    graphed = cell.compile_model in GRAPHED_COMPILE_MODES and cell.device == "cuda"
    if graphed and _counter("inductor", "cudagraph_skips") > skipped:
        raise RunFailure(
            Outcome.CRASHED,
            f"torch.compile in mode {cell.compile_model} recorded no CUDA graph of this model",
            "set compile_model to default; the run's .stderr log has torch's reason (TORCH_LOGS=perf_hints)",
        )
    return result


def compilations() -> int:
    """Graphs captured to be compiled, and CUDA graphs recorded by compiled code, in this process so far.

    Of the recordings torch counts the inputs that change: one of this project's models has one.
    """
    return _captured_graphs() + _counter("inductor", "cudagraph_recorded_non_static_inputs")


def refuse_compilations(count: int) -> None:
    """Raise RunFailure (crashed) if code was compiled inside the windows."""
    if count:
        raise RunFailure(
            Outcome.CRASHED,
            f"{count} compilations or recordings of CUDA graphs inside the windows: the warm-up was too short for them",
            "raise warmup_samples, or set compile_model to off",
        )


def compilation(cell: Cell, compile_s: float) -> Compilation | None:
    """For the result; None if the cell does not ask for it."""
    if cell.compile_model == "off":
        return None
    return Compilation(mode=cell.compile_model, compile_s=compile_s if cell.model.computes else None)


def compile_advice(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "cxxcompiler" in text or "c++ compiler" in text:
        return "install a C++ compiler (apt-get install g++), or set compile_model to off"
    if "c compiler" in text:
        return "install a C compiler (apt-get install gcc), or set compile_model to off"
    if importlib.util.find_spec("triton") is None and "triton" in text:
        return "install triton, or set compile_model to off"
    return "set compile_model to off, or to another mode; the run's .stderr log has the whole error"


def _captured_graphs() -> int:
    return _counter("stats", "unique_graphs")


def _counter(group: str, name: str) -> int:
    # Not imported for this, which would take an eager run a second.
    utils = sys.modules.get("torch._dynamo.utils")
    return int(utils.counters[group][name]) if utils else 0


# Slots and forward passes.


def make_slots(cell: Cell, device: Device, subject: Subject) -> list[Batch]:
    """The device's input slots, each a batch.

    Zeroed or with the example, so that calls before the first copy read finite values, and values that the model
    allows; where nothing is copied in, they hold the batches that would have been copied first.
    """
    on = device.torch_device
    if subject.example is not None:
        return [as_batch([leaf.to(on, copy=True) for leaf in subject.example]) for _ in range(cell.buffers)]
    leaf = subject.inputs[0]
    slots = [torch.zeros(leaf.shape, dtype=leaf.dtype, device=on) for _ in range(cell.buffers)]
    if not cell.copies_in:
        batches = torch.empty((cell.buffers, *leaf.shape), dtype=leaf.dtype)
        fill_ring(batches, cell.seed)
        for slot, batch in zip(slots, batches, strict=True):
            slot.copy_(batch)
    return [*slots]


def make_call(cell: Cell, device: Device, subject: Subject, slots: list[Batch]) -> Call | None:
    """The subject's call, compiled as the cell asks for; None if it computes nothing.

    Raise RunFailure (crashed) if that fails: another mode would be another measurement.
    """
    if subject.call is None or cell.compile_model == "off":
        return subject.call
    return compiled(cell, device, subject.call, slots)


def make_forward(cell: Cell, device: Device, subject: Subject, slots: list[Batch], call: Call | None) -> Forward | None:
    """The forward pass by slot, captured as the cell asks for, and called until it is warm; None without a call.

    call: as made by make_call(). Raise RunFailure (crashed) if that fails.
    """
    if call is None:
        return None
    if cell.cuda_graph:
        forward = _captured(call, slots)
    elif cell.compile_model in GRAPHED_COMPILE_MODES and cell.device == "cuda":
        forward = _copied_out(device, subject, call, slots)
    else:
        forward = _eager(call, slots)
    _check_output(cell, subject, forward(0))
    device.synchronize()
    return forward


def _eager(call: Call, slots: list[Batch]) -> Forward:
    def forward(slot: int) -> Batch:
        return call(slots[slot])

    return forward


def _copied_out(device: Device, subject: Subject, call: Call, slots: list[Batch]) -> Forward:
    """For modes that record CUDA graphs themselves: their output is overwritten by the next call, while the
    copy out of the last batch may still read it. So the output is first copied to a buffer of the slot."""
    outputs = [
        as_batch([torch.empty(leaf.shape, dtype=leaf.dtype, device=device.torch_device) for leaf in subject.outputs])
        for _ in slots
    ]

    def forward(slot: int) -> Batch:
        torch.compiler.cudagraph_mark_step_begin()
        output = outputs[slot]
        for kept, returned in zip(leaves_of(output), leaves_of(call(slots[slot])), strict=True):
            kept.copy_(returned)
        return output

    return forward


def _captured(call: Call, slots: list[Batch]) -> Forward:
    """One CUDA graph per slot, reading the slot's input and writing an output of its own.

    The graphs share one memory pool. That is safe: they are replayed one after another on one stream, so
    they may share scratch memory, and every output stays referenced, so that no later graph gets its block.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Library handles and workspaces must exist before the capture, which allows no synchronisation.
        for slot in slots:
            call(slot)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    graphs: list[torch.cuda.CUDAGraph] = []
    outputs: list[Batch] = []
    for slot in slots:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool):
                output = call(slot)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise RunFailure(
                Outcome.CRASHED, f"CUDA graph capture failed: {first_line(error)}", "set cuda_graph to false"
            ) from error
        graphs.append(graph)
        outputs.append(output)
    replays = [graph.replay for graph in graphs]

    def forward(slot: int) -> Batch:
        replays[slot]()
        return outputs[slot]

    # The graphs hold the weights by address only: without a reference to the model its memory would be reused.
    forward.reads = call  # type: ignore[attr-defined]  # a function takes any attribute
    return forward


def _check_output(cell: Cell, subject: Subject, output: Batch) -> None:
    """The copy out must move exactly the bytes in the record, each leaf in one piece."""
    expected = [(leaf.shape, leaf.dtype) for leaf in subject.outputs]
    leaves = leaves_of(output)
    found = [(tuple(leaf.shape), leaf.dtype) for leaf in leaves]
    if found != expected or not all(leaf.is_contiguous() for leaf in leaves):
        raise RunFailure(
            Outcome.CRASHED,
            f"the model returned {found}, expected {expected}, contiguous",
            f"{cell.model.source} returned the other when it was tried"
            if cell.model.source
            else "this version of timm was not tested: install the one in constraints.txt",
        )
