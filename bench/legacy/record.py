"""The small JSON record that every stage of a cell leaves, whatever became of it."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.errors import StudyError
from bench.shape import ANY, FLAG, NUMBER, TEXT, Each, Must, OneOf, misfit
from bench.storage import read_json, write_json

SCHEMA = 1

OK = "ok"
OOM = "oom"
TIMEOUT = "timeout"
CRASHED = "crashed"
BIND_FAILED = "bind_failed"
MISPLACED = "misplaced"
TRACE_FAILED = "trace_failed"
NOT_RUNNABLE = "not_runnable"
OUTCOMES = (OK, OOM, TIMEOUT, CRASHED, BIND_FAILED, MISPLACED, TRACE_FAILED, NOT_RUNNABLE)

# What the stages read of each other's records.
_SHAPE = {
    "status": Must(OneOf(OUTCOMES)), "invocation": TEXT, "reason": TEXT, "advice": TEXT,
    "started_at": TEXT, "result": Each(ANY), "monitor": Each(ANY), "wall_s": NUMBER, "by_grid": FLAG,
}  # fmt: skip

# A second try can help only where chance had a part.
RETRIED = frozenset({CRASHED, TRACE_FAILED})
# What ends one timed run in these ways ends the next one too; it is not waited for again.
LASTING = frozenset({OOM, TIMEOUT, BIND_FAILED})


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none that can be used: the stage is then done again."""
    try:
        record = read_json(path)
    except (OSError, StudyError):
        return None
    return None if misfit(record, _SHAPE) else record


def read_head(path: Path) -> dict[str, Any] | None:
    """The texts and numbers of a record, without what is nested; from memory while the file is the same.

    A study has thousands of records, and is asked often how far it is.
    """
    try:
        stamp = path.stat()
    except OSError:
        return None
    return _head(path, stamp.st_ino, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=200_000)
def _head(path: Path, _inode: int, _mtime_ns: int, _bytes: int) -> dict[str, Any] | None:
    record = read_record(path)
    return record and {key: value for key, value in record.items() if not isinstance(value, dict | list)}


def write_record(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    record = {"schema": SCHEMA, **record}
    write_json(path, record)
    return record


def is_final(record: dict[str, Any] | None, invocation: str) -> bool:
    """Whether the stage is not to be done again by this call of luigi: it went well, the grid says that it cannot run
    here, or it was tried by this call.

    What only a run found missing (free huge pages, say) may be there by the next call.
    """
    return record is not None and (
        record["status"] == OK or bool(record.get("by_grid")) or record.get("invocation") == invocation
    )


def failure(status: str, reason: str, advice: str = "") -> dict[str, Any]:
    return {"status": status, "reason": reason, "advice": advice}


def passed_on(record: dict[str, Any]) -> dict[str, Any]:
    """What a later stage takes over of the record of a stage that failed."""
    kept = {"by_grid": True} if record.get("by_grid") else {}
    return failure(record["status"], record.get("reason") or "", record.get("advice") or "") | kept
