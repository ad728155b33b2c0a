"""Makes malloc keep freed memory instead of returning it to the system.

A network unrolled over hundreds of steps frees its states after every training step and needs as
much again for the next. By default glibc returns such large blocks to the system each time, and the
system clears every page again: a fifth to a half of the measured time per step.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Makes malloc keep freed memory in the whole process; returns whether that worked.

    The process then stays about as large as it has ever been. `rnnopt train` and `rnnopt compare`
    call it; in your own program the choice is yours.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # Blocks from this size on come directly from the system; older versions allow 32 MB.
    raised = any(library.mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25))
    return bool(raised and library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
