"""Keeps memory that has been freed for what comes next, instead of handing it back to the system.

A network unrolled over hundreds of steps frees its states after every training step and needs as
much again for the next. glibc returns such large pieces to the system each time, which then clears
every page anew: a fifth to a half of the time of a step, where it was measured.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells the whole process's malloc to keep what is freed; whether it could be told.

    The process then stays about as large as it has ever been. `rnnopt train` and `rnnopt compare`
    call it; in a process of your own it is your choice.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # The size from which memory comes from the system directly; older versions allow 32 MB.
    raised = any(library.mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25))
    return bool(raised and library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
