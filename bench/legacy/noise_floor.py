"""SelfCheck and the noise floor of a host."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bench.legacy.load import measured_at
from bench.legacy.pairs import class_of, comparison, identity, occurrences, throughputs
from bench.legacy.statistics import MARGIN, estimate, paired
from bench.legacy.verdicts import Verdict, judge, percent, rules_of
from bench.shape import NUMBER, TEXT, Each, Must, parse
from bench.storage import write_json

# --- selfcheck
# A/A: a cell against itself under two labels. What differs here is the noise floor of the host.

Record = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """Between-process relative standard deviation of the runs of one model on one GPU and placement.

    upper: its upper 80 % bound.
    """

    gpu: int | None
    cpu_node: int
    mem_node: int
    model: str
    noise_class: str
    runs: int
    spread: float
    upper: float


@dataclass(frozen=True)
class SelfCheck:
    """comparisons: how many; false_differences: labels of those called SLOWER or FASTER."""

    comparisons: tuple[Record, ...]
    false_differences: tuple[str, ...]
    intervals_without_zero: int
    spreads: tuple[Spread, ...]
    text: str

    def as_json(self) -> Record:
        return {
            "comparisons": list(self.comparisons),
            "false_differences": list(self.false_differences),
            "intervals_without_zero": self.intervals_without_zero,
            "spreads": [vars(spread) for spread in self.spreads],
            "noise_floor": self.noise_floor(),
            "text": self.text,
        }

    def noise_floor(self) -> dict[str, float]:
        """By model: the upper bound of its spread; the largest where it was measured in several places."""
        floor: dict[str, float] = {}
        for spread in self.spreads:
            floor[spread.model] = max(floor.get(spread.model, 0.0), spread.upper)
        return floor


def evaluate(cells: Sequence[Record], margin: float = MARGIN) -> SelfCheck:
    """From cells of results.json. Cells that differ in nothing but their name are compared, each with the
    first of its kind; the runs of all of them give the spread."""
    kinds: dict[Any, list[Record]] = {}
    numbered = occurrences(cells, lambda cell: (identity(cell), cell["cpu_node"], cell["mem_node"]))
    for cell, (kind, _) in numbered:
        kinds.setdefault(kind, []).append(cell)
    pairs = [
        comparison(f"{twin['name']} / {same[0]['name']}", same[0], twin)[0]
        for same in kinds.values()
        for twin in same[1:]
    ]
    pairs = [pair for pair in pairs if pair.local_runs and pair.remote_runs]
    told, false, missed = [], [], 0
    for one in estimate([paired(pair) for pair in pairs], margin=margin):
        said = judge(one)
        if said.verdict in (Verdict.SLOWER, Verdict.FASTER):
            false.append(one.label)
        missed += bool(one.interval and not one.interval[0] <= 0 <= one.interval[1])
        told.append(
            {
                "name": one.label,
                "noise_class": one.noise_class,
                "verdict": said.verdict.value,
                "penalty": one.penalty,
                "interval": None if one.interval is None else list(one.interval),
                "pairs": one.pairs,
                "text": said.text,
            }
        )
    spreads = tuple(filter(None, map(_spread, kinds.values())))
    return SelfCheck(tuple(told), tuple(false), missed, spreads, _text(told, false, spreads))


def _spread(same: list[Record]) -> Spread | None:
    """Levels are taken out cell by cell, so that a real difference between twins is not called noise."""
    logs = [np.log(list(throughputs(cell).values())) for cell in same if throughputs(cell)]
    df = sum(len(values) - 1 for values in logs)
    if df < 1:
        return None
    spread = float(np.sqrt(sum(np.sum((values - values.mean()) ** 2) for values in logs) / df))
    first = same[0]
    return Spread(
        first["gpu"],
        first["cpu_node"],
        first["mem_node"],
        first["model"]["name"],
        class_of(*same),
        sum(map(len, logs)),
        spread,
        spread * float(np.sqrt(df / stats.chi2.ppf(0.2, df))),
    )


def _text(told: list[Record], false: list[str], spreads: tuple[Spread, ...]) -> str:
    lines = [f"{len(false)} of {len(told)} comparisons of a cell with itself came out different"]
    lines += [f"  {name}" for name in false]
    lines += [
        f"{spread.model} on GPU {spread.gpu}, node {spread.mem_node}: {percent(spread.spread)} between "
        f"{spread.runs} processes (upper 80 % bound {percent(spread.upper)}, {spread.noise_class})"
        for spread in spreads
    ]
    return "\n".join(lines)


# --- noise_floor
# The noise floor of a host: measured by SelfCheck, quoted by every later report of that host.

Record = dict[str, Any]
_SHAPE = Each(Must({"spreads": [Must({"upper": Must(NUMBER), "noise_class": Must(TEXT)})]}))


def remember(results: Record, outputs: Path) -> Record | None:
    """Keep what an A/A study (cells listed twice) found. None if the study has no such cells."""
    found = evaluate(results["cells"], rules_of(results["study"]).margin)
    if not found.comparisons:
        return None
    record = found.as_json() | {"study": results["study_name"], "measured_at": measured_at(results)}
    path = _path(outputs)
    known = recall_all(outputs)
    write_json(path, known | {_host(results): record})
    return record


def recall(results: Record, outputs: Path) -> float | None:
    """The largest between-process spread (its upper 80 % bound) of the host's models that are not launch-bound."""
    record = recall_all(outputs).get(_host(results))
    spreads = [spread["upper"] for spread in (record or {}).get("spreads") or [] if spread["noise_class"] == "rest"]
    return max(spreads, default=None)


def recall_all(outputs: Path) -> Record:
    """By host; nothing where the file is not there or damaged."""
    try:
        found = parse(_path(outputs).read_bytes(), _SHAPE)
    except OSError:
        return {}
    return {} if isinstance(found, str) else found


def _host(results: Record) -> str:
    return str(results["host"].get("name") or "unknown")


def _path(outputs: Path) -> Path:
    return outputs / "noise_floor.json"
