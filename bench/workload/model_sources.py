"""Models from elsewhere: a timm model by its name, a factory in a Python package, an exported program (.pt2).

Each gives a callable and example inputs. What the pipeline relies on is tried with them before anything is measured:
inputs that stay as they are, outputs of their own memory, the same shapes and values for the same inputs.
"""

import difflib
import hashlib
import importlib
import inspect
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bench.records.run import Outcome, SubjectFacts
from bench.records.study import Cell
from bench.storage import why_untrusted
from bench.workload.failures import RunFailure, first_line, is_gpu_lost, is_out_of_memory
from bench.workload.host_memory import fill_ring
from bench.workload.models import TORCH_DTYPES, WEIGHT_STD, import_timm, set_attention
from bench.workload.subject import Call, Leaf, Subject, as_batch, leaves_of

# A timm module is about two kernels: itself and an activation.
KERNELS_PER_MODULE = 2
# Two calls on the same inputs may differ by this share of the largest value: kernels that add in any order.
ROUNDING = 0.05


def open_model(cell: Cell, device: torch.device) -> Subject:
    """The model that the cell names, built on `device`, and tried. Raise RunFailure, which names it."""
    torch.manual_seed(cell.seed)
    opened = {"timm": _timm, "python": _factory, "pt2": _exported}
    try:
        return opened[cell.model.kind](cell, device)
    except RunFailure:
        raise
    except Exception as error:
        if is_out_of_memory(error) or is_gpu_lost(error):
            raise
        raised = f"it raised {type(error).__name__}: {first_line(error)}"
        if isinstance(error, ImportError):
            raise _refusal(cell, raised, "install what it imports where numastudy is") from None
        traceback.print_exc()
        raise RunFailure(Outcome.CRASHED, f"{cell.model.source}: {raised}", "see the run's .stderr log") from None


# timm


def _timm(cell: Cell, device: torch.device) -> Subject:
    import_timm()
    timm = importlib.import_module("timm")
    name = cell.model.source.removeprefix("timm:")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f" (did you mean timm:{near[0]}?)" if near else ""
        raise _refusal(cell, f"timm {timm.__version__} has no such model{hint}", "name one that timm.list_models() has")
    try:
        about = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise _refusal(cell, first_line(error), "name one that timm.list_pretrained() has") from None
    channels, height, width = about.input_size
    if not cell.model.own_size:
        height = width = cell.image_size
    asked: dict[str, Any] = {"img_size": cell.image_size} if about.fixed_input_size and not cell.model.own_size else {}
    own = " x ".join(map(str, about.input_size[1:]))
    with _naming(cell, f"{height} x {width} pixels", f"its own size is {own}: leave image_size out, or set own_size"):
        # Buffers of integers and tables must be computed: a model filled after construction on meta would lack them.
        with torch.device(device):
            model = timm.create_model(name, pretrained=False, **asked)
        redrawn = redraw_zeros(model, cell.seed)
        if cell.attention == "unfused" and not any(hasattr(module, "fused_attn") for module in model.modules()):
            raise _refusal(cell, "it has no attention that could be computed unfused", "leave attention out")
        set_attention(model, fused=cell.attention == "fused")
        dtype = TORCH_DTYPES[cell.dtype]
        model = model.to(dtype).eval().requires_grad_(False)
        drawn = torch.empty((1, cell.batch_size, channels, height, width), dtype=dtype)
        fill_ring(drawn, cell.seed)
        subject = try_out(cell, device, model, (drawn[0],), redrawn)
    kernels = KERNELS_PER_MODULE * sum(1 for module in model.modules() if not any(module.children()))
    return Subject(subject.call, subject.inputs, subject.outputs, None, kernels, subject.facts)


@torch.no_grad()
def redraw_zeros(model: torch.nn.Module, seed: int) -> int:
    """Draw weights that are all zero, biases aside; return how many.

    Some heads start at zero: their output would be 0 whether it was computed or not.
    """
    generator, redrawn = torch.Generator().manual_seed(seed), 0
    for name, weight in model.named_parameters():
        if not name.endswith("bias") and not weight.any():
            weight.copy_(torch.randn(weight.shape, generator=generator) * WEIGHT_STD)
            redrawn += 1
    return redrawn


@contextmanager
def _naming(cell: Cell, what: str, advice: str) -> Iterator[None]:
    """A model that does not run with this input is not_runnable, with the reason that timm or torch gives."""
    try:
        yield
    except RunFailure:
        raise
    except Exception as error:
        if is_out_of_memory(error) or is_gpu_lost(error):
            raise
        raise _refusal(cell, f"it does not run with {what}: {first_line(error)}", advice) from error


# Factories


def _factory(cell: Cell, device: torch.device) -> Subject:
    module, _, name = cell.model.source.removeprefix("python:").partition(":")
    # After everything that is installed: nothing there can take the place of a library.
    sys.path += [folder for folder in cell.model.python_path if folder not in sys.path]
    advice = "install the package where numastudy is, or set python_path: [FOLDER] in the study"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise _refusal(cell, f"there is no module {error.name}", advice) from None
        raise
    factory = getattr(found, name, None)
    if not callable(factory):
        raise _refusal(cell, f"the module has no function {name}", "name one: python:package.module:factory")
    _check_unchanged(cell, Path(inspect.getsourcefile(found) or found.__file__ or ""))
    made = factory(**_offered(cell, device, factory))
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0])):
        raise _refusal(cell, f"it returned {type(made).__name__}", "return (callable, inputs)")
    return try_out(cell, device, *made)


def _offered(cell: Cell, device: torch.device, factory: Callable[..., Any]) -> dict[str, Any]:
    """What the factory asks for by the names of its parameters. Raise RunFailure for a required one of another name."""
    values = {
        "batch_size": cell.batch_size,
        "dtype": TORCH_DTYPES[cell.dtype],
        "device": device,
        "seed": cell.seed,
    }
    parameters = inspect.signature(factory).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return values
    named = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    required = [one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_POSITIONAL]
    if unknown := [name for name in required if name not in named or name not in values]:
        advice = f"give it a default; what it can ask for is {', '.join(values)}"
        raise _refusal(cell, f"it requires {', '.join(unknown)}", advice)
    if "dtype" not in named and cell.dtype in ("bf16", "fp16"):
        raise _refusal(cell, f"it takes no dtype, and the study has {cell.dtype}", "give the factory a parameter dtype")
    return {name: value for name, value in values.items() if name in named}


# Exported programs


def _exported(cell: Cell, device: torch.device) -> Subject:
    path = Path(cell.model.source.removeprefix("pt2:"))
    if reason := why_untrusted(path):
        raise _refusal(cell, reason, "a .pt2 file is a program: let only its owner write it")
    _check_unchanged(cell, path)
    export = importlib.import_module("torch.export")
    passes = importlib.import_module("torch.export.passes")
    try:
        names = zipfile.ZipFile(path).namelist()
    except zipfile.BadZipFile:
        raise _refusal(cell, "this is not an exported program", "write it with torch.export.save") from None
    if any("/data/aotinductor/" in name for name in names):
        advice = (
            "load it in a factory with torch._inductor.aoti_load_package, and name that: python:package.module:factory"
        )
        raise _refusal(cell, "a compiled package holds no example inputs", advice)
    program = export.load(path)
    if program.example_inputs is None:
        raise _refusal(cell, "it holds no example inputs", "export it with them: torch.export.export(module, inputs)")
    arguments, named = program.example_inputs
    module = passes.move_to_device_pass(program, str(device)).module()

    def call(arguments: Any, named: Any) -> Any:
        return module(*arguments, **named)

    return try_out(cell, device, call, (tuple(arguments), dict(named)))


def _check_unchanged(cell: Cell, path: Path) -> None:
    """Raise RunFailure where the file is not the one that the study was made with."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != cell.model.sha256:
            what = f"{path} is not the file that the study was made with"
            raise _refusal(cell, what, "start the study again, which then has a run directory of its own")


# What the pipeline relies on


def try_out(cell: Cell, device: torch.device, function: Callable[..., Any], example: Any, redrawn: int = 0) -> Subject:
    """The subject of a function and its example inputs: a tuple of arguments, a dict of named ones, or one argument.

    Tensors at any depth are the leaves; everything else is a constant. Raise RunFailure (not_runnable) for what the
    pipeline cannot measure.
    """
    found, structure = pytree.tree_flatten(example)
    places = [place for place, value in enumerate(found) if isinstance(value, torch.Tensor)]
    leaves = [found[place] for place in places]
    _check_inputs(cell, leaves)
    leaves = [leaf.detach().contiguous() for leaf in leaves]
    constants = [None if isinstance(value, torch.Tensor) else value for value in found]
    by_place, by_name = isinstance(example, tuple), isinstance(example, dict)
    # To take nested values apart takes microseconds, which an eager pipeline would pay for every batch.
    is_flat = by_place and len(places) == len(found) == len(example)

    def outputs_of(batch: Any) -> Any:
        if is_flat:
            return function(*leaves_of(batch))
        values = list(constants)
        for place, leaf in zip(places, leaves_of(batch), strict=True):
            values[place] = leaf
        inputs = pytree.tree_unflatten(values, structure)
        return function(*inputs) if by_place else function(**inputs) if by_name else function(inputs)

    def run(batch: Any) -> list[torch.Tensor]:
        outputs = outputs_of(batch)
        if isinstance(outputs, torch.Tensor):
            return [outputs]
        return [output for output in pytree.tree_leaves(outputs) if isinstance(output, torch.Tensor)]

    outputs, repeatable = _tried(cell, device, run, leaves)
    strided = [number for number, output in enumerate(outputs) if not output.is_contiguous()]

    def call(batch: Any) -> Any:
        returned = run(batch)
        return as_batch([output.contiguous() for output in returned] if strided else returned)

    facts = SubjectFacts(
        inputs=[_described(leaf) for leaf in leaves],
        outputs=[_described(output) for output in outputs],
        made_contiguous=strided,
        redrawn_weights=redrawn,
        repeatable=repeatable,
    )
    kinds = ([Leaf(tuple(one.shape), one.dtype) for one in several] for several in (leaves, outputs))
    into, back = map(tuple, kinds)
    called: Call = call
    return Subject(called, into, back, leaves, None, facts)


def _check_inputs(cell: Cell, leaves: list[torch.Tensor]) -> None:
    if not leaves:
        raise _refusal(cell, "its example inputs have no tensor", "return (callable, inputs) with tensors to copy")
    for number, leaf in enumerate(leaves):
        if leaf.device.type != "cpu" or leaf.layout is not torch.strided:
            what = f"input {number} is {leaf.layout} on {leaf.device}"
            raise _refusal(cell, what, "give dense example inputs in CPU memory: they are what is copied")
        if not leaf.nbytes:
            raise _refusal(
                cell, f"input {number} is empty: there is nothing to copy", "give inputs of one byte or more"
            )
    if not any(leaf.shape[:1] == (cell.batch_size,) for leaf in leaves):
        shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves)
        what = f"no input begins with the batch size {cell.batch_size}: their shapes are {shapes}"
        raise _refusal(cell, what, "set batch_size to the samples in one call")


def _tried(
    cell: Cell, device: torch.device, run: Callable[[Any], list[torch.Tensor]], leaves: list[torch.Tensor]
) -> tuple[list[torch.Tensor], bool]:
    """The outputs of two calls on the example inputs, in CPU memory; whether both gave the same values."""
    inputs = [leaf.to(device, copy=True) for leaf in leaves]
    outputs = run(as_batch(inputs))
    if not outputs:
        raise _refusal(cell, "it returns no tensor", "return what is to be copied back")
    for number, output in enumerate(outputs):
        if output.device != inputs[0].device or output.layout is not torch.strided or not output.nbytes:
            what = f"output {number} is {output.layout} on {output.device}, {output.nbytes} bytes"
            raise _refusal(cell, what, f"return dense tensors with values on {inputs[0].device}")
        if any(output.untyped_storage().data_ptr() == one.untyped_storage().data_ptr() for one in inputs):
            what = f"output {number} shares its memory with an input, which the next copy overwrites"
            raise _refusal(cell, what, "return a tensor of its own: .clone()")
    for number, (leaf, given) in enumerate(zip(leaves, inputs, strict=True)):
        if not _same(leaf, given.cpu()):
            raise _refusal(cell, f"it changes its input {number}", "let it work on a copy: .clone()")
    first, second = [one.cpu() for one in outputs], [one.cpu() for one in run(as_batch(inputs))]
    if [(one.shape, one.dtype) for one in first] != [(one.shape, one.dtype) for one in second]:
        shapes = " and ".join(str([list(one.shape) for one in each]) for each in (first, second))
        raise _refusal(cell, f"two calls on the same inputs return shapes {shapes}", "return the same shapes each time")
    for number, output in enumerate(first):
        if output.is_floating_point() and not output.float().abs().mean().isfinite():
            what = f"output {number} is not finite in {_described(output)}"
            raise _refusal(cell, what, "its weights are random: set another dtype, or take another model")
    if away := [number for number, pair in enumerate(zip(first, second, strict=True)) if _differ(*pair)]:
        what = f"two calls on the same inputs give different values of output {away[0]}"
        raise _refusal(cell, what, "call .eval() on the model: dropout, or other random numbers, cannot be checked")
    return first, all(map(_same, first, second))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal values; NaN is the same as NaN."""
    if torch.equal(one, other):
        return True
    has_nan = one.is_floating_point() or one.is_complex()
    return has_nan and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    """By more than rounding."""
    if _same(one, other):
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return True
    largest = float(one.abs().max())
    return not float((one - other).abs().max()) <= ROUNDING * largest


def _described(leaf: torch.Tensor) -> str:
    return f"{str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}"


def _refusal(cell: Cell, what: str, advice: str) -> RunFailure:
    return RunFailure(Outcome.NOT_RUNNABLE, f"{cell.model.source}: {what}", advice)
