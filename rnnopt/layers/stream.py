"""A sequence model that answers step by step, for control loops and sensors."""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnopt.layers.kernels.stream import Call, Level, ReadOut, found, plain_step
from rnnopt.layers.stepping import levels_of, normalized

if TYPE_CHECKING:
    from rnnopt.layers.sequence_model import SequenceModel

NUMBERS = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}
# The state of a layer: (1, batch, hidden), of an LSTM a pair of them.
LayerState = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StreamState:
    """What a stream remembers: everything that its later answers depend on.

    Args:
        layers: state of each layer, as `SequenceModel.advance` takes and gives them: (1, batch,
            hidden), of an LSTM a pair of them. The batch is 1 without a batch dimension.
        total: (batch, hidden), the sum of the states so far, float64; only for readout="mean".
        steps: steps in `total`.
    """

    layers: Sequence[LayerState]
    total: Tensor | None = None
    steps: int = 0


class Stream:
    """A model on sequences that come step by step; made by `SequenceModel.stream`.

    After T steps `push` has answered what `model.eval()` answers for these T steps together; with
    readout="every" its last output. It is always evaluation, whatever mode the model is in. It
    reads the model's present weights: changes in place, as by an optimizer, count from the next
    step on. A model that was moved to another device or type needs a new stream.

    On the CPU, in float32 or float64 and for a few sequences, a step is one call of compiled code
    that allocates nothing. Elsewhere it is torch's own operators, with the same answers. A stream
    is for one thread at a time. Hooks of the model's modules are not called.

    Args:
        model: model.
        batch_size: sequences that run side by side; None for one without a batch dimension.

    Example:
        >>> model = SequenceModel(input_size=3, hidden_size=16, output_size=2, cell="gru")
        >>> stream = model.stream()
        >>> stream.push([0.1, -0.2, 0.3]).shape
        torch.Size([2])
    """

    def __init__(self, model: "SequenceModel", batch_size: int | None = None):
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ValueError(f"stream needs batch_size >= 1 or None, got {batch_size!r}.")
        self.model, self.batch_size = model, batch_size
        self._levels = _levels(model)
        batch, first = batch_size or 1, self._levels[0]
        weight = model.output.weight
        self._dtype, self._device = weight.dtype, weight.device
        self._mean = model.readout == "mean"
        self._shape = torch.Size([first.input] if batch_size is None else [batch, first.input])
        with torch.inference_mode(False):  # memory that later steps may write in any mode
            self._allocate(batch, weight.detach())
        self._answer = self._answers[0] if batch_size is None else self._answers
        self._call = self._prepared()

    def _allocate(self, batch: int, like: Tensor) -> None:
        """The memory of states, inputs and answers."""
        levels = self._levels
        self._states = [
            [like.new_zeros(batch, level.hidden) for _ in range(level.parts)] for level in levels
        ]
        # Sums of many states in single precision would stop growing.
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        self._total = like.new_zeros((batch, levels[-1].hidden), dtype=exact)
        self._steps = torch.zeros(1, dtype=torch.int64)
        self._last = like.new_zeros(batch, levels[-1].hidden)
        self._answers = like.new_zeros(batch, like.shape[0])
        self._numbers: Any = None
        self._array: Any = None
        width = levels[0].input
        if like.device.type == "cpu" and self._dtype in NUMBERS:
            self._numbers = (NUMBERS[self._dtype] * (batch * width))()
            self._given = torch.frombuffer(self._numbers, dtype=self._dtype).view(batch, width)
            self._address = self._given.data_ptr()
            with suppress(RuntimeError):  # numpy is not needed
                self._array = self._given.view(tuple(self._shape)).numpy()
        else:
            self._given = like.new_zeros(batch, width)

    def _prepared(self) -> Call | None:
        module = self.model.output
        total = self._total if self._mean else None
        bias = None if module.bias is None else (module, "bias")
        readout = ReadOut((module, "weight"), bias, self._answers, total, self._steps)
        return Call.make(self._levels, self._states, self._last, readout)

    def push(self, x: Tensor | Sequence[Any] | Any) -> Tensor:
        """One step; the answer to the sequence so far.

        Args:
            x: (input,), or (batch, input) with a batch size: a tensor, a numpy array or a list of
                numbers. NaN is a number: what depends on it is NaN from then on.

        Returns:
            (output,) or (batch, output), without a gradient. **The next step writes over it: copy
            what you keep** (`answer.clone()`).

        Raises:
            ValueError: x of another shape, or not numbers; the model has another type or device
                than the stream was made for. The state is unchanged then.
        """
        call = self._call
        if call is None or not call.current():
            call = self._follow()
        if call is None:
            self._take(x)
            return self._plain()
        if (
            type(x) is Tensor
            and x.shape == self._shape
            and x.dtype == self._dtype
            and x.is_cpu
            and x.is_contiguous()
            and not x.is_neg()
        ):
            call.run(x.data_ptr())  # read where it is
            return self._answer
        self._take(x)
        call.run(self._address)
        return self._answer

    def _follow(self) -> Call | None:
        """The call for weights that have been put elsewhere; None for torch's operators."""
        weights = [found(self._levels[0].weights[0]), self.model.output.weight]
        for weight in weights:
            if weight.dtype != self._dtype or weight.device != self._device:
                raise ValueError(
                    f"the model is {weight.dtype} on {weight.device} now, its stream was made for"
                    f" {self._dtype} on {self._device}: make a new one by model.stream()."
                )
        if self._call is not None:  # without one there was a reason, which holds
            self._call = self._prepared()
        return self._call

    @torch.no_grad()
    def _plain(self) -> Tensor:
        """A step in torch's operators for the inputs taken."""
        states = plain_step(self._levels, self._given, self._states)
        if self._mean:
            self._steps += 1
            self._total += states
            states = (self._total / int(self._steps)).to(self._dtype)
        weight, bias = self.model.output.weight, self.model.output.bias
        self._answers.copy_(linear(states, weight, bias))
        return self._answer

    def _take(self, x: Any) -> None:
        """Copies the inputs into the stream's own memory."""
        if type(x) in (list, tuple):
            self._take_numbers(x)
            return
        if getattr(x, "shape", None) != self._shape:
            raise self._refused(x)
        if not isinstance(x, Tensor):
            if getattr(getattr(x, "dtype", None), "kind", "") not in ("f", "i", "u", "b"):
                raise self._refused(x)
            if self._array is not None:
                self._array[...] = x
                return
            x = torch.from_numpy(x.astype("float64"))
        elif x.is_complex() or x.is_meta or x.layout != torch.strided:
            raise self._refused(x)
        with torch.no_grad():
            self._given.copy_(x.detach().reshape(self._given.shape))

    def _take_numbers(self, x: Sequence[Any]) -> None:
        try:
            if self.batch_size is not None:
                batch, width = self._shape
                if len(x) != batch or any(len(row) != width for row in x):
                    raise ValueError
                x = [value for row in x for value in row]
            if self._numbers is not None:
                self._numbers[:] = x
            elif len(x) == self._given.numel():
                numbers = (ctypes.c_double * len(x))(*x)
                given = torch.frombuffer(numbers, dtype=torch.float64)
                self._given.copy_(given.view(self._given.shape))
            else:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise self._refused(x) from None

    def _refused(self, x: Any) -> ValueError:
        wanted = f"{self._shape[-1]} numbers"
        if self.batch_size is not None:
            wanted = f"{self.batch_size} × {wanted}, (batch, input)"
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        if shape is not None:
            got = f"{dtype} of shape {tuple(shape)}"
        elif type(x) in (list, tuple):
            got = f"a {type(x).__name__} of {len(x)}: {repr(x)[:80]}"
        else:
            got = repr(x)[:80]
        return ValueError(f"push needs {wanted}, got {got}.")

    def reset(self) -> None:
        """Begins new sequences."""
        for state in self._states:
            for part in state:
                part.zero_()
        self._total.zero_()
        self._steps.zero_()

    @property
    def state(self) -> StreamState:
        """A copy of what the stream remembers. Assign one to go on from there.

        Raises:
            ValueError: the assigned one is of another model or batch size. The state is unchanged
                then.
        """
        layers = [tuple(part.clone()[None] for part in state) for state in self._states]
        whole: list[Any] = [one if len(one) == 2 else one[0] for one in layers]
        if not self._mean:
            return StreamState(whole)
        return StreamState(whole, self._total.clone(), int(self._steps))

    @state.setter
    def state(self, state: StreamState) -> None:
        if not isinstance(state, StreamState):
            raise ValueError(f"the state needs to be a StreamState, got {type(state).__name__}.")
        total = state.total
        wanted = [[(1, *part.shape) for part in own] for own in self._states]
        try:
            given = [[one] if isinstance(one, Tensor) else list(one) for one in state.layers]
            shapes = [[tuple(part.shape) for part in parts] for parts in given]
        except (TypeError, AttributeError):
            got = repr(state.layers)[:80]
            raise ValueError(f"the state needs layers of shapes {wanted}, got {got}.") from None
        if shapes != wanted:
            raise ValueError(f"the state needs layers of shapes {wanted}, got {shapes}.")
        if self._mean and (total is None or total.shape != self._total.shape or state.steps < 0):
            raise ValueError(
                f"the state needs a total of shape {tuple(self._total.shape)} and its steps, for"
                " this model reads the mean of all states."
            )
        with torch.no_grad():
            for own, parts in zip(self._states, given, strict=True):
                for part, new in zip(own, parts, strict=True):
                    part.copy_(new[0])
            if self._mean and total is not None:
                self._total.copy_(total)
                self._steps.fill_(state.steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.model, self.batch_size, self.state)


def _restored(model: "SequenceModel", batch_size: int | None, state: StreamState) -> Stream:
    stream = Stream(model, batch_size)
    stream.state = state
    return stream


def _levels(model: "SequenceModel") -> list[Level]:
    """The layers of a model with the normalisation after each."""
    levels: list[Level] = []
    for k, module in enumerate(model.recurrent):
        own = levels_of(module)
        norms: nn.ModuleList = model.norms
        if len(norms):
            own[-1] = normalized(own[-1], norms[k], "after")
        levels += own
    return levels
