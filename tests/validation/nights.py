"""Nights that were never measured: how often NightlySweep alarms without a reason, and which losses it finds.

    python -m tests.validation --nights [--years 10]      # also a part of make validate

Years of nights are judged by the real code (bench.nightly.judge) as on a host: a night that found a cell slower is kept
out of its later baselines, and what a second measurement or the next night must confirm is measured so.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from msgspec.structs import replace

from bench.nightly.judge import FALSE_ALARM_SPANS, FEWEST_NIGHTS, SPAN_NIGHTS, Tonight, judge_cells
from bench.nightly.night import SECOND_RUNS
from bench.records.nightly import LOST, THROUGHPUT, NightCell, NightlyVerdict
from bench.records.results import Measure, NoiseClass
from bench.records.run import Outcome
from tests.validation.goals import Figure, Task, at_least, at_most, hardly_below, rate

CELLS, HISTORY, YEAR, RUNS = 48, 28, 365, 3
"""RUNS: of a cell in a night, as configs/nightly.yaml asks for."""
SPREADS = (0.0016, 0.0075)
"""Of the nights of a cell, relative: of quiet graph cells to what is still guarded at 5 %."""
LOSS = 0.05
YEARS_WITH_AN_ALARM = 0.27
"""What 5 % of spans of 60 nights are in a year."""
FEWEST_YEARS = 5
"""Of fewer years with and without an alarm nothing follows; their spans of 60 nights are judged."""


@dataclass(frozen=True)
class Noise:
    """What a night deviates by, in spreads of a cell.

    of_night(rng, nights, cells): what all runs of a night share. of_runs(rng, runs, cells): what each run has of its
    own. slow: the share of processes that are SLOW slower. promised: the page promises few false alarms; or only where
    the next night confirms a loss (next_night).
    """

    name: str
    of_night: Callable[[np.random.Generator, int, int], np.ndarray]
    of_runs: float = 0.0
    slow: float = 0.0
    promised: bool = True
    next_night: bool = True


SLOW = 0.08


def normal(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    return rng.normal(size=(nights, cells))


def student(rng: np.random.Generator, nights: int, cells: int, df: int = 5) -> np.ndarray:
    return rng.standard_t(df, (nights, cells)) / np.sqrt(df / (df - 2))


def heavier(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    return rng.standard_t(3, (nights, cells)) / np.sqrt(3)


def bursts(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    """Log-normal, downwards."""
    return -(rng.lognormal(0, 1, (nights, cells)) - np.exp(0.5)) / 2.161


def bad_nights(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    """In one night of 33 a cell is slower by six spreads."""
    return rng.normal(size=(nights, cells)) - 6 * (rng.random((nights, cells)) < 0.03)


def autocorrelated(rng: np.random.Generator, nights: int, cells: int, by: float = 0.5) -> np.ndarray:
    """A cell that is a little slower tonight is so tomorrow; all runs of the night see it."""
    rows = [rng.normal(size=cells)]
    for _ in range(nights - 1):
        rows.append(by * rows[-1] + np.sqrt(1 - by**2) * rng.normal(size=cells))
    return np.array(rows)


def host_wide(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    """Heavy tails (Student, 3 df) that all cells of a night share, and a little of their own."""
    shared = rng.standard_t(3, (nights, 1)) / np.sqrt(3)
    return np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.normal(size=(nights, cells))


def normal_of_the_host(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    """All cells of a night share most of what it has."""
    return np.sqrt(0.8) * rng.normal(size=(nights, 1)) + np.sqrt(0.2) * rng.normal(size=(nights, cells))


def half_shared(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    """Heavy tails (Student, 5 df), half of them of the whole host's night and half of a cell's."""
    return (student(rng, nights, 1) + student(rng, nights, cells)) / np.sqrt(2)


def steps(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    """The level of a cell moves by a spread once in about 100 nights and stays, up or down."""
    moved = (rng.random((nights, cells)) < 0.01) * rng.choice([-1.0, 1.0], (nights, cells))
    level = np.zeros(cells)
    rows = []
    for row in moved:
        level = np.where(row != 0, row, level)
        rows.append(level)
    return np.array(rows) + normal(rng, nights, cells)


def weekly(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    return np.sin(2 * np.pi * np.arange(nights)[:, None] / 7) + normal(rng, nights, cells) / 2


def nothing(rng: np.random.Generator, nights: int, cells: int) -> np.ndarray:
    return np.zeros((nights, cells))


NOISES = (
    Noise("normal", normal),
    Noise("normal, of the runs", nothing, of_runs=1.5),
    Noise("one process in ten 8 % slower", nothing, of_runs=1.5, slow=0.1),
    Noise("Student, 3 df, shared by the host", host_wide),
    Noise("steps of one spread", steps),
    Noise("periodic, 7 nights", weekly),
    Noise("normal, autocorrelated by 0.5", autocorrelated, promised=False),
    Noise("Student, 5 df, of a cell's night", student, promised=False),
    Noise("Student, 3 df, of a cell's night", heavier, promised=False),
    Noise("log-normal, of a cell's night", bursts, promised=False),
    Noise("six spreads in one night of 33 of a cell", bad_nights, promised=False),
    Noise("normal, autocorrelated by 0.8", partial(autocorrelated, by=0.8), promised=False, next_night=False),
    Noise("normal, shared by the host", normal_of_the_host),
    Noise("Student, 5 df, half shared by the host", half_shared, promised=False),
)
# What the cell loses by night, from the first after the history on: log throughput.
Loss = Callable[[np.ndarray], np.ndarray]


def no_loss(night: np.ndarray) -> np.ndarray:
    return np.zeros(night.shape)


def one_night(night: np.ndarray) -> np.ndarray:
    return np.where(night == 30, np.log1p(-LOSS), 0.0)


def creeping(night: np.ndarray, over: int = 100) -> np.ndarray:
    return np.log1p(-LOSS) * np.clip(night / over, 0, 1)


ALL = (None, Measure.LATENCY_P50, Measure.LATENCY_P99, Measure.SPREAD_IN_RUNS)
Rates = dict[Measure | None, np.ndarray]
# Of each cell the values by night.
Series = dict[Measure | None, list[dict[str, float]]]
# Of what confirmation is pending: measures and cells.
Pending = set[tuple[Measure | None, int]]


@dataclass
class Lived:
    """false: nights in which a cell without a loss was called slower. reported: nights that found cell 0 slower.

    guarded: cell 0, in the 30th night. again: cells measured a second time.
    """

    false: list[int] = field(default_factory=list)
    reported: list[int] = field(default_factory=list)
    guarded: bool = False
    again: int = 0


def live(
    noise: Noise,
    rng: np.random.Generator,
    nights: int = YEAR,
    cells: int = CELLS,
    loss: Loss = no_loss,
    history: int = HISTORY,
    lost_cells: int = 1,
    spreads: tuple[float, float] = SPREADS,
    kinds: Sequence[Measure | None] = (None,),
    lost_kind: Measure | None = None,
    next_night: bool = False,
) -> Lived:
    """`nights` judged nights after `history` others. The first lost_cells cells lose `loss`, in lost_kind.

    next_night: confirms a loss, as confirm_next_night of nightly.yaml asks for.
    kinds: what of a cell is compared, throughput (None) first; each has draws of its own.
    """
    own = rng.uniform(*spreads, cells)
    total = history + nights
    of_night = {kind: noise.of_night(rng, total, cells) * own for kind in kinds}
    of_night[lost_kind][:, :lost_cells] += loss(np.arange(total) - history + 1)[:, None]

    def measured(night: int, runs: int = RUNS) -> Rates:
        found = {}
        for kind in kinds:
            drawn = noise.of_runs * rng.normal(size=(runs, cells)) * own
            drawn += np.log1p(-SLOW) * (rng.random((runs, cells)) < noise.slow)
            found[kind] = 1000 * np.exp(of_night[kind][night] + np.median(drawn, axis=0))
        return found

    lived = Lived()
    counting: Series = {kind: [{} for _ in range(cells)] for kind in kinds}
    every: list[list[float]] = [[] for _ in range(cells)]
    lost: set[int] = set()
    pending: Pending = set()
    for night in range(total):
        tonight = measured(night)
        if night >= history:
            judged = judge(tonight, counting, every, pending, next_night)
            if unconfirmed := {at for at, one in enumerate(judged) if one.has_unconfirmed}:
                lived.again += len(unconfirmed)
                second = measured(night, SECOND_RUNS)
                judged = judge(tonight, counting, every, pending, next_night, second, unconfirmed)
                # Of a night that was measured twice the later value counts.
                again = [at in unconfirmed for at in range(cells)]
                tonight = {kind: np.where(again, second[kind], tonight[kind]) for kind in kinds}
            slower = {at for at, one in enumerate(judged) if one.worst is NightlyVerdict.SLOWER}
            lost = {at for at, one in enumerate(judged) if one.worst in LOST}
            pending = {
                (kind, at)
                for at, one in enumerate(judged)
                for kind in kinds
                if (verdict := one.lost.get(kind or THROUGHPUT)) is NightlyVerdict.PENDING
                or (verdict and (kind, at) in pending)
            }
            lossy = set(range(lost_cells)) if loss is not no_loss else set()
            if slower - lossy:
                lived.false.append(night - history + 1)
            if 0 in slower:
                lived.reported.append(night - history + 1)
            if night - history + 1 == min(30, nights):
                lived.guarded = (judged[0].others[lost_kind] if lost_kind else judged[0]).guarded
        for at in range(cells):
            every[at].append(float(tonight[None][at]))
            if at not in lost:
                for kind in kinds:
                    counting[kind][at][str(night)] = float(tonight[kind][at])
    return lived


def judge(
    tonight: Rates,
    counting: Series,
    every: Sequence[Sequence[float]],
    pending: Pending,
    next_night: bool = False,
    second: Rates | None = None,
    again: AbstractSet[int] = frozenset(),
) -> list[NightCell]:
    """second: of the cells `again`."""
    cells = [
        Tonight(
            name=str(at),
            outcome=Outcome.OK,
            reason="",
            noise_class=NoiseClass.DEVICE_BOUND,
            samples_s=float(rate),
            before=dict(list(before.items())[-HISTORY:]),
            second_samples_s=float(second[kind][at]) if second and at in again else None,
            every=() if kind else tuple(every[at]),
            pending_before=(kind, at) in pending,
            measure=kind,
        )
        for kind, rates in tonight.items()
        for at, (rate, before) in enumerate(zip(rates, counting[kind], strict=True))
    ]
    judged = iter(judge_cells(cells, next_night))
    by_kind = {kind: [next(judged) for _ in every] for kind in tonight}
    others = {kind: own for kind, own in by_kind.items() if kind}
    return [
        replace(one, others={kind: own[at] for kind, own in others.items()}) for at, one in enumerate(by_kind[None])
    ]


def false_alarms(
    index: int,
    years: int,
    cells: int = CELLS,
    kinds: Sequence[Measure | None] = (None,),
    next_night: bool = False,
) -> list[Figure]:
    """index: of the noise."""
    noise = NOISES[index]
    lived = [
        live(noise, np.random.default_rng([index, year]), cells=cells, kinds=kinds, next_night=next_night)
        for year in range(years)
    ]
    promised = noise.next_night if next_night else noise.promised
    spans = [
        any(first < night <= first + SPAN_NIGHTS for night in one.false)
        for one in lived
        for first in range(0, YEAR - SPAN_NIGHTS, SPAN_NIGHTS)
    ]
    case = f"{noise.name}, {cells} cells{', latency and steadiness too' if len(kinds) > 1 else ''}"
    case += ", the next night confirms" if next_night else ""
    again = float(np.mean([one.again for one in lived])) / YEAR
    alarms = float(np.mean([len(one.false) for one in lived]))
    of_years = at_most(YEARS_WITH_AN_ALARM) if promised and years >= FEWEST_YEARS else None
    of_spans = at_most(FALSE_ALARM_SPANS) if promised else None
    return [
        rate("nights: years with a false alarm", case, [bool(one.false) for one in lived], of_years),
        rate("nights: spans of 60 with a false alarm", case, spans, of_spans),
        Figure("nights: nights of a year with a false alarm", case, alarms, 0.0, "", None),
        Figure("nights: cells measured again a night", case, again, 0.0, "", None),
    ]


def lost_latency(index: int, spans: int, cells: int = CELLS) -> list[Figure]:
    """A p99 that is 1 / 0.95 as long for a night, all four compared."""
    noise, lost = NOISES[index], Measure.LATENCY_P99
    lived = [
        live(noise, np.random.default_rng([index, 3, span]), 31, cells, one_night, kinds=ALL, lost_kind=lost)
        for span in range(spans)
    ]
    found = [30 in one.reported for one in lived if one.guarded]
    promise = "nights: p99 longer by 5 % in a night, found if guarded"
    return [rate(promise, f"{noise.name}, {cells} cells", found, hardly_below(0.90))] if found else []


def lost_in_a_night(index: int, spans: int, cells: int = CELLS) -> list[Figure]:
    noise = NOISES[index]
    lived = [live(noise, np.random.default_rng([index, 1, span]), 31, cells, one_night) for span in range(spans)]
    found = [30 in one.reported for one in lived if one.guarded]
    goal = hardly_below(0.90) if noise.promised else None
    promise = "nights: 5 % lost in a night, found if guarded"
    return [rate(promise, f"{noise.name}, {cells} cells", found, goal)] if found else []


def lost_for_good(index: int, spans: int, cells: int = CELLS) -> list[Figure]:
    """Where the next night confirms a loss."""
    noise = NOISES[index]
    lived = [
        live(noise, np.random.default_rng([index, 4, span]), 32, cells, from_now_on, next_night=True)
        for span in range(spans)
    ]
    found = [bool({30, 31} & set(one.reported)) for one in lived if one.guarded]
    goal = hardly_below(0.90) if noise.next_night else None
    case = f"{noise.name}, {cells} cells, the next night confirms"
    promise = "nights: 5 % lost for good, found in two if guarded"
    figures = [rate("nights: guarded", case, [one.guarded for one in lived], None)]
    return [*figures, rate(promise, case, found, goal)] if found else figures


def lost_little_by_little(index: int, spans: int, cells: int = 6) -> list[Figure]:
    noise = NOISES[index]
    lived = [live(noise, np.random.default_rng([index, 2, span]), 170, cells, creeping) for span in range(spans)]
    reported = [bool(one.reported) for one in lived]
    promise = "nights: 5 % lost over 100, reported within 170"
    return [rate(promise, f"{noise.name}, {cells} cells", reported, at_least(0.80))]


def young_history(nights: int, spans: int, cells: int) -> list[Figure]:
    """Where few nights are known: guarded must not promise what is not found."""
    lived = [
        live(NOISES[0], np.random.default_rng([nights, cells, span]), 1, cells, last_night, nights)
        for span in range(spans)
    ]
    found = [1 in one.reported for one in lived if one.guarded]
    case = f"{nights} nights of history, {cells} cells"
    figures = [rate("nights: guarded", case, [one.guarded for one in lived], None)]
    if found:
        figures.append(rate("nights: 5 % lost in a night, found if guarded", case, found, hardly_below(0.90)))
    return figures


def last_night(night: np.ndarray) -> np.ndarray:
    return np.where(night == 1, np.log1p(-LOSS), 0.0)


def lost_by_the_host(spans: int) -> list[Figure]:
    """All cells lose 5 % for good: pending in the first night, reported in the second."""
    lived = [
        live(NOISES[0], np.random.default_rng([9, span]), 32, loss=from_now_on, lost_cells=CELLS)
        for span in range(spans)
    ]
    reported = [bool(one.reported) and one.reported[0] <= 31 for one in lived]
    promise = "nights: 5 % lost by the host, reported in the second"
    return [rate(promise, f"normal, {CELLS} cells", reported, at_least(0.90))]


def from_now_on(night: np.ndarray) -> np.ndarray:
    return np.where(night >= 30, np.log1p(-LOSS), 0.0)


def tasks(years: int) -> list[Task]:
    """years: of nights for each figure of false alarms; the other figures have as many nights, or fewer."""
    every = range(len(NOISES))
    return [
        *(partial(false_alarms, index, years) for index in every),
        *(partial(false_alarms, index, max(years // 4, 1), CELLS, ALL) for index in (0, 2, 3, 6)),
        *(partial(false_alarms, index, years, next_night=True) for index in every if not NOISES[index].promised),
        *(partial(lost_for_good, index, 10 * years) for index in every if index == 0 or not NOISES[index].promised),
        *(partial(lost_latency, index, 5 * years) for index in (0, 1)),
        *(partial(lost_in_a_night, index, 10 * years) for index in every),
        *(partial(lost_little_by_little, index, 2 * years) for index in every),
        *(partial(young_history, nights, 20 * years, cells) for cells in (3, CELLS) for nights in (FEWEST_NIGHTS, 10)),
        partial(lost_by_the_host, years),
    ]
