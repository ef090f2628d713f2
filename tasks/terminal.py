"""The terminal: lines, one live bar below them, and luigi's own words kept out of the way."""

import logging
import os
import sys
from contextlib import suppress
from functools import lru_cache
from typing import TextIO

import luigi
from luigi.cmdline_parser import CmdlineParser

_ERASE = "\r\x1b[K"
_BAR_CELLS = 12


class Terminal:
    """A stream for people. Only where it is a terminal, and this process is in its foreground, is there a bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar = ""
        self.live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        glyphs = ("█", "░") if "utf" in (stream.encoding or "").lower() else ("#", ".")
        self._full, self._empty = glyphs

    def line(self, text: str) -> None:
        self._write((_ERASE if self.live else "") + text + "\n")
        self._bar = ""

    def bar(self, share: float, left: str, middle: str, right: str) -> None:
        """One line that the next one replaces. The middle gives way, from its left, where the terminal is narrow."""
        if not self.live or not self._in_foreground():
            return
        full = round(min(max(share, 0.0), 1.0) * _BAR_CELLS)
        head = self._full * full + self._empty * (_BAR_CELLS - full) + f" {left}  "
        tail = f"  {right}" if right else ""
        room = self._columns() - 1 - len(head) - len(tail)
        if len(middle) > room:
            middle = "..." + middle[len(middle) - room + 3 :] if room > 3 else ""
        text = (head + middle + tail)[: self._columns() - 1]
        if text != self._bar:
            self._write(_ERASE + text)
            self._bar = text

    def clear(self) -> None:
        """Make room for whatever somebody else, in this process or another, is about to write."""
        if self.live and self._in_foreground():
            self._write(_ERASE)
            self._bar = ""

    def _columns(self) -> int:
        with suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        return 80

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except OSError:
            # A terminal that controls no session has no foreground.
            return True

    def _write(self, text: str) -> None:
        # A terminal that has gone away must not cost a measurement.
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def terminal() -> Terminal:
    """stderr, where progress belongs; stdout where only that is a terminal."""
    return _terminal_on(sys.stdout if sys.stdout.isatty() and not sys.stderr.isatty() else sys.stderr)


@lru_cache(maxsize=4)
def _terminal_on(stream: TextIO) -> Terminal:
    return Terminal(stream)


def hush_luigi() -> None:
    """Of luigi's own words show warnings, failures and the summary, unless its user asked for a log level."""
    logger = logging.getLogger("luigi-interface")
    if not any(isinstance(known, _Hush) for known in logger.filters):
        logger.addFilter(_Hush())


class _Hush(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        shown = record.levelno >= logging.WARNING or "Luigi Execution Summary" in str(record.msg) or log_level_given()
        if shown:
            terminal().clear()
        return shown


def log_level_given() -> bool:
    parser = CmdlineParser.get_instance()
    on_command_line = parser is not None and parser.known_args.core_log_level
    return bool(on_command_line) or luigi.configuration.get_config().has_option("core", "log_level")
