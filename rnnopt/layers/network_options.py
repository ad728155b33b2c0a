"""Options of a `SequenceModel`: what there is to choose, what excludes what, initial weights."""

import warnings
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


def last_layer_remembers(initialization: str, keywords: Keywords) -> bool:
    """Whether the last layer begins with long memories; TypeError for an unknown keyword."""
    for name in keywords.keys() - Keywords.__annotations__.keys():
        raise TypeError(f"SequenceModel got an unexpected keyword argument {name!r}.")
    if "last_layer_remembers" not in keywords:
        return initialization == "indrnn-paper"
    write = "last_layer_remembers is deprecated: initialization='indrnn-paper'."
    warnings.warn(write, DeprecationWarning, stacklevel=3)
    return initialization == "indrnn-paper" or keywords["last_layer_remembers"]


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


def remembering(options: dict[str, Any], cell: str, steps: int | None) -> dict[str, Any]:
    """The options of a last layer whose recurrent weights begin between 1 / bound and the bound."""
    if "recurrent_bound" not in options:
        raise ValueError(
            "initialization='indrnn-paper' needs cell='indrnn' and steps, got"
            f" cell={cell!r} and steps={steps}."
        )
    bound = options["recurrent_bound"]
    return options | dict(recurrent_range=(1 / bound, bound))


def check_sizes(dropout: float, **sizes: int) -> None:
    """Raises ValueError for a size below 1, and for a dropout that is no probability below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"SequenceModel needs {name} >= 1, got {name}={value}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"SequenceModel needs dropout in [0, 1), got dropout={dropout}.")


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
