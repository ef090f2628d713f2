"""The microbenchmarks of the links, and the best bandwidth of each."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.records.results import CeilingSource, LinkEntry, MeasuredCell
from bench.records.run import Link, LinkResult


@dataclass(frozen=True)
class Ceiling:
    """The best bandwidth of one GPU's link in one direction, and what measured it."""

    gb_s: float
    source: CeilingSource


def link_entries(links: dict[str, Link]) -> tuple[LinkEntry, ...]:
    """By GPU and placement, where CPU and memory are on one node first."""
    entries = [_link_entry(name, link) for name, link in links.items()]
    return tuple(sorted(entries, key=lambda entry: (entry.gpu, entry.cpu_node != entry.mem_node, entry.mem_node)))


def _link_entry(name: str, link: Link) -> LinkEntry:
    result = link.result if link.ok and link.result else LinkResult()
    return LinkEntry(
        name=name,
        gpu=link.gpu,
        cpu_node=link.cpu_node,
        mem_node=link.mem_node,
        status=link.status,
        reason=link.reason,
        device=result.device.type,
        placement=result.certificate.verdict if result.certificate else None,
        copies=tuple(result.copies),
        nvbandwidth_h2d_gb_s=result.nvbandwidth_h2d_gb_s,
        nvbandwidth_d2h_gb_s=result.nvbandwidth_d2h_gb_s,
        small_copy_us=result.small_copy_us,
        launch_us=result.launch_us,
        reasons=result.reasons,
    )


def ceiling(links: Iterable[LinkEntry], cells: Iterable[MeasuredCell], gpu: int, direction: str) -> Ceiling | None:
    """Of a GPU, over all its placements, direction h2d or d2h.

    By nvbandwidth's definition; where that was not measured, the largest bandwidth of the microbenchmark's copies;
    without microbenchmarks the best copy of a batch in isolation.
    """
    own = [link for link in links if link.gpu == gpu]
    defined = [rate for link in own if (rate := getattr(link, f"nvbandwidth_{direction}_gb_s"))]
    if defined:
        return Ceiling(max(defined), CeilingSource.NVBANDWIDTH)
    copies = [copy.median_gb_s for link in own for copy in link.copies if copy.direction == direction]
    if copies:
        return Ceiling(max(copies), CeilingSource.MICROBENCHMARK)
    isolated = [rate for cell in cells if cell.gpu == gpu and (rate := isolated_gb_s(cell, direction))]
    return Ceiling(max(isolated), CeilingSource.ISOLATED_BATCH) if isolated else None


def isolated_gb_s(cell: MeasuredCell, direction: str) -> float | None:
    """Of a copy of the batch's own size without the other stages, direction h2d or d2h."""
    solo_us = getattr(cell.solo_us, direction) if cell.solo_us else None
    moved = getattr(cell.bytes_per_batch, direction) if cell.bytes_per_batch else None
    return moved / (1e3 * solo_us) if solo_us and moved else None
