import shutil
import subprocess

import pytest

from bench.report.page import near_nodes, recipe_note, recipes
from bench.report.text import answers


@pytest.fixture
def lines(numa_results):
    found = answers(numa_results)
    return {tool: text for tool, text, _ in recipes(numa_results, near_nodes(numa_results, found))}


def test_every_gpu_has_a_numactl_line_with_its_node(lines):
    assert [line.split("numactl ")[1] for line in lines["numactl"].splitlines()] == [
        f"--cpunodebind={node} --membind={node} python serve.py" for node in (0, 0, 2, 2)
    ]


def test_docker_gets_the_cpus_of_the_node(lines):
    assert "--cpuset-cpus=32-47 --cpuset-mems=2" in lines["docker"].splitlines()[3]


def test_slurm_maps_nodes_in_the_order_of_tasks(lines):
    assert "--cpu-bind=map_ldom:0,0,2,2 --mem-bind=map_mem:0,0,2,2" in lines["Slurm"]


@pytest.mark.parametrize("tool", ["numactl", "Slurm", "torchrun", "docker"])
def test_the_lines_are_shell_that_parses(lines, tool):
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
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert said.stdout == f"--cpunodebind={node} --membind={node} python train.py --name a b\n"


def test_the_command_of_slurm_gives_each_task_its_gpu(numa_results):
    text = recipes(numa_results, {1: 0, 3: 2})[1][1]
    printed = "exec printenv CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER"
    command = text[text.index("sh -c") :].replace("exec python serve.py", printed)
    environment = {"PATH": "/usr/bin:/bin", "SLURM_LOCALID": "1"}
    said = subprocess.run(["sh"], input=command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "3\nPCI_BUS_ID\n"


def test_one_node_leaves_nothing_to_paste(quick_run, results_of):
    results = results_of(quick_run)
    found = answers(results)
    assert recipes(results, near_nodes(results, found)) == []
    assert "not compared" in recipe_note(found)
