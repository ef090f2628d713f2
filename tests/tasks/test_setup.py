"""What of a failing task reaches the terminal."""

import logging
import sys

import pytest
from luigi.rpc import RPCError
from luigi.worker import TaskException

from bench.errors import StudyError
from tasks.luigi_runtime import _PlainErrors


def logged(error: BaseException) -> str:
    """As luigi logs a task that raised this."""
    try:
        raise error
    except BaseException:
        record = logging.LogRecord("luigi-interface", logging.ERROR, "f", 1, "failed", None, sys.exc_info())
    assert _PlainErrors().filter(record)
    return logging.Formatter().format(record)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StudyError("so it is", "here", "do that"), "failed: so it is\n  where: here\n  to do: do that"),
        (OSError(116, "Stale file handle", "/out/grid.json"), "failed: Stale file handle\n  where: /out/grid.json"),
        (OSError(28, "No space left on device"), "failed: No space left on device\n  to do: mend"),
        (
            ConnectionAbortedError(103, "Software caused connection abort", "/out/cells/a.json"),
            "failed: Software caused connection abort\n  where: /out/cells/a.json\n  to do: mend",
        ),
        (
            ConnectionAbortedError(103, "Software caused connection abort"),
            "failed: Software caused connection abort\n  to do: mend",
        ),
        (
            RPCError("Errors (3 attempts) when connecting", OSError()),
            "failed: Errors (3 attempts) when connecting\n  to do",
        ),
        (TaskException("complete() is still returning false."), "failed: complete() is still returning false."),
        (RuntimeError("Unfulfilled dependency at run time: it"), "failed: Unfulfilled dependency at run time: it"),
    ],
)
def test_what_is_known_to_happen_is_told_without_a_traceback(error: BaseException, words: str) -> None:
    said = logged(error)
    assert said.startswith(words) and "Traceback" not in said


def test_a_warning_that_asks_for_a_traceback_where_there_is_none_is_its_words_alone() -> None:
    record = logging.LogRecord("luigi-interface", logging.WARNING, "f", 1, "failed", None, (None, None, None))
    assert _PlainErrors().filter(record)
    assert logging.Formatter().format(record) == "failed"


@pytest.mark.parametrize(
    "error",
    [ValueError("nobody foresaw it"), OSError("none"), ConnectionResetError(104, "reset"), RuntimeError("a bug")],
)
def test_a_bug_keeps_its_traceback(error: BaseException) -> None:
    assert "Traceback" in logged(error)
