"""Gradient flow through time: ‖dL/dh_t‖ at every step t of every recurrent layer.

dL/dh_t is the total derivative, through all later steps. With e_t the gradient that reaches h_t
directly, from the users of the layer's output, and J_t = ∂h_t/∂h_{t-1},

    dL/dh_T = e_T,   dL/dh_t = e_t + J_{t+1}ᵀ dL/dh_{t+1}

It vanishes when the products of J_t shrink and explodes when they grow. Fused layers expose only
e_t to autograd. So the layer runs again from its inputs, step by step, and this second run is
differentiated: exactly, in the same way for every cell, and without any effect on the training.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.utils.rnn import PackedSequence

from rnnopt.diagnostics.state_gradients import Call
from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.kernels.portable import true_steps
from rnnopt.layers.recurrent import TorchRecurrent

SATURATED = 0.97  # a tanh state beyond it passes on less than 6 % of a gradient: 1 - 0.97²
LAYERS = (nn.RNN, nn.LSTM, nn.GRU, TorchRecurrent, IndRNN)


class GradientFlow:
    """Records ‖dL/dh_t‖ of every recurrent layer of a model after each `loss.backward()`.

    It records nn.RNN, nn.LSTM, nn.GRU and rnnopt's layers anywhere in the model, and does
    not change weights, gradients or random numbers. Stacked IndRNN layers, which else run as one
    operator, run one by one while it is attached: the same numbers up to rounding. A recorded pass
    costs about one more pass of a plain torch loop; `every` reduces their number.

    Args:
        model: any module with recurrent layers.
        every: record every `every`-th backward pass of each layer.
        lengths: (batch,) true steps of padded sequences, for layers that are called without
            lengths; unset means all steps. Set `flow.lengths` for each minibatch.

    Raises:
        ValueError: the model has no recurrent layer or one with `proj_size`, or `every` is below 1;
            in a forward pass, a layer has dropout inside, whose mask cannot be repeated.

    `records` has a dict for each layer and recorded pass:
        layer: name of the layer in the model, with `.l1`, `.l0_reverse`, … for a part of a layer.
        backward: number of the layer's backward pass, from 0.
        norms: (time,) mean of ‖dL/dh_t‖₂ over the sequences that have step t, with h_t the layer's
            output state; float64, on the CPU. L is the loss as given: if it is a mean over B
            sequences, each norm is B times smaller than that of a sum.
        first, last: the same at the layer's first step and at each sequence's last step.
        ratio: first / last; 0 where both gradients are zero.
        saturated: share of states |h| > 0.97; with relu the share of units that are always 0.
        finite: whether every entry of every dL/dh_t is finite.

    Example:
        >>> flow = GradientFlow(model, every=100)
        >>> with flow:
        ...     train(model)
        >>> flow.summary()["recurrent.0"]["ratio"]
        0.0031
    """

    def __init__(self, model: nn.Module, every: int = 1, lengths: Tensor | None = None):
        if every < 1:
            raise ValueError(f"GradientFlow needs every >= 1, got every={every}.")
        self.model, self.every, self.lengths = model, every, lengths
        self.layers = recurrent_layers(model)
        if not self.layers:
            raise ValueError(
                "GradientFlow needs a model with a recurrent layer (nn.RNN, nn.LSTM, nn.GRU,"
                f" ElmanRNN, LSTM, GRU or IndRNN), got {type(model).__name__} without one."
            )
        for name, layer in self.layers.items():
            if getattr(layer, "proj_size", 0):
                raise ValueError(
                    f"GradientFlow needs proj_size=0, got {layer.proj_size} in {name!r}."
                )
        self.records: list[dict[str, Any]] = []
        self._handles: list[Any] = []
        self._passes = dict.fromkeys(self.layers, 0)

    def attach(self) -> Self:
        """Starts recording; `with flow:` does the same."""
        self.detach()
        for name, layer in self.layers.items():
            self._handles.append(layer.register_forward_hook(self._hook(name), with_kwargs=True))
        return self

    def detach(self) -> None:
        """Stops recording, also in passes that have only run forward."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def summary(self) -> dict[str, dict[str, float]]:
        """Medians of first, last, ratio and saturated over each layer's records."""
        result: dict[str, dict[str, float]] = {}
        for name in dict.fromkeys(record["layer"] for record in self.records):
            mine = [record for record in self.records if record["layer"] == name]
            names = ("first", "last", "ratio", "saturated")
            result[name] = {key: finite_median([record[key] for record in mine]) for key in names}
        return result

    def _hook(self, name: str) -> Callable[..., None]:
        def after_forward(layer: nn.Module, args: tuple, kwargs: dict, result: Any) -> None:
            output, last = result
            packed = output if isinstance(output, PackedSequence) else None
            lasts = last if isinstance(last, tuple) else (last,)
            outputs = (output if packed is None else packed.data, *lasts)
            if not (torch.is_grad_enabled() and outputs[0].requires_grad):
                return
            call = Call(layer, args, kwargs, packed)
            lengths = call.lengths if call.lengths is not None else self.lengths
            if lengths is not None and len(lengths) != call.input.shape[1]:
                batch = call.input.shape[1]
                raise ValueError(f"GradientFlow needs {batch} lengths, got {len(lengths)}.")

            def after_backward(gradients: Sequence[Tensor | None]) -> None:
                if not self._handles:
                    return
                number = self._passes[name]
                self._passes[name] += 1
                if number % self.every == 0:
                    for place, found in call.state_gradients(gradients).items():
                        label = _label(name, place, layer)
                        record = _measure(*found, lengths, place.endswith("reverse"), layer)
                        self.records.append(dict(layer=label, backward=number) | record)

            register_multi_grad_hook(outputs, after_backward)

        return after_forward


def finite_median(values: Sequence[float]) -> float:
    """Median of the values that are not NaN; NaN if all are."""
    numbers = [value for value in values if not math.isnan(value)]
    return median(numbers) if numbers else math.nan


def recurrent_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The recurrent layers of a model by name, in the order of `named_modules`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}


def _label(name: str, place: str, layer: Any) -> str:
    several = layer.num_layers > 1 or getattr(layer, "bidirectional", False)
    return ".".join(filter(None, (name, place if several else ""))) or type(layer).__name__


def _measure(
    gradients: Tensor, states: Tensor, lengths: Tensor | None, reverse: bool, layer: Any
) -> dict[str, Any]:
    """The values of a record, from dL/dh_t and h_t (time, batch, hidden)."""
    gradients, states = gradients.cpu().double(), states.cpu()  # squares of float32 underflow
    steps, batch = gradients.shape[:2]
    lengths = torch.full((batch,), steps) if lengths is None else lengths.cpu()
    valid = true_steps(steps, lengths)
    norms = torch.where(valid, gradients, 0).norm(dim=2)
    first, last = norms[0].mean(), norms[lengths - 1, torch.arange(batch)].mean()
    if reverse:
        first, last = last, first
    if getattr(layer, "nonlinearity", "tanh") == "relu":
        share = torch.where(valid, states == 0, True).flatten(0, 1).all(0).double().mean()
    else:
        share = (states[valid[..., 0]].abs() > SATURATED).double().mean()
    return dict(
        norms=norms.sum(1) / valid[..., 0].sum(1),
        first=float(first),
        last=float(last),
        ratio=0.0 if first == last == 0 else float(first / last),
        saturated=float(share),
        finite=bool(torch.isfinite(gradients[valid[..., 0]]).all()),
    )
