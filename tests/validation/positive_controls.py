"""Delays of known size in the copy, launch and kernel path of the real workload: found, and where?

    python tests/validation/positive_controls.py --device cuda --out docs/reference/positive_controls.json

Each stage is tried on a model that it limits. One process per run, all in the measuring order of a study.
On an idle machine only; cuda: about 72 runs of 10 s.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.files import read_json, write_json
from bench.results.bound import Stages, bound_us
from bench.results.statistics import Comparison, estimate_pairs
from bench.results.verdicts import LAUNCH_BOUND, REST, judge
from bench.study.order import measuring_order

WORKLOAD = Path(__file__).with_name("injected_workload.py")
Record = dict[str, Any]
# stage: (model, noise class); patch, depth, dim, heads
LIMITED_BY = {
    "copy": ("vit0x0x0", (0, 0, 0, 0), REST),
    "launch": ("vit32x2x128", (32, 2, 128, 4), LAUNCH_BOUND),
    "kernel": ("vit16x8x768", (16, 8, 768, 12), REST),
}
BASE_CELL = {
    "gpu": 0, "gpu_uuid": None, "cpu_node": 0, "mem_node": 0, "image_size": 224, "batch_size": 10,
    "warmup_samples": 100, "memory_size_mb": 512, "buffers": 2, "compile_model": "off", "cuda_graph": False,
    "dtype": "fp32", "profiler": "torch", "binding": "none", "seed": 0, "window_s": 0.1, "timeout_s": 600,
    "placement_threshold": 1.0,
}  # fmt: skip
TERMS = {"copy": ("h2d", "d2h"), "launch": ("issue",), "kernel": ("compute",)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--stages", nargs="+", choices=LIMITED_BY, default=list(LIMITED_BY))
    parser.add_argument("--percent", type=float, nargs="+", default=[1.0, 2.0, 5.0])
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    for row in rows:
        print(
            f"{row['stage']:7s} {row['percent']:4g} %  expected {100 * row['expected']:5.2f} %  "
            f"{row['verdict']:14s} {row['text']}  grew: {row['grew']} by {row['growth_us']:.1f} us of "
            f"{row['delay_us']:.1f}; limit: {row['limit']}"
        )
    if options.out:
        write_json(options.out, {"device": options.device, "rows": rows})
    return 0 if all(row["found"] and row["attributed"] for row in rows) else 1


def measure(folder: Path, options: argparse.Namespace) -> list[Record]:
    before = {stage: run(folder, options, stage, 0.0, None) for stage in options.stages}
    cells = [
        (f"{stage} {percent:g}", stage) for stage in options.stages for percent in (0.0, *options.percent)
    ]
    results: dict[str, dict[int, Record]] = {name: {} for name, _ in cells}
    for slot in measuring_order(cells, options.repeats, seed=0, traced=False):
        stage, percent = slot.cell.split()
        results[slot.cell][slot.block] = run(folder, options, stage, float(percent), before[stage])
        print(f"block {slot.block}: {slot.cell}", file=sys.stderr, flush=True)
    comparisons = [
        Comparison(name, LIMITED_BY[stage][2], rates(results[f"{stage} 0"]), rates(results[name]))
        for name, stage in cells
        if not name.endswith(" 0")
    ]
    rows = []
    for found in estimate_pairs(comparisons):
        stage, percent = found.label.split()
        base, slowed = results[f"{stage} 0"], results[found.label]
        share = float(percent) / 100
        growth = {term: median(slowed, term, options.device) - median(base, term, options.device)
                  for term in ("h2d", "compute", "d2h", "issue")}  # fmt: skip
        grew = max(growth, key=lambda term: growth[term])
        said = judge(found)
        rows.append(
            {
                "stage": stage,
                "model": LIMITED_BY[stage][0],
                "percent": float(percent),
                "delay_us": share * batch_us(before[stage]),
                "expected": share / (1 + share),
                "penalty": found.penalty,
                "interval": found.interval,
                "verdict": said.verdict.value,
                "text": said.text,
                "found": bool(found.interval and found.interval[0] > 0),
                "grew": grew,
                "growth_us": growth[grew],
                "attributed": grew in TERMS[stage],
                "limit": limit(list(slowed.values())),
                "throughputs": {"base": list(rates(base).values()), "injected": list(rates(slowed).values())},
            }
        )
    return rows


def run(folder: Path, options: argparse.Namespace, stage: str, percent: float, base: Record | None) -> Record:
    """One process; without `base` undelayed. Raises CalledProcessError with the child's words on stderr."""
    # Without a GPU every model is limited by compute, and a small one is enough.
    of = "launch" if options.device == "cpu" and stage == "kernel" else stage
    name, (patch, depth, dim, heads), _ = LIMITED_BY[of]
    cell = BASE_CELL | {
        "name": f"control_{name}",
        "model": {"name": name, "patch_size": patch, "depth": depth, "dim": dim, "heads": heads},
        **(
            {"num_samples": 1000} if options.device == "cuda" else {"num_samples": 100, "memory_size_mb": 128}
        ),
        "device": options.device,
        "windows": options.windows,
    }
    path, result = folder / "cell.json", folder / "result.json"
    path.write_text(json.dumps(cell))
    command = [sys.executable, str(WORKLOAD), "--cell", str(path), "--result", str(result)]
    if base and percent:
        command += ["--stage", stage, "--delay-us", str(percent / 100 * batch_us(base))]
        command += ["--copy-us", str(base["solo_us"]["h2d"])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read_json(result)


def rates(results: dict[int, Record]) -> dict[int, float]:
    return {block: result["throughput_samples_s"] for block, result in results.items()}


def batch_us(result: Record) -> float:
    return 10e6 / result["throughput_samples_s"]


def median(results: dict[int, Record], term: str, device: str) -> float:
    return float(np.median([term_us(result, term, device) for result in results.values()]))


def term_us(result: Record, term: str, device: str) -> float:
    if term != "issue":
        return result["solo_us"][term]
    # On the cpu device to issue is to execute: only what is beyond the stages is launching.
    executed = sum(result["solo_us"].values()) if device == "cpu" else 0.0
    return result["issue_us"] - executed


def limit(results: Sequence[Record]) -> str:
    """The term that sets the bound T*: the regime by stages alone, with no trace."""
    one = results[len(results) // 2]
    solo, issue = one["solo_us"], one["issue_us"]
    terms = {**solo, "issue": issue}
    whole = bound_us(
        Stages(solo["h2d"], solo["compute"], solo["d2h"], issue), 2, one["buffer_layout"] == "separate"
    )
    largest = max(terms, key=lambda term: terms[term])
    return largest if terms[largest] >= 0.999 * whole else "held slot"


if __name__ == "__main__":
    sys.exit(main())
