import pytest

from bench.cluster.slurm import Node, check_known, check_names, choose_hosts, pick
from bench.errors import StudyError


def cluster(**states: str) -> dict[str, Node]:
    return {name: Node(name, state, ("gpu", "h200")) for name, state in states.items()}


def test_nodes_that_are_free_soonest_are_picked() -> None:
    known = cluster(n10="idle", n2="allocated", n9="idle", n1="down", n3="mixed")
    assert pick(known, 2, "gpu") == ["n9", "n10"]
    assert pick(known, 4, "h200") == ["n2", "n3", "n9", "n10"]


def test_too_few_nodes_are_refused_with_the_reason() -> None:
    known = cluster(n1="idle", n2="drained", n3="down not answering")
    with pytest.raises(
        StudyError, match="asked for 2 nodes, and 1 with the feature gpu are available: n2 is drained, n3 is"
    ):
        pick(known, 2, "gpu")
    with pytest.raises(StudyError, match="0 with the feature a100"):
        pick(known, 1, "a100")


@pytest.mark.parametrize("name", ["../x", "n[1-3]", "a b", "-n1", "n1\n#SBATCH", "", "n1;reboot", "n" * 300])
def test_name_with_other_characters_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match="is not the name of a host"):
        check_names(["n1", name])


def test_named_hosts_are_checked() -> None:
    assert choose_hosts("n1, n2", "", 0, "") == ["n1", "n2"]
    with pytest.raises(StudyError, match="a host is named twice"):
        choose_hosts("n1,n2,n1", "", 0, "")
    with pytest.raises(StudyError, match=r"Slurm has no node gpu7 \(did you mean gpu07\?\)"):
        check_known(["gpu7"], {"gpu07": Node("gpu07", "idle", ())})


@pytest.mark.parametrize("asked", [("", "", 0, ""), ("n1", "n[1-2]", 0, ""), ("n1", "", 2, ""), ("n1", "", 0, "gpu")])
def test_hosts_are_named_in_exactly_one_way(asked: tuple[str, str, int, str]) -> None:
    with pytest.raises(StudyError):
        choose_hosts(*asked)
