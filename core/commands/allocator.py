"""Let glibc keep the memory of a network's activations between forward passes.

Above a threshold glibc maps each block anew and returns it when it is freed: the page faults of
large activations then cost more than the arithmetic. Only our own commands change this; an import
of the package must not.
"""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def physical_memory() -> int:
    """Bytes of this machine's memory; where it does not say, what is never short."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def keep_freed_memory() -> bool:
    """Raise the thresholds of this process's allocator.

    Returns:
        Whether that was done: only glibc has them.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20}
    done = [libc.mallopt(name, value) for name, value in settings.items()]
    return all(done)
