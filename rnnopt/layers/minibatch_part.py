"""The part of a minibatch that one of several processes computes.

Each process draws the whole minibatch and keeps every n-th sequence. Two operations of a network
depend on the other sequences: dropout, whose mask is drawn for all and cut, and batch statistics,
which are summed over the processes. So the result equals that of one process up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.distributed import sums
from rnnopt.layers.kernels.batch_norm import follow
from rnnopt.layers.stem import shortened

PART = "_minibatch_part"  # the attribute of a SequenceModel


@dataclass(frozen=True)
class MinibatchPart:
    """The sequences of a minibatch that a process has.

    Args:
        rows: (batch,) their positions in the whole minibatch.
        count: sequences of the whole minibatch.
        lengths: (count,) true steps of each, or None when all have the same length.
        counts: False for a process without a sequence. It runs another process's sequence with
            weight 0, so that it takes part in every sum.
    """

    rows: Tensor
    count: int
    lengths: Tensor | None = None
    counts: bool = True

    @classmethod
    def of(cls, count: int, lengths: Tensor | None, rank: int, processes: int) -> "MinibatchPart":
        """Every n-th sequence of `count`, beginning at the process's rank."""
        rows = torch.arange(count)[rank::processes]
        return (
            cls(rows, count, lengths)
            if len(rows)
            else cls(torch.tensor([0]), count, lengths, False)
        )

    def alive(self, step: int) -> tuple["MinibatchPart", Tensor]:
        """The part that holds only the sequences that reach a step.

        Returns:
            The part, and (batch,) which of this process's sequences are in it. If all of them have
            ended, one stays that does not count.
        """
        if self.lengths is None:
            return self, torch.ones(len(self.rows), dtype=torch.bool)
        here = self.lengths > step
        mine = here[self.rows]
        counts = self.counts and bool(mine.any())
        rows = (here.cumsum(0) - 1)[self.rows[mine]]
        if not counts:
            mine, rows = torch.arange(len(mine)) == 0, torch.tensor([0])
        part = MinibatchPart(rows, int(here.sum()), self.lengths[here], counts)
        return part, mine

    def between(self, start: int, end: int) -> "MinibatchPart":
        """The same sequences, cut to the steps from `start` to `end`."""
        if self.lengths is None:
            return self
        return replace(self, lengths=self.lengths.clamp(max=end) - start)

    def shortened(self, stride: int) -> "MinibatchPart":
        """The same sequences after a convolution that takes every `stride`-th step."""
        if self.lengths is None:
            return self
        return replace(self, lengths=shortened(self.lengths, stride))

    def steps(self, time: int) -> int:
        """True steps of the whole minibatch, of `time` steps with padding."""
        return time * self.count if self.lengths is None else int(self.lengths.sum())

    def share(self, each_step: bool, processes: int) -> float:
        """Weight of this part's mean loss, with which the mean over processes is the total mean.

        Args:
            each_step: whether the loss is a mean over true steps rather than over sequences.
            processes: number of processes.
        """
        if not self.counts:
            return 0.0
        if self.lengths is None or not each_step:
            return len(self.rows) * processes / self.count
        return float(self.lengths[self.rows].sum() * processes / self.lengths.sum())


@contextmanager
def taking(model: nn.Module, part: MinibatchPart | None) -> Iterator[None]:
    """Marks the inputs of `model` as a part of a minibatch; None means a whole one."""
    if part is None:
        yield
        return
    before = getattr(model, PART, None)
    setattr(model, PART, part)
    try:
        yield
    finally:
        setattr(model, PART, before)


class _Sum(torch.autograd.Function):
    """The sum over processes, with the gradient of the sum of their losses."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return sums([own])[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def normalize_part(
    norm: nn.BatchNorm1d, states: Tensor, valid: Tensor | None, part: MinibatchPart
) -> Tensor:
    """`norm` in training mode on the true steps of the whole minibatch; padding becomes zero.

    Args:
        norm: batch normalisation over `hidden` features; its running statistics are updated.
        states: (time, batch, hidden), this process's part.
        valid: (time, batch, 1), which steps are true, or None for all.
        part: this process's part.

    Raises:
        ValueError: all processes together have a single step, which has no variance.
    """
    count = part.steps(len(states))
    if count < 2:
        raise ValueError(f"batch normalisation needs more than one step, got {count}.")
    if valid is None:
        valid = states.new_ones(1, 1, 1, dtype=torch.bool).expand(*states.shape[:2], 1)
    counted = valid if part.counts else torch.zeros_like(valid)
    total: Tensor = _Sum.apply(torch.where(counted, states, 0).sum((0, 1)))
    mean = total / count
    centred = states - mean
    squares: Tensor = _Sum.apply(torch.where(counted, centred.square(), 0).sum((0, 1)))
    variance = squares / count
    normal = centred * (variance + norm.eps).rsqrt()
    follow(norm, mean, variance, count)
    return torch.where(valid, torch.addcmul(norm.bias, normal, norm.weight), 0)
