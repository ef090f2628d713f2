"""Metrics of a trace, or of every trace in a folder, without a study around it."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from bench.errors import StudyError, TraceError
from bench.records.base import Record
from bench.records.trace import Metrics, PerBatch
from bench.storage import open_regular, working_folder
from bench.trace.batches import per_batch
from bench.trace.export import GZIP_MAGIC, REPORT_MAGIC, RUNTIME, SQLITE_MAGIC, open_export
from bench.trace.metrics import metrics
from bench.trace.reader import read_trace

# In order of preference: an export needs no work, and a report beside its export says nothing new.
ENDINGS = (".sqlite", ".sqlite.gz", ".nsys-rep", ".trace.json.gz", ".trace.json")
# Other files end like this too, so their content decides.
MORE_ENDINGS = (".db", ".json.gz", ".json", ".qdrep")

OTHER_FILES = {
    ".qdstrm": ("the raw stream of nsys, not a report", "QdstrmImporter --input-file FILE makes the report from it"),
    ".qdrep": ("a .qdrep that does not begin like a report of nsys", "export it with the nsys that made it"),
    ".nsys-rep": ("a .nsys-rep that does not begin like a report of nsys", "measure the cell again"),
    ".ncu-rep": ("a report of Nsight Compute, which has no timeline", "trace with nsys -t cuda,nvtx"),
}


class FileKind(Enum):
    EXPORT = "SQLite export"
    REPORT = "report of nsys"
    CHROME = "Chrome trace"


class Analysis(Record, frozen=True, kw_only=True):
    metrics: Metrics
    per_batch: PerBatch


class Broken(Record, frozen=True, kw_only=True):
    """A trace that could not be read."""

    name: str
    error: str
    advice: str


def analyze_file(path: Path, name: str | None = None, range_name: str | None = None) -> Analysis:
    """Raise TraceError for a file that is not a trace, and for a trace that is broken or not complete.

    range_name: of the ranges to analyze, in a trace of another program than this project's workload.
    """
    with as_export(path) as export:
        trace = read_trace(export, name or trace_name(path), path, range_name)
    return Analysis(metrics=metrics(trace), per_batch=per_batch(trace))


def analyze_folder(folder: Path, range_name: str | None = None) -> list[Analysis | Broken]:
    """All traces of a folder in the order of their names; a broken one harms no other.

    Raise TraceError for a folder without traces.
    """
    return [_analysis_or_error(path, range_name) for path in _traces(folder)]


def trace_name(path: Path) -> str:
    """The file name without the endings of traces."""
    ending = next((ending for ending in (*ENDINGS, *MORE_ENDINGS) if path.name.endswith(ending)), "")
    return path.name.removesuffix(ending) or path.name


def _analysis_or_error(path: Path, range_name: str | None) -> Analysis | Broken:
    try:
        return analyze_file(path, range_name=range_name)
    except StudyError as error:
        return Broken(name=trace_name(path), error=error.what, advice=error.advice)


def _traces(folder: Path) -> list[Path]:
    """One file for each trace: of those with one name the first by ENDINGS. Run directories have nsys_reports."""
    found: dict[str, Path] = {}
    for place in (folder, folder / "nsys_reports"):
        for ending in (*ENDINGS, *MORE_ENDINGS):
            for path in sorted(place.glob(f"*{ending}")):
                if ending in ENDINGS or _is_trace(path):
                    found.setdefault(trace_name(path), path)
    if not found:
        raise TraceError(
            "no trace in this folder", str(folder), f"a trace ends in {', '.join((*ENDINGS, *MORE_ENDINGS))}"
        )
    return [found[name] for name in sorted(found)]


def _is_trace(path: Path) -> bool:
    """Whether a file with an ending that others have too is a trace."""
    try:
        kind = file_kind(path)
        if kind is FileKind.EXPORT:
            with open_export(path) as export:
                return export.has(RUNTIME)
        return kind is FileKind.REPORT or b'"traceEvents"' in _head(path, 1 << 16)
    except (StudyError, OSError):
        return False


@contextmanager
def as_export(path: Path) -> Iterator[Path]:
    """The export of a trace, which may be made for as long as it is read. Raise TraceError for another file."""
    kind = file_kind(path)
    if kind is FileKind.EXPORT:
        yield path
        return
    with working_folder() as folder:
        export = folder / "export.sqlite"
        _write_export(kind, path, export)
        yield export


def _write_export(kind: FileKind, path: Path, export: Path) -> None:
    """Import what makes an export only where one is made."""
    if kind is FileKind.REPORT:
        from bench.trace.nsys import Nsys

        Nsys().export_file(path, export, redacted=False)
    else:
        from bench.trace.torch_trace import convert

        convert(path, export)


def file_kind(path: Path) -> FileKind:
    """What a file is, by its content. Raise TraceError for what is not a trace, by its name where that says more."""
    try:
        head = _head(path)
    except OSError as error:
        raise TraceError(f"cannot read the trace: {error.strerror or error}", str(path), "check the path") from None
    if head.startswith(SQLITE_MAGIC):
        return FileKind.EXPORT
    if head.startswith(REPORT_MAGIC):
        return FileKind.REPORT
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return FileKind.CHROME
    what, advice = OTHER_FILES.get(
        path.suffix,
        (
            "not a trace: neither a SQLite export, nor a report of nsys, nor a trace of torch.profiler"
            if head
            else "the file is empty",
            "give a .sqlite of nsys export, a .nsys-rep, or a .json of torch.profiler",
        ),
    )
    raise TraceError(what, str(path), advice)


def _head(path: Path, size: int = 64) -> bytes:
    """The first bytes, unpacked."""
    with open_regular(path) as file:
        head = file.read(size)
    if head.startswith(GZIP_MAGIC):
        with suppress(EOFError, zlib.error, gzip.BadGzipFile), gzip.open(path) as packed:
            return packed.read(size)
    return head
