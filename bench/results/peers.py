"""The processes that kept other GPUs busy while one was measured."""

import statistics
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]
DIRECTIONS = ("h2d", "d2h")


def carried_gb_s(samples_s: float | None, bytes_per_batch: Record | None, batch_size: int) -> dict[str, float | None]:
    """What a pipeline moves in each direction at this pace, GB = 1e9; None where that is not known."""
    if not samples_s or not bytes_per_batch:
        return dict.fromkeys(DIRECTIONS)
    return {way: samples_s / batch_size * bytes_per_batch[way] / 1e9 for way in DIRECTIONS}


def peers_of_run(run: Record, batch_size: int) -> list[Record]:
    """gpu, cpu_node, mem_node (None: not bound), status, throughput_samples_s, h2d_gb_s, d2h_gb_s, placement of each.

    Peers have the batch size of the measured cell.
    """
    return [_peer(peer, batch_size) for peer in run.get("peers") or []]


def peers_of_cell(timed: Iterable[Record], batch_size: int) -> list[Record]:
    """The same over the timed runs of a cell, rates as geometric means of the runs that have one; runs: how many."""
    seen: dict[Any, list[Record]] = {}
    for run in timed:
        for peer in peers_of_run(run, batch_size):
            seen.setdefault(peer["gpu"], []).append(peer)
    return [_over_runs(own) for _, own in sorted(seen.items())]


def _over_runs(peers: list[Record]) -> Record:
    good = [peer for peer in peers if peer["throughput_samples_s"]]
    rates = {
        key: statistics.geometric_mean(known) if (known := [peer[key] for peer in good if peer[key]]) else None
        for key in ("throughput_samples_s", "h2d_gb_s", "d2h_gb_s")
    }
    kept = {key: peers[0][key] for key in ("gpu", "cpu_node", "mem_node")}
    return kept | {"runs": len(good), "failed": len(peers) - len(good)} | rates


def _peer(peer: Record, batch_size: int) -> Record:
    result = peer.get("result") or {}
    samples_s = result.get("throughput_samples_s")
    moved = {"h2d": result.get("bytes_in_per_batch"), "d2h": result.get("bytes_out_per_batch")}
    carried = carried_gb_s(samples_s, None if None in moved.values() else moved, batch_size)
    return {
        **{key: peer.get(key) for key in ("gpu", "cpu_node", "mem_node")},
        "status": peer.get("status") or ("ok" if samples_s else "crashed"),
        "throughput_samples_s": samples_s,
        "h2d_gb_s": carried["h2d"],
        "d2h_gb_s": carried["d2h"],
        "placement": (result.get("certificate") or {}).get("verdict"),
    }
