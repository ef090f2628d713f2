"""What a study's comparisons are judged by."""

from dataclasses import dataclass
from typing import Any

from bench.results.statistics import CONFIDENCE, CONFIDENCE_AFTER_LOOKS, MARGIN
from bench.results.verdicts import MAX_REPEATS


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
