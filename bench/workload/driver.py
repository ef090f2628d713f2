"""What of the CUDA driver torch does not offer: registering memory, and write-combined memory.

Called on torch's own context, which is current where torch has used the GPU.
"""

import ctypes
import mmap
import weakref
from functools import cache

import torch

from bench.workload.failures import CRASHED, LESS_MEMORY, OOM, RunFailure

PORTABLE, WRITE_COMBINED = 1, 4
"""CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTALLOC_WRITECOMBINED (cuda.h); the first is CU_MEMHOSTREGISTER_PORTABLE too."""
OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY"""


def register(memory: torch.Tensor) -> None:
    """Pin page-aligned memory of this process as it lies (cuMemHostRegister). Raise RunFailure: oom or crashed."""
    # Whole pages, as earlier drivers ask for: the rest of the last page is the mapping's too.
    length = -(-memory.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    _call("cuMemHostRegister_v2", ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(length), PORTABLE)


def unregister(address: int) -> None:
    _driver().cuMemHostUnregister(ctypes.c_void_p(address))


def write_combined(nbytes: int) -> torch.Tensor:
    """nbytes of pinned memory that the CPU's caches do not hold. Raise RunFailure: oom or crashed."""
    where = ctypes.c_void_p()
    _call("cuMemHostAlloc", ctypes.byref(where), ctypes.c_size_t(nbytes), PORTABLE | WRITE_COMBINED)
    owner = (ctypes.c_ubyte * nbytes).from_address(where.value)
    weakref.finalize(owner, _driver().cuMemFreeHost, where).atexit = False
    return torch.frombuffer(owner, dtype=torch.uint8)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: object) -> None:
    error = getattr(_driver(), name)(*arguments)
    if not error:
        return
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(error, ctypes.byref(text))
    words = f"{name}: {(text.value or b'unknown error').decode()} ({error})"
    if error == OUT_OF_MEMORY:
        raise RunFailure(OOM, words, LESS_MEMORY)
    raise RunFailure(CRASHED, words, "set host_memory to pinned")
