"""Judging a placement certificate: did the process run, and did its buffers lie, where the cell says?"""

from typing import Any

from bench.host.cpulist import format_cpulist, parse_cpulist
from bench.host.memory_calls import ABSENT, UNKNOWN

PROVED, MISPLACED, UNPROVED, NOT_BOUND = "proved", "misplaced", "unproved", "not_bound"


def judge(facts: dict[str, Any], cell: dict[str, Any]) -> tuple[str, list[str]]:
    """Return (verdict, reasons) for the facts of a certificate.

    proved: every look agrees with the cell. misplaced: some look contradicts it. unproved: nothing
    contradicts it, yet something could not be seen. not_bound: there is nothing to prove.
    """
    if cell["binding"] == "none":
        return NOT_BOUND, ["nothing was bound (binding none)"]
    wrong = [
        *_threads(facts, cell),
        *_cpus_seen(facts, cell),
        *_policies(facts, cell),
        *_buffers(facts, cell),
    ]
    if wrong:
        return MISPLACED, wrong
    unseen = _unseen(facts, cell)
    return (UNPROVED, unseen) if unseen else (PROVED, [])


def share_on_node(buffer: dict[str, Any], node: int) -> float | None:
    """The share of a buffer's pages seen on a node, the smaller of start and end; None if not looked at."""
    looks = [buffer["start"], buffer["end"]]
    if None in looks or not buffer["pages"]:
        return None
    return min(look.get(str(node), 0) / sum(look.values()) for look in looks)


def _threads(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    if facts["node_cpus"] is None:
        return []
    node_cpus = set(parse_cpulist(facts["node_cpus"]))
    return [
        f"at the {when}, {group['threads']} thread(s) ({', '.join(group['examples'])}) may run on CPUs "
        f"{group['allowed_cpus']}; node {cell['cpu_node']} has CPUs {facts['node_cpus']}"
        for when in ("start", "end")
        for group in facts["threads"][when] or ()
        if not set(parse_cpulist(group["allowed_cpus"])) <= node_cpus and not _prepares(group, facts)
    ] + _preparing_thread(facts, cell, node_cpus)


def _preparing_thread(facts: dict[str, Any], cell: dict[str, Any], node_cpus: set[int]) -> list[str]:
    """A thread that prepares batches on another node must be there, and it alone."""
    preparing_cpus = facts.get("preparing_cpus")
    if preparing_cpus is None or set(parse_cpulist(preparing_cpus)) <= node_cpus:
        return []
    return [
        f"at the {when}, no thread that prepares batches was bound to node {cell['preprocess_node']} ({preparing_cpus})"
        for when in ("start", "end")
        if facts["threads"][when] is not None and not any(_prepares(group, facts) for group in facts["threads"][when])
    ]


def _prepares(group: dict[str, Any], facts: dict[str, Any]) -> bool:
    preparing_cpus = facts.get("preparing_cpus")
    if preparing_cpus is None or group["examples"] != ["preparing"] or group["threads"] != 1:
        return False
    return set(parse_cpulist(group["allowed_cpus"])) <= set(parse_cpulist(preparing_cpus))


def _cpus_seen(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    if facts["node_cpus"] is None:
        return []
    node_cpus = set(parse_cpulist(facts["node_cpus"]))
    outside = {int(cpu): batches for cpu, batches in facts["cpus_seen"].items() if int(cpu) not in node_cpus}
    if not outside:
        return []
    return [
        f"{sum(outside.values())} of {sum(facts['cpus_seen'].values())} batches were issued from CPUs "
        f"{format_cpulist(outside)}, outside node {cell['cpu_node']} ({facts['node_cpus']})"
    ]


def _policies(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    wanted = {"mode": "bind", "nodes": [cell["mem_node"]]}
    reasons = [
        f"at the {when}, the memory policy is {_policy_text(policy)}, not {_policy_text(wanted)}"
        for when, policy in facts["policy"].items()
        if policy is not None and policy != wanted
    ]
    for name, buffer in facts["buffers"].items():
        policy = buffer["policy"]
        # A mapping without a policy of its own follows the thread's.
        if policy is not None and policy["mode"] != "default" and policy != wanted:
            reasons.append(f"the policy of {name} is {_policy_text(policy)}, not {_policy_text(wanted)}")
    return reasons


def _buffers(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    reasons = []
    for name, buffer in facts["buffers"].items():
        for when in ("start", "end"):
            elsewhere = {
                node: pages
                for node, pages in (buffer[when] or {}).items()
                if node not in (str(cell["mem_node"]), ABSENT, UNKNOWN)
            }
            pages = sum(elsewhere.values())
            looked_at = sum((buffer[when] or {}).values())
            # As a quotient: 0.9 of 100 pages are exactly 90 then, and not a little less.
            if pages and (looked_at - pages) / looked_at < _threshold(cell):
                where = ", ".join(f"{count} on node {node}" for node, count in elsewhere.items())
                reasons.append(
                    f"at the {when}, {pages} of {looked_at} pages of {name} lay elsewhere than on node "
                    f"{cell['mem_node']}: {where}"
                )
    return reasons


def _unseen(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    reasons = [*facts["problems"]]
    if not facts["cpus_seen"]:
        reasons.append("no batch told which CPU it was issued from")
    if not facts["buffers"]:
        reasons.append("no buffer was looked at")
    for name, buffer in facts["buffers"].items():
        share = share_on_node(buffer, cell["mem_node"])
        if share is not None and share < _threshold(cell):
            counts = {state: max(buffer[when].get(state, 0) for when in ("start", "end"))
                      for state in (ABSENT, UNKNOWN)}  # fmt: skip
            reasons.append(
                f"of {buffer['pages']} pages of {name}, {counts[ABSENT]} were not in memory and "
                f"{counts[UNKNOWN]} could not be located (-14, as automatic NUMA balancing or memory that a driver "
                "maps causes)"
            )
    return reasons


def _threshold(cell: dict[str, Any]) -> float:
    return float(cell.get("placement_threshold", 1.0))


def _policy_text(policy: dict[str, Any]) -> str:
    return policy["mode"] + (f" to node {format_cpulist(policy['nodes'])}" if policy["nodes"] else "")
