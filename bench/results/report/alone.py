"""What is said of a GPU for which no two nodes could be compared."""

from typing import Any

Record = dict[str, Any]
ONE_NODE = "One NUMA node: nothing to choose."


def nothing_compared(results: Record, gpu: int) -> tuple[str, tuple[str, ...]]:
    """(lead, further lines)."""
    own = [cell for cell in results["cells"] if cell["gpu"] == gpu]
    used = sorted({cell["mem_node"] for cell in own if cell["throughput_samples_s"]})
    if not used:
        return "Nothing was measured here; the failures below say why.", ()
    if len(used) > 1:
        return "No two runs to compare; the failures below say why.", ()
    nodes = [node["id"] for node in results["topology"].get("nodes") or []]
    if nodes == used:
        return ONE_NODE, _one_node(results, gpu, nodes[0])
    others = [str(node) for node in nodes if node not in used]
    more = (f"Not measured: node {', '.join(others)}.",) if others else ()
    return f"Measured on node {used[0]} only: there is no other node to compare with.", more


def _one_node(results: Record, gpu: int, node: int) -> tuple[str, ...]:
    lines = [f"This host reports node {node} alone. Every run was there, and no penalty can be measured."]
    if results["device"] != "cuda":
        return tuple(lines)
    known = next((entry for entry in results["topology"].get("gpus") or [] if entry["index"] == gpu), {})
    if known.get("node") is None:
        measured = f"Node {node} is where it was measured, and no advice."
        lines.append(f"Nothing reports which node is nearest to GPU {gpu}. {measured}")
    else:
        lines.append(f"It is also the node that the system reports as nearest to GPU {gpu}.")
    probed = next((entry for entry in results["locality"].get("gpus", []) if entry["index"] == gpu), None)
    if probed:
        said = probed["text"].removeprefix(f"GPU {gpu}: ").replace(" us", " µs")
        lines.append(f"Small copies from each CPU, before the study: {said}.")
    if results["fingerprint"].get("hypervisor") not in (None, "none"):
        lines.append("This is a virtual machine; the host beneath it may have more nodes than it shows.")
    return tuple(lines)
