"""A light watch over a run: clocks, throttling, link and other processes, by criteria independent of throughput.

A thread of the parent, 10 samples a second; NVML where there is a GPU, /proc/stat for the CPUs.
"""

import os
import threading
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.host.gpus import ask_gpu, throttle_reasons
from bench.records.host import ThrottleReason
from bench.records.run import Disturbance, DisturbanceKind, Monitor, Spread
from bench.storage import stat_fields
from bench.units import fixed, percent

INTERVAL_S = 0.08  # with the time that NVML takes, still 10 samples a second
MOST_SAMPLES = 36000
SLOWED_SHARE = 0.02
"""Throttling in more than this share of the samples disturbs a run; a power cap does not, being how a GPU
normally runs large models: the record names it, and clocks then follow the power."""
CLOCK_SPREAD = 0.05
FOREIGN_CPU = 0.5
"""CPUs' worth of work by others on the run's node that disturbs it."""

Sessions = Callable[[], Collection[int]]


@dataclass(frozen=True)
class Sample:
    """The GPU and the watched CPUs at one moment. None: not reported. utilization: percent, the higher of GPU and
    memory; foreign_cpus: CPUs' worth of work by others since the sample before."""

    at_s: float
    foreign_cpus: float | None = None
    utilization: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttle_reasons: tuple[ThrottleReason, ...] | None = None
    link_generation: int | None = None
    link_generation_max: int | None = None
    link_width: int | None = None
    other_processes: tuple[int, ...] = ()


Reader = Callable[[], Sample]


class Watch:
    """Watch from start() to summary(). sessions: gives the leaders of the run's own sessions, once they are
    known: the measured process and those that keep other GPUs busy beside it.

    gpu_uuid: None on the cpu device. watched_cpus: the run's CPUs, which the watching thread avoids.
    """

    def __init__(
        self,
        gpu_uuid: str | None,
        watched_cpus: Iterable[int],
        sessions: Sessions,
        interval_s: float = INTERVAL_S,
        reader: Reader | None = None,
    ) -> None:
        self._watched = frozenset(watched_cpus)
        self._interval_s = interval_s
        self._samples: list[Sample] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._gpu_uuid, self._sessions, self._reader = gpu_uuid, sessions, reader

    def start(self) -> "Watch":
        self._thread.start()
        return self

    def summary(self) -> Monitor:
        """End the watch and summarise its samples."""
        self._ended.set()
        self._thread.join(timeout=5)
        return summarise(list(self._samples))

    def _watch(self) -> None:
        avoid_cpus(self._watched)
        with _reader(self._gpu_uuid, self._watched, self._sessions) as live:
            read = self._reader or live
            while len(self._samples) < MOST_SAMPLES:
                self._samples.append(read())
                if self._ended.wait(self._interval_s):
                    break


def avoid_cpus(cpus: frozenset[int]) -> None:
    """Move the calling thread away from these CPUs, if any others are allowed."""
    with suppress(OSError):
        if others := os.sched_getaffinity(0) - cpus:
            os.sched_setaffinity(0, others)


def summarise(samples: Sequence[Sample]) -> Monitor:
    """Ranges and shares of the samples, and the reasons why the run counts as disturbed.

    Clocks, throttling and link count only while the GPU was at work: an idle GPU lowers all of them.
    """
    at_work = [sample for sample in samples if sample.utilization]
    reasons = [reason for sample in at_work for reason in sample.throttle_reasons or ()]
    shares = {reason: reasons.count(reason) / len(at_work) for reason in dict.fromkeys(reasons)}
    foreign = [sample.foreign_cpus for sample in samples if sample.foreign_cpus is not None]
    span_s = samples[-1].at_s - samples[0].at_s if len(samples) > 1 else 0.0
    foreign_cpus = sum(foreign) / len(foreign) if foreign else None
    others = sorted({pid for sample in samples for pid in sample.other_processes})
    clocks = _spread([sample.sm_clock_mhz for sample in at_work])
    link = _spread([sample.link_generation for sample in at_work])
    best_link = max((sample.link_generation_max or 0 for sample in samples), default=0)
    return Monitor(
        samples=len(samples),
        rate_hz=round((len(samples) - 1) / span_s, 2) if span_s else None,
        at_work=len(at_work),
        throttle_known=any(sample.throttle_reasons is not None for sample in samples),
        throttle_reasons=sorted(shares),
        throttle_shares={reason: round(share, 4) for reason, share in shares.items()},
        other_processes=others,
        foreign_cpus=None if foreign_cpus is None else round(foreign_cpus, 3),
        sm_clock_mhz=clocks,
        memory_clock_mhz=_spread([sample.memory_clock_mhz for sample in at_work]),
        temperature_c=_spread([sample.temperature_c for sample in at_work]),
        power_w=_spread([sample.power_w for sample in at_work]),
        link_generation=link,
        link_width=_spread([sample.link_width for sample in at_work]),
        disturbed=[
            *_throttling(shares),
            *_other_processes(others),
            *_slow_link(link, best_link),
            *_falling_clock(clocks, shares),
            *_other_cpu_load(foreign_cpus),
        ],
    )


def _throttling(shares: dict[ThrottleReason, float]) -> Iterator[Disturbance]:
    for reason, share in shares.items():
        if share > SLOWED_SHARE and reason is not ThrottleReason.POWER_CAP:
            yield Disturbance(
                kind=DisturbanceKind.THROTTLED, text=f"throttled ({reason}) in {percent(share)} of the samples"
            )


def _other_processes(others: list[int]) -> Iterator[Disturbance]:
    if others:
        text = f"other processes on the GPU: {', '.join(map(str, others))}"
        yield Disturbance(kind=DisturbanceKind.OTHER_PROCESSES, text=text)


def _slow_link(link: Spread | None, best: int) -> Iterator[Disturbance]:
    if link and link.max < best:
        text = f"the link ran at generation {fixed(link.max, 0)} of {best} under load"
        yield Disturbance(kind=DisturbanceKind.LINK_GENERATION, text=text)


def _falling_clock(clocks: Spread | None, shares: dict[ThrottleReason, float]) -> Iterator[Disturbance]:
    capped = shares.get(ThrottleReason.POWER_CAP, 0) > SLOWED_SHARE
    if clocks and not capped and clocks.p10 < (1 - CLOCK_SPREAD) * clocks.p50:
        text = f"SM clock fell from {fixed(clocks.p50, 0)} to {fixed(clocks.p10, 0)} MHz"
        yield Disturbance(kind=DisturbanceKind.CLOCK, text=text)


def _other_cpu_load(foreign_cpus: float | None) -> Iterator[Disturbance]:
    if foreign_cpus is not None and foreign_cpus > FOREIGN_CPU:
        text = f"other processes used {fixed(foreign_cpus, 1)} of the run's CPUs"
        yield Disturbance(kind=DisturbanceKind.OTHER_CPU_LOAD, text=text)


def _spread(samples: Iterable[float | None]) -> Spread | None:
    values = sorted(value for value in samples if value is not None)
    if not values:
        return None
    last = len(values) - 1
    return Spread(min=values[0], p10=values[last // 10], p50=values[last // 2], max=values[-1])


@contextmanager
def _reader(gpu_uuid: str | None, watched: frozenset[int], sessions: Sessions) -> Iterator[Reader]:
    cpus = ForeignLoad(watched, sessions)

    def read_cpus() -> Sample:
        return Sample(at_s=time.monotonic(), foreign_cpus=cpus.read())

    if gpu_uuid is None:
        yield read_cpus
        return
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
    except Exception:  # no library, no driver, no such GPU: the CPUs can still be watched
        yield read_cpus
        return
    own = OwnProcesses(sessions)
    try:
        yield lambda: replace(read_gpu(pynvml, handle, own), foreign_cpus=cpus.read())
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def read_gpu(nvml: Any, handle: Any, own: Container[int]) -> Sample:
    """One sample of the GPU alone; what NVML refuses is None."""
    ask = partial(ask_gpu, nvml, handle)
    power, use = ask("PowerUsage"), ask("UtilizationRates")
    processes = [int(process.pid) for process in ask("ComputeRunningProcesses") or ()]
    return Sample(
        at_s=time.monotonic(),
        utilization=None if use is None else max(use.gpu, use.memory),
        sm_clock_mhz=ask("ClockInfo", nvml.NVML_CLOCK_SM),
        memory_clock_mhz=ask("ClockInfo", nvml.NVML_CLOCK_MEM),
        temperature_c=ask("Temperature", nvml.NVML_TEMPERATURE_GPU),
        power_w=None if power is None else power / 1000,
        throttle_reasons=throttle_reasons(ask("CurrentClocksThrottleReasons")),
        link_generation=ask("CurrPcieLinkGeneration"),
        link_generation_max=ask("MaxPcieLinkGeneration"),
        link_width=ask("CurrPcieLinkWidth"),
        # Inside a container NVML names processes by ids of another namespace: then none can be identified.
        other_processes=tuple(pid for pid in processes if pid not in own and os.path.exists(f"/proc/{pid}")),
    )


class OwnProcesses:
    """Whether a process is, or was, one of the run's. The driver lists a process until it is completely gone, and by
    then it no longer leads a session."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._seen: set[int] = set()

    def __contains__(self, pid: object) -> bool:
        if pid not in self._seen:
            self._seen |= _own(self._sessions())
        return pid in self._seen


def _own(sessions: Collection[int]) -> set[int]:
    """The processes of the run's sessions, and this process."""
    own = {os.getpid()}
    if sessions:
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdigit() and os.getsid(int(name)) in sessions:
                    own.add(int(name))
    return own


class ForeignLoad:
    """CPUs' worth of work, on the watched CPUs, that is not the run's own."""

    def __init__(self, watched: frozenset[int], sessions: Sessions) -> None:
        self._watched, self._sessions = watched, sessions
        self._last: tuple[float, float, dict[int, float]] | None = None

    def read(self) -> float | None:
        """Since the last call; None at the first, and where the kernel counts nothing (some sandboxes)."""
        tick = os.sysconf("SC_CLK_TCK")
        busy = busy_ticks(self._watched) / tick
        own = {pid: _cpu_ticks(pid) / tick for pid in _own(self._sessions()) if self._may_work_here(pid)}
        now = time.monotonic()
        last, self._last = self._last, (now, busy, own)
        if last is None or now <= last[0] or not busy:
            return None
        used = sum(seconds - last[2].get(pid, 0.0) for pid, seconds in own.items())
        return max(0.0, (busy - last[1] - used) / (now - last[0]))

    def _may_work_here(self, pid: int) -> bool:
        """The time of a peer that is bound to other CPUs would hide as much work of others on these."""
        try:
            return not self._watched.isdisjoint(os.sched_getaffinity(pid))
        except OSError:
            return False


def busy_ticks(cpus: Iterable[int]) -> int:
    """Ticks that these CPUs spent on anything but idling and waiting for disks (proc(5), /proc/stat)."""
    wanted, ticks = {f"cpu{cpu}" for cpu in cpus}, 0
    # Read once for all of them: the kernel generates it, for every CPU and interrupt, at each opening.
    with suppress(OSError), open("/proc/stat") as file:
        for line in file:
            name, *fields = line.split(maxsplit=9)
            if name in wanted:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                ticks += user + nice + system + irq + softirq + steal
    return ticks


def _cpu_ticks(pid: int) -> int:
    with suppress(OSError):
        if fields := stat_fields(pid):
            return int(fields[11]) + int(fields[12])
    return 0
