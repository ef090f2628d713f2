"""Made-up crossings: the windows that a process would have measured by turns, for chosen paces and noise."""

import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Any

from bench.records.base import convert
from bench.records.run import Window
from bench.workload.turns import carry_over, half_ratios, schedule, yuen_error

BATCHES, LEAD_BATCHES = 40, 20
Windows = dict[str, list[dict[str, Any]]]


def windows_by_turns(
    paces_s: Mapping[str, float],
    rounds: int = 8,
    seed: str = "made",
    factor: Callable[[str, float], float] = lambda cell, time_s: 1.0,
    batches: int = BATCHES,
) -> Windows:
    """By cell, its windows in the real schedule. paces_s: by cell, seconds per batch.

    factor: on the time per batch of a cell at a time since the first window, in seconds: drift and noise.
    """
    cells, windows, time_s = list(paces_s), {cell: list[dict[str, Any]]() for cell in paces_s}, 0.0
    last = ""
    for number, order in enumerate(schedule(len(cells), rounds, seed)):
        for turn, index in enumerate(order):
            cell = cells[index]
            lead = 1 if cell == last else LEAD_BATCHES
            time_s += lead * paces_s[cell]
            duration_s = batches * paces_s[cell] * factor(cell, time_s)
            windows[cell].append(
                {
                    "batches": batches,
                    "duration_s": duration_s,
                    "start_ns": 1 + int(1e9 * time_s),
                    "round": number,
                    "turn": turn,
                    "moved": int(cell != last) * 33,
                    "move_us": int(cell != last) * 310,
                    "lead_batches": lead,
                }
            )
            time_s += duration_s
            last = cell
    return windows


def crossing_facts(group: str, process: int, birth: int, windows: Windows) -> dict[str, Any]:
    """The crossing record of a process with these windows; its id follows from group and process."""
    base, *others = windows
    typed = {cell: convert(own, list[Window]) for cell, own in windows.items()}
    ratios = {other: half_ratios(typed[base], typed[other]) for other in others}
    return {
        "group": group,
        "process": process,
        "id": hashlib.sha256(f"{group} {process}".encode()).hexdigest()[:32],
        "birth_cpu_node": birth,
        "birth_mem_node": birth,
        "placements": list(windows),
        "rounds": 1 + max(window["round"] for window in windows[base]),
        "batches": windows[base][0]["batches"],
        "lead_batches": LEAD_BATCHES,
        "pilot_pace_s": min(own[0]["duration_s"] / own[0]["batches"] for own in windows.values()),
        "threads": 33,
        "born_bytes": {"anon": {str(birth): 160 << 20}},
        "error": {other: yuen_error(halves) for other, halves in ratios.items()},
        "carry_over": {cell: change for cell, own in typed.items() if (change := carry_over(own)) is not None},
    }


def noisy_windows(seed: str, sd: float = 0.004) -> Callable[[str, float], float]:
    """A factor for windows_by_turns: independent normal noise of each window."""
    draw = random.Random(seed)
    return lambda cell, time_s: max(0.05, draw.gauss(1.0, sd))
