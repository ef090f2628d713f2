"""`numastudy bundle`: a study as one file that can be passed on: report, results, traces, facts of the host."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from msgspec import structs

from bench.analysis.load import RunData, load, read_results
from bench.errors import StudyError, TraceError
from bench.records.base import Record, plain
from bench.records.results import Results
from bench.records.study import run_name
from bench.report.markdown import markdown
from bench.report.page import render
from bench.report.private import Private, private
from bench.report.tables import csv_text
from bench.report.text.fill import with_text
from bench.storage import whole_file, working_folder, write_text
from bench.study.directory import check_run_directory, study_text
from bench.trace.redact import redact
from bench.units import byte_size, plural

MOST_TRACE_BYTES = 256 << 20
"""Of all traces together, before compression: what can be sent by most means."""
# A file of the same content has the same bytes, whenever and wherever it is made.
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_README = "README.txt"


@dataclass(frozen=True)
class Bundle:
    """What was written: bytes of each file before compression, and the traces that were left out, with the reason."""

    path: Path
    sizes: dict[str, int]
    left_out: dict[str, str]

    @property
    def text(self) -> str:
        traces = sum(name.endswith(".sqlite") for name in self.sizes)
        lines = [
            f"{self.path}: {byte_size(self.path.stat().st_size)}, "
            f"{plural(len(self.sizes), 'file')} of {byte_size(sum(self.sizes.values()))}, {plural(traces, 'trace')}",
            *_left_out_lines(self.left_out),
            f"look at {_README} in it for what was left out or replaced before you pass it on",
        ]
        return "\n".join(lines)


def bundle(run_dir: Path, output: Path, with_traces: bool = True) -> Bundle:
    """Write output, which appears whole or not at all.

    Raise StudyError if there is a file of that name, or no report in run_dir.
    """
    if output.exists() or output.is_symlink():
        raise StudyError("there is a file of that name, and it stays as it is", str(output), "name another one with -o")
    check_run_directory(run_dir)
    data, results = load(run_dir), read_results(run_dir)
    hidden = private(data, results)
    with working_folder() as folder, working_folder() as drawn:
        left_out = _traces(data, folder / "nsys_reports", hidden) if with_traces else {"all": "--no-traces"}
        _link_traces(data, drawn / "nsys_reports", hidden)
        _write(folder, _clean(data, drawn, hidden), results, hidden)
        has_traces = any(folder.glob("nsys_reports/*"))
        write_text(folder / _README, _readme(hidden.text(results.study.name), has_traces, left_out))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
        with whole_file(output) as temporary:
            _pack(temporary, folder, files, hidden.text(results.study.name))
    return Bundle(output, sizes, left_out)


def _write(folder: Path, data: RunData, results: Results, hidden: Private) -> None:
    """The report, from results without anything private; its links lead to what is in the folder."""
    # A frozen study is known by who created it, and is run as it is.
    study = structs.replace(data.study, created_by="bundle")
    # Sentences of reports are written again, from numbers; those stored with the results may hold anything.
    clean = with_text(hidden.record(structs.replace(results, run_directory=".", study=study)))
    _write_record(folder / "results.json", clean)
    _write_record(folder / "topology.json", hidden.record(data.host))
    write_text(folder / "study.yaml", study_text(clean.study))
    write_text(folder / "results.csv", csv_text(clean.cells))
    write_text(folder / "report.md", markdown(clean))
    write_text(folder / "report.html", render(data, clean, beside=folder))


def _clean(data: RunData, drawn: Path, hidden: Private) -> RunData:
    """As far as a report uses it beside the results. drawn: where it finds the traces of its pictures."""
    runs = {}
    for run in data.runs.values():
        result = run.result and structs.replace(run.result, versions=hidden.record(run.result.versions))
        cell = hidden.text(run.cell)
        name = run_name(cell, run.repeat)
        log = hidden.text(run.log)
        runs[name] = structs.replace(run, cell=cell, run=name, log=log, command=[], result=result)
    order = tuple(structs.replace(slot, cell=hidden.text(slot.cell)) for slot in data.order)
    return replace(data, path=drawn, runs=runs, order=order)


def _link_traces(data: RunData, folder: Path, hidden: Private) -> None:
    """Every trace under the name that its cell has in the bundle."""
    folder.mkdir()
    for cell, trace in _stored(data):
        (folder / f"{hidden.text(cell)}.sqlite").symlink_to(trace.absolute())


def _write_record(path: Path, record: Record) -> None:
    write_text(path, json.dumps(plain(record), indent=1, allow_nan=False) + "\n")


def _traces(data: RunData, folder: Path, hidden: Private) -> dict[str, str]:
    """Copy every trace without names, paths and environment; return those left out, with the reason."""
    left_out, total = dict[str, str](), 0
    for cell, trace in _stored(data):
        target = folder / f"{hidden.text(cell)}.sqlite"
        try:
            redact(trace, target, hidden.text)
        except TraceError as error:
            left_out[target.name] = hidden.text(error.what)
            continue
        size = target.stat().st_size
        if total + size > MOST_TRACE_BYTES:
            target.unlink()
            left_out[target.name] = f"{byte_size(size)}, and traces have {byte_size(MOST_TRACE_BYTES)} at most together"
            continue
        total += size
    return left_out


def _stored(data: RunData) -> Iterator[tuple[str, Path]]:
    """Cell and trace, in the order of the grid, so that the first cells of a study have theirs."""
    for cell in data.cells:
        path = data.path / "nsys_reports" / f"{cell.name}.sqlite"
        if path.is_file():
            yield cell.name, path


def _pack(target: Path, folder: Path, files: list[Path], name: str) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in files:
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(folder)}", _LONG_AGO)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as packed:
                while block := source.read(1 << 20):
                    packed.write(block)


def _readme(name: str, has_traces: bool, left_out: dict[str, str]) -> str:
    lines = [
        f"{name}, measured with numastudy {version('numastudy')}",
        "",
        "report.html        the report, in any browser, offline",
        "report.md          its first screen and the table of cells",
        "results.json, .csv every number; numastudy advise and convert read the first",
        "study.yaml         the study as it was frozen; of a command only its program is in it",
        "topology.json      nodes, GPUs and versions of the host",
        *(["nsys_reports/      traces that numastudy analyze and whatif read"] if has_traces else []),
        "",
        "Replaced, by the same name everywhere: hosts (host_1), users (user_1), GPU identifiers (GPU-0), other",
        "identifiers (id_1), paths (/path_1), addresses (address_1), and what looks like a secret (secret_1).",
        "Left out: logs, command lines, arguments and environment of commands, what programs of the user",
        "printed, process names. Kept: names of studies, models, metrics, GPUs, kernels and software, where none",
        "of the above is in them.",
        *_left_out_lines(left_out),
    ]
    return "\n".join(lines) + "\n"


def _left_out_lines(left_out: dict[str, str]) -> list[str]:
    return [f"trace left out: {name} ({why})" for name, why in left_out.items()]
