"""The locality probe: one sentence a GPU, and what changed during a study; and how fingerprints differ."""

from bench.records.host import (
    Agreement,
    Distance,
    FingerprintChange,
    HiddenGroups,
    HiddenNodes,
    LocalityChange,
    LocalityChangeKind,
    Probe,
    Probed,
    parse_cpulist,
)
from bench.units import bandwidth, duration, fixed, listed, microseconds, percent

_DISTANCE = {
    Distance.GPU: "the latency follows the distance to the GPU",
    Distance.DRIVER_MEMORY: "the latency follows the distance to the driver's memory",
    Distance.NO_GROUPS: "what the latency follows is not clear: no groups with the context on the other side",
    Distance.GROUPS_CHANGED: "what the latency follows is not clear: the groups changed between the scans",
}


def probe_text(probe: Probe) -> str:
    """What numastudy probe prints."""
    lines = [*(f"GPU {gpu.index}: {probed_text(gpu)}" for gpu in probe.gpus), *copy_texts(probe)]
    return "\n".join([*lines, f"probed in {duration(probe.duration_s)}"])


def probed_text(gpu: Probed) -> str:
    """The result for one GPU, without its name: "node 0 by measurement, node 1 as reported: disagreed (...)"."""
    if gpu.hidden_nodes is HiddenNodes.NOT_PROBED:
        return "split by MIG, not probed"
    if gpu.hidden_nodes is HiddenNodes.SEVERAL_REPORTED:
        return _nearest_text(gpu)
    if gpu.hidden_groups is not None:
        return f"one node is reported, and two groups of CPUs are seen: {_groups_text(gpu.hidden_groups)}"
    return f"{microseconds(gpu.latency_us)}, no hidden nodes seen: {_why_one_node(gpu)}"


def _nearest_text(gpu: Probed) -> str:
    latencies = ", ".join(f"node {node} {microseconds(value)}" for node, value in gpu.latency_us_by_node.items())
    if len(gpu.near_nodes) > 1:
        near = listed([str(node) for node in sorted(gpu.near_nodes)])
        reported = "" if gpu.reported_node is None else f", node {gpu.reported_node} as reported: {gpu.agreement}"
        return f"nodes {near} are near by measurement, none of them nearer than the others{reported} ({latencies})"
    if gpu.measured_node is None:
        return f"no node is nearer by measurement ({latencies})"
    if gpu.agreement is Agreement.UNKNOWN:
        return f"node {gpu.measured_node} is nearest by measurement ({latencies})"
    reported = f"node {gpu.reported_node} as reported: {gpu.agreement}"
    return f"node {gpu.measured_node} by measurement, {reported} ({latencies})"


def _groups_text(groups: HiddenGroups) -> str:
    near, far = groups.centres_us
    fast, slow = len(parse_cpulist(groups.fast)), len(parse_cpulist(groups.slow))
    index = f"adjusted Rand index {fixed(groups.rand_index)}"
    holds = f"they hold ({index})"
    if not groups.holds:
        holds = f"they do not hold ({index}): the virtual CPUs move, and placement cannot be held on this machine"
    centres = f"{fast} CPUs at {microseconds(near)}, {slow} at {microseconds(far)}"
    return f"{centres}; {holds}; {_DISTANCE[groups.distance]}"


def _why_one_node(gpu: Probed) -> str:
    seen = gpu.evidence
    if gpu.hidden_nodes is HiddenNodes.TOO_FEW_CPUS:
        return f"{seen.cpus} CPUs are too few to distinguish groups"
    if gpu.hidden_nodes is HiddenNodes.SMALL_GROUP:
        return f"in scan {seen.scan} the smaller group has {percent(seen.smaller_share)} of the CPUs"
    if gpu.hidden_nodes is HiddenNodes.CLOSE_GROUPS:
        apart, needed = percent(seen.gap), percent(seen.gap_needed)
        return f"in scan {seen.scan} the groups are {apart} apart, less than {needed}"
    if gpu.hidden_nodes is HiddenNodes.UNSTABLE_LATENCIES:
        return f"the groups' latencies moved by {percent(seen.shift)} between the scans"
    chance = seen.p_value
    if chance is None:
        return "one group"
    return (
        f"one group; CPUs without groups look at least as split in {percent(chance)} of cases (dip test of two scans)"
    )


def copy_texts(probe: Probe) -> list[str]:
    """Copy bandwidth of the cpu device, one sentence a CPU node."""
    return [
        f"CPUs of node {node}, copies within the memory of (GB/s): "
        + ", ".join(f"node {memory} {'refused' if rate is None else bandwidth(rate)}" for memory, rate in rates.items())
        for node, rates in probe.copy_gb_s.items()
    ]


def locality_change_text(change: LocalityChange) -> str:
    name = f"GPU {change.gpu}"
    if change.kind is LocalityChangeKind.GPU_GONE:
        return f"{name} ({change.pci_bus_id}) was present at the start only"
    if change.kind is LocalityChangeKind.GPU_NEW:
        return f"the GPU at {change.pci_bus_id} was present at the end only"
    if change.kind is LocalityChangeKind.NEAREST_NODE and change.nodes:
        before, after = ("none" if node is None else node for node in change.nodes)
        return f"{name}: nearest node by measurement {before}, then {after}"
    if change.kind is LocalityChangeKind.CPUS_CHANGED_GROUPS:
        index = "" if change.rand_index is None else f" (adjusted Rand index {fixed(change.rand_index)})"
        return f"{name}: CPUs changed groups during the study{index}"
    when = "the end" if change.kind is LocalityChangeKind.GROUPS_APPEARED else "the start"
    return f"{name}: hidden groups were seen at {when} only"


def fingerprint_change_text(change: FingerprintChange) -> str:
    """before: the study's."""
    return (
        f"{change.fact.replace('_', ' ')}: {change.after or 'not recorded'}, "
        f"in the study: {change.before or 'not recorded'}"
    )
