"""Estimates of plain pairs of numbers."""

from collections.abc import Sequence

from bench.analysis.statistics import CONFIDENCE, MARGIN, Comparison, Estimate, estimate, paired


def estimate_pairs(
    comparisons: Sequence[Comparison], confidence: float = CONFIDENCE, margin: float = MARGIN
) -> list[Estimate]:
    return estimate([paired(comparison) for comparison in comparisons], confidence, margin)
