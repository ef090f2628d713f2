"""The English of comparisons between studies."""

import pytest
from msgspec.structs import replace

from bench.records.host import FingerprintChange
from bench.records.nightly import ComparedCell, ComparisonWarning, ExcludedNight, NightCell, NightlyVerdict, NightStudy
from bench.records.results import Reason, Remedy, Rules, Verdict
from bench.records.run import Outcome
from bench.report.text.studies import cell_text, comparison_warning_text, excluded_nights_text, night_text, with_text

CELL = NightCell(
    name="a", outcome=Outcome.OK, verdict=NightlyVerdict.SLOWER, effect=-0.05, margin=0.02, tonight_samples_s=950.0,
    nights=28, nightly_spread=0.003, guarded=True,
)  # fmt: skip
CRASHED = NightCell(name="b", outcome=Outcome.CRASHED, reason="SIGSEGV", verdict=NightlyVerdict.FAILED)
NOT_RUNNABLE = NightCell(name="c", outcome=Outcome.NOT_RUNNABLE, reason="no GPU 0 here")
DRIVER = FingerprintChange(fact="driver", before="580.1", after="590.2")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (CELL, "5.0 % slower, more than the spread of the nights (0.30 %) explains"),
        (replace(CELL, pinned=True),
         "5.0 % slower than the pinned run, more than the spread of the nights (0.30 %) explains"),
        (replace(CELL, verdict=NightlyVerdict.FASTER, effect=0.05),
         "5.0 % faster, more than the spread of the nights (0.30 %) explains"),
        (replace(CELL, verdict=NightlyVerdict.SAME, effect=0.001), "no difference larger than 2 %"),
        (replace(CELL, verdict=NightlyVerdict.UNDECIDED, nightly_spread=0.012, guarded=False, too_noisy=True),
         "5.0 % slower, within the spread of the nights; too noisy to guard at 5 %: the nights spread by 1.2 %"),
        (replace(CELL, first_effect=-0.050, second_effect=-0.048, effect=-0.049),
         "4.9 % slower over two measurements of this night (5.0 % slower, 4.8 % slower): confirmed"),
        (replace(CELL, verdict=NightlyVerdict.PENDING, first_effect=-0.050, second_effect=-0.048, effect=-0.049),
         "4.9 % slower over two measurements of this night (5.0 % slower, 4.8 % slower): slower in the next night too, "
         "it is a loss"),
        (replace(CELL, verdict=NightlyVerdict.PENDING),
         "5.0 % slower together with most cells: slower in the next night too, it is a loss"),
        (replace(CELL, verdict=NightlyVerdict.UNDECIDED, first_effect=-0.05, second_effect=0.001),
         "not confirmed: measured twice this night (5.0 % slower, 0.10 % faster)"),
        (replace(CELL, verdict=None, effect=None, nights=1), "nothing to compare with yet: 1 night of 5"),
        (CRASHED, "crashed: SIGSEGV"),
        (NOT_RUNNABLE, "not_runnable: no GPU 0 here"),
        (replace(NOT_RUNNABLE, verdict=NightlyVerdict.NOT_MEASURED),
         "not_runnable: no GPU 0 here; it was expected to run"),
        (NightCell(name="d", verdict=NightlyVerdict.NOT_MEASURED),
         "the night before measured it; tonight's grid does not contain it"),
    ],
)  # fmt: skip
def test_a_cell(cell, text):
    assert cell_text(cell, 5, 0.05) == text


def test_a_night():
    assert night_text([CELL, CRASHED], ["ScalingStudy"], 5) == (
        "1 slower: a by 5.0 %; 1 failed: b; 1 not measured: ScalingStudy"
    )
    same = replace(CELL, verdict=NightlyVerdict.SAME)
    assert night_text([same, NOT_RUNNABLE], [], 5) == "nothing got slower: 1 of 2 cells compared"
    assert night_text([same, replace(CELL, verdict=NightlyVerdict.PENDING)], [], 5) == (
        "1 of 2 cells slower, pending until the next night"
    )
    assert night_text([NOT_RUNNABLE], [], 5) == "nothing to compare with yet: no cell has 5 nights before"
    assert night_text([replace(CRASHED, name=f"b{i}") for i in range(8)], [], 5) == (
        "8 failed: b0, b1, b2, b3, b4, b5 and 2 more"
    )


def test_nights_on_other_hardware():
    excluded = [ExcludedNight(night=f"2026-01-0{day}", changes=(DRIVER,)) for day in (1, 2)]
    assert excluded_nights_text(NightStudy(study="NumaStudy"), excluded) == (
        "NumaStudy: 2 nights on other hardware excluded, the last 2026-01-02: the NVIDIA driver was 580.1, is 590.2"
    )


@pytest.mark.parametrize(
    ("cell", "text", "hint"),
    [
        ({"effect": -0.1, "interval": (-0.12, -0.08), "verdict": Verdict.SLOWER, "reason": Reason.DIFFERENT},
         "10 % slower [8, 12] %", ""),
        ({"effect": 0.0, "interval": (-0.001, 0.001), "verdict": Verdict.SAME, "reason": Reason.WITHIN_MARGIN},
         "no difference larger than 2 %: 0.0 % [−0.1, 0.1] %", ""),
        ({"effect": 0.0, "verdict": Verdict.UNDECIDED, "reason": Reason.ONE_PAIR, "remedy": Remedy.REPEAT,
          "repeats_needed": 3},
         "undecided: no difference, from one run, which has no spread", "measure at least 3 repeats (--repeats)"),
        ({"new_outcome": Outcome.CRASHED, "new_reason": "killed by SIGSEGV", "new_samples_s": None},
         "not compared: NEW crashed: killed by SIGSEGV", ""),
        ({"base_samples_s": None, "new_outcome": Outcome.OOM, "new_samples_s": None},
         "not compared: BASE ok: no timed run; NEW oom: no timed run", ""),
    ],
)  # fmt: skip
def test_a_cell_of_two_studies(cell, text, hint):
    known = {
        "base_outcome": Outcome.OK,
        "new_outcome": Outcome.OK,
        "base_samples_s": 1.0,
        "new_samples_s": 1.0,
        "runs": 6,
    }
    compared = with_text(ComparedCell(name="a", **known | {"remedy": None} | cell), Rules())
    assert (compared.text, compared.hint) == (text, hint)


@pytest.mark.parametrize(
    ("warning", "text"),
    [
        (ComparisonWarning(kind="host_differs", change=DRIVER), "the NVIDIA driver was 580.1, is 590.2"),
        (ComparisonWarning(kind="only_in_base", cell="a"), "only in BASE: a"),
        (ComparisonWarning(kind="same_study"),
         "BASE and NEW are the same study: its runs are compared with themselves"),
        (ComparisonWarning(kind="no_fingerprint"),
         "a study has no fingerprint: it is not known whether both ran on one machine"),
    ],
)  # fmt: skip
def test_a_warning_about_two_studies(warning, text):
    assert comparison_warning_text(warning) == text
