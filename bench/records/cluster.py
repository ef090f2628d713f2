"""Records of a study on many hosts: cluster.json, hosts/<host>/job.json and cluster_results.json."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from bench.records.base import AtLeastOne, Count, Number, Positive, Record
from bench.records.results import CellMetric, Counts
from bench.records.run import Outcome

SCHEMA = 2

# A host's name becomes a folder; what writes it into a script or a page checks it again.
HostName = Annotated[str, Meta(pattern=r"^(?!\.)[^/\0\n]{1,255}(?!\n)$")]


class SubmittedJob(Record, frozen=True, kw_only=True):
    """One Slurm job that was submitted for a host."""

    id: str
    submitted_at: str = ""


class HostJobs(Record, frozen=True, kw_only=True):
    """The jobs of a host, oldest first. Only the last one may measure there."""

    jobs: tuple[SubmittedJob, ...]

    @property
    def last(self) -> str:
        """The id of the last job, or ""."""
        return self.jobs[-1].id if self.jobs else ""


class Cluster(Record, frozen=True, kw_only=True):
    """cluster.json. scheduler: HOST:PORT of a central luigid, or ""."""

    schema: AtLeastOne = SCHEMA
    study: str
    created_at: str = ""
    scheduler: str
    hosts: Annotated[dict[HostName, HostJobs], Meta(min_length=1)]


class JobState(StrEnum):
    """RUNNING: luigi runs. ENDED: luigi ended by itself. DRAINED: ended near the time limit, queued again.

    STUCK: ended near the time limit without a new record. STOPPED: ended by a signal.
    """

    RUNNING = "running"
    ENDED = "ended"
    DRAINED = "drained"
    STUCK = "stuck"
    STOPPED = "stopped"


class JobRecord(Record, frozen=True, kw_only=True):
    """job.json: the state that the job of a host last wrote. exit_code: luigi's, None while it runs."""

    job_id: str
    state: JobState
    restart: Count = 0
    node: str = ""
    pid: Count = 0
    started_at: str = ""
    ended_at: str = ""
    exit_code: int | None = None
    reason: str = ""


class HostState(StrEnum):
    DONE = "done"
    WAITING = "waiting"
    MEASURING = "measuring"
    INCOMPLETE = "incomplete"


class HostStatus(Record, frozen=True, kw_only=True):
    """The state of one host of a study; reason says why it is not done. runs: None before it began. left_out: by the
    budget of the study.

    runs_done counts failed runs too; last_record_s: seconds since the epoch. job_state: as Slurm names it.
    """

    host: str
    state: HostState
    reason: str = ""
    runs_done: Count = 0
    runs_failed: Count = 0
    runs: Count | None = None
    last_record_s: Number | None = None
    job_id: str = ""
    job_state: str = ""
    job_alive: bool = False
    job_held: bool = False
    restarts: Count = 0
    left_out: str = ""


class ClusterStatus(Record, frozen=True, kw_only=True):
    """slurm_error: why Slurm gave no answer, "" if it did."""

    study: str
    run_directory: str
    hosts: tuple[HostStatus, ...]
    slurm_error: str = ""


# cluster_results.json


class Quantity(StrEnum):
    """What is compared between hosts."""

    THROUGHPUT = "throughput"
    METRIC = "metric"
    H2D_LINK = "H2D link"
    D2H_LINK = "D2H link"
    H2D_COPIES = "H2D copies of 512 MiB"
    D2H_COPIES = "D2H copies of 512 MiB"
    SMALL_COPY = "small copy"

    @property
    def unit(self) -> str:
        """That of a command's metric is its own."""
        return {Quantity.THROUGHPUT: "samples/s", Quantity.METRIC: "", Quantity.SMALL_COPY: "µs"}.get(self, "GB/s")


class Compared(Record, frozen=True, kw_only=True):
    """One quantity of one cell over hosts of a type. median in the unit of the quantity; scale and within relative.

    within: the hosts' own standard error, None if unknown. values and outliers by host; an outlier's offset is relative
    to the median: -0.5 is half of it.
    """

    cell: str
    quantity: Quantity
    unit: str
    median: Positive
    scale: Number
    within: Number | None
    values: dict[str, Positive]
    outliers: dict[str, Number]


class Outlier(Record, frozen=True, kw_only=True):
    """A host whose value of one quantity is far from those of the other hosts; see Compared."""

    host: str
    cell: str
    quantity: Quantity
    unit: str
    value: Positive
    median: Positive
    offset: Number
    scale: Number


class Difference(Record, frozen=True, kw_only=True):
    """A setting that hosts of a type do not share. usual: the value of more than half of them, else None."""

    setting: str
    usual: str | None
    others: dict[str, str]


class HostType(Record, frozen=True, kw_only=True):
    """Hosts with the same CPU and the same GPUs."""

    name: str
    hosts: tuple[str, ...]
    compared: tuple[Compared, ...]
    outliers: tuple[Outlier, ...]
    differences: tuple[Difference, ...]


class ReportedHost(HostStatus, frozen=True, kw_only=True):
    """type and counts: None where the host has no results that can be read."""

    type: str | None
    counts: Counts | None
    reported: bool


class MissingHost(Record, frozen=True, kw_only=True):
    """A host without results; reason says why."""

    host: str
    state: HostState
    reason: str
    runs_done: Count
    runs: Count | None


class HostCell(Record, frozen=True, kw_only=True):
    """One cell of one host, as its results.json has it."""

    host: str
    name: str
    key: str
    gpu: int | None
    gpu_uuid: str | None
    cpu_node: int | None
    mem_node: int | None
    outcome: Outcome
    reason: str
    throughput_samples_s: float | None
    throughput_spread: float | None
    throughput_runs: tuple[float, ...]
    metric: CellMetric | None = None
    model: str


class ClusterResults(Record, frozen=True, kw_only=True):
    schema: AtLeastOne = SCHEMA
    study: str
    run_directory: str
    created_at: str
    margin: Number
    slurm_error: str
    hosts: tuple[ReportedHost, ...]
    missing: tuple[MissingHost, ...]
    types: tuple[HostType, ...]
    cells: tuple[HostCell, ...]
