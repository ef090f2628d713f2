"""A stub of `python -m bench.workload` that replays a recorded run in a fraction of a second.

The record is made first, by the real workload, in a study of the same cells on this machine. Everything around it is
real: luigi, locks, processes, signals, files.
"""

import json
import shutil
from pathlib import Path

from bench.study.directory import RunDirectory
from bench.trace.profilers import get_profiler
from tests.tasks.study_calls import Calls

# Python reads this module at the start of every process. It takes the place of the workload in the process that was to
# run it: result, progress and trace appear as the real ones do, after a moment, and the real workload is not imported.
SITE = """
import os, sys
def _stub():
    with open("/proc/self/cmdline") as file:
        line = file.read().split("\\0")
    if "bench.workload" not in line:
        return
    import json, random, shutil, struct, time
    here = os.path.dirname(__file__)
    option = lambda name: line[line.index(name) + 1]
    cell, mode = os.path.basename(option("--cell")).removesuffix(".json"), option("--mode")
    for path in sorted(os.listdir(here)):
        if path.startswith("behave_"):
            with open(os.path.join(here, path)) as file:
                exec(file.read(), {"cell": cell, "mode": mode, "option": option, "line": line})
    for done in range(4):
        time.sleep(random.uniform(STEPS))
        with open(option("--progress"), "r+b") as file:
            file.write(struct.pack("<QII", done + 1, 4, 2))
    recorded = os.path.join(here, "recorded", cell + "." + mode)
    if "--trace" in line:
        shutil.copyfile(recorded + ".trace", option("--trace") + ".part")
        os.replace(option("--trace") + ".part", option("--trace"))
    shutil.copyfile(recorded + ".json", option("--result") + ".part")
    os.replace(option("--result") + ".part", option("--result"))
    sys.stdout.flush()
    os._exit(0)
_stub()
"""


def record(calls: Calls, folder: Path) -> Path:
    """Run the study of `calls` with the real workload; keep what its runs left in `folder`/recorded."""
    done = calls.run("--workers", "1")
    assert done.returncode == 0, done.stderr
    directory = RunDirectory(calls.run_directory())
    recorded = folder / "recorded"
    recorded.mkdir(parents=True)
    for name, cell in ((cell.name, cell) for cell in directory.grid().cells):
        for repeat, mode in ((1, "timed"), ("traced", "traced")):
            result = json.loads(directory.record(name, repeat).read_text())["result"]
            (recorded / f"{name}.{mode}.json").write_text(json.dumps({"result": result}))
        trace = get_profiler(cell.profiler).trace_path(directory.report(name))
        shutil.copyfile(trace, recorded / f"{name}.traced.trace")
    return recorded


def replay(calls: Calls, recorded: Path, longest_step_s: float = 0.1) -> None:
    """From now on the runs of `calls` are replays."""
    site = calls.folder / "site"
    shutil.copytree(recorded, site / "recorded")
    (site / "sitecustomize.py").write_text(SITE.replace("STEPS", f"0.01, {longest_step_s}"))


def behave(calls: Calls, program: str, name: str = "1") -> Path:
    """Let every replayed run execute this first. Removed, it replays only."""
    path = calls.folder / "site" / f"behave_{name}"
    path.write_text(program)
    return path


# The runs after the first `ENDED` ones, or all, wait for the end of this file.
HELD = """
import os, time
runs = os.path.join(os.path.dirname(os.path.dirname(option("--cell"))), "runs")
while os.path.exists(HOLD) and sum(name.endswith(".json") for name in os.listdir(runs)) >= ENDED:
    time.sleep(0.02)
"""


def hold(calls: Calls, after_runs: int = 0) -> Path:
    """Let replayed runs wait, but for the first ones, until the file that is returned is removed."""
    held = calls.folder / "hold"
    held.touch()
    behave(calls, HELD.replace("HOLD", repr(str(held))).replace("ENDED", str(after_runs)), "hold")
    return held
