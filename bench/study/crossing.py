"""Which cells one process measures by turns: the sides of its group; and on which nodes these processes start."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs

from bench.records.host import Topology
from bench.records.study import Cell, Grid, Placement, Settings
from bench.study.constraints import why_not_crossed
from bench.study.device_memory import device_bytes
from bench.units import byte_size, plural

MIB = 1 << 20
# What the sides of a group may differ in beside their nodes: a process has rings, copies, slots and weights for each.
# Groups are joined in this order, as long as there is room.
SIDE_SETTINGS = (
    *("host_memory", "memory_size_mb", "copy_granularity", "direction"),
    *("buffers", "cuda_graph", "compile_model", "dtype", "batch_size", "num_samples", "warmup_samples"),
)
# A round has 2 x sides windows, and a process as many rounds or more.
MOST_SIDES = 9

# By group that is crossed.
Births = Mapping[str, tuple[Placement, ...]]


def births_of(cells: Iterable[Cell], topology: Topology) -> tuple[Births, str]:
    """The births of each group that can be crossed; and why the first other one cannot, or "".

    A birth is where a process of the group starts: each CPU node of its cells, and the memory there.
    """
    groups = _groups(cells)
    reasons = {group: _why_not(own, topology) for group, own in groups.items()}
    births = {group: _births(own, topology) for group, own in groups.items() if not reasons[group]}
    return births, next(filter(None, reasons.values()), "")


def with_sides(cells: Sequence[Cell], topology: Topology) -> list[Cell]:
    """The cells, in the groups of a crossing: cells that differ in SIDE_SETTINGS are of one group too, setting by
    setting, while a process can measure them all. It has the name of the group with the study's own settings."""
    groups = _groups(cells)
    group_of = {cell.name: cell.group for cell in cells}
    # Together at last: several may change at once.
    for settings in (*((setting,) for setting in SIDE_SETTINGS), SIDE_SETTINGS):
        first: dict[Hashable, Cell] = {}
        for cell in cells:
            base = first.setdefault((cell.gpu, cell.model, _without(cell, *settings)), cell)
            names = sorted({group_of[base.name], group_of[cell.name]}, key=lambda name: (len(name), name))
            joined = [one for name in names for one in groups[name]]
            if len(names) > 1 and not _why_not_joined(joined, topology):
                groups[names[0]] = joined
                group_of |= dict.fromkeys((one.name for one in joined), names[0])
    return [structs.replace(cell, group=group_of[cell.name]) for cell in cells]


def settings_between(grid: Grid, topology: Topology) -> list[str]:
    """A line on the settings that are compared inside processes, and one for each of those that are not, with why."""
    crossed = _groups(cell for cell in grid.cells if cell.group in {slot.group for slot in grid.order if slot.birth})
    inside = {key: values for key in SIDE_SETTINGS if (values := _crossed_values(crossed.values(), key))}
    lines = [f"compared inside the same processes, as nodes are: {', '.join(inside)}"] if inside else []
    varied = [key for key in Settings.__struct_fields__ if len({getattr(cell, key) for cell in grid.cells}) > 1]
    for key in varied if crossed else ():
        first: dict[Hashable, Cell] = {}
        between: dict[str, str] = {}
        for cell in grid.cells:
            base = first.setdefault((cell.gpu, cell.model, _without(cell, key)), cell)
            value = getattr(cell, key)
            part = "" if key not in inside else f" {value}" if value not in inside[key] else ", in part,"
            what = f"{key}{part}"
            if base.group != cell.group and not (base.reason or cell.reason) and what not in between:
                both = [one for one in grid.cells if one.group in (base.group, cell.group)]
                why = _why_not_joined(both, topology) if key in SIDE_SETTINGS else _why_not_a_side(base, cell)
                between[what] = why
        lines += [f"{what} is compared between processes: {why}" for what, why in between.items()]
    return lines


def _crossed_values(groups: Iterable[Sequence[Cell]], key: str) -> set[Any]:
    """Those that are sides of any group together with another value."""
    several = ({getattr(cell, key) for cell in own} for own in groups)
    return {value for values in several if len(values) > 1 for value in values}


def _why_not_a_side(*cells: Cell) -> str:
    return _excluded(cells) or "it is the same for all sides of a process"


def _without(cell: Cell, *settings: str) -> Settings:
    return structs.replace(cell.settings, **{key: getattr(Settings(), key) for key in settings})


def _why_not_joined(cells: Sequence[Cell], topology: Topology) -> str:
    usable = sum(not cell.reason for cell in cells)
    too_many = f"a process would have {usable} sides, and {MOST_SIDES} is the most" if usable > MOST_SIDES else ""
    return (
        _excluded(cells)
        or _of_the_whole_process(cells)
        or too_many
        or _why_not(cells, topology)
        or _why_not_on_gpu(cells, topology)
    )


def _excluded(cells: Iterable[Cell]) -> str:
    """By the settings of one of them."""
    violation = next(filter(None, map(why_not_crossed, cells)), None)
    return violation.what if violation else ""


def _of_the_whole_process(cells: Sequence[Cell]) -> str:
    """A setting in which these cells differ, and a process cannot; "" if there is none."""
    dtypes, modes = {cell.dtype for cell in cells}, {cell.compile_model for cell in cells}
    if "tf32" in dtypes and len(dtypes) > 1:
        return "tf32 is a mode of the whole process"
    if len(modes) > 1 and "reduce-overhead" in modes:
        return "reduce-overhead records graphs in memory that torch manages for the whole process"
    return ""


def _why_not_on_gpu(cells: Sequence[Cell], topology: Topology) -> str:
    needed, gpu = device_bytes([cell for cell in cells if not cell.reason]), topology.gpu(cells[0].gpu)
    if needed is None or gpu is None or gpu.memory_bytes is None or needed <= gpu.memory_bytes:
        return ""
    return (
        f"{cells[0].group} would need about {byte_size(needed)} on GPU {gpu.index}, which has "
        f"{byte_size(gpu.memory_bytes)}"
    )


def not_crossed(grid: Grid, topology: Topology) -> list[str]:
    """A line that says why groups of several cells are measured in processes of one cell each, if any is."""
    crossed = {slot.group for slot in grid.order if slot.birth}
    comparable = {
        group: own for group, own in _groups(grid.cells).items() if len([cell for cell in own if not cell.reason]) > 1
    }
    others = [own for group, own in comparable.items() if group not in crossed]
    if not others:
        return []
    count = f"{len(others)} of {plural(len(comparable), 'group')}"
    return [f"{count} measured in processes of one cell each: {_why_not(others[0], topology)}"]


def pools_by_node(cells: Iterable[Cell]) -> dict[int, int]:
    """Bytes of host batches on each memory node while all of these cells have theirs.

    torch rounds pinned memory up to a power of two.
    """
    needed: dict[int, int] = {}
    for cell in cells:
        in_flight = cell.batches_in_flight * cell.input_bytes if cell.copies_in and not cell.model.source else 0
        pool = max(cell.memory_size_mb * MIB, in_flight)
        if is_pinned_by_torch(cell):
            pool = 1 << (pool - 1).bit_length()
        needed[cell.mem_node] = needed.get(cell.mem_node, 0) + pool
    return needed


def is_pinned_by_torch(cell: Cell) -> bool:
    return cell.device == "cuda" and cell.host_memory == "pinned"


def whole_sets(repeats: int, births: Births) -> int:
    """`repeats`, rounded up until each group has equally many processes of each birth."""
    size = math.lcm(*(len(one) for one in births.values()))
    return size * -(-repeats // size)


def _groups(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return groups


def _why_not(cells: Sequence[Cell], topology: Topology) -> str:
    group = cells[0].group
    if cells[0].model.command:
        return f"{group} is a command, which is measured as it was started"
    if why := _excluded(cells):
        return why
    usable = [cell for cell in cells if not cell.reason]
    if len(usable) < 2:
        count = f"{len(usable)} cell that can run here" if len(cells) > 1 else "a single cell"
        return f"{group} has {count}: there is nothing to compare it with in one process"
    if cells[0].concurrent_gpus > 1 and len({_load_settings(cell) for cell in usable}) > 1:
        return f"the peers of {group} run what it runs, so their load would change with its turns"
    for node, needed in sorted(pools_by_node(usable).items()):
        known = topology.node(node)
        if known and needed > known.memory_bytes:
            return (
                f"{group} has {len(usable)} pools in one process, {byte_size(needed)} on node {node}, "
                f"which has {byte_size(known.memory_bytes)}"
            )
    return ""


def _load_settings(cell: Cell) -> Hashable:
    """What peers take over from the cell that they run beside; of its node they depend in no way."""
    return cell.cpus, *(getattr(cell, setting) for setting in SIDE_SETTINGS)


def _births(cells: Sequence[Cell], topology: Topology) -> tuple[Placement, ...]:
    """With the memory of the CPU node itself, or that of the first cell there if it has none."""
    births: dict[int, Placement] = {}
    for cell in cells:
        node = topology.node(cell.cpu_node)
        if not cell.reason:
            own = bool(node and node.memory_bytes and node.memory_allowed)
            births.setdefault(cell.cpu_node, (cell.cpu_node, cell.cpu_node if own else cell.mem_node))
    return tuple(births.values())
