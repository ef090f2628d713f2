"""What comparisons inside one process reach on a GPU: against itself, by either design, and with a delay of 2 %.

The studies side_SETTING have each value of a setting twice, one of the two with the delay: how sharp a sweep is. Their
values by turns are those of `design: processes` in the studies alone_SETTING.

    python -m tests.validation.crossing_goals --out FOLDER [--device cuda] [--only NAME ...]

Every study keeps its run directory in FOLDER: the same command resumes what was interrupted and repeats nothing. At the
end FOLDER has goals.json and goals.md with the figures of all studies that are complete. On an idle host only.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.analysis.crossing import design_of
from bench.analysis.latency import changes, judged_changes, paired_samples
from bench.analysis.noise_floor import evaluate
from bench.analysis.statistics import holm
from bench.records.base import read
from bench.records.results import LocalSource, Measure, MeasuredCell, Results, Verdict
from bench.records.run import Run, read_record
from bench.report.build import make_report
from bench.run import forkserver
from bench.run.crossing import execute_group
from bench.run.lock import HostLock
from bench.storage import write_json, write_text
from bench.study.directory import RunDirectory, resolve
from bench.study.load import TASKS, load_study
from bench.units import duration, percent
from bench.workload.progress import PHASES
from tests.validation.injected_crossing import server

MODELS = ("vit0x0x0", "vit32x2x128", "vit32x6x512", "vit16x8x768", "vit16x6x1024", "vit16x12x1024")
# The stage that limits the model.
INJECTED = {"copy": "vit0x0x0", "launch": "vit32x2x128", "kernel": "vit16x12x1024"}
# Values of settings that are sides, and the model that they are measured with.
SIDES: dict[str, list[Any]] = {
    "buffers": [2, 3],
    "cuda_graph": [False, True],
    "dtype": ["fp32", "bf16"],
    "batch_size": [10, 50],
    "compile_model": ["off", "default"],
}
SIDE_MODEL = "vit32x6x512"
# The fork, the end of the process, and waiting for it.
BESIDE = "beside"
COLUMNS = (*PHASES, BESIDE)
SHARE = 0.02
LUIGI = Path(sys.executable).parent / "luigi"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--side-model", default=SIDE_MODEL, help="of the studies side_SETTING and alone_SETTING")
    parser.add_argument(
        "--only", nargs="+", help="of: by_turns, processes, nodes, copy, launch, kernel, side_SETTING, alone_SETTING"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="another setting of all studies")
    options = parser.parse_args()
    more = {key: json.loads(value) for key, _, value in (one.partition("=") for one in options.set)}
    common = {"gpu_ids": [0], "device": options.device, "repeats": options.repeats} | more
    twice = [model for model in options.models for _ in range(2)]
    options.out.mkdir(parents=True, exist_ok=True)
    studies = {
        "by_turns": lambda folder: by_luigi(folder, "SelfCheck", common | {"numa_nodes": [0], "models": twice}),
        "processes": lambda folder: by_luigi(
            folder, "SelfCheck", common | {"numa_nodes": [0], "models": twice, "design": "processes"}
        ),
        "nodes": lambda folder: by_luigi(
            folder, "NumaStudy", common | {"numa_nodes": "all", "models": list(options.models)}
        ),
    } | {
        stage: lambda folder, stage=stage, model=model: injected(folder, stage, model, common)
        for stage, model in INJECTED.items()
    }
    for setting, values in SIDES.items():
        if options.device == "cpu" and setting == "cuda_graph":
            continue
        swept = common | {"axes": {setting: values}}
        # On the cpu device work on small data takes longer than it was timed to.
        stage = "kernel" if options.device == "cuda" else "launch"
        studies[f"side_{setting}"] = lambda folder, stage=stage, swept=swept: injected(
            folder, stage, options.side_model, swept
        )
        studies[f"alone_{setting}"] = lambda folder, swept=swept: by_luigi(
            folder, "SelfCheck", swept | {"numa_nodes": [0], "models": [options.side_model], "design": "processes"}
        )
    for name in options.only or studies:
        print(f"{name}: begins", flush=True)
        began = time.monotonic()
        studies[name](options.out / name)
        print(f"{name}: {duration(time.monotonic() - began)} now", flush=True)
        rows = [row for each in studies if (row := figures(each, options.out / each))]
        write_json(options.out / "goals.json", rows)
        write_text(options.out / "goals.md", page(rows))
    print(page(rows))
    return 0


def by_luigi(folder: Path, task: str, settings: dict[str, Any]) -> None:
    command = [str(LUIGI), "--module", "tasks", task, "--local-scheduler", "--output-dir", str(folder)]
    for key, value in settings.items():
        command += [f"--{key.replace('_', '-')}", value if isinstance(value, str) else json.dumps(value)]
    code = subprocess.run(command, env=os.environ).returncode
    if code:
        print(f"luigi ended with {code}: {' '.join(command)}", file=sys.stderr)


def injected(folder: Path, stage: str, model: str, settings: dict[str, Any]) -> None:
    """A model against itself, one of the two with a delay; timed processes only."""
    asked = settings | {"numa_nodes": [0], "models": [model, model], "start": "fork", "binding": "numactl"}
    directory = resolve(load_study(TASKS["SelfCheck"], asked), folder, False, "goals")
    grid, lock = directory.grid(), HostLock(folder)
    processes = {
        slot.process: grid.process(slot)
        for slot in grid.asked(directory.study().repeats)
        if slot.birth and not slot.is_traced
    }
    kept, forkserver._SERVER = forkserver._SERVER, server(stage, SHARE)
    try:
        for slots in processes.values():
            known = [read_record(directory.record(slot.cell, slot.repeat), Run) for slot in slots]
            if not all(run and run.ok for run in known):
                execute_group(directory, slots, "goals", lock, lambda progress: None)
    finally:
        forkserver.SERVERS.end()
        forkserver._SERVER = kept
        lock.release()
    make_report(directory.path, "goals")


def figures(name: str, folder: Path) -> dict[str, Any] | None:
    """Of the newest run directory in the folder; None where it has no results yet."""
    found = sorted(folder.glob("*/*/*/results.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    results = read(found[-1], Results)
    directory = RunDirectory(found[-1].parent)
    crossings = results.crossings
    penalties = [
        {"cell": one.remote_cell, "penalty": one.penalty, "interval": one.interval, "verdict": one.verdict}
        for one in results.penalties
    ] + [
        {"cell": one.cells[0], "penalty": one.penalty, "interval": one.interval, "verdict": one.verdict}
        for one in evaluate(results.cells, results.rules.margin).comparisons
    ]
    traced = [run.wall_s for cell in results.cells for run in cell.runs if run.repeat == "traced" and run.wall_s]
    per_process = crossings.wall_s / crossings.processes if crossings else None
    return {
        "study": name,
        "gpu": next(iter(results.device_names.values()), results.device),
        "run_directory": str(directory.path),
        "duration_s": results.duration_s,
        "busy_s": results.busy_s,
        "share": crossings.share if crossings else results.measured_s / results.busy_s if results.busy_s else None,
        "process_s": per_process,
        # 4 GPUs x 2 nodes x 6 models: 24 groups of six processes and a traced one.
        "whole_numa_study_s": 144 * per_process + 24 * sum(traced) / len(traced) if per_process and traced else None,
        "comparisons": [*penalties, *latencies(results)],
        "claims": claims(results),
        "injected": SHARE if name in INJECTED or name.startswith("side_") else None,
        "values": [
            {"cell": line.name, "base": line.base_cell, "effect": line.effect, "interval": line.interval}
            for axis in results.comparisons
            for line in axis.lines
            if line.effect is not None
        ],
        "phases": phases(directory),
    }


def phases(directory: RunDirectory) -> dict[str, dict[str, float]]:
    """Mean seconds of each phase of a timed process, of the first of each birth (which also measures the stages in
    isolation) and of the others; each process once."""
    grid, births = directory.grid(), dict[str, set[Any]]()
    found: dict[str, dict[str, dict[str, float]]] = {"first": {}, "others": {}}
    for slot in grid.order:
        births.setdefault(slot.group, set()).add(slot.birth)
    for slot in grid.order:
        run = None if slot.is_traced else read_record(directory.record(slot.cell, slot.repeat), Run)
        if run and run.ok and run.result and run.result.phases_s:
            kind = "first" if slot.block <= len(births[slot.group]) else "others"
            spent = run.result.phases_s
            found[kind][slot.process] = spent | {BESIDE: run.wall_s - sum(spent.values())}
    return {
        kind: {phase: fmean(one.get(phase, 0.0) for one in own.values()) for phase in COLUMNS}
        for kind, own in found.items()
        if own
    }


TIMES = {Measure.LATENCY_P50: "p50", Measure.LATENCY_P99: "p99"}


def twins(results: Results) -> list[tuple[MeasuredCell, MeasuredCell]]:
    """Cells that differ in nothing but their name, each after the first of its kind, as SelfCheck compares them."""
    by_name = {cell.name: cell for cell in results.cells}
    found = evaluate(results.cells, results.rules.margin).comparisons
    return [(by_name[first], by_name[twin]) for twin, first in (one.cells for one in found)]


def latencies(results: Results) -> list[dict[str, Any]]:
    """p50 and p99 of twins, and of the penalties, as the share that they are longer by."""
    pairs = twins(results)
    samples = [paired_samples(twin.name, first, twin) for first, twin in pairs]
    known = [
        (twin.name, judged_changes(own, twin.settings, results.rules, design_of(twin)))
        for own, (_, twin) in zip(changes(samples, results.rules), pairs, strict=True)
    ] + [(one.remote_cell, one.changes) for one in results.penalties]
    return [
        {"cell": f"{name}, {TIMES[measure]}", "penalty": one.change, "interval": one.interval, "verdict": one.verdict}
        for name, own in known
        for measure, one in own.items()
        if measure in TIMES
    ]


def claims(results: Results) -> dict[str, int]:
    """What the report claims. Where every difference is noise each is wrong."""
    compared = evaluate(results.cells, results.rules.margin).comparisons
    tests = [one.p_difference for one in compared if one.p_difference is not None]
    found = [one.verdict in (Verdict.SLOWER, Verdict.FASTER) for one in compared]
    near = {one.gpu for one in results.penalties if one.local_source in (LocalSource.RUNS, LocalSource.MEASURED)}
    return {
        "comparisons": len(compared),
        "different": sum(found),
        "different, corrected": sum(
            differs and p <= 1 - results.rules.confidence for differs, p in zip(found, holm(tests), strict=False)
        ),
        "claims of the report": results.claims.hold if results.claims else 0,
        "nearest": len(near),
        "fastest": sum(not one.rivals and one.candidates > 1 for one in results.fastest),
    }


def page(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| study | comparison | difference | 95 % interval | half-width | verdict |", "|---|---|---|---|---|---|"]
    for row in rows:
        for one in row["comparisons"]:
            low, high = one["interval"] or (None, None)
            half = percent((high - low) / 2, 3) if low is not None else "-"
            interval = f"{percent(low, 3)} to {percent(high, 3)}"
            found = f"{percent(one['penalty'], 3)} | {interval} | {half} | {one['verdict']}"
            lines.append(f"| {row['study']} | {one['cell']} | {found} |")
    lines += ["", "p50 and p99: how much longer. Claims, each wrong where both sides are equal:", ""]
    names = list(rows[0]["claims"]) if rows else []
    lines += [f"| study | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row['study']} | {' | '.join(str(row['claims'][name]) for name in names)} |" for row in rows]
    lines += ["", "| study | GPU | first to last run | in runs | in windows | a process | 48 cells would take |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        share, process, whole = row["share"], row["process_s"], row["whole_numa_study_s"]
        lines.append(
            f"| {row['study']} | {row['gpu']} | {duration(row['duration_s'])} | {duration(row['busy_s'])} | "
            f"{percent(share)} | {duration(process)} | {duration(whole)} |"
        )
    lines += ["", "What each value of a setting changes, by turns (side_) and between processes (alone_):", ""]
    lines += ["| study | cell | against | change | 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        for one in row["values"]:
            low, high = one["interval"] or (None, None)
            found = f"{percent(one['effect'], 2)} | {percent(low, 2)} to {percent(high, 2)}"
            lines.append(f"| {row['study']} | {one['cell']} | {one['base']} | {found} |")
    lines += [
        "",
        "Mean seconds of a timed process by phase; the first of each birth also measures stages in isolation:",
    ]
    lines += ["", f"| study | processes | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        for kind, own in row["phases"].items():
            lines.append(f"| {row['study']} | {kind} | {' | '.join(f'{own[phase]:.2f}' for phase in COLUMNS)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
