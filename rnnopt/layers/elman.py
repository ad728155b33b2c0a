"""Elman layers that replace `torch.nn.RNN`, with fused forward and backward passes."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnopt.layers.kernels import portable, rounded
from rnnopt.layers.kernels.elman import fused
from rnnopt.layers.kernels.half_linear import Precision, check_precision
from rnnopt.layers.recurrent import First, Run, TorchRecurrent, Weights
from rnnopt.layers.recurrent import check_lengths as check_lengths


class ElmanRNN(TorchRecurrent):
    """`torch.nn.RNN` with the same arguments, weights and results, several times as fast on CPUs.

    It runs torch's own code where the fused kernels do not apply: on a GPU, where cuDNN is fastest;
    under autocast and the transforms of torch.func; in half precision; for a PackedSequence; in
    exported graphs (torch.jit.trace, torch.export, torch.onnx.export); and if no kernels were built
    (see `rnnopt doctor`). Do not change the outputs in place before the backward pass.

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout,
        bidirectional, device, dtype: as for `torch.nn.RNN`.
        precision: of the products on the CPU: "float32", which is that of the weights; or "bf16",
            bfloat16 summed in float32, which needs a processor with AMX or AVX512-BF16. States,
            gradients and sums stay in float32. It takes `lengths`, not a PackedSequence.

    Example:
        >>> layer = ElmanRNN(9, 80)
        >>> output, last = layer(torch.randn(128, 64, 9))
        >>> output.shape, last.shape
        (torch.Size([128, 64, 80]), torch.Size([1, 64, 80]))
    """

    replaced = nn.RNN
    padded_backwards = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        precision: Precision = "float32",
    ):
        check_precision("ElmanRNN", precision)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be tanh or relu, got {nonlinearity!r}.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.precision = precision
        self.nonlinearity = nonlinearity

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """The last layer's states at every step, and each layer's last states.

        Args:
            input: (time, batch, input), (batch, time, input) with `batch_first`, (time, input), or
                a PackedSequence.
            hx: initial states (layers × directions, batch, hidden), or None for zeros.
            lengths: (batch,) true steps of sequences padded at the end, each in 1 … time. As for a
                PackedSequence, states after the end are zero and the last state is that of the last
                true step.

        Returns:
            The same shapes as `torch.nn.RNN`. A loss that reads only the last states is cheapest:
            it needs no gradient of the other states.

        Raises:
            ValueError: lengths of the wrong shape, type or range.
        """
        return self.advance(input, hx, lengths)

    def run_fused(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """One layer in one direction, by the compiled kernels."""
        if not self.rounds:
            return self._run(fused, x, weights, first, lengths, reverse)
        relu, backwards = self.nonlinearity == "relu", reverse and lengths is not None
        if backwards:  # the kernel takes padded sequences forwards only
            x, reverse = portable.reversed_steps(x, lengths), False
        states, last = fused(x, *weights, *first, lengths, relu, reverse, True)
        return portable.reversed_steps(states, lengths) if backwards else states, [last]

    def run_rounded(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """The same in torch's own operators, with products of numbers rounded to bfloat16."""
        kind: rounded.Kind = "relu" if self.nonlinearity == "relu" else "tanh"
        states, *last = rounded.layer(kind, x, weights, first, lengths, reverse)
        return states, last

    def run_portable(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """The same in torch's own operators, in a form that can be exported."""
        return self._run(portable.elman, x, weights, first, lengths, reverse)

    def _run(
        self,
        operator: Any,
        x: Tensor,
        weights: Weights,
        first: First,
        lengths: Tensor | None,
        reverse: bool,
    ) -> Run:
        states, last = operator(x, *weights, *first, lengths, self.nonlinearity == "relu", reverse)
        return states, [last]
