"""What is stated around a comparison: nearest, fastest, families, plans, two studies. Records in memory, not on disk.

python -m tests.validation --statements
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from scipy import stats

from bench.analysis.axes import comparisons
from bench.analysis.claims import claimed
from bench.analysis.fastest import fastest
from bench.analysis.latency import log_spreads
from bench.analysis.pairs import fastest_nodes, local_nodes
from bench.analysis.penalties import penalties
from bench.analysis.repeats import decide
from bench.analysis.statistics import (
    CONFIDENCE_AFTER_LOOKS,
    Estimate,
    Sample,
    estimate,
    holm,
    repeats_to_decide,
    sample_of,
)
from bench.analysis.verdicts import decided, has_enough_pairs
from bench.compare import compare
from bench.host.nearest import near_nodes
from bench.records.host import Topology
from bench.records.results import LocalSource, MeasuredCell, NoiseClass, Results, Rules, Verdict
from bench.study.order import measuring_order
from bench.units import plural
from tests.analysis.cells import made_cell, made_study
from tests.report.made import results
from tests.validation.goals import Figure, Goal, Task, at_least, at_most, hardly_below, rate

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
RULES, STUDY = Rules(), made_study()
MARGIN = -math.log1p(-RULES.margin)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _two_valued(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard deviation 1, two states, and little noise in each."""
    return rng.choice([-1.0, 1.0], shape) + rng.normal(0, 0.05, shape)


# Each of standard deviation 1.
NOISES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "Student, 3 df": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3),
    "log-normal bursts": lambda rng, shape: -(rng.lognormal(0, 1, shape) - math.exp(0.5)) / 2.161,
    "two-valued": _two_valued,
}


def spreads() -> list[float]:
    """Of the models of a real study, relative: 0.07 to 6.8 %."""
    cells = json.loads((REFERENCE / "h200_numa_study" / "results.json").read_bytes())["cells"]
    return [cell["throughput_spread"] for cell in cells]


def of_pairs(ratios: np.ndarray, confidence: float = 0.95) -> list[Estimate]:
    """ratios: log ratios, comparisons x pairs."""
    n = ratios.shape[1]
    rows = zip(ratios.mean(axis=1), ratios.var(axis=1, ddof=1), strict=True)
    samples = [Sample("c", NoiseClass.DEVICE_BOUND, float(mean), float(var), n - 1, 1 / n, n) for mean, var in rows]
    return estimate(samples, confidence)


# Two studies


def a_study(rng: np.random.Generator, draw: Draw, losses: np.ndarray) -> Results:
    """48 cells with the spreads of a real study: 8 GPUs and nodes x 6 models, six runs each."""
    known = spreads()
    cells = []
    for number, loss in enumerate(losses):
        rates = 1000 * (1 - loss) * np.exp(known[number % len(known)] * draw(rng, (6,)))
        cells.append(made_cell(rates.tolist(), gpu=number // 6, model=f"vit32x2x{64 * (1 + number % 6)}"))
    return replace(results(), cells=tuple(cells))


def two_studies(studies: int) -> list[Figure]:
    figures = []
    for name, draw in NOISES.items():
        rng, found, false = np.random.default_rng(1), [], []
        for _ in range(studies):
            base = a_study(rng, draw, np.zeros(48))
            false.append(_exits_slower(base, a_study(rng, draw, np.zeros(48))))
            quiet = int(np.argmin(spreads()))
            found.append(_exits_slower(base, a_study(rng, draw, np.eye(48)[quiet] * 0.05)))
        figures.append(rate("compare: exit 3, nothing changed", name, false, at_most(0.05)))
        figures.append(rate("compare: exit 3, one quiet cell 5 % slower", name, found, at_least(0.95)))
    return figures


def _exits_slower(base: Results, new: Results) -> bool:
    return any(cell.headline and cell.verdict is Verdict.SLOWER for cell in compare([base], [new]).cells)


def unequal_studies(studies: int) -> list[Figure]:
    """6 runs of 1 % against 3 of 3 %, and 20 of 1 % against 3 of 6 %."""
    figures = []
    for first, second in (((6, 0.01), (3, 0.03)), ((20, 0.01), (3, 0.06))):
        rng = np.random.default_rng(2)
        wrong = []
        for _ in range(studies):
            base, new = (
                replace(results(), cells=(made_cell((1000 * np.exp(rng.normal(0, sd, n))).tolist()),))
                for n, sd in (first, second)
            )
            low, high = compare([base], [new]).cells[0].interval or (0.0, 0.0)
            wrong.append(not low <= 0 <= high)
        case = f"{first[0]} runs of {100 * first[1]:g} % against {second[0]} of {100 * second[1]:g} %"
        figures.append(rate("compare: interval without 0, nothing changed", case, wrong, at_most(0.05)))
    return figures


AFTERNOON = 0.015


def several_studies(studies: int) -> list[Figure]:
    """All cells shift by 1.5 % from one afternoon to another, each differently; nothing else differs.

    One study a side, then two and three; then one cell loses 5 %, and shifts by a tenth of that only.
    """
    figures = []
    quiet = int(np.argmin(spreads()))
    for a_side in (1, 2, 3):
        rng, different, exits, found = np.random.default_rng(8), [], [], []
        for _ in range(studies):
            base, new, slower = (
                [_afternoon(rng, loss) for _ in range(a_side)] for loss in (0.0, 0.0, 0.05 * np.eye(48)[quiet])
            )
            cells = compare(base, new).cells
            different += [cell.verdict in (Verdict.SLOWER, Verdict.FASTER) for cell in cells]
            exits.append(any(cell.headline and cell.verdict is Verdict.SLOWER for cell in cells))
            lossy = compare(base, slower).cells[quiet]
            found.append(lossy.headline and lossy.verdict is Verdict.SLOWER)
        case = f"cells shift by 1.5 %, {plural(a_side, 'study', 'studies')} a side"
        promised = at_most(0.05) if a_side > 1 else None
        figures.append(rate("compare: different, nothing changed", case, different, promised))
        figures.append(rate("compare: exit 3, nothing changed", case, exits, promised))
        figures.append(rate("compare: exit 3, one quiet cell 5 % slower", case, found))
    return figures


def _afternoon(rng: np.random.Generator, losses: float | np.ndarray) -> Results:
    """A study of an afternoon of its own; the quiet cell shifts by a tenth only."""
    shifts = AFTERNOON * rng.normal(size=48)
    shifts[np.arange(48) % len(spreads()) == int(np.argmin(spreads()))] *= 0.1
    study = a_study(rng, NOISES["normal"], 1 - (1 - losses) * np.exp(shifts))
    return replace(study, run_directory=str(rng.random()))


def few_runs(studies: int) -> list[Figure]:
    """Processes with two states: why a loss ends with 3 from six runs a side on only. 48 cells, nothing differs."""
    figures = []
    for n in (3, 5, 6):
        rng, shown, exits = np.random.default_rng(n), [], []
        for _ in range(studies):
            base, new = (
                replace(
                    results(),
                    run_directory=place,
                    cells=tuple(
                        made_cell((1000 * np.exp(0.01 * _two_valued(rng, (n,)))).tolist(), model=f"vit32x2x{64 * at}")
                        for at in range(1, 49)
                    ),
                )
                for place in "ab"
            )
            cells = compare([base], [new]).cells
            p_values = [cell.p_difference or 1.0 for cell in cells]
            shown.append(min(holm(p_values)) <= 0.05)
            exits.append(any(cell.headline for cell in cells))
        case = f"two-valued, {n} runs a side"
        figures.append(rate("compare: exit 3 if any number of runs counted", case, shown))
        figures.append(rate("compare: exit 3, nothing changed", case, exits, at_most(0.05)))
    return figures


# One comparison


def worst_coverage(studies: int) -> list[Figure]:
    """Of 12 comparisons with the spreads of a real study: the one that is covered least."""
    known = np.array(spreads() * 2)
    figures = []
    for name, draw in NOISES.items():
        for n in (3, 6):
            rng = np.random.default_rng(n)
            noise = (draw(rng, (studies, 12, n)) - draw(rng, (studies, 12, n))) * known[:, None]
            found = of_pairs(noise.reshape(-1, n))
            covered = np.reshape([one.interval[0] <= 0 <= one.interval[1] for one in found], (studies, 12))
            worst = int(np.argmin(covered.mean(axis=0)))
            case = f"{name}, n = {n}"
            # The least of twelve is low by chance too.
            figures.append(rate("95 % interval covers, worst comparison", case, covered[:, worst], hardly_below(0.93)))
    return figures


def false_headlines(studies: int) -> list[Figure]:
    """24 comparisons of cells that do not differ."""
    figures = []
    for name, draw in NOISES.items():
        for n in (3, 5, 6):
            rng = np.random.default_rng(n)
            found = of_pairs(0.01 * (draw(rng, (studies * 24, n)) - draw(rng, (studies * 24, n))))
            wrong = []
            for own in (found[i : i + 24] for i in range(0, len(found), 24)):
                adjusted = holm([one.p_difference or 0.0 for one in own])
                wrong.append(
                    any(
                        p <= 0.05 and has_enough_pairs(one.mean_log, n, "processes")
                        for one, p in zip(own, adjusted, strict=True)
                    )
                )
            figures.append(rate("study with a false headline", f"{name}, n = {n}", wrong, at_most(0.05)))
    return figures


def two_states(studies: int) -> list[Figure]:
    """What two states of a process do where pairs are few."""
    rng = np.random.default_rng(9)
    found = of_pairs(0.01 * (_two_valued(rng, (studies * 20, 2)) - _two_valued(rng, (studies * 20, 2))))
    covered = [one.interval[0] <= 0 <= one.interval[1] for one in found]
    figures = [rate("95 % interval covers", "two-valued, n = 2", covered)]
    for share in (0.5, 0.3):
        states = np.where(rng.random((2, studies * 96, 6)) < share, -1.0, 1.0)
        states += rng.normal(0, 0.05, states.shape)
        found = of_pairs(0.01 * (states[0] - states[1]))
        families = [found[at : at + 96] for at in range(0, len(found), 96)]
        wrong = [min(holm([one.p_difference or 0.0 for one in own])) <= 0.05 for own in families]
        case = f"two-valued, {100 * share:.0f} % in the slow one, 96 comparisons, n = 6"
        figures.append(rate("study with a false headline", case, wrong, at_most(0.05)))
    return figures


def of_few_values(studies: int) -> list[Figure]:
    """What few values do not show: of spreads, of a p99, and of rare losses. Stated, not promised."""
    figures = []
    for name, draw in NOISES.items():
        rng = np.random.default_rng(10)
        values = draw(rng, (studies * 5, 2, 6))
        found = [
            sample_of(
                "c", NoiseClass.DEVICE_BOUND, log_spreads(np.exp(0.01 * own[0])) - log_spreads(np.exp(0.01 * own[1]))
            )
            for own in values
        ]
        differ = [not one.interval[0] <= 0 <= one.interval[1] for one in estimate(found)]
        figures.append(rate("spread between runs differs, nothing does", f"{name}, n = 6", differ))
        bounds = values[:, 0].std(axis=1, ddof=1) * math.sqrt(5 / stats.chi2.ppf(0.2, 5))
        figures.append(rate("SelfCheck: upper 80 % bound of a spread holds", f"{name}, n = 6", (bounds >= 1).tolist()))
    rng = np.random.default_rng(11)
    for batches in (100, 299):
        largest = rng.random((studies * 5, batches)).max(axis=1)
        low = np.quantile(rng.random((studies * 5, batches)), 0.99, axis=1) < 0.99
        figures.append(rate("the p99 of so many batches is below the true one", f"{batches} batches", low.tolist()))
        case = f"{batches} batches"
        figures.append(rate("their largest is below the true p99", case, (largest < 0.99).tolist(), _of_wilks(batches)))
    lost = np.log1p(-0.3) * (rng.random((studies * 5, 6)) < 0.1) + 0.002 * rng.normal(size=(studies * 5, 6))
    same = [decided(one) is Verdict.SAME for one in of_pairs(lost)]
    figures.append(rate("SAME", "one remote run in ten loses 30 %, n = 6", same))
    return figures


def _of_wilks(batches: int) -> Goal | None:
    return at_most(0.05) if batches >= 299 else None


def periodic(studies: int) -> list[Figure]:
    """Two of every four runs lose 3 %, in the real measuring order of one GPU and model, and of 24."""
    figures = []
    for groups in (1, 24):
        cells = [(f"{group} {side}", str(group)) for group in range(groups) for side in "ab"]
        wrong = []
        for seed in range(studies):
            rng, logs = np.random.default_rng(seed), np.empty((groups, 2, 6))
            phase = rng.integers(4)
            for slot in measuring_order(cells, 6, seed, traced=False):
                group, side = slot.cell.split()
                slow = -0.03 * ((slot.position + phase) % 4 < 2)
                logs[int(group), int(side == "b"), slot.block - 1] = slow + rng.normal(0, 0.002)
            found = of_pairs(logs[:, 1] - logs[:, 0])
            wrong.append(decided(found[0]) in (Verdict.SLOWER, Verdict.FASTER))
        case = f"two of every four runs 3 % slower, {groups} groups"
        figures.append(rate("A/A: FASTER or SLOWER", case, wrong, at_most(0.05)))
    return figures


def same_after_looks(studies: int) -> list[Figure]:
    """At the margin, with a target that invites to stop early: 0.9 times the half-width that six pairs give."""
    figures = []
    for name in ("normal", "Student, 3 df", "log-normal bursts"):
        rng, draw = np.random.default_rng(5), NOISES[name]
        ratios = -MARGIN + 0.01 * (draw(rng, (studies, 20)) - draw(rng, (studies, 20)))
        hits = [_same_after_looks(own, 0.9 * 1.96 * 0.01 * math.sqrt(2 / 6)) for own in ratios]
        figures.append(rate("SAME at the margin after looks", name, hits, at_most(0.05)))
    return figures


def _same_after_looks(ratios: np.ndarray, target: float) -> bool:
    n = 6
    while True:
        seen = ratios[:n]
        sample = Sample("c", NoiseClass.DEVICE_BOUND, float(seen.mean()), float(seen.var(ddof=1)), n - 1, 1 / n, n)
        more = decide([sample], target)[0].more
        if not more:
            return decided(estimate([sample], CONFIDENCE_AFTER_LOOKS)[0]) is Verdict.SAME
        n += more


def planned_repeats(studies: int) -> list[Figure]:
    """A study is planned from a first one; either truth."""
    figures = []
    for name, draw in NOISES.items():
        for n in (3, 6):
            rng, hits = np.random.default_rng(n), {Verdict.SAME: [], Verdict.SLOWER: []}
            for _ in range(studies):
                (first,) = of_pairs(0.02 * (draw(rng, (1, n)) - draw(rng, (1, n))))
                repeats = repeats_to_decide(first) or 2
                for truth, effect in ((Verdict.SAME, 0.0), (Verdict.SLOWER, -MARGIN)):
                    shape = (1, max(repeats, 2))
                    (found,) = of_pairs(effect + 0.02 * (draw(rng, shape) - draw(rng, shape)))
                    low, high = found.interval or (0.0, 0.0)
                    hits[truth].append(decided(found) is truth if truth is Verdict.SAME else not low <= 0 <= high)
            for truth, own in hits.items():
                case = f"{name}, n = {n}, truth {truth}"
                figures.append(rate("about N repeats would decide", case, own, hardly_below(0.75)))
    return figures


# Nearest


def _node_cells(
    rng: np.random.Generator, draw: Draw, losses: list[float], runs: int, sd: float = 0.003
) -> list[MeasuredCell]:
    """One GPU and three models on nodes that lose this."""
    return [
        made_cell(
            (1000 * (1 - loss) * np.exp(sd * draw(rng, (runs,)))).tolist(), cpu_node=node, model=f"vit32x2x{64 * model}"
        )
        for node, loss in enumerate(losses)
        for model in range(1, 4)
    ]


def nearest_by_runs(
    studies: int, names: Sequence[str] = tuple(NOISES), losses: Sequence[float] = (0.0, 0.005, 0.01, 0.02)
) -> list[Figure]:
    figures = []
    for name in names:
        draw = NOISES[name]
        for loss in losses:
            rng, covered, named = np.random.default_rng(3), [], []
            for _ in range(studies):
                cells = _node_cells(rng, draw, [loss, 0.0], 6)
                local = local_nodes(cells, Topology())
                named.append(local[0].source is LocalSource.RUNS)
                truth = loss if local[0].node == 1 else 1 - 1 / (1 - loss)
                covered += [
                    entry.interval[0] <= truth <= entry.interval[1]
                    for entry in penalties(cells, local, RULES)
                    if entry.interval
                ]
            case = f"{name}, true loss {100 * loss:g} %"
            figures.append(rate("penalty where runs choose the node: covers", case, covered, hardly_below(0.93)))
            if loss == 0:
                figures.append(rate("a node is named by runs, none is nearer", name, named, at_most(0.02)))
    return figures


def near_sets(studies: int) -> list[Figure]:
    """Nodes 2 and 3 equally near, 0 and 1 lose 10 %: one of the near ones is the reference."""
    figures = []
    for name, draw in NOISES.items():
        rng = np.random.default_rng(4)
        near, wrong = [], []
        for _ in range(studies):
            found = fastest_nodes(_node_cells(rng, draw, [0.1, 0.1, 0.0, 0.0], 6))
            near.append(set(found) == {2, 3})
            wrong.append((bool(found) and not set(found) <= {2, 3}) or len(found) == 1)
        figures.append(rate("two equally near nodes are found as a set", name, near, at_least(0.85)))
        figures.append(rate("one of two equally near nodes is named", name, wrong, at_most(0.02)))
    return figures


def probe_scans() -> list[np.ndarray]:
    """Logarithms of real probes' scans over their quiet CPUs: a third is 15 % slower, other ones each time."""
    found = []
    for file in sorted(REFERENCE.glob("probe_*.json")):
        for gpu in json.loads(file.read_bytes())["gpus"]:
            found += [np.log(list(scan.values())) for scan in gpu["scans_us"]]
    return [scan - np.quantile(scan, 0.2) for scan in found]


def nearest_by_probe(trials: int) -> list[Figure]:
    figures = []
    for nodes in (2, 4):
        none = [_probed(seed, nodes, 0.0, 0.0) for seed in range(trials)]
        found = [_probed(seed, nodes, 0.05, 0.0) == (1,) for seed in range(trials)]
        context = [_probed(seed, nodes, 0.05, 0.10) == (0,) for seed in range(trials)]
        case = f"real scans, {nodes} nodes, 4 GPUs"
        figures.append(rate("probe: a node is named, none is nearer", case, [bool(one) for one in none], at_most(0.01)))
        figures.append(rate("probe: 5 % nearer is found", case, found, at_least(0.85)))
        case = f"{case}, context's memory 10 % nearer"
        figures.append(
            rate("probe: no node is named", case, [not _probed(seed, nodes, 0.05, 0.10) for seed in range(trials)])
        )
        figures.append(rate("probe: the first context's node is named", case, context, at_most(0.01)))
    return figures


def _probed(seed: int, nodes: int, distance: float, context: float) -> tuple[int, ...]:
    """The GPU is nearer to node 1 by `distance`."""
    rng, known = np.random.default_rng([seed, nodes]), probe_scans()
    cpus_of = {node: list(range(16 * node, 16 * node + 16)) for node in range(nodes)}
    births = []
    for birth in range(nodes):
        scans = []
        for _ in range(4):
            logs = rng.choice(known[rng.integers(len(known))], (nodes, 16))
            logs[1] -= distance
            logs[birth] -= context
            scans.append(dict(enumerate((6.6 * np.exp(logs)).ravel().tolist())))
        births.append(scans)
    return near_nodes(births, cpus_of, 4)


# Families


def equal_ways(studies: int) -> list[Figure]:
    """12 models with two equal settings; and 8 settings of one model, of which the winner's gain is stated."""
    figures = []
    for name, draw in NOISES.items():
        rng = np.random.default_rng(6)
        ahead, covered = [], []
        for _ in range(studies):
            cells = [
                made_cell(
                    (1000 * np.exp(0.01 * draw(rng, (6,)))).tolist(), model=f"vit32x2x{64 * model}", cuda_graph=graph
                )
                for model in range(1, 13)
                for graph in (False, True)
            ]
            races = claimed((), (), fastest(cells, STUDY, RULES), RULES).fastest
            ahead.append(any(not race.rivals for race in races))
            ways = [
                made_cell((1000 * np.exp(0.01 * draw(rng, (6,)))).tolist(), buffers=STUDY.buffers + way)
                for way in range(8)
            ]
            (race,) = fastest(ways, STUDY, RULES)
            if race.interval:
                covered.append(race.interval[0] <= 0 <= race.interval[1])
        figures.append(rate("fastest: ahead, none is", f"{name}, 12 models x 2", ahead, at_most(0.05)))
        figures.append(rate("fastest of 8: gain covers", name, covered, at_least(0.93)))
    return figures


def one_level(studies: int) -> list[Figure]:
    """Two nodes x two axes x six models, nothing differs: any claim of the whole study."""
    figures = []
    for name, draw in NOISES.items():
        rng = np.random.default_rng(7)
        wrong = []
        for _ in range(studies):
            cells = [
                made_cell(
                    (1000 * np.exp(0.01 * draw(rng, (6,)))).tolist(),
                    cpu_node=node, model=f"vit32x2x{64 * model}", cuda_graph=graph, buffers=STUDY.buffers + buffers,
                )
                for model in range(1, 4) for node in (0, 1) for graph in (False, True) for buffers in (0, 1)
            ]  # fmt: skip
            local = local_nodes(cells, Topology())
            families = penalties(cells, local, RULES), comparisons(cells, STUDY, RULES), fastest(cells, STUDY, RULES)
            found = claimed(*families, RULES)
            wrong.append(
                any(entry.headline for entry in found.penalties)
                or any(line.headline for entry in found.comparisons for line in entry.lines)
                or any(not race.rivals for race in found.fastest)
            )
        figures.append(rate("any claim of a study, nothing differs", name, wrong, at_most(0.05)))
    return figures


def tasks(studies: int) -> list[Task]:
    """studies: of the costly ones a tenth."""
    few = max(studies // 10, 20)
    return [
        partial(worst_coverage, studies),
        partial(false_headlines, studies),
        partial(same_after_looks, studies),
        partial(unequal_studies, few * 5),
        partial(periodic, few * 2),
        partial(planned_repeats, few * 2),
        partial(nearest_by_runs, few * 6),
        partial(near_sets, few * 2),
        partial(nearest_by_probe, few * 3),
        partial(two_studies, few // 2),
        partial(several_studies, few // 2),
        partial(few_runs, few // 2),
        partial(two_states, studies),
        partial(of_few_values, studies),
        partial(equal_ways, few * 2),
        partial(one_level, few),
    ]
