"""What comparisons inside processes promise, from simulated ones and from run records through `numastudy report`."""

import math
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.crossing import ProcessValue, crossed_sample
from bench.analysis.statistics import Estimate, estimate, holm
from bench.analysis.verdicts import FEWEST_FOR_HEADLINE, decided
from bench.records.results import NoiseClass, Verdict
from tests.crossings import windows_by_turns
from tests.run_directories import CrossedProcess, build_run_directory
from tests.validation.goals import Figure, Goal, Task, at_least, at_most, rate
from tests.validation.through_commands import reported

PROCESSES = 6
BIRTHS = (0, 1)
# Comparisons of a study, as 4 GPUs x 6 models have them.
FAMILY = 24
SD = 0.01
FEWEST = FEWEST_FOR_HEADLINE["crossing"]
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(0, SD, shape)


def t3(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_t(3, shape) * SD / math.sqrt(3)


def births_apart(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Processes of the two births differ by two standard deviations; the effect is the mean over births."""
    return normal(rng, shape) + np.where(np.arange(shape[1]) % 2, SD, -SD)


def bursts(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Log-normal."""
    return SD * (rng.lognormal(0, 1, shape) - math.exp(0.5)) / 2.16


def strays(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One process in ten is off by six standard deviations, either way."""
    return normal(rng, shape) + 6 * SD * (rng.random(shape) < 0.1) * rng.choice([-1, 1], shape)


def two_states(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return SD * rng.choice([-1.0, 1.0], shape) + rng.normal(0, SD / 10, shape)


def unequal_births(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Processes of one birth vary four times as much as those of the other."""
    return normal(rng, shape) * np.where(np.arange(shape[1]) % 2, 0.25, 1.0)


def placement_states(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """In each process either placement is in one of two states, whatever the other is in."""
    states = rng.choice([-1.0, 1.0], (2, *shape))
    return SD / math.sqrt(2) * (states[1] - states[0]) + rng.normal(0, SD / 10, shape)


def placement_bursts(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Either placement of a process is slower by a log-normal loss of its own."""
    return bursts(rng, shape) - bursts(rng, shape)


KINDS: dict[str, Draw] = {
    "normal": normal,
    "t3": t3,
    "births apart": births_apart,
    "log-normal": bursts,
    "10 % stray": strays,
    "two states": two_states,
    "unequal births": unequal_births,
    "states of each placement": placement_states,
    "log-normal of each placement": placement_bursts,
}
# Of a kind without a promise the figure is stated, and the page says why nothing is promised.
UNPROMISED = ("log-normal", "10 % stray", "two states", "states of each placement")


def estimates(draw: Draw, studies: int, processes: int, effect: float = 0.0, seed: int = 0) -> list[Estimate]:
    """Of independent comparisons whose true log ratio is `effect`."""
    values = draw(np.random.default_rng([seed, processes]), (studies, processes)) + effect
    samples = [
        crossed_sample(
            "simulated",
            NoiseClass.DEVICE_BOUND,
            {str(at): ProcessValue(float(value), None, BIRTHS[at % 2]) for at, value in enumerate(row)},
        )
        for row in values
    ]
    return estimate(samples)


def coverage(comparisons: int) -> Iterator[Figure]:
    for name, draw in KINDS.items():
        for n in (4, PROCESSES):
            found = estimates(draw, comparisons, n)
            covered = [one.interval[0] <= 0 <= one.interval[1] for one in found if one.interval]
            goal = None if name in UNPROMISED else between(0.945, 0.955) if name == "normal" else at_least(0.95)
            if goal and n != PROCESSES:
                goal = at_least(0.93)
            yield rate("crossing: 95 % interval covers", f"{name}, n = {n}", covered, goal)


def false_verdicts(comparisons: int) -> Iterator[Figure]:
    for name, draw in KINDS.items():
        # So wide that SAME does not hide what differs.
        found = estimates(lambda rng, shape, draw=draw: 4 * draw(rng, shape), comparisons // FAMILY * FAMILY, PROCESSES)
        goal = None if name in UNPROMISED else at_most(0.05)
        differ = [decided(one) in (Verdict.SLOWER, Verdict.FASTER) for one in found]
        yield rate("crossing A/A: FASTER or SLOWER", name, differ, goal)
        families = [found[at : at + FAMILY] for at in range(0, len(found), FAMILY)]
        yield rate(f"crossing A/A: a headline among {FAMILY}", name, [_has_headline(own) for own in families], goal)


def power(comparisons: int) -> Iterator[Figure]:
    """A second study has exactly the effect that the first states as its minimum."""
    for name in ("normal", "t3"):
        stated = estimates(KINDS[name], comparisons, PROCESSES, seed=1)
        values = KINDS[name](np.random.default_rng(2), (comparisons, PROCESSES))
        effects = [math.log1p(-(one.mde or 0.0)) for one in stated]
        samples = [
            crossed_sample(
                "simulated",
                NoiseClass.DEVICE_BOUND,
                {str(at): ProcessValue(float(v) + effect, None, BIRTHS[at % 2]) for at, v in enumerate(row)},
            )
            for row, effect in zip(values, effects, strict=True)
        ]
        found = [not one.interval[0] <= 0 <= one.interval[1] for one in estimate(samples) if one.interval]
        yield rate("crossing: effect at the MDE found", name, found, at_least(0.80))


def same_above_margin(comparisons: int) -> Iterator[Figure]:
    for name in ("normal", "t3", "births apart"):
        found = estimates(KINDS[name], comparisons, PROCESSES, effect=math.log1p(-0.02))
        same = [decided(one) is Verdict.SAME for one in found]
        yield rate("crossing: SAME at the margin", name, same, at_most(0.05))


# Through run records on disk


def host_process(effect: float, luck: float = 0.002, drift: float = 0.0, seed: int = 0) -> CrossedProcess:
    """A process of a busy host: levels that spread by 25 %, luck of each placement for life, bursts, Student's noise.

    effect: true log ratio of every other cell to the first one of its group; drift: of throughput per second.
    """

    def process(group: str, number: int, birth: int, paces_s: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
        draw = random.Random(f"{seed} {group} {number}")
        numpy_draw = np.random.default_rng(draw.getrandbits(64))
        level = 1e-3 * math.exp(draw.gauss(0.0, 0.25))
        first = next(iter(paces_s))
        paces = {cell: level * math.exp(draw.gauss(0.0, luck) - effect * (cell != first)) for cell in paces_s}

        def factor(cell: str, time_s: float) -> float:
            burst = 1.25 if numpy_draw.random() < 0.05 else 1.0
            return burst * math.exp(drift * time_s + 0.004 * float(numpy_draw.standard_t(3)))

        return windows_by_turns(paces, 16, f"{seed} {group} {number}", factor)

    return process


def reports(studies: int) -> Iterator[Figure]:
    """Each study, of 12 comparisons, is written as run records and put through `numastudy report`."""
    truth = math.log1p(-0.05)
    for case, effect, drift in (("A/A", 0.0, 0.0), ("A/A, drift of 2 %/s", 0.0, 0.02), ("-5 %", truth, 0.0)):
        penalties = [_penalties(host_process(effect, drift=drift, seed=seed)) for seed in range(studies)]
        entries = [entry for own in penalties for entry in own]
        assert all(entry["design"] == "crossing" and entry["pairs"] == PROCESSES for entry in entries)
        covered = [entry["interval"][0] <= -math.expm1(effect) <= entry["interval"][1] for entry in entries]
        yield rate("records to report: interval covers", case, covered, at_least(0.93))
        if effect:
            found = [entry["verdict"] == "SLOWER" and entry["headline"] for entry in entries]
            yield rate("records to report: found as headline", case, found, at_least(0.95))
        else:
            differ = [entry["verdict"] in ("SLOWER", "FASTER") for entry in entries]
            yield rate("records to report: FASTER or SLOWER", case, differ, at_most(0.05))
        worst = max(abs(entry["penalty"] + math.expm1(effect)) for entry in entries)
        yield Figure("records to report: worst error", case, worst, 0.0, "", None)
        width = float(np.mean([(entry["interval"][1] - entry["interval"][0]) / 2 for entry in entries]))
        yield Figure("records to report: mean half-width", case, width, 0.0, "", None)


def tasks(studies: int) -> list[Task]:
    """studies: of 20 comparisons each, where no records are written."""
    simulated = [partial(goal, 20 * studies) for goal in (coverage, false_verdicts, power, same_above_margin)]
    return [*simulated, partial(reports, max(2, studies // 50))]


def between(low: float, high: float) -> Goal:
    def holds(value: float, error: float) -> bool:
        return low - 2 * error <= value <= high + 2 * error

    return Goal(f"{100 * low:g} to {100 * high:g} %, ± 2 s.e.", holds)


def _penalties(process: CrossedProcess) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        run = build_run_directory(Path(folder) / "run", "numa_locality_study", {"gpu_ids": [0, 1]}, crossed=process)
        return reported(run, page=False)


def _has_headline(family: list[Estimate]) -> bool:
    adjusted = holm([one.p_difference or 0.0 for one in family])
    return any(
        one.pairs >= FEWEST and p <= 1 - one.confidence and decided(one) is not Verdict.SAME
        for one, p in zip(family, adjusted, strict=True)
    )
