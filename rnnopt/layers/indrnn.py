"""IndRNN layers: each unit's recurrence has one weight, which suits deep nets and long sequences.

    h_t = f(W x_t + b + u ⊙ h_{t-1}),   f = relu or tanh,   |u| ≤ U

Around each layer, as in the authors' networks: batch normalisation of the units' inputs or of their
states (statistics over batch and time), and dropout with one mask for all steps.

| paper | here | | paper | here |
|---|---|---|---|---|
| W, b | `weight_ih_l{k}`, `bias_ih_l{k}` | | u | `weight_hh_l{k}`, (hidden,) |
| U = MAG^(1/T) | `recurrent_bound`; `bound_for(T, MAG)` | | h_0 | `hx` |

Li, Li, Cook, Zhu and Gao, "Independently Recurrent Neural Network (IndRNN): Building A Longer and
Deeper RNN", CVPR 2018, https://arxiv.org/abs/1803.04831; settings as released for pixel MNIST
(Sunnydreamrain/IndRNN_pytorch).

Departures:
1. Initial input weights are uniform with the released bound sqrt(6 / (65 fan_in)); the paper gives
   none. Batch normalisation's own parameters start as torch's.
2. The bound is applied to the stored weights before each forward pass, as released; the paper
   clips after each update. A weight may exceed it between a step and the next forward pass.
"""

import math
from typing import Literal, TypedDict, Unpack, get_args

import torch
from torch import Tensor, nn

from rnnopt.layers.elman import check_lengths
from rnnopt.layers.kernels import cpu, indrnn_stack
from rnnopt.layers.kernels import indrnn as operators
from rnnopt.layers.kernels.batch_norm import normalize
from rnnopt.layers.kernels.half_linear import Precision, check_precision
from rnnopt.layers.kernels.portable import reversed_steps, true_steps
from rnnopt.layers.plain import PlainIndRNN, script_refused
from rnnopt.layers.stepping import Stepping

Norm = Literal["before", "after"]


class Factory(TypedDict, total=False):
    """Device and type of a layer's weights."""

    device: torch.device | str | None
    dtype: torch.dtype | None


class IndRNN(nn.Module, Stepping):
    """Independently recurrent layers, fused over time on CPU and GPU.

    Args:
        input_size: features of each step.
        hidden_size: units of each layer.
        num_layers: layers, ≥ 1.
        nonlinearity: "relu" or "tanh".
        bias: whether the input products have a bias.
        batch_first: input and output are (batch, time, feature).
        dropout: probability in [0, 1) that a unit is zero for a whole sequence, after every layer.
        batch_norm: normalise the units' inputs ("before" the recurrence), their states ("after") or
            nothing (None).
        recurrent_bound: largest |u|, see `bound_for`; each forward pass in training clips the
            weights to it. None for no bound.
        recurrent_range: range of the uniform initial u; unset means from 0 to the bound, or to 1.
        precision: of the products of weights and inputs on the CPU: "float32", which is that of the
            weights; or "bf16", bfloat16 summed in float32, which needs a processor with AMX or
            AVX512-BF16. States, normalisation and sums stay in float32.
        bidirectional: a second direction in each layer, from the last true step to the first, with
            weights of its own (suffix `_reverse`); the next layer gets the states of both.
        factory: `device` and `dtype` of the weights.

    Example:
        >>> bound = IndRNN.bound_for(steps=784)
        >>> layer = IndRNN(1, 128, num_layers=6, batch_norm="after", recurrent_bound=bound)
        >>> output, last = layer(torch.randn(784, 32, 1))
        >>> output.shape, last.shape
        (torch.Size([784, 32, 128]), torch.Size([6, 32, 128]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["relu", "tanh"] = "relu",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        batch_norm: Norm | None = None,
        recurrent_bound: float | None = None,
        recurrent_range: tuple[float, float] | None = None,
        precision: Precision = "float32",
        bidirectional: bool = False,
        **factory: Unpack[Factory],
    ):
        super().__init__()
        sizes = dict(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"IndRNN needs {name} >= 1, got {name}={value}.")
        if nonlinearity not in ("relu", "tanh"):
            raise ValueError(f"nonlinearity must be relu or tanh, got {nonlinearity!r}.")
        if batch_norm is not None and batch_norm not in get_args(Norm):
            raise ValueError(f"batch_norm must be before, after or None, got {batch_norm!r}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got dropout={dropout}.")
        if recurrent_bound is not None and not 0 < recurrent_bound < math.inf:
            raise ValueError(f"recurrent_bound must be positive and finite, got {recurrent_bound}.")
        check_precision("IndRNN", precision)
        if recurrent_range is None:
            recurrent_range = (0.0, 1.0 if recurrent_bound is None else recurrent_bound)
        if len(recurrent_range) != 2 or not recurrent_range[0] <= recurrent_range[1]:
            raise ValueError(f"recurrent_range must be (low, high), got {recurrent_range}.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.nonlinearity, self.bias, self.batch_first = nonlinearity, bias, batch_first
        self.dropout, self.batch_norm = dropout, batch_norm
        self.recurrent_bound, self.recurrent_range = recurrent_bound, recurrent_range
        self.precision, self.bidirectional = precision, bidirectional
        for k, suffix in enumerate(self.suffixes):
            first = k < self.directions
            size = input_size if first else self.directions * hidden_size
            shapes = {"weight_ih": (hidden_size, size), "weight_hh": (hidden_size,)}
            if bias:
                shapes["bias_ih"] = (hidden_size,)
            for name, shape in shapes.items():
                weight = nn.Parameter(torch.empty(shape, **factory))
                self.register_parameter(f"{name}_{suffix}", weight)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(hidden_size, **factory) for _ in self.suffixes if batch_norm
        )
        self.reset_parameters()

    @staticmethod
    def bound_for(steps: int, magnitude: float = 5.0) -> float:
        """Bound of |u| with which a state grows at most `magnitude`-fold: magnitude^(1/steps).

        The authors' released code uses magnitude 5, their paper 2.
        """
        if steps < 1 or not magnitude > 0:
            raise ValueError(f"Needs steps >= 1 and magnitude > 0, got {steps} and {magnitude}.")
        return magnitude ** (1 / steps)

    @property
    def directions(self) -> int:
        """Directions of each layer, 1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def suffixes(self) -> list[str]:
        """What the names of the weights end in, for each layer and direction."""
        each = ("", "_reverse")[: self.directions]
        return [f"l{k}{direction}" for k in range(self.num_layers) for direction in each]

    def reset_parameters(self) -> None:
        """Draws the initial weights."""
        for name, parameter in self.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.kaiming_uniform_(parameter, a=8)
            elif name.startswith("weight_hh"):
                nn.init.uniform_(parameter, *self.recurrent_range)
            elif name.startswith("bias_ih"):
                nn.init.zeros_(parameter)
        for norm in self.norms:
            norm.reset_parameters()  # type: ignore[operator]

    def forward(
        self, input: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The last layer's output at every step, and each layer's last states.

        Args:
            input: (time, batch, input), or (batch, time, input) with `batch_first`.
            hx: initial states (layers × directions, batch, hidden), or None for zeros.
            lengths: (batch,) true steps of sequences padded at the end, each in 1 … time. Outputs
                after the end are zero and do not enter the batch statistics.

        Returns:
            output (time, batch, directions × hidden), after normalisation and dropout, and last
            (layers × directions, batch, hidden), the states at the last true step (of a second
            direction: at the first step), before both.

        Raises:
            ValueError: an input of a wrong shape.
        """
        if lengths is not None:
            lengths = check_lengths(lengths, input, self.batch_first)
        if not cpu.leaving_torch():  # comparing sizes would put them into the graph
            self._check_sizes(input, hx)
        states = input.transpose(0, 1) if self.batch_first else input
        valid = None if lengths is None else true_steps(states.shape[0], lengths)
        if valid is not None:
            states = torch.where(valid, states, 0)  # a NaN there would reach the weights' gradients
        relu, half = self.nonlinearity == "relu", self.precision == "bf16"
        stackable = self.batch_norm == "after" and valid is None and not self.bidirectional
        if stackable and cpu.own_operators():
            layers = [self.stacked(k, norm) for k, norm in enumerate(self.norms)]
            if indrnn_stack.stackable(states, layers, hx, half):
                layers = [one._replace(mask=self._mask(states)) for one in layers]
                states, ends = indrnn_stack.stack(states, layers, hx, relu, True, half)
                return states.transpose(0, 1) if self.batch_first else states, ends
        last: list[Tensor] = []
        for _ in range(self.num_layers):
            outputs = []
            for reverse in range(self.directions):
                first = None if hx is None else hx[len(last)]
                output, end = self._direction(states, len(last), bool(reverse), first, lengths)
                outputs.append(output)
                last.append(end)
            states = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
        return states.transpose(0, 1) if self.batch_first else states, torch.stack(last)

    def _direction(
        self, states: Tensor, k: int, reverse: bool, first: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Output and last states of layer and direction k."""
        valid = None if lengths is None else true_steps(states.shape[0], lengths)
        relu, half = self.nonlinearity == "relu", self.precision == "bf16"
        weight, bias, u = self._weights(k)
        states = reversed_steps(states, lengths) if reverse else states
        if self.batch_norm == "before":
            reaching = operators.product(states, weight, bias, half)
            reaching = normalize(self.norms[k], reaching, valid)
            states, end = operators.recurrence(reaching, u, first, lengths, relu)
        else:
            states, end = operators.layer(states, weight, bias, u, first, lengths, relu, half)
        mask = self._mask(states)
        if self.batch_norm == "after":
            states = normalize(self.norms[k], states, valid, mask)
        elif mask is not None:
            states = states * mask
        return reversed_steps(states, lengths) if reverse else states, end

    def _weights(self, k: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """W, b and u of layer and direction k, u within the bound."""
        suffix = self.suffixes[k]
        bias = getattr(self, f"bias_ih_{suffix}") if self.bias else None
        u = self._bounded(getattr(self, f"weight_hh_{suffix}"))
        return getattr(self, f"weight_ih_{suffix}"), bias, u

    def _mask(self, states: Tensor) -> Tensor | None:
        """Factors (batch, hidden) of a layer's output at every step; None without dropout."""
        if not (self.dropout and self.training):
            return None
        return nn.functional.dropout(
            states.new_ones(states.shape[1], self.hidden_size), self.dropout
        )

    def stacked(self, k: int, norm: nn.Module) -> indrnn_stack.StackedLayer:
        """Layer k and its batch normalisation as a part of a stack, without dropout."""
        return indrnn_stack.StackedLayer(*self._weights(k), norm, None)

    def _check_sizes(self, input: Tensor, hx: Tensor | None) -> None:
        if input.ndim != 3 or input.shape[2] != self.input_size:
            wanted = "(batch, time" if self.batch_first else "(time, batch"
            raise ValueError(
                f"input must be {wanted}, {self.input_size}), got {tuple(input.shape)}."
            )
        if input.numel() == 0:
            raise ValueError(f"input must not be empty, got {tuple(input.shape)}.")
        batch = input.shape[0 if self.batch_first else 1]
        expected = (len(self.suffixes), batch, self.hidden_size)
        if hx is not None and tuple(hx.shape) != expected:
            raise ValueError(f"hx must be {expected}, got {tuple(hx.shape)}.")

    def _bounded(self, u: Tensor) -> Tensor:
        bound = self.recurrent_bound
        if bound is None:
            return u
        if not (self.training and torch.is_grad_enabled() and cpu.own_operators()):
            return u.clamp(-bound, bound)  # there are no stored weights to change
        # Through .data: clamping twice changes nothing, so autograd must not count it as a change
        # of a saved tensor.
        u.data.clamp_(-bound, bound)
        return u

    def to_torch(self) -> PlainIndRNN:
        """A copy in torch's own operators with the same call, for TorchScript and export.

        Its products have the precision of the weights.
        """
        return PlainIndRNN(self)

    def __prepare_scriptable__(self) -> nn.Module:
        raise script_refused(self)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.num_layers > 1:
            parts.append(f"num_layers={self.num_layers}")
        parts.append(f"nonlinearity={self.nonlinearity}")
        if not self.bias:
            parts.append("bias=False")
        for name in ("batch_first", "dropout", "batch_norm", "recurrent_bound", "bidirectional"):
            if getattr(self, name):
                parts.append(f"{name}={getattr(self, name)}")
        if self.precision != "float32":
            parts.append(f"precision={self.precision}")
        return ", ".join(parts)
