"""Shared by the examples: handwritten digits, 8 x 8 pixels, one row per step, and a network."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rnnopt import SequenceModel


def digits(quick: bool) -> tuple[TensorDataset, TensorDataset]:
    """Training and test data; `quick` takes a few hundred of the 1797 images."""
    images, classes = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32).view(-1, 8, 8) / 16  # (count, time, feature)
    targets = torch.tensor(classes)
    used = 400 if quick else len(targets)
    last = used * 3 // 4
    return (
        TensorDataset(inputs[:last], targets[:last]),
        TensorDataset(inputs[last:used], targets[last:used]),
    )


class Network(nn.Module):
    """A tanh RNN for batch-first images; rnnopt's own layers have time first."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SequenceModel(input_size=8, hidden_size=64, output_size=10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 8, 8)."""
        return self.network(inputs.transpose(0, 1))


@torch.no_grad()
def accuracy(network: nn.Module, data: TensorDataset) -> float:
    """Share of the images that are classified correctly, in evaluation mode."""
    network.eval()
    inputs, targets = data.tensors
    right = network(inputs).argmax(1) == targets
    network.train()
    return right.float().mean().item()


def same(network: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)
