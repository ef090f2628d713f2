"""Promises held by the commands: studies are written as run records on disk, and read by report, compare and the night.

    python -m tests.validation --quick        # make validate-quick: at most five minutes, in CI; all: make validate

Each study has the noise of one kind in its real measuring order. The worst comparison is quoted, not the mean.
"""

import json
import math
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from click.testing import CliRunner
from scipy import stats

from bench.cli import main
from bench.nightly.night import NightlyStudy, judge_night
from bench.records.base import plain
from bench.records.nightly import NightlyVerdict
from bench.storage import write_json
from bench.study.order import measuring_order
from tests.history.synthetic import HOST, cell_names, made_results, night_of
from tests.records.by_hand import Record, write_study
from tests.validation.goals import Figure, Task, at_least, at_most, hardly_below, rate
from tests.validation.simulated import real_noise

MODELS = tuple(f"vit32x2x{64 * number}" for number in range(1, 13))
REPEATS = 6
SD = 0.01
LOSS = 0.05
BY_CHANCE = 0.001
# (rng, logs) of a study: models x nodes x repeats, where `at` holds the place of each run in the measuring order.
Noise = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def normal(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    return rng.normal(0, SD, at.shape)


def student(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    return SD / math.sqrt(3) * rng.standard_t(3, at.shape)


def bursts(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    return -SD / 2.16 * rng.lognormal(0, 1, at.shape)


def two_valued(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """Each process is in one of two states."""
    return SD * rng.choice([-1.0, 1.0], at.shape) + rng.normal(0, SD / 10, at.shape)


def autoregressive(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    series = [0.0]
    for _ in range(at.size - 1):
        series.append(0.8 * series[-1] + 0.6 * SD * rng.normal())
    return np.array(series)[at]


def step(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    return -0.03 * (at > rng.integers(at.size)) + normal(rng, at) / 3


def ramp(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    return -0.03 * at / at.size + normal(rng, at) / 3


def periodic(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """Slower by 3 % in two of four runs, whatever they are."""
    return -0.03 * (at % 4 < 2) + normal(rng, at) / 3


def bad_block(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """All of one block is slower, by 10 % on average and each run differently."""
    found = normal(rng, at) / 3
    found[:, :, rng.integers(REPEATS)] -= rng.exponential(0.1, at.shape[:2])
    return found


def unequal(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """Runs on the other node spread three times as much."""
    return normal(rng, at) * np.array([0.5, 1.5])[None, :, None]


def measured(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """Runs of the project's own processes."""
    series = [own for of_class in real_noise().values() for own in of_class]
    return np.stack([rng.choice(series[model % len(series)], at.shape[1:]) for model in range(len(at))])


def cauchy(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """One run in twelve is slower, by anything up to 60 %."""
    lost = np.minimum(SD * np.abs(rng.standard_cauchy(at.shape)), 0.6)
    return normal(rng, at) / 2 - lost * (rng.random(at.shape) < 1 / 12)


def quantized(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """Times in steps of 0.4 %."""
    return np.round(normal(rng, at) / 0.004) * 0.004


def waves(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """The host gets 3 % faster and slower twice in a study."""
    return 0.03 * np.sin(4 * np.pi * at / at.size + rng.uniform(0, 2 * np.pi)) + normal(rng, at) / 3


def unlike_models(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """The spreads of models are log-normal, of sigma 1."""
    return normal(rng, at) * rng.lognormal(0, 1, (len(at), 1, 1))


NOISES: dict[str, Noise] = {
    "normal": normal,
    "Student, 3 df": student,
    "log-normal bursts": bursts,
    "two-valued": two_valued,
    "AR(1), 0.8": autoregressive,
    "step": step,
    "ramp": ramp,
    "periodic, 4 runs": periodic,
    "one bad block": bad_block,
    "unequal nodes": unequal,
    "measured": measured,
    "Cauchy bursts": cauchy,
    "quantized times": quantized,
    "waves": waves,
    "unlike models": unlike_models,
}


def written(folder: Path, rng: np.random.Generator, noise: Noise, losses: np.ndarray, seed: int) -> Path:
    """A study on disk. losses: true, of each model and node."""
    cells = [(f"pipeline_gpu0_numa{node}_{model}", f"gpu0_{model}") for model in MODELS for node in (0, 1)]
    order = measuring_order(cells, REPEATS, seed, traced=False)
    index = {name: divmod(number, 2) for number, (name, _) in enumerate(cells)}
    at = np.empty((len(MODELS), 2, REPEATS), int)
    for slot in order:
        at[(*index[slot.cell], slot.block - 1)] = slot.position
    rates = 1000 * np.exp(noise(rng, at) + np.log1p(-losses)[:, :, None])
    runs = {
        (model, node): [_result(float(samples_s)) for samples_s in rates[number, node]]
        for number, model in enumerate(MODELS)
        for node in (0, 1)
    }
    return write_study(folder, runs, order=[plain(slot) for slot in order], seed=seed)


def _result(samples_s: float) -> Record:
    batch_s = 10 / samples_s
    return {
        "throughput_samples_s": samples_s,
        "windows": [{"batches": 100, "duration_s": 100 * batch_s}],
        "latency_us": {"count": 900, "p50": 2e6 * batch_s, "p99": 2.4e6 * batch_s, "max": 3e6 * batch_s},
    }


def reported(path: Path, page: bool = True) -> list[Record]:
    """The penalties of `numastudy report`. page: draw it; it takes nine tenths of the time and changes no number."""
    with nullcontext() if page else patch("bench.report.build.render", return_value=""):
        done = CliRunner().invoke(main, ["report", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: list[Record] = json.loads((path / "results.json").read_bytes())["penalties"]
    return found


def compared(base: Path, new: Path) -> int:
    """The exit code of `numastudy compare`."""
    return CliRunner().invoke(main, ["compare", str(base), str(new)], catch_exceptions=False).exit_code


def within_a_study(name: str, studies: int) -> list[Figure]:
    """Nothing differs; then one model in three loses LOSS."""
    headlines, latencies, false_sames, covered, found = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for study in range(studies):
            rng = np.random.default_rng([study, *name.encode()])
            none, some = np.zeros((len(MODELS), 2)), np.zeros((len(MODELS), 2))
            some[::3, 1] = LOSS
            path = written(Path(folder) / f"a{study}", rng, NOISES[name], none, 2 * study)
            quiet = reported(path, page=study == 0)
            headlines.append(any(entry["headline"] for entry in quiet))
            latencies.append(any(one["headline"] for entry in quiet for one in entry["changes"].values()))
            covered.append([entry["interval"][0] <= 0 <= entry["interval"][1] for entry in quiet])
            path = written(Path(folder) / f"b{study}", rng, NOISES[name], some, 2 * study + 1)
            lossy = reported(path, page=False)[::3]
            found += [entry["headline"] and entry["verdict"] == "SLOWER" for entry in lossy]
            false_sames += [entry["verdict"] == "SAME" for entry in lossy]
    worst = int(np.sum(covered, axis=0).min())
    # The worst of several is low by chance too: it must be likely where all cover 93 %.
    covers = float(stats.binom.cdf(worst, studies, 0.93)) >= BY_CHANCE / len(MODELS)
    return [
        rate("report: a headline though nothing differs", name, headlines, at_most(0.05)),
        rate("report: of latency or steadiness", name, latencies, at_most(0.05)),
        Figure("report: interval covers, worst of 12", name, worst / studies, 0.0, "likely at 93 %", covers),
        rate("report: SAME though 5 % are lost", name, false_sames, at_most(0.05)),
        rate("report: 5 % lost found as headline", name, found, at_least(0.8) if name in QUIET else None),
    ]


# Whose spread of about 1 % or less lets six pairs find 5 %.
QUIET = ("normal", "ramp", "step")


def between_studies(name: str, pairs: int) -> list[Figure]:
    """Two studies of the same cells: nothing differs, then one cell loses LOSS."""
    false, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(pairs):
            rng = np.random.default_rng([1, pair, *name.encode()])
            none, one = np.zeros((len(MODELS), 2)), np.zeros((len(MODELS), 2))
            one[0, 0] = LOSS
            base, same, slower = (
                written(Path(folder) / f"{pair}{at}", rng, NOISES[name], losses, 3 * pair + at)
                for at, losses in enumerate((none, none, one))
            )
            false.append(compared(base, same) == 3)
            found.append(compared(base, slower) == 3)
    promised = name not in ("AR(1), 0.8", "step")
    return [
        rate("compare: exit 3 though nothing differs", name, false, at_most(0.05) if promised else None),
        rate("compare: exit 3 for 5 % lost by one cell", name, found, hardly_below(0.95) if name == "ramp" else None),
    ]


def through_nights(nights: int, loss_from: int, seed: int = 0) -> list[Figure]:
    """Six cells, from results on disk into the history; the first loses LOSS little by little over 60 nights."""
    rng = np.random.default_rng([2, seed])
    names = cell_names()[:6]
    spreads = rng.uniform(0.0016, 0.0075, len(names))
    reported, alarms = [], []
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "history.db"
        for number in range(1, nights + 1):
            logs = spreads * rng.normal(size=len(names))
            logs[0] += math.log1p(-LOSS) * min(max(number - loss_from, 0) / 60, 1)
            rates = dict(zip(names, (1000 * np.exp(logs)).tolist(), strict=True))
            results = made_results(Path(folder), number, rates)
            Path(results.run_directory).mkdir(parents=True)
            write_json(Path(results.run_directory) / "results.json", plain(results))
            planned = NightlyStudy("NumaStudy", Path(results.run_directory))
            night = judge_night(night_of(number), HOST, [planned], database, 28)
            slower = {cell.name for cell in night.studies[0].cells if cell.verdict is NightlyVerdict.SLOWER}
            reported.append(names[0] in slower)
            alarms.append(bool(slower - {names[0]}))
    case = f"normal, {len(names)} cells"
    return [
        rate("night: a false alarm", case, alarms, at_most(0.01)),
        rate("night: 5 % lost over 60 nights, reported", case, [any(reported)], at_least(1.0)),
    ]


def tasks(studies: int) -> list[Task]:
    """studies: of each kind of noise, two written for each."""
    return [
        partial(through_nights, 110, 30),
        *(partial(within_a_study, name, studies) for name in NOISES),
        *(partial(between_studies, name, studies) for name in NOISES),
    ]
