"""What a folder is that is no run directory, for whoever named it as one."""

from collections.abc import Iterator
from pathlib import Path

from bench.errors import StudyError
from bench.records.results import SCHEMA

NAME_A_RUN = "name a folder outputs/<study name>/<date>/<time>"
_NO_RUN = "this is not a run directory"
# Of an output directory: <study>/<date>/<time>.
_LEVELS = ("*", "*/*", "*/*/*")


def not_a_run(path: Path) -> StudyError:
    """The error for a path without the files that a run directory begins with."""
    if not path.is_dir():
        what = "a file" if path.exists() else "there is nothing"
        return StudyError(f"{what}: {_NO_RUN}", str(path), NAME_A_RUN)
    if (path / "cluster.json").is_file():
        advice = f"its run directories are hosts/<host>; numastudy status --report {path} reports on all of them"
        return StudyError("the folder of a study on many hosts, not a run directory", str(path), advice)
    if is_published(path):
        page = next(name for name in ("report.html", "report.md", "results.json") if (path / name).is_file())
        return StudyError(
            f"results without their records: {_NO_RUN}, but what was published of one",
            str(path),
            f"read {path / page}; numastudy advise, convert and compare read its results.json of schema {SCHEMA}",
        )
    if published := sorted(folder for folder in path.iterdir() if folder.is_dir() and is_published(folder)):
        what = f"published results below ({', '.join(folder.name for folder in published)}): {_NO_RUN}"
        advice = "numastudy advise, convert and compare read one of them; report and status need the records of a run"
        return StudyError(what, str(path), advice)
    if below := [*_runs_below(path)]:
        newest = max(below, key=lambda folder: folder.stat().st_mtime)
        count = "one run directory" if len(below) == 1 else f"{len(below)} run directories"
        return StudyError(f"{count} below: {_NO_RUN} itself", str(path), f"name one of them; the newest is {newest}")
    if not (path / "study.yaml").exists():
        return StudyError(f"no study.yaml: {_NO_RUN}", str(path), NAME_A_RUN)
    if not (path / "grid.json").exists():
        # grid.json is written last. A call that was killed before is continued by the next one.
        advice = f"{NAME_A_RUN}; if the start of the study was interrupted, the same command continues from here"
        return StudyError(f"no grid.json: {_NO_RUN}", str(path), advice)
    return StudyError(f"no host in topology.json: {_NO_RUN}", str(path), NAME_A_RUN)


def is_published(path: Path) -> bool:
    """Whether it holds what was made from a run directory, and neither its grid nor its runs."""
    made = any((path / name).is_file() for name in ("results.json", "report.html", "report.md"))
    return made and not (path / "grid.json").exists() and not (path / "runs").exists()


def _runs_below(path: Path) -> Iterator[Path]:
    for level in _LEVELS:
        yield from (grid.parent for grid in path.glob(f"{level}/grid.json"))
