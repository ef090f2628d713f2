"""Lines to paste: how to bind a program to the nodes that the study found."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.analysis.recommend import recommend
from bench.records.host import Topology, format_cpulist, parse_cpulist
from bench.records.results import Recommendation
from bench.report.view import View

_SHELL = "Paste into a shell, with your program in place of python serve.py."
_SERVER = "Paste into a shell, with your model in place of MODEL; the nodes are in the order of the GPUs."


@dataclass(frozen=True)
class Recipe:
    """note: where the lines go, and what to replace in them."""

    tool: str
    lines: str
    note: str = ""


def near_nodes(found: Iterable[Recommendation]) -> dict[int, int]:
    """Node by GPU, where one is recommended."""
    return {one.gpu: one.node for one in found if one.node is not None}


def recipe_note(found: Iterable[Recommendation]) -> str:
    """What the lines are not based on, where nothing was compared."""
    if any(one.local_source is not None and one.node is not None for one in found):
        return ""
    return "They bind a program where this study measured it; which node is nearest was not compared."


def decided(view: View) -> tuple[list[Recipe], str]:
    """The lines for the nodes that the study recommends, and what they are not based on."""
    found = recommend(view.results)
    return recipes(view, near_nodes(found)), recipe_note(found)


def recipes(view: View, nodes: Mapping[int, int]) -> list[Recipe]:
    """One for each way to bind; empty where no node is known, and with a single node, where there is no choice."""
    topology = view.results.topology
    if not nodes or len(topology.nodes) == 1:
        return []
    if view.is_cpu:
        node = next(iter(nodes.values()))
        return [Recipe("numactl", f"numactl {_bind(topology, node)} python serve.py", _SHELL)]
    cpus = {node.id: node.cpus for node in topology.nodes}
    return [
        *(_numactl(nodes, topology), _slurm(nodes, topology), _torchrun(nodes), _docker(nodes, cpus), _kubernetes()),
        *(_systemd(nodes, cpus), _vllm(nodes), _sglang(nodes), _env(nodes, cpus)),
    ]


def _bind(topology: Topology, node_id: int) -> str:
    """The CPUs by number where there are several kinds of cores: only the fastest were measured."""
    node = topology.node(node_id)
    cpus: set[int] = set()
    if node and topology.core_kinds:
        cpus = set(node.cpu_ids).intersection(parse_cpulist(topology.core_kinds[0]))
    where = f"--physcpubind={format_cpulist(cpus)}" if cpus else f"--cpunodebind={node_id}"
    return f"{where} --membind={node_id}"


def _numactl(nodes: Mapping[int, int], topology: Topology) -> Recipe:
    lines = [
        f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={gpu} numactl {_bind(topology, node)} python serve.py"
        for gpu, node in nodes.items()
    ]
    return Recipe("numactl", "\n".join(lines), f"{_SHELL} One line starts the process of one GPU.")


def _slurm(nodes: Mapping[int, int], topology: Topology) -> Recipe:
    """map_ldom and map_mem: node of task 0, 1, ...; see srun(1)."""
    listed = ",".join(map(str, nodes.values()))
    text = (
        f"srun --nodes=1 --exclusive --mem=0 --ntasks={len(nodes)} --gpus-per-node={max(nodes) + 1} \\\n"
        f"     --cpu-bind=map_ldom:{listed} --mem-bind=map_mem:{listed} \\\n"
        f"     sh -c 'set -- {' '.join(map(str, nodes))}; shift $SLURM_LOCALID; "
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=$1 exec python serve.py'"
    )
    note = (
        "Paste into your batch script in place of its srun line, with your program in place of python serve.py. It "
        "binds where the job has the whole host, by Slurm's plugin task/affinity."
    )
    if [node.id for node in topology.nodes] != list(range(len(topology.nodes))):
        note += " The ids of this host's nodes have gaps: --cpu-bind=verbose,map_ldom:... prints where tasks are."
    return Recipe("Slurm", text, note)


def _torchrun(nodes: Mapping[int, int]) -> Recipe:
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
    note = (
        "Paste into a shell or a job script, with your script and its arguments in place of train.py: near.sh starts "
        "each rank on its node. torchrun's own --numa-binding binds CPUs only, not the memory."
    )
    return Recipe("torchrun", text, note)


def _docker(nodes: Mapping[int, int], cpus: Mapping[int, str]) -> Recipe:
    lines = [
        f"docker run --gpus '\"device={gpu}\"' --cpuset-cpus={cpus.get(node) or f'<CPUs of node {node}>'} "
        f"--cpuset-mems={node} IMAGE"
        for gpu, node in nodes.items()
    ]
    note = (
        "Paste into a shell, one line per GPU, with your options and image in place of IMAGE. Device numbers are "
        "those of nvidia-smi."
    )
    return Recipe("docker", "\n".join(lines), note)


def _kubernetes() -> Recipe:
    text = (
        "# 1. in the kubelet's configuration, often /var/lib/kubelet/config.yaml\n"
        "cpuManagerPolicy: static\n"
        "memoryManagerPolicy: Static\n"
        "topologyManagerPolicy: single-numa-node\n"
        "# 2. in the container of your pod: your limits = its requests, whole CPUs\n"
        "resources:\n"
        '  limits: {nvidia.com/gpu: 1, cpu: "8", memory: 32Gi}'
    )
    note = (
        "Two places, as the comments say. No node is named: the kubelet takes the one that the GPU's device plugin "
        "reports. Its policies need reserved CPUs and memory, and a drained host, as described at "
        "kubernetes.io/docs/tasks/administer-cluster/memory-manager."
    )
    return Recipe("Kubernetes", text, note)


def _systemd(nodes: Mapping[int, int], cpus: Mapping[int, str]) -> Recipe:
    """A drop-in for an instance of a template unit; see systemd.exec(5)."""
    text = "\n\n".join(
        f"# /etc/systemd/system/serve@{gpu}.service.d/numa.conf\n"
        "[Service]\n"
        f"Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={gpu}\n"
        f"CPUAffinity={cpus.get(node) or f'<CPUs of node {node}>'}\n"
        "NUMAPolicy=bind\n"
        f"NUMAMask={node}"
        for gpu, node in nodes.items()
    )
    note = (
        "Save each part as the file that its first line names: drop-ins for serve@.service, a unit with one instance "
        "per GPU. Then systemctl daemon-reload, and restart the instances."
    )
    return Recipe("systemd", text, note)


def _vllm(nodes: Mapping[int, int]) -> Recipe:
    text = (
        f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={_words(nodes, ',')} \\\n"
        f"vllm serve MODEL --tensor-parallel-size {len(nodes)} --numa-bind --numa-bind-nodes {_words(nodes.values())}"
    )
    return Recipe("vLLM", text, f"{_SERVER} It needs numactl.")


def _sglang(nodes: Mapping[int, int]) -> Recipe:
    text = (
        f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={_words(nodes, ',')} \\\n"
        f"python -m sglang.launch_server --model-path MODEL --tp {len(nodes)} --numa-node {_words(nodes.values())}"
    )
    return Recipe("SGLang", text, _SERVER)


def _env(nodes: Mapping[int, int], cpus: Mapping[int, str]) -> Recipe:
    lines = [f"NUMA_NODE_OF_GPU{gpu}={node}" for gpu, node in nodes.items()]
    lines += [f"CPUS_OF_GPU{gpu}={cpus.get(node, '')}" for gpu, node in nodes.items()]
    note = "Save as a file that a systemd unit (EnvironmentFile=) or a script (set -a; . ./FILE) reads."
    return Recipe("env", "\n".join(lines), note)


def _words(numbers: Iterable[int], separator: str = " ") -> str:
    return separator.join(map(str, numbers))
