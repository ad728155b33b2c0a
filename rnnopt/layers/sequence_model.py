"""One model for sequences: recurrent layers, batch normalisation between them, a linear read-out.

Shapes are (time, batch, feature) throughout. Sequences of different lengths are padded at the end;
a network that runs forward in time computes the same states on the true steps whatever follows, so
the padding only has to be kept out of the read-out and the batch statistics, which costs less than
packing.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rnnopt.layers.elman import ElmanRNN
from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.kernels.batch_norm import normalize
from rnnopt.layers.kernels.elman import true_steps

Cell = Literal["rnn", "lstm", "gru", "indrnn"]
Readout = Literal["last", "every", "mean"]
Initialization = Literal["default", "orthogonal", "identity", "normal"]
CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": ElmanRNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "indrnn": IndRNN,
}


class SequenceModel(nn.Module):
    """Recurrent layers and a linear read-out.

    Args:
        input_size: features of each step.
        hidden_size: units of each layer.
        output_size: classes, or numbers to predict.
        cell: "rnn" (Elman), "lstm" or "gru".
        nonlinearity: "tanh" or, for Elman cells alone, "relu".
        layers: recurrent layers, ≥ 1.
        batch_norm: normalise each layer's states over time and batch.
        readout: "last", the state at a sequence's last true step; "every", each step; "mean", the
            mean state over the true steps.
        initialization: "default", torch's; "orthogonal", recurrent matrices (gate by gate)
            orthogonal; "identity", recurrent matrices the identity (Le et al.,
            https://arxiv.org/abs/1504.00941); "normal", every weight and bias N(0, 0.01²), as in
            the aSNAQ paper.

    Example:
        >>> model = SequenceModel(input_size=9, hidden_size=80, output_size=6)
        >>> model(torch.randn(128, 32, 9)).shape
        torch.Size([32, 6])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        cell: Cell = "rnn",
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        layers: int = 1,
        batch_norm: bool = False,
        readout: Readout = "last",
        initialization: Initialization = "default",
    ):
        super().__init__()
        sizes = dict(
            input_size=input_size, hidden_size=hidden_size, output_size=output_size, layers=layers
        )
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"SequenceModel needs {name} >= 1, got {name}={value}.")
        choices: list[tuple[str, str, tuple[str, ...]]] = [
            ("cell", cell, get_args(Cell)),
            ("nonlinearity", nonlinearity, ("tanh", "relu")),
            ("readout", readout, get_args(Readout)),
            ("initialization", initialization, get_args(Initialization)),
        ]
        for name, choice, allowed in choices:
            if choice not in allowed:
                wanted = ", ".join(allowed)
                raise ValueError(f"{name} must be one of {wanted}, got {name}={choice!r}.")
        if cell != "rnn" and nonlinearity != "tanh":
            raise ValueError(f"nonlinearity={nonlinearity!r} needs cell='rnn', got cell={cell!r}.")
        options: dict[str, Any] = {"nonlinearity": nonlinearity} if cell == "rnn" else {}
        self.readout = readout
        self.recurrent = nn.ModuleList(
            CELLS[cell](input_size if i == 0 else hidden_size, hidden_size, **options)
            for i in range(layers)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(hidden_size) for _ in range(layers if batch_norm else 0)
        )
        self.output = nn.Linear(hidden_size, output_size)
        initialize(self, initialization)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs (batch, output), or (time, batch, output) with readout="every".

        Args:
            inputs: (time, batch, input).
            lengths: (batch,) true steps of each padded sequence, each in 1 … time; None when all
                are true.
        """
        if inputs.ndim != 3:
            raise ValueError(f"inputs must be (time, batch, feature), got {tuple(inputs.shape)}.")
        steps = torch.arange(len(inputs), device=inputs.device)
        valid = None if lengths is None else steps[:, None] < lengths.to(inputs.device)
        states = inputs if valid is None else torch.where(valid[..., None], inputs, 0)
        for i, layer in enumerate(self.recurrent):
            states = layer(states)[0]
            if self.norms:
                states = _normalize(self.norms[i], states, valid)
        if self.readout == "last":
            if lengths is None:
                states = states[-1]
            else:
                last = (lengths.to(states.device) - 1).view(1, -1, 1)
                states = states.gather(0, last.expand(1, -1, states.shape[2]))[0]
        elif self.readout == "mean":
            if valid is None:
                states = states.mean(0)
            else:
                states = torch.where(valid[..., None], states, 0).sum(0) / valid.sum(0)[:, None]
        return self.output(states)


def _normalize(norm: nn.Module, states: Tensor, valid: Tensor | None) -> Tensor:
    """Batch normalisation over the true steps of (time, batch, hidden); padding becomes zero."""
    if valid is None:
        return norm(states.flatten(0, 1)).view_as(states)
    return torch.zeros_like(states).masked_scatter(valid[..., None], norm(states[valid]))


@torch.no_grad()
def initialize(model: SequenceModel, initialization: Initialization) -> None:
    """Sets the weights of `model` as `SequenceModel` describes; "default" leaves torch's."""
    if initialization == "normal":
        for name, parameter in model.named_parameters():
            if not name.startswith("norms"):
                nn.init.normal_(parameter, std=0.01)
    elif initialization in ("orthogonal", "identity"):
        for layer in model.recurrent:
            assert isinstance(layer, nn.RNNBase)
            recurrent = dict(layer.named_parameters())["weight_hh_l0"]
            for gate in recurrent.split(layer.hidden_size):
                if initialization == "identity":
                    nn.init.eye_(gate)
                else:
                    nn.init.orthogonal_(gate)
