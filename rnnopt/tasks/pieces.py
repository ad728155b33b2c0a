"""Splits sequences into pieces that a network evaluates together, without training.

The size of a piece does not change the outputs, only memory and time. A step of a sequence takes as
many numbers as the network's widest layer has rows of weights (an LSTM has four per unit), or as
the step has features. A piece has up to `AT_ONCE` of these numbers, as many as an ordinary
minibatch takes in training (128 sequences of 784 steps and 128 units: 1.3e7), and at least one
sequence. Sequences of different lengths are sorted, so that few need much padding.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.layers.kernels.portable import last_state
from rnnopt.tasks.examples import Batch, Examples, each_step
from rnnopt.tasks.free_run import FreeRun

AT_ONCE = 1 << 24  # numbers: 64 MiB
MOST = 1000  # sequences


def width(model: nn.Module, features: int) -> int:
    """Numbers per step of a sequence, in the widest layer."""
    return max([features, *(p.shape[0] for p in model.parameters() if p.ndim > 1)])


def together(lengths: Tensor, wide: int) -> int:
    """How many sequences, shortest first, fit into a piece at `wide` numbers per step."""
    some = lengths[:MOST]
    sizes = torch.arange(1, len(some) + 1) * some * wide  # of the first, the first two, …
    return max(1, int((sizes <= AT_ONCE).sum()))


def pieces(examples: Examples, model: nn.Module) -> Iterator[tuple[Tensor, Batch]]:
    """All examples, piece by piece: their positions (batch,) and the sequences.

    Args:
        examples: sequences to evaluate.
        model: model that evaluates them.
    """
    wide = width(model, examples.inputs.shape[-1])
    if examples.lengths is None:
        lengths, order = torch.full((len(examples),), examples.steps), None
    else:
        lengths, order = examples.lengths.cpu().sort(stable=True)
    start = 0
    while start < len(lengths):
        end = start + together(lengths[start:], wide)
        index = torch.arange(start, end) if order is None else order[start:end]
        yield index, examples.batch(slice(start, end) if order is None else index)
        start = end


@torch.no_grad()
def answered(
    model: nn.Module, examples: Examples, device: torch.device, free: FreeRun | None = None
) -> Iterator[tuple[Tensor, int, Tensor, Batch]]:
    """A model's outputs for all examples, piece by piece.

    Gives positions (batch,) of the sequences, the first step of the piece, outputs and sequences. A
    piece has whole sequences, unless one alone has more than `AT_ONCE` numbers and a target at each
    step: then the states are carried from one piece of it to the next.

    Args:
        model: model in evaluation mode.
        examples: sequences to evaluate.
        device: device of the model.
        free: how the model runs free; None means that its inputs are given.
    """
    for index, piece in pieces(examples, model):
        batch = piece.to(device)
        time, count = batch.inputs.shape[:2]
        own = each_step(batch.targets)
        outputs = batch.targets.shape[2] if batch.targets.ndim == 3 else 0
        wide = max(width(model, batch.inputs.shape[-1]), outputs)
        steps = AT_ONCE // (count * wide) or 1
        if free is not None:
            yield index, 0, free(model, batch.inputs), batch
        elif steps >= time or not own or not _goes_on(model):
            yield index, 0, model(batch.inputs, batch.lengths), batch
        else:
            state: Any = None
            steps = -(-steps // 16)  # loss and scores take several times the memory of outputs
            for start in range(0, time, steps):
                part = batch.between(start, min(start + steps, time))
                answers, state = model.advance(part.inputs, state)  # type: ignore[operator]
                yield index, start, answers, part


def _goes_on(model: nn.Module) -> bool:
    """Whether a model can take a sequence part by part."""
    whole = getattr(model, "bidirectional", False) or getattr(model, "stem", None) is not None
    return hasattr(model, "advance") and getattr(model, "readout", "") == "every" and not whole


@torch.no_grad()
def outputs_of(model: nn.Module, examples: Examples, device: torch.device) -> Tensor:
    """A model's outputs for all sequences: (count, output) on the CPU.

    If it has outputs at every step, the one at a sequence's last true step is returned.

    Args:
        model: model in the desired mode, usually evaluation.
        examples: input sequences; their targets are not used.
        device: device of the model.
    """
    places, found = [], []
    for index, batch in pieces(examples, model):
        here = batch.to(device)
        outputs = model(here.inputs, here.lengths)
        if outputs.ndim == 3:
            outputs = last_state(outputs, here.lengths)
        places.append(index)
        found.append(outputs.cpu())
    return torch.cat(found)[torch.cat(places).argsort()]
