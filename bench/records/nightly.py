"""What a night writes (verdict.json, again.json), and what `numastudy history` and `numastudy compare` print as JSON.

As in results.json a field `text` holds the English of its entry for readers of the file; nothing reads it back.
"""

from enum import StrEnum
from pathlib import Path

from bench.records.base import Count, Number, Record
from bench.records.host import Fingerprint, FingerprintChange
from bench.records.metric import Better, Metric
from bench.records.results import Changes, Interval, Judged, Measure
from bench.records.run import Outcome, read_record

SCHEMA = 2
# What the key of throughput is where all measures of a cell are keys.
THROUGHPUT = "throughput"
# What else of a cell than its throughput makes a night slower.
FINDINGS = (Measure.LATENCY_P50, Measure.LATENCY_P99)

# One night


class NightState(StrEnum):
    """The verdict of a whole night, the most urgent finding first."""

    SLOWER = "slower"
    FAILED = "failed"
    NOT_MEASURED = "not_measured"
    OK = "ok"


class NightlyVerdict(StrEnum):
    """The verdict of one cell in one night: that of a comparison, or that there is nothing to compare.

    PENDING: slower tonight, as most cells were, or by both measurements where the next night has to confirm a loss;
    slower in the next night too it is SLOWER.
    """

    SAME = "SAME"
    SLOWER = "SLOWER"
    FASTER = "FASTER"
    UNDECIDED = "UNDECIDED"
    PENDING = "PENDING"
    FAILED = "FAILED"
    NOT_MEASURED = "NOT MEASURED"

    @property
    def css(self) -> str:
        """The class of its badge; whatever needs attention looks like SLOWER."""
        alarming = (NightlyVerdict.FAILED, NightlyVerdict.NOT_MEASURED)
        if self is NightlyVerdict.PENDING:
            return NightlyVerdict.UNDECIDED.css
        return "slower" if self in alarming else self.value.lower()


# A night with such a verdict does not count in later baselines.
LOST = (NightlyVerdict.SLOWER, NightlyVerdict.PENDING)


class NightWarningKind(StrEnum):
    HOST_CHANGED = "host_changed"
    NIGHTS_EXCLUDED = "nights_excluded"
    JUDGED_LATE = "judged_late"
    NO_GPU = "no_gpu"
    HOST_SLOWER = "host_slower"


class NightWarning(Record, frozen=True, kw_only=True):
    """study: label of the study that it concerns, "" for the whole night."""

    kind: NightWarningKind
    study: str = ""
    text: str


class NightCell(Record, frozen=True, kw_only=True):
    """One cell of a night against its baseline.

    outcome: None for a cell that the night before measured and that tonight's grid does not have.
    verdict: None where there is too little to compare with.
    effect: throughput tonight / baseline - 1, negative is slower; interval likewise, at the level of the night.
    first_effect, second_effect: of each measurement where the cell was measured twice; effect is then of both.
    margin: effects below it are SAME. nights: number of nights in the baseline; nightly_spread: their relative
    standard deviation. guarded: a loss of 5 % tonight would be found with a power of 90 % or more. too_noisy: the
    nights spread too much for that, however many there are.
    unconfirmed: slower by the first measurement, and nothing confirms it yet. creeping: slower by the sum of small
    losses since reference_night; reference_effect: the last nights / the first ones from that night on - 1.
    metric: of a command, tonight's; what is named samples_s is then its rate (Metric.rate).
    others: latency and steadiness, likewise each with a metric, under one correction with all cells' throughput.
    """

    name: str
    outcome: Outcome | None = None
    reason: str = ""
    verdict: NightlyVerdict | None = None
    effect: Number | None = None
    interval: Interval | None = None
    first_effect: Number | None = None
    second_effect: Number | None = None
    margin: Number | None = None
    tonight_samples_s: Number | None = None
    second_samples_s: Number | None = None
    baseline_samples_s: Number | None = None
    pinned: bool = False
    nights: Count = 0
    nightly_spread: Number | None = None
    guarded: bool = False
    too_noisy: bool = False
    unconfirmed: bool = False
    creeping: bool = False
    reference_night: str = ""
    reference_effect: Number | None = None
    metric: Metric | None = None
    text: str = ""
    others: dict[Measure, "NightCell"] = {}

    @property
    def worst(self) -> NightlyVerdict | None:
        """Of throughput and latency; a cell that is only less steady is no finding."""
        findings = [one.verdict for measure, one in self.others.items() if measure in FINDINGS]
        for verdict in (NightlyVerdict.SLOWER, NightlyVerdict.PENDING):
            if verdict in findings and self.verdict not in (NightlyVerdict.FAILED, NightlyVerdict.NOT_MEASURED):
                return NightlyVerdict.SLOWER if self.verdict is NightlyVerdict.SLOWER else verdict
        return self.verdict

    @property
    def lost(self) -> dict[str, "NightlyVerdict"]:
        """What is slower or pending, by THROUGHPUT or Measure: the next night confirms each of them by itself."""
        verdicts = {THROUGHPUT: self.verdict} | {measure.value: one.verdict for measure, one in self.others.items()}
        return {key: verdict for key, verdict in verdicts.items() if verdict in LOST}

    @property
    def has_unconfirmed(self) -> bool:
        """Whether a second measurement has to confirm a finding."""
        return self.unconfirmed or any(one.unconfirmed for measure, one in self.others.items() if measure in FINDINGS)

    @property
    def tonight(self) -> float | None:
        """As it is shown, in the unit of the metric, else in samples/s."""
        return self._shown(self.tonight_samples_s)

    @property
    def baseline(self) -> float | None:
        return self._shown(self.baseline_samples_s)

    @property
    def change(self) -> float | None:
        """Of what is shown, tonight / baseline - 1; effect is that of the rate."""
        shown = self._shown(1 + self.effect) if self.effect is not None else None
        return shown - 1 if shown else None

    def _shown(self, rate: float | None) -> float | None:
        return 1 / rate if rate and self.metric and self.metric.better is Better.LOWER else rate


class ExcludedNight(Record, frozen=True, kw_only=True):
    """A night that does not count, because it was measured on other hardware."""

    night: str
    changes: tuple[FingerprintChange, ...]


class NightBaseline(Record, frozen=True, kw_only=True):
    """pinned: the run directory that takes the place of the median of the nights. nights: ISO dates, oldest first."""

    pinned: str | None = None
    nights: tuple[str, ...] = ()
    excluded: tuple[ExcludedNight, ...] = ()


class NightStudy(Record, frozen=True, kw_only=True):
    """One study of a night. study: its label in nightly.yaml. problem: why it has no run directory.

    second_run_directory: where the cells that were slower were measured again. changes: of the host since the night
    before.
    """

    study: str
    study_name: str | None = None
    run_directory: str | None = None
    second_run_directory: str | None = None
    problem: str = ""
    baseline: NightBaseline | None = None
    changes: tuple[FingerprintChange, ...] = ()
    cells: tuple[NightCell, ...] = ()

    @property
    def slower(self) -> tuple[str, ...]:
        """Names of cells."""
        return tuple(cell.name for cell in self.cells if cell.worst is NightlyVerdict.SLOWER)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """Names of the cells that a second measurement has to confirm."""
        return tuple(cell.name for cell in self.cells if cell.has_unconfirmed)


class Night(Record, frozen=True, kw_only=True):
    """verdict.json. Names of cells by what was found; not_measured also has labels of studies without results.

    level: of one one-sided test of a throughput, which depends on compared, the number of cells; level_of_others: of
    the compared_others of latency and steadiness, 1 without any. confirm_next_night: a loss of one cell is pending
    until the next night. history: path of the database.
    inputs: a digest of the reports that the verdict was made from; when it changes the night is judged again.
    """

    schema: int = SCHEMA
    night: str
    host: str
    verdict: NightState
    text: str
    slower: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()
    faster: tuple[str, ...] = ()
    too_noisy: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    compared: Count
    level: Number
    compared_others: Count = 0
    level_of_others: Number = 1.0
    confirm_next_night: bool = False
    warnings: tuple[NightWarning, ...] = ()
    created_at: str
    history: str = ""
    studies: tuple[NightStudy, ...]
    inputs: str

    @property
    def ok(self) -> bool:
        return self.verdict is NightState.OK


class SecondMeasurement(Record, frozen=True, kw_only=True):
    """An entry of again.json: cells measured a second time in one night, and the run directory of that study."""

    cells: tuple[str, ...]
    run_directory: str


def night_folder(output_dir: Path, night: str) -> Path:
    return output_dir / "nightly" / night


def read_night(folder: Path) -> Night | None:
    """The verdict of a night; None where it is missing or damaged: the night is then judged again."""
    return read_record(folder / "verdict.json", Night)


def second_measurements(folder: Path) -> dict[str, SecondMeasurement]:
    """By label of the study; nothing where the file is missing or damaged."""
    return read_record(folder / "again.json", dict[str, SecondMeasurement]) or {}


# The history


class HistoryCell(Record, frozen=True, kw_only=True):
    """One cell of one study. outcome, regime, verdict (of its night): as the version that stored it wrote them.

    value, unit: of a command, in place of throughput_samples_s.
    """

    name: str
    key: str
    gpu: Count | None = None
    cpu_node: Count | None = None
    mem_node: Count | None = None
    model: str | None = None
    outcome: str
    reason: str | None = None
    throughput_samples_s: Number | None = None
    throughput_spread: Number | None = None
    unit: str | None = None
    value: Number | None = None
    latency_p50_us: Number | None = None
    latency_p99_us: Number | None = None
    h2d_bandwidth_gb_s: Number | None = None
    d2h_bandwidth_gb_s: Number | None = None
    pipeline_efficiency: Number | None = None
    regime: str | None = None
    verdict: str | None = None


class HistoryStudy(Record, frozen=True, kw_only=True):
    """One study of the history. measured_at: start of its first run, ISO in UTC. night: date of a nightly, else "".

    slower: number of cells that its night found slower. measured: filled in for `numastudy history --json`.
    """

    id: int
    run_directory: str
    study_name: str
    host: str
    night: str = ""
    measured_at: str
    created_at: str | None = None
    invocation: str | None = None
    device: str | None = None
    driver: str | None = None
    kernel: str | None = None
    torch: str | None = None
    fingerprint: Fingerprint = Fingerprint()
    cells: Count | None = None
    cells_ok: Count | None = None
    runs: Count | None = None
    runs_ok: Count | None = None
    duration_s: Number | None = None
    slower: Count = 0
    measured: tuple[HistoryCell, ...] = ()


class HistoryListing(Record, frozen=True, kw_only=True):
    """What `numastudy history --json` prints. history: path of the database."""

    history: str
    studies: tuple[HistoryStudy, ...]


# The comparison of two studies


class ComparedCell(Judged, frozen=True, kw_only=True):
    """A cell of NEW against the cell of BASE with the same settings, as two independent groups of runs, or of studies.

    effect: throughput of NEW / BASE - 1, negative is slower; interval likewise. None, and the outcomes say why, where
    one of the two has no timed run. base_value, new_value: of a command, in place of samples/s, and effect is that of
    their rates (Metric.rate); metric: that of NEW. changes: of latency and steadiness, in one
    correction with the effects. runs: of the side that has fewer; where a side has several studies, pairs counts
    studies if these spread more than the runs.
    """

    name: str
    effect: float | None = None
    base_outcome: Outcome
    new_outcome: Outcome
    base_reason: str = ""
    new_reason: str = ""
    base_samples_s: float | None = None
    new_samples_s: float | None = None
    base_value: float | None = None
    new_value: float | None = None
    metric: Metric | None = None
    changes: Changes = {}
    runs: Count = 0


class ComparisonWarningKind(StrEnum):
    FEW_IN_COMMON = "few_in_common"
    HOST_DIFFERS = "host_differs"
    NO_FINGERPRINT = "no_fingerprint"
    SAME_STUDY = "same_study"
    DESIGN_DIFFERS = "design_differs"
    ONLY_IN_BASE = "only_in_base"
    ONLY_IN_NEW = "only_in_new"
    PROGRAM_DIFFERS = "program_differs"


class ComparisonWarning(Record, frozen=True, kw_only=True, omit_defaults=True):
    """change: of HOST_DIFFERS. cell: the name of one that the other study does not have, or has with
    another program. in_common, base, new: numbers of cells, of FEW_IN_COMMON."""

    kind: ComparisonWarningKind
    change: FingerprintChange | None = None
    cell: str = ""
    in_common: Count = 0
    base: Count = 0
    new: Count = 0
    text: str = ""


class StudyComparison(Record, frozen=True, kw_only=True):
    """What `numastudy compare --json` prints. margin: a difference below it is SAME. unit: what an interval is of."""

    schema: int = SCHEMA
    margin: float
    max_repeats: int
    base_studies: Count = 1
    new_studies: Count = 1
    cells: tuple[ComparedCell, ...]
    warnings: tuple[ComparisonWarning, ...]
    unit: str = ""
