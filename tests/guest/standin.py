"""A stand-in for the measured process: two buffers, some batches and the real Certifier.

Needs the standard library and msgspec only.

usage: python3 tests/guest/standin.py CELL_JSON [SABOTAGE]      prints the certificate
The sabotage happens in the middle of the window, except "mbind elsewhere", before the buffers are touched.
"""

import ctypes
import json
import mmap
import os
import sys
from array import array

import msgspec

from bench.host.certificate import Certifier
from bench.records.base import convert
from bench.records.host import parse_cpulist
from bench.records.run import Certificate
from bench.records.study import Cell

BUFFER_BYTES = 4 << 20
BATCHES = 20
_libc = ctypes.CDLL(None, use_errno=True)
_MBIND, _SET_MEMPOLICY, _MOVE_PAGES = 237, 238, 279  # x86-64
_BIND = 2
REST_OF_CELL = {
    "name": "standin",
    "gpu": 0,
    "model": {"patch_size": 0, "depth": 0, "dim": 0, "heads": 0},
    "device": "cpu",
    "profiler": "torch",
}


def main(cell: dict, sabotage: str) -> Certificate:
    size = cell.get("buffer_bytes", BUFFER_BYTES)
    memory = {
        # Anonymous private memory is what malloc gives; shared is what cudaHostAlloc pins (/dev/zero).
        "private": mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
        "shared": mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    }
    buffers = {name: (ctypes.addressof(ctypes.c_char.from_buffer(buffer)), size) for name, buffer in memory.items()}
    if sabotage == "mbind elsewhere":
        mbind(*buffers["shared"], other_node(cell["mem_node"]))
    for address, nbytes in buffers.values():
        ctypes.memset(address, 1, nbytes)
    certifier = Certifier(convert(REST_OF_CELL | cell, Cell), buffers)
    certifier.start()
    for batch in range(BATCHES):
        if batch == BATCHES // 2:
            commit(sabotage, cell, buffers)
        certifier.see_cpu()
        ctypes.memmove(buffers["private"][0], buffers["shared"][0], 65536)
        if batch == BATCHES // 2 + 3 and sabotage == "main thread away for three batches":
            os.sched_setaffinity(0, cpus_of(cell["cpu_node"]))
    return certifier.finish()


def commit(sabotage: str, cell: dict, buffers: dict[str, tuple[int, int]]) -> None:
    elsewhere = other_node(cell["mem_node"])
    if sabotage in ("main thread moved", "main thread away for three batches"):
        os.sched_setaffinity(0, cpus_of(other_cpu_node(cell["cpu_node"])))
    elif sabotage == "helper thread moved":
        import threading

        started, release = threading.Event(), threading.Event()

        def wander() -> None:
            os.sched_setaffinity(0, cpus_of(other_cpu_node(cell["cpu_node"])))
            started.set()
            release.wait()

        threading.Thread(target=wander, daemon=True).start()
        started.wait()
    elif sabotage == "private buffer migrated":
        move(*buffers["private"], elsewhere)
    elif sabotage == "shared buffer migrated":
        move(*buffers["shared"], elsewhere)
    elif sabotage == "one page migrated":
        move(buffers["private"][0] + 512 * mmap.PAGESIZE, mmap.PAGESIZE, elsewhere)
    elif sabotage == "policy dropped":
        check("set_mempolicy", _libc.syscall(_SET_MEMPOLICY, 0, None, 0))
    elif sabotage == "migrated from outside":
        print("ready", flush=True)
        sys.stdin.readline()


def move(address: int, nbytes: int, node: int) -> None:
    pages = array("Q", range(address, address + nbytes, mmap.PAGESIZE))
    nodes, status = array("i", [node] * len(pages)), array("i", [-1] * len(pages))
    where = [ctypes.c_void_p(list_.buffer_info()[0]) for list_ in (pages, nodes, status)]
    # A page that was just touched may be busy (-16); some moved ones are sabotage enough.
    while node not in status:
        check("move_pages", _libc.syscall(_MOVE_PAGES, 0, ctypes.c_ulong(len(pages)), *where, 2))


def mbind(address: int, nbytes: int, node: int) -> None:
    mask = ctypes.c_ulong(1 << node)
    length = ctypes.c_ulong(nbytes)
    where = ctypes.c_void_p(address)
    check("mbind", _libc.syscall(_MBIND, where, length, _BIND, ctypes.byref(mask), ctypes.c_ulong(64), 0))


def check(name: str, result: int) -> None:
    if result != 0:
        raise SystemExit(f"{name}: {os.strerror(ctypes.get_errno())}")


def other_node(node: int) -> int:
    return (node + 1) % 4


def other_cpu_node(node: int) -> int:
    return (node + 1) % 3


def cpus_of(node: int) -> set[int]:
    with open(f"/sys/devices/system/node/node{node}/cpulist") as file:
        return set(parse_cpulist(file.read()))


if __name__ == "__main__":
    certificate = main(json.loads(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
    print(msgspec.json.encode(certificate).decode())
