"""What `numastudy whatif` predicts of simulated programs, and the truth: python -m tests.validation.whatif_simulated

Prints errors by kind of program, how often bounds and estimates hold, and both by the unexplained share of the critical
path, which is what an estimate is refused by. Seeds of 3000 on were not used while the rules were made.
"""

import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.trace.export import open_export
from bench.whatif import answer
from bench.whatif.answer import Interval, whatif
from bench.whatif.read import read_program
from tests.whatif.simulator import KINDS, Run, execute, program, write

FIRST = 3000
FACTORS = (1.25, 2.0, 3.0)
TOLERANCE = 0.01
BINS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.01)


@dataclass(frozen=True)
class Point:
    kind: str
    how: str
    unexplained: float
    error: float
    holds: bool
    bounded: bool
    width: float


def without(run: Run, seed: int, share: float) -> Run:
    """The run with some work and its calls left out: what waited for it has no cause in the trace."""
    chance = random.Random(seed)
    hidden = {one.correlation for one in run.work[1:-1] if chance.random() < share}
    return Run(
        [call for call in run.calls if call.correlation not in hidden],
        [one for one in run.work if one.correlation not in hidden],
    )


def points(kind: str, seed: int, path: Path) -> list[Point]:
    steps = program(kind, seed)
    plain = execute(steps, seed)
    truth = {factor: 1 - plain.span / execute(steps, seed, copies=factor).span for factor in FACTORS}
    found = []
    for how, run, events, untraced in (
        ("as traced", plain, True, None),
        ("3 % of the work is not in the trace", without(plain, seed, 0.03), True, None),
        ("20 % of the work is not in the trace", without(plain, seed, 0.2), True, None),
        ("no event records", plain, False, None),
        ("slow profiler, untraced time given", execute(steps, seed, traced=True), True, plain.span / 1e6),
    ):
        path.unlink(missing_ok=True)
        write(path, run, events=events)
        with open_export(path) as export:
            [gpu] = whatif(read_program(export), "x", export.tool, Interval(), untraced).gpus
        for copies in gpu.copies:
            if copies.factor in truth and copies.estimate:
                real, (low, high) = truth[copies.factor], copies.estimate
                found.append(
                    Point(
                        kind,
                        how,
                        gpu.path.unexplained,
                        max(low - real, real - high, 0.0),
                        low - TOLERANCE <= real <= high + TOLERANCE,
                        copies.at_least - 0.005 <= real <= copies.at_most + 0.005,
                        high - low,
                    )
                )
    return found


def line(name: str, chosen: list[Point]) -> str:
    beyond = [100 * one.error for one in chosen]
    return (
        f"{name:62} n={len(chosen):4}  estimate holds {100 * sum(one.holds for one in chosen) / len(chosen):5.1f} %, "
        f"beyond it by {median(beyond):.2f} points in the median, {max(beyond):.1f} at most; "
        f"median width {100 * median(one.width for one in chosen):.1f}; "
        f"bounds hold {100 * sum(one.bounded for one in chosen) / len(chosen):5.1f} %"
    )


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    answer.MOST_UNEXPLAINED = 1.0  # nothing is refused here
    found: list[Point] = []
    with TemporaryDirectory() as folder:
        for kind in KINDS:
            for seed in range(FIRST, FIRST + seeds):
                found += points(kind, seed, Path(folder) / "x.sqlite")
    groups: dict[str, list[Point]] = defaultdict(list)
    for one in found:
        groups[f"{one.kind}, {one.how}"].append(one)
    for name, chosen in groups.items():
        print(line(name, chosen))
    for low, high in pairwise(BINS):
        chosen = [one for one in found if low <= one.unexplained < high]
        if chosen:
            print(line(f"unexplained {100 * low:.0f} to {100 * high:.0f} % of the critical path", chosen))


if __name__ == "__main__":
    main()
