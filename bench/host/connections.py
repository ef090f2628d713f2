"""Which local user is at the other end of a connection over loopback, as the kernel lists it."""

import ipaddress
import os
import re
import sys
from collections.abc import Iterator

_ESTABLISHED, _LISTENING = "01", "0A"
# What a program or a page names in a request that it sends to a server on loopback.
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
# The version of IP by file, and IPv4 written as IPv6.
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_MAPPED = "::ffff:"

Address = tuple[str, int]


def user_of_client(client: Address, server: Address) -> int | None:
    """The uid of the process whose socket is `client`, connected to `server`; None if it cannot be determined.

    Only of a connection that is open at both ends: the kernel lists a socket that its process has closed as root's.
    """
    for table, mapped in zip(_TABLES, ("", _MAPPED), strict=True):
        ends = [_as_listed((mapped + host, port)) for host, port in (client, server)]
        for line in _lines(table):
            fields = line.split()
            if fields[1:3] == ends and fields[3] == _ESTABLISHED:
                return int(fields[7])
    return None


def is_own_user(client: Address, server: Address) -> bool:
    """Whether the client runs as the user of this process, or as root."""
    return user_of_client(client, server) in (0, os.geteuid())


def listens_as_own_user(port: int) -> bool:
    """Whether something listens on this port, and only processes of this user, or of root."""
    users = set()
    for table in _TABLES:
        for fields in map(str.split, _lines(table)):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                users.add(int(fields[7]))
    return bool(users) and users <= {0, os.geteuid()}


def _as_listed(address: Address) -> str:
    """Words of four bytes, each in the byte order of the host, in hexadecimal."""
    host, port = address
    packed = ipaddress.ip_address(host).packed
    words = [int.from_bytes(packed[start : start + 4], sys.byteorder) for start in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _lines(table: str) -> Iterator[str]:
    try:
        with open(table) as file:
            next(file, "")
            yield from file
    except OSError:
        # Without IPv6, or without /proc.
        return
