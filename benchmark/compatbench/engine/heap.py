"""Keeps what was freed: a step of training asks for the same memory again and again."""

from __future__ import annotations

import ctypes
from functools import lru_cache

# glibc's names of its settings, of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

LARGEST_BLOCK = 32 * 2**20
"""Blocks up to this come from the heap; glibc takes no larger value."""

MOST_KEPT = 512 * 2**20
"""Bytes at the end of the heap that are not given back to the system."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Lets this process reuse large freed blocks instead of returning them to the system.

    Every page that the system hands out anew is cleared first, which cost a fit with large
    batches a sixth of its time. Small processes stay small: nothing is reserved.

    Returns:
        Whether the C library could be told; only glibc can.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    blocks = set_option(_MMAP_THRESHOLD, LARGEST_BLOCK)
    return bool(blocks and set_option(_TRIM_THRESHOLD, MOST_KEPT))
