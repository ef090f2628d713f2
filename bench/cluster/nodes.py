"""Which hosts a study is to measure: named, as a host list, or so many that have a feature."""

import re

from bench.cluster import slurm
from bench.errors import StudyError
from bench.study.settings import nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")


def choose_hosts(nodes: str, nodelist: str, count: int, constraint: str) -> list[str]:
    """The names of the hosts, each once. Exactly one of nodes, nodelist, count is given; constraint goes with count.

    A count is made into names here, not by Slurm: only then can a host that never reports be told by name, and no
    node is measured twice. Raise StudyError.
    """
    if sum(map(bool, (nodes, nodelist, count))) != 1:
        advice = "give one of --nodes n1,n2, --nodelist 'n[1-9]', --count 4"
        raise StudyError("which hosts are to measure?", "numastudy submit", advice)
    if constraint and not count:
        raise StudyError("--constraint goes with --count", "numastudy submit", "named hosts are taken as they are")
    if count:
        return pick(slurm.nodes(), count, constraint)
    names = slurm.expand(nodelist) if nodelist else [name.strip() for name in nodes.split(",") if name.strip()]
    return check_names(names)


def check_names(names: list[str]) -> list[str]:
    """A name becomes a folder and a line of a script. Raise StudyError if one could become anything else."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise StudyError(
                f"{name!r} is not the name of a host", "--nodes", "a host list such as n[1-9] goes to --nodelist"
            )
    if len(set(names)) != len(names):
        raise StudyError("a host stands twice", ", ".join(names), "name each once")
    return names


def check_known(names: list[str], known: dict[str, slurm.Node]) -> None:
    """Raise StudyError for a host that Slurm does not have."""
    for name in names:
        if name not in known:
            raise StudyError(f"Slurm has no node {name}{nearest(name, tuple(known))}", "--nodes", "sinfo -N lists them")


def pick(known: dict[str, slurm.Node], count: int, constraint: str) -> list[str]:
    """`count` nodes with the feature, those first on which a job can start soonest. Raise StudyError."""
    with_feature = [node for node in known.values() if not constraint or constraint in node.features]
    usable = [node for node in with_feature if node.rank is not None]
    if len(usable) < count:
        others = [f"{node.name} is {node.state}" for node in with_feature if node.rank is None]
        what = f"with the feature {constraint} " if constraint else ""
        why = f": {', '.join(others[:8])}" if others else ""
        raise StudyError(
            f"asked for {count} nodes, and {len(usable)} {what}can be had{why}",
            "--count",
            "sinfo -N -o '%N %T %f' lists nodes, states and features",
        )
    soonest = sorted(usable, key=lambda node: (node.rank, _natural(node.name)))[:count]
    return sorted((node.name for node in soonest), key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """n2 before n10."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
