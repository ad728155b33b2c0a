"""One step of a stack of recurrent layers without a gradient: one call on the CPU, else torch's.

    Elman     h = f(W_ih x + b_ih + W_hh h' + b_hh)
    IndRNN    h = f(W x + b + u ⊙ h'),                  u clipped to the layer's bound
    LSTM      i, f, g, o of W_ih x + b_ih + W_hh h' + b_hh;  c = σ(f) c' + σ(i) tanh g,
              h = σ(o) tanh c
    GRU       r, z = σ(…),  n = tanh(W_in x + b_in + r ⊙ (W_hn h' + b_hn)),
              h = n + z ⊙ (h' - n)

with h' and c' the states before. Batch normalisation uses the running statistics, whatever mode its
module is in; there is no dropout. A read-out gets what the last layer gives, or its mean so far.

The kernel reads the weights where they are, row after row as torch stores them, so it computes with
what they are at present. `Call` prepares everything else once: pointers, sizes and memory.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnopt.layers.kernels import cpu

Kind = Literal["rnn", "lstm", "gru", "indrnn"]
KINDS: tuple[Kind, ...] = ("rnn", "lstm", "gru", "indrnn")
GATES: dict[Kind, int] = {"rnn": 1, "lstm": 4, "gru": 3, "indrnn": 1}
NORMS = (None, "before", "after")
LANES = 16  # at least as many numbers as a vector of the kernel has
# Beyond so many sequences torch's products, which read the weights once for all, are faster.
FEW = 24
# Where a tensor stands: a module and a name. Looked up anew, for it may be replaced.
Source = tuple[nn.Module, str] | None
data_ptr = Tensor.data_ptr


@dataclass(frozen=True)
class Level:
    """One recurrent layer, with the normalisation before or after its recurrence.

    Args:
        kind: what it computes.
        relu: whether its nonlinearity is relu, else tanh.
        input, hidden: features of a step, and units.
        weights: w_ih, w_hh, b_ih, b_hh; a bias may be None.
        norm: where it normalises.
        statistics: running mean, running variance, gain and shift; None where there are none.
        eps: added to the variance.
        bound: largest |u| of an IndRNN.
    """

    kind: Kind
    relu: bool
    input: int
    hidden: int
    weights: tuple[Source, ...]
    norm: Literal["before", "after"] | None = None
    statistics: tuple[Source, ...] = (None, None, None, None)
    eps: float = 0.0
    bound: float = float("inf")

    @property
    def parts(self) -> int:
        """Tensors that its state has: 2 for an LSTM, else 1."""
        return 2 if self.kind == "lstm" else 1

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the weights and the statistics."""
        rows, hidden = GATES[self.kind] * self.hidden, self.hidden
        carried = (hidden,) if self.kind == "indrnn" else (rows, hidden)
        return [(rows, self.input), carried, (rows,), (rows,), *[(hidden,)] * 4]

    def sources(self) -> list[Source]:
        """Where the weights and the statistics stand, in the order of `shapes`."""
        return [*self.weights, *self.statistics]


def found(source: Source) -> Any:
    """The tensor at a source; None if there is none."""
    return None if source is None else getattr(*source)


# -- In torch's own operators ---------------------------------------------------------------------


def plain_level(level: Level, x: Tensor, state: Sequence[Tensor]) -> Tensor:
    """What the layer gives for inputs (batch, input); the state (batch, hidden) moves in place."""
    w_ih, w_hh, b_ih, b_hh = map(found, level.weights)
    h, f = state[0], torch.relu if level.relu else torch.tanh
    z = linear(x, w_ih, b_ih)
    if level.kind == "indrnn":
        z = _normal(level, z) if level.norm == "before" else z
        new = f(z + w_hh.clamp(-level.bound, level.bound) * h)
    elif level.kind == "rnn":
        new = f(z + linear(h, w_hh, b_hh))
    elif level.kind == "gru":
        carried = linear(h, w_hh, b_hh).chunk(3, -1)
        r, keep, n = z.chunk(3, -1)
        candidate = torch.tanh(n + torch.sigmoid(r + carried[0]) * carried[2])
        new = candidate + torch.sigmoid(keep + carried[1]) * (h - candidate)
    else:
        i, forget, g, o = (z + linear(h, w_hh, b_hh)).chunk(4, -1)
        cells = torch.sigmoid(forget) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        new = torch.sigmoid(o) * torch.tanh(cells)
        state[1].copy_(cells)
    h.copy_(new)
    return _normal(level, new) if level.norm == "after" else new


def _normal(level: Level, x: Tensor) -> Tensor:
    mean, variance, gain, shift = map(found, level.statistics)
    return nn.functional.batch_norm(x, mean, variance, gain, shift, eps=level.eps)


@torch.no_grad()
def plain_step(levels: Sequence[Level], x: Tensor, states: Sequence[Sequence[Tensor]]) -> Tensor:
    """What the last layer gives (batch, hidden); `states` move in place."""
    for level, state in zip(levels, states, strict=True):
        x = plain_level(level, x, state)
    return x


# -- In one call ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadOut:
    """A linear read-out of what the last layer gives.

    Args:
        weight, bias: where they stand.
        answer: (batch, outputs), where the outputs go.
        total: (batch, hidden) float64, the sum of the states so far if it reads their mean.
        steps: one whole number, the steps in `total`.
    """

    weight: Source
    bias: Source
    answer: Tensor
    total: Tensor | None
    steps: Tensor


class Call:
    """A prepared call of the kernel on fixed states; `make` says whether there can be one.

    Args:
        levels: layers, from the inputs on.
        states: for each layer its state's tensors (batch, hidden); they move in place.
        last: (batch, hidden), where the output of the last layer goes.
        readout: read-out, or None.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        states: Sequence[Sequence[Tensor]],
        last: Tensor,
        readout: ReadOut | None = None,
    ):
        for level, before in zip(levels[1:], levels, strict=False):
            if level.input != before.hidden:
                raise ValueError(
                    f"a layer after one of {before.hidden} units needs as many inputs, got"
                    f" {level.input}."
                )
        sources = [source for level in levels for source in level.sources()]
        shapes = [shape for level in levels for shape in level.shapes()]
        if readout is not None:
            sources += [readout.weight, readout.bias]
            outputs = readout.answer.shape[1]
            shapes += [(outputs, levels[-1].hidden), (outputs,)]
        self.dtype, self.last, self.readout = last.dtype, last, readout
        self.levels, self.states = levels, states
        self.sources, self.shapes = sources, shapes
        given = [(s, shape) for s, shape in zip(sources, shapes, strict=True) if s is not None]
        self.tables = [_table(*source) for source, _ in given]
        self.names = [source[1] for source, _ in given]
        self.tensors = list(map(getitem, self.tables, self.names))
        for name, tensor, (_, shape) in zip(self.names, self.tensors, given, strict=True):
            cpu.check("stream", **{name: (tensor, shape, self.dtype)})
        self.addresses = list(map(data_ptr, self.tensors))
        self._lay_out(len(last))
        library = cpu.kernels().library
        self.function = getattr(library, f"rnnopt_stream_{cpu.DTYPES[self.dtype]}")

    @classmethod
    def make(
        cls,
        levels: Sequence[Level],
        states: Sequence[Sequence[Tensor]],
        last: Tensor,
        readout: ReadOut | None = None,
    ) -> "Call | None":
        """The call, or None where torch's operators are to be used."""
        every = [source for level in levels for source in level.sources()]
        every += [] if readout is None else [readout.weight, readout.bias]
        given = [source for source in every if source is not None]
        # What is computed anew at each look, as by torch's parametrizations, has no place.
        if len(last) > FEW or any(source[1] not in _table(*source) for source in given):
            return None
        tensors = [*map(found, given), last, *(one for state in states for one in state)]
        if not cpu.all_usable(tensors):
            return None
        return cls(levels, states, last, readout)

    def _lay_out(self, batch: int) -> None:
        """Numbers and pointers in the order of stream.h."""
        at = dict(
            zip(zip(map(id, self.tables), self.names, strict=True), self.addresses, strict=True)
        )
        pointers = [None if s is None else at[id(_table(*s)), s[1]] for s in self.sources]
        widest = max(level.hidden for level in self.levels) + LANES
        self.scratch = self.last.new_zeros((2 * batch + 2) * widest)
        self.reals = torch.tensor(
            [[level.eps, level.bound] for level in self.levels], dtype=torch.float64
        )
        out = self.readout
        numbers = [batch, len(self.levels), 0 if out is None else out.answer.shape[1], widest]
        addresses: list[int | None] = [None, data_ptr(self.last), data_ptr(self.scratch)]
        if out is None:
            addresses += [None] * 5
        else:
            total = None if out.total is None else data_ptr(out.total)
            addresses += [*pointers[-2:], data_ptr(out.answer), total, data_ptr(out.steps)]
        for k, (level, state) in enumerate(zip(self.levels, self.states, strict=True)):
            place = NORMS.index(level.norm)
            kind = KINDS.index(level.kind)
            numbers += [kind, level.relu, level.input, level.hidden, place]
            own = pointers[8 * k : 8 * k + 8]
            parts = [*map(data_ptr, state), None][:2]
            addresses += [*own[:4], *parts, *own[4:], data_ptr(self.reals[k])]
        self.numbers = (ctypes.c_int64 * len(numbers))(*numbers)
        self.pointers = (ctypes.c_void_p * len(addresses))(*addresses)

    def current(self) -> bool:
        """Whether all weights stand where they stood."""
        try:
            return list(map(data_ptr, map(getitem, self.tables, self.names))) == self.addresses
        except (KeyError, AttributeError):  # one was taken away
            return False

    def run(self, address: int) -> None:
        """One step for the inputs (batch, input) at an address."""
        self.pointers[0] = address
        self.function(self.numbers, self.pointers, 0)


def _table(module: nn.Module, name: str) -> dict[str, Any]:
    """The dictionary of a module that has the tensor, if any."""
    return module._buffers if name in module._buffers else module._parameters
