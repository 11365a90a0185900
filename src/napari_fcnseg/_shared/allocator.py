"""Keep glibc from handing large blocks back to the kernel after each use.

A network frees and allocates activations of hundreds of megabytes for every
tile; by default each goes back to the kernel and is faulted in again page by
page, which takes half the time of large tiles on a CPU.
"""

from __future__ import annotations

import ctypes
import functools
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@functools.cache
def tune_allocator() -> bool:
    """Keep freed memory in the process; return whether this system allows it (glibc only)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 << 20))
    accepted = [bool(libc.mallopt(option, value)) for option, value in settings]
    return all(accepted)
