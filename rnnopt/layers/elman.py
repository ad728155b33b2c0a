"""Elman layers that replace `torch.nn.RNN`, with fused forward and backward passes."""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnopt.layers.kernels import cpu, portable
from rnnopt.layers.kernels.elman import fused
from rnnopt.layers.plain import script_refused
from rnnopt.layers.stepping import Stepping


class ElmanRNN(nn.RNNBase, Stepping):
    """`torch.nn.RNN` with the same arguments, weights and results, several times as fast on CPUs.

    It runs torch's own code where the fused kernels do not apply: on a GPU, where cuDNN is fastest;
    under autocast and the transforms of torch.func; in half precision; for a PackedSequence; in
    exported graphs (torch.jit.trace, torch.export, torch.onnx.export); and if no kernels were built
    (see `rnnopt doctor`). Do not change the outputs in place before the backward pass.

    Args:
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout,
        bidirectional, device, dtype: as for `torch.nn.RNN`.

    Example:
        >>> layer = ElmanRNN(9, 80)
        >>> output, last = layer(torch.randn(128, 64, 9))
        >>> output.shape, last.shape
        (torch.Size([128, 64, 80]), torch.Size([1, 64, 80]))
    """

    # Not a subclass of nn.RNN, which torch.compile does not trace.

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
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("A PackedSequence has its own lengths; leave out `lengths`.")
            return _torch_forward(self, input, hx)
        if lengths is not None:
            lengths = check_lengths(lengths, input, self.batch_first)
        # By name, because functional_call swaps them.
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
            # Equal to packing, which sorts and synchronises a GPU: the steps before an end do not
            # depend on later steps.
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
        if not cpu.leaving_torch():  # comparing sizes would put them into the graph
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
            TypeError: `layer` is not a `torch.nn.RNN`.
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
    """`torch.nn.RNN.forward` with the layer's weights."""
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

    Their range is checked only on the CPU: on a GPU and under torch.compile it would need a
    synchronisation. An exported graph checks neither range nor number.

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
        return lengths.to(input.device, torch.long)  # comparing sizes would put them into the graph
    if lengths.shape != (batch,) or not whole:
        raise ValueError(
            f"lengths must be {batch} whole numbers, one per sequence, got {lengths.dtype} of shape"
            f" {tuple(lengths.shape)}."
        )
    if lengths.device.type == "cpu" and batch and not torch.compiler.is_compiling():
        low, high = int(lengths.min()), int(lengths.max())
        if low < 1 or high > steps:
            raise ValueError(f"lengths must be in 1 … {steps} (time), got {low} … {high}.")
    return lengths.to(input.device, torch.long)
