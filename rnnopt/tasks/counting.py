"""Sequence counting: the number of ones in a binary string (the aSNAQ paper's first experiment).

One number in, one number out, mean squared error. The constant output length/2 has an error of
length/4.
"""

from functools import partial

import torch

from rnnopt.config.errors import UserError
from rnnopt.tasks.adding import fixed
from rnnopt.tasks.examples import Batch
from rnnopt.tasks.task import Task


def draw(count: int, generator: torch.Generator, length: int) -> Batch:
    """`count` new strings: inputs (time, batch, 1) of 0 and 1, targets (batch, 1)."""
    bits = torch.randint(2, (length, count, 1), generator=generator).float()
    return Batch(bits, bits.sum(0))


def counting(length: int = 20) -> Task:
    """Counting ones in strings of `length` ≥ 1 steps.

    Args:
        length: steps of each string.
    """
    if not isinstance(length, int) or length < 1:
        raise UserError(f"counting needs an integer length >= 1, got length={length!r}.")
    draw_batch = partial(draw, length=length)
    return Task(
        name="counting",
        summary=f"number of ones in a binary string of {length} steps (drawn for each batch)",
        input_size=1,
        output_size=1,
        loss="mse",
        target=0.1,
        train=draw_batch,
        validation=fixed(draw_batch, 1000, seed=1),
        test=fixed(draw_batch, 1000, seed=2),
        epoch_size=10_000,
        hidden_size=24,
        batch_size=50,
    )
