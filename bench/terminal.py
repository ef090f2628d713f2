"""Text for people on stdout: names that others chose move no cursor, and no stream costs a measurement."""

import io
import os
import re
import sys
import textwrap
from contextlib import suppress
from typing import Any

from bench.errors import StudyError

# Control characters, and those that change the direction of text. Lines and columns stay.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """With control characters written as \\x1b."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class _Unfailing(io.FileIO):
    """What cannot be written is lost."""

    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            # None from a pipe that is full and does not block.
            if written := super().write(data):
                return written
        return memoryview(data).nbytes


def prepare_streams() -> None:
    """Replace closed streams by /dev/null, and write what an encoding lacks as \\u2013.

    stderr loses what it cannot take (a full disk, a reader that has ended): a message changes no exit code.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # Also the descriptor: the next file to be opened would take its number, and receive what children print.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if (stderr := sys.__stderr__) and sys.stderr is stderr:
        unfailing = io.BufferedWriter(_Unfailing(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(unfailing, stderr.encoding, "backslashreplace", line_buffering=True)


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 80 columns; numbers stay with their units (bench.units joins them)."""
    return textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def show_sentences(text: str) -> None:
    """As show(); a terminal gets long lines broken between words, but indented ones whole: they may be pasted."""
    lines = [line if line.startswith(" ") else wrapped(line) for line in text.split("\n")]
    show("\n".join(lines) if sys.stdout.isatty() else text)


def show(text: str) -> None:
    """Print on stdout. Raise BrokenPipeError, or StudyError if stdout cannot take it."""
    try:
        print(visible(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_the_rest()
        raise StudyError(f"cannot print: {error.strerror}", "standard output", "print to another place") from None


def show_anyhow(text: str) -> None:
    """Print on stdout, else on stderr, else nowhere: what was measured is in files."""
    try:
        show(text)
    except (OSError, StudyError):
        _drop_the_rest()
        with suppress(OSError):
            print(visible(text), file=sys.stderr, flush=True)


def _drop_the_rest() -> None:
    """Python would try once more at its end to write what is in the buffer, and fail."""
    with suppress(OSError, ValueError):
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, sys.stdout.fileno())
        os.close(opened)
