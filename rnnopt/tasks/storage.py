"""Room for the inputs of a network: in memory, or in a temporary file where they are too large.

The file has no name and is gone with the process. The system keeps in memory what is used, so a
minibatch is read from disk if need be; everything else is the same to the bit.
"""

import math
import os
import shutil
import tempfile

import numpy as np
import torch
from torch import Tensor

from rnnopt.tasks.user_data.limits import check_memory, free_memory, size

SHARE = 2  # inputs of more than the free memory divided by it go to a file


def room(shape: tuple[int, ...], what: str) -> Tensor:
    """A float32 tensor of a shape, with any values.

    Args:
        shape: its sides.
        what: what it is for.

    Raises:
        ValueError: there is neither memory nor disk for it.
    """
    needed = 4 * math.prod(shape)
    if needed <= free_memory() // SHARE or not needed:
        return torch.empty(shape)
    folder = tempfile.gettempdir()
    if needed > shutil.disk_usage(folder).free:
        check_memory(needed, f"{what}, for which {folder} is too small (TMPDIR names another),")
        return torch.empty(shape)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a full disk ends a process that writes to a map
                os.posix_fallocate(file.fileno(), 0, needed)
            return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
    except OSError as error:
        raise ValueError(
            f"{what} would take {size(needed)} of {folder}: {error.strerror} (TMPDIR names another"
            " folder)."
        ) from error


def together(one: Tensor, other: Tensor) -> Tensor:
    """The rows of both, as torch.cat."""
    if one.device.type != "cpu" or one.dtype != torch.float32:
        return torch.cat([one, other])
    found = room((len(one) + len(other), *one.shape[1:]), "training and validation series")
    found[: len(one)] = one
    found[len(one) :] = other
    return found
