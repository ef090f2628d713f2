"""Spans of nights that were never measured: how often NightlySweep alarms without a reason, and misses one.

    python -m tests.validation --nights [--spans 40]      # also a part of make validate

A span: 28 nights of history, then 60 nights of 48 cells, judged by the real code, as on a host: a night
that found a cell slower is kept out of its later baselines.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from bench.nightly.judge import CONFIRMED_AT, SPAN_NIGHTS, Tonight, judge_cells, level
from bench.records.nightly import NightlyVerdict
from bench.records.results import NoiseClass
from bench.records.run import Outcome

CELLS, HISTORY = 48, 28
SPREADS = (0.0016, 0.0075)
"""Of the nights of a cell, relative: of quiet graph cells to what is still guarded at 5 %."""
LOSS = 0.05


@dataclass(frozen=True)
class Noise:
    """What one measurement of a night deviates by, in units of a cell's spread.

    of_night(rng, nights, cells): what all measurements of a night share; of_measurement(rng, cells): what each has of
    its own. Together they have a variance of 1.
    """

    name: str
    of_night: Callable[[np.random.Generator, int, int], np.ndarray]
    of_measurement: Callable[[np.random.Generator, int], np.ndarray]


def student(rng: np.random.Generator, shape: tuple[int, ...] | int, df: int = 5) -> np.ndarray:
    return rng.standard_t(df, shape) / np.sqrt(df / (df - 2))


def nothing(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    return np.zeros((nights, cells))


def autocorrelated(rng: np.random.Generator, nights: int, cells: int, by: float = 0.5) -> np.ndarray:
    """A host that is a little slower tonight is so tomorrow; all measurements of the night see it."""
    rows = [rng.normal(size=cells)]
    for _ in range(nights - 1):
        rows.append(by * rows[-1] + np.sqrt(1 - by**2) * rng.normal(size=cells))
    return np.array(rows)


NOISES = (
    Noise("normal", nothing, lambda rng, cells: rng.normal(size=cells)),
    Noise("normal, autocorrelated by 0.5, of the night alone", autocorrelated, lambda rng, cells: np.zeros(cells)),
    Noise("Student, 5 df", nothing, student),
    Noise(
        "Student, 5 df, half of the variance of the night",
        lambda rng, nights, cells: student(rng, (nights, cells)) * np.sqrt(0.5),
        lambda rng, cells: student(rng, cells) * np.sqrt(0.5),
    ),
)


@dataclass(frozen=True)
class Span:
    """alarms: nights of the 60 in which a cell was called slower by mistake; measured_again: cells; found: of LOSS."""

    alarms: int
    measured_again: int
    found: bool


def live(noise: Noise, rng: np.random.Generator, twice: bool, loss_night: int = 30) -> Span:
    """One span. twice: slower cells are measured a second time. In loss_night cell 0 loses LOSS, that night only."""
    spreads = rng.uniform(*SPREADS, CELLS)
    nights = HISTORY + SPAN_NIGHTS
    common = noise.of_night(rng, nights, CELLS)

    def measured(night: int) -> np.ndarray:
        values = (common[night] + noise.of_measurement(rng, CELLS)) * spreads
        if night == HISTORY + loss_night - 1:
            values[0] += np.log1p(-LOSS)
        return 1000 * np.exp(values)

    history: list[list[float]] = [[] for _ in range(CELLS)]
    alarms = again = 0
    found = False
    for night in range(nights):
        tonight = measured(night)
        slower: set[int] = set()
        if night >= HISTORY:
            slower = judged(tonight, history)
            if twice and slower:
                again += len(slower)
                second = measured(night)
                slower = judged(tonight, history, {cell: second[cell] for cell in slower})
                # Of a night that was measured twice the later value counts.
                tonight = np.where([cell in slower for cell in range(CELLS)], tonight, second)
            true = {0} if night == HISTORY + loss_night - 1 else set()
            found |= bool(true & slower)
            alarms += bool(slower - true)
        for cell in range(CELLS):
            if cell not in slower:
                history[cell].append(float(tonight[cell]))
    return Span(alarms, again, found)


def judged(tonight: np.ndarray, history: list[list[float]], again: dict[int, float] | None = None) -> set[int]:
    cells = [
        Tonight(
            name=str(cell),
            outcome=Outcome.OK,
            reason="",
            noise_class=NoiseClass.DEVICE_BOUND,
            samples_s=float(rate),
            before=tuple(before[-HISTORY:]),
            second_samples_s=(again or {}).get(cell),
        )
        for cell, (rate, before) in enumerate(zip(tonight, history, strict=True))
    ]
    return {cell for cell, one in enumerate(judge_cells(cells)) if one.verdict is NightlyVerdict.SLOWER}


def figures(spans: int, seed: int = 0) -> Iterator[tuple[str, bool, list[Span]]]:
    for index, noise in enumerate(NOISES):
        for twice in (False, True):
            yield (
                noise.name,
                twice,
                [live(noise, np.random.default_rng([seed, index, span]), twice) for span in range(spans)],
            )


def section(spans: int, measured: list[tuple[str, bool, list[Span]]]) -> str:
    rows = [
        f"`python -m tests.validation --nights` with {spans} spans a row, each {SPAN_NIGHTS} nights of {CELLS} cells "
        f"after {HISTORY} nights of history; Python {platform.python_version()}, numpy {version('numpy')}, scipy "
        f"{version('scipy')}. Level of one test {level(CELLS):.2g}, of the second measurement {CONFIRMED_AT:g}, both "
        f"one-sided. Nightly spreads from {100 * SPREADS[0]:g} to {100 * SPREADS[1]:g} %.",
        "",
        "| nights | measured again before an alarm | spans with a false alarm | false alarms, nights | "
        "cells measured again a span | a loss of 5 % in night 30 found |",
        "|---|---|---|---|---|---|",
    ]
    for name, twice, own in measured:
        alarms = [span.alarms for span in own]
        rows.append(
            f"| {name} | {'yes' if twice else 'no'} | {sum(map(bool, alarms))} of {spans} | "
            f"{sum(alarms)} of {spans * SPAN_NIGHTS:,} | "
            f"{f'{np.mean([span.measured_again for span in own]):.2f}' if twice else '-'} | "
            f"{sum(span.found for span in own)} of {spans} |"
        )
    return "\n".join(rows)


def simulate(spans: int) -> str:
    """The section of docs/validity.md; each row is printed when it is done."""
    measured = []
    for row in figures(spans):
        measured.append(row)
        print(section(spans, [row]).splitlines()[-1], flush=True)
    return section(spans, measured)
