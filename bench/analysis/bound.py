"""The shortest possible time of a pipeline, and what slower copies would cost. Formulas: docs, "Bound"."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from bench.analysis.pairs import identity
from bench.errors import StudyError
from bench.records.results import Bound, HiddenCopies, MeasuredCell, Penalty, PenaltyKind, Prediction, Term
from bench.study.duration import forward_flops

# Between processes, and between the stages in isolation and together, a few percent are noise.
BOUND_NOISE = 0.05
CPU_TERMS = (Term.ISSUE, Term.PREPARE)
Terms = Mapping[Term, float]


class CopyState(StrEnum):
    """Only compute hides a copy. While the GPU waits for the CPU, a copy costs nothing and hides behind nothing."""

    HIDDEN = "hidden"
    EXPOSED = "exposed"
    CPU_PACED = "cpu_paced"


@dataclass(frozen=True)
class StageTimes:
    """Times per batch in us, each measured without the other stages; issue: CPU time to issue a batch.

    0 for a stage that the cell does not have: a direction that is not copied, no compute, no preprocessing.
    """

    h2d_us: float
    compute_us: float
    d2h_us: float
    issue_us: float = 0.0
    prepare_us: float = 0.0

    def slowed(self, ratio_h2d: float, ratio_d2h: float) -> "StageTimes":
        return replace(self, h2d_us=self.h2d_us * ratio_h2d, d2h_us=self.d2h_us * ratio_d2h)


@dataclass(frozen=True)
class PredictedPenalty:
    """Penalties as fractions; the other stages hide all they can at `low`, nothing at `high`, and the other way round
    where copies are faster there: low <= penalty <= high always."""

    penalty: float
    low: float
    high: float


def bound_terms(stages: StageTimes, buffers: int, separate: bool = True) -> dict[Term, float]:
    """The lower limits of the time per batch in us, by what sets them; "buffers" is the wait for a free one.

    separate: input and output have buffers of their own; else one slot is held until its D2H ends.
    """
    if buffers < 1:
        raise StudyError(f"{buffers} device buffers", "bound", "at least 1")
    h, k, d = stages.h2d_us, stages.compute_us, stages.d2h_us
    held = max(h + k, k + d) if separate else h + k + d
    terms = {
        Term.H2D: h, Term.COMPUTE: k, Term.D2H: d, Term.ISSUE: stages.issue_us, Term.BUFFERS: held / buffers,
    }  # fmt: skip
    # One thread prepares batch after batch, whatever the number of buffers.
    return terms | ({Term.PREPARE: stages.prepare_us} if stages.prepare_us else {})


def bound_us(stages: StageTimes, buffers: int, separate: bool = True) -> float:
    """T*: the shortest possible time per batch with n device buffers, the largest of its terms."""
    return max(bound_terms(stages, buffers, separate).values())


def copy_state(terms_us: Terms) -> CopyState:
    gpu = max(time for term, time in terms_us.items() if term not in CPU_TERMS)
    if max(terms_us.get(term, 0.0) for term in CPU_TERMS) > gpu:
        return CopyState.CPU_PACED
    return CopyState.HIDDEN if terms_us[Term.COMPUTE] >= gpu else CopyState.EXPOSED


def cell_terms(cell: MeasuredCell) -> dict[Term, float] | None:
    """bound_terms of a cell; None where its stages were not measured."""
    stages = cell_stages(cell)
    return bound_terms(stages, cell.settings.buffers, _separate(cell)) if stages else None


def cell_bound(cell: MeasuredCell) -> Bound | None:
    """T* of a cell, its terms and T* / t, t its timed time per batch; None where not measured."""
    terms, t = cell_terms(cell), batch_us(cell)
    if terms is None or t is None:
        return None
    limit = max(terms, key=lambda term: terms[term])
    ratio = terms[limit] / t
    efficiency = None if ratio > 1 + BOUND_NOISE else ratio
    return Bound(bound_us=terms[limit], terms_us=terms, limit=limit, batch_us=t, efficiency=efficiency)


def cell_stages(cell: MeasuredCell) -> StageTimes | None:
    solo = cell.solo_us
    if solo is None or solo.h2d is None or solo.compute is None or solo.d2h is None:
        return None
    return StageTimes(solo.h2d, solo.compute, solo.d2h, cell.issue_us or 0.0, solo.prepare or 0.0)


def batch_us(cell: MeasuredCell) -> float | None:
    """The timed time per batch."""
    return 1e6 * cell.settings.batch_size / cell.throughput_samples_s if cell.throughput_samples_s else None


# Predictions


def predict(
    stages: StageTimes, t_us: float, buffers: int, ratio_h2d: float, ratio_d2h: float, separate: bool = True
) -> PredictedPenalty:
    """The penalty if copies take ratio times as long (bandwidth ratios at the batch's own size).

    For the cell with CPU local and memory remote only. t_us: time per batch where it is local.
    """
    if min(ratio_h2d, ratio_d2h) <= 0 or t_us <= 0:
        raise StudyError(f"ratios {ratio_h2d}, {ratio_d2h} at {t_us} us per batch", "bound", "all must be above 0")
    h, d = stages.h2d_us, stages.d2h_us
    slow = max(t_us, bound_us(stages.slowed(ratio_h2d, ratio_d2h), buffers, separate))
    least = max(t_us, ratio_h2d * h, ratio_d2h * d)
    most = t_us + (ratio_h2d - 1) * h + (ratio_d2h - 1) * d
    penalty, *ends = (1 - t_us / there for there in (slow, least, most))
    return PredictedPenalty(penalty, min(penalty, *ends), max(penalty, *ends))


def predict_cell(local: MeasuredCell, remote: MeasuredCell) -> PredictedPenalty | None:
    """For two cells, CPU local, memory local and remote: ratios from their copies in isolation.

    None where they were not measured, or something slowed a local stage while it was (see Bound); of a remote one that
    would hide a prediction which fails.
    """
    here, there, t = cell_stages(local), cell_stages(remote), batch_us(local)
    if here is None or there is None or t is None or not (here.h2d_us or here.d2h_us):
        return None
    if (bound := cell_bound(local)) and bound.is_above_measured:
        return None
    # A direction that is not copied takes no time here nor there.
    ratio_h2d = there.h2d_us / here.h2d_us if here.h2d_us else 1.0
    ratio_d2h = there.d2h_us / here.d2h_us if here.d2h_us else 1.0
    return predict(here, t, local.settings.buffers, ratio_h2d, ratio_d2h, _separate(local))


def predictions(penalties: Sequence[Penalty], cells: Sequence[MeasuredCell], margin: float) -> tuple[Prediction, ...]:
    """For each penalty of remote memory under a local CPU, the only case that the bound covers.

    agrees: the bracket and the observed interval (without one the penalty itself) meet, or miss each other by
    no more than the margin, below which a difference needs no action.
    """
    by_name = {cell.name: cell for cell in cells}
    found = []
    for entry in penalties:
        if entry.kind is not PenaltyKind.MEMORY or entry.penalty is None:
            continue
        predicted = predict_cell(by_name[entry.local_cell], by_name[entry.remote_cell])
        if predicted is None:
            continue
        low, high = entry.interval or (entry.penalty, entry.penalty)
        agrees = low <= predicted.high + margin and high >= predicted.low - margin
        found.append(
            Prediction(
                remote_cell=entry.remote_cell,
                low=predicted.low,
                high=predicted.high,
                agrees=agrees,
            )
        )
    return tuple(found)


# Copies hidden behind compute


def hidden_copies(cells: Sequence[MeasuredCell]) -> tuple[HiddenCopies, ...]:
    """For cells that differ in batch size only: where the copy stops being hidden."""
    groups: dict[Hashable, dict[int, tuple[str, Terms]]] = {}
    for cell in cells:
        if terms := cell_terms(cell):
            place = identity(cell, ignore=("batch_size",)), cell.cpu_node, cell.mem_node
            groups.setdefault(place, {})[cell.settings.batch_size] = (cell.name, terms)
    return tuple(
        hidden_by_batch_size(
            {size: terms for size, (_, terms) in sizes.items()},
            tuple(sizes[size][0] for size in sorted(sizes)),
        )
        for sizes in groups.values()
    )


def hidden_by_batch_size(by_batch_size: Mapping[int, Terms], cells: tuple[str, ...] = ()) -> HiddenCopies:
    """From the terms of the bound at several batch sizes of one model; linear between the sizes measured.

    Nothing is claimed beyond the sizes measured: small batches leave a GPU half empty, so that lines bend.
    """
    if not by_batch_size:
        raise StudyError("no batch size was measured", "bound", "measure at least two")
    states = {size: copy_state(by_batch_size[size]) for size in sorted(by_batch_size)}
    computes = any(terms[Term.COMPUTE] for terms in by_batch_size.values())
    on_gpu = [size for size, state in states.items() if state is not CopyState.CPU_PACED]
    first = next((at for at, size in enumerate(on_gpu) if states[size] is CopyState.EXPOSED), 0)
    crossing = None
    if computes and first:
        crossing = _crossing(*((size, by_batch_size[size]) for size in on_gpu[first - 1 : first + 1]))

    def sizes(wanted: CopyState) -> tuple[int, ...]:
        return tuple(size for size, state in states.items() if state is wanted)

    return HiddenCopies(
        cells=cells,
        computes=computes,
        batch_size=crossing,
        hidden=sizes(CopyState.HIDDEN),
        exposed=sizes(CopyState.EXPOSED),
        cpu_paced=sizes(CopyState.CPU_PACED),
    )


def _crossing(hidden: tuple[int, Terms], exposed: tuple[int, Terms]) -> float:
    """The batch size between two at which the first term grows longer than compute."""
    ends = []
    for term in (Term.H2D, Term.D2H, Term.BUFFERS):
        excess = [terms[term] - terms[Term.COMPUTE] for _, terms in (hidden, exposed)]
        if excess[1] > 0:
            ends.append(float(np.interp(0.0, excess, [hidden[0], exposed[0]])))
    return min(ends)


def _separate(cell: MeasuredCell) -> bool:
    return cell.buffer_layout == "separate"


# Arithmetic intensity


def flops_per_byte(cell: MeasuredCell) -> float | None:
    """Operations per byte on the link, both directions; None if it did not run, or is a model from elsewhere."""
    moved = cell.bytes_per_batch
    if moved is None or cell.model.source:
        return None
    flops = forward_flops(cell.model, cell.settings.image_size) * cell.settings.batch_size
    return flops / (moved.h2d + moved.d2h)
