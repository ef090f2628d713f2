"""Programs on a GPU with slower copies: their untraced loss against what `numastudy whatif` says of the base trace.

    python -m tests.validation.whatif_captures capture OUT    one GPU, nsys: about 5 minutes; again, it resumes
    python -m tests.validation.whatif_captures compare OUT    no GPU: the table and how many ranges hold

Copies are slowed by short rows (cudaMemcpy2DAsync, the same bytes). Their factor is timed untraced by events around
each copy, in windows of its own; losses come from windows without these events, by turns in one process.
"""

import ctypes
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from bench.trace.export import open_export
from bench.whatif import answer
from bench.whatif.answer import Interval, whatif
from bench.whatif.program import Program, Work
from bench.whatif.read import read_program
from bench.workload.turns import midmean, yuen_error

# Row widths in bytes; None: one piece. On an H100, 128 and 64 made a lone copy 1.11 and 1.28 times as long.
CONDITIONS = {"base": None, "rows_192": 192, "rows_128": 128, "rows_96": 96, "rows_64": 64}
BATCHES, ROUNDS, WINDOW_S = 60, 20, 0.1
KNOWN, TOLERANCE = 0.02, 0.01
MIB = 1 << 20


class Copier:
    """Copies n bytes from pinned memory in rows of `width`, which lie 64 bytes apart."""

    width: int | None = None
    timed: list[tuple[Any, Any]] | None = None

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        torch.zeros(1, device="cuda")
        libraries = re.findall(r"\S+libcudart\S*", Path("/proc/self/maps").read_text())
        self.copy2d = ctypes.CDLL(libraries[0] if libraries else "libcudart.so").cudaMemcpy2DAsync
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.copy2d.argtypes = [pointer, size, pointer, size, size, size, ctypes.c_int, pointer]

    def host(self, size: int) -> Any:
        return self.torch.zeros(2 * size + 4096, dtype=self.torch.uint8, pin_memory=True)

    def up(self, target: Any, source: Any, size: int, stream: Any) -> None:
        width = self.width or size
        pitch = width + (64 if self.width else 0)
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.timed is not None else []
        if events:
            events[0].record(stream)
        code = self.copy2d(
            target.data_ptr(), width, source.data_ptr(), pitch, width, size // width, 1, stream.cuda_stream
        )
        if code:
            raise RuntimeError(f"cudaMemcpy2DAsync: error {code}")
        if events and self.timed is not None:
            events[1].record(stream)
            self.timed.append((events[0], events[1]))


Batch = Callable[[], None]


def ring(torch: Any, copier: Copier, size: int, compute: Callable[[Any], Any]) -> Batch:
    """H2D, kernels, D2H on three streams with two buffers; compute: from the copied bytes to what is copied back."""
    streams = [torch.cuda.Stream() for _ in range(3)]
    hosts = [copier.host(size) for _ in range(2)]
    devices = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2)]
    events = [[torch.cuda.Event() for _ in range(2)] for _ in range(3)]
    backs: list[Any] = [None, None]
    turn = 0

    def batch() -> None:
        nonlocal turn
        slot, reused = turn % 2, turn >= 2
        turn += 1
        if reused:
            streams[0].wait_event(events[1][slot])
        copier.up(devices[slot], hosts[slot], size, streams[0])
        events[0][slot].record(streams[0])
        streams[1].wait_event(events[0][slot])
        if reused:
            streams[1].wait_event(events[2][slot])
        with torch.cuda.stream(streams[1]):
            out = compute(devices[slot])
        events[1][slot].record(streams[1])
        streams[2].wait_event(events[1][slot])
        with torch.cuda.stream(streams[2]):
            if backs[slot] is None:
                backs[slot] = torch.empty_like(out, device="cpu", pin_memory=True)
            backs[slot].copy_(out, non_blocking=True)
        events[2][slot].record(streams[2])

    return batch


def serial(torch: Any, copier: Copier, size: int, compute: Callable[[Any], Any]) -> Batch:
    stream, host = torch.cuda.Stream(), copier.host(size)
    device = torch.empty(size, dtype=torch.uint8, device="cuda")

    def batch() -> None:
        copier.up(device, host, size, stream)
        with torch.cuda.stream(stream):
            compute(device).to("cpu", non_blocking=True)
        stream.synchronize()

    return batch


def offload(torch: Any, copier: Copier, layers: int, width: int, rows: int) -> Batch:
    """A stack of linear layers whose weights stay in host memory: the next layer's are copied while one computes."""
    size = 2 * width * width
    copying, computing = torch.cuda.Stream(), torch.cuda.Stream()
    hosts = [copier.host(size) for _ in range(layers)]
    slots = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2)]
    copied, used = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
    inputs = torch.randn(rows, width, device="cuda", dtype=torch.float16)

    def batch() -> None:
        value = inputs
        for layer in range(layers):
            slot = layer % 2
            copying.wait_event(used[slot])
            copier.up(slots[slot], hosts[layer], size, copying)
            copied[slot].record(copying)
            computing.wait_event(copied[slot])
            with torch.cuda.stream(computing):
                value = torch.relu(value @ slots[slot].view(torch.float16).view(width, width))
            used[slot].record(computing)
        used[(layers - 1) % 2].synchronize()

    return batch


def programs(torch: Any, copier: Copier) -> dict[str, Callable[[], Batch]]:
    import timm

    def products(count: int, size: int) -> Callable[[Any], Any]:
        matrix = torch.randn(size, size, device="cuda", dtype=torch.float16)

        def compute(_: Any) -> Any:
            value = matrix
            for _ in range(count):
                value = matrix @ value
            return value[:64]

        return compute

    def model(name: str, images: int, compiled: bool = False) -> tuple[int, Callable[[Any], Any]]:
        network = timm.create_model(name, pretrained=False).cuda().half().eval()
        if compiled:
            network = torch.compile(network, mode="reduce-overhead")

        def compute(data: Any) -> Any:
            with torch.no_grad():
                return network(data.view(torch.float16).view(images, 3, 224, 224)).clone()

        return images * 3 * 224 * 224 * 2, compute

    return {
        "ring, compute-bound": lambda: ring(torch, copier, 6 * MIB, products(8, 2048)),
        "ring, copy-bound": lambda: ring(torch, copier, 24 * MIB, products(4, 2048)),
        "ring, launch-bound": lambda: ring(torch, copier, MIB, products(60, 128)),
        "serial": lambda: serial(torch, copier, 6 * MIB, products(8, 1024)),
        "offload of weights": lambda: offload(torch, copier, 12, 2048, 512),
        "offload of weights, compute-bound": lambda: offload(torch, copier, 12, 2048, 8192),
        "timm resnet18": lambda: ring(torch, copier, *model("resnet18", 32)),
        "timm vit_small": lambda: ring(torch, copier, *model("vit_small_patch16_224", 16)),
        "torch.compile, CUDA graph": lambda: serial(torch, copier, *model("resnet18", 32, compiled=True)),
    }


def work(out: Path, name: str) -> None:
    """Inside nsys: time all conditions of a program untraced, by turns, then trace the base once."""
    import torch

    copier = Copier(torch)
    batch = programs(torch, copier)[name]()

    def seconds(count: int) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(count):
            batch()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / count

    seconds(20)
    count = max(20, round(WINDOW_S / seconds(20)))
    windows: dict[str, list[float]] = {condition: [] for condition in CONDITIONS}
    copies: dict[str, list[float]] = {condition: [] for condition in CONDITIONS}
    for turn in range(ROUNDS):
        for condition in list(CONDITIONS)[:: 1 if turn % 2 else -1]:
            copier.width = CONDITIONS[condition]
            seconds(3)
            windows[condition].append(seconds(count))
            copier.timed = []
            seconds(20)
            copies[condition].append(statistics.median(one.elapsed_time(two) for one, two in copier.timed))
            copier.timed = None
    copier.width = CONDITIONS["base"]
    seconds(10)
    torch.cuda.cudart().cudaProfilerStart()
    seconds(BATCHES)
    torch.cuda.cudart().cudaProfilerStop()
    found = {"name": name, "windows": windows, "copies_ms": copies, "batches": BATCHES}
    (out / "timed.json").write_text(json.dumps({**found, "gpu": torch.cuda.get_device_name()}, indent=1))


def capture(out: Path) -> None:
    """Each program in a folder of its own; one that is whole is left alone."""
    from bench.host.fingerprint import find_nsys

    nsys = find_nsys() or sys.exit("nsys is not installed")
    names = [
        "ring, compute-bound", "ring, copy-bound", "ring, launch-bound", "serial", "offload of weights",
        "offload of weights, compute-bound", "timm resnet18", "timm vit_small", "torch.compile, CUDA graph",
    ]  # fmt: skip
    for number, name in enumerate(names):
        folder = out / f"{number}"
        export = folder / "base.sqlite"
        if (folder / "timed.json").exists() and export.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        inside = [sys.executable, "-m", "tests.validation.whatif_captures", "work", str(folder), name]
        trace = ["--trace=cuda", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true"]
        trace += [f"--output={folder}/base", "--capture-range=cudaProfilerApi", "--capture-range-end=stop"]
        subprocess.run([str(nsys), "profile", *trace, *inside], check=False, timeout=300)
        argv = [str(nsys), "export", "--type=sqlite", "--force-overwrite=true", f"--output={export}"]
        subprocess.run([*argv, f"{folder}/base.nsys-rep"], check=False, timeout=120, stdout=subprocess.DEVNULL)
        print(name, "done" if export.exists() else "NOT COMPLETE", flush=True)


# Comparison.


def compare(out: Path) -> None:
    held, known, errors = 0, 0, []
    for name, conditions, base in _captured(out):
        for condition, (windows, factors) in conditions.items():
            truth, low, high = _loss(base[1], windows)
            is_known = (high - low) / 2 <= KNOWN
            shown = []
            for untraced in (None, base[2]):
                [gpu] = _answers(base[0], factors, untraced)
                found = [one for one in gpu.copies if one.factor in factors]
                estimates = [one.estimate for one in found if one.estimate]
                if not estimates:
                    shown.append(f"refused {gpu.refusals}")
                    continue
                ends = min(one[0] for one in estimates), max(one[1] for one in estimates)
                holds = ends[0] - TOLERANCE <= truth <= ends[1] + TOLERANCE
                shown.append(f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}] {'holds' if holds else 'MISSES'}")
                if is_known and untraced is None:
                    known, held = known + 1, held + holds
                if is_known and untraced is not None:
                    errors.append(abs(sum(ends) / 2 - truth))
            print(
                f"{name}, {condition}, x {min(factors):.3f} to {max(factors):.3f}: measured {100 * truth:.1f} "
                f"[{100 * low:.1f}, {100 * high:.1f}] %{'' if is_known else ' (not well known)'}; "
                f"as traced {shown[0]}; untraced time given {shown[1]}; "
                f"at most {100 * max(one.at_most for one in found):.1f}"
            )
    print(f"of {known} conditions known to +-{100 * KNOWN:g} points the range holds in {held}")
    if errors:
        print(f"with the untraced time: off by {100 * statistics.median(errors):.1f} points in the median")


Condition = tuple[list[float], list[float]]
Base = tuple[Program, list[float], float]


def _captured(out: Path) -> list[tuple[str, dict[str, Condition], Base]]:
    """(program, {condition: (windows, factors)}, (base trace, its windows, its untraced ms)) of both sets."""
    if not (out / "timed.json").exists():
        found = []
        for folder in sorted(path for path in out.iterdir() if (path / "timed.json").exists()):
            timed = json.loads((folder / "timed.json").read_text())
            own = statistics.median(timed["copies_ms"]["base"])
            conditions = {
                name: (timed["windows"][name], [statistics.median(timed["copies_ms"][name]) / own])
                for name in timed["windows"]
                if name != "base"
            }
            windows = timed["windows"]["base"]
            untraced = statistics.median(windows) * timed["batches"] * 1e3
            found.append((timed["name"], conditions, (_read(folder / "base.sqlite"), windows, untraced)))
        return found
    # The first set: factors from the traces only, of two conditions with the same rows.
    timed = json.loads((out / "timed.json").read_text())
    traces = {
        (name, condition): out / f"t.{place}.sqlite" for place, (name, condition, _) in enumerate(timed["order"], 1)
    }
    found = []
    for name, one in timed["programs"].items():
        base = _read(traces[name, "base"])
        slow = [condition for condition in one["all"] if condition.startswith("copy")]
        factors = [_copy_ns(_read(traces[name, condition])) / _copy_ns(base) for condition in slow]
        conditions = {condition: (one["all"][condition], factors) for condition in slow}
        found.append((name, conditions, (base, one["all"]["base"], one["s"]["base"] * BATCHES * 1e3)))
    return found


def _read(path: Path) -> Program:
    packed = path.with_suffix(".sqlite.gz")
    with open_export(path if path.exists() else packed) as export:
        return read_program(export)


def _copy_ns(program: Program) -> float:
    activities = program.activities
    return float(np.median((activities.end - activities.start)[activities.kind == Work.H2D]))


def _answers(program: Program, factors: list[float], untraced_ms: float | None) -> Any:
    answer.COPY_FACTORS = (*sorted(factors), answer.DECIDING_FACTOR)
    tool = answer.ExportTool(product=None, version=None, schema=None)
    return whatif(program, "x", tool, Interval(), untraced_ms).gpus


def _loss(base: list[float], slower: list[float]) -> tuple[float, float, float]:
    """(loss, its 95 % interval) from windows by turns: the midmean of the rounds' log ratios and Yuen's error."""
    ratios = [math.log(one / other) for one, other in zip(base, slower, strict=True)]
    kept = len(ratios) - 2 * int(len(ratios) / 4)
    value, half = midmean(ratios), float(stdtrit(kept - 1, 0.975)) * yuen_error(ratios)
    return -math.expm1(value), -math.expm1(value + half), -math.expm1(value - half)


if __name__ == "__main__":
    place = Path(os.path.expandvars(sys.argv[2]))
    {"capture": capture, "compare": compare}.get(sys.argv[1], lambda folder: work(folder, sys.argv[3]))(place)
