"""The folder of a study on many hosts: cluster.json, the study, and one run directory a host."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.errors import StudyError
from bench.records.base import DamagedRecord, plain, read
from bench.records.cluster import Cluster, HostJobs, JobRecord
from bench.records.run import read_record
from bench.records.study import IndexEntry
from bench.storage import real, utc_now, write_json, write_text
from bench.study.directory import HOSTS, RunDirectory, new_directory, study_fingerprint, study_index, without_locks
from bench.study.load import StudyDefinition
from bench.units import exact_seconds


@dataclass(frozen=True)
class ClusterDirectory:
    """Paths and records of the folder."""

    path: Path

    @property
    def record_path(self) -> Path:
        return self.path / "cluster.json"

    @property
    def study_file(self) -> Path:
        """The study with its overrides, before anything of a host is filled in."""
        return self.path / "study.yaml"

    @property
    def report(self) -> Path:
        return self.path / "cluster_report.html"

    @property
    def results(self) -> Path:
        return self.path / "cluster_results.json"

    def host(self, name: str) -> RunDirectory:
        return RunDirectory(self.path / HOSTS / name)

    def job_record_path(self, name: str) -> Path:
        return self.path / HOSTS / name / "job.json"

    def job_log(self, name: str) -> Path:
        return self.path / HOSTS / name / "logs" / "job.log"

    def job_record(self, name: str) -> JobRecord | None:
        """What the job of this host last wrote; None if no job has started there, or the file is damaged."""
        return read_record(self.job_record_path(name), JobRecord)

    def read(self) -> Cluster:
        """Raise StudyError if this is no such folder, or its cluster.json is damaged."""
        try:
            return read(self.record_path, Cluster)
        except OSError:
            raise StudyError(
                "no cluster.json: not the folder of a study on many hosts",
                str(self.path),
                "name the folder outputs/<study>/<date>/<time>/ that numastudy submit printed",
            ) from None
        except DamagedRecord as error:
            advice = "correct it by hand, or submit the study again with --fresh"
            raise StudyError(f"damaged: {error}", str(self.record_path), advice) from None

    def write(self, record: Cluster) -> None:
        write_json(self.record_path, plain(record))

    @contextmanager
    def lock(self, wait_s: float = 60.0) -> Iterator[None]:
        """Only one process of all hosts submits, or writes the report, at a time. Raise StudyError after wait_s."""
        try:
            file = (self.path / ".lock").open("a")
        except OSError as error:
            advice = "ask its owner, or submit a study of your own"
            raise StudyError(f"cannot write there: {error.strerror}", str(self.path), advice) from None
        with file:
            deadline = time.monotonic() + wait_s
            while not try_lock(file.fileno(), self.path):
                if time.monotonic() > deadline:
                    raise StudyError(
                        f"another process has used this folder for {exact_seconds(wait_s)}", str(self.path), "wait"
                    )
                time.sleep(0.1)
            yield


def try_lock(descriptor: int, where: Path) -> bool:
    """False if another process holds the lock. Raise StudyError if the file system cannot lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise without_locks(error, where) from None
    return True


def is_cluster(path: Path) -> bool:
    return (path / "cluster.json").is_file()


def find_or_create(
    study: StudyDefinition, hosts: list[str], output_dir: Path, scheduler: str, fresh: bool
) -> ClusterDirectory:
    """The folder of this study on these hosts: the existing one, else (or with `fresh`) a new one."""
    folder = real(output_dir) / study.name
    identity = study_fingerprint(study.as_json() | {HOSTS: sorted(hosts)}, "")
    with study_index(folder) as index:
        entry = index.get(identity)
        if entry and not fresh and is_cluster(folder / entry.path):
            return ClusterDirectory(folder / entry.path)
        directory = ClusterDirectory(new_directory(folder, (HOSTS,)))
        write_text(directory.study_file, study_text(study))
        record = Cluster(
            study=study.name,
            created_at=utc_now(),
            scheduler=scheduler,
            hosts={host: HostJobs(jobs=()) for host in hosts},
        )
        directory.write(record)
        index[identity] = IndexEntry(path=str(directory.path.relative_to(folder)), invocation="")
        return directory


def study_text(study: StudyDefinition) -> str:
    """A study file that defines the same study."""
    values = study.as_json()
    if values["placements"] == "all":
        values["numa_nodes"] = values.pop("placements")
    # By way of JSON: YAML would write what occurs twice as an alias, which no study file may have.
    return yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False)
