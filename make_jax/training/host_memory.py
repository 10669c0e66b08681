"""What XLA frees on the CPU after a step it needs again in the next."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed instead of giving it back; whether this C library can be told so.

    glibc gives large blocks back to the kernel at once, and a step's temporaries, hundreds of megabytes, would come
    back as fresh pages one fault at a time: a fifth of the time of a step of small towers.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    told = [mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _LARGEST), mallopt(_M_TOP_PAD, 64 << 20)]
    return all(told)
