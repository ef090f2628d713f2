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

from bench.cluster import slurm
from bench.cluster.directory import ClusterDirectory, find_or_make
from bench.cluster.job import SIGNAL_BEFORE_S, split_address
from bench.cluster.slurm import check_known, check_names
from bench.cluster.status import DONE, WAITING, HostStatus, cluster_status
from bench.errors import StudyError
from bench.study.load import StudyDefinition, configs_folder

_OPTION = re.compile(r"[a-z][a-z0-9-]*(=[^\s\"'\\`$]+)?")
_SIGNAL = re.compile(r"signal=B:USR1@([1-9]\d{0,4})")


@dataclass(frozen=True)
class Asked:
    """What the command line says: which hosts, by one of nodes, nodelist and count; and how they are submitted.

    scheduler: HOST:PORT of a central luigid, or "". options: further ones of sbatch, as "time=04:00:00".
    """

    nodes: str = ""
    nodelist: str = ""
    count: int = 0
    constraint: str = ""
    scheduler: str = ""
    options: Sequence[str] = ()
    template: Path | None = None


def submit(
    study: StudyDefinition, hosts: list[str], asked: Asked, output_dir: Path, fresh: bool
) -> tuple[ClusterDirectory, dict[str, str]]:
    """Submit a job for each host that has none and is not done. Returns the folder and what became of each host.

    A host that Slurm refuses costs the others nothing, unless it refuses all. Raise StudyError.
    """
    _check(asked)
    check_known(hosts, slurm.nodes())
    directory = find_or_make(study, hosts, output_dir, asked.scheduler, fresh)
    # A job that starts at once waits here until its id is written down.
    with directory.lock():
        record = directory.read()
        record["scheduler"] = asked.scheduler
        said, refused = {}, []
        found = cluster_status(directory)
        if found.slurm_error:
            what = f"it is not known whose jobs run: {found.slurm_error}"
            raise StudyError(what, str(directory.path), "try again later")
        for status in found.hosts:
            said[status.host] = _why_not(status)
            if said[status.host]:
                continue
            directory.job_log(status.host).parent.mkdir(parents=True, exist_ok=True)
            try:
                if status.job_held:
                    slurm.cancel(status.job_id)
                job = slurm.submit(render(study.name, status.host, directory.path, asked))
            except StudyError as error:
                refused.append(error)
                said[status.host] = error.what
                continue
            entry = {"id": job, "submitted_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            record["hosts"][status.host]["jobs"].append(entry)
            said[status.host] = f"submitted as job {job}"
            directory.write(record)
    if len(refused) == len(hosts):
        raise refused[0]
    return directory, said


def _why_not(status: HostStatus) -> str:
    if status.state == DONE and not status.runs_failed:
        return "all of it is measured"
    if not status.job_alive:
        return ""
    return status.reason if status.state == WAITING else f"job {status.job_id} is {status.job_state.lower()}"


def dry_run(study: StudyDefinition, hosts: list[str], asked: Asked, output_dir: Path) -> str:
    """The script of the first host, and whose scripts are the same but for the name."""
    _check(asked)
    clock = time.strftime("%Y-%m-%d/%H-%M-%S")
    text = render(study.name, hosts[0], output_dir.resolve() / study.name / clock, asked)
    others = ", ".join(hosts[1:])
    return f"{text}\n# the same for {others}\n" if others else text


def render(study: str, host: str, folder: Path, asked: Asked) -> str:
    """The batch script of one host. Raise StudyError if the template cannot be used."""
    # It may come from a cluster.json that somebody has edited.
    check_names([host])
    template = asked.template or configs_folder() / "slurm" / "host.sbatch.j2"
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = shlex.quote
    try:
        return environment.get_template(template.name).render(
            study=study,
            host=host,
            folder=str(folder),
            log=sbatch_path(ClusterDirectory(folder).job_log(host)),
            drain=str(ClusterDirectory(folder).host(host).path / "drain"),
            python=sys.executable,
            options=list(asked.options),
            signal_before_s=_signal_before_s(asked.options),
        )
    except (TemplateError, OSError, UnicodeError) as error:
        raise StudyError(f"the template cannot be used: {error}", str(template), "start from a copy of ours") from None


def sbatch_path(path: Path) -> str:
    """For an #SBATCH line: in double quotes, and % has a meaning there. Raise StudyError."""
    text = str(path)
    if any(character in text for character in '"\\\n'):
        raise StudyError("sbatch cannot write into such a folder", json.dumps(text), "choose another --output-dir")
    return text.replace("%", "%%")


def _signal_before_s(options: Sequence[str]) -> int:
    """How long before the time limit the batch script hears of it: sbatch takes the last of several."""
    found = [int(signal[1]) for option in options if (signal := _SIGNAL.fullmatch(option))]
    return found[-1] if found else SIGNAL_BEFORE_S


def _check(asked: Asked) -> None:
    split_address(asked.scheduler)
    for option in asked.options:
        if not _OPTION.fullmatch(option):
            raise StudyError(
                f"found {option!r}, allowed is NAME or NAME=VALUE without spaces and quotes",
                "--sbatch",
                "as --sbatch time=04:00:00 --sbatch partition=gpu; for more, copy the template: --template FILE",
            )
        if option.partition("=")[0] == "signal" and not _SIGNAL.fullmatch(option):
            raise StudyError(
                f"found {option!r}, allowed is signal=B:USR1@SECONDS",
                "--sbatch",
                "the batch script waits for USR1, so long before the time limit; another signal would end the run",
            )
