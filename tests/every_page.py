"""Every kind of page that a person opens, from synthetic records; small, since a check takes a page whole."""

from pathlib import Path

from bench.analysis.load import load
from bench.cluster.directory import find_or_create
from bench.cluster.report import write_cluster_report
from bench.history.database import add_study
from bench.history.page import write_index
from bench.nightly.write import write_night
from bench.records.base import plain
from bench.records.nightly import Night, NightBaseline, NightCell, NightlyVerdict, NightState, NightStudy
from bench.records.run import Outcome
from bench.report.build import build_results, make_report
from bench.storage import write_json
from bench.study.load import load_study
from bench.ui.folders import folder_page
from tests.history.synthetic import made_results, night_of
from tests.run_directories import (
    build_run_directory,
    build_run_of,
    crossed_process,
    quick_run,
    topology_json,
)

TWO_NODES = {"gpu_ids": [0], "numa_nodes": [0, 1], "repeats": 6, "models": ["vit0x0x0", "vit32x2x128"]}
TIMEOUT = {"status": "timeout", "reason": "not done after 600 s", "advice": "raise timeout_s", "log_tail": ["batch 12"]}
CELL = "pipeline_gpu0_numa0_vit0x0x0"


def every_page(folder: Path) -> dict[str, Path]:
    """The file of each page by its kind."""
    studies = {
        "placements": _placements, "swept": _swept, "crossed": _crossed, "quick_test": quick_run,
        "self_check": _self_check, "command": _command,
    }  # fmt: skip
    pages = {}
    for name, build in studies.items():
        run = build(folder / name / "2026-11-22" / "18-00-00")
        make_report(run, "test")
        pages[name] = run / "report.html"
    return pages | {"history": _history(folder), "night": _night(folder), "hosts": _hosts(folder)} | _folders(folder)


def _placements(path: Path) -> Path:
    """CPU and memory apart, a cell that failed, links."""
    study = {"name": "placements", "gpu_ids": [0], "placements": [[0, 0], [0, 1], [1, 0], [1, 1]], "repeats": 3,
             "models": ["vit32x2x128"]}  # fmt: skip
    topology = topology_json(gpus=1, near=(0,), nodes=2)
    failures = {"pipeline_gpu0_numa1_vit32x2x128_1": TIMEOUT}
    return build_run_of(study, path, topology=topology, links=True, failures=failures)


def _swept(path: Path) -> Path:
    """A setting, and GPUs at once."""
    study = {"name": "swept", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "repeats": 3,
             "axes": {"concurrent_gpus": [1, 2], "dtype": ["fp32", "bf16"]}}  # fmt: skip
    return build_run_of(study, path, topology=topology_json(gpus=2, near=(0, 1), nodes=2))


def _crossed(path: Path) -> Path:
    process = crossed_process(spread=0.2, penalty=0.041)
    topology = topology_json(gpus=1, near=(0,), nodes=2)
    return build_run_directory(path, "numa_locality_study", TWO_NODES, topology=topology, crossed=process)


def _self_check(path: Path) -> Path:
    models = {"models": ["vit0x0x0", "vit0x0x0", "vit32x2x128", "vit32x2x128"]}
    topology = topology_json(gpus=1, near=(0,), nodes=1)
    return build_run_directory(path, "self_check", models, topology=topology, crossed=crossed_process())


def _command(path: Path) -> Path:
    """A server with its client."""
    command = {"server": ["serve", "--port", "{port}"], "ready": "ready", "run": ["ask"]}
    study = {"name": "serve", "gpu_ids": [0, 1], "numa_nodes": "all", "repeats": 6, "command": command,
             "question": "What does the wrong node cost this server?"}  # fmt: skip
    return build_run_of(study, path, topology=topology_json(gpus=2, near=(0, 1), nodes=2))


def _history(folder: Path) -> Path:
    """Nights, of which one failed, and a study with other cells."""
    other = CELL.replace("0x0x0", "32x2x128")
    for number in range(1, 6):
        rates = {CELL: None if number == 3 else 1000.0 + number, other: 500.0}
        add_study(made_results(folder, number, rates), folder / "history.db")
    add_study(made_results(folder, 6, {CELL.replace("0x0x0", "16x8x768"): 20.0}, night=""), folder / "history.db")
    return write_index(folder / "history.db")


def _night(folder: Path) -> Path:
    slower = NightCell(
        name=CELL, outcome=Outcome.OK, verdict=NightlyVerdict.SLOWER, effect=-0.05, interval=(-0.06, -0.04),
        tonight_samples_s=950.0, baseline_samples_s=1000.0, nights=28, nightly_spread=0.003, guarded=True,
        text="5.0 % slower",
    )  # fmt: skip
    night = Night(
        night=night_of(5), host="here", verdict=NightState.SLOWER, text="1 slower: gpu0_numa0_vit0x0x0 by 5.0 %",
        slower=(CELL,), not_measured=("ScalingStudy",), compared=1, level=4e-4, warnings=(), inputs="",
        created_at="2026-11-23T01:30:00+00:00",
        studies=(
            NightStudy(study="NumaStudy", baseline=NightBaseline(nights=(night_of(1), night_of(4))), cells=(slower,),
                       run_directory=str(folder / "numa_locality_study")),
            NightStudy(study="ScalingStudy", problem="no GPU here"),
        ),
    )  # fmt: skip
    path = folder / "nightly" / night_of(5)
    path.mkdir(parents=True)
    write_night(path, night, [])
    return path / "verdict.html"


def _hosts(folder: Path) -> Path:
    """Four hosts, of which one is slow, and one that did not report."""
    overrides = {"gpu_ids": [0], "repeats": 2}
    hosts = ["n1", "n2", "n3", "n4"]
    directory = find_or_create(load_study("quick_test", overrides), [*hosts, "n5"], folder, "", fresh=False)
    for seed, host in enumerate(hosts):
        path = directory.host(host).path
        build_run_directory(path, "quick_test", overrides, topology=topology_json(gpus=1, near=(0,)), seed=seed)
        results = plain(build_results(load(path), "test"))
        if host == "n3":
            for cell in results["cells"]:
                cell["throughput_samples_s"] *= 0.5
        write_json(path / "results.json", results)
    write_cluster_report(directory)
    return directory.report


def _folders(folder: Path) -> dict[str, Path]:
    """Pages of the outputs server, as files. One study is not complete."""
    run = folder / "quick_test/2026-11-22/18-00-00"
    next((run / "runs").glob("*_traced.json")).unlink()
    found = {}
    for name, path in (("outputs", folder), ("run_directory", run), ("runs", run / "runs")):
        found[name] = folder / f"{name}.page.html"
        found[name].write_text(folder_page(path, folder, with_records=True).text)
    return found
