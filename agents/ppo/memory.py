"""Keep freed memory: training frees and asks for the same few megabytes thousands of times."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Tell glibc's allocator not to give large blocks back to the system.

    By default a tensor of a few megabytes is mapped afresh each time, and touching its new pages
    takes longer than the arithmetic (a minibatch forth and back: 22 ms, with this 16 ms).

    Returns
    -------
    bool
        Whether the C library took the settings; other ones than glibc's are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 28))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
