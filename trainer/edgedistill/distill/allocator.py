"""The C library's memory, kept between the steps of a training."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Let glibc keep what is freed.  Elsewhere, or where the environment tunes malloc, do nothing.

    As it comes, it gives each large tensor back to the kernel when it is freed, and the next step
    faults the same pages in again: more than half of a convolutional step's processor time
    (docs/decisions/0013-memory-kept-between-steps.md).
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
