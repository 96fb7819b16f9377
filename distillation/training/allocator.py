"""Setting of the C library's allocator for long computations on a CPU."""

import ctypes
import gc
import platform

# Parameters of mallopt(3).
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_MAX = -4
GROWTH = 256 * 2**20  # bytes by which the process asks the system for more memory


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors in this process; without effect where the C library is not glibc.

    glibc returns each block of more than 32 MiB to the system when it is freed, and the kernel then clears the pages of
    the next one: half the time of a VAE's pass for pictures of 256 × 256 pixels on two cores (docs/experiments.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, GROWTH)):
        library.mallopt(parameter, value)


def return_freed_memory() -> None:
    """Return the memory of freed tensors to the system, such as after the last work of a process that stays."""
    if platform.libc_ver()[0] == "glibc":
        gc.collect()  # networks are freed with their cycles
        ctypes.CDLL(None).malloc_trim(0)
