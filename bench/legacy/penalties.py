"""The penalties of a study: what each other placement costs a GPU and a model, against the local node."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.errors import StudyError
from bench.legacy.pairs import (
    Local,
    class_of,
    comparison,
    identity,
    local_nodes,
    occurrences,
    throughputs,
    told_settings,
)
from bench.legacy.statistics import Estimate, Sample, estimate, holm, paired
from bench.legacy.verdicts import Rules, Verdict, graph_of, judge

Record = dict[str, Any]
Placement = tuple[int, int]


def penalties(cells: Sequence[Record], topology: Record, rules: Rules | None = None) -> list[Record]:
    """The `penalties` of results.json: one entry for each cell that is not on its GPU's local node.

    cells: entries of results.json; topology: topology.json. Beyond the contract an entry has `kind` (node:
    CPU and memory moved; cpu, memory: one of them), `remote_cpu_node`, `mde`, `p_adjusted` (Holm over the
    study), `headline` (the verdict SLOWER or FASTER holds after that), `hint`, `repeats_needed`,
    `disturbed_pairs`, `noise_class` and, on the entry of a complete 2x2 design, `effects`: cpu, memory and
    interaction. penalty, interval and verdict are null where no block has both runs.
    """
    return penalties_from(cells, local_nodes(cells, topology), rules or Rules())


def penalties_from(cells: Sequence[Record], local: dict[int | None, Local], rules: Rules) -> list[Record]:
    """The same with the local node of each GPU given."""
    entries, samples = [], []
    designs: dict[int, dict[str, Sample]] = {}
    for placed in _groups(cells):
        known = local.get(next(iter(placed.values()))["gpu"])
        here = placed.get((known.node, known.node)) if known else None
        if known is None or here is None:
            continue
        for placement, there in placed.items():
            if placement != (known.node, known.node):
                entry, sample = _entry(known, here, there)
                entries.append(entry)
                samples.append(sample)
                if design := two_by_two(placed, known.node, placement):
                    designs[len(entries) - 1] = design
    _fill(entries, samples, rules)
    _fill_effects(entries, designs, rules)
    return entries


def two_by_two(placed: dict[Placement, Record], local: int, remote: Placement) -> dict[str, Sample] | None:
    """CPU effect, memory effect and interaction, from the blocks that have all four cells.

    With y the log throughput and (CPU, memory) local L or remote R: the CPU effect is the mean over both
    memory nodes of y(R, .) - y(L, .), the memory effect likewise, the interaction
    y(RR) - y(RL) - y(LR) + y(LL). None unless `remote` has CPU and memory on one node and all four ran.
    """
    node = remote[0]
    if remote != (node, node):
        return None
    corners = [placed.get(corner) for corner in ((local, local), (node, local), (local, node), remote)]
    if any(corner is None for corner in corners):
        return None
    runs = [throughputs(corner) for corner in corners if corner]
    blocks = sorted(set.intersection(*(set(side) for side in runs)))
    if not blocks:
        return None
    ll, rl, lr, rr = (np.log([side[block] for block in blocks]) for side in runs)
    contrasts = {
        "cpu": (rl - ll + rr - lr) / 2,
        "memory": (lr - ll + rr - rl) / 2,
        "interaction": rr - rl - lr + ll,
    }
    cells = [corner for corner in corners if corner]
    return {name: _sample(name, class_of(*cells), values) for name, values in contrasts.items()}


def _groups(cells: Sequence[Record]) -> list[dict[Placement, Record]]:
    """Cells that differ only in node, by (CPU node, memory node)."""
    groups: dict[Any, dict[Placement, Record]] = {}
    numbered = occurrences(cells, lambda cell: (identity(cell), cell["cpu_node"], cell["mem_node"]))
    for cell, ((same, cpu_node, mem_node), again) in numbered:
        groups.setdefault((same, again), {})[cpu_node, mem_node] = cell
    return list(groups.values())


def _entry(local: Local, here: Record, there: Record) -> tuple[Record, Sample | None]:
    pairs, set_aside = comparison(there["name"], here, there)
    kind = "node"
    if there["cpu_node"] != there["mem_node"]:
        kind = {(True, False): "memory", (False, True): "cpu"}.get(
            (there["cpu_node"] == local.node, there["mem_node"] == local.node), "node"
        )
    entry = {
        "gpu": here["gpu"],
        "model": here["model"]["name"],
        "settings": told_settings(here),
        "local_node": local.node,
        "remote_node": there["mem_node"],
        "remote_cpu_node": there["cpu_node"],
        "kind": kind,
        "local_source": local.source,
        "local_cell": here["name"],
        "remote_cell": there["name"],
        "noise_class": pairs.noise_class,
        "disturbed_pairs": set_aside,
    }
    try:
        return entry, paired(pairs)
    except StudyError:
        return entry, None


def _fill(entries: list[Record], samples: list[Sample | None], rules: Rules) -> None:
    found = iter(estimate([sample for sample in samples if sample], rules.confidence, rules.margin))
    estimates = [next(found) if sample else None for sample in samples]
    tested = [one for one in estimates if one and one.p_difference is not None]
    adjusted = dict(zip(map(id, tested), holm([one.p_difference or 0.0 for one in tested]), strict=True))
    for entry, one in zip(entries, estimates, strict=True):
        entry |= _told(one, adjusted.get(id(one)), rules, graph_of(entry["settings"]))


def _told(found: Estimate | None, adjusted: float | None, rules: Rules, cuda_graph: bool | None) -> Record:
    if found is None:
        return {
            **dict.fromkeys(("penalty", "interval", "verdict", "mde", "p_adjusted", "repeats_needed")),
            "pairs": 0,
            "headline": False,
            "text": "not measured: no block has both runs",
            "hint": "the failed runs say why",
        }
    said = judge(found, rules.max_repeats, cuda_graph)
    differs = said.verdict in (Verdict.SLOWER, Verdict.FASTER)
    return {
        "penalty": found.penalty,
        "interval": _list(found.interval),
        "verdict": said.verdict.value,
        "pairs": found.pairs,
        "text": said.text,
        "hint": said.hint,
        "repeats_needed": said.repeats,
        "mde": found.mde,
        "p_adjusted": adjusted,
        "headline": differs and adjusted is not None and adjusted <= 1 - rules.confidence,
    }


def _fill_effects(entries: list[Record], designs: dict[int, dict[str, Sample]], rules: Rules) -> None:
    """Each kind of contrast is pooled with its own kind only: their variances differ by design. Holm goes over all."""
    tested: list[tuple[Record, Estimate]] = []
    for kind in ("cpu", "memory", "interaction"):
        found = estimate([design[kind] for design in designs.values()], rules.confidence, rules.margin)
        for index, one in zip(designs, found, strict=True):
            said = judge(one, rules.max_repeats, graph_of(entries[index]["settings"]))
            told = entries[index].setdefault("effects", {})[kind] = {
                "penalty": one.penalty,
                "interval": _list(one.interval),
                "verdict": said.verdict.value,
                "text": said.text,
                "pairs": one.pairs,
                "headline": False,
            }
            if one.p_difference is not None:
                tested.append((told, one))
    for (told, _), p in zip(tested, holm([one.p_difference or 0.0 for _, one in tested]), strict=True):
        told["headline"] = told["verdict"] in (Verdict.SLOWER, Verdict.FASTER) and p <= 1 - rules.confidence


def _sample(label: str, noise: str, values: np.ndarray) -> Sample:
    n = len(values)
    variance = float(values.var(ddof=1)) if n > 1 else float("nan")
    return Sample(label, noise, float(values.mean()), variance, n - 1, 1 / n, n)


def _list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
