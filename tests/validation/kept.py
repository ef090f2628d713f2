"""Figures are kept as they are measured: the same command, by the same code, measures only what is missing.

A file for each task in FOLDER, named by what it measures and by the code that it ran: all of bench, and the modules of
tests that were imported. Delete the folder to measure all of it again.
"""

import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.storage import write_json
from bench.units import duration
from tests.validation.goals import Figure, Task

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "validation"


def measured(tasks: Sequence[Task], folder: Path = FOLDER, processes: int = 2) -> Iterator[Figure]:
    """The figures of all tasks in their order; how far they are goes to stderr."""
    code, began = code_version(), time.monotonic()
    files = [folder / f"{key(task, code)}.json" for task in tasks]
    known = {file: _read(file) for file in files}
    missing = {file: task for file, task in zip(files, tasks, strict=True) if known[file] is None}
    _show(f"{len(tasks) - len(missing)} of {len(tasks)} tasks are kept in {folder}")
    with ProcessPoolExecutor(processes) as pool:
        pending = {pool.submit(_timed, task): file for file, task in missing.items()}
        for done, future in enumerate(as_completed(pending), 1):
            file = pending[future]
            figures, took_s = future.result()
            known[file] = figures
            name = name_of(missing[file])
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"task": name, "took_s": took_s, "figures": [asdict(one) for one in figures]})
            elapsed = time.monotonic() - began
            left = duration(elapsed / done * (len(missing) - done))
            _show(f"{done} of {len(missing)} in {duration(elapsed)}, about {left} left: {name}, {took_s:.1f} s of CPU")
    for file in files:
        yield from known[file] or ()


def key(task: Task, code: str) -> str:
    return hashlib.sha256(f"{name_of(task)} {code}".encode()).hexdigest()[:16]


def name_of(task: Any) -> str:
    """The function and its arguments, seeds included."""
    if isinstance(task, partial):
        return f"{name_of(task.func)}({', '.join(map(name_of, (*task.args, *task.keywords.items())))})"
    return f"{task.__module__}.{task.__qualname__}" if callable(task) else repr(task)


def code_version() -> str:
    own = {Path(file) for one in list(sys.modules.values()) if (file := getattr(one, "__file__", None))}
    files = {*(ROOT / "bench").rglob("*.py"), *(file for file in own if file.is_relative_to(ROOT / "tests"))}
    digest = hashlib.sha256(f"{platform.python_version()} {version('numpy')} {version('scipy')}".encode())
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()


def _timed(task: Task) -> tuple[list[Figure], float]:
    began = time.process_time()
    # Of numpy's numbers JSON knows nothing.
    figures = [
        replace(one, value=float(one.value), error=float(one.error), ok=None if one.ok is None else bool(one.ok))
        for one in task()
    ]
    return figures, round(time.process_time() - began, 2)


def _read(file: Path) -> list[Figure] | None:
    """None where it is missing or damaged: it is then measured again."""
    try:
        return [Figure(**one) for one in json.loads(file.read_bytes())["figures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
