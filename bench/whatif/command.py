"""`numastudy whatif`: from a file to the answer and the exit code."""

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from bench.errors import TraceError
from bench.records.whatif import Decision, WhatIf
from bench.trace.analyze import as_export
from bench.trace.export import Export, open_export
from bench.trace.window import literal, named_ranges
from bench.whatif.answer import Interval
from bench.whatif.answer import whatif as answer
from bench.whatif.program import Program
from bench.whatif.read import read_program
from bench.whatif.text import decision_text, gpu_text

EXIT_CODES = {Decision.CANNOT_MATTER: 0, Decision.CAN_MATTER: 3, Decision.UNKNOWN: 4}


@dataclass(frozen=True)
class Request:
    """nvtx: the name of a range. begin_ms, end_ms: since the first event. untraced_ms: of the same part of the program
    without the profiler."""

    nvtx: str | None = None
    begin_ms: float | None = None
    end_ms: float | None = None
    untraced_ms: float | None = None


def whatif(path: Path, request: Request) -> tuple[WhatIf, int]:
    """(the answer, the exit code). Raise TraceError for what is no trace of a GPU."""
    with as_export(path) as plain, open_export(plain, path) as export:
        program = read_program(export)
        inside = _inside(export, program, request)
        try:
            found = answer(program, path.name, export.tool, inside, request.untraced_ms)
        except ValueError as error:
            raise TraceError(str(error), str(path), "choose another part of the trace") from None
    gpus = tuple(replace(gpu, text=gpu_text(gpu, found)) for gpu in found.gpus)
    found = replace(found, gpus=gpus)
    return replace(found, text=decision_text(found)), EXIT_CODES[found.decision]


def _inside(export: Export, program: Program, request: Request) -> Interval:
    """The ranges of that name from the first begin to the last end, or the times."""
    if request.nvtx is None:
        begin, end = request.begin_ms, request.end_ms
        return Interval(None if begin is None else begin * 1e6, None if end is None else end * 1e6)
    found = [row for row in named_ranges(export, literal(request.nvtx)) if row[1] is not None]
    if not found:
        export.fail(f"no range {request.nvtx} in this trace", "name a range that the program opens and closes")
    begin_ns, end_ns = min(row[0] for row in found), max(row[1] for row in found)
    return Interval(begin_ns - program.first_ns, end_ns - program.first_ns)
