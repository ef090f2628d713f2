"""The kinds of host memory that copies start from and end in (setting host_memory).

pinned          torch's: cudaHostAlloc; rounded up to a power of two
pageable        normal memory: CUDA stages it through a buffer of its own, and the call returns when it is done
write-combined  cudaHostAlloc with that flag, for the copy in only: the CPU reads it very slowly, so outputs are pinned
registered      normal page-aligned memory, pinned where it lies (cudaHostRegister)
huge            the same in transparent huge pages; a run that does not get them is not_runnable

On the cpu device pinned and pageable are normal memory, huge is huge, and the others cannot be run (cell.py).
"""

from math import prod
from typing import Any

import torch

from bench.workload import driver
from bench.workload.devices import Device
from bench.workload.mapped import huge_bytes, huge_page_bytes, map_huge, map_memory

STAGED = (
    "pageable memory: every copy is staged through a buffer of CUDA's and holds the CPU until it is done, "
    "so copies do not run ahead and hardly overlap"
)
WRITE_COMBINED = "write-combined memory is for the copy in; outputs are pinned, since the CPU would read it very slowly"
PLAIN = "the cpu device copies normal memory: there is no GPU to pin it for"


class HostMemory:
    """Buffers of one kind. `kind`: pinned, pageable, write-combined, registered, huge."""

    def __init__(self, kind: str, device: Device) -> None:
        self.kind = kind
        self._cuda = device.torch_device.type == "cuda"

    def inputs(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """To copy from. Raise RunFailure where this kind cannot be had."""
        return self._buffer(self.kind, shape, dtype)

    def outputs(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """To copy to. Raise RunFailure where this kind cannot be had."""
        return self._buffer(self._output_kind, shape, dtype)

    def taken_bytes(self, nbytes: int) -> int:
        """What a buffer of nbytes takes of the host."""
        if self.kind == "huge":
            page = huge_page_bytes()
            return -(-nbytes // page) * page
        if self._cuda and self.kind == "pinned":
            # torch rounds pinned blocks up to a power of two (CachingHostAllocator).
            return 1 << max(0, nbytes - 1).bit_length()
        return nbytes

    def describe(self, inputs: torch.Tensor | None, outputs: torch.Tensor | None) -> dict[str, Any]:
        """For the result: kinds of both sides, whether copies wait for the CPU, and what lies in huge pages.

        huge_pages: bytes of normal memory by side; None where there is no such buffer, or it is CUDA's own memory.
        """
        sides = {"inputs": (self.kind, inputs), "outputs": (self._output_kind, outputs)}
        huge = {side: self._in_huge_pages(*buffer) for side, buffer in sides.items()}
        notes = {"pageable": STAGED, "write-combined": WRITE_COMBINED}
        note = notes.get(self.kind, "") if self._cuda else PLAIN
        return {
            "kind": self.kind,
            "inputs": self.kind,
            "outputs": self._output_kind,
            "synchronous_copies": not self._cuda or self.kind == "pageable",
            "huge_pages": huge,
            "note": note,
        }

    def _in_huge_pages(self, kind: str, buffer: torch.Tensor | None) -> int | None:
        if buffer is None or (self._cuda and kind in ("pinned", "write-combined")):
            return None
        return huge_bytes(buffer.data_ptr(), buffer.nbytes)

    @property
    def _output_kind(self) -> str:
        return "pinned" if self.kind == "write-combined" else self.kind

    def _buffer(self, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if kind in ("pinned", "pageable"):
            return torch.empty(shape, dtype=dtype, pin_memory=self._cuda and kind == "pinned")
        return self._flat(kind, prod(shape) * dtype.itemsize).view(dtype).view(shape)

    def _flat(self, kind: str, nbytes: int) -> torch.Tensor:
        if kind == "write-combined":
            return driver.write_combined(nbytes)
        release = driver.unregister if self._cuda else None
        memory = map_huge(nbytes, release) if kind == "huge" else map_memory(nbytes, on_release=release)
        if self._cuda:
            driver.register(memory)
        return memory
