"""Groups of CPUs as placements, on a host that reports one node."""

from pathlib import Path

import pytest
from msgspec import structs

from bench.errors import StudyError
from bench.records.base import convert, plain
from bench.records.host import Distance, HiddenGroups, HiddenNodes, Node, Probe, Probed, Topology
from bench.records.study import Cell, Study
from bench.study import cpu_groups
from bench.study.axes import LONGEST_CPUS
from bench.study.cpu_groups import CPU_GROUPS, found_groups
from bench.study.grid import expand_here
from bench.study.load import read_study
from tests.host.made_hosts import host_topology

BASE = {"name": "s", "gpu_ids": [0], "models": ["vit0x0x0"], "device": "cpu", "profiler": "torch", "repeats": 3}
GIB = 1 << 30


def host(*cpus: str) -> Topology:
    return Topology(
        nodes=tuple(
            Node(id=number, cpus=own, allowed_cpus=own, memory_bytes=64 * GIB, distances={number: 10})
            for number, own in enumerate(cpus or ("0-15",))
        )
    )


def here(placements, topology=None):
    # Not tried: a recorded host.
    return expand_here(read_study(BASE | {"placements": placements}, "f"), topology or host(), Path("/recorded"))


def test_cells_of_named_groups_are_crossed_from_each_group() -> None:
    found = here(["0-7", "8-15"])
    assert [(cell.name, cell.placement, cell.cpus, cell.reason) for cell in found.grid.cells] == [
        ("pipeline_gpu0_numa0_vit0x0x0_cpus0-7", (0, 0), "0-7", ""),
        ("pipeline_gpu0_numa0_vit0x0x0_cpus8-15", (1, 0), "8-15", ""),
    ]
    assert {slot.birth for slot in found.grid.order if not slot.is_traced} == {(0, 0), (1, 0)}
    assert (found.study.design, found.study.repeats, found.study.cpu_groups) == ("crossing", 4, ("0-7", "8-15"))


def test_long_list_of_cpus_is_a_number_in_the_name() -> None:
    groups = [",".join(str(cpu) for cpu in range(first, 16, 2)) for first in (0, 1)]
    assert max(map(len, groups)) <= LONGEST_CPUS
    assert here(groups).grid.cells[1].name.endswith("_cpus1,3,5,7,9,11,13,15")
    groups = [",".join(str(cpu) for cpu in range(first, 32, 2)) for first in (0, 1)]
    assert here(groups, host("0-31")).grid.cells[1].name.endswith("_group1")


def test_key_has_the_cpus_of_a_group_only() -> None:
    first, second = here(["0-7", "8-15"]).grid.cells
    node = structs.replace(first, cpus="")
    assert len({first.key, second.key, node.key}) == 3
    (plain,) = here([[0, 0]]).grid.cells
    assert plain.cpus == "" and plain.key == node.key


@pytest.mark.parametrize(
    ("placements", "says"),
    [
        (["0-7", "7-9"], "CPUs 7 are in two groups"),
        (["0-7", 3], "found 3, allowed is a list of CPUs"),
        (["0-7", ""], 'found "", allowed is a list of CPUs'),
        (["0-7", "a-b"], 'found "a-b"'),
        (["0-7", "9-8"], 'found "9-8"'),
        (["0-7", "16-23"], "CPUs 16-23 are not here"),
    ],
)
def test_groups_that_are_none_are_refused(placements, says) -> None:
    with pytest.raises(StudyError) as error:
        here(placements)
    assert says in error.value.what and "placements[1]" in error.value.where


def test_groups_are_refused_where_nodes_are_reported() -> None:
    with pytest.raises(StudyError, match="this host reports nodes 0-1"):
        here(["0", "1"], host("0-7", "8-15"))


def probed(state=HiddenNodes.FOUND, fast="8-15", slow="0-7") -> Probe:
    groups = HiddenGroups(
        fast=fast, slow=slow, centres_us=(9.0, 11.0), rand_index=1.0, holds=True, distance=Distance.GPU
    )
    one = Probed(
        index=0,
        pci_bus_id="0000:01:00.0",
        uuid="GPU-0",
        reported_node=None,
        hidden_nodes=state,
        hidden_groups=groups if state is HiddenNodes.FOUND else None,
    )
    return Probe(gpus=(one,))


def test_found_groups_are_ordered_by_their_lowest_cpu(monkeypatch) -> None:
    monkeypatch.setattr(cpu_groups, "measured_locality", lambda device: probed())
    assert found_groups(gpu_host(), "auto", "s") == ("0-7", "8-15")


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (probed(HiddenNodes.ONE_GROUP), "GPU 0 has the same latency from all CPUs"),
        (Probe(error="the probe failed: why"), "the probe failed: why"),
    ],
)
def test_study_without_found_groups_says_why(probe, says, monkeypatch) -> None:
    monkeypatch.setattr(cpu_groups, "measured_locality", lambda device: probe)
    with pytest.raises(StudyError) as error:
        found_groups(gpu_host(), "auto", "s")
    assert says in error.value.what and "name the groups" in error.value.advice


def test_probe_is_not_asked_for_without_a_gpu_or_host() -> None:
    with pytest.raises(StudyError, match="by copies of a GPU"):
        found_groups(host(), "cpu", "s")
    with pytest.raises(StudyError, match="a recorded host"):
        here(CPU_GROUPS)


def gpu_host() -> Topology:
    recorded = host_topology("virtual_machine")
    return structs.replace(recorded, nodes=host().nodes)


def test_records_read_both_kinds_of_placements() -> None:
    study = here(["0-7", "8-15"]).study
    assert convert(plain(study), Study) == study
    cell = here([[0, 0]]).grid.cells[0]
    assert convert({key: value for key, value in plain(cell).items() if key != "cpus"}, Cell) == cell
