"""Of several ways to run one model: the fastest, and which others cannot be told from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.legacy.axes import settings_of
from bench.legacy.pairs import comparison, identity
from bench.legacy.statistics import Estimate, Sample, estimate, paired
from bench.legacy.verdicts import Rules

Record = dict[str, Any]
Lines = Mapping[tuple[str, str], Record]
# What a user may choose: the samples are the same. A dtype is a choice only where its precision will do.
WAYS = ("dtype", "cuda_graph", "compile_model", "buffers", "host_memory", "copy_granularity")


def fastest(
    cells: Sequence[Record], study: Record, rules: Rules | None = None, compared: Sequence[Record] = ()
) -> list[Record]:
    """One entry for each model, place and workload that was measured in several ways; the study's order.

    An entry has cell, gpu, cpu_node, mem_node, model (with the workload, as "vit32x2x128 bs50"), dtype, ways (how many
    were measured), way (the fastest, as "bf16 graph"; "base" has the study's own values), samples_s, base_cell, effect
    and interval against the base (None where that was not measured or is the fastest), pairs (the most of its
    comparisons), rivals (ways that are not surely slower), and same_dtype: the like among the ways of the study's own
    dtype, None where that is the fastest one's.

    Surely slower: one-sided, at the study's level shared among all ways. Each could have come out fastest by luck; one
    that is not is then left without a rival in at most that share of studies (Bonferroni). Models are not corrected for
    each other. Where two ways are compared along an axis (compared: results.json's comparisons), that comparison stands
    here too: a page says one thing of two cells.
    """
    rules = rules or Rules()
    lines = {(line["base_cell"], line["name"]): line for entry in compared for line in entry["lines"]}
    groups: dict[Any, dict[Any, Record]] = {}
    for cell in cells:
        if cell["throughput_samples_s"]:
            place = identity(cell, ignore=WAYS), cell["cpu_node"], cell["mem_node"]
            groups.setdefault(place, {}).setdefault(_way(cell), cell)
    races = [list(own.values()) for own in groups.values() if len(own) > 1]
    entries = _entries(races, study, rules, lines)
    apart = [index for index, entry in enumerate(entries) if entry["dtype"] != study.get("dtype")]
    alike = [[cell for cell in races[index] if cell["settings"].get("dtype") == study.get("dtype")] for index in apart]
    kept = [index for index, race in zip(apart, alike, strict=True) if len(race) > 1]
    told = dict(zip(kept, _entries([race for race in alike if len(race) > 1], study, rules, lines), strict=True))
    return [entry | {"same_dtype": told.get(index)} for index, entry in enumerate(entries)]


def _entries(races: list[list[Record]], study: Record, rules: Rules, lines: Lines) -> list[Record]:
    """Variances are pooled over all comparisons with a fastest way."""
    winners = [max(race, key=lambda cell: cell["throughput_samples_s"]) for race in races]
    samples = [
        _sample(winner, cell)
        for winner, race in zip(winners, races, strict=True)
        for cell in race
        if cell is not winner
    ]
    told = estimate([sample for sample in samples if sample], rules.confidence, rules.margin)
    found = {one.label: one for one in told}
    entries = []
    for winner, race in zip(winners, races, strict=True):
        names = [cell["name"] for cell in race if cell["name"] in found and cell is not winner]
        own = {name: _as_along_an_axis(found[name], winner["name"], lines) for name in names}
        entries.append(_entry(winner, race, own, study, rules))
    return entries


def _entry(winner: Record, race: list[Record], found: dict[str, Estimate], study: Record, rules: Rules) -> Record:
    others = [cell for cell in race if cell is not winner]
    suffixes = {cell["name"]: settings_of(cell).split() for cell in race}
    shared = [part for part in suffixes[winner["name"]] if all(part in own for own in suffixes.values())]

    def way(cell: Record) -> str:
        plain = "base" if _way(cell) == own else str(cell["settings"].get("dtype"))
        return " ".join(part for part in suffixes[cell["name"]] if part not in shared) or plain

    own = tuple(study.get(key) for key in WAYS)
    base = next((cell for cell in others if _way(cell) == own), None)
    level = (1 - rules.confidence) / len(race)
    return {
        "cell": winner["name"],
        **{key: winner[key] for key in ("gpu", "cpu_node", "mem_node")},
        "model": " ".join([winner["model"]["name"], *shared]),
        "dtype": winner["settings"].get("dtype"),
        "ways": len(race),
        "way": way(winner),
        "samples_s": winner["throughput_samples_s"],
        "base_cell": base["name"] if base else None,
        **_gain(found.get(base["name"]) if base else None),
        "pairs": max((found[cell["name"]].pairs for cell in others if cell["name"] in found), default=0),
        "rivals": [way(cell) for cell in others if not _surely_slower(found.get(cell["name"]), level)],
    }


def _as_along_an_axis(found: Estimate, winner: str, lines: Lines) -> Estimate:
    """found: of winner (local) and another cell (remote)."""
    for pair, sign in (((winner, found.label), 1), ((found.label, winner), -1)):
        line = lines.get(pair)
        if line and line["effect"] is not None:
            ends = line["interval"] and [sign * math.log1p(end) for end in line["interval"]]
            mean_log = sign * math.log1p(line["effect"])
            return replace(
                found,
                pairs=line["pairs"],
                mean_log=mean_log,
                penalty=-math.expm1(mean_log),
                interval=(-math.expm1(max(ends)), -math.expm1(min(ends))) if ends else None,
                p_difference=line["p"],
            )
    return found


def _gain(base: Estimate | None) -> Record:
    """Throughput of the fastest over that of the base - 1, from the base's against the fastest."""
    if base is None:
        return {"effect": None, "interval": None}
    ends = base.interval and [1 / (1 - penalty) - 1 for penalty in base.interval]
    return {"effect": math.expm1(-base.mean_log), "interval": ends}


def _surely_slower(found: Estimate | None, level: float) -> bool:
    return bool(found and found.p_difference is not None and found.penalty > 0 and found.p_difference / 2 <= level)


def _sample(winner: Record, cell: Record) -> Sample | None:
    pairs, _ = comparison(cell["name"], winner, cell)
    return paired(pairs) if pairs.local_runs.keys() & pairs.remote_runs.keys() else None


def _way(cell: Record) -> tuple[Any, ...]:
    return tuple(cell["settings"].get(key) for key in WAYS)
