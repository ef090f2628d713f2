"""What plan says of a study that has no two placements to compare here, by the command."""

import pytest
from click.testing import CliRunner

from bench.cli import main
from tests.host.made_hosts import host_root

NOTE = "no two placements to compare: "


def planned(host, *words):
    found = CliRunner().invoke(main, ["plan", *words, "--root", str(host_root(host))])
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize(
    ("host", "study", "advice"),
    [
        ("one_node", "NearestNode", "numastudy run NearestNode --placements cpu-groups"),
        ("one_node", "NumaStudy", "numastudy run NumaStudy --placements cpu-groups"),
        ("two_sockets", "NumaStudy", "this host has nodes 0-1; to measure all of them, numastudy run NumaStudy"),
        ("two_sockets", "rq4_numa", "this host has nodes 0-1; to measure all of them, numastudy run rq4_numa"),
    ],
)
def test_plan_gives_the_command_when_no_pair_is_left(host, study, advice):
    text = planned(host, study)
    assert NOTE in text and advice in text


def test_plan_says_nothing_when_a_pair_is_left():
    assert NOTE not in planned("two_sockets", "NearestNode")
    assert NOTE not in planned("two_sockets", "NumaStudy", "--numa-nodes", "all")


def test_plan_says_nothing_when_one_node_is_asked():
    assert NOTE not in planned("one_node", "QuickTest")
    assert NOTE not in planned("two_sockets", "NearestNode", "--numa-nodes", "[0]")
