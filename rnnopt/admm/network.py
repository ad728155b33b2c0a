"""The models that ADMM trains: what they must be, and their weights in its letters."""

from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.admm.lagrangian import Cell, Weights
from rnnopt.layers.elman import ElmanRNN
from rnnopt.layers.gru import GRU
from rnnopt.layers.lstm import LSTM
from rnnopt.layers.sequence_model import SequenceModel

CELLS: dict[type[nn.Module], Cell] = {
    ElmanRNN: "elman", GRU: "gru", LSTM: "lstm", nn.GRU: "gru", nn.LSTM: "lstm",
}  # fmt: skip


def check_model(model: nn.Module, variant: str) -> None:
    """Raises ValueError unless the model is one that the variant covers."""
    if not isinstance(model, SequenceModel):
        raise ValueError(f"ADMM trains a SequenceModel, got a {type(model).__name__}.")
    if len(model.recurrent) > 1 and variant != "exact":
        raise ValueError(
            f"variant={variant!r} trains one layer, got layers={len(model.recurrent)}: take"
            " variant='exact' for more."
        )
    kind = type(model.recurrent[0])
    names = {f"{part}_{of}_l0" for part in ("weight", "bias") for of in ("ih", "hh")}
    for layer in model.recurrent:
        own = {name for name, _ in layer.named_parameters()}
        if type(layer) is kind in CELLS and (own != names or getattr(layer, "batch_first", False)):
            raise ValueError(
                "ADMM needs layers as SequenceModel builds them, one a module, in one direction,"
                f" with biases and time first, got {layer}."
            )
    if any(type(layer) is not kind for layer in model.recurrent):
        raise ValueError("ADMM needs layers of one cell, got several.")
    if kind not in CELLS:
        raise ValueError(
            f"ADMM needs the cell 'rnn', 'lstm' or 'gru', got a layer of {kind.__name__}."
        )
    if CELLS[kind] != "elman" and variant != "exact":
        raise ValueError(
            f"variant={variant!r} needs the cell 'rnn', got a layer of {kind.__name__}: take"
            " variant='exact' for layers with gates."
        )
    if model.stem is not None:
        raise ValueError("ADMM needs a model without a stem.")
    if len(model.norms) or model.dropout:
        raise ValueError("ADMM needs a model without batch norm and without dropout.")
    if model.readout == "mean":
        raise ValueError("ADMM needs readout 'last' or 'every', got readout='mean'.")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise ValueError(f"ADMM trains all weights, got requires_grad=False for {name}.")


def read_weights(model: SequenceModel) -> list[Weights]:
    """Each layer's weights, one bias a layer, lowest first; all have the model's read-out."""
    layers: list[Any] = list(model.recurrent)
    return [
        Weights(*_read_layer(layer), model.output.weight.detach(), model.output.bias.detach())
        for layer in layers
    ]


def _read_layer(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """u, w, b; of a GRU in the four stretches of `cells`."""
    u, w = layer.weight_ih_l0.detach(), layer.weight_hh_l0.detach()
    first, second = layer.bias_ih_l0.detach(), layer.bias_hh_l0.detach()
    if not isinstance(layer, (nn.GRU, GRU)):
        return u, w, first + second
    gates = 2 * layer.hidden_size
    none = torch.zeros_like
    return (
        torch.cat([u, none(u[gates:])]),
        torch.cat([w[:gates], none(w[gates:]), w[gates:]]),
        torch.cat([first[:gates] + second[:gates], first[gates:], second[gates:]]),
    )


@torch.no_grad()
def write_weights(model: SequenceModel, weights: list[Weights]) -> None:
    """Puts weights into the model; torch's second bias stays as it is where one is enough."""
    layers: list[Any] = list(model.recurrent)
    for layer, new in zip(layers, weights, strict=True):
        u, w, b = new.input, new.recurrent, new.bias
        own = _read_layer(layer)[2]
        if CELLS[type(layer)] == "gru":
            gates, end = 2 * layer.hidden_size, 3 * layer.hidden_size  # then the half of the states
            layer.bias_hh_l0[gates:] = b[end:]
            u, w, b, own = u[:end], torch.cat([w[:gates], w[end:]]), b[:end], own[:end]
        layer.weight_ih_l0.copy_(u)
        layer.weight_hh_l0.copy_(w)
        layer.bias_ih_l0.add_(b - own)
    model.output.weight.copy_(weights[-1].output)
    model.output.bias.copy_(weights[-1].output_bias)
