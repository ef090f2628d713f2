"""What the pipeline could do at best, and what slower copies would cost. Formulas: docs, "Bound"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.errors import StudyError

Record = dict[str, Any]
TOO_GOOD = 0.05
"""Between processes and between the stages alone and together a few percent are noise."""
TERMS = {
    "h2d": "the copy in",
    "compute": "compute",
    "d2h": "the copy out",
    "issue": "issuing",
    "buffers": "copy and compute of one buffer",
    "prepare": "preparing",
}
CPU_TERMS = ("issue", "prepare")
HIDDEN, EXPOSED, CPU_PACED = "hidden", "exposed", "CPU sets the pace"


@dataclass(frozen=True)
class Stages:
    """Times per batch in us, each measured without the other stages; issue: CPU time to issue a batch.

    0 for a stage that the cell does not have: a direction that is not copied, no compute, nothing to prepare.
    """

    h2d_us: float
    compute_us: float
    d2h_us: float
    issue_us: float = 0.0
    prepare_us: float = 0.0

    def slowed(self, ratio_h2d: float, ratio_d2h: float) -> "Stages":
        return replace(self, h2d_us=self.h2d_us * ratio_h2d, d2h_us=self.d2h_us * ratio_d2h)


@dataclass(frozen=True)
class Predicted:
    """Penalties as fractions; the other stages hide all they can at `low`, nothing at `high`, and the other way round
    where copies are faster there: low <= penalty <= high always."""

    penalty: float
    low: float
    high: float


def bound_terms(stages: Stages, buffers: int, separate: bool = True) -> dict[str, float]:
    """The lower limits of the time per batch in us, by what sets them; "buffers" is the wait for a free one.

    separate: input and output have buffers of their own; else one slot is held until its D2H ends.
    """
    if buffers < 1:
        raise StudyError(f"{buffers} device buffers", "bound", "at least 1")
    h, k, d = stages.h2d_us, stages.compute_us, stages.d2h_us
    held = max(h + k, k + d) if separate else h + k + d
    terms = {"h2d": h, "compute": k, "d2h": d, "issue": stages.issue_us, "buffers": held / buffers}
    # One thread prepares batch after batch, whatever the number of buffers.
    return terms | ({"prepare": stages.prepare_us} if stages.prepare_us else {})


def bound_us(stages: Stages, buffers: int, separate: bool = True) -> float:
    """T*: the shortest possible time per batch with n device buffers, the largest of its terms."""
    return max(bound_terms(stages, buffers, separate).values())


def copy_state(terms_us: Mapping[str, float]) -> str:
    """Only compute hides a copy. While the GPU waits for the CPU, a copy costs nothing and hides behind nothing."""
    gpu = max(time for term, time in terms_us.items() if term not in CPU_TERMS)
    if max(terms_us.get(term, 0.0) for term in CPU_TERMS) > gpu:
        return CPU_PACED
    return HIDDEN if terms_us["compute"] >= gpu else EXPOSED


def cell_terms(cell: Record) -> dict[str, float] | None:
    """bound_terms of a cell of results.json; None where its stages were not measured."""
    stages = cell_stages(cell)
    if stages is None:
        return None
    return bound_terms(stages, int(cell["settings"].get("buffers") or 2), _separate(cell))


def cell_bound(cell: Record) -> Record | None:
    """T* of a cell of results.json, its terms and T* / t, t its timed time per batch; None where not measured.

    limit: the largest term. efficiency: None, and reason says why, where T* is longer than t by more than
    TOO_GOOD: no pipeline beats its bound, so a stage was slower while it was measured alone.
    """
    terms, t = cell_terms(cell), batch_us(cell)
    if terms is None or t is None:
        return None
    limit = max(terms, key=lambda term: terms[term])
    ratio = terms[limit] / t
    slowed = ratio > 1 + TOO_GOOD
    return {
        "bound_us": terms[limit],
        "terms_us": terms,
        "limit": limit,
        "batch_us": t,
        "efficiency": None if slowed else ratio,
        "reason": f"alone, {TERMS[limit]} took {ratio:.2f} times as long as a batch of the whole pipeline: "
        "something slowed that down while it was measured"
        if slowed
        else "",
    }


def efficiency_solo(cell: Record) -> float | None:
    """T* / t, None where it cannot be computed; see cell_bound."""
    return (cell_bound(cell) or {}).get("efficiency")


def predict(
    stages: Stages, t_us: float, buffers: int, ratio_h2d: float, ratio_d2h: float, separate: bool = True
) -> Predicted:
    """The penalty if copies take ratio times as long (bandwidth ratios at the batch's own size).

    For the cell with CPU local and memory remote only. t_us: time per batch where it is local.
    """
    if min(ratio_h2d, ratio_d2h) <= 0 or t_us <= 0:
        raise StudyError(
            f"ratios {ratio_h2d}, {ratio_d2h} at {t_us} us per batch", "bound", "all of them are above 0"
        )
    h, d = stages.h2d_us, stages.d2h_us
    slow = max(t_us, bound_us(stages.slowed(ratio_h2d, ratio_d2h), buffers, separate))
    least = max(t_us, ratio_h2d * h, ratio_d2h * d)
    most = t_us + (ratio_h2d - 1) * h + (ratio_d2h - 1) * d
    penalty, *ends = (1 - t_us / there for there in (slow, least, most))
    return Predicted(penalty, min(penalty, *ends), max(penalty, *ends))


@dataclass(frozen=True)
class Hidden:
    """batch_size: where the copy stops being hidden behind compute, or None; text says why."""

    batch_size: float | None
    text: str


def copy_stops_being_hidden(by_batch_size: Mapping[int, Mapping[str, float]]) -> Hidden:
    """From the terms of the bound at several batch sizes of one model; linear between the sizes measured.

    See copy_state; sizes at which the CPU sets the pace are named and left aside. Nothing is said beyond the sizes
    measured: small batches leave a GPU half empty, so that lines bend.
    """
    if not by_batch_size:
        raise StudyError("no batch size was measured", "bound", "measure at least two")
    if not any(terms["compute"] for terms in by_batch_size.values()):
        return Hidden(None, "no compute that could hide the copy")
    paced, sizes = [], []
    for size in sorted(by_batch_size):
        (paced if copy_state(by_batch_size[size]) == CPU_PACED else sizes).append(size)
    told = [f"the CPU sets the pace at {_batches(paced)}"] if paced else []
    exposed = next((at for at, size in enumerate(sizes) if copy_state(by_batch_size[size]) == EXPOSED), None)
    batch_size = None
    if exposed == 0:
        told.append(f"the copy is not hidden at batch {sizes[0]} already")
    elif exposed:
        batch_size = _crossing(*((size, by_batch_size[size]) for size in sizes[exposed - 1 : exposed + 1]))
        told.append(f"the copy stops being hidden at about batch {batch_size:.0f}")
    elif sizes:
        told.append(f"the copy is hidden at {_batches(sizes)}")
    return Hidden(batch_size, "; ".join(told))


def _crossing(hidden: tuple[int, Mapping[str, float]], exposed: tuple[int, Mapping[str, float]]) -> float:
    """The batch size between two at which the first term grows longer than compute."""
    sizes, both = zip(hidden, exposed, strict=True)
    excess = ([terms[term] - terms["compute"] for terms in both] for term in ("h2d", "d2h", "buffers"))
    return min(float(np.interp(0.0, ends, sizes)) for ends in excess if ends[1] > 0)


def _batches(sizes: Sequence[int]) -> str:
    return f"batch {sizes[0]}" if len(sizes) == 1 else f"batches {', '.join(map(str, sizes))}"


def cell_stages(cell: Record) -> Stages | None:
    solo = cell.get("solo_us") or {}
    times = [solo.get(stage) for stage in ("h2d", "compute", "d2h")]
    if any(time is None for time in times):
        return None
    return Stages(*times, issue_us=cell.get("issue_us") or 0.0, prepare_us=solo.get("prepare") or 0.0)


def batch_us(cell: Record) -> float | None:
    """The timed time per batch."""
    throughput = cell.get("throughput_samples_s")
    return 1e6 * cell["settings"]["batch_size"] / throughput if throughput else None


def predict_cell(local: Record, remote: Record) -> Predicted | None:
    """For two cells of results.json, CPU local, memory local and remote: ratios from their solo copies.

    None where they were not measured, or something slowed a local stage while it was (see cell_bound); of a remote one
    that would hide a prediction which fails.
    """
    here, there, t = cell_stages(local), cell_stages(remote), batch_us(local)
    if here is None or there is None or t is None or not (here.h2d_us or here.d2h_us):
        return None
    if (cell_bound(local) or {}).get("reason"):
        return None
    buffers = int(local["settings"].get("buffers") or 2)
    # A direction that is not copied takes no time here nor there.
    ratios = [b / a if a else 1.0 for a, b in ((here.h2d_us, there.h2d_us), (here.d2h_us, there.d2h_us))]
    return predict(here, t, buffers, *ratios, separate=_separate(local))


def _separate(cell: Record) -> bool:
    return cell.get("buffer_layout", "separate") == "separate"
