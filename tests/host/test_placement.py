"""The verdict on a certificate, from facts made by hand."""

import copy
from typing import Any

import pytest
from msgspec.structs import replace

from bench.host.certificate import PREPROCESSING_THREAD, judge, share_on_node
from bench.records.base import convert
from bench.records.run import BufferObserved, Certificate, PlacementVerdict
from bench.records.run import DoubtKind as Kind
from bench.records.study import NO_COMPUTE, Cell

CELL = Cell(
    name="standin", gpu=0, cpu_node=0, mem_node=2, model=NO_COMPUTE, device="cpu", profiler="torch", binding="numactl"
)
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


def certificate(**changes: Any) -> Certificate:
    return convert(HONEST | changes, Certificate)


def altered(*path: str, to: object) -> Certificate:
    facts = copy.deepcopy(HONEST)
    place = facts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return convert(facts, Certificate)


def test_honest_run_is_proved() -> None:
    assert judge(certificate(), CELL) == (PlacementVerdict.PROVED, [])


def test_nothing_is_proved_without_a_binding() -> None:
    assert judge(certificate(), replace(CELL, binding="none"))[0] is PlacementVerdict.NOT_BOUND


def test_pages_prove_memory_when_only_cpus_are_bound() -> None:
    cell = replace(CELL, binding="cpus")
    unbound = {"policy": {"start": None, "end": None}}
    assert judge(certificate(**unbound), cell) == (PlacementVerdict.PROVED, [])
    elsewhere = altered("buffers", "input_ring", "end", to={"0": 1000})
    verdict, doubts = judge(replace(elsewhere, policy=certificate(**unbound).policy), cell)
    assert verdict is PlacementVerdict.MISPLACED and [doubt.kind for doubt in doubts] == [Kind.PAGES]


WIDE = [{"allowed_cpus": "0-7", "threads": 1, "examples": ["pt_autograd_0"]}]


@pytest.mark.parametrize(
    ("facts", "kind", "text"),
    [
        (
            altered("threads", "start", to=WIDE),
            Kind.THREADS,
            "at the start, 1 thread(s) (pt_autograd_0) may run on CPUs 0-7",
        ),
        (
            altered("threads", "end", to=WIDE),
            Kind.THREADS,
            "at the end, 1 thread(s) (pt_autograd_0) may run on CPUs 0-7",
        ),
        (
            altered("cpus_seen", to={"1": 90, "5": 10}),
            Kind.ISSUING_CPUS,
            "10 of 100 batches were issued from CPUs 5, outside node 0",
        ),
        (
            altered("policy", "start", to={"mode": "preferred", "nodes": [2]}),
            Kind.POLICY,
            "preferred to node 2, not bind to node 2",
        ),
        (
            altered("policy", "end", to={"mode": "default", "nodes": []}),
            Kind.POLICY,
            "the memory policy is default, not bind",
        ),
        (
            altered("policy", "end", to={"mode": "bind", "nodes": [0, 2]}),
            Kind.POLICY,
            "bind to node 0,2, not bind to node 2",
        ),
        (
            altered("buffers", "input_ring", "policy", to={"mode": "bind", "nodes": [1]}),
            Kind.POLICY,
            "the policy of input_ring",
        ),
        (
            altered("buffers", "input_ring", "start", to={"0": 1, "2": 499}),
            Kind.PAGES,
            "at the start, 1 of 500 pages of input_ring were not on node 2: 1 on node 0",
        ),
        (
            altered("buffers", "input_ring", "end", to={"0": 1000}),
            Kind.PAGES,
            "at the end, 1000 of 1000 pages of input_ring",
        ),
    ],
)
def test_each_contradiction_is_misplaced(facts: Certificate, kind: Kind, text: str) -> None:
    verdict, (doubt,) = judge(facts, CELL)
    assert verdict is PlacementVerdict.MISPLACED and doubt.kind is kind and text in doubt.text


@pytest.mark.parametrize(
    ("facts", "kind", "text"),
    [
        (altered("problems", to=["threads: denied"]), Kind.NOT_OBSERVED, "threads: denied"),
        (altered("cpus_seen", to={}), Kind.NOT_OBSERVED, "no batch recorded the CPU"),
        (altered("buffers", to={}), Kind.NOT_OBSERVED, "no buffer was observed"),
        (
            altered("buffers", "input_ring", "end", to={"2": 990, "unknown": 10}),
            Kind.PAGES_UNKNOWN,
            "10 could not be located (-14",
        ),
        (
            altered("buffers", "input_ring", "end", to={"2": 990, "absent": 10}),
            Kind.PAGES_UNKNOWN,
            "10 were not in memory",
        ),
    ],
)
def test_each_gap_in_the_observation_is_unproved(facts: Certificate, kind: Kind, text: str) -> None:
    verdict, (doubt,) = judge(facts, CELL)
    assert verdict is PlacementVerdict.UNPROVED and doubt.kind is kind and text in doubt.text


def test_contradiction_outweighs_a_gap() -> None:
    facts = altered("buffers", "input_ring", "end", to={"0": 1000})
    assert judge(replace(facts, problems=["threads: denied"]), CELL)[0] is PlacementVerdict.MISPLACED


def test_threshold_of_the_cell_is_used() -> None:
    facts = altered("buffers", "input_ring", "end", to={"0": 5, "2": 995})
    assert judge(facts, CELL)[0] == "misplaced"
    assert judge(facts, replace(CELL, placement_threshold=0.99))[0] == "proved"


@pytest.mark.parametrize("percent", range(1, 100))
def test_threshold_is_exact_to_the_page(percent: int) -> None:
    asked = replace(CELL, placement_threshold=percent / 100)
    for pages, verdict in ((percent, "proved"), (percent - 1, "misplaced")):
        look = {"0": 100 - pages, "2": pages}
        facts = altered("buffers", "input_ring", to=HONEST["buffers"]["input_ring"] | {"start": look, "end": look})
        assert judge(facts, asked)[0] == verdict


def test_share_is_the_smaller_of_start_and_end() -> None:
    buffer = convert(HONEST["buffers"]["input_ring"], BufferObserved)
    assert share_on_node(buffer, 2) == 1.0
    assert share_on_node(replace(buffer, end={"0": 250, "2": 750}), 2) == 0.75
    assert share_on_node(replace(buffer, start=None), 2) is None


PREPROCESSING_CELL = replace(CELL, preprocess_queue=4, preprocess_node=1)
MAIN = {"allowed_cpus": "0-3", "threads": 5, "examples": ["python"]}


def with_thread(allowed_cpus: str, name: str = PREPROCESSING_THREAD, threads: int = 1) -> Certificate:
    group = {"allowed_cpus": allowed_cpus, "threads": threads, "examples": [name]}
    return certificate(preprocess_cpus="4-7", threads={when: [MAIN, group] for when in ("start", "end")})


@pytest.mark.parametrize("allowed_cpus", ["4-7", "5,6"])
def test_preprocessing_thread_may_be_on_its_own_node(allowed_cpus: str) -> None:
    assert judge(with_thread(allowed_cpus), PREPROCESSING_CELL) == (PlacementVerdict.PROVED, [])


@pytest.mark.parametrize(
    "facts",
    [
        with_thread("0-7"),
        with_thread("8-11"),
        with_thread("4-7", name="pt_autograd_0"),
        with_thread("4-7", threads=2),
        certificate(preprocess_cpus="4-7"),
    ],
)
def test_preprocessing_thread_must_be_alone_on_its_node(facts: Certificate) -> None:
    verdict, doubts = judge(facts, PREPROCESSING_CELL)
    assert verdict is PlacementVerdict.MISPLACED
    missing = [doubt for doubt in doubts if doubt.kind is Kind.PREPROCESSING_THREAD]
    assert missing and all("no preprocessing thread was bound to node 1 (4-7)" in doubt.text for doubt in missing)


def test_preprocessing_thread_on_the_cpu_node_is_proved() -> None:
    assert judge(certificate(preprocess_cpus="0-3"), PREPROCESSING_CELL) == (PlacementVerdict.PROVED, [])
