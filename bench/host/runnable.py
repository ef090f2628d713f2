"""Cells against the host: why a placement cannot run here."""

from bench.records.host import Node, Topology, format_cpulist


def why_not_runnable(topology: Topology, gpu: int, cpu_node: int, mem_node: int, device: str) -> str | None:
    """Return the reason why a cell cannot run on this host, or None if it can.

    device: "cuda" or "cpu"; on the cpu device the GPU's index is only a label.
    """
    reasons = [_cpu_reason(topology, cpu_node), _memory_reason(topology, mem_node)]
    if device == "cuda":
        reasons.insert(0, _gpu_reason(topology, gpu))
    return next((reason for reason in reasons if reason), None)


def _gpu_reason(topology: Topology, index: int) -> str | None:
    gpu = topology.gpu(index)
    if gpu is None:
        if topology.nvml_error:
            return f"no such GPU: {index} (NVML: {topology.nvml_error})"
        return f"no such GPU: {index} (this host has {_numbers([gpu.index for gpu in topology.gpus])})"
    if gpu.mig:
        return f"GPU {index} ({gpu.pci_bus_id}) is split by MIG: its instances are not measured"
    return None


def _cpu_reason(topology: Topology, node_id: int) -> str | None:
    node = topology.node(node_id)
    if node is None:
        return _no_such_node(topology, node_id)
    if not node.cpu_ids:
        return f"node {node_id} has no CPUs: it can only be a memory node"
    if not node.allowed_cpu_ids:
        return f"the CPUs of node {node_id} ({node.cpus}) are outside this process's cpuset"
    return None


def _memory_reason(topology: Topology, node_id: int) -> str | None:
    node: Node | None = topology.node(node_id)
    if node is None:
        return _no_such_node(topology, node_id)
    if not node.memory_bytes:
        return f"node {node_id} has no memory: it can only be a CPU node"
    if not node.memory_allowed:
        return f"the memory of node {node_id} is outside this process's cpuset (Mems_allowed)"
    return None


def _no_such_node(topology: Topology, node_id: int) -> str:
    return f"no such NUMA node: {node_id} (this host has {_numbers([node.id for node in topology.nodes])})"


def _numbers(numbers: list[int]) -> str:
    return format_cpulist(numbers)
