"""What the cells of a study are called, and which of them are measured side by side."""

from collections.abc import Iterable, Iterator
from typing import Any

from bench.study.combinations import Combination
from bench.study.settings import SETTINGS


def named(combinations: Iterable[Combination], base: dict[str, Any]) -> Iterator[tuple[Combination, str, str]]:
    """(combination, name of its cell, group) for each; names are unique.

    `pipeline_gpu{N}_numa{memory node}_vit{patch}x{depth}x{dim}` and a suffix for each thing that differs: the CPU
    node from the memory node, the heads from the first model of that name, a setting from the study's own, and
    `again` for a model listed twice. Cells of one group differ only in node, or in nothing.
    """
    first_heads: dict[str, int] = {}
    for one in combinations:
        model = one.model
        what = [model.name]
        if first_heads.setdefault(model.name, model.heads) != model.heads:
            what.append(f"heads{model.heads}")
        what += [setting.told(one.settings[key]) for key, setting in SETTINGS.items() if key in one.settings]
        cpu_node, mem_node = one.placement
        name = [f"pipeline_gpu{one.gpu}_numa{mem_node}", model.name]
        if cpu_node != mem_node:
            name.append(f"cpu{cpu_node}")
        name += what[1:]
        if one.copy:
            name.append("again" if one.copy == 1 else f"again{one.copy}")
        yield one, "_".join(name), "_".join([f"gpu{one.gpu}", *what])
