import subprocess
import sys
import time

from bench.workload.progress import PHASES, PhaseTimes, process_start


def test_phases_add_up_to_the_age_of_the_process():
    phases = PhaseTimes()
    began = process_start()
    phases.mark("interpreter")
    time.sleep(0.02)
    earliest = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    phases.mark("imports")
    latest = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    assert tuple(phases.seconds) == PHASES
    assert phases.seconds["imports"] >= 0.02
    assert earliest - 1e-6 <= sum(phases.seconds.values()) <= latest + 1e-6


def test_start_is_that_of_this_process():
    code = (
        "import time; time.sleep(0.2); from bench.workload.progress import process_start;"
        "print(time.clock_gettime(time.CLOCK_BOOTTIME) - process_start())"
    )
    before = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.19 <= float(shown) <= time.perf_counter() - before + 0.02
