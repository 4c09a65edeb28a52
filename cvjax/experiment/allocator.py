"""The C library's allocator: by default it gives large arrays back to the system as soon as they are freed.

A training step on a CPU asks for the same arrays again and again, and each time the system has to find and clear new
pages for them, by one core: a fifth of the step of a ViT-S/16 of 8 images.
"""

import ctypes

# The GNU C library's <malloc.h>: what to keep at the end of the heap, in bytes; how many arrays may live outside of it;
# how many heaps there are, for those of other threads than the first are too small for arrays.
SETTINGS = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def keep_freed_memory() -> bool:
    """Tell the allocator to keep freed memory for the next array; False where it is not the GNU C library's.

    To be called before threads start. The environment variables MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
    MALLOC_ARENA_MAX=1 do the same for a program that does not call it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return all([mallopt(*setting) == 1 for setting in SETTINGS.values()])
