"""Keep freed memory for the next step instead of giving it back to the system."""

import ctypes

from pwl_lab.fast import is_plain

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_BLOCK = 2**30, 2**25


def keep_freed_memory() -> bool:
    """Let malloc hold on to freed blocks of up to 32 MiB, 1 GiB of them at most; whether it does.

    Every training step frees and asks again for the same few arrays. By default glibc returns them to the system each
    time, and touching them anew costs a page fault per 4 KiB: for a wide MLP about a sixth of the step. Results are the same.
    Inside `plain()`, and where the system's malloc cannot, nothing is changed.
    """
    if is_plain():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
