"""A trained network in torch's own operators, from raw series to answers, ready for export.

    raw series → subtract mean, divide by deviation → fill missing values → average steps
    → recurrent layers, normalisation, read-out → softmax, or the targets' own scale

A mean is kept as the sum of two float32 numbers, taken away one after the other: that of a channel
around 1e6 would else be wrong by up to 0.03. The first difference has no rounding where values are
near the mean.

None of the fused kernels is in it: Elman layers become torch.nn.RNN, an IndRNN layer a loop.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.layers.elman import ElmanRNN
from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.tasks.preparation import Preparation
from rnnopt.tasks.task import Loss


class PlainModel(nn.Module):
    """A network with its preparation, which `torch.jit.script` takes.

    Args:
        model: a trained network; its weights are copied.
        preparation: of its series; None where they are given as the network takes them.
        loss: of its task, which says what the outputs mean.
    """

    fill: Tensor
    mean: Tensor
    mean_rest: Tensor
    deviation: Tensor
    target_mean: Tensor
    target_mean_rest: Tensor
    target_deviation: Tensor

    def __init__(self, model: SequenceModel, preparation: Preparation | None, loss: Loss):
        super().__init__()
        first: Any = model.recurrent[0]
        width, outputs = first.input_size, model.output.out_features
        p = preparation
        self.missing_filled = p is not None and p.missing in ("zero", "mean")
        self.pool: int = 1 if p is None else p.subsample
        self.readout: str = model.readout
        self.answer: str = {"cross-entropy": "softmax", "binary-cross-entropy": "sigmoid"}.get(
            loss, "numbers"
        )
        mean = double(p.mean if p else [0.0] * width)
        deviation = double(p.deviation if p else [1.0] * width)
        self._constant("fill", (double(p.fill if p else [0.0] * width) - mean) / deviation)
        self._in_two("mean", mean)
        self._constant("deviation", deviation)
        numbers = p is not None and p.kind == "regression"
        self._in_two("target_mean", double(p.target_mean if p and numbers else [0.0] * outputs))
        self._constant("target_deviation", p.target_deviation if p and numbers else [1.0] * outputs)
        self.layers = nn.ModuleList(plain_layer(layer) for layer in model.recurrent)
        self.norms = nn.ModuleList(
            Affine(model.norms[i] if len(model.norms) else None, model.output.in_features)
            for i in range(len(self.layers))
        )
        self.output = nn.Linear(model.output.in_features, outputs)
        self.output.load_state_dict(model.output.state_dict())
        self.eval().requires_grad_(False)

    def _constant(self, name: str, values: object) -> None:
        self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32))

    def _in_two(self, name: str, values: Tensor) -> None:
        """Numbers of float64 as the sum of two of float32."""
        self._constant(name, values)
        self._constant(f"{name}_rest", values - values.float())

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Answers (batch, output), or (batch, time, output) with the read-out "every".

        Args:
            inputs: (batch, time, channel), raw.
            lengths: (batch,) true steps of each series, int64.
        """
        states = (inputs - self.mean - self.mean_rest) / self.deviation
        if self.missing_filled:
            states = torch.where(torch.isnan(states), self.fill, states)
        states = torch.where(true_steps(states, lengths), states, torch.zeros_like(states))
        if self.pool > 1:
            states, lengths = pooled(states, lengths, self.pool)
        valid = true_steps(states, lengths)
        states = states.transpose(0, 1)
        for layer, norm in zip(self.layers, self.norms):  # noqa: B905  TorchScript knows no strict
            states = norm(layer(states))
        states = states.transpose(0, 1)
        if self.readout == "last":
            index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
            states = states.gather(1, index)[:, 0]
        elif self.readout == "mean":
            states = torch.where(valid, states, torch.zeros_like(states)).sum(1)
            states = states / lengths[:, None]
        outputs = self.output(states)
        if self.answer == "softmax":
            return outputs.softmax(-1)
        if self.answer == "sigmoid":
            return outputs.sigmoid()
        return outputs * self.target_deviation + self.target_mean_rest + self.target_mean


def double(values: object) -> Tensor:
    """A tensor of float64."""
    return torch.as_tensor(values, dtype=torch.float64)


def true_steps(states: Tensor, lengths: Tensor) -> Tensor:
    """Which steps of (batch, time, …) are no padding: (batch, time, 1)."""
    steps = torch.arange(states.shape[1], device=states.device)
    return (steps[None] < lengths[:, None])[..., None]


def pooled(states: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The mean of every `width` true steps of (batch, time, channel), and the new lengths."""
    batch, time, channels = states.shape
    more = (width - time % width) % width
    states = torch.cat((states, states.new_zeros(batch, more, channels)), 1)
    sums = states.view(batch, (time + more) // width, width, channels).sum(2)
    starts = torch.arange(0, time, width, device=states.device)
    counts = (lengths[:, None] - starts[None]).clamp(1, width)
    return sums / counts[..., None], (lengths + width - 1).div(width, rounding_mode="floor")


class States(nn.Module):
    """A layer of torch's that gives its states alone."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)[0]


class PlainIndRNN(nn.Module):
    """h_t = f(W x_t + b + u ⊙ h_{t-1}), step by step."""

    u: Tensor

    def __init__(self, layer: IndRNN):
        super().__init__()
        self.relu: bool = layer.nonlinearity == "relu"
        self.input = nn.Linear(layer.input_size, layer.hidden_size)
        weights, bound = layer.state_dict(), layer.recurrent_bound
        self.input.load_state_dict(
            {"weight": weights["weight_ih_l0"], "bias": weights["bias_ih_l0"]}
        )
        u = weights["weight_hh_l0"].clone()
        self.register_buffer("u", u if bound is None else u.clamp(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        reaching = self.input(inputs)
        state = torch.zeros_like(reaching[0])
        states = []
        for step in range(reaching.shape[0]):
            state = reaching[step] + self.u * state
            state = state.relu() if self.relu else state.tanh()
            states.append(state)
        return torch.stack(states)


class Affine(nn.Module):
    """Batch normalisation with the statistics of training: one scale and shift a unit."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.Module | None, hidden: int):
        super().__init__()
        scale, shift = torch.ones(hidden), torch.zeros(hidden)
        if norm is not None:
            assert isinstance(norm, nn.BatchNorm1d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
            shift = norm.bias.detach() - norm.running_mean * scale
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, states: Tensor) -> Tensor:
        return states * self.scale + self.shift


def plain_layer(layer: nn.Module) -> nn.Module:
    """One recurrent layer of a SequenceModel, (time, batch, input) to (time, batch, hidden)."""
    if isinstance(layer, IndRNN):
        return PlainIndRNN(layer)
    if isinstance(layer, ElmanRNN):
        return States(layer.to_torch())
    assert isinstance(layer, (nn.LSTM, nn.GRU))
    copy = type(layer)(layer.input_size, layer.hidden_size)
    copy.load_state_dict(layer.state_dict())
    return States(copy)
