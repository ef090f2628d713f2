"""Ports for servers that tests start.

They lie below those that Linux gives to clients (ip_local_port_range), so that no connection of another test takes one
before its server does. Each process of pytest-xdist has a range of its own, and gives each port away once.
"""

import itertools
import os
import socket
from collections.abc import Iterator

_LOWEST, _HIGHEST, _PER_WORKER = 10_000, 30_000, 2_000


def _candidates() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _LOWEST + (worker * _PER_WORKER) % (_HIGHEST - _LOWEST)
    # Another pytest on this machine, which has the same ranges, begins elsewhere in them.
    begin = os.getpid() * 37 % _PER_WORKER
    return itertools.cycle(first + (begin + number) % _PER_WORKER for number in range(_PER_WORKER))


_PORTS = _candidates()


def free_port() -> int:
    """Of the loopback, free now."""
    for port in itertools.islice(_PORTS, _PER_WORKER):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
