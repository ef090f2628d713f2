"""The time of a call of luigi before it measures, and of one that has nothing to measure."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bench.records.study import TRACED
from bench.storage import write_json
from bench.study.directory import RunDirectory, resolve
from bench.study.load import configs_folder, load_study
from tasks.report import WRITTEN

# 48 cells that any machine can run: on the cpu device the GPU is a label.
GRID = {"gpu_ids": list(range(8)), "numa_nodes": [0]}
LUIGI = Path(sys.executable).with_name("luigi")


def python(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def test_import_tasks(benchmark) -> None:
    """Goal: 0.2 s more than the interpreter. Baseline of the same run: the interpreter, and luigi alone."""
    benchmark.pedantic(python, args=("import tasks",), rounds=7, warmup_rounds=1)
    benchmark.extra_info["python_s"] = min(python("pass") for _ in range(5))
    benchmark.extra_info["luigi_s"] = min(python("import luigi") for _ in range(5))
    print(f"\nimport tasks {benchmark.stats['min']:.3f} s, of it {benchmark.extra_info}")


@pytest.fixture
def all_done(tmp_path: Path) -> Path:
    """NumaStudy with every record there and ok (synthetic records: only their status is read)."""
    study = load_study(configs_folder() / "numa_locality_study.yaml", {"device": "cpu", **GRID})
    directory = resolve(study, tmp_path / "outputs", False, "earlier")
    done = {"status": "ok", "reason": "", "advice": "", "invocation": "earlier", "started_at": "t", "source": "t"}
    for slot in directory.grid().asked(study.settings.repeats):
        write_json(directory.record(slot.cell, slot.repeat), {**done, "monitor": None, "repeat": slot.repeat})
        if slot.repeat == TRACED:
            write_json(directory.export_record(slot.cell), done)
            write_json(directory.metrics(slot.cell), done)
    _finish(directory, done)
    return tmp_path


def _finish(directory: RunDirectory, done: dict) -> None:
    state = {**done, "state": directory.state(), "found": {}}
    write_json(directory.demand, state | {"repeats": {}})
    for when in ("before", "after"):
        write_json(directory.probe(when), state)
    for name in ("report.json", *WRITTEN):
        write_json(directory.path / name, state)


def test_numa_study_with_all_done(benchmark, all_done: Path) -> None:
    """Goal: 0.5 s more than the import, from the shell to its exit code."""
    command = [
        str(LUIGI), "--module", "tasks", "NumaStudy", "--device", "cpu", "--local-scheduler",
        "--gpu-ids", str(GRID["gpu_ids"]), "--numa-nodes", str(GRID["numa_nodes"]),
        "--output-dir", str(all_done / "outputs"),
    ]  # fmt: skip

    def call() -> None:
        done = subprocess.run(command, cwd=all_done, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    benchmark.pedantic(call, rounds=5, warmup_rounds=1)
    import_s = min(python("import tasks") for _ in range(5))
    print(f"\nNumaStudy, 48 cells and 336 runs done: {benchmark.stats['min']:.3f} s, import alone {import_s:.3f} s")


@pytest.mark.parametrize("cells", [1000])
def test_scheduling_of_very_many_runs(benchmark, tmp_path: Path, cells: int) -> None:
    """Goal: 10 s for 1,000 cells x 3 runs on the local scheduler. The runs are stubs that leave a record at once
    (tests.tasks.instant). Baseline of the same run: a study of 10 cells, which is all start, imports and end."""

    def call(name: str, warm_ups: int) -> float:
        study = {
            "name": name, "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "device": "cpu", "repeats": 2,
            "binding": "none", "measure_link": False, "disturbed_repeats": 0, "num_samples": 1000,
            "axes": {"batch_size": [1, 2, 4, 5, 8, 10, 20, 25, 40, 50], "warmup_samples": list(range(warm_ups))},
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(study))
        command = [
            sys.executable, "-m", "tests.tasks.instant", "Study", "--config-file", str(tmp_path / f"{name}.yaml"),
            "--local-scheduler", "--fresh", "--output-dir", str(tmp_path / "outputs"),
        ]  # fmt: skip
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return time.perf_counter() - begin

    few_s = min(call("few", 1) for _ in range(3))
    benchmark.pedantic(call, args=("many", cells // 10), rounds=1)
    many_s = benchmark.stats["min"]
    benchmark.extra_info |= {"few_s": few_s, "overhead_s": many_s - few_s}
    print(f"\n{cells} cells, {3 * cells} runs: {many_s:.1f} s; 10 cells, 30 runs: {few_s:.1f} s")
