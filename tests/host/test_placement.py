import copy
from typing import Any

import pytest

from bench.host.certificate import judge, share_on_node

CELL = {"binding": "numactl", "cpu_node": 0, "mem_node": 2, "placement_threshold": 1.0}
BIND = {"mode": "bind", "nodes": [2]}
HONEST: dict[str, Any] = {
    "node_cpus": "0-3",
    "cpus_seen": {"1": 90, "3": 10},
    "threads": {when: [{"allowed_cpus": "0-3", "threads": 5, "examples": ["python"]}] for when in ("start", "end")},
    "policy": {"start": BIND, "end": BIND},
    "buffers": {
        "input_ring": {
            "bytes": 4096000,
            "pages": 1000,
            "policy": {"mode": "default", "nodes": []},
            "start": {"2": 500},
            "end": {"2": 1000},
        }
    },
    "problems": [],
}


def altered(*path: str, to: object) -> dict[str, Any]:
    facts = copy.deepcopy(HONEST)
    place = facts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return facts


def test_an_honest_run_is_proved() -> None:
    assert judge(HONEST, CELL) == ("proved", [])


def test_nothing_is_claimed_without_a_binding() -> None:
    assert judge(HONEST, CELL | {"binding": "none"})[0] == "not_bound"


WIDE = [{"allowed_cpus": "0-7", "threads": 1, "examples": ["pt_autograd_0"]}]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (altered("threads", "start", to=WIDE), "at the start, 1 thread(s) (pt_autograd_0) may run on CPUs 0-7"),
        (altered("threads", "end", to=WIDE), "at the end, 1 thread(s) (pt_autograd_0) may run on CPUs 0-7"),
        (altered("cpus_seen", to={"1": 90, "5": 10}), "10 of 100 batches were issued from CPUs 5, outside node 0"),
        (altered("policy", "start", to={"mode": "preferred", "nodes": [2]}), "preferred to node 2, not bind to node 2"),
        (altered("policy", "end", to={"mode": "default", "nodes": []}), "the memory policy is default, not bind"),
        (altered("policy", "end", to={"mode": "bind", "nodes": [0, 2]}), "bind to node 0,2, not bind to node 2"),
        (altered("buffers", "input_ring", "policy", to={"mode": "bind", "nodes": [1]}), "the policy of input_ring"),
        (
            altered("buffers", "input_ring", "start", to={"0": 1, "2": 499}),
            "at the start, 1 of 500 pages of input_ring lay elsewhere than on node 2: 1 on node 0",
        ),
        (altered("buffers", "input_ring", "end", to={"0": 1000}), "at the end, 1000 of 1000 pages of input_ring"),
    ],
)
def test_each_contradiction_is_misplaced_and_told(facts: dict[str, Any], reason: str) -> None:
    verdict, reasons = judge(facts, CELL)
    assert verdict == "misplaced" and len(reasons) == 1 and reason in reasons[0], reasons


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (altered("problems", to=["threads: denied"]), "threads: denied"),
        (altered("cpus_seen", to={}), "no batch told which CPU"),
        (altered("buffers", to={}), "no buffer was looked at"),
        (altered("buffers", "input_ring", "end", to={"2": 990, "unknown": 10}), "10 could not be located (-14"),
        (altered("buffers", "input_ring", "end", to={"2": 990, "absent": 10}), "10 were not in memory"),
    ],
)
def test_what_cannot_be_seen_is_unproved(facts: dict[str, Any], reason: str) -> None:
    verdict, reasons = judge(facts, CELL)
    assert verdict == "unproved" and len(reasons) == 1 and reason in reasons[0], reasons


def test_a_contradiction_outweighs_what_was_not_seen() -> None:
    facts = altered("buffers", "input_ring", "end", to={"0": 1000})
    assert judge(facts | {"problems": ["threads: denied"]}, CELL)[0] == "misplaced"


def test_the_threshold_of_the_study_counts() -> None:
    facts = altered("buffers", "input_ring", "end", to={"0": 5, "2": 995})
    assert judge(facts, CELL)[0] == "misplaced"
    assert judge(facts, CELL | {"placement_threshold": 0.99})[0] == "proved"


@pytest.mark.parametrize("percent", range(1, 100))
def test_the_share_that_is_asked_for_is_enough_to_the_page(percent: int) -> None:
    asked = CELL | {"placement_threshold": percent / 100}
    for pages, verdict in ((percent, "proved"), (percent - 1, "misplaced")):
        look = {"0": 100 - pages, "2": pages}
        facts = altered("buffers", "input_ring", to=HONEST["buffers"]["input_ring"] | {"start": look, "end": look})
        assert judge(facts, asked)[0] == verdict


def test_share_is_the_worse_of_both_looks() -> None:
    buffer = HONEST["buffers"]["input_ring"]
    assert share_on_node(buffer, 2) == 1.0
    assert share_on_node(buffer | {"end": {"0": 250, "2": 750}}, 2) == 0.75
    assert share_on_node(buffer | {"start": None}, 2) is None


PREPARING_CELL = CELL | {"preprocess_queue": 4, "preprocess_node": 1}
MAIN = {"allowed_cpus": "0-3", "threads": 5, "examples": ["python"]}


def with_thread(allowed_cpus: str, name: str = "preparing", threads: int = 1) -> dict[str, Any]:
    group = {"allowed_cpus": allowed_cpus, "threads": threads, "examples": [name]}
    return HONEST | {"preparing_cpus": "4-7", "threads": {when: [MAIN, group] for when in ("start", "end")}}


@pytest.mark.parametrize("allowed_cpus", ["4-7", "5,6"])
def test_a_thread_may_prepare_batches_on_the_node_that_the_cell_names(allowed_cpus: str) -> None:
    assert judge(with_thread(allowed_cpus), PREPARING_CELL) == ("proved", [])


@pytest.mark.parametrize(
    "facts",
    [
        with_thread("0-7"),
        with_thread("8-11"),
        with_thread("4-7", name="pt_autograd_0"),
        with_thread("4-7", threads=2),
        HONEST | {"preparing_cpus": "4-7"},
    ],
)
def test_a_preparing_thread_elsewhere_or_another_thread_there_is_misplaced(facts: dict[str, Any]) -> None:
    verdict, reasons = judge(facts, PREPARING_CELL)
    assert verdict == "misplaced"
    assert any("no thread that prepares batches was bound to node 1 (4-7)" in reason for reason in reasons)


def test_a_preparing_thread_on_the_cpu_node_is_one_of_its_threads() -> None:
    assert judge(HONEST | {"preparing_cpus": "0-3"}, PREPARING_CELL) == ("proved", [])
