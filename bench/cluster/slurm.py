"""Slurm by its own commands: nodes, jobs, submission; and which hosts a study is to measure.

The output of these commands is parsed here and nowhere else.
"""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from bench.errors import StudyError
from bench.study.settings import nearest

# A job in one of these states continues, or comes back, by itself.
_ALIVE = frozenset(
    (
        "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_FED", "SUSPENDED", "STOPPED",
        "SIGNALING", "RESIZING", "STAGE_OUT",
    )
)  # fmt: skip
# Slurm gave the job up (its node failed several times, its start failed, its reservation is gone), and keeps it in the
# queue for a user to decide.
_HELD = frozenset(("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"))
_HELD_BY_ITS_START = "launch failed requeued held"
# States of a node on which a job may start, now or later; the first are the sooner.
_USABLE = ("idle", "mixed", "completing", "allocated", "reserved", "planned")
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Job:
    """state and reason as Slurm writes them; exit_code as "code:signal"."""

    state: str
    reason: str
    restarts: int
    exit_code: str

    @property
    def alive(self) -> bool:
        return self.state in _ALIVE and not self.held

    @property
    def held(self) -> bool:
        return self.state in _HELD or (self.state == "PENDING" and self.reason == _HELD_BY_ITS_START)


@dataclass(frozen=True)
class Node:
    name: str
    state: str
    features: tuple[str, ...]

    @property
    def rank(self) -> int | None:
        """How soon a job may start there; None: not before it is repaired."""
        return _USABLE.index(self.state) if self.state in _USABLE else None


def jobs(ids: Iterable[str]) -> dict[str, Job]:
    """Those of the jobs that Slurm still knows, in one query whatever their number. Raise StudyError."""
    wanted = set(ids)
    if not wanted:
        return {}
    return {id: job for id, job in parse_jobs(ask("scontrol", "show", "job", "-o")).items() if id in wanted}


def parse_jobs(text: str) -> dict[str, Job]:
    """From `scontrol show job -o`: one line a job, KEY=VALUE; the values that are read here have no spaces."""
    found = {}
    for line in text.splitlines():
        values: dict[str, str] = {}
        for key, value in re.findall(r"(?:^|\s)([A-Za-z/:]+)=(\S*)", line):
            values.setdefault(key, value)
        if "JobId" in values and "JobState" in values:
            found[values["JobId"]] = Job(
                values["JobState"],
                _unpacked(values.get("Reason", "")),
                int(values.get("Restarts", "0")),
                values.get("ExitCode", ""),
            )
    return found


def nodes() -> dict[str, Node]:
    """Every node of the cluster by name. Raise StudyError."""
    found = {}
    for line in ask("sinfo", "-h", "-N", "-o", "%N|%T|%f").splitlines():
        name, state, features = line.split("|", 2)
        # A mark behind the state means that the node does not answer, or is about to reboot, power up, ...
        plain = state if state.isalpha() else state.rstrip("*~#!%$@^-+") + (" not answering" if "*" in state else "")
        found[name] = Node(name, plain.lower(), tuple(features.split(",")))
    return found


def expand(expression: str) -> list[str]:
    """Names of a Slurm host list: n[1-3] is n1, n2, n3. Raise StudyError."""
    advice = "name the hosts one by one (--nodes n1,n2), or run this where Slurm is configured"
    return ask("scontrol", "show", "hostnames", expression, advice=advice).split()


def submit(script: str) -> str:
    """The id of the new job. Raise StudyError with the message of sbatch."""
    advice = "numastudy submit --dry-run prints the script"
    return ask("sbatch", "--parsable", stdin=script, advice=advice).strip().partition(";")[0]


def requeue(job: str) -> None:
    """Ask for the job to be run again from its start. Raise StudyError."""
    ask("scontrol", "requeue", job)


def cancel(job: str) -> None:
    """Raise StudyError."""
    ask("scancel", job)


def ask(*command: str, stdin: str | None = None, advice: str = "`sinfo` must list the nodes here") -> str:
    """The output of the command. advice: if Slurm refuses. Raise StudyError."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except FileNotFoundError:
        raise StudyError(
            f"{command[0]} is not installed here",
            " ".join(command),
            "run this on a login node, which has Slurm's commands",
        ) from None
    except subprocess.TimeoutExpired:
        raise StudyError(
            f"{command[0]} did not answer in {_TIMEOUT_S} s", " ".join(command), "try again later"
        ) from None
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise StudyError(f"Slurm refused: {message}", " ".join(command), advice)
    return done.stdout


def _unpacked(reason: str) -> str:
    """Slurm writes a reason in one word: ReqNodeNotAvail,_UnavailableNodes:n4."""
    return "" if reason == "None" else reason.replace("_", " ").strip("( )")


_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")


def choose_hosts(names: str, nodelist: str, count: int, constraint: str) -> list[str]:
    """The names of the hosts, each once. Exactly one of names, nodelist, count is given; constraint goes with count.

    A count becomes names here, not in Slurm: then a host that never reports has a name, and no node is measured twice.
    Raise StudyError.
    """
    if sum(map(bool, (names, nodelist, count))) != 1:
        advice = "give one of --nodes n1,n2, --nodelist 'n[1-9]', --count 4"
        raise StudyError("no hosts, or several ways to name them", "numastudy submit", advice)
    if constraint and not count:
        raise StudyError(
            "--constraint goes with --count", "numastudy submit", "named hosts are used whatever features they have"
        )
    if count:
        return pick(nodes(), count, constraint)
    named = [name.strip() for name in names.split(",") if name.strip()]
    hosts = check_names(expand(nodelist) if nodelist else named)
    if not hosts:
        raise StudyError(
            "no host is named", f"--nodelist {nodelist}" if nodelist else f"--nodes {names}", "--nodes n1,n2"
        )
    return hosts


def check_names(names: list[str]) -> list[str]:
    """A name becomes a folder and a line of a script. Raise StudyError if one could become anything else."""
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise StudyError(
                f"{name!r} is not the name of a host", "--nodes", "a host list such as n[1-9] goes to --nodelist"
            )
    if len(set(names)) != len(names):
        raise StudyError("a host is named twice", ", ".join(names), "name each once")
    return names


def check_known(names: list[str], known: dict[str, Node]) -> None:
    """Raise StudyError for a host that Slurm does not have."""
    for name in names:
        if name not in known:
            raise StudyError(f"Slurm has no node {name}{nearest(name, tuple(known))}", "--nodes", "sinfo -N lists them")


def pick(known: dict[str, Node], count: int, constraint: str) -> list[str]:
    """`count` nodes with the feature, preferring those where a job can start soonest. Raise StudyError."""
    with_feature = [node for node in known.values() if not constraint or constraint in node.features]
    usable = [node for node in with_feature if node.rank is not None]
    if len(usable) < count:
        others = [f"{node.name} is {node.state}" for node in with_feature if node.rank is None]
        what = f"with the feature {constraint} " if constraint else ""
        why = f": {', '.join(others[:8])}" if others else ""
        raise StudyError(
            f"asked for {count} nodes, and {len(usable)} {what}are available{why}",
            "--count",
            "sinfo -N -o '%N %T %f' lists nodes, states and features",
        )
    soonest = sorted(usable, key=lambda node: (node.rank or 0, _natural(node.name)))[:count]
    return sorted((node.name for node in soonest), key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """n2 before n10."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
