"""A foreign process: it places its threads and its memory in one of TREES' ways, prints READY and waits.

usage: python3 tests/guest/foreign.py KIND NEAR FAR MIB      needs the standard library only
It is started bound to node NEAR, except where UNBOUND names it.
"""

import ctypes
import mmap
import os
import sys
import threading
import time

HONEST = ("honest", "threads", "children", "dev shm", "policy dropped later", "little elsewhere")
SABOTAGED = (
    *("pool before affinity", "one thread bound late", "pool elsewhere", "fork before binding", "preferred spilled"),
    *("interleaved", "memfd elsewhere", "dev shm elsewhere", "moved afterwards", "grandchild with a session"),
    *("orphan", "hopping thread", "transparent huge pages elsewhere", "hugetlb elsewhere"),
)
UNBOUND = ("pool before affinity", "one thread bound late", "fork before binding")
CPUS_ONLY = ("preferred spilled",)

_SET_MEMPOLICY, _MOVE_PAGES = 238, 279  # x86-64
_DEFAULT, _PREFERRED, _BIND, _INTERLEAVE = range(4)
_MADV_HUGEPAGE, _MAP_HUGETLB = 14, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[mmap.mmap] = []
# Each child and thread that has touched its memory writes a byte.
_reading, _writing = os.pipe()


def touch(memory: mmap.mmap, step: int = mmap.PAGESIZE) -> None:
    for offset in range(0, len(memory), step):
        memory[offset] = 1
    _kept.append(memory)


def anonymous(mib: int, flags: int = mmap.MAP_PRIVATE) -> mmap.mmap:
    """MAP_SHARED: the mapping is of /dev/zero, as cudaHostAlloc's."""
    memory = mmap.mmap(-1, mib << 20, flags=flags | mmap.MAP_ANONYMOUS)
    touch(memory)
    return memory


def huge(mib: int, hugetlb: bool) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_MAP_HUGETLB if hugetlb else 0)
    memory = mmap.mmap(-1, mib << 20, flags=flags)
    if not hugetlb:
        memory.madvise(_MADV_HUGEPAGE)
    touch(memory, 2 << 20 if hugetlb else mmap.PAGESIZE)


def memfd(mib: int) -> None:
    file = os.memfd_create("pool")
    os.ftruncate(file, mib << 20)
    touch(mmap.mmap(file, mib << 20))


def dev_shm(mib: int) -> None:
    path = f"/dev/shm/foreign-{os.getpid()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    os.ftruncate(file, mib << 20)
    touch(mmap.mmap(file, mib << 20))


def policy(mode: int, *nodes: int) -> None:
    mask = ctypes.c_ulong(sum(1 << node for node in nodes))
    if _libc.syscall(_SET_MEMPOLICY, mode, ctypes.byref(mask) if nodes else None, ctypes.c_ulong(64 if nodes else 0)):
        raise OSError(ctypes.get_errno(), "set_mempolicy")


def cpus(*nodes: int) -> set[int]:
    found = set()
    for node in nodes:
        with open(f"/sys/devices/system/node/node{node}/cpulist") as file:
            for part in file.read().strip().split(","):
                first, _, last = part.partition("-")
                found |= set(range(int(first), int(last or first) + 1))
    return found


def move(memory: mmap.mmap, node: int) -> None:
    count = len(memory) // mmap.PAGESIZE
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pages = (ctypes.c_void_p * count)(*range(first, first + len(memory), mmap.PAGESIZE))
    nodes, states = (ctypes.c_int * count)(*[node] * count), (ctypes.c_int * count)()
    _libc.syscall(_MOVE_PAGES, 0, ctypes.c_ulong(count), pages, nodes, states, 2)


def waiting_threads(count: int) -> None:
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def wait_on(node: int, mib: int) -> None:
    """What a process does that was started for another node."""
    os.sched_setaffinity(0, cpus(node))
    policy(_BIND, node)
    settle(mib)


def settle(mib: int) -> None:
    """Of a child or a thread: its memory, and no end."""
    anonymous(mib)
    os.write(_writing, b".")
    time.sleep(600)


def place(kind: str, near: int, far: int, mib: int) -> int:
    """The number of children and threads that settle() beside this process."""
    if kind == "honest":
        anonymous(mib)
        anonymous(mib, mmap.MAP_SHARED)
    elif kind == "threads":
        waiting_threads(6)
        anonymous(mib, mmap.MAP_SHARED)
    elif kind == "children":
        anonymous(mib)
        for _ in range(2):
            if os.fork() == 0:
                settle(mib)
        return 2
    elif kind == "dev shm":
        dev_shm(mib)
    elif kind == "policy dropped later":
        anonymous(mib)
        policy(_DEFAULT)
    elif kind == "little elsewhere":
        policy(_BIND, far)
        anonymous(2)
        policy(_BIND, near)
        anonymous(mib)
    elif kind == "pool before affinity":
        os.sched_setaffinity(0, cpus(far))
        anonymous(mib)
        os.sched_setaffinity(0, cpus(near))
    elif kind == "one thread bound late":
        os.sched_setaffinity(0, cpus(near, far))
        waiting_threads(4)
        os.sched_setaffinity(0, cpus(near))
        anonymous(mib)
    elif kind == "fork before binding":
        os.sched_setaffinity(0, cpus(near, far))
        if os.fork() == 0:
            os.sched_setaffinity(0, cpus(far))
            settle(mib)
        os.sched_setaffinity(0, cpus(near))
        policy(_BIND, near)
        anonymous(mib)
        return 1
    elif kind == "preferred spilled":
        policy(_PREFERRED, near)
        anonymous(mib)
    elif kind == "interleaved":
        policy(_INTERLEAVE, near, far)
        anonymous(mib)
    elif kind == "moved afterwards":
        move(anonymous(mib), far)
    elif kind == "grandchild with a session":
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                wait_on(far, mib)
            time.sleep(600)
        return 1
    elif kind == "orphan":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                wait_on(far, mib)
            os._exit(0)
        os.wait()
        return 1
    elif kind == "hopping thread":
        anonymous(mib)
        threading.Thread(target=wait_on, args=(far, 1), daemon=True).start()
        return 1
    else:
        policy(_BIND, far)
        allocate = {
            "pool elsewhere": lambda: anonymous(mib, mmap.MAP_SHARED),
            "memfd elsewhere": lambda: memfd(mib),
            "dev shm elsewhere": lambda: dev_shm(mib),
            "transparent huge pages elsewhere": lambda: huge(mib, hugetlb=False),
            "hugetlb elsewhere": lambda: huge(mib, hugetlb=True),
        }[kind]
        allocate()
        policy(_BIND, near)
    return 0


if __name__ == "__main__":
    for _ in range(place(sys.argv[1], *map(int, sys.argv[2:]))):
        os.read(_reading, 1)
    print("READY", flush=True)
    time.sleep(600)
