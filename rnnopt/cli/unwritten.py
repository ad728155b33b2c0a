"""What a command says where standard output takes no more."""

import errno
import os
import sys

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def is_unwritten(error: OSError) -> bool:
    """Whether an error is one of printing: errors of files name them."""
    printed = error.filename is None and error.errno in NO_ROOM
    return isinstance(error, BrokenPipeError) or printed


def give_up_output(error: OSError) -> int:
    """Says that the output could not be written; the exit code."""
    # What is still buffered has nowhere to go when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader of our output went away, as `head` does
        return 141
    print(f"rnnopt: the output could not be written: {error.strerror}.", file=sys.stderr)
    return 2
