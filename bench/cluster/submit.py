"""One exclusive Slurm job a host, from a template."""

import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from msgspec.structs import replace

from bench.cluster import slurm
from bench.cluster.directory import ClusterDirectory, find_or_create
from bench.cluster.job import SIGNAL_BEFORE_S, split_address
from bench.cluster.slurm import check_known, check_names
from bench.cluster.status import cluster_status
from bench.errors import StudyError
from bench.records.cluster import HostJobs, HostState, HostStatus, SubmittedJob
from bench.storage import open_regular, real, utc_now
from bench.study.load import StudyDefinition, configs_folder

_OPTION = re.compile(r"[a-z][a-z0-9-]*(=[^\s\"'\\`$]+)?")
# What the script sets, and what would take a job to another host, divide it or start it again from elsewhere.
_OF_THE_SCRIPT = frozenset(
    (
        "nodes", "nodelist", "nodefile", "exclude", "ntasks", "ntasks-per-node", "array", "exclusive", "oversubscribe",
        "mem", "mem-per-cpu", "mem-per-gpu", "cores-per-socket", "threads-per-core", "overcommit", "no-requeue",
        "open-mode", "output", "wrap", "parsable", "test-only", "wait",
    )
)  # fmt: skip
_SIGNAL = re.compile(r"signal=B:USR1@([1-9]\d{0,4})")


@dataclass(frozen=True)
class Request:
    """How to submit. scheduler: HOST:PORT of a central luigid, or "". options: of sbatch, as "time=04:00:00"."""

    scheduler: str = ""
    options: Sequence[str] = ()
    template: Path | None = None


def submit(
    study: StudyDefinition, hosts: list[str], request: Request, output_dir: Path, fresh: bool
) -> tuple[ClusterDirectory, dict[str, str]]:
    """Submit a job for each host that has none and is not done. Returns the folder and the outcome by host.

    A host that Slurm refuses does not affect the others. Raise StudyError if it refuses all.
    """
    _check(request)
    check_known(hosts, slurm.nodes())
    directory = find_or_create(study, hosts, output_dir, request.scheduler, fresh)
    # A job that starts at once waits for this lock until its id is recorded.
    with directory.lock():
        record = replace(directory.read(), scheduler=request.scheduler)
        outcomes, refused = {}, []
        cluster = cluster_status(directory)
        if cluster.slurm_error:
            what = f"the jobs that run now are not known: {cluster.slurm_error}"
            raise StudyError(what, str(directory.path), "try again later")
        for status in cluster.hosts:
            if not_needed := _why_not(status):
                outcomes[status.host] = not_needed
                continue
            directory.job_log(status.host).parent.mkdir(parents=True, exist_ok=True)
            try:
                if status.job_held:
                    slurm.cancel(status.job_id)
                job_id = slurm.submit(render(study.name, status.host, directory.path, request))
            except StudyError as error:
                refused.append(error)
                outcomes[status.host] = error.what
                continue
            job = SubmittedJob(id=job_id, submitted_at=utc_now())
            jobs = HostJobs(jobs=(*record.hosts[status.host].jobs, job))
            record = replace(record, hosts=record.hosts | {status.host: jobs})
            directory.write(record)
            outcomes[status.host] = f"submitted as job {job_id}"
    if len(refused) == len(hosts):
        raise refused[0]
    return directory, outcomes


def _why_not(status: HostStatus) -> str:
    """Why a host needs no new job, or ""."""
    if status.state is HostState.DONE and not status.runs_failed:
        return "all of it is measured"
    if not status.job_alive:
        return ""
    return status.reason if status.state is HostState.WAITING else f"job {status.job_id} is {status.job_state.lower()}"


def dry_run(study: StudyDefinition, hosts: list[str], request: Request, output_dir: Path) -> str:
    """The script of the first host, and the hosts whose scripts differ in the name only."""
    _check(request)
    clock = time.strftime("%Y-%m-%d/%H-%M-%S")
    text = render(study.name, hosts[0], real(output_dir) / study.name / clock, request)
    others = ", ".join(hosts[1:])
    return f"{text}\n# the same for {others}\n" if others else text


def render(study: str, host: str, folder: Path, request: Request) -> str:
    """The batch script of one host. Raise StudyError if the template cannot be used."""
    # The name may come from an edited cluster.json.
    check_names([host])
    template = request.template or configs_folder() / "slurm" / "host.sbatch.j2"
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = shlex.quote
    try:
        open_regular(template).close()
        return environment.get_template(template.name).render(
            study=study,
            host=host,
            folder=str(folder),
            log=sbatch_path(ClusterDirectory(folder).job_log(host)),
            drain=str(ClusterDirectory(folder).host(host).path / "drain"),
            python=sys.executable,
            options=list(request.options),
            signal_before_s=_signal_before_s(request.options),
        )
    except (TemplateError, OSError, UnicodeError) as error:
        raise StudyError(
            f"the template cannot be used: {error}", str(template), "start from a copy of the shipped template"
        ) from None


def sbatch_path(path: Path) -> str:
    """For an #SBATCH line, which has it in double quotes and where % has a meaning. Raise StudyError."""
    text = str(path)
    if any(character in text for character in '"\\\n'):
        raise StudyError("sbatch cannot write into such a folder", json.dumps(text), "choose another --output-dir")
    return text.replace("%", "%%")


def _signal_before_s(options: Sequence[str]) -> int:
    """Seconds before the time limit at which the batch script is signalled: sbatch uses the last of several options."""
    found = [int(signal[1]) for option in options if (signal := _SIGNAL.fullmatch(option))]
    return found[-1] if found else SIGNAL_BEFORE_S


def _check(request: Request) -> None:
    split_address(request.scheduler)
    for option in request.options:
        if not _OPTION.fullmatch(option):
            raise StudyError(
                f"found {option!r}, allowed is NAME or NAME=VALUE without spaces and quotes",
                "--sbatch",
                "as --sbatch time=04:00:00 --sbatch partition=gpu; for more, copy the template: --template FILE",
            )
        if option.partition("=")[0] in _OF_THE_SCRIPT:
            raise StudyError(
                f"{option} contradicts the batch script, which measures one whole host a job",
                "--sbatch",
                "choose hosts with --nodes, --nodelist or --count; for another script: --template FILE",
            )
        if option.partition("=")[0] == "signal" and not _SIGNAL.fullmatch(option):
            raise StudyError(
                f"found {option!r}, allowed is signal=B:USR1@SECONDS",
                "--sbatch",
                "the batch script waits for USR1 before the time limit; another signal would end the run",
            )
