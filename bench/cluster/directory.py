"""The folder of a study on many hosts: cluster.json, the study, and one run directory a host."""

import fcntl
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError
from bench.records.study import IndexEntry
from bench.shape import TEXT, Each, Kind, Must, misfit
from bench.storage import read_json, write_json, write_text
from bench.study.directory import HOSTS, RunDirectory, new_directory, study_fingerprint, study_index, without_locks
from bench.study.load import StudyDefinition

SCHEMA = 1
Record = dict[str, Any]

_JOBS = {"jobs": Must([Must({"id": Must(TEXT)})])}
# A host's name becomes a folder; whoever writes it into a script or a page looks at it again.
_FOLDER = re.compile(r"(?!\.)[^/\0\n]{1,255}")
_HOSTS = Kind(
    "a mapping of names of hosts",
    lambda value: isinstance(value, dict) and bool(value) and all(map(_FOLDER.fullmatch, value)),
)
_SHAPE = Must({"study": Must(TEXT), "scheduler": Must(TEXT), "hosts": Must(_HOSTS)})


@dataclass(frozen=True)
class ClusterDirectory:
    """cluster.json: schema, study, created_at, scheduler, hosts: {name: {"jobs": [{"id", "submitted_at"}, ...]}}.

    The last job of a host is the one that may measure there.
    """

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

    def job_record(self, name: str) -> Path:
        """What the job on this host says of itself."""
        return self.path / HOSTS / name / "job.json"

    def job_log(self, name: str) -> Path:
        return self.path / HOSTS / name / "logs" / "job.log"

    def read(self) -> Record:
        """Raise StudyError if this is no such folder, or its cluster.json is damaged."""
        try:
            record = read_json(self.record_path)
        except OSError:
            raise StudyError(
                "no cluster.json: not the folder of a study on many hosts",
                str(self.path),
                "name the folder outputs/<study>/<date>/<time>/ that numastudy submit printed",
            ) from None
        wrong = misfit(record, _SHAPE) or misfit(record["hosts"], Each(Must(_JOBS)), "hosts")
        if wrong:
            advice = "mend it by hand, or submit the study again with --fresh"
            raise StudyError(f"damaged: {wrong}", str(self.record_path), advice)
        return record

    def write(self, record: Record) -> None:
        write_json(self.record_path, record)

    @contextmanager
    def lock(self, wait_s: float = 60.0) -> Iterator[None]:
        """One at a time, of all hosts, submits, or writes the report. Raise StudyError after wait_s."""
        try:
            file = (self.path / ".lock").open("a")
        except OSError as error:
            advice = "ask whom it belongs to, or submit a study of your own"
            raise StudyError(f"cannot write there: {error.strerror}", str(self.path), advice) from None
        with file:
            deadline = time.monotonic() + wait_s
            while not try_lock(file.fileno(), self.path):
                if time.monotonic() > deadline:
                    raise StudyError(f"another process works in this folder for {wait_s:g} s", str(self.path), "wait")
                time.sleep(0.1)
            yield


def try_lock(descriptor: int, where: Path) -> bool:
    """False if another process holds it. Raise StudyError if it is not known who does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise without_locks(error, where) from None
    return True


def is_cluster(path: Path) -> bool:
    return (path / "cluster.json").is_file()


def find_or_make(
    study: StudyDefinition, hosts: list[str], output_dir: Path, scheduler: str, fresh: bool
) -> ClusterDirectory:
    """The folder of this study on these hosts: the one it has, or a new one if there is none or `fresh`."""
    folder = output_dir.resolve() / study.name
    known_as = study_fingerprint(study.as_json() | {HOSTS: sorted(hosts)}, "")
    with study_index(folder) as index:
        entry = index.get(known_as)
        if entry and not fresh and is_cluster(folder / entry.path):
            return ClusterDirectory(folder / entry.path)
        made = ClusterDirectory(new_directory(folder, (HOSTS,)))
        write_text(made.study_file, study_text(study))
        made.write(
            {
                "schema": SCHEMA,
                "study": study.name,
                "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "scheduler": scheduler,
                "hosts": {host: {"jobs": []} for host in hosts},
            }
        )
        index[known_as] = IndexEntry(path=str(made.path.relative_to(folder)), invocation="")
        return made


def study_text(study: StudyDefinition) -> str:
    """A study file that gives this study again."""
    values = study.as_json()
    if values["placements"] == "all":
        values["numa_nodes"] = values.pop("placements")
    # By way of JSON: YAML would write what occurs twice as an alias, which no study file may have.
    return yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False)
