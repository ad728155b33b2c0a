"""Sequences: a minibatch of them, and the stored examples from which minibatches are drawn.

Stored sequences of different lengths need no padding: they are stored one after the other. A
minibatch is padded when it is drawn, to the length of its longest sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rnnopt.tasks.storage import together

NO_CLASS = -1  # the class of a step without a target; a missing number is NaN


@dataclass(frozen=True)
class Batch:
    """Sequences (time, batch, feature), targets (batch, …), true lengths (batch,) or None.

    A target is a class (batch,) or numbers (batch, output). With a target at each step, it is a
    class (batch, time) or numbers (batch, time, output); the class -1 and NaN are missing targets,
    which count in no loss or metric, nor do the targets of the first `ignored` (batch,) steps.
    `weights` (batch,) weight the sequences and have mean 1 over
    all examples; None means equal weights.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    weights: Tensor | None = None
    ignored: Tensor | None = None

    def __len__(self) -> int:
        return self.inputs.shape[1]

    def between(self, start: int, end: int) -> "Batch":
        """These steps of the sequences, with targets of their own; one that is over has none."""
        lengths, ignored = _each(lambda one: (one - start).clamp(min=0), self.lengths, self.ignored)
        lengths = None if lengths is None else lengths.clamp(max=end - start)
        targets = self.targets[:, start:end]
        return Batch(self.inputs[start:end], targets, lengths, self.weights, ignored)

    def to(self, device: torch.device) -> "Batch":
        """This batch on `device`."""
        rest = _each(lambda one: one.to(device), self.lengths, self.weights, self.ignored)
        return Batch(self.inputs.to(device), self.targets.to(device), *rest)


@dataclass(frozen=True)
class Examples:
    """Stored sequences: inputs (count, time, feature), targets (count, …), lengths (count,).

    The inputs of sequences of different lengths may also be (steps, feature), without padding: the
    steps of the first sequence, then those of the second, …, divided by `lengths`.

    `noise` is the deviation of the Gaussian noise that `Batches` draws for every batch; `weights`
    and `ignored` (count,) are as in `Batch`.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    noise: float = 0.0
    weights: Tensor | None = None
    ignored: Tensor | None = None

    def __post_init__(self) -> None:
        if self.inputs.ndim == 2 and (
            self.lengths is None or int(self.lengths.sum()) != len(self.inputs)
        ):
            raise ValueError(
                f"inputs (steps, feature) need lengths that add up to the {len(self.inputs)} steps."
            )

    def __len__(self) -> int:
        if self.inputs.ndim == 2 and self.lengths is not None:
            return len(self.lengths)
        return len(self.inputs)

    @property
    def steps(self) -> int:
        """Length of the longest sequence, or the padded length."""
        if self.inputs.ndim == 2 and self.lengths is not None:
            return int(self.lengths.max())
        return self.inputs.shape[1]

    @cached_property
    def lacks_targets(self) -> bool:
        """Whether the targets of some true steps are missing."""
        if not each_step(self.targets):
            return False
        if self.lengths is None:
            return not bool(are_present(self.targets).all())
        true = torch.arange(self.steps, device=self.lengths.device) < self.lengths[:, None]
        return not bool(are_present(self.targets[:, : self.steps])[true].all())

    @cached_property
    def starts(self) -> Tensor:
        """First step of each sequence (count,) in inputs (steps, feature)."""
        assert self.lengths is not None
        return self.lengths.cumsum(0) - self.lengths

    def batch(self, index: Tensor | slice) -> Batch:
        """The sequences at `index`, time first, padded to the longest of them.

        Sequences without lengths are not copied: the batch is a view of them.
        """
        if isinstance(index, Tensor):
            index = index.to(self.inputs.device)
        lengths, weights, ignored = _each(
            lambda tensor: tensor[index], self.lengths, self.weights, self.ignored
        )
        targets = self.targets[index]
        if lengths is None:
            return Batch(self.inputs[index].transpose(0, 1), targets, None, weights, ignored)
        longest = int(lengths.max())
        if each_step(targets):
            targets = targets[:, :longest]
        if self.inputs.ndim == 2:
            inputs = padded(self.inputs, self.starts[index], lengths, longest)
        else:
            inputs = self.inputs[index, :longest].transpose(0, 1)
        return Batch(inputs, targets, lengths, weights, ignored)

    def to(self, device: torch.device) -> "Examples":
        """These sequences on `device`."""
        lengths, weights, ignored = _each(
            lambda tensor: tensor.to(device), self.lengths, self.weights, self.ignored
        )
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return Examples(inputs, targets, lengths, self.noise, weights, ignored)


def padded(values: Tensor, starts: Tensor, lengths: Tensor, time: int) -> Tensor:
    """Sequences (time, batch, feature) from values (steps, feature), padded with zeros.

    Args:
        values: the steps of all sequences.
        starts, lengths: (batch,) first steps and lengths of the sequences to return.
        time: length of the result, at least the largest of `lengths`.
    """
    steps = torch.arange(time, device=values.device)[:, None]
    valid = steps < lengths
    places = torch.where(valid, starts + steps, 0)
    return values[places].masked_fill_(~valid[..., None], 0)


def joined(one: Examples, other: Examples) -> Examples:
    """The examples of both, with one target each, the second after the first.

    Weights of one side alone count 1 on the other.
    """
    weights = None
    if one.weights is not None or other.weights is not None:
        parts = [
            p.inputs.new_ones(len(p)) if p.weights is None else p.weights for p in (one, other)
        ]
        weights = torch.cat(parts)
    targets = torch.cat([one.targets, other.targets])
    if one.lengths is None and other.lengths is None and one.steps == other.steps:
        inputs = together(one.inputs, other.inputs)
        return replace(one, inputs=inputs, targets=targets, weights=weights)
    steps, lengths = zip(*map(_without_padding, (one, other)), strict=True)
    inputs = together(*steps)
    return replace(one, inputs=inputs, targets=targets, lengths=torch.cat(lengths), weights=weights)


def _without_padding(examples: Examples) -> tuple[Tensor, Tensor]:
    """The steps of all sequences (steps, feature), and their lengths."""
    inputs, lengths = examples.inputs, examples.lengths
    if lengths is None:
        lengths = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
    if inputs.ndim == 2:
        return inputs, lengths
    valid = torch.arange(inputs.shape[1], device=inputs.device)[None] < lengths[:, None]
    return inputs[valid], lengths


def each_step(targets: Tensor) -> bool:
    """Whether targets are classes (batch, time) or numbers (batch, time, output)."""
    return targets.ndim == (3 if targets.is_floating_point() else 2)


def are_present(targets: Tensor) -> Tensor:
    """Which targets are not missing, entry by entry."""
    return ~targets.isnan() if targets.is_floating_point() else targets != NO_CLASS


def split_examples(examples: Examples, sizes: list[int], seed: int) -> list[Examples]:
    """Disjoint random parts of the given sizes; the same for the same seed."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return [select(examples, part) for part in order[: sum(sizes)].split(sizes)]


def select(examples: Examples, index: Tensor) -> Examples:
    """The examples at `index`, a mask or positions."""
    lengths, weights, ignored = _each(
        lambda tensor: tensor[index], examples.lengths, examples.weights, examples.ignored
    )
    if examples.inputs.ndim == 2 and lengths is not None:
        places = zip(examples.starts[index].tolist(), lengths.tolist(), strict=True)
        parts = [examples.inputs[start : start + length] for start, length in places]
        inputs = torch.cat(parts) if parts else examples.inputs[:0]
    else:
        inputs = examples.inputs[index]
    targets = examples.targets[index]
    return replace(
        examples, inputs=inputs, targets=targets, lengths=lengths, weights=weights, ignored=ignored
    )


def standardize(parts: list[Examples], per_channel: bool = False) -> list[Examples]:
    """Subtracts the mean and divides by the deviation of the first part, in its precision.

    Both are computed over all its entries, or for each channel. Constant values become 0. The
    user's own series, which may have any offset, use `rnnopt.tasks.moments` instead.
    """
    deviation, mean = torch.std_mean(parts[0].inputs, (0, 1) if per_channel else (0, 1, 2))
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    return [replace(part, inputs=(part.inputs - mean) / deviation) for part in parts]


def _each(change: Callable[[Tensor], Tensor], *tensors: Tensor | None) -> list[Tensor | None]:
    """Applies `change` to the tensors that are not None."""
    return [None if tensor is None else change(tensor) for tensor in tensors]
