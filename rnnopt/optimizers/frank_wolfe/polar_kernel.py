"""U Vᵀ by the compiled kernel: `lmo._apply_polynomials` for matrices on the CPU.

It computes the same products, those that are symmetric by half, in one call. The result is the same
but for rounding.
"""

import ctypes
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu

# The kernel has one thread. For a longer side torch's products are as fast, or in several threads
# faster.
LARGEST_SIDE, LARGEST_SIDE_OF_MANY = 512, 128


def can_run(matrices: Tensor) -> bool:
    """Whether the kernel accepts these; of a batch (count, rows, columns)."""
    largest = LARGEST_SIDE if torch.get_num_threads() == 1 else LARGEST_SIDE_OF_MANY
    return 0 < max(matrices.shape[1:]) <= largest and cpu.all_usable([matrices])


def apply_polynomials(matrices: Tensor, steps: Sequence[tuple[float, float, float]]) -> Tensor:
    """x ← a x + b x xᵀx + c x (xᵀx)² for each (a, b, c) in turn.

    Args:
        matrices: (count, rows, columns), for which `can_run`.
        steps: the coefficients.
    """
    result = torch.empty_like(matrices)
    coefficients = (ctypes.c_double * (3 * len(steps)))(*chain.from_iterable(steps))
    cpu.call(
        "polar",
        matrices.dtype,
        False,
        [*matrices.shape, len(steps)],
        [matrices, result, ctypes.addressof(coefficients)],
    )
    return result
