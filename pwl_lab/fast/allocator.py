"""Keep freed memory for the next step instead of returning it to the system."""

import ctypes

from pwl_lab.fast import is_plain

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_BLOCK = 2**30, 2**25


def keep_freed_memory() -> bool:
    """Make malloc keep freed blocks of up to 32 MiB, at most 1 GiB in total; return whether it does.

    Every training step frees and allocates the same few arrays. By default glibc returns them to the system each time,
    and touching them again costs a page fault per 4 KiB: about a sixth of the step for a wide MLP. Results do not
    change. Inside `plain()`, and if the system's malloc does not support it, this does nothing.
    """
    if is_plain():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
