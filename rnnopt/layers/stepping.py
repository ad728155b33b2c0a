"""One step of a recurrent layer without a gradient, for control loops and sensors."""

from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from rnnopt.layers.kernels.stream import Call, Kind, Level, Source, found, plain_step

State = Tensor | tuple[Tensor, ...]


class Stepping:
    """A recurrent layer that can take one step at a time."""

    _stepper: Any = None

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step as in evaluation: without a gradient or dropout, with running statistics.

        It is made for loops that wait for the answer. On the CPU, in float32 or float64, it is one
        call of compiled code that allocates nothing, if the state is the one that the call before
        returned; else it is torch's own operators.

        Args:
            x_t: (batch, input), or (input,).
            state: as `hx` of the layer: (layers, batch, hidden), or (layers, hidden) for (input,);
                of an LSTM a pair of them. It becomes the new state in place. None is zeros.

        Returns:
            The output of the last layer, (batch, hidden) or (hidden,), and the state. **The next
            step writes over both: copy what you keep** (`output.clone()`).

        Raises:
            ValueError: a bidirectional layer; inputs or a state of the wrong shape, type or device.
                The state is unchanged then.
        """
        stepper = self._stepper
        if stepper is None:
            stepper = self._stepper = Stepper()
        return stepper.step(self, x_t, state)


class Stepper:
    """What a layer keeps between two steps: the prepared call on the latest state.

    Copies and pickles of a layer begin anew.
    """

    def __init__(self) -> None:
        self.call: Call | None = None
        self.levels: list[Level] = []
        self.state: State | None = None  # as it is given back, and its tensors
        self.parts: tuple[Tensor, ...] = ()
        self.states: list[list[Tensor]] = []  # views of them, layer by layer
        self.output = torch.empty(0)
        self.shape = torch.Size()  # of the inputs

    def __reduce__(self) -> tuple[Any, ...]:
        return Stepper, ()

    def step(self, layer: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """`Stepping.step` of a layer."""
        call, parts = self.call, self.parts
        same = state is not None and (
            state is self.state
            or (type(state) is tuple and len(state) == len(parts) and all(map(_is, state, parts)))
        )
        if not same or (self._moved() if call is None else not call.current()):
            call = self._begin(layer, x, state)
        output = self.output
        if not isinstance(x, Tensor) or x.shape != self.shape or x.dtype != output.dtype:
            raise ValueError(_wanted(self.shape, output.dtype, x))
        if call is not None and x.is_cpu:
            x = x if x.is_contiguous() and not x.is_neg() else x.resolve_neg().contiguous()
            call.run(x.data_ptr())
            return output, self.state
        if x.device != output.device:
            raise ValueError(f"step needs x_t on {output.device}, got {x.device}.")
        rows = x.detach() if x.ndim == 2 else x.detach()[None]
        with torch.no_grad():
            output.copy_(plain_step(self.levels, rows, self.states).view_as(output))
        return output, self.state

    def _moved(self) -> bool:
        """Whether the weights have another type or device than the state."""
        weight = found(self.levels[0].weights[0])
        return weight.dtype != self.output.dtype or weight.device != self.output.device

    def _begin(self, layer: nn.Module, x: Tensor, state: Any) -> Call | None:
        """Prepares the steps that go on from a state."""
        levels = levels_of(layer)
        first = levels[0]
        weight = found(first.weights[0])
        if not isinstance(x, Tensor) or x.ndim not in (1, 2) or x.shape[-1] != first.input:
            raise ValueError(_wanted(("batch", first.input), weight.dtype, x))
        if x.numel() == 0:
            raise ValueError(f"step needs at least one sequence, got {tuple(x.shape)}.")
        shape = (len(levels), *x.shape[:-1], first.hidden)
        with torch.inference_mode(False):  # memory that later steps may write in any mode
            if state is None:
                parts = tuple(
                    torch.zeros(shape, dtype=weight.dtype, device=weight.device)
                    for _ in range(first.parts)
                )
            else:
                parts = _checked(state, first.parts, shape, weight)
            output = parts[0].new_zeros((*x.shape[:-1], first.hidden))
        batch = x.shape[0] if x.ndim == 2 else 1
        states = [[part[k].view(batch, first.hidden) for part in parts] for k in range(len(levels))]
        self.levels, self.states, self.parts = levels, states, parts
        if not isinstance(state, tuple):
            state = parts if first.parts == 2 else parts[0]
        self.shape, self.state, self.output = x.shape, state, output
        self.call = Call.make(levels, states, output.view(batch, first.hidden))
        return self.call


def _is(one: object, other: object) -> bool:
    return one is other


def _checked(state: Any, count: int, shape: tuple[int, ...], weight: Tensor) -> tuple[Tensor, ...]:
    """The tensors of a state that steps can move in place."""
    parts = (state,) if isinstance(state, Tensor) else state
    pair = "a pair of tensors" if count == 2 else "a tensor"
    if (
        not isinstance(parts, (tuple, list))
        or isinstance(state, Tensor) != (count == 1)
        or len(parts) != count
        or not all(isinstance(part, Tensor) for part in parts)
    ):
        raise ValueError(
            f"step needs {pair} of shape {shape} as state, got {type(state).__name__}."
        )
    for part in parts:
        if tuple(part.shape) != shape or part.dtype != weight.dtype or part.device != weight.device:
            raise ValueError(
                f"step needs {pair} of shape {shape}, {weight.dtype} on {weight.device} as state,"
                f" got {tuple(part.shape)}, {part.dtype} on {part.device}."
            )
        if part.requires_grad or not part.is_contiguous():
            raise ValueError(
                "step needs a state that is contiguous and does not require gradients, for it"
                " changes it in place: pass state.detach().clone()."
            )
    return tuple(parts)


def _wanted(shape: tuple[Any, ...], dtype: torch.dtype, x: Any) -> str:
    """The sentence that refuses inputs."""
    form = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    got = f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
    return f"step needs x_t as a tensor of shape {form}, {dtype}, got {got}."


# -- What a layer computes ------------------------------------------------------------------------


def levels_of(layer: nn.Module) -> list[Level]:
    """The layers in a recurrent module: `ElmanRNN`, `IndRNN`, torch's own and what is like them.

    Raises:
        ValueError: a bidirectional module, one with projections, or normalisation that has no
            running statistics: they cannot take one step at a time.
        TypeError: another module.
    """
    module: Any = layer
    name = type(layer).__name__
    mode = getattr(layer, "mode", None)
    if not isinstance(mode, str):
        if not hasattr(layer, "recurrent_bound"):
            raise TypeError(f"one step at a time needs a recurrent layer, got {name}.")
        _refuse_two_directions(layer)
        return [_indrnn(layer, k) for k in range(module.num_layers)]
    _refuse_two_directions(layer)
    if getattr(layer, "proj_size", 0):
        raise ValueError(f"one step at a time needs proj_size=0, got {module.proj_size}.")
    kind = cast(Kind, mode.split("_")[0].lower())
    return [
        Level(
            kind,
            mode == "RNN_RELU",
            module.input_size if k == 0 else module.hidden_size,
            module.hidden_size,
            _weights(layer, k, 2 if module.bias else 0),
        )
        for k in range(module.num_layers)
    ]


def _refuse_two_directions(layer: Any) -> None:
    if layer.bidirectional:
        raise ValueError(
            f"a bidirectional {type(layer).__name__} cannot take one step at a time: its second"
            " direction begins at the end of the sequence."
        )


def _weights(layer: nn.Module, k: int, biases: int) -> tuple[Source, ...]:
    names: list[str] = ["weight_ih", "weight_hh", *("bias_ih", "bias_hh")[:biases]]
    sources: list[Source] = [(layer, f"{name}_l{k}") for name in names]
    return (*sources, *[None] * (4 - len(sources)))


def _indrnn(layer: nn.Module, k: int) -> Level:
    module: Any = layer
    bound = module.recurrent_bound
    level = Level(
        "indrnn",
        module.nonlinearity == "relu",
        module.input_size if k == 0 else module.hidden_size,
        module.hidden_size,
        _weights(layer, k, 1 if module.bias else 0),
        bound=float("inf") if bound is None else bound,
    )
    return normalized(level, module.norms[k], module.batch_norm) if module.batch_norm else level


def normalized(level: Level, norm: nn.Module, place: Literal["before", "after"]) -> Level:
    """The level with batch normalisation.

    Raises:
        ValueError: it has no running statistics, or the level is normalised already.
    """
    module: Any = norm
    if level.norm is not None:
        raise ValueError("one step at a time needs at most one normalisation a layer, got two.")
    if not isinstance(norm, nn.BatchNorm1d) or norm.running_mean is None:
        raise ValueError(
            "one step at a time needs nn.BatchNorm1d with running statistics as normalisation,"
            f" got {norm}."
        )
    affine: list[Source] = [(norm, "weight"), (norm, "bias")] if module.affine else [None, None]
    statistics = ((norm, "running_mean"), (norm, "running_var"), *affine)
    return replace(level, norm=place, statistics=statistics, eps=norm.eps)
