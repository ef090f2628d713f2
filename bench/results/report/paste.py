"""Lines to paste: how to hold a program to the nodes that the study found."""

from typing import Any

from bench.results.report.answer import Answer

Record = dict[str, Any]


def near_nodes(results: Record, found: list[Answer]) -> dict[int, int]:
    """Node by GPU: the answer's; where only one node was measured, that one."""
    nodes = {}
    for answer in found:
        own = {cell["mem_node"] for cell in results["cells"] if cell["gpu"] == answer.gpu}
        if answer.node is not None:
            nodes[answer.gpu] = answer.node
        elif len(own) == 1:
            nodes[answer.gpu] = own.pop()
    return nodes


def recipe_note(found: list[Answer]) -> str:
    """What the lines do not rest on, where nothing was compared."""
    if any(answer.node is not None for answer in found):
        return ""
    return "They hold a program where this study measured it; which node is nearest was not compared."


def recipes(results: Record, nodes: dict[int, int]) -> list[tuple[str, str, str]]:
    """(tool, lines, note) for each way to bind. Empty where no node is known."""
    if not nodes or len(results["topology"].get("nodes") or []) == 1:
        return []  # with a single node there is nothing to choose
    if results["device"] == "cpu":
        node = next(iter(nodes.values()))
        return [("numactl", f"numactl --cpunodebind={node} --membind={node} python serve.py", "")]
    cpus = {node["id"]: node.get("cpus", "") for node in results["topology"].get("nodes", [])}
    return [_numactl(nodes), _slurm(nodes), _torchrun(nodes), _docker(nodes, cpus), _kubernetes()]


def _numactl(nodes: dict[int, int]) -> tuple[str, str, str]:
    lines = [
        f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={gpu} "
        f"numactl --cpunodebind={node} --membind={node} python serve.py"
        for gpu, node in nodes.items()
    ]
    return "numactl", "\n".join(lines), "One process per GPU; bind before the process starts."


def _slurm(nodes: dict[int, int]) -> tuple[str, str, str]:
    """map_ldom and map_mem: node of task 0, 1, ...; see srun(1)."""
    listed = ",".join(map(str, nodes.values()))
    text = (
        f"srun --nodes=1 --exclusive --mem=0 --ntasks={len(nodes)} --gpus-per-node={max(nodes) + 1} \\\n"
        f"     --cpu-bind=map_ldom:{listed} --mem-bind=map_mem:{listed} \\\n"
        f"     sh -c 'set -- {' '.join(map(str, nodes))}; shift $SLURM_LOCALID; "
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=$1 exec python serve.py'"
    )
    note = "Binds only where the job has the whole host. Slurm counts nodes in order: mind gaps in their ids."
    return "Slurm", text, note


def _torchrun(nodes: dict[int, int]) -> tuple[str, str, str]:
    gpus, listed = ",".join(map(str, nodes)), " ".join(map(str, nodes.values()))
    text = (
        "cat > near.sh <<'END'\n"
        "#!/bin/sh\n"
        f'set -- {listed} -- "$@"; shift "$LOCAL_RANK"; node=$1\n'
        'while [ "$1" != -- ]; do shift; done; shift\n'
        'exec numactl --cpunodebind="$node" --membind="$node" python "$@"\n'
        "END\n"
        f"chmod +x near.sh\n"
        f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={gpus} \\\n"
        f"torchrun --nproc-per-node={len(nodes)} --no-python ./near.sh train.py"
    )
    return "torchrun", text, "torchrun's own --numa-binding binds CPUs only, not the memory."


def _docker(nodes: dict[int, int], cpus: dict[int, str]) -> tuple[str, str, str]:
    lines = [
        f"docker run --gpus '\"device={gpu}\"' --cpuset-cpus={cpus.get(node) or f'<CPUs of node {node}>'} "
        f"--cpuset-mems={node} IMAGE"
        for gpu, node in nodes.items()
    ]
    return "docker", "\n".join(lines), "Device numbers are nvidia-smi's, which are in PCI bus order."


def _kubernetes() -> tuple[str, str, str]:
    text = (
        "# KubeletConfiguration\n"
        "cpuManagerPolicy: static\n"
        "memoryManagerPolicy: Static\n"
        "topologyManagerPolicy: single-numa-node\n"
        "# and a pod of class Guaranteed: requests equal limits, whole CPUs\n"
        "resources:\n"
        '  limits: {nvidia.com/gpu: 1, cpu: "8", memory: 32Gi}'
    )
    note = "The kubelet picks the node that the device plugin reports; it cannot be named. Static needs reservedMemory."
    return "Kubernetes", text, note
