"""A study on a host: cells, names, and which of them cannot run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from bench.errors import StudyError
from bench.records.base import convert, decode, plain
from bench.records.host import Node, Topology
from bench.records.study import Cell
from bench.study.grid import expand
from bench.study.load import configs_folder, load_study, read_study
from tests.host.made_hosts import host_topology

GIB = 1 << 30


def node(number: int, cpus: str = "0-1") -> Node:
    return Node(id=number, cpus=cpus, allowed_cpus=cpus, memory_bytes=GIB, distances={number: 10})


def host(*nodes: Node) -> Topology:
    return Topology(nodes=nodes)


def cells_of(values: dict, topology: Topology) -> list[Cell]:
    base = {
        "name": "s",
        "gpu_ids": [0],
        "models": ["vit32x2x128"],
        "device": "cpu",
        "profiler": "torch",
        "binding": "none",
    }
    return expand(read_study(base | values, "f"), topology)


def test_names_of_the_shipped_scaling_study() -> None:
    study = load_study(configs_folder() / "model_scaling_study.yaml", {"device": "cpu"})
    names = [cell.name for cell in expand(study, host(node(0)))]
    assert len(set(names)) == 9
    assert names[2] == "pipeline_gpu0_numa0_vit32x6x512"
    assert names[6] == "pipeline_gpu0_numa0_vit32x6x512_again"


def test_model_listed_twice_has_one_key_and_one_group() -> None:
    first, second = cells_of({"numa_nodes": [0], "models": ["vit32x2x128"] * 2}, host(node(0)))
    assert first.key == second.key
    assert first.group == second.group


def test_heads_distinguish_models_of_one_name() -> None:
    models = ["vit32x2x128", {"model": "vit32x2x128", "heads": 8}]
    names = [cell.name for cell in cells_of({"numa_nodes": [0], "models": models}, host(node(0)))]
    assert names == ["pipeline_gpu0_numa0_vit32x2x128", "pipeline_gpu0_numa0_vit32x2x128_heads8"]


def test_name_has_the_memory_node_and_another_cpu_node() -> None:
    cells = cells_of({"placements": [[0, 0], [0, 2], [2, 0]]}, host(node(0), node(2)))
    assert [cell.name.removeprefix("pipeline_") for cell in cells] == [
        "gpu0_numa0_vit32x2x128", "gpu0_numa2_vit32x2x128_cpu0", "gpu0_numa0_vit32x2x128_cpu2",
    ]  # fmt: skip
    assert len({cell.group for cell in cells}) == 1


def test_cells_that_cannot_run_have_a_reason() -> None:
    cells = cells_of({"numa_nodes": [0, 2, 3]}, host(node(0), node(3, cpus="")))
    assert [bool(cell.reason) for cell in cells] == [False, True, True]
    assert "no such NUMA node: 2" in cells[1].reason


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"numa_nodes": [7]}, "choose GPUs and nodes of this host"),
        ({"numa_nodes": [0], "device": "cuda"}, "--device cpu"),
    ],
)
def test_error_advises_when_no_cell_can_run(values: dict, advice: str) -> None:
    with pytest.raises(StudyError, match="no cell of s can run on this host") as refused:
        cells_of(values, host(node(0)))
    assert advice in refused.value.advice


def test_error_advises_when_no_cell_can_run_without_a_gpu() -> None:
    asked = load_study(configs_folder() / "quick_test.yaml", {"cuda_graph": True})
    with pytest.raises(StudyError, match="cuda_graph needs device cuda") as refused:
        expand(replace(asked, settings=structs.replace(asked.settings, device="cpu")), host(node(0)))
    assert "leave cuda_graph out" in refused.value.advice


def test_all_takes_nodes_with_both_cpus_and_memory() -> None:
    cells = cells_of({"numa_nodes": "all", "gpu_ids": "all"}, host(node(0), node(3, cpus=""), node(5)))
    assert [(cell.gpu, cell.mem_node) for cell in cells] == [(0, 0), (0, 5)]


def test_all_is_refused_when_the_host_has_none() -> None:
    with pytest.raises(StudyError, match=r"this host has no GPU \(Driver Not Loaded\)"):
        cells_of(
            {"gpu_ids": "all", "numa_nodes": [0], "device": "cuda"},
            structs.replace(host(node(0)), nvml_error="Driver Not Loaded"),
        )
    with pytest.raises(StudyError, match="none has both CPUs and memory"):
        cells_of({"numa_nodes": "all"}, host(node(0, cpus="")))


def test_cells_survive_json() -> None:
    for cell in cells_of({"numa_nodes": [0, 9]}, host(node(0))):
        assert decode(json.dumps(plain(cell)).encode(), Cell) == cell


def test_key_of_a_stored_cell_is_unchanged() -> None:
    record = json.loads((Path(__file__).parents[1] / "fixtures" / "study" / "cell_0_1.json").read_text())
    cell = convert(record, Cell)
    assert (cell.group, cell.host_memory, cell.concurrent_gpus) == ("", "pinned", 1)
    assert cell.key == record["key"]


def test_variants_of_one_gpu_and_model_have_one_family() -> None:
    values = {"numa_nodes": [0, 1], "axes": {"dtype": ["fp32", "bf16"], "batch_size": [10, 20]}}
    cells = cells_of(values, host(node(0), node(1)))
    assert len(cells) == 8 and {cell.family for cell in cells} == {"gpu0_vit32x2x128"}
    assert len({cell.group for cell in cells}) == 4
    pairs = {(cell.group, cell.dtype, cell.batch_size) for cell in cells}
    assert len(pairs) == 4


def test_limit_of_the_host_is_a_reason_when_device_is_auto() -> None:
    """With device auto; a study that says device: cpu is refused."""
    values = {"numa_nodes": [0], "axes": {"cuda_graph": [False, True], "preprocess_queue": [0, 4]}}
    base = {"name": "s", "gpu_ids": [0], "models": ["vit32x2x128"], "preprocess_node": 7}
    study = read_study(base | values, "f")
    cells = expand(
        replace(study, settings=structs.replace(study.settings, device="cpu", profiler="torch")), host(node(0))
    )
    reasons = {cell.name.removeprefix("pipeline_gpu0_numa0_vit32x2x128"): cell.reason for cell in cells}
    assert reasons[""] == ""
    assert reasons["_graph"] == "cuda_graph needs device cuda"
    assert "no such NUMA node: 7" in reasons["_prep4"]


def test_cell_has_a_reason_when_other_gpus_are_missing() -> None:
    topology = host_topology("two_sockets")
    values = {"numa_nodes": [0], "axes": {"concurrent_gpus": [1, 4, 8]}, "device": "cuda", "profiler": "torch"}
    alone, four, eight = cells_of(values, topology)
    assert not alone.reason and not four.reason
    assert "7 other GPUs" in eight.reason
