"""What a program in a cell leaves: its result, or the named reason why there is none."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.storage import write_json
from bench.workload.failures import CRASHED, RunFailure, name_failure

Record = dict[str, Any]


def write_result(path: Path, measure: Callable[[], Record]) -> int:
    """Write what measure() returns, or the outcome of what it raised; the exit code, 0 or 3."""
    try:
        write_json(path, measure())
    except Exception as error:
        failure = name_failure(error)
        write_json(path, failure.record())
        if failure.status == CRASHED and not isinstance(error, RunFailure):
            # For the log of the run: what the record says in one line.
            traceback.print_exc()
        print(failure, file=sys.stderr)
        return failure.exit_code
    return 0
