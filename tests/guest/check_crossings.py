"""Crossings on a real kernel with four nodes: honest ones are proved, and sabotage of one placement is of it alone.

By the real workload on the cpu device: its rings, its threads and its windows, with the machine's own torch.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.crossings import NAMES
from tests.guest.files import missing
from tests.guest.machine import Machine, four_nodes

PLACES = ("0,0", "1,1", "2,2", "0,3")
# Node 3 holds the rings of one placement beside the headroom that is asked of a node.
MEMORY_MB = (1536, 1024, 1024, 336)

pytestmark = pytest.mark.timeout(3000)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if lacking := missing():
        pytest.fail(f"missing: {', '.join(lacking)}; .ci/install-guest installs what Debian has of it", pytrace=False)
    machine = Machine(tmp_path_factory.mktemp("machine"), four_nodes(MEMORY_MB))
    machine.boot()
    try:
        yield machine
    finally:
        machine.cut_power()


def result_of(machine: Machine, *arguments: str) -> dict[str, Any]:
    printed = machine.run(sys.executable, "-m", "tests.guest.crossings", *arguments, timeout_s=2400)
    print(printed)
    return json.loads(printed.rstrip().splitlines()[-1])


@pytest.fixture(scope="module")
def found(nodes: Machine) -> dict[str, Any]:
    return result_of(nodes, "sabotaged", "full_node", "in_a_cpuset")


def proved(one: dict[str, Any], mem_node: str) -> None:
    """Every page of its rings, every batch, and every look."""
    assert (one["outcome"], one["why"], one["strays"]) == ("proved", "", 0), one
    assert one["looks"] >= one["windows"] >= 16
    assert {name: set(pages) for name, pages in one["pages"].items()} == {name: {mem_node} for name in one["pages"]}
    assert set(one["on_node"].values()) == {1.0}


def test_honest_crossings_are_proved_page_by_page(nodes: Machine) -> None:
    crossings = result_of(nodes, "honest")["honest"]
    assert len(crossings) == 12
    for crossing in crossings.values():
        for place in PLACES:
            proved(crossing[place], place[-1])


@pytest.mark.parametrize("name", NAMES)
def test_sabotage_is_found_and_spares_the_other(found: dict[str, Any], name: str) -> None:
    crossing = found["sabotaged"][name]
    proved(crossing["0,0"], "0")
    assert crossing["1,1"]["outcome"] == "misplaced", crossing["1,1"]


def test_sabotage_inside_a_window_is_seen_by_its_batches(found: dict[str, Any]) -> None:
    """No look finds the main thread elsewhere: it is back by then."""
    inside = found["sabotaged"]["main_thread_away_inside_a_window"]["1,1"]
    assert inside["strays"] == 0 and "batches were issued from CPUs 0" in inside["why"]


@pytest.mark.parametrize("how", ["by its free memory", "taken since"])
def test_full_node_is_out_of_memory_for_its_cell_alone(found: dict[str, Any], how: str) -> None:
    crossing = found["full_node"][how]
    proved(crossing["0,0"], "0")
    assert crossing["0,3"]["outcome"] == "oom", crossing["0,3"]
    words = {"by its free memory": "NUMA node 3 has", "taken since": "node 3 had no room"}
    assert words[how] in crossing["0,3"]["why"]


def test_study_over_its_nodes_is_proved_in_every_run(nodes: Machine) -> None:
    """Two processes are rounded up to three, one born on each node, all forked from one interpreter."""
    study = result_of(nodes, "study", "/disk")
    assert study["repeats"] == 3 and len(study["runs"]) == 9
    assert sorted(run["born"] for run in study["runs"].values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for run in study["runs"].values():
        assert run["status"] == "ok", run
        proved(run["cell"], run["node"])


def test_pool_that_gets_its_process_killed_fails_alone(nodes: Machine) -> None:
    """By the kernel's out-of-memory killer; the process is started again without that pool."""
    killed = result_of(nodes, "killed", "/disk")
    runs = killed["runs"]
    assert killed["kills"] == "1" and [runs[size]["status"] for size in ("8", "16", "200")] == ["ok", "ok", "oom"], runs
    assert "out of memory while the pool of this cell was allocated" in runs["200"]["reason"]
    assert runs["200"]["exit_code"] == -9 and len({run["crossing"] for run in runs.values()}) == 1
    for size in ("8", "16"):
        proved(runs[size]["cell"], "0")


def test_cpuset_without_a_node_fails_its_cells_alone(found: dict[str, Any]) -> None:
    crossing = found["in_a_cpuset"]
    for place in ("0,0", "1,1"):
        proved(crossing[place], place[-1])
    assert [crossing[place]["outcome"] for place in ("2,2", "0,3")] == ["bind_failed"] * 2
