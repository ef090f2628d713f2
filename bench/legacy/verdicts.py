"""Decisions as enum + numbers (no text)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.legacy.bound import CPU_TERMS
from bench.legacy.statistics import CONFIDENCE, CONFIDENCE_AFTER_LOOKS, MARGIN, UNKNOWN, Estimate, repeats_to_decide

# --- verdicts
# What is said about an effect. The only place that words verdicts and hints.

LAUNCH_BOUND = "launch-bound"
REST = "rest"
MAX_REPEATS = 20
SAME_ALPHA = 0.05
BLIND = 0.9
# A lone pair has no spread; three give the plain Student interval a finite usefulness.
FEWEST_REPEATS = 3
# What the studies that ship ask for. With fewer it is the number of runs, not their noise, that leaves all open.
ENOUGH_REPEATS = 6


class Verdict(StrEnum):
    SAME = "SAME"
    SLOWER = "SLOWER"
    FASTER = "FASTER"
    UNDECIDED = "UNDECIDED"
    NOT_RESOLVABLE = "NOT RESOLVABLE"


@dataclass(frozen=True)
class Judgement:
    """text: one line for tables and reports, effect and interval included. repeats: what would decide."""

    verdict: Verdict
    text: str
    hint: str = ""
    repeats: int | None = None


def noise_class(regime: str | None, limit: str | None = None) -> str:
    """The class whose variances are pooled, from the measured regime of the trace; without either nothing is pooled.

    limit: where there is no trace, the term that sets the cell's bound (bench.legacy.bound). Where it is the CPU's, a
    trace says launch-bound: so it was in every cell of docs/reference that has both.
    """
    if regime is None and limit is None:
        return UNKNOWN
    launches = limit in CPU_TERMS if regime is None else regime == LAUNCH_BOUND
    return LAUNCH_BOUND if launches else REST


def decided(found: Estimate) -> Verdict | None:
    """SAME, SLOWER or FASTER, or None as long as the runs do not tell.

    SAME takes precedence: a real difference that is surely below the margin is none to act on.
    """
    if found.p_same is None or found.p_difference is None:
        return None
    if found.p_same <= SAME_ALPHA:
        return Verdict.SAME
    if found.p_difference <= 1 - found.confidence:
        return Verdict.SLOWER if found.penalty > 0 else Verdict.FASTER
    return None


def graph_of(settings: Mapping[str, Any]) -> bool | None:
    """Whether a cell is a CUDA graph, for judge(); None on the cpu device, where none can be."""
    return None if settings.get("device") == "cpu" else bool(settings.get("cuda_graph"))


def judge(found: Estimate, max_repeats: int = MAX_REPEATS, cuda_graph: bool | None = False) -> Judgement:
    """The verdict in words. cuda_graph: of graph_of(); hints depend on what was tried, and on what can be."""
    if found.interval is None:
        return Judgement(
            Verdict.UNDECIDED,
            f"undecided: {told(found.penalty)}, from one pair, which has no spread",
            f"measure at least {FEWEST_REPEATS} repeats (--repeats)",
            FEWEST_REPEATS,
        )
    effect = told_with_interval(found.penalty, found.interval)
    verdict = decided(found)
    if verdict is Verdict.SAME:
        return Judgement(verdict, f"no difference larger than {100 * found.margin:g} %: {effect}")
    if verdict:
        return Judgement(verdict, effect)
    repeats = repeats_to_decide(found)
    few = is_blind(found.mde) and found.pairs < ENOUGH_REPEATS
    if is_blind(found.mde) and not few:
        # With such a spread the effect is chance, and so is the number of repeats that would decide it.
        return Judgement(
            Verdict.NOT_RESOLVABLE,
            f"nothing can be said at this noise: {told_interval(found.interval)}, and a loss of nearly all could go "
            "unseen",
            _quieter(found.noise_class, cuda_graph),
            repeats,
        )
    if few:
        effect = f"{told(found.penalty)}, which {_pairs(found.pairs)} not tell from noise"
    if repeats is not None and repeats > max_repeats:
        return Judgement(
            Verdict.NOT_RESOLVABLE,
            f"not resolvable: {effect}; it would take about {rounded(repeats)} repeats, "
            f"more than the {max_repeats} allowed",
            _quieter(found.noise_class, cuda_graph),
            repeats,
        )
    more = max(repeats or 0, found.pairs + 1, ENOUGH_REPEATS if few else FEWEST_REPEATS)
    return Judgement(
        Verdict.UNDECIDED,
        f"undecided: {effect}; about {more} repeats would decide",
        f"--repeats {more}, or --target-precision",
        more,
    )


def is_blind(mde: float | None) -> bool:
    """mde: the smallest penalty that would be found. Beyond BLIND no number says anything."""
    return mde is not None and mde >= BLIND


def percent(fraction: float) -> str:
    """Two figures that count, never in exponent form: 0.34 %, 2.0 %, 13 %."""
    value = abs(100 * fraction)
    digits = 0 if value >= 9.95 else 1 if value >= 0.995 else 2
    return f"{value:.{digits}f} %"


def told(penalty: float) -> str:
    """ "2.0 % slower"; of an effect of exactly nothing "no difference": it has no direction."""
    if penalty == 0:
        return "no difference"
    return f"{percent(penalty)} {'slower' if penalty > 0 else 'faster'}"


def told_with_interval(penalty: float, interval: tuple[float, float]) -> str:
    """Effect and interval in the same direction and to the same digits: "29.6 % slower [29.5, 29.8] %"."""
    sign, word = (1, " slower") if penalty > 0 else (-1, " faster") if penalty < 0 else (1, "")
    low, high = sorted(sign * bound for bound in interval)
    return f"{abs(100 * penalty):.{_digits(interval)}f} %{word} {told_interval((low, high))}"


def told_interval(interval: tuple[float, float]) -> str:
    """In percent, to the digits that its width supports."""
    digits = _digits(interval)
    low, high = (round(100 * bound, digits) + 0.0 for bound in interval)
    return f"[{low:.{digits}f}, {high:.{digits}f}] %"


def _digits(interval: tuple[float, float]) -> int:
    half = 50 * (interval[1] - interval[0])
    return 2 if half < 0.95 else 1 if half < 9.5 else 0


def _pairs(count: int) -> str:
    return f"{count} pair does" if count == 1 else f"{count} pairs do"


def rounded(count: int) -> str:
    """A planned number of repeats is known to two figures at best."""
    if count < 100:
        return str(count)
    step = 10 ** (len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"


def _quieter(noise: str, cuda_graph: bool | None) -> str:
    if noise == LAUNCH_BOUND and cuda_graph is None:
        return "the CPU's own work a batch is the noise: raise batch_size, or keep other work off the host"
    if noise == LAUNCH_BOUND and not cuda_graph:
        return "the CPU that launches the kernels is the noise: run it as a CUDA graph (cuda_graph: true)"
    if noise == LAUNCH_BOUND:
        return "launches are still the noise: raise batch_size, or keep other work off the host"
    return "find what disturbs the runs (their monitor: clocks, throttling, other processes), or raise --max-repeats"


# --- rules
# What a study's comparisons are judged by.

@dataclass(frozen=True)
class Rules:
    """looked: the study used --target-precision, so its data were seen before it ended."""

    margin: float = MARGIN
    max_repeats: int = MAX_REPEATS
    looked: bool = False

    @property
    def confidence(self) -> float:
        return CONFIDENCE_AFTER_LOOKS if self.looked else CONFIDENCE


def rules_of(study: dict[str, Any]) -> Rules:
    """study: resolved, as it was frozen."""
    plain = Rules()
    return Rules(
        margin=float(study.get("margin") or plain.margin),
        max_repeats=int(study.get("max_repeats") or plain.max_repeats),
        looked=bool(study.get("target_precision")),
    )
