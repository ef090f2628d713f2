"""What only a GPU can show of own workloads: a pipeline as a command, pinned pages, the cost of looks, the examples.

    python -m tests.validation.own_workloads_on_gpu --out FOLDER [--device cuda] [--only NAME ...]

Each part is kept in FOLDER: the same command resumes what was interrupted and repeats nothing. After each part FOLDER
has own_workloads.json and own_workloads.md, and in FOLDER/reference the small files of each run directory. With
--limit-s what would take longer is stopped, with what it has measured until then, and no part is begun after that. On
an idle host only. Eight minutes or so on one H200.

* pipeline: a cell run as a command, and the same cell by the pipeline itself, by turns; within 1 %.
* pinned: memory that another process has pinned, found by `numastudy where` to the page; below 50 ms a GiB.
* looks: a pipeline while looks at it are made as in the first seconds of a command, and while none are made, by turns.
  From that what a whole command of 30 s and of 60 s loses, whose looks follow less and less often; of 30 s below 0.5 %.
* server, kv_cache, timm: the examples as studies, the first two with two bindings.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.statistics import estimate, sample_of
from bench.command import guard
from bench.command.attempt import attempt_command
from bench.command.looks import FIRST_S, THREADS_EVERY_S, Looks
from bench.host.binding import bind_prefix
from bench.records.base import convert, plain, read
from bench.records.command import Command
from bench.records.results import NoiseClass, Results
from bench.records.run import Run, read_record
from bench.records.where import MemoryKind, Where
from bench.report.build import make_report
from bench.run.attempt import avoid_measured_cpus, execute
from bench.run.child import child_environment, python_module
from bench.run.lock import HostLock
from bench.storage import write_json, write_text
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study
from bench.units import byte_size, duration, percent, rate

ROOT = Path(__file__).parents[2]
PROGRAM = "tests.validation.pipeline_as_command"
LARGEST_DIFFERENCE, LARGEST_COST, MOST_MS_A_GIB = 0.01, 0.005, 50.0
POLL_S = 0.2
WHOLE_S = (30, 60)
# What stopping a study and writing its report take.
REPORT_S = 20.0
KEPT = ("study.yaml", "topology.json", "results.json", "report.md")
PINNED = """
import sys, torch
pool = torch.empty(int(sys.argv[1]), dtype=torch.uint8, pin_memory=True)
device = torch.zeros(1, device="cuda:0")
print("READY", flush=True)
sys.stdin.read()
"""
# Without a GPU: the kind of memory that cudaHostAlloc maps.
SHARED = """
import mmap, sys
pool = mmap.mmap(-1, int(sys.argv[1]))
for page in range(0, len(pool), mmap.PAGESIZE):
    pool[page] = 1
print("READY", flush=True)
sys.stdin.read()
"""
Figures = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--pinned-bytes", type=int, default=4 << 30)
    parser.add_argument("--epoch-s", type=float, default=4.0, help="with looks, and as long without")
    parser.add_argument("--repeats", type=int, default=2, help="of the examples")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="end by then, with what there is")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="a setting of each pipeline")
    options = parser.parse_args()
    # Ended by whoever lent the machine: what it has started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options.deadline = time.monotonic() + options.limit_s
    options.out = options.out.resolve()
    (options.out / "reference").mkdir(parents=True, exist_ok=True)
    options.settings = {key: json.loads(value) for key, _, value in (one.partition("=") for one in options.set)}
    found: dict[str, Figures] = {}
    for name in options.only:
        begin(options, name)
        found = written(options.out)
    print((options.out / "own_workloads.json").read_text(), page(found), sep="\n")
    return 0 if all(found.get(name, {}).get("holds") for name in options.only) else 1


def begin(options: argparse.Namespace, name: str) -> None:
    """One part, unless it is there or there is no time left. What it yields replaces what it yielded before."""
    file = options.out / f"{name}.json"
    if file.exists() and json.loads(file.read_text())["complete"]:
        return
    if time.monotonic() + REPORT_S >= options.deadline:
        print(f"{name}: no time left", flush=True)
        return
    print(f"{name}: begins", flush=True)
    began = time.monotonic()
    try:
        for figures in PARTS[name](options):
            took = time.monotonic() - began
            write_json(file, {"complete": True} | figures | {"took_s": round(took, 1)})
            written(options.out)
            print(f"{name}: {duration(took)}", flush=True)
    except Exception as error:
        # The parts after it need the machine no less.
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def written(out: Path) -> dict[str, Figures]:
    """All parts that there are, together in one file and one page."""
    found = {name: json.loads(file.read_text()) for name in PARTS if (file := out / f"{name}.json").exists()}
    write_json(out / "own_workloads.json", found)
    write_text(out / "own_workloads.md", page(found))
    return found


# A pipeline as a command


def pipeline(options: argparse.Namespace) -> Iterator[Figures]:
    cell = {"models": ["vit32x2x128"], "cuda_graph": options.device == "cuda", "design": "processes", "start": "exec"}
    native = directory_of(options, "native", cell | options.settings)
    cell_file = options.out / "cell.json"
    write_json(cell_file, plain(native.grid().cells[0]))
    command = {"run": [sys.executable, "-m", PROGRAM, str(cell_file)], "cwd": str(ROOT)}
    # As the pipeline's own processes have it: on the cpu device threads that spin would be twice as fast.
    command["env"] = {"OMP_WAIT_POLICY": "PASSIVE"}
    as_command = directory_of(options, "pipeline_as_command", {"command": command})
    lock = HostLock(options.out)
    pairs = []
    try:
        for repeat in range(1, options.pairs + 1):
            both = [native, as_command][:: 1 if repeat % 2 else -1]
            runs = {directory.path: measured(directory, repeat, lock) for directory in both}
            pairs.append([runs[native.path], runs[as_command.path]])
    finally:
        lock.release()
    keep(as_command)
    found = compared([(first.rate, second.rate) for first, second in pairs])
    placements = {run.certificate.verdict.value for _, run in pairs if run.certificate}
    yield found | {
        "model": "vit32x2x128",
        "cell": native.grid().cells[0].name,
        "samples_s": [[first.rate, second.rate] for first, second in pairs],
        "placements": sorted(placements),
        "holds": abs(found["difference"]) < LARGEST_DIFFERENCE,
    }


def directory_of(options: argparse.Namespace, name: str, values: dict[str, Any]) -> RunDirectory:
    common = {"name": name, "gpu_ids": [0], "numa_nodes": [0], "device": options.device, "repeats": options.pairs}
    return resolve(read_study(common | values, name), options.out / "studies", False, "gpu")


def measured(directory: RunDirectory, repeat: int, lock: HostLock) -> Run:
    """The run of its only cell, unless an earlier call has measured it. Raise RuntimeError."""
    cell = directory.grid().cells[0]
    slot = directory.grid().slot(cell.name, repeat)
    run = read_record(directory.record(cell.name, repeat), Run)
    if not (run and run.ok):
        attempt = attempt_command if cell.model.command else None
        run = execute(directory, cell, slot, "gpu", lock, lambda _: None, attempt_once=attempt)
    if not run.ok:
        raise RuntimeError(f"{directory.path}: {run.run}: {run.status}: {run.reason} {run.log_tail}")
    return run


# Memory that another process has pinned


def pinned(options: argparse.Namespace) -> Iterator[Figures]:
    size, on_gpu = options.pinned_bytes, options.device == "cuda"
    argv = [sys.executable, "-c", PINNED if on_gpu else SHARED, str(size)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        if process.stdout.readline() != "READY\n":
            raise RuntimeError("the process that pins memory has ended")
        answer = where(["--gpu", "0"] if on_gpu else [str(process.pid), "--node", "0"])
        largest = largest_mapping(process.pid)
        quick = where([str(process.pid), "--quick", *([] if on_gpu else ["--node", "0"])])
        process.stdin.close()
    (place,) = [one for gpu in answer.gpus for one in gpu.processes if one.pid == process.pid]
    found = sum(place.bytes[MemoryKind.PINNED].values())
    gib = sum(sum(nodes.values()) for nodes in place.bytes.values()) / (1 << 30)
    # The driver maps a little memory of this kind for itself.
    holds = largest == size and size <= found < size + (256 << 20) and answer.cost_ms / gib < MOST_MS_A_GIB
    yield {
        "pinned_bytes": size,
        "largest_mapping_bytes": largest,
        "found_bytes": found,
        "cost_ms": answer.cost_ms,
        "ms_a_gib": answer.cost_ms / gib,
        "quick_cost_ms": quick.cost_ms,
        "verdict": answer.gpus[0].verdict.value,
        "text": answer.gpus[0].text,
        "holds": holds,
    }


def where(arguments: Sequence[str]) -> Where:
    argv = [sys.executable, "-c", "from bench.cli import main; main()", "where", "--json", *arguments]
    ended = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    if ended.returncode not in (0, 3, 4):
        raise RuntimeError(ended.stderr)
    return convert(json.loads(ended.stdout), Where)


def largest_mapping(pid: int) -> int:
    """Bytes of the largest mapping of the kind that is pinned."""
    with open(f"/proc/{pid}/numa_maps") as lines:
        words = [line.split() for line in lines if "/dev/zero" in line]
    counts = [[word.partition("=") for word in line if word[0] == "N" and word[1].isdigit()] for line in words]
    return max(sum(int(value) for _, _, value in count) for count in counts) * os.sysconf("SC_PAGE_SIZE")


# What looks cost


def looks(options: argparse.Namespace) -> Iterator[Figures]:
    found: dict[str, Figures] = {}
    names = ("vit0x0x0", "vit32x2x128")
    for name in names:
        found[name] = looked_at(options, name)
        complete = set(found) == set(names) and all(one["pairs"] == options.pairs for one in found.values())
        holds = all(one["of_a_command"][str(WHOLE_S[0])] < LARGEST_COST for one in found.values())
        yield {"models": found, "complete": complete, "holds": holds}


def looked_at(options: argparse.Namespace, model: str) -> Figures:
    """One process, looked at and left alone by turns: the differences between processes are no part of it."""
    settings = {"models": [model], "design": "processes", "memory_size_mb": 512} | options.settings | {"window_s": 0.1}
    directory = directory_of(options, f"looks_{model}", settings)
    cell, host = directory.grid().cells[0], directory.host()
    cell_file, windows_file = options.out / f"looks_{model}_cell.json", options.out / f"looks_{model}_windows.json"
    write_json(cell_file, plain(cell))
    argv = python_module(PROGRAM, str(cell_file), "--windows", str(windows_file))
    bound = [*bind_prefix(cell.binding, cell.cpu_node, cell.mem_node), *argv]
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(options.out / "guard"), "", *bound]
    # What Looks reads of it: whether it starts its processes elsewhere, and whether it sees all GPUs.
    command = Command(run=tuple(argv))
    environment = child_environment(dict(os.environ)) | {"PYTHONPATH": with_root(os.environ.get("PYTHONPATH", ""))}
    epochs: list[tuple[int, int, bool]] = []
    at_pages_ms: list[float] = []
    at_threads_ms: list[float] = []
    verdicts = set()
    with (
        subprocess.Popen(
            guarded, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        ) as process,
        avoid_measured_cpus(host, [cell]),
    ):
        assert process.stdout and process.stdin
        if process.stdout.readline() != "READY\n":
            raise RuntimeError(f"{model}: the pipeline has ended")
        for pair in range(options.pairs):
            if pair and time.monotonic() + 2 * options.epoch_s > options.deadline:
                break
            for looking in (True, False)[:: 1 if pair % 2 else -1]:
                began = time.perf_counter_ns()
                observer = Looks(cell, command, host) if looking else None
                while time.perf_counter_ns() - began < options.epoch_s * 1e9:
                    time.sleep(POLL_S)
                    if observer:
                        before, page_looks, glances = time.perf_counter(), observer.page_looks, observer.glances
                        observer.due(process.pid)
                        took_ms = 1e3 * (time.perf_counter() - before)
                        if observer.page_looks > page_looks:
                            at_pages_ms.append(took_ms)
                        elif observer.glances > glances:
                            at_threads_ms.append(took_ms)
                epochs.append((began, time.perf_counter_ns(), looking))
                if observer:
                    verdicts.add(observer.certificate(options.epoch_s).verdict.value)
        process.stdin.close()
    rates = rates_of(json.loads(windows_file.read_text()), epochs)
    windows_file.unlink()
    both = [sorted(rates[place : place + 2]) for place in range(0, len(rates), 2)]
    found = compared([(without, with_looks) for (_, without), (_, with_looks) in both])
    looks_ms = (sum(at_pages_ms) + sum(at_threads_ms)) / len(both)
    mean_ms = [sum(ms) / len(ms) if ms else 0.0 for ms in (at_pages_ms, at_threads_ms)]
    lost_s = found["difference"] * options.epoch_s
    return found | {
        "epoch_s": options.epoch_s,
        "looks_at_pages": len(at_pages_ms),
        "looks_at_threads": len(at_threads_ms),
        "ms_a_look": dict(zip(("pages", "threads"), mean_ms, strict=True)),
        "cost_ms_an_epoch": looks_ms,
        "of_a_command": {str(whole): lost_s * scheduled_ms(whole, *mean_ms) / looks_ms / whole for whole in WHOLE_S},
        "placements": sorted(verdicts),
    }


def scheduled_ms(whole_s: float, pages_ms: float, threads_ms: float) -> float:
    """How long the looks at a command of this length take. Its loss is taken as proportional to that."""
    at_pages = 1 + int(math.log2(whole_s / FIRST_S))
    return at_pages * pages_ms + (int(whole_s / THREADS_EVERY_S) - at_pages) * threads_ms


def with_root(path: str) -> str:
    return os.pathsep.join([*filter(None, [path]), str(ROOT)])


def rates_of(windows: Sequence[dict[str, Any]], epochs: Sequence[tuple[int, int, bool]]) -> list[tuple[bool, float]]:
    """(whether looks were made, batches a second) of each epoch, of the windows that lie inside it."""
    found = []
    for begin, end, looking in epochs:
        inside = [
            one for one in windows if begin <= one["start_ns"] and one["start_ns"] + 1e9 * one["duration_s"] <= end
        ]
        found.append((looking, sum(one["batches"] for one in inside) / sum(one["duration_s"] for one in inside)))
    return found


def compared(pairs: Sequence[tuple[float, float]]) -> Figures:
    """How much slower the second of each pair is, with its interval."""
    ratios = np.log([second / first for first, second in pairs])
    (found,) = estimate([sample_of("", NoiseClass.UNKNOWN, ratios)])
    return {"pairs": len(pairs), "difference": found.penalty, "interval": found.interval}


# The examples


def server(options: argparse.Namespace) -> Iterator[Figures]:
    small = {
        "server": ["python3", "server.py", "--port", "{port}", "--layers", "1", "--width", "64"],
        "run": ["python3", "client.py", "--port", "{port}", "--requests", "40", "--connections", "2", "--warmup", "2"],
    }
    more = [] if options.device == "cuda" else ["--command", json.dumps(small)]
    yield example(options, "server", ["Study", "--config-file", copied(options, "server.yaml"), *BINDINGS, *more])


def kv_cache(options: argparse.Namespace) -> Iterator[Figures]:
    more = changes(options) if options.device == "cpu" else []
    yield example(options, "kv_cache", ["Study", "--config-file", copied(options, "kv_cache.yaml"), *BINDINGS, *more])


def timm(options: argparse.Namespace) -> Iterator[Figures]:
    models = ["timm:resnet50", "timm:vit_base_patch16_224"] if options.device == "cuda" else ["timm:resnet18"]
    yield example(options, "quick_test", ["QuickTest", "--models", json.dumps(models), *changes(options)])


BINDINGS = ("--sweep", json.dumps({"binding": ["numactl", "none"]}))


def changes(options: argparse.Namespace) -> list[str]:
    return [
        word
        for key, value in options.settings.items()
        for word in (f"--{key.replace('_', '-')}", value if isinstance(value, str) else json.dumps(value))
    ]


def copied(options: argparse.Namespace, name: str) -> str:
    """An example in a folder that only this user can write, as factories have to be in."""
    target = options.out / "examples"
    target.mkdir(exist_ok=True)
    for file in (ROOT / "examples").iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
            (target / file.name).chmod(0o644)
    target.chmod(0o755)
    return str(target / name)


def example(options: argparse.Namespace, name: str, words: Sequence[str]) -> Figures:
    """By luigi, as a user starts it. Raise RuntimeError where it has no results."""
    argv = [sys.executable, "-m", "luigi", "--module", "tasks", *words, "--local-scheduler"]
    argv += ["--output-dir", str(options.out / "studies"), "--gpu-ids", "[0]", "--numa-nodes", "[0]"]
    argv += ["--repeats", str(options.repeats), "--device", options.device]
    # The python3 of the examples is this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "PYTHONPATH": with_root(os.environ.get("PYTHONPATH", ""))}
    left_s = options.deadline - time.monotonic() - REPORT_S
    with subprocess.Popen(argv, cwd=ROOT, env=environment) as luigi:
        try:
            with suppress(subprocess.TimeoutExpired):
                luigi.wait(None if left_s == float("inf") else max(1.0, left_s))
        finally:
            stopped = luigi.poll() is None
            if stopped:
                # It ends what it has started; the same call goes on from there.
                luigi.send_signal(signal.SIGTERM)
    code = luigi.returncode
    found = sorted((options.out / "studies" / name).glob("*/*/grid.json"))
    if not found:
        raise RuntimeError(f"luigi ended with {code}, without a run directory")
    directory = RunDirectory(found[-1].parent)
    keep(directory)
    results = read(directory.path / "results.json", Results)
    rows = [
        {
            "cell": cell.name,
            "outcome": cell.outcome.value,
            "values": [run.value for run in cell.runs if run.value],
            "placements": sorted({run.placement.value for run in cell.runs if run.placement}),
        }
        for cell in results.cells
    ]
    return {"exit_code": code, "cells": rows, "complete": not stopped, "holds": code == 0}


def keep(directory: RunDirectory) -> None:
    """The small files of a run directory, with the report, in FOLDER/reference."""
    make_report(directory.path, "gpu")
    study = directory.study().name
    target = directory.outputs.parent / "reference" / study
    target.mkdir(exist_ok=True)
    for name in KEPT:
        if (directory.path / name).exists():
            # Published, so without where this machine has its checkout.
            write_text(target / name, (directory.path / name).read_text().replace(str(ROOT), "/checkout"))


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Figures]]] = {
    "pipeline": pipeline,
    "pinned": pinned,
    "looks": looks,
    "server": server,
    "kv_cache": kv_cache,
    "timm": timm,
}


def page(found: dict[str, Figures]) -> str:
    lines = ["| part | found | holds | took |", "|---|---|---|---|"]
    for name, one in found.items():
        holds = ("yes" if one["holds"] else "no") + ("" if one["complete"] else ", stopped")
        lines.append(f"| {name} | {TEXTS[name](one)} | {holds} | {duration(one['took_s'])} |")
    return "\n".join(lines) + "\n"


def _difference(one: Figures) -> str:
    low, high = one["interval"] or (None, None)
    within = f" [{percent(low, 3)}, {percent(high, 3)}]" if low is not None else ""
    return f"{percent(one['difference'], 3)} slower{within}, {one['pairs']} pairs"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(rate, values))


def _cells(one: Figures) -> str:
    return "; ".join(f"{row['cell']} {row['outcome']} {_listed(row['values'])}" for row in one["cells"])


TEXTS: dict[str, Callable[[Figures], str]] = {
    "pipeline": lambda one: f"as a command {_difference(one)}, {', '.join(one['placements'])}",
    "pinned": lambda one: (
        f"{byte_size(one['largest_mapping_bytes'])} of {byte_size(one['pinned_bytes'])} to the page, "
        f"{one['ms_a_gib']:.1f} ms a GiB, {one['verdict']}"
    ),
    "looks": lambda one: "; ".join(
        f"{model} {_difference(row)} in the first {duration(row['epoch_s'])}, with {row['cost_ms_an_epoch']:.1f} ms of "
        f"looks (at pages {row['ms_a_look']['pages']:.1f} ms, at threads {row['ms_a_look']['threads']:.1f} ms); "
        + ", ".join(f"{percent(loss, 3)} of a command of {whole} s" for whole, loss in row["of_a_command"].items())
        for model, row in one["models"].items()
    ),
    "server": _cells,
    "kv_cache": _cells,
    "timm": _cells,
}


if __name__ == "__main__":
    sys.exit(main())
