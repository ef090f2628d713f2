import dataclasses
import shutil
import subprocess

import pytest
import yaml
from msgspec.structs import replace

from bench.analysis.recommend import recommend
from bench.report.recipes import near_nodes, recipe_note, recipes


@pytest.fixture
def lines(numa_view):
    nodes = near_nodes(recommend(numa_view.results))
    return {recipe.tool: recipe.lines for recipe in recipes(numa_view, nodes)}


def test_every_gpu_has_a_numactl_line_with_its_node(lines):
    assert [line.split("numactl ")[1] for line in lines["numactl"].splitlines()] == [
        f"--cpunodebind={node} --membind={node} python serve.py" for node in (0, 0, 2, 2)
    ]


def test_numactl_names_the_cpus_of_the_fastest_kind(numa_view):
    topology = replace(numa_view.results.topology, core_kinds=("0-7,32-39", "8-31,40-63"))
    view = dataclasses.replace(numa_view, results=replace(numa_view.results, topology=topology))
    lines = recipes(view, {0: 0, 2: 2})[0].lines.splitlines()
    assert [line.split("numactl ")[1] for line in lines] == [
        "--physcpubind=0-7 --membind=0 python serve.py",
        "--physcpubind=32-39 --membind=2 python serve.py",
    ]


def test_docker_gets_the_cpus_of_the_node(lines):
    assert "--cpuset-cpus=32-47 --cpuset-mems=2" in lines["docker"].splitlines()[3]


def test_slurm_maps_nodes_in_the_order_of_tasks(lines):
    assert "--cpu-bind=map_ldom:0,0,2,2 --mem-bind=map_mem:0,0,2,2" in lines["Slurm"]


@pytest.mark.parametrize("tool", ["numactl", "Slurm", "torchrun", "docker", "vLLM", "SGLang", "env"])
def test_the_lines_are_valid_shell(lines, tool):
    subprocess.run(["sh", "-n"], input=lines[tool], text=True, check=True)


def test_the_wrapper_of_torchrun_binds_each_rank_to_its_node(lines, tmp_path):
    script = lines["torchrun"].split("chmod")[0]
    subprocess.run(["sh"], input=script, text=True, check=True, cwd=tmp_path)
    stub = tmp_path / "numactl"  # a stand-in that prints what it is asked for
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    for rank, node in enumerate((0, 0, 2, 2)):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOCAL_RANK": str(rank)}
        command = [shutil.which("sh"), "near.sh", "train.py", "--name", "a b"]
        shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert shown.stdout == f"--cpunodebind={node} --membind={node} python train.py --name a b\n"


def test_the_command_of_slurm_gives_each_task_its_gpu(numa_view):
    text = recipes(numa_view, {1: 0, 3: 2})[1].lines
    printed = "exec printenv CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER"
    command = text[text.index("sh -c") :].replace("exec python serve.py", printed)
    environment = {"PATH": "/usr/bin:/bin", "SLURM_LOCALID": "1"}
    shown = subprocess.run(["sh"], input=command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == "3\nPCI_BUS_ID\n"


def test_one_node_has_no_lines_to_paste(quick_run, view_of):
    view = view_of(quick_run)
    found = recommend(view.results)
    assert recipes(view, near_nodes(found)) == []
    assert "not compared" in recipe_note(found)


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_drop_in(lines, tmp_path):
    (tmp_path / "serve@.service").write_text("[Service]\nExecStart=/bin/true\n")
    for place, text in enumerate(lines["systemd"].split("\n\n")):
        folder = tmp_path / f"serve@{place}.service.d"
        folder.mkdir()
        (folder / "numa.conf").write_text(text + "\n")
        command = ["systemd-analyze", "verify", "--man=no", f"serve@{place}.service"]
        environment = {"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "numa.conf" not in done.stderr, done.stderr


def test_every_recipe_says_where_its_lines_go(numa_view):
    for recipe in recipes(numa_view, {0: 0, 2: 2}):
        assert recipe.note.startswith(("Paste into", "Save ", "Two places")), recipe.tool


def test_slurm_is_warned_of_gaps_in_the_ids_of_nodes(numa_view):
    assert "gaps" not in recipes(numa_view, {0: 0})[1].note
    topology = numa_view.results.topology
    gap = replace(topology, nodes=tuple(node for node in topology.nodes if node.id != 1))
    view = dataclasses.replace(numa_view, results=replace(numa_view.results, topology=gap))
    assert "have gaps" in recipes(view, {0: 0})[1].note


def test_kubernetes_gets_yaml_of_the_kubelet_and_of_a_container(lines):
    found = yaml.safe_load(lines["Kubernetes"])
    assert found["topologyManagerPolicy"] == "single-numa-node"
    assert found["resources"]["limits"] == {"nvidia.com/gpu": 1, "cpu": "8", "memory": "32Gi"}


def test_servers_get_a_node_for_each_gpu(lines):
    assert "CUDA_VISIBLE_DEVICES=0,1,2,3" in lines["vLLM"] and lines["vLLM"].endswith("--numa-bind-nodes 0 0 2 2")
    assert lines["SGLang"].endswith("--tp 4 --numa-node 0 0 2 2")
    shown = subprocess.run(["sh"], input=f"{lines['env']}\necho $NUMA_NODE_OF_GPU3", text=True, capture_output=True)
    assert shown.stdout == "2\n"
