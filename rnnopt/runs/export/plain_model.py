"""A trained network in torch's own operators, from raw series to outputs, ready for export.

    raw series → subtract mean, divide by deviation → fill missing values → average steps
    → recurrent layers, normalisation, read-out → softmax, or the targets' own scale

A mean is stored as the sum of two float32 numbers, which are subtracted one after the other:
otherwise the mean of a channel around 1e6 would be wrong by up to 0.03. The first difference has no
rounding error for values near the mean. Programs that optimise a graph (OpenVINO) merge two
consecutive subtractions of constants into one float32 number. So the selection of the true steps,
which depends on the input, stands between them. The mean of the targets is added in the same way.

The network is the result of `SequenceModel.to_torch`, without fused kernels.
"""

import torch
from torch import Tensor, nn

from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.source import divide_outputs
from rnnopt.tasks.task import Loss
from rnnopt.tasks.user_data.preparation import Preparation


class PlainModel(nn.Module):
    """A network with its preparation, which `torch.jit.script` accepts.

    Args:
        model: a trained network; its weights are copied.
        preparation: preparation of its series; None if inputs are already prepared.
        loss: loss of its task, which determines the meaning of the outputs.
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
        width, outputs = model.input_size, model.output.out_features
        p = preparation
        self.prepares: bool = p is not None
        self.missing_filled = p is not None and p.missing in ("zero", "mean")
        self.pool: int = 1 if p is None else p.subsample
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
        self.network = model.to_torch()
        if p is not None:  # in the weights, so that no graph needs another operator
            divide_outputs(self.network.output, p.temperature)
        self.eval().requires_grad_(False)

    def _constant(self, name: str, values: object) -> None:
        self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32))

    def _in_two(self, name: str, values: Tensor) -> None:
        """Stores float64 numbers as the sum of two float32 numbers."""
        self._constant(name, values)
        self._constant(f"{name}_rest", values - values.float())

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Outputs (batch, output), or (batch, time, output) with the read-out "every".

        Args:
            inputs: (batch, time, channel), raw.
            lengths: (batch,) true steps of each series, int64.
        """
        valid = true_steps(inputs, lengths)
        states = inputs - self.mean
        states = torch.where(valid, states, torch.zeros_like(states)) - self.mean_rest
        states = states / self.deviation
        if self.missing_filled:
            states = torch.where(torch.isnan(states), self.fill, states)
        if self.pool > 1:
            states = torch.where(valid, states, torch.zeros_like(states))
            states, lengths = pooled(states, lengths, self.pool)
        outputs = self.network(states.transpose(0, 1), lengths)
        if self.answer == "softmax":
            outputs = outputs.softmax(-1)
        elif self.answer == "sigmoid":
            outputs = outputs.sigmoid()
        else:
            outputs = outputs * self.target_deviation + self.target_mean_rest
            answered = lengths[:, None] > 0
            outputs = torch.where(answered, outputs, torch.zeros_like(outputs)) + self.target_mean
        return outputs.transpose(0, 1) if outputs.ndim == 3 else outputs


def double(values: object) -> Tensor:
    """A tensor of float64."""
    return torch.as_tensor(values, dtype=torch.float64)


def read_out_of(model: PlainModel) -> tuple[Tensor, Tensor]:
    """Weight and bias of the read-out, up to softmax, sigmoid or the mean of the targets.

    Numbers are at the scale of the targets, by one product and one sum.
    """
    weight, bias = model.network.output.weight.double(), model.network.output.bias.double()
    if model.answer == "numbers":
        deviation = model.target_deviation.double()
        weight, bias = weight * deviation[:, None], bias * deviation + model.target_mean_rest
    return weight.float(), bias.float()


def affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Batch normalisation with the training statistics: one scale and shift per unit."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def true_steps(states: Tensor, lengths: Tensor) -> Tensor:
    """Which steps of (batch, time, …) are not padding: (batch, time, 1)."""
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
