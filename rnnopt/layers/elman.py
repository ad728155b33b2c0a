"""Elman networks that take torch's place: `torch.nn.RNN` with a fused forward and backward."""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnopt.layers.kernels import cpu, portable
from rnnopt.layers.kernels.elman import fused
from rnnopt.layers.plain import script_refused


class ElmanRNN(nn.RNNBase):
    """`torch.nn.RNN` with the same arguments, weights and results, several times as fast on CPUs.

    Where the fused kernels do not apply it runs torch's own code: on a GPU, where cuDNN is the
    fastest there is; under autocast and the transforms of torch.func; in half precision; for a
    PackedSequence; in graphs that leave torch (torch.jit.trace, torch.export, torch.onnx.export);
    where no kernels were built (see `rnnopt doctor`). The outputs must not be changed in place
    before the backward pass.

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout,
        bidirectional, device, dtype: as for `torch.nn.RNN`.

    Example:
        >>> layer = ElmanRNN(9, 80)
        >>> output, last = layer(torch.randn(128, 64, 9))
        >>> output.shape, last.shape
        (torch.Size([128, 64, 80]), torch.Size([1, 64, 80]))
    """

    # Not a subclass of nn.RNN, which torch.compile refuses to look into.

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
    ):
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
        self.nonlinearity = nonlinearity

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """States of the last layer at every step, and last states of every layer.

        Args:
            input: (time, batch, input), (batch, time, input) with `batch_first`, (time, input), or
                a PackedSequence.
            hx: first states (layers × directions, batch, hidden), or None for zeros.
            lengths: (batch,) true steps of sequences padded at the end, each in 1 … time. As for a
                PackedSequence, states after the end are zero and the last state is the one at the
                last true step.

        Returns:
            Shaped as from `torch.nn.RNN`. A loss that reads the last states alone is cheapest: it
            spares the gradient of all the others.

        Raises:
            ValueError: lengths of the wrong shape, type or range.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("A PackedSequence has its own lengths; leave out `lengths`.")
            return _torch_forward(self, input, hx)
        if lengths is not None:
            lengths = check_lengths(lengths, input, self.batch_first)
        # By name, for functional_call swaps them.
        weights = [getattr(self, name) for name in self._flat_weights_names]
        if cpu.leaving_torch():
            return self._layer_by_layer(portable.elman, input, hx, lengths, weights)
        lengths = None if lengths is None or not len(lengths) else lengths
        usable = input.numel() > 0 and cpu.usable(input, hx, *weights)
        if usable and not (lengths is not None and self.bidirectional):
            return self._layer_by_layer(fused, input, hx, lengths, weights)
        if lengths is None:
            return _torch_forward(self, input, hx)
        if self.num_layers == 1 and not self.bidirectional:
            # As good as packing, which sorts and, on a GPU, waits: the steps before an end do not
            # depend on what follows.
            return self._layer_by_layer(portable.elman, input, hx, lengths, weights)
        packed = pack_padded_sequence(
            input, lengths.cpu(), batch_first=self.batch_first, enforce_sorted=False
        )
        output, last = _torch_forward(self, packed, hx)
        steps = input.shape[1 if self.batch_first else 0]
        padded = pad_packed_sequence(output, self.batch_first, total_length=steps)
        return padded[0], last

    def _layer_by_layer(
        self,
        run: Callable[..., tuple[Tensor, Tensor]],
        input: Tensor,
        hx: Tensor | None,
        lengths: Tensor | None,
        weights: list[Any],
    ) -> tuple[Tensor, Tensor]:
        """`run`, with the arguments of `portable.elman`, on every layer and direction."""
        batched = input.ndim == 3
        if not batched:
            if input.ndim != 2 or (hx is not None and hx.ndim != 2):
                _torch_forward(self, input, hx)  # raises torch's own error
            input, hx = input.unsqueeze(int(not self.batch_first)), _unsqueeze(hx)
        if not cpu.leaving_torch():  # sizes that are compared would become part of the graph
            self._check_sizes(input, hx)
        states = input.transpose(0, 1) if self.batch_first else input
        each = 4 if self.bias else 2  # weights of a layer and direction, in torch's order
        last: list[Tensor] = []
        for layer in range(self.num_layers):
            outputs = []
            for reverse in range(2 if self.bidirectional else 1):
                place = len(last) * each
                w_ih, w_hh, *biases = weights[place : place + each]
                output, end = run(
                    states,
                    w_ih,
                    w_hh,
                    *(biases or (None, None)),
                    None if hx is None else hx[len(last)],
                    lengths,
                    self.nonlinearity == "relu",
                    bool(reverse),
                )
                outputs.append(output)
                last.append(end)
            states = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
            if self.dropout and layer + 1 < self.num_layers:
                states = nn.functional.dropout(states, self.dropout, self.training)
        states = states.transpose(0, 1) if self.batch_first else states
        ends = torch.stack(last)
        if not batched:
            return states.squeeze(int(not self.batch_first)), ends.squeeze(1)
        return states, ends

    def _check_sizes(self, input: Tensor, hx: Tensor | None) -> None:
        batch = input.shape[0 if self.batch_first else 1]
        expected = (self.num_layers * (2 if self.bidirectional else 1), batch, self.hidden_size)
        if hx is not None and tuple(hx.shape) != expected:
            raise RuntimeError(f"Expected hidden size {expected}, got {list(hx.shape)}")
        self.check_input(input, None)

    @classmethod
    def from_torch(cls, layer: nn.RNNBase) -> Self:
        """A layer with a copy of the weights of a `torch.nn.RNN`.

        Raises:
            TypeError: `layer` is no `torch.nn.RNN`.
        """
        if not isinstance(layer, (nn.RNN, ElmanRNN)):
            raise TypeError(f"from_torch needs a torch.nn.RNN, got {type(layer).__name__}.")
        return _copy(layer, cls)

    def to_torch(self) -> nn.RNN:
        """A `torch.nn.RNN` with a copy of the weights."""
        return _copy(self, nn.RNN)

    def __prepare_scriptable__(self) -> nn.Module:
        raise script_refused(self)


def _torch_forward(layer: ElmanRNN, input: Any, hx: Tensor | None) -> tuple[Any, Tensor]:
    """What torch.nn.RNN does with the same weights."""
    forward: Any = nn.RNN.forward
    return forward(layer, input, hx)


def _unsqueeze(hx: Tensor | None) -> Tensor | None:
    return None if hx is None else hx.unsqueeze(1)


def _copy(layer: Any, kind: Any) -> Any:
    weight = layer.weight_ih_l0
    copy = kind(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        nonlinearity=layer.nonlinearity,
        bias=layer.bias,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        device=weight.device,
        dtype=weight.dtype,
    )
    copy.load_state_dict(layer.state_dict())
    for own, other in zip(copy.parameters(), layer.parameters(), strict=True):
        own.requires_grad_(other.requires_grad)
    return copy.train(layer.training)


def check_lengths(lengths: Tensor, input: Tensor, batch_first: bool = False) -> Tensor:
    """`lengths` as int64 on the input's device.

    Their range is checked on the CPU alone: on a GPU, and while torch.compile looks on, it would
    have to wait for them. A graph that leaves torch checks neither range nor number.

    Raises:
        ValueError: not one whole number in 1 … time for each sequence of a batch.
    """
    if input.ndim != 3:
        raise ValueError(f"lengths need a batch (three dimensions), got {tuple(input.shape)}.")
    steps, batch = input.shape[:2] if not batch_first else (input.shape[1], input.shape[0])
    if not isinstance(lengths, Tensor):
        raise ValueError(f"lengths must be a tensor, got {type(lengths).__name__}.")
    whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    if whole and lengths.ndim == 1 and cpu.leaving_torch():
        return lengths.to(input.device, torch.long)  # what is compared would be part of the graph
    if lengths.shape != (batch,) or not whole:
        raise ValueError(
            f"lengths must be {batch} whole numbers, one a sequence, got {lengths.dtype} of shape"
            f" {tuple(lengths.shape)}."
        )
    if lengths.device.type == "cpu" and batch and not torch.compiler.is_compiling():
        low, high = int(lengths.min()), int(lengths.max())
        if low < 1 or high > steps:
            raise ValueError(f"lengths must be in 1 … {steps} (time), got {low} … {high}.")
    return lengths.to(input.device, torch.long)
