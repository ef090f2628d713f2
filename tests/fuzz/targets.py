"""What reads files that others may have made, each with files to begin with. Nothing but StudyError may come out."""

import atexit
import gzip
import json
import random
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.analysis.load import load
from bench.analysis.repeats import demanded
from bench.compare import compare_command
from bench.errors import StudyError
from bench.records.base import plain
from bench.report.build import build_results
from bench.report.tables import cells_table, csv_text
from bench.study.directory import RunDirectory, study_fingerprint
from bench.study.load import StudyDefinition, configs_folder, load_study
from bench.study.plan import plan
from bench.trace.analyze import analyze_file
from bench.whatif.command import Request, whatif
from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.run_directories import build_run_directory, topology_json
from tests.trace.trace_builder import VERSIONS, pipeline, write

# What is read must not take more memory than this beyond what the interpreter has, nor longer than that.
MOST_BYTES, MOST_S = 1 << 30, 120
Mutate = Callable[[bytes, random.Random], bytes]
# In memory where there is such a place: most cases write a file.
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(frozen=True)
class Target:
    """run: raises nothing but what is a bug. seeds: sound files."""

    name: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], None]
    mutate: Mutate = mutate_bytes


def study_file(data: bytes) -> None:
    with _file("study.yaml", data) as path, suppress(StudyError):
        load_study(path)


def export(data: bytes) -> None:
    with _file("x.sqlite", data) as path:
        _read_trace(path)


def torch_trace(data: bytes) -> None:
    with _file("x.trace.json", data) as path:
        _read_trace(path)


def _read_trace(path: Path) -> None:
    with suppress(StudyError):
        analyze_file(path)
    with suppress(StudyError):
        whatif(path, Request())


def results_json(data: bytes) -> None:
    with _file("results.json", data) as path, _file("base.json", _results()) as base, suppress(StudyError):
        compare_command([str(base)], [str(path)], "json", force=True)


def run_directory(data: bytes) -> None:
    """data: {"place": path in a run directory, "content": text}: that file of a sound directory is replaced."""
    try:
        case = json.loads(data)
        place, content = str(case["place"]), str(case["content"]).encode(errors="surrogatepass")
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    folder = _sound()
    if place not in _places():
        return
    before = (folder / place).read_bytes()
    (folder / place).write_bytes(content)
    try:
        with suppress(StudyError):
            results = build_results(load(folder), "fuzz")
            json.dumps(plain(results), allow_nan=False)
            cells_table(results)
            csv_text(results.cells)
        with suppress(StudyError):
            plan(_study(), folder.parents[2]).as_json()
        with suppress(StudyError):
            demanded(RunDirectory(folder))
    finally:
        (folder / place).write_bytes(before)


class _file:
    """A file of that name and content, in a folder of its own."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name, self._data = name, data

    def __enter__(self) -> Path:
        self._folder = tempfile.mkdtemp(prefix="numastudy-fuzz-", dir=SCRATCH)
        path = Path(self._folder) / self._name
        path.write_bytes(self._data)
        return path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)


@cache
def _sound() -> Path:
    """A GPU on two nodes, two models, two repeats."""
    folder = tempfile.mkdtemp(prefix="numastudy-fuzz-", dir=SCRATCH)
    atexit.register(shutil.rmtree, folder, True)
    place = Path(folder) / "outputs/study/2026-01-01/00-00-00"
    asked = {"gpu_ids": [0], "numa_nodes": [0, 1], "models": ["vit0x0x0", "vit32x2x128"], "repeats": 2}
    study = place.parents[3] / "study.yaml"
    study.write_text(json.dumps({"name": "study"} | asked))
    fingerprint = study_fingerprint(load_study(study).as_json(), socket.gethostname())
    entry = {"path": "2026-01-01/00-00-00", "invocation": "fuzz"}
    place.parents[1].mkdir(parents=True)
    (place.parents[1] / "index.json").write_text(json.dumps({fingerprint: entry}))
    return build_run_directory(place, str(study), topology=topology_json(gpus=1, near=(0,), nodes=2), links=True)


@cache
def _study() -> StudyDefinition:
    """What the sound directory is of, so that a plan of it looks into the directory."""
    study = load_study(_sound().parents[3] / "study.yaml")
    assert plan(study, _sound().parents[2]).directory
    return study


@cache
def _places() -> tuple[str, ...]:
    """One file of each kind: they are alike, and a case that breaks one breaks all."""
    folder = _sound()
    patterns = ("grid.json", "study.yaml", "topology.json", "probe_*.json", "preflight.json", "runs/*_r1.json",
                "runs/*_traced.json", "latency/*.json", "nsys_reports/*.export.json", "links/*.json")  # fmt: skip
    return tuple(str(min(found).relative_to(folder)) for each in patterns if (found := list(folder.glob(each))))


@cache
def _results() -> bytes:
    return json.dumps(plain(build_results(load(_sound()), "fuzz"))).encode()


def _studies() -> list[bytes]:
    rich = {
        "name": "rich", "gpu_ids": "all", "numa_nodes": [0, 1], "models": ["vit32x2x128", "vit0x0x0"], "repeats": 3,
        "axes": {"batch_size": [5, 10], "dtype": ["fp32", "bf16"]}, "placements": [[0, 1], [1, 0]],
    }  # fmt: skip
    return [*(path.read_bytes() for path in sorted(configs_folder().glob("*.yaml"))), json.dumps(rich).encode()]


def _exports() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [write(Path(folder) / version, pipeline(), version).read_bytes() for version in VERSIONS] + [
            gzip.compress(write(Path(folder) / "packed", pipeline()).read_bytes(), mtime=0)
        ]


def _torch_traces() -> list[bytes]:
    return [json.dumps(_TRACE).encode(), gzip.compress(json.dumps(_TRACE).encode(), mtime=0)]


def _cases() -> list[bytes]:
    return [json.dumps({"place": place, "content": (_sound() / place).read_text()}).encode() for place in _places()]


def _damaged_case(data: bytes, noise: random.Random) -> bytes:
    case = json.loads(data)
    text, is_json = case["content"], case["place"].endswith(".json")
    if is_json and noise.random() < 0.9:
        case["content"] = json.dumps(mutate_json(json.loads(text), noise))
    else:
        case["content"] = mutate_bytes(text.encode(), noise).decode(errors="replace")
    return json.dumps(case).encode()


def _damaged_json(data: bytes, noise: random.Random) -> bytes:
    if noise.random() < 0.1:
        return mutate_bytes(data, noise)
    return json.dumps(mutate_json(json.loads(data), noise)).encode()


def _damaged_trace(data: bytes, noise: random.Random) -> bytes:
    if data[:1] == b"{":
        return _damaged_json(data, noise)
    if noise.random() < 0.3:
        return mutate_bytes(data, noise)
    return gzip.compress(_damaged_json(gzip.decompress(data), noise))


def _event(category: str, name: str, start: float, duration: float, **args: object) -> dict:
    return {"ph": "X", "cat": category, "name": name, "pid": 7, "tid": 7, "ts": start, "dur": duration, "args": args}


_TRACE = {
    "deviceProperties": [{"id": 0, "name": "GPU"}],
    "traceEvents": [
        _event("user_annotation", "test_double_buffer", 10.0, 200.0),
        *(
            event
            for i in range(3)
            for event in (
                _event("user_annotation", f"test_batch_{i}", 20.0 + 50 * i, 40.0),
                _event("cuda_runtime", "cudaMemcpyAsync", 21.0 + 50 * i, 1.0, correlation=10 * i + 1),
                _event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 25.0 + 50 * i, 5.0, correlation=10 * i + 1,
                       bytes=600, device=0, stream=13),
                _event("cuda_runtime", "cudaLaunchKernel", 23.0 + 50 * i, 1.0, correlation=10 * i + 2),
                _event("kernel", "gemm", 31.0 + 50 * i, 5.0, correlation=10 * i + 2, device=0, stream=14),
                _event("cuda_runtime", "cudaMemcpyAsync", 26.0 + 50 * i, 1.0, correlation=10 * i + 3),
                _event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 37.0 + 50 * i, 5.0, correlation=10 * i + 3,
                       bytes=600, device=0, stream=15),
            )
        ),
    ],
}  # fmt: skip

TARGETS = {
    target.name: target
    for target in (
        Target("study_file", _studies, study_file),
        Target("export", _exports, export),
        Target("torch_trace", _torch_traces, torch_trace, _damaged_trace),
        Target("run_directory", _cases, run_directory, _damaged_case),
        Target("results_json", lambda: [_results()], results_json, _damaged_json),
    )
}
