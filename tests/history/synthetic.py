"""Synthetic nights as real results. Every number is invented; the host's name says so."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from bench.records.host import Fingerprint, Topology
from bench.records.results import (
    CellRun,
    Counts,
    CrossedRun,
    Locality,
    MeasuredCell,
    NoiseClass,
    Results,
    Rules,
    Trust,
)
from bench.records.run import Latency, Outcome
from bench.records.study import Model, Settings, Study

HOST = "synthetic-host"
FIRST = date(2026, 1, 1)
MODELS = ("vit0x0x0", "vit32x2x128", "vit32x4x256", "vit32x6x512", "vit16x8x768", "vit16x12x1024")
FINGERPRINT = Fingerprint(host=HOST, machine="x86_64", cpu="Synthetic CPU", gpus="4 x Synthetic GPU", driver="580.1")


def night_of(number: int) -> str:
    """The date of night 1, 2, ..."""
    return (FIRST + timedelta(days=number - 1)).isoformat()


def places(gpus: int = 4) -> list[tuple[int, int, str]]:
    return [(gpu, node, model) for gpu in range(gpus) for node in (0, 2) for model in MODELS]


def made_results(
    folder: Path,
    number: int,
    rates: Mapping[str, float | None],
    *,
    repeats: int = 3,
    fingerprint: Fingerprint = FINGERPRINT,
    noise_class: NoiseClass = NoiseClass.DEVICE_BOUND,
    night: str | None = None,
) -> Results:
    """The results of one night of a study in `folder`. rates: samples/s by cell name, None for a crashed cell."""
    day = night_of(number) if night is None else night
    started = datetime.combine(FIRST + timedelta(days=number - 1), datetime.min.time(), UTC) + timedelta(hours=1.5)
    cells = tuple(_cell(name, rate, repeats, started, noise_class) for name, rate in rates.items())
    ok = sum(cell.outcome is Outcome.OK for cell in cells)
    study = Study(name="numa_locality_study", night=day, device="cuda", profiler="nsys", binding="numactl")
    return Results(
        study=study,
        study_name=study.name,
        run_directory=str(folder / study.name / started.strftime("%Y-%m-%d/%H-%M-%S")),
        created_at=(started + timedelta(hours=1)).isoformat(timespec="seconds"),
        invocation=f"synthetic{number}",
        host=HOST,
        fingerprint=fingerprint,
        topology=Topology(),
        locality=Locality(),
        preflight=(),
        device="cuda",
        device_names={},
        binding="numactl",
        rules=Rules(margin=0.02, max_repeats=20, confidence=0.95),
        counts=Counts(cells=len(cells), ok=ok, runs=len(cells) * (repeats + 1), runs_ok=ok * (repeats + 1)),
        duration_s=2400.0,
        busy_s=2300.0,
        measured_s=1000.0,
        trust=NO_TRUST,
        damaged=(),
        cells=cells,
        penalties=(),
        predictions=(),
        hidden_copies=(),
        comparisons=(),
        fastest=(),
        contention=(),
        links=(),
        drift=None,
    )


def with_cell(results: Results, index: int, **changes: object) -> Results:
    """The results with one cell changed."""
    cells = list(results.cells)
    cells[index] = replace(cells[index], **changes)
    return replace(results, cells=tuple(cells))


def cell_names(gpus: int = 4) -> list[str]:
    return [f"pipeline_gpu{gpu}_numa{node}_{model}" for gpu, node, model in places(gpus)]


def quiet_rates(
    nights: int, seed: int = 7, gpus: int = 4, spread: tuple[float, float] = (0.0016, 0.0075)
) -> np.ndarray:
    """nights x cells samples/s: each cell has a level and a nightly spread of its own, from 0.16 to 0.75 %."""
    noise = np.random.default_rng(seed)
    cells = len(places(gpus))
    levels, spreads = noise.uniform(600, 78_000, cells), noise.uniform(*spread, cells)
    return levels * np.exp(noise.normal(size=(nights, cells)) * spreads)


def rates_of(row: np.ndarray, gpus: int = 4) -> dict[str, float | None]:
    return dict(zip(cell_names(gpus), map(float, row), strict=True))


NO_TRUST = Trust(
    runs_ok=0,
    timed_ok=0,
    proved=0,
    unproved=(),
    unproved_reasons={},
    monitored=0,
    throttling_unknown=(),
    throttled=(),
    disturbed=(),
    disturbed_by={},
    noise={},
    noise_floor=None,
    foreign_fingerprints=(),
)


def _cell(name: str, rate: float | None, repeats: int, started: datetime, noise_class: NoiseClass) -> MeasuredCell:
    _, gpu, node, model = name.split("_")[:4]
    outcome = Outcome.OK if rate else Outcome.CRASHED
    runs = tuple(
        CellRun(
            run=f"{name}_r{repeat}",
            repeat=repeat,
            status=outcome,
            reason="",
            block=repeat,
            position=repeat,
            attempts=1,
            wall_s=10.0,
            throughput_samples_s=rate,
            placement=None,
            disturbed=False,
            started_at=started.isoformat(),
        )
        for repeat in range(1, repeats + 1)
    )
    patch_size, depth, dim = map(int, model.removeprefix("vit").split("x"))
    return MeasuredCell(
        name=name,
        key=f"key of {name}",
        gpu=int(gpu[3:]),
        gpu_uuid=None,
        cpu_node=int(node[4:]),
        mem_node=int(node[4:]),
        model=Model(patch_size=patch_size, depth=depth, dim=dim, heads=4),
        settings=Settings(device="cuda"),
        outcome=outcome,
        reason="" if rate else "killed by SIGSEGV",
        noise_class=noise_class,
        throughput_samples_s=rate,
        throughput_spread=0.002,
        latency_us=Latency(count=100, p50=400.0, p99=450.0),
        runs=runs,
    )


def crossed(results: Results) -> Results:
    """The same, measured by turns inside processes that started on node 0."""

    def run(one: CellRun) -> CellRun:
        crossing = CrossedRun(
            id=f"process {one.repeat}", birth_cpu_node=0, birth_mem_node=0, rounds=8, carry_over=None, ratios={}
        )
        return one if one.repeat == "traced" else replace(one, crossing=crossing)

    cells = tuple(replace(cell, runs=tuple(map(run, cell.runs))) for cell in results.cells)
    return replace(results, cells=cells)
