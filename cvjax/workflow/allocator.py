"""The C library's allocator: by default it gives large arrays back to the system as soon as they are freed.

A training step on a CPU asks for the same arrays again and again. Each time the system finds and clears new pages for
them, on one core. This takes a fifth of a ViT-S/16's step with 8 images.
"""

import ctypes

# The GNU C library's <malloc.h>: the free bytes kept at the end of the heap; how many arrays may live outside of it;
# the number of heaps. There is one heap, because the heaps of further threads are too small for arrays.
SETTINGS = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def keep_freed_memory() -> bool:
    """Tell the allocator to keep freed memory for the next array; False where it is not the GNU C library's.

    Call it before threads start. The environment variables MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
    MALLOC_ARENA_MAX=1 do the same for a program that does not call it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return all([mallopt(*setting) == 1 for setting in SETTINGS.values()])
