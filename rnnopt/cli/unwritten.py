"""What a command says where standard output takes no more."""

import errno
import os
import sys
from contextlib import suppress

NO_READER = 141  # the exit code of a command whose output nobody reads any more, as of `cat | head`
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF}


def flush_output() -> None:
    """Writes what is printed, now: at the end of Python it would be too late to say why not."""
    if sys.stdout is not None:  # it is None where a shell has closed it
        sys.stdout.flush()


def is_unwritten(error: OSError) -> bool:
    """Whether an error is one of printing: errors of files name them."""
    printed = error.filename is None and error.errno in NO_ROOM
    return isinstance(error, BrokenPipeError) or printed


def give_up_output(error: OSError) -> int:
    """Says that the output could not be written; the exit code."""
    # What is still buffered has nowhere to go when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader of our output went away, as `head` does
        return NO_READER
    with suppress(OSError):
        print(f"rnnopt: the output could not be written: {error.strerror}.", file=sys.stderr)
    return 2
