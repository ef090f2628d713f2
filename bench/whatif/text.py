"""What `numastudy whatif` prints: the only English of its answer."""

from collections.abc import Iterator

from bench.records.whatif import BOUNDS_FAIL, Decision, GpuWhatIf, LinkUse, Refusal, Slower, WhatIf
from bench.units import bandwidth, byte_size, fixed, grouped, listed, microseconds, percent, plural, upper_bound

MEASURE = "numastudy run --read wall -- COMMAND"
_TIMES = {2.0: "twice", 3.0: "three times"}


def whatif_text(found: WhatIf) -> str:
    """All of it; the first sentence decides."""
    blocks = [found.text, *_about_trace(found)]
    for gpu in found.gpus:
        blocks += ["", *_gpu_lines(gpu)]
    blocks += ["", *_profiler_lines(found), *_limit_lines()]
    return "\n".join(blocks)


def decision_text(found: WhatIf) -> str:
    """The sentence that decides, and how to measure what it leaves open."""
    times = _TIMES[found.factor]
    where = "" if len(found.gpus) == 1 else f" on any of {len(found.gpus)} GPUs"
    short = ""
    if all(gpu.short for gpu in found.gpus):
        activities = plural(sum(gpu.activities for gpu in found.gpus), "activity", "activities")
        short = f" (only {activities} in {microseconds(found.traced_ms * 1e3)})"
    if found.most is None:
        reasons = dict.fromkeys(reason for gpu in found.gpus for reason in gpu.refusals if reason in BOUNDS_FAIL)
        why = listed([_reason(reason, found) for reason in reasons])
        return f"This trace cannot say what placement of memory costs: {why}. To measure it: {MEASURE}"
    if not any(gpu.h2d.copies + gpu.d2h.copies for gpu in found.gpus):
        return f"Placement of memory slows no copy of this program{short}: it has none between host and GPU."
    bound = upper_bound(found.most)
    if found.decision is Decision.CANNOT_MATTER:
        return (
            f"Placement of memory cannot slow this program{short} by more than {bound}{where}, "
            f"even if host copies took {times} as long."
        )
    estimates = [_range(one) for gpu in found.gpus for one in gpu.copies if one.factor == found.factor and one.estimate]
    estimate = f" (estimate {estimates[0]})" if len(estimates) == len(found.gpus) == 1 else ""
    return (
        f"Placement of memory can slow this program{short} by up to {bound}{where}{estimate}, "
        f"if host copies took {times} as long; to measure it: {MEASURE}"
    )


def gpu_text(gpu: GpuWhatIf, found: WhatIf) -> str:
    """One sentence on a GPU: what an estimate says, or why there is none."""
    if gpu.refusals:
        return f"No estimate: {listed([_reason(reason, found) for reason in gpu.refusals])}."
    if not gpu.h2d.copies + gpu.d2h.copies:
        return "No copies between host and GPU."
    slower = next(one for one in gpu.copies if one.factor == found.factor)
    return f"Estimate for copies that take {_TIMES[found.factor]} as long: {_range(slower)} slower."


def _reason(reason: Refusal, found: WhatIf) -> str:
    if reason is Refusal.INCOMPLETE:
        lost = found.launches - found.recorded
        return f"the profiler lost the activities of {grouped(lost)} of {grouped(found.launches)} launches"
    return {
        Refusal.UNEXPLAINED: "too much of the critical path has no cause in the trace",
        Refusal.NO_CALLS: "less than half of the activities have their API call in the trace",
        Refusal.MANAGED_MEMORY: "the program uses managed memory, whose page moves are not copies",
    }[reason]


def _about_trace(found: WhatIf) -> Iterator[str]:
    tool = " ".join(part for part in (found.tool.product, found.tool.version) if part)
    yield (
        f"{found.trace}{f'  ({tool})' if tool else ''}: {grouped(found.activities)} GPU activities, "
        f"{grouped(found.calls)} API calls; of {grouped(found.launches)} launches {grouped(found.recorded)} have their "
        "activity"
    )
    if not found.has_event_records:
        yield (
            "  without records of events: waits between streams are inferred from times, so look at the bounds first "
            "(torch.profiler: enable_cuda_sync_events)"
        )
    if found.aligned_ns:
        moved = microseconds(found.aligned_ns / 1e3)
        yield f"  the clock of a GPU was up to {moved} ahead of the host's, and was set back"


def _gpu_lines(gpu: GpuWhatIf) -> Iterator[str]:
    late = f", of it {percent(gpu.late_launch_share)} of the window until a late launch" if gpu.idle_share else ""
    yield (
        f"GPU {gpu.device}: {microseconds(gpu.window_ms * 1e3)}, kernels {percent(gpu.compute_share)}, "
        f"idle {percent(gpu.idle_share)}{late}"
    )
    if gpu.short:
        yield f"  short: {plural(gpu.activities, 'activity', 'activities')}; how the window begins and ends counts"
    if gpu.collective_share:
        yield f"  collectives {percent(gpu.collective_share)}: how long they wait for other GPUs is kept as it is"
    for name, link in (("H2D", gpu.h2d), ("D2H", gpu.d2h)):
        if link.copies:
            yield f"  {name}  {_link(link)}"
    yield f"  critical path: {_path(gpu)}"
    yield f"  {gpu.text}"
    for copies in gpu.copies if gpu.h2d.copies + gpu.d2h.copies else ():
        estimate = "" if copies.estimate is None else f"; estimate {_range(copies)}"
        least = f"at least {percent(copies.at_least)}, " if copies.at_least else ""
        yield f"  copies x {fixed(copies.factor)}  {least}at most {upper_bound(copies.at_most)}{estimate}"
    for cpu in gpu.cpu:
        least = f"at least {percent(cpu.at_least)}, " if round(cpu.at_least, 4) else ""
        yield f"  CPU    x {fixed(cpu.factor)}  {least}at most {upper_bound(cpu.at_most)}, as traced"


def _range(slower: Slower) -> str:
    if slower.estimate is None:
        return ""
    low, high = (percent(one) for one in slower.estimate)
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def _link(link: LinkUse) -> str:
    rate = "" if link.gb_s is None else f", {bandwidth(link.gb_s)} GB/s"
    pageable = f", pageable {percent(link.pageable / link.copies)}" if link.pageable else ""
    common = max(link.sizes, key=lambda size: link.sizes[size] * size)
    return (
        f"busy {percent(link.busy_share)}, exposed {percent(link.exposed_share)}{rate}, "
        f"{plural(link.copies, 'copy', 'copies')} of {byte_size(link.bytes)}, most bytes in copies of "
        f"{byte_size(common)} or up to twice that{pageable}"
    )


def _path(gpu: GpuWhatIf) -> str:
    path = gpu.path
    parts = (
        ("kernels", path.kernels),
        ("H2D", path.h2d),
        ("D2H", path.d2h),
        ("API calls", path.api_calls),
        ("CPU between calls", path.between_calls),
        ("calls that took unusually long", path.long_calls),
        ("lags", path.lags),
    )
    shown = [f"{name} {percent(share)}" for name, share in parts if share >= 0.0005]
    return ", ".join([*shown, f"unexplained {percent(path.unexplained)}"])


def _profiler_lines(found: WhatIf) -> Iterator[str]:
    free = max(gpu.cpu_free_ms for gpu in found.gpus)
    if found.untraced_ms is None:
        yield (
            "The profiler slows the CPU. With a CPU that takes no time this would last "
            f"{microseconds(free * 1e3)} of the traced {microseconds(found.traced_ms * 1e3)}; bounds refer to that. "
            "Time the program without the profiler and give --untraced MS to narrow them."
        )
        return
    yield (
        f"The profiler made it {fixed(found.traced_ms / found.untraced_ms)} times as long: "
        f"{microseconds(found.traced_ms * 1e3)} against {microseconds(found.untraced_ms * 1e3)} without it."
    )
    if found.untraced_ms < 0.95 * free:
        yield (
            f"Even with a CPU that takes no time the replay lasts {microseconds(free * 1e3)}: the profiler slows more "
            "than the CPU, so trust the bounds more than the estimate."
        )


def _limit_lines() -> Iterator[str]:
    yield (
        "Bounds hold for the graph of this trace; an estimate is a replay of it. Neither sees contention on links or "
        "memory, kernels that read host memory, or other hosts (docs/whatif.md)."
    )
