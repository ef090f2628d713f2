"""Run a command as a strict container would: some system calls answer EPERM, by a real seccomp filter (x86-64).

usage: python forbid.py NUMBER[,NUMBER...] COMMAND...
"""

import ctypes
import os
import struct
import sys

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1

CALLS = {"mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "move_pages": 279, "sched_setaffinity": 203}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def forbid(numbers: list[int]) -> None:
    code = struct.pack("HBBI", _LOAD_NUMBER, 0, 0, 0)
    for number in numbers:
        code += struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, number) + struct.pack("HBBI", _RETURN, 0, 0, _EPERM)
    code += struct.pack("HBBI", _RETURN, 0, 0, _ALLOW)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    forbid([CALLS[name] for name in sys.argv[1].split(",")])
    os.execvp(sys.argv[2], sys.argv[2:])
