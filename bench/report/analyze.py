"""What `numastudy analyze` prints of traces: JSON for programs, or text."""

import json
import sys
from pathlib import Path
from typing import Any

from bench.records.base import plain
from bench.report.text.traces import analysis_text, trace_remark_text
from bench.terminal import show, visible
from bench.trace.analyze import Analysis, Broken, analyze_file, analyze_folder

EXIT_FAILED = 2


def analyze_command(path: Path, as_json: bool, range_name: str | None = None) -> int:
    """Print to stdout, errors of single traces to stderr; return the exit code."""
    found = analyze_folder(path, range_name) if path.is_dir() else [analyze_file(path, range_name=range_name)]
    broken = [one for one in found if isinstance(one, Broken)]
    if as_json:
        rows = [_as_json(one) for one in found]
        show(json.dumps(rows if path.is_dir() else rows[0], indent=1, allow_nan=False))
    else:
        show("\n\n".join(analysis_text(one.metrics) for one in found if isinstance(one, Analysis)))
    for one in broken:
        print(visible(f"{one.name}: {one.error}\n  to do: {one.advice}"), file=sys.stderr)
    return EXIT_FAILED if broken else 0


def _as_json(found: Analysis | Broken) -> dict[str, Any]:
    if isinstance(found, Broken):
        return dict(plain(found))
    remarks = [{**plain(remark), "text": trace_remark_text(remark)} for remark in found.metrics.remarks]
    return {**plain(found.metrics), "remarks": remarks, "per_batch": plain(found.per_batch)}
