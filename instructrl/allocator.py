"""The C library's allocator, which by default returns the large buffers of each training step to the kernel.

XLA's CPU programs ask for their buffers anew in every step, hundreds of megabytes. glibc maps such a request and unmaps
it when it is freed, so that the kernel has to clear every page of it again: a quarter of a quickstart's time.
"""

import ctypes

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)
NEVER = -1  # as a threshold: the largest number


def share_arena() -> None:
    """Let all threads of this process allocate from one arena; call it before the first thread starts.

    glibc gives a new thread an arena of its own, which serves large requests by mmap whatever `keep_freed_memory` asks
    for. Once such an arena exists, later threads may be assigned it too.
    """
    _set({ARENA_MAX: 1})


def keep_freed_memory() -> bool:
    """Keep memory that is freed for this process's next requests; return False for an allocator without such settings.

    In threads it holds if `share_arena` was called before the first of them.
    """
    return _set({ARENA_MAX: 1, MMAP_MAX: 0, TRIM_THRESHOLD: NEVER})


def _set(parameters: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt  # glibc's
    except AttributeError:
        return False
    accepted = [mallopt(parameter, value) for parameter, value in parameters.items()]
    return all(accepted)
