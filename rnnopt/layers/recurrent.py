"""What the layers that replace `torch.nn.RNN`, `torch.nn.LSTM` and `torch.nn.GRU` share."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnopt.layers.kernels import cpu, half_linear
from rnnopt.layers.kernels.half_linear import Precision
from rnnopt.layers.plain import script_refused
from rnnopt.layers.stepping import Stepping

Weights = list[Tensor | None]  # of a layer and direction: w_ih, w_hh, b_ih, b_hh
First = list[Tensor | None]  # initial state (batch, hidden), of an LSTM two of them; None is zeros
Run = tuple[Tensor, list[Tensor]]  # states (time, batch, hidden), and the last state


class TorchRecurrent(nn.RNNBase, Stepping):
    """Layers and directions one after the other, by fused kernels where they apply.

    A class of layers says how one layer runs in one direction (`run_fused`, `run_portable`), and
    what it replaces (`replaced`).
    """

    # Not subclasses of what they replace, which torch.compile does not trace.
    replaced: ClassVar[type[nn.RNNBase]]
    # Whether `run_fused` can take padded sequences backwards.
    padded_backwards: ClassVar[bool] = True
    precision: Precision = "float32"  # of the products on the CPU

    @property
    def rounds(self) -> bool:
        """Whether products are in bfloat16."""
        return self.precision == "bf16"

    def run_fused(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """One layer in one direction, by the compiled kernels."""
        raise NotImplementedError

    def run_rounded(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """One layer in one direction in torch's own operators, with products of numbers rounded to
        bfloat16."""
        raise NotImplementedError

    def run_portable(
        self, x: Tensor, weights: Weights, first: First, lengths: Tensor | None, reverse: bool
    ) -> Run:
        """The same in torch's own operators, in a form that can be exported."""
        raise NotImplementedError

    def worth_fusing(self, x: Tensor) -> bool:
        """Whether the kernels are the faster way for inputs of this shape."""
        return True

    def steps_and_batch(self, x: Tensor) -> tuple[int, int]:
        """The sizes of an input (time, batch, input), or of one in another layout."""
        if x.ndim == 2:
            return x.shape[0], 1
        return (x.shape[1], x.shape[0]) if self.batch_first else (x.shape[0], x.shape[1])

    def advance(self, input: Any, hx: Any, lengths: Tensor | None) -> tuple[Any, Any]:
        """`forward`, the same for every class of layers."""
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("A PackedSequence has its own lengths; leave out `lengths`.")
            if self.rounds and input.data.is_cpu:
                raise ValueError(
                    f"{type(self).__name__} needs padded sequences and `lengths` for"
                    " precision='bf16', got a PackedSequence."
                )
            return self._torch_forward(input, hx)
        if not self._expected(input, hx):
            return self._torch_forward(input, hx)  # raises torch's own error
        if lengths is not None:
            lengths = check_lengths(lengths, input, self.batch_first)
        # By name, because functional_call swaps them.
        weights = [getattr(self, name) for name in self._flat_weights_names]
        projected = bool(self.proj_size)
        if cpu.leaving_torch() and not projected:
            return self._layer_by_layer(self.run_portable, input, hx, lengths, weights)
        lengths = None if lengths is None or not len(lengths) else lengths
        states = [hx] if isinstance(hx, Tensor) else list(hx or ())
        usable = input.numel() > 0 and not projected and cpu.usable(input, *states, *weights)
        half = self.rounds and input.is_cpu and not torch.is_autocast_enabled("cpu")
        if half and input.numel() > 0:
            single = usable and input.dtype == torch.float32 and half_linear.kind() is not None
            run = self.run_fused if single else self.run_rounded
            return self._layer_by_layer(run, input, hx, lengths, weights)
        backwards = lengths is not None and self.bidirectional
        usable = usable and (self.padded_backwards or not backwards)
        if usable and (lengths is not None or self.worth_fusing(input)):
            return self._layer_by_layer(self.run_fused, input, hx, lengths, weights)
        if lengths is None:
            return self._torch_forward(input, hx)
        if self.num_layers == 1 and not self.bidirectional and self.replaced is not nn.LSTM:
            # Equal to packing, which sorts and synchronises a GPU: the steps before an end do not
            # depend on later steps. (Of an LSTM's cells torch returns only those of the last step.)
            return self._layer_by_layer(self.run_portable, input, hx, lengths, weights)
        packed = pack_padded_sequence(
            input, lengths.cpu(), batch_first=self.batch_first, enforce_sorted=False
        )
        output, last = self._torch_forward(packed, hx)
        steps = input.shape[1 if self.batch_first else 0]
        padded = pad_packed_sequence(output, self.batch_first, total_length=steps)
        return padded[0], last

    def _layer_by_layer(
        self, run: Any, input: Tensor, hx: Any, lengths: Tensor | None, weights: list[Any]
    ) -> tuple[Tensor, Any]:
        batched = input.ndim == 3
        pair = self.replaced is nn.LSTM
        given = None if hx is None else list(hx) if pair else [hx]
        if not batched:
            input = input.unsqueeze(int(not self.batch_first))
            given = None if given is None else [one.unsqueeze(1) for one in given]
        if not cpu.leaving_torch():  # comparing sizes would put them into the graph
            self._check_sizes(input, given)
        states = input.transpose(0, 1) if self.batch_first else input
        each = 4 if self.bias else 2  # weights of a layer and direction, in torch's order
        ends: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for reverse in range(2 if self.bidirectional else 1):
                place = len(ends)
                own = weights[place * each : (place + 1) * each]
                own += [None] * (4 - each)
                nothing: First = [None] * (2 if pair else 1)
                first = nothing if given is None else [one[place] for one in given]
                output, end = run(states, own, first, lengths, bool(reverse))
                outputs.append(output)
                ends.append(end)
            states = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
            if self.dropout and layer + 1 < self.num_layers:
                states = nn.functional.dropout(states, self.dropout, self.training)
        states = states.transpose(0, 1) if self.batch_first else states
        last = [torch.stack(list(one)) for one in zip(*ends, strict=True)]
        if not batched:
            states = states.squeeze(int(not self.batch_first))
            last = [one.squeeze(1) for one in last]
        return states, tuple(last) if pair else last[0]

    def _expected(self, input: Any, hx: Any) -> bool:
        """Whether inputs and states are tensors, as many as needed, of two or three dimensions."""
        if not isinstance(input, Tensor) or input.ndim not in (2, 3):
            return False
        if hx is None:
            return True
        if self.replaced is not nn.LSTM:
            hx = [hx]
        elif not isinstance(hx, (tuple, list)) or len(hx) != 2:
            return False
        return all(isinstance(one, Tensor) and one.ndim == input.ndim for one in hx)

    def _check_sizes(self, input: Tensor, given: list[Tensor] | None) -> None:
        batch = input.shape[0 if self.batch_first else 1]
        expected = (self.num_layers * (2 if self.bidirectional else 1), batch, self.hidden_size)
        for place, state in enumerate(given or []):
            if tuple(state.shape) != expected:
                name = "hidden" if self.replaced is not nn.LSTM else f"hidden[{place}]"
                raise RuntimeError(f"Expected {name} size {expected}, got {list(state.shape)}")
        self.check_input(input, None)

    def _torch_forward(self, input: Any, hx: Any) -> tuple[Any, Any]:
        """Torch's own `forward` with the layer's weights."""
        forward: Any = self.replaced.forward
        return forward(self, input, hx)

    @classmethod
    def from_torch(cls, layer: nn.RNNBase) -> Self:
        """A layer with a copy of the weights of the torch layer that this class replaces.

        Raises:
            TypeError: `layer` is not of that class.
        """
        if not isinstance(layer, (cls.replaced, cls)):
            name = cls.replaced.__name__
            raise TypeError(f"from_torch needs a torch.nn.{name}, got {type(layer).__name__}.")
        return _copy(layer, cls)

    def to_torch(self) -> nn.RNNBase:
        """The torch layer that this class replaces, with a copy of the weights.

        Its products have the precision of the weights.
        """
        return _copy(self, self.replaced)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return f"{shown}, precision={self.precision}" if self.rounds else shown

    def __prepare_scriptable__(self) -> nn.Module:
        raise script_refused(self)


def _copy(layer: Any, kind: Any) -> Any:
    weight = layer.weight_ih_l0
    options: dict[str, Any] = {}
    if hasattr(layer, "nonlinearity"):
        options["nonlinearity"] = layer.nonlinearity
    if layer.proj_size:
        options["proj_size"] = layer.proj_size
    if isinstance(layer, TorchRecurrent) and isinstance(layer, kind) and layer.rounds:
        options["precision"] = layer.precision
    copy = kind(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        device=weight.device,
        dtype=weight.dtype,
        **options,
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
