import os
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from bench.host.monitor import ForeignLoad, OwnProcesses, Sample, Watch, avoid_cpus, busy_ticks, summarise
from bench.records.host import ThrottleReason
from bench.records.run import DisturbanceKind, Spread

WORK_S = 0.5
QUIET: dict[str, Any] = {
    "utilization": 80,
    "sm_clock_mhz": 1980,
    "memory_clock_mhz": 2619,
    "temperature_c": 50,
    "power_w": 400.0,
    "throttle_reasons": (),
    "link_generation": 5,
    "link_generation_max": 5,
    "link_width": 16,
    "other_processes": (),
    "foreign_cpus": 0.01,
}


def samples(count: int = 100, **changes: Any) -> list[Sample]:
    return [Sample(**QUIET | {"at_s": 0.1 * number} | changes) for number in range(count)]


def test_quiet_run_is_not_disturbed() -> None:
    found = summarise(samples())
    assert found.disturbed == [] and found.rate_hz == 10.0 and found.throttle_known
    assert found.sm_clock_mhz == Spread(min=1980, p10=1980, p50=1980, max=1980)


@pytest.mark.parametrize(
    ("seen", "kind", "text"),
    [
        (
            samples(95) + samples(5, throttle_reasons=(ThrottleReason.POWER_BRAKE,)),
            DisturbanceKind.THROTTLED,
            "throttled (power brake) in 5.0 % of the samples",
        ),
        (
            samples(99) + samples(1, other_processes=(4242,)),
            DisturbanceKind.OTHER_PROCESSES,
            "other processes on the GPU: 4242",
        ),
        (
            samples(link_generation=3),
            DisturbanceKind.LINK_GENERATION,
            "the link ran at generation 3 of 5 under load",
        ),
        (
            samples(80) + samples(20, sm_clock_mhz=1200),
            DisturbanceKind.CLOCK,
            "SM clock fell from 1980 to 1200 MHz",
        ),
        (
            samples(foreign_cpus=0.8),
            DisturbanceKind.OTHER_CPU_LOAD,
            "other processes used 0.8 of the run's CPUs",
        ),
    ],
)
def test_each_disturbance_is_reported_by_itself(seen: list[Sample], kind: DisturbanceKind, text: str) -> None:
    (disturbance,) = summarise(seen).disturbed
    assert (disturbance.kind, disturbance.text) == (kind, text)


def test_idle_gpu_is_not_disturbed() -> None:
    idle = samples(50, utilization=0, sm_clock_mhz=345, link_generation=1, throttle_reasons=(ThrottleReason.POWER_CAP,))
    assert summarise(idle + samples(50)).disturbed == []


def test_one_throttled_sample_in_a_hundred_is_accepted() -> None:
    found = summarise(samples(99) + samples(1, throttle_reasons=(ThrottleReason.POWER_BRAKE,)))
    assert found.disturbed == [] and found.throttle_reasons == ["power brake"]


def test_power_cap_is_recorded_but_not_a_disturbance() -> None:
    capped = samples(50, throttle_reasons=(ThrottleReason.POWER_CAP,))
    found = summarise(capped + samples(50, throttle_reasons=(ThrottleReason.POWER_CAP,), sm_clock_mhz=1335))
    assert found.disturbed == [] and found.throttle_shares == {"power cap": 1.0}


def test_nothing_is_known_without_samples() -> None:
    found = summarise([])
    assert found.samples == 0 and not found.throttle_known and found.disturbed == []


def wait_for_samples(monitor: Watch) -> None:
    while len(monitor._samples) < 3:
        time.sleep(0.01)


def test_watch_samples_this_host() -> None:
    monitor = Watch(None, sorted(os.sched_getaffinity(0)), list, interval_s=0.05).start()
    wait_for_samples(monitor)
    found = monitor.summary()
    assert found.samples >= 3 and found.foreign_cpus is not None and not found.throttle_known


def test_cpus_are_watched_when_the_driver_fails() -> None:
    monitor = Watch("GPU-that-is-not-there", [0], list, interval_s=0.01).start()
    wait_for_samples(monitor)
    assert monitor.summary().foreign_cpus is not None


def spin(cpu: int) -> subprocess.Popen[bytes]:
    code = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint(flush=True)\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    return child


def until_it_worked(child: subprocess.Popen) -> float:
    """Wait for WORK_S of CPU time of the child, however busy the machine is; return how long that took."""
    process, began = psutil.Process(child.pid), time.monotonic()
    worked_s = process.cpu_times().user
    while process.cpu_times().user < worked_s + WORK_S:
        time.sleep(0.05)
    return time.monotonic() - began


def test_own_work_is_not_foreign_and_other_work_is() -> None:
    cpu = min(os.sched_getaffinity(0))
    child = spin(cpu)
    try:
        own, foreign = ForeignLoad(frozenset({cpu}), lambda: [child.pid]), ForeignLoad(frozenset({cpu}), list)
        assert own.read() is foreign.read() is None
        waited_s = until_it_worked(child)
        as_own, as_foreign = own.read(), foreign.read()
    finally:
        child.kill()
        child.communicate()
    # Others may share the CPU while the test runs; the child's part of it must still make the difference.
    assert (as_foreign - as_own) * waited_s > WORK_S / 2


def test_work_of_all_sessions_of_a_run_is_its_own() -> None:
    cpu = min(os.sched_getaffinity(0))
    children = [spin(cpu), spin(cpu)]
    try:
        both = ForeignLoad(frozenset({cpu}), lambda: [child.pid for child in children])
        first = ForeignLoad(frozenset({cpu}), lambda: [children[0].pid])
        assert both.read() is first.read() is None
        waited_s = until_it_worked(children[1])
        without_foreign, with_foreign = both.read(), first.read()
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert (with_foreign - without_foreign) * waited_s > WORK_S / 2


def test_work_of_a_peer_bound_elsewhere_hides_nothing() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("a peer elsewhere needs a second CPU")
    here, elsewhere = cpus[:2]
    peer, other = spin(elsewhere), spin(here)
    try:
        beside, alone = ForeignLoad(frozenset({here}), lambda: [peer.pid]), ForeignLoad(frozenset({here}), list)
        assert beside.read() is alone.read() is None
        waited_s = until_it_worked(peer)
        # Both see the same work of others; they are read one after the other, so not to the tick.
        assert abs(beside.read() - alone.read()) * waited_s < WORK_S / 2
    finally:
        for child in (peer, other):
            child.kill()
            child.communicate()


def test_load_is_unknown_when_the_kernel_counts_none() -> None:
    load = ForeignLoad(frozenset({10**6}), list)
    assert load.read() is None
    time.sleep(0.01)
    assert load.read() is None


def test_busy_ticks_only_grow() -> None:
    cpu, *others = sorted(os.sched_getaffinity(0))
    first = busy_ticks([cpu])
    assert 0 < first <= busy_ticks([cpu]) and busy_ticks([10**6]) == 0
    apart = busy_ticks([cpu]) + busy_ticks(others)
    assert busy_ticks([cpu, *others]) >= apart


def test_watch_avoids_measured_cpus_when_others_are_allowed() -> None:
    everything = os.sched_getaffinity(0)
    try:
        avoid_cpus(frozenset(everything))
        assert os.sched_getaffinity(0) == everything
        if len(everything) > 1:
            avoid_cpus(frozenset({min(everything)}))
            assert os.sched_getaffinity(0) == everything - {min(everything)}
    finally:
        os.sched_setaffinity(0, everything)


def test_process_stays_own_when_its_session_is_gone() -> None:
    """The driver lists a process until it is quite gone; its session is not a living one by then."""
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    sessions = [child.pid]
    own = OwnProcesses(lambda: sessions)
    try:
        assert child.pid in own and 1 not in own
        sessions.clear()
        assert child.pid in own and child.pid not in OwnProcesses(lambda: sessions)
    finally:
        child.kill()
        child.wait()
