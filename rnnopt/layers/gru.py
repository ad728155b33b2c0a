"""GRU layers that replace `torch.nn.GRU`, with fused forward and backward passes."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnopt.layers.kernels import gated, portable_gated, rounded
from rnnopt.layers.kernels.gru import fused
from rnnopt.layers.kernels.half_linear import Precision, check_precision
from rnnopt.layers.recurrent import First, Run, TorchRecurrent, Weights


class GRU(TorchRecurrent):
    """`torch.nn.GRU` with the same arguments, weights and results, faster on CPUs.

    It runs torch's own code where the fused kernels do not apply: on a GPU, where cuDNN is fastest;
    under autocast and the transforms of torch.func; in half precision; for a PackedSequence; in
    exported graphs (torch.jit.trace, torch.export, torch.onnx.export); and if no kernels were built
    (see `rnnopt doctor`). Do not change the outputs in place before the backward pass.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
        dtype: as for `torch.nn.GRU`.
        precision: of the products on the CPU: "float32", which is that of the weights; or "bf16",
            bfloat16 summed in float32, which needs a processor with AMX or AVX512-BF16. States,
            gates and sums stay in float32. It takes `lengths`, not a PackedSequence.

    Example:
        >>> layer = GRU(9, 80)
        >>> output, last = layer(torch.randn(128, 64, 9))
        >>> output.shape, last.shape
        (torch.Size([128, 64, 80]), torch.Size([1, 64, 80]))
    """

    replaced = nn.GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        precision: Precision = "float32",
    ):
        check_precision("GRU", precision)
        super().__init__(
            "GRU",
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
                PackedSequence, states after the end are zero, the last state is that of the last
                true step, and the second direction begins there.

        Returns:
            The same shapes as `torch.nn.GRU`. A loss that reads only the last states is cheapest:
            it needs no gradient of the other states.

        Raises:
            ValueError: lengths of the wrong shape, type or range.
        """
        return self.advance(input, hx, lengths)

    def worth_fusing(self, x: Tensor) -> bool:
        """Whether the kernels are the faster way for inputs of this shape."""
        steps, batch = self.steps_and_batch(x)
        return not (gated.wide_for_avx2(x, self.hidden_size) and batch >= 256 and steps < 50)

    def run_fused(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """One layer in one direction, by the compiled kernels."""
        keep = gated.needs_backward(x, *weights, *first)
        states, last, _ = fused(x, *weights, *first, lengths, reverse, keep, self.rounds)
        return states, [last]

    def run_rounded(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """The same in torch's own operators, with products of numbers rounded to bfloat16."""
        states, *last = rounded.layer("gru", x, weights, first, lengths, reverse)
        return states, last

    def run_portable(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """The same in torch's own operators, in a form that can be exported."""
        states, *last = portable_gated.gated("gru", x, weights, first, lengths, reverse)
        return states, last
