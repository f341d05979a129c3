"""The C library's allocator, which by default returns the large buffers of each training step to the kernel.

XLA's CPU programs ask for their buffers anew in every step, hundreds of megabytes. glibc maps such a request and unmaps
it when it is freed, so that the kernel has to clear every page of it again: a quarter of a quickstart's time.
"""

import ctypes

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)
NEVER = -1  # as a threshold: the largest number


def keep_freed_memory() -> bool:
    """Keep memory that is freed for this process's next requests; return False for an allocator without such settings.

    Threads that start later share one arena: one of their own is too small for large requests, and maps them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt  # glibc's
    except AttributeError:
        return False
    return all([mallopt(ARENA_MAX, 1), mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, NEVER)])
