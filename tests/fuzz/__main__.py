"""10,000 damaged files, and nothing but StudyError: python -m tests.fuzz

Half of the cases are seeded damage (blind.py: the same ones on every machine), half are guided by the coverage of
bench (guided.py, atheris; without it the guided ones are left out, and reported). Exit code 1 if anything broke.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS

BLIND = {"study_file": 1500, "export": 1500, "torch_trace": 1000, "run_directory": 1200, "results_json": 800}
# JSON is better damaged by value than by byte: only what is parsed here byte by byte.
GUIDED = {"study_file": 2000, "export": 1500, "torch_trace": 1000}
# libFuzzer's own limits. It counts all memory, the interpreter's and numpy's too.
LIMITS = ("-rss_limit_mb=2048", "-timeout=300", "-max_len=65536", "-seed=1", "-verbosity=0")


def main() -> int:
    began, failed = time.monotonic(), []
    for name, cases in BLIND.items():
        failed += _run([f"{sys.executable}", "-m", "tests.fuzz.blind", name, str(cases)])
    if importlib.util.find_spec("atheris"):
        for name, cases in GUIDED.items():
            failed += _guided(name, cases)
    else:
        print("atheris is not installed: the guided cases were left out")
    total = sum(BLIND.values()) + (sum(GUIDED.values()) if importlib.util.find_spec("atheris") else 0)
    outcome = f"broken: {', '.join(failed)}" if failed else "nothing but StudyError"
    print(f"{total} cases in {time.monotonic() - began:.0f} s: {outcome}")
    return 1 if failed else 0


def _guided(name: str, cases: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="numastudy-corpus-") as folder:
        for number, seed in enumerate(TARGETS[name].seeds()):
            Path(folder, f"seed{number}").write_bytes(seed)
        # What breaks it is kept where it can be looked at.
        kept = f"-artifact_prefix={tempfile.gettempdir()}/numastudy-fuzz-{name}-"
        return _run([sys.executable, "-m", "tests.fuzz.guided", name, folder, f"-runs={cases}", kept, *LIMITS])


def _run(command: list[str]) -> list[str]:
    began = time.monotonic()
    # The order of sets decides which code a case reaches, and so which case comes next.
    same = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, check=False, env=same, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    what = " ".join(command[2:5])
    print(f"{what}: exit code {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode:
        print(done.stdout[-8000:], flush=True)
    return [what] if done.returncode else []


if __name__ == "__main__":
    sys.exit(main())
