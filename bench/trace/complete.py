"""Whether the records of a window can be true, and whether they are all there. What fails raises TraceError."""

import numpy as np
from numpy.typing import NDArray

from bench.trace.export import LATEST, NULL, STRINGS, Export
from bench.trace.intervals import Times, running_end

# More than twice the fastest link between host and device (NVLink-C2C: 1,800 GB/s both ways). GB/s are bytes per ns.
MOST_LINK_GB_S = 4000
# What the clock of the device may miss of a copy.
CLOCK_NS = 100
# Kernels of one stream run one after the other, but for the first and last blocks of dependent launches.
MOST_OVERLAP_NS = 1_000_000
LOST = "the profiler lost records: measure the cell again"
CLOCKS = "the clocks of the trace are wrong: measure the cell again"


def check_times(export: Export, table: str, start: Times, end: Times, called: Times) -> None:
    if not len(start):
        return
    count = len(start)
    untimed = int(((start == 0) & (end == 0)).sum())
    if untimed:
        export.fail(f"{untimed} of {count} activities of the window have no time: start and end are 0 ({table})", LOST)
    if start.min() == NULL:
        export.fail(
            f"an activity of the window has no start ({table})", "the export is damaged: export the trace again"
        )
    unfinished = int((end < start).sum())
    if unfinished:
        export.fail(
            f"{unfinished} of {count} activities of the window have no end ({table})",
            "the run was cut short, or the profiler lost records: measure the cell again",
        )
    if start.min() <= -LATEST or end.max() >= LATEST:
        export.fail(f"times beyond +-2^61 ns in {table}", "the export is damaged: export the trace again")
    early = called - start
    if early.max() > 0:
        export.fail(
            f"an activity cannot start before its call: {int((early > 0).sum())} of {count} activities start before "
            f"the API call that launched them, by up to {int(early.max())} ns ({table})",
            CLOCKS,
        )


def check_once(export: Export, table: str, call: NDArray[np.intp], start: Times, end: Times) -> None:
    """The kernels of a graph share one call, but no two records share call, start and end."""
    several = np.flatnonzero(np.bincount(call)[call] > 1) if len(call) else call
    rows = np.stack((call[several], start[several], end[several]))
    distinct = np.unique(rows, axis=1).shape[1] if len(several) else 0
    if distinct < len(several):
        export.fail(
            f"{len(several) - distinct} of {len(call)} activities of the window are recorded twice ({table})", LOST
        )


def check_order(
    export: Export, call: NDArray[np.intp], called: Times, start: Times, end: Times, stream: tuple[Times, Times, Times]
) -> None:
    """Kernels of one stream run in the order of their calls, each after the one before it.

    stream: device, context, stream. The kernels of one graph may run at once, so they are left out.
    """
    single = np.flatnonzero(np.bincount(call)[call] == 1) if len(call) else call
    order = single[np.lexsort((called[single], *(key[single] for key in stream)))]
    if len(order) < 2:
        return
    changes = np.any([np.diff(key[order]) != 0 for key in stream], axis=0)
    group = np.concatenate(([0], np.cumsum(changes)))
    early = running_end(group, end[order])[:-1] - start[order[1:]]
    early[changes] = 0
    if early.max() > MOST_OVERLAP_NS:
        export.fail(
            f"a kernel starts {int(early.max())} ns before the one before it in its stream ends; "
            f"at most {MOST_OVERLAP_NS} ns are possible",
            CLOCKS,
        )


def check_rates(export: Export, direction: str, size: Times, duration: Times) -> None:
    """No copy between host and device is faster than any link. size: bytes."""
    limit = MOST_LINK_GB_S * np.maximum(duration, CLOCK_NS).astype(np.float64)
    chosen = np.flatnonzero(size > limit)
    if len(chosen):
        worst = chosen[np.argmax(size[chosen] / limit[chosen])]
        export.fail(
            f"{len(chosen)} of {len(size)} {direction} copies are faster than any link: {size[worst]} bytes in "
            f"{duration[worst]} ns; {MOST_LINK_GB_S} bytes per ns (GB/s) are possible at most",
            CLOCKS,
        )


def check_recorded(export: Export, names: Times, recorded: NDArray[np.bool_]) -> None:
    """Every successful launch has an activity. names: of the launches, as ids of StringIds."""
    if recorded.all():
        return
    name = names[~recorded][0]
    alike = names == name
    [(text,)] = export.rows(f"SELECT value FROM {STRINGS} WHERE id = ?", (int(name),))[:1]
    export.fail(
        f"the window is not complete: {int(alike.sum())} launches by {text}, {int((recorded & alike).sum())} recorded",
        LOST,
    )
