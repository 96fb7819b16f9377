"""Allocator of a training: the memory of freed tensors stays in the process, until the work is done."""

import platform
import subprocess
import sys

import pytest

# A process of its own: the setting cannot be taken back.
PROGRAM = """
import ctypes
from distillation.training import allocator

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
library.malloc.restype = library.free.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
library.malloc.argtypes = [ctypes.c_size_t]

def mapped():
    "Return the bytes in blocks of their own with a block of 64 MiB, and those kept after it is freed."
    block = library.malloc(64 * 2**20)
    own = library.mallinfo2().hblkhd
    library.free(block)
    return own >= 64 * 2**20, library.mallinfo2().fordblks >= 64 * 2**20

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

print(*mapped())
allocator.keep_freed_memory()
print(*mapped())
block = library.malloc(256 * 2**20)
ctypes.memset(block, 1, 256 * 2**20)
library.free(block)
before = resident()
allocator.return_freed_memory()
print(before - resident() >= 250 * 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")
def test_a_freed_tensors_memory_is_kept_until_it_is_returned() -> None:
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, after, is_returned = made.stdout.splitlines()
    assert before == "True False"  # a block of its own, returned to the system
    assert after == "False True"
    assert is_returned == "True"
