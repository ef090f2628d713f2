"""A study that cannot compare here what it was asked to compare: what plan says of it, and what its start ends with."""

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.errors import NotHere
from bench.study import start
from bench.study.load import load_study
from bench.terminal import show_sentences
from tests.host.made_hosts import host_root, host_topology

NOTE = "no two placements to compare: "


def planned(host: str, *words: str) -> str:
    found = CliRunner().invoke(main, ["plan", *words, "--root", str(host_root(host))])
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize(
    ("host", "study", "advice"),
    [
        ("one_node", "NearestNode", "numastudy run NearestNode --placements cpu-groups"),
        ("one_node", "NumaStudy", "to measure it alone, numastudy run NumaStudy --numa-nodes 0"),
        (
            "two_sockets",
            "NumaStudy",
            "this host has nodes 0-1\n  to do: to measure all of them, numastudy run NumaStudy",
        ),
        ("two_sockets", "placement_2x2", "numastudy run placement_2x2 --placements '[[0,0],[0,1],[1,0],[1,1]]'"),
    ],
)
def test_plan_gives_the_command_when_no_pair_is_left(host: str, study: str, advice: str) -> None:
    text = planned(host, study)
    assert f"does not start: {NOTE}" in text and advice in text


def test_a_terminal_gets_short_lines_and_whole_commands(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = planned("one_node", "NearestNode")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show_sentences(text)
    lines = capsys.readouterr().out.splitlines()
    whole = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(whole) == 2 and {*whole} <= {*lines}
    assert all(len(line) <= 80 for line in lines if line not in whole)


def test_study_of_settings_starts_and_plan_says_that_no_two_placements_are_left() -> None:
    text = planned("two_sockets", "rq4_numa")
    assert f"\n{NOTE}this host has nodes 0-1\n  to do: to measure all of them, numastudy run rq4_numa" in text


def test_plan_says_nothing_when_a_pair_is_left() -> None:
    assert NOTE not in planned("two_sockets", "NearestNode")
    assert NOTE not in planned("two_sockets", "NumaStudy", "--numa-nodes", "all")


def test_plan_says_nothing_when_one_node_is_asked() -> None:
    assert NOTE not in planned("one_node", "QuickTest")
    assert NOTE not in planned("two_sockets", "NearestNode", "--numa-nodes", "[0]")


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path, host: str, study: str, overrides: dict[str, Any]) -> None:
    monkeypatch.setattr(start, "read_topology", lambda: host_topology(host))
    start.refuse_start(load_study(study, {"binding": "none", **overrides}), folder, False, True, "")


@pytest.mark.parametrize(
    ("host", "study", "overrides", "what"),
    [
        ("two_sockets", "NumaStudy", {}, NOTE),
        ("one_node", "NearestNode", {}, NOTE),
        ("two_sockets", "QuickTest", {"numa_nodes": [0, 2]}, "no such NUMA node: 2"),
        ("two_sockets", "QuickTest", {"placements": [[0, 0], [0, 7]]}, "no such NUMA node: 7"),
        ("two_sockets", "QuickTest", {"sweep": {"numa_nodes": [[0], [2]]}}, "no such NUMA node: 2"),
        ("two_sockets", "QuickTest", {"gpu_ids": [0, 9]}, "no such GPU: 9"),
    ],
)
def test_start_ends_with_30_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, study: str, overrides: dict[str, Any], what: str
) -> None:
    with pytest.raises(NotHere) as refused:
        refuse(monkeypatch, tmp_path, host, study, overrides)
    assert what in str(refused.value) and refused.value.exit_code == 30 and refused.value.advice
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "study", "overrides"),
    [
        ("two_sockets", "NearestNode", {}),
        ("two_sockets", "QuickTest", {"numa_nodes": "all", "gpu_ids": "all"}),
        # GPUs and nodes that only the file names may be those of another host.
        ("two_sockets", "NumaStudy", {"numa_nodes": [0, 1]}),
        ("one_node", "NumaStudy", {"sweep": {"batch_size": [1, 10]}}),
        # Each model is listed twice, and compared with itself.
        ("one_node", "SelfCheck", {"numa_nodes": "all"}),
        ("one_node", "QuickTest", {"gpu_ids": [0, 9], "device": "cpu"}),
    ],
)
def test_start_passes_what_can_be_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, study: str, overrides: dict[str, Any]
) -> None:
    refuse(monkeypatch, tmp_path, host, study, overrides)
