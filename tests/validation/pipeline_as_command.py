"""The pipeline of a cell as a command of a user, for own_workloads_on_gpu.

python -m tests.validation.pipeline_as_command CELL                   one run; its throughput to NUMASTUDY_RESULT
python -m tests.validation.pipeline_as_command CELL --windows FILE    windows, one after another, until its input ends
"""

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

import torch

from bench.records.base import plain, read
from bench.records.run import ChildReport, Mode
from bench.records.study import Cell
from bench.storage import write_json
from bench.workload.__main__ import run_cell
from bench.workload.devices import open_device
from bench.workload.measure import WarmupRule, load_windows, warm_up
from bench.workload.pipeline import no_beat
from bench.workload.progress import PhaseTimes, Progress
from bench.workload.run import build_pipeline

LONGEST_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell", type=Path)
    parser.add_argument("--windows", type=Path)
    options = parser.parse_args()
    if options.windows:
        observed(read(options.cell, Cell), options.windows)
        return 0
    return once(options.cell)


def once(cell: Path) -> int:
    """What `bench.workload` gives, in the format of a command."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "result.json"
        if code := run_cell(cell, Mode.TIMED, report):
            print(report.read_text(), file=sys.stderr)
            return code
        result = read(report, ChildReport).result
        assert result
    metric = {"value": result.throughput_samples_s, "unit": "samples/s", "better": "higher"}
    write_json(Path(os.environ["NUMASTUDY_RESULT"]), {"metrics": {"throughput": metric}})
    return 0


def observed(cell: Cell, file: Path) -> None:
    """Windows until standard input ends; READY is written before the first one."""
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    with torch.inference_mode():
        device = open_device(cell)
        pipeline = build_pipeline(cell, device, PhaseTimes())
        warmed = warm_up(pipeline, WarmupRule(cell.window_s, 1), Progress())
        print("READY", flush=True)
        windows = load_windows(pipeline, cell.window_s, warmed.batch_s, LONGEST_S, over.is_set, no_beat)
        pipeline.close()
    write_json(file, [plain(window) for window in windows])


if __name__ == "__main__":
    sys.exit(main())
