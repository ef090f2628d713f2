"""Idle, compute and other time of public traces: `numastudy whatif` against HolisticTraceAnalysis (HTA) 0.5.

    git clone https://github.com/facebookresearch/HolisticTraceAnalysis && pip install HolisticTraceAnalysis==0.5.0
    python -m tests.validation.whatif_against_hta TRACE.json.gz ...    (with HTA's python in HTA_PYTHON)

HTA counts cuda_sync events as activities and leaves out the last profiler step; here both see the same events.
"""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.errors import StudyError
from bench.trace.analyze import as_export
from bench.trace.export import open_export
from bench.trace.intervals import union
from bench.whatif.program import Work
from bench.whatif.read import read_program

HTA = """
import json, logging, sys, warnings
warnings.filterwarnings("ignore"); logging.disable(logging.CRITICAL)
from hta.trace_analysis import TraceAnalysis
found = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="/", include_last_profiler_step=True)
row = found.get_temporal_breakdown(visualize=False).iloc[0]
print(json.dumps([float(row[f"{name}_time(us)"]) for name in ("idle", "compute", "non_compute")]))
"""
MOST = 0.001


def of_hta(path: Path) -> list[float]:
    with TemporaryDirectory() as folder:
        trace = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        trace["traceEvents"] = [event for event in trace["traceEvents"] if event.get("cat") != "cuda_sync"]
        copy = Path(folder) / "rank0.json.gz"
        copy.write_bytes(gzip.compress(json.dumps(trace).encode(), 1))
        argv = [os.environ.get("HTA_PYTHON", sys.executable), "-c", HTA, str(copy)]
        done = subprocess.run(
            argv, capture_output=True, text=True, env={**os.environ, "HTA_DISABLE_NS_ROUNDING": "1"}, check=True
        )
        return list(json.loads(done.stdout.splitlines()[-1]))


def of_whatif(path: Path) -> list[float]:
    """us of idle, compute (kernels but those of NCCL) and the rest, as HTA divides the time."""
    with as_export(path) as plain, open_export(plain, path) as export:
        program = read_program(export)
    activities = program.activities
    everything = union(activities.start, activities.end)
    window = int(activities.end.max() - activities.start.min())
    collective = [key for key, name in program.names.items() if "nccl" in name.lower()]
    kernels = activities.of(Work.KERNEL) & ~np.isin(activities.name, collective)
    compute = union(activities.start[kernels], activities.end[kernels]).length
    idle = window - everything.length
    return [value / 1e3 for value in (idle, compute, window - idle - compute)]


def main() -> None:
    agree = 0
    for path in map(Path, sys.argv[1:]):
        try:
            own, other = of_whatif(path), of_hta(path)
        except (StudyError, subprocess.CalledProcessError) as error:
            print(f"{path.name}: {str(error).splitlines()[0]}")
            continue
        worst = max(abs(one - two) for one, two in zip(own, other, strict=True)) / sum(own)
        agree += worst <= MOST
        print(f"{path.name}: idle, compute, other {own} us; HTA {other} us; largest difference {100 * worst:.3f} %")
    print(f"{agree} of {len(sys.argv) - 1} within {100 * MOST:g} % of the window")


if __name__ == "__main__":
    main()
