"""How far a study is, and how long the rest may take."""

from bench.records.run import Head, Outcome
from bench.records.study import TRACED, Slot
from bench.study.progress import study_progress

# Two groups of two cells each: one repeat, and the traced runs.
SLOTS = [
    Slot(cell=f"{group}{node}", repeat=repeat, block=block, position=position, group=group)
    for position, (repeat, block, group, node) in enumerate(
        (repeat, block, group, node) for repeat, block in ((1, 1), (TRACED, 2)) for group in "ab" for node in "01"
    )
]


def record(wall_s: float = 0.0, status: str = "ok", invocation: str = "now") -> Head:
    return Head(status=Outcome(status), invocation=invocation, wall_s=wall_s)


def study(**known: Head) -> dict[Slot, Head | None]:
    """Records by cell and repeat, as a0_1 or a0_traced."""
    return {slot: known.get(f"{slot.cell}_{slot.repeat}") for slot in SLOTS}


def test_time_is_unknown_before_a_run_has_ended() -> None:
    found = study_progress(study(), "now", current=[SLOTS[0]])
    assert (found.done, found.total) == (0, 8)
    assert found.remaining_s(3.0) is None


def test_estimate_is_from_group_then_mode_then_any() -> None:
    known = study(a0_1=record(10), a1_1=record(14), b0_1=record(30), a0_traced=record(100))
    found = study_progress(known, "now", current=[SLOTS[3]])
    assert found.done == 4
    # b1 like b0; the traced runs: of a as a's, of b as all traced ones.
    assert (found.current_s, found.rest_s) == (30, 300)
    assert found.remaining_s(10) == 320
    first = study_progress(study(a0_1=record(10)), "now")
    assert first.rest_s == 7 * 10


def test_late_run_adds_no_time() -> None:
    found = study_progress(study(a0_1=record(10)), "now", current=[SLOTS[1]])
    assert found.remaining_s(1000) == found.rest_s == 60


def test_failures_are_done_in_this_call_only() -> None:
    crashed = study(a0_1=record(5, "crashed"), a1_1=record(7))
    now = study_progress(crashed, "now")
    assert (now.done, now.rest_s) == (2, 6 * 7)
    later = study_progress(crashed | {SLOTS[1]: record(7, invocation="before")}, "later")
    assert (later.done, later.rest_s) == (1, 7 * 7)


def test_cells_that_cannot_run_take_no_time() -> None:
    known = study(a0_1=record(10), a1_1=record(2, "oom"))
    assert study_progress(known, "now").rest_s == 5 * 10
    assert study_progress(known, "now", not_runnable=["b0", "b1"]).rest_s == 10


def test_finished_study_has_no_remaining_time() -> None:
    found = study_progress({slot: record(1.0) for slot in SLOTS}, "now")
    assert (found.done, found.total, found.remaining_s(0)) == (8, 8, 0)
