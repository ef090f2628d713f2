"""Everything that needs a whole host, with one, two, four or eight GPUs, by one command.

    python -m tests.validation.whole_host --out FOLDER [--device cuda] [--only NAME ...] [--repeats 6] [--models ...]

probe: its time, and the groups of CPUs that it finds. null: every GPU and model against itself on node 0, crossed.
cpu_groups: the groups that the probe finds, or where it finds none halves of the CPUs, crossed. contention: 1, 2, 4
and 8 GPUs at once, pipelines and copies. where: `numastudy where` beside a torchrun job with a rank for each GPU.

FOLDER keeps every part: the same command resumes what was interrupted and repeats nothing. It has whole_host.json and
whole_host.md with the figures of the parts that are complete. On an idle host only.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.analysis.noise_floor import evaluate
from bench.records.base import read
from bench.records.host import format_cpulist
from bench.records.results import Results
from bench.storage import write_json, write_text
from bench.units import duration, percent
from tests.validation.crossing_goals import MODELS, by_luigi

NUMASTUDY = Path(sys.executable).parent / "numastudy"
AT_ONCE = (1, 2, 4, 8)
CONTENDING = ("vit0x0x0", "vit16x8x768")
READY_S, JOB_S = 120.0, 300.0
COPIED = 64 << 20


def main() -> int:
    if "LOCAL_RANK" in os.environ:
        return rank(Path(sys.argv[1]), sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="another setting of all studies")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.more = {key: json.loads(value) for key, _, value in (one.partition("=") for one in options.set)}
    for name in options.only:
        print(f"{name}: begins", flush=True)
        began = time.monotonic()
        PARTS[name](options.out / name, options)
        print(f"{name}: {duration(time.monotonic() - began)} now", flush=True)
        rows = {each: found for each in PARTS if (found := figures(options.out / each))}
        write_json(options.out / "whole_host.json", rows)
        write_text(options.out / "whole_host.md", page(rows))
    print(page(rows))
    return 0


def gpus_of(device: str) -> int:
    """On the cpu device GPUs are labels, of which two serve."""
    return torch.cuda.device_count() if device == "cuda" else 2


def common(options: argparse.Namespace) -> dict[str, Any]:
    gpus = "all" if options.device == "cuda" else [0]
    return {"gpu_ids": gpus, "device": options.device, "repeats": options.repeats} | options.more


def probe(folder: Path, options: argparse.Namespace) -> None:
    if not (folder / "found.json").exists():
        timed(folder, [str(NUMASTUDY), "probe", "--json", "--device", options.device])


def null(folder: Path, options: argparse.Namespace) -> None:
    twice = [model for model in options.models for _ in range(2)]
    by_luigi(folder, "NumaStudy", common(options) | {"numa_nodes": [0], "models": twice})


def cpu_groups(folder: Path, options: argparse.Namespace) -> None:
    asked = common(options) | {"models": list(options.models[:2])}
    if options.device == "cuda":
        by_luigi(folder, "NumaStudy", asked | {"placements": "cpu-groups"})
    if not results_of(folder):
        cpus = sorted(os.sched_getaffinity(0))
        half = len(cpus) // 2
        by_luigi(
            folder, "NumaStudy", asked | {"placements": [format_cpulist(cpus[:half]), format_cpulist(cpus[half:])]}
        )


def contention(folder: Path, options: argparse.Namespace) -> None:
    busy = [number for number in AT_ONCE if number <= gpus_of(options.device)]
    # Without a GPU no node is near to one.
    placed = {"concurrent_placement": "found"} if options.device == "cpu" and len(nodes()) > 1 else {}
    models = [model for model in CONTENDING if model in options.models] or list(options.models[:1])
    axes = {"concurrent_gpus": busy, "concurrent_load": ["pipeline", "copies"]}
    alone = [{"concurrent_gpus": 1, "concurrent_load": "copies"}]
    asked = common(options) | placed | {"gpu_ids": [0], "numa_nodes": [0], "models": models}
    by_luigi(folder, "Study", {"config_file": "contention_study"} | asked | {"axes": axes, "exclude": alone})


def nodes() -> list[Path]:
    return [*Path("/sys/devices/system/node").glob("node[0-9]*")]


def where(folder: Path, options: argparse.Namespace) -> None:
    if (folder / "found.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("ready-*"):
        file.unlink()
    ranks = gpus_of(options.device)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    job = subprocess.Popen([*command, "-m", "tests.validation.whole_host", str(folder), options.device])
    try:
        until = time.monotonic() + READY_S
        while len([*folder.glob("ready-*")]) < ranks:
            if job.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the job of {ranks} ranks did not start")
            time.sleep(0.2)
        asked = ["--all"] if options.device == "cuda" else [str(job.pid), "--node", "0"]
        timed(folder, [str(NUMASTUDY), "where", "--json", *asked])
    finally:
        (folder / "stop").touch()
        job.wait(JOB_S)
        (folder / "stop").unlink()


def rank(folder: Path, device: str) -> int:
    """A rank that copies and reduces until the file `stop` appears."""
    number = int(os.environ["LOCAL_RANK"])
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.set_device(number)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    host = torch.zeros(COPIED, dtype=torch.uint8, pin_memory=on_gpu)
    there = host.to(device)
    until, stop = time.monotonic() + JOB_S, torch.zeros(1, device=device)
    while not stop.item():
        there.copy_(host, non_blocking=True)
        (folder / f"ready-{number}").touch()
        # All of them stop in the same round.
        stop = torch.tensor([float((folder / "stop").exists() or time.monotonic() > until)], device=device)
        torch.distributed.all_reduce(stop)
    torch.distributed.destroy_process_group()
    return 0


def timed(folder: Path, command: list[str]) -> None:
    """Keep the JSON that a command prints, with its exit code and its seconds; nothing where it printed none."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True)
    took = time.monotonic() - began
    try:
        answer = json.loads(ran.stdout)
    except json.JSONDecodeError:
        print(f"{' '.join(command)}: exit code {ran.returncode}: {ran.stderr.strip()}", file=sys.stderr)
        return
    kept = {"command": command[1:], "exit_code": ran.returncode, "wall_s": round(took, 3), "answer": answer}
    write_json(folder / "found.json", kept)


def results_of(folder: Path) -> Path | None:
    """Of the newest run directory."""
    found = sorted(folder.glob("*/*/*/results.json"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def figures(folder: Path) -> dict[str, Any] | None:
    """Small: the files themselves stay in the folder."""
    if (folder / "found.json").exists():
        kept = json.loads((folder / "found.json").read_bytes())
        answer = kept.pop("answer")
        for gpu in answer["gpus"]:
            gpu.pop("scans_us", None)
            if "processes" in gpu:
                gpu["processes"] = [[one["name"], one["bytes"]] for one in gpu["processes"]]
        return kept | {"answer": answer}
    found = results_of(folder)
    if found is None:
        return None
    results = read(found, Results)
    crossings = results.crossings
    compared = [(one.remote_cell, one.penalty, one.interval, one.verdict) for one in results.penalties]
    if not compared:
        same = evaluate(results.cells, results.rules.margin).comparisons
        compared = [(one.cells[0], one.penalty, one.interval, one.verdict) for one in same]
    return {
        "devices": results.device_names,
        "host": [results.fingerprint.cpu, len(results.topology.nodes)],
        "cells": len(results.cells),
        "outcomes": dict(Counter(str(cell.outcome) for cell in results.cells)),
        "duration_s": results.duration_s,
        "share": crossings.share if crossings else None,
        "cpu_groups": results.cpu_groups,
        "comparisons": [dict(zip(("cell", "penalty", "interval", "verdict"), one, strict=True)) for one in compared],
        "throughput": {cell.name: cell.throughput_samples_s for cell in results.cells},
        "contention": [
            {
                "cell": one.cell,
                "model": one.model,
                "busy": one.busy_gpus,
                "load": one.load,
                "h2d_gb_s": one.h2d_gb_s,
                "d2h_gb_s": one.d2h_gb_s,
                "against_alone": one.isolated.effect if one.isolated else None,
                "interval": one.isolated.interval if one.isolated else None,
                "peers_h2d_gb_s": {peer.gpu: peer.h2d_gb_s for peer in one.peers},
                "peers_d2h_gb_s": {peer.gpu: peer.d2h_gb_s for peer in one.peers},
            }
            for one in results.contention
        ],
        "recommendations": [[one.gpu, one.node, one.cpus] for one in results.recommendations],
    }


def page(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| part | time | what came out |", "|---|---|---|"]
    for name, row in rows.items():
        took = row.get("wall_s") or row.get("duration_s")
        found = row.get("answer", {}).get("gpus", [])
        verdicts = ", ".join(f"GPU {one['index']} {one.get('verdict', one.get('hidden_nodes'))}" for one in found)
        outcome = (
            f"exit code {row['exit_code']} {verdicts}"
            if "exit_code" in row
            else f"{row['cells']} cells {row['outcomes']}"
        )
        lines.append(f"| {name} | {duration(took)} | {outcome} |")
    lines += ["", "| part | cell | difference | 95 % interval | verdict |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        for one in row.get("comparisons", []):
            low, high = one["interval"] or (None, None)
            interval = f"{percent(low, 2)} to {percent(high, 2)}" if low is not None else "-"
            lines.append(f"| {name} | {one['cell']} | {percent(one['penalty'], 2)} | {interval} | {one['verdict']} |")
    lines += ["", "| model | GPUs busy | load | H2D GB/s | D2H GB/s | against isolation |", "|---|---|---|---|---|---|"]
    for one in rows.get("contention", {}).get("contention", []):
        rates = (f"{rate:.1f}" if (rate := one[key]) else "-" for key in ("h2d_gb_s", "d2h_gb_s"))
        lines.append(
            f"| {one['model']} | {one['busy']} | {one['load'] or '-'} | {' | '.join(rates)} | "
            f"{percent(one['against_alone'], 1)} |"
        )
    return "\n".join(lines) + "\n"


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "probe": probe,
    "null": null,
    "cpu_groups": cpu_groups,
    "contention": contention,
    "where": where,
}


if __name__ == "__main__":
    sys.exit(main())
