"""How many sequences a network looks at together when it only answers: the one rule for that.

Nothing is trained on, so the answers do not depend on it; memory and time do. A step of a sequence
takes as many numbers as the network's widest layer has rows of weights (an LSTM's has four a unit),
or as a step has features. `AT_ONCE` of these numbers are looked at together, which is what a
minibatch of ordinary size takes in training (128 sequences of 784 steps and 128 units: 1.3e7), and
one sequence at least. Sequences of different lengths are sorted, so that few are padded by much.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rnnopt.layers.kernels.portable import last_state
from rnnopt.tasks.examples import Batch, Examples

AT_ONCE = 1 << 24  # numbers: 64 MiB
MOST = 1000  # sequences


def width(model: nn.Module, features: int) -> int:
    """Numbers that a step of a sequence takes, at the widest place."""
    return max([features, *(p.shape[0] for p in model.parameters() if p.ndim > 1)])


def together(lengths: Tensor, wide: int) -> int:
    """How many of sequences, shortest first, to look at together, of so many numbers a step."""
    some = lengths[:MOST]
    sizes = torch.arange(1, len(some) + 1) * some * wide  # of the first, the first two, …
    return max(1, int((sizes <= AT_ONCE).sum()))


def pieces(examples: Examples, model: nn.Module) -> Iterator[tuple[Tensor, Batch]]:
    """All examples, a piece at a time: their positions (batch,) and the sequences.

    Args:
        examples: to look at.
        model: that is to answer.
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
def outputs_of(model: nn.Module, examples: Examples, device: torch.device) -> Tensor:
    """What a model answers to each sequence: (count, output) on the CPU.

    Where it answers at every step, a sequence's last true answer counts.

    Args:
        model: in the mode that is wanted, evaluation as a rule.
        examples: to answer to; their targets are not looked at.
        device: where the model is.
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
