"""The networks of rnnopt in torch's own layers and operators, for export to other programs.

`to_torch()` of a layer or a `SequenceModel` returns these (an `ElmanRNN` becomes a `torch.nn.RNN`).
They hold copies of the weights, give the same results, also in training, and use no fused kernel,
so that TorchScript can read them.
"""

import copy
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnopt.layers.kernels.portable import (
    final_states,
    indrnn_loop,
    indrnn_masked_loop,
    indrnn_states,
    last_state,
    reversed_steps,
    true_steps,
)
from rnnopt.layers.stem import padding_of

if TYPE_CHECKING:
    from rnnopt.layers.indrnn import IndRNN
    from rnnopt.layers.sequence_model import SequenceModel


def script_refused(layer: nn.Module) -> TypeError:
    """The error raised when torch.jit.script is called on a layer."""
    name = type(layer).__name__
    return TypeError(
        f"torch.jit.script needs torch's own operators: pass it what the layer's to_torch()"
        f" returns, got {name}."
    )


class PlainIndRNN(nn.Module):
    """An `IndRNN` in torch's own operators: one loop over time per layer.

    Args:
        layer: layer whose weights, bound, batch normalisation and dropout are copied.
    """

    def __init__(self, layer: "IndRNN"):
        super().__init__()
        self.batch_first: bool = layer.batch_first
        self.directions: int = layer.directions
        self.layers = nn.ModuleList(PlainIndRNNLayer(layer, k) for k in range(len(layer.suffixes)))
        self.train(layer.training)

    def forward(
        self, input: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Like `IndRNN.forward`: output (time, batch, directions × hidden), and last states.

        Args:
            input: (time, batch, input), or (batch, time, input) with `batch_first`.
            hx: initial states (layers × directions, batch, hidden), or None for zeros.
            lengths: (batch,) true steps of sequences padded at the end, int64, or None.
        """
        states = input.transpose(0, 1) if self.batch_first else input
        valid: Tensor | None = None
        if lengths is not None:
            valid = true_steps(states.shape[0], lengths)
            states = torch.where(valid, states, torch.zeros_like(states))
        last: list[Tensor] = []
        outputs: list[Tensor] = []
        for k, layer in enumerate(self.layers):
            first = None if hx is None else hx[k]
            reverse = k % self.directions == 1
            given = reversed_steps(states, lengths) if reverse else states
            output, end = layer(given, first, lengths, valid)
            last.append(end)
            outputs.append(reversed_steps(output, lengths) if reverse else output)
            if len(outputs) == self.directions:
                states = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
                outputs = []
        return states.transpose(0, 1) if self.batch_first else states, torch.stack(last)


class PlainIndRNNLayer(nn.Module):
    """One layer and direction, h_t = f(W x_t + b + u ⊙ h_{t-1}), with normalisation and dropout."""

    def __init__(self, layer: "IndRNN", k: int):
        super().__init__()
        suffix = layer.suffixes[k]
        weight = getattr(layer, f"weight_ih_{suffix}")
        self.input = nn.Linear(
            weight.shape[1], weight.shape[0], layer.bias, weight.device, weight.dtype
        )
        self.input.weight = _copied(weight)
        if layer.bias:
            self.input.bias = _copied(getattr(layer, f"bias_ih_{suffix}"))
        self.u = _copied(getattr(layer, f"weight_hh_{suffix}"))
        self.relu: bool = layer.nonlinearity == "relu"
        bound = layer.recurrent_bound
        self.bound: float = float("inf") if bound is None else bound
        self.dropout: float = layer.dropout
        self.written_out: bool = False  # whether torch's exporter gets a loop and not a scan
        self.norm = copy.deepcopy(layer.norms[k]) if layer.batch_norm else nn.Identity()
        self.before: bool = layer.batch_norm == "before"

    def forward(
        self, inputs: Tensor, first: Tensor | None, lengths: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The layer's output at every step, and its states at the last true step."""
        reaching = self.input(inputs)
        if self.before:
            normal = self.norm(chosen(reaching, valid, self.training))
            reaching = masked(normal, reaching, valid, self.training)
        state = torch.zeros_like(reaching[0]) if first is None else first
        u = self.bounded()
        if not torch.jit.is_scripting() and not self.written_out:
            states = indrnn_states(reaching, u, state, valid, self.relu)
        elif valid is None:
            states = indrnn_loop(reaching, u, state, self.relu)
        else:
            states = indrnn_masked_loop(reaching, u, state, valid, self.relu)
        last = last_state(states, lengths)
        if not self.before:
            normal = self.norm(chosen(states, valid, self.training))
            states = masked(normal, states, valid, self.training)
        return dropped(states, self.dropout, self.training), last

    def bounded(self) -> Tensor:
        """The recurrent weights, clipped to the bound."""
        return self.u.clamp(-self.bound, self.bound)


class BothDirections(nn.Module):
    """A bidirectional layer on padded sequences: the second direction begins at the last true step.

    Args:
        layer: a bidirectional layer of torch, or a `PlainIndRNN`.
    """

    independent: Final[bool]  # TorchScript compiles only the branch that is taken

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.independent = layer, isinstance(layer, PlainIndRNN)

    def forward(self, states: Tensor, lengths: Tensor | None) -> Tensor:
        """States (time, batch, 2 × hidden) of `states` (time, batch, feature)."""
        if self.independent:
            return self.layer(states, None, lengths)[0]
        if lengths is None:
            return self.layer(states)[0]
        known = lengths.clamp(min=1).cpu()  # packing refuses an empty sequence
        packed = self.layer(pack_padded_sequence(states, known, enforce_sorted=False))[0]
        return pad_packed_sequence(packed, total_length=states.shape[0])[0]


class PlainConvolution(nn.Module):
    """A convolution of a stem with its batch normalisation and relu."""

    def __init__(self, layer: Any, norm: Any, padding: tuple[int, int]):
        super().__init__()
        self.layer, self.norm = copy.deepcopy(layer), copy.deepcopy(norm)
        self.before: int = padding[0]
        self.after: int = padding[1]
        self.stride: int = layer.stride[0]

    def forward(self, states: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Shortened `states` (time, batch, channel) and lengths."""
        padded = functional.pad(states.permute(1, 2, 0), (self.before, self.after))
        states = self.layer(padded).permute(2, 0, 1).contiguous()
        valid: Tensor | None = None
        if lengths is not None:
            lengths = (lengths + self.stride - 1).div(self.stride, rounding_mode="floor")
            valid = true_steps(states.shape[0], lengths)
        normal = self.norm(chosen(states, valid, self.training))
        return masked(normal, states, valid, self.training).relu(), lengths


class PlainSequenceModel(nn.Module):
    """A `SequenceModel` in torch's own layers, with the same names of layers and read-out.

    Args:
        model: model whose weights are copied.
    """

    bidirectional: Final[bool]

    def __init__(self, model: "SequenceModel"):
        super().__init__()
        self.readout: str = model.readout
        self.dropout: float = model.dropout
        self.bidirectional = model.bidirectional
        stem = model.stem
        self.stem = (
            nn.ModuleList(
                PlainConvolution(layer, norm, padding_of(*shape))
                for layer, norm, shape in zip(
                    stem.convolutions, stem.norms, stem.shapes, strict=True
                )
            )
            if stem is not None
            else nn.ModuleList()
        )
        layers = [to_torch(layer) for layer in model.recurrent]
        self.recurrent = nn.ModuleList(
            BothDirections(layer) if model.bidirectional else layer for layer in layers
        )
        norms = list(model.norms) or [nn.Identity() for _ in model.recurrent]
        self.norms = nn.ModuleList(copy.deepcopy(norm) for norm in norms)
        self.output = copy.deepcopy(model.output)
        self.train(model.training)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs (batch, output), or (time, batch, output) with the read-out "every".

        Args:
            inputs: (time, batch, input).
            lengths: (batch,) true steps of each padded sequence, int64; None when all are true.
        """
        states = inputs
        valid: Tensor | None = None
        if lengths is not None:
            valid = true_steps(inputs.shape[0], lengths)
            states = torch.where(valid, inputs, torch.zeros_like(inputs))
        for convolution in self.stem:
            states, lengths = convolution(states, lengths)
            valid = None if lengths is None else true_steps(states.shape[0], lengths)
        for layer, norm in zip(self.recurrent, self.norms):  # noqa: B905  TorchScript knows no strict
            states = layer(states, lengths) if self.bidirectional else layer(states)[0]
            normal = norm(chosen(states, valid, self.training))
            states = masked(normal, states, valid, self.training)
            states = dropped(states, self.dropout, self.training)
        if self.readout == "last":
            states = final_states(states, lengths, self.bidirectional)
        elif self.readout == "mean":
            states = states.mean(0) if lengths is None else states.sum(0) / lengths[:, None]
        return self.output(states)


def to_torch(layer: nn.Module) -> nn.Module:
    """A copy of a recurrent layer without rnnopt's kernels."""
    convert: Any = getattr(layer, "to_torch", None)
    return copy.deepcopy(layer) if convert is None else convert()


def chosen(states: Tensor, valid: Tensor | None, training: bool) -> Tensor:
    """Inputs (n, hidden) of batch normalisation: in training the true steps alone.

    In evaluation padding changes nothing and stays in place.
    """
    if valid is None or not training:
        return states.flatten(0, 1)
    return states[valid[:, :, 0]]


def masked(flat: Tensor, states: Tensor, valid: Tensor | None, training: bool) -> Tensor:
    """The results for `chosen` (n, hidden), put back in place; padding becomes zero."""
    if valid is None:
        return flat.view_as(states)
    if not training:
        return torch.where(valid, flat.view_as(states), torch.zeros_like(states))
    return torch.zeros_like(states).masked_scatter(valid, flat)


def dropped(states: Tensor, dropout: float, training: bool) -> Tensor:
    """`states` (time, batch, hidden) times a dropout mask shared over time."""
    if dropout == 0.0 or not training:
        return states
    return states * functional.dropout(torch.ones_like(states[0]), dropout)


def _copied(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(), weight.requires_grad)
