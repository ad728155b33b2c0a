"""Options of a `SequenceModel`: what there is to choose, what excludes what, initial weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import torch
from torch import nn

from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.kernels.half_linear import Precision
from rnnopt.layers.stem import Shape

if TYPE_CHECKING:
    from rnnopt.layers.sequence_model import SequenceModel

Cell = Literal["rnn", "lstm", "gru", "indrnn"]
Readout = Literal["last", "every", "mean"]
Initialization = Literal["default", "orthogonal", "identity", "normal", "indrnn", "indrnn-paper"]


class Keywords(TypedDict, total=False):
    """Arguments of `SequenceModel` that go by name alone."""

    bidirectional: bool
    stem: Sequence[Shape] | None
    precision: Precision
    last_layer_remembers: bool


def layer_options(
    cell: str, nonlinearity: str, precision: str, steps: int | None, magnitude: float
) -> dict[str, Any]:
    """Keyword arguments of each recurrent layer, besides its sizes."""
    options: dict[str, Any] = {}
    if cell in ("rnn", "indrnn"):
        options["nonlinearity"] = nonlinearity
    if precision == "bf16":
        options["precision"] = precision
    if cell == "indrnn" and steps is not None:
        options["recurrent_bound"] = IndRNN.bound_for(steps, magnitude)
    return options


def check_choices(cell: str, nonlinearity: str, readout: str, initialization: str) -> None:
    """Raises ValueError for an unknown choice, and for two that exclude each other."""
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
    if nonlinearity != "tanh" and cell not in ("rnn", "indrnn"):
        raise ValueError(
            f"nonlinearity={nonlinearity!r} needs cell='rnn' or 'indrnn', got cell={cell!r}."
        )
    if initialization == "indrnn" and cell != "indrnn":
        raise ValueError(f"initialization='indrnn' needs cell='indrnn', got cell={cell!r}.")
    if initialization in ("orthogonal", "identity") and cell == "indrnn":
        raise ValueError(
            f"initialization={initialization!r} needs recurrent matrices, which"
            " cell='indrnn' does not have; choose default or normal."
        )


@torch.no_grad()
def initialize(model: "SequenceModel", initialization: Initialization) -> None:
    """Sets the weights of `model` as `SequenceModel` describes; "default" leaves torch's."""
    if initialization == "normal":
        for name, parameter in model.named_parameters():
            if "norms." not in name:
                nn.init.normal_(parameter, std=0.01)
    elif initialization in ("indrnn", "indrnn-paper"):
        nn.init.kaiming_normal_(model.output.weight)
        nn.init.zeros_(model.output.bias)
    elif initialization in ("orthogonal", "identity"):
        for layer in model.recurrent:
            for name, recurrent in layer.named_parameters():
                if not name.startswith("weight_hh"):
                    continue
                for gate in recurrent.split(recurrent.shape[1]):
                    if initialization == "identity":
                        nn.init.eye_(gate)
                    else:
                        nn.init.orthogonal_(gate)
