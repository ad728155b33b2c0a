"""LSTM layers that replace `torch.nn.LSTM`, with fused forward and backward passes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnopt.layers.kernels import gated, portable_gated, rounded
from rnnopt.layers.kernels.half_linear import Precision, check_precision
from rnnopt.layers.kernels.lstm import fused
from rnnopt.layers.recurrent import First, Run, TorchRecurrent, Weights


class LSTM(TorchRecurrent):
    """`torch.nn.LSTM` with the same arguments, weights and results, faster on CPUs.

    It runs torch's own code where the fused kernels do not apply: on a GPU, where cuDNN is fastest;
    with projections (`proj_size`); under autocast and the transforms of torch.func; in half
    precision; for a PackedSequence; in exported graphs (torch.jit.trace, torch.export,
    torch.onnx.export); and if no kernels were built (see `rnnopt doctor`). Do not change the
    outputs in place before the backward pass.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
        device, dtype: as for `torch.nn.LSTM`.
        precision: of the products on the CPU: "float32", which is that of the weights; or "bf16",
            bfloat16 summed in float32, which needs a processor with AMX or AVX512-BF16. States,
            gates, cells and sums stay in float32. It takes `lengths`, not a PackedSequence.

    Example:
        >>> layer = LSTM(9, 80)
        >>> output, (last, cell) = layer(torch.randn(128, 64, 9))
        >>> output.shape, last.shape, cell.shape
        (torch.Size([128, 64, 80]), torch.Size([1, 64, 80]), torch.Size([1, 64, 80]))
    """

    replaced = nn.LSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        precision: Precision = "float32",
    ):
        check_precision("LSTM", precision)
        if precision == "bf16" and proj_size:
            raise ValueError(f"LSTM needs proj_size=0 for precision='bf16', got {proj_size}.")
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device=device,
            dtype=dtype,
        )
        self.precision = precision

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """The last layer's states at every step, and each layer's last states and cells.

        Args:
            input: (time, batch, input), (batch, time, input) with `batch_first`, (time, input), or
                a PackedSequence.
            hx: initial states and cells (layers × directions, batch, hidden), or None for zeros.
            lengths: (batch,) true steps of sequences padded at the end, each in 1 … time. As for a
                PackedSequence, states after the end are zero, the last state is that of the last
                true step, and the second direction begins there.

        Returns:
            The same shapes as `torch.nn.LSTM`. A loss that reads only the last states is cheapest:
            it needs no gradient of the other states.

        Raises:
            ValueError: lengths of the wrong shape, type or range.
        """
        if isinstance(input, Tensor) and input.is_cpu and _refused_under_autocast():
            with torch.autocast("cpu", enabled=False):
                input, hx = _like(self.weight_hh_l0, input, hx)  # type: ignore[arg-type]
                return self.advance(input, hx, lengths)
        return self.advance(input, hx, lengths)

    # nn.LSTM's own, whose `forward` calls them.

    def check_forward_args(self, input: Any, hidden: Any, batch_sizes: Any) -> None:
        """Raises torch's errors for wrong shapes."""
        torchs: Any = nn.LSTM
        torchs.check_forward_args(self, input, hidden, batch_sizes)

    def get_expected_cell_size(self, input: Any, batch_sizes: Any) -> tuple[int, int, int]:
        """Shape of the cells."""
        torchs: Any = nn.LSTM
        return torchs.get_expected_cell_size(self, input, batch_sizes)

    def permute_hidden(self, hx: Any, permutation: Any) -> Any:
        """States and cells of a PackedSequence in the order of its sequences."""
        torchs: Any = nn.LSTM
        return torchs.permute_hidden(self, hx, permutation)

    def worth_fusing(self, x: Tensor) -> bool:
        """Whether the kernels are the faster way for inputs of this shape.

        In single precision torch runs an LSTM in oneDNN, which needs less time before the first
        step. With few sequences, each step reads all weights for little arithmetic in either.
        """
        if x.dtype != torch.float32 or self.hidden_size < 96:
            return True
        steps, batch = self.steps_and_batch(x)
        if gated.wide_for_avx2(x, self.hidden_size) and (
            batch <= 8 or (batch >= 256 and steps < 50)
        ):
            return False
        if batch >= 16:
            return True
        return steps >= (100 if batch > 2 and self.hidden_size > 256 else 25)

    def run_fused(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """One layer in one direction, by the compiled kernels."""
        keep = gated.needs_backward(x, *weights, *first)
        states, last, cells, _ = fused(x, *weights, *first, lengths, reverse, keep, self.rounds)
        return states, [last, cells]

    def run_rounded(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """The same in torch's own operators, with products of numbers rounded to bfloat16."""
        states, *last = rounded.layer("lstm", x, weights, first, lengths, reverse)
        return states, last

    def run_portable(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """The same in torch's own operators, in a form that can be exported."""
        states, *last = portable_gated.gated("lstm", x, weights, first, lengths, reverse)
        return states, last


def _refused_under_autocast() -> bool:
    """Whether torch's own LSTM raises an error under autocast on this processor.

    It calls oneDNN without asking whether oneDNN has an LSTM of that precision. The weights' own
    precision is taken then, which on such a processor is the faster one.
    """
    if not torch.is_autocast_enabled("cpu"):
        return False
    half = torch.get_autocast_dtype("cpu") == torch.float16
    ops: Any = torch.ops.mkldnn
    supported = ops._is_mkldnn_fp16_supported if half else ops._is_mkldnn_bf16_supported
    return torch.backends.mkldnn.is_available() and not supported()


def _like(weight: Tensor, input: Tensor, hx: Any) -> tuple[Tensor, Any]:
    """Inputs and states in the precision of the weights."""
    if isinstance(hx, tuple | list):
        hx = tuple(one.to(weight.dtype) if isinstance(one, Tensor) else one for one in hx)
    return input.to(weight.dtype), hx
