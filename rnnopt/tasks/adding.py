"""The adding problem: sum the two marked numbers of a long sequence.

Each step holds a number from U[0, 1) and a mark. One marked step lies anywhere in the first half,
the other in the second half. The constant output 1 has a mean squared error of 1/6 = 0.167.
Hochreiter and Schmidhuber 1997, in the form of https://arxiv.org/abs/1511.06464. The text of the
Frank-Wolfe RNN paper requires the sum of *all* numbers between the marks instead:
`answer="between"`, both ends included.
"""

from functools import partial

import torch

from rnnopt.config.errors import UserError
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.tasks.task import Task


def draw(count: int, generator: torch.Generator, length: int, answer: str) -> Batch:
    """`count` new sequences of `length` steps: inputs (time, batch, 2), targets (batch, 1)."""
    values = torch.rand(length, count, generator=generator)
    half = length // 2
    first = torch.randint(half, (1, count), generator=generator)
    second = torch.randint(half, length, (1, count), generator=generator)
    steps = torch.arange(length)[:, None]
    marks = (steps == first) | (steps == second)
    summed = (steps >= first) & (steps <= second) if answer == "between" else marks
    targets = torch.where(summed, values, 0).sum(0)[:, None]
    return Batch(torch.stack([values, marks.float()], dim=2), targets)


def fixed(draw_batch: partial[Batch], count: int, seed: int) -> Examples:
    """The same `count` sequences in every run."""
    batch = draw_batch(count, torch.Generator().manual_seed(seed))
    return Examples(batch.inputs.transpose(0, 1).contiguous(), batch.targets)


def adding(length: int = 100, answer: str = "marked") -> Task:
    """The adding problem over `length` ≥ 2 steps; answer "marked" or "between".

    Args:
        length: steps of each sequence.
        answer: "marked", the sum of the two marked numbers, or "between", the sum of all numbers
            from the first mark to the second.
    """
    if not isinstance(length, int) or length < 2:
        raise UserError(f"adding needs an integer length >= 2, got length={length!r}.")
    if answer not in ("marked", "between"):
        raise UserError(f'adding needs answer "marked" or "between", got answer={answer!r}.')
    draw_batch = partial(draw, length=length, answer=answer)
    summed = "two marked numbers" if answer == "marked" else "the numbers between two marks"
    return Task(
        name="adding",
        summary=f"sum of {summed} among {length} steps (drawn for each batch)",
        input_size=2,
        output_size=1,
        loss="mse",
        target=0.01,
        train=draw_batch,
        validation=fixed(draw_batch, 1000, seed=1),
        test=fixed(draw_batch, 1000, seed=2),
        epoch_size=10_000,
        hidden_size=128,
        batch_size=50,
    )
