"""What a night writes (verdict.json, again.json) and what the history returns (`numastudy history --json`)."""

from enum import StrEnum

import msgspec

from bench.records.base import Count, Number, Record

SCHEMA = 2


class NightState(StrEnum):
    """The verdict of a whole night, the most urgent finding first."""

    SLOWER = "slower"
    FAILED = "failed"
    NOT_MEASURED = "not_measured"
    OK = "ok"


class NightlyVerdict(StrEnum):
    """The verdict of one cell in one night: that of a comparison, or that there is nothing to compare."""

    SAME = "SAME"
    SLOWER = "SLOWER"
    FASTER = "FASTER"
    UNDECIDED = "UNDECIDED"
    FAILED = "FAILED"
    NOT_MEASURED = "NOT MEASURED"

    @property
    def css(self) -> str:
        """The class of its badge; whatever needs attention looks like SLOWER."""
        alarming = (NightlyVerdict.FAILED, NightlyVerdict.NOT_MEASURED)
        return "slower" if self in alarming else self.value.lower()


class WarningKind(StrEnum):
    HOST_CHANGED = "host_changed"
    NIGHTS_EXCLUDED = "nights_excluded"
    JUDGED_LATE = "judged_late"
    NO_GPU = "no_gpu"


class FactChange(Record, frozen=True, kw_only=True):
    """A fact of the host's fingerprint that differs between two studies."""

    fact: str
    before: str
    after: str


class NightWarning(Record, frozen=True, kw_only=True):
    """study: label of the study it concerns, "" for the whole night."""

    kind: WarningKind
    study: str = ""
    text: str


class NightCell(Record, frozen=True, kw_only=True):
    """One cell of a night against its baseline.

    outcome: None for a cell that the night before measured and that tonight's grid does not have.
    verdict: None where there is too little to compare with.
    effect: throughput tonight / baseline - 1, negative is slower; interval likewise, at the level of the night.
    first_effect, second_effect: of each measurement alone where the cell was measured twice; effect is then of both.
    margin: effects below it are SAME. nights: number of nights in the baseline, nightly_spread: their relative
    standard deviation. guarded: whether a loss of 5 % would be found. too_noisy: the nights spread too much for that.
    """

    name: str
    outcome: str | None = None
    reason: str = ""
    verdict: NightlyVerdict | None = None
    effect: Number | None = None
    interval: tuple[Number, Number] | None = None
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
    text: str = ""


class ExcludedNight(Record, frozen=True, kw_only=True):
    """A night that does not count, because it was measured on other hardware."""

    night: str
    changes: tuple[FactChange, ...]


class NightBaseline(Record, frozen=True, kw_only=True):
    """pinned: the run directory that takes the place of the median of the nights. nights: ISO dates, oldest first."""

    pinned: str | None = None
    nights: tuple[str, ...] = ()
    excluded: tuple[ExcludedNight, ...] = ()


class NightStudy(Record, frozen=True, kw_only=True):
    """One study of a night. study: its label in nightly.yaml. problem: why it has no run directory.

    second_run_directory: where the cells that were slower were measured again.
    """

    study: str
    study_name: str | None = None
    run_directory: str | None = None
    second_run_directory: str | None = None
    problem: str = ""
    baseline: NightBaseline | None = None
    changes: tuple[FactChange, ...] = ()
    cells: tuple[NightCell, ...] = ()


class Night(Record, frozen=True, kw_only=True):
    """verdict.json. Names of cells by what was found; not_measured also has labels of studies without results.

    level: of one one-sided test, which depends on compared, the number of comparisons.
    inputs: a digest of the reports the verdict was made from; when it changes the night is judged again.
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
    warnings: tuple[NightWarning, ...] = ()
    created_at: str
    history: str
    studies: tuple[NightStudy, ...]
    inputs: str


class SecondMeasurement(Record, frozen=True, kw_only=True):
    """An entry of again.json: cells measured a second time in one night, and the run directory of that study."""

    cells: tuple[str, ...]
    run_directory: str


class HistoryCell(Record, frozen=True, kw_only=True):
    """One cell of one study in the history. verdict: of its night."""

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
    latency_p50_us: Number | None = None
    latency_p99_us: Number | None = None
    h2d_bandwidth_gb_s: Number | None = None
    d2h_bandwidth_gb_s: Number | None = None
    pipeline_efficiency: Number | None = None
    regime: str | None = None
    verdict: str | None = None


class HistoryStudy(Record, frozen=True, kw_only=True):
    """One study of the history. measured_at: start of its first run, ISO in UTC. night: date of a nightly, else "".

    slower: number of cells that its night found slower. measured: filled for `numastudy history --json`.
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
    fingerprint: dict[str, str | int | float | bool | None] = msgspec.field(default_factory=dict)
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
