"""torch.compile: compiled in the mode that was asked for, or a failure with a name; never another mode silently."""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch

from bench.workload.cell import GRAPHED_COMPILE_MODES, Cell
from bench.workload.devices import Device
from bench.workload.failures import CRASHED, RunFailure, first_line, is_out_of_memory

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
    captured, skipped = _captured(), _counter("inductor", "cudagraph_skips")
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
    if _captured() == captured:
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
    return _captured() + _counter("inductor", "cudagraph_recorded_non_static_inputs")


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


def _captured() -> int:
    return _counter("stats", "unique_graphs")


def _counter(group: str, name: str) -> int:
    # Not imported for this: an eager run pays no second for it.
    utils = sys.modules.get("torch._dynamo.utils")
    return int(utils.counters[group][name]) if utils else 0
