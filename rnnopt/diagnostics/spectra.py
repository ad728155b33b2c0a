"""Spectral radius and norm of recurrent weights."""

import math
from typing import Any

import torch
from torch import nn

from rnnopt.layers.gru import GRU
from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.lstm import LSTM

GATES: dict[type, tuple[str, ...]] = {
    nn.LSTM: ("input", "forget", "cell", "output"),
    nn.GRU: ("reset", "update", "new"),
}
GATES |= {LSTM: GATES[nn.LSTM], GRU: GATES[nn.GRU]}


def recurrent_spectra(layer: Any) -> dict[str, dict[str, float]]:
    """Spectral radius and spectral norm of each recurrent matrix of a layer.

    Keys are "l0", "l0_reverse", …, followed by the gate for LSTM and GRU: "l0.forget".
    IndRNN's matrix is the diagonal of u, bounded as in its forward pass: both values are max |u|.
    NaN where the weights are not finite.
    """
    gates = next((names for kind, names in GATES.items() if isinstance(layer, kind)), ("",))
    result = {}
    for name, weight in layer.named_parameters(recurse=False):
        if not name.startswith("weight_hh_"):
            continue
        weight = weight.detach().cpu().double()
        if isinstance(layer, IndRNN):
            weight = (
                weight
                if layer.recurrent_bound is None
                else weight.clamp(-layer.recurrent_bound, layer.recurrent_bound)
            )
            weight = weight.diag()
        place = name.removeprefix("weight_hh_")
        for gate, matrix in zip(gates, weight.chunk(len(gates)), strict=True):
            radius = norm = math.nan
            if torch.isfinite(matrix).all():
                radius = float(torch.linalg.eigvals(matrix).abs().max())
                norm = float(torch.linalg.matrix_norm(matrix, 2))
            result[f"{place}.{gate}" if gate else place] = dict(radius=radius, norm=norm)
    return result
