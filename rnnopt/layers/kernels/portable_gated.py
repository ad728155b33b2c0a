"""LSTM and GRU in torch's own operators, in forms that can be exported (see portable.py).

The state of an LSTM between steps is one tensor here, (batch, 2 hidden), with h and then c in it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnopt.layers.kernels import cpu
from rnnopt.layers.kernels.portable import (
    last_state,
    reversed_steps,
    scan,
    scripted,
    steps_vary,
    true_steps,
)


def lstm_step(state: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """The next h and c, in one tensor.

    Args:
        state: (batch, 2 hidden), h and c.
        z: (batch, 4 hidden), the gates' inputs W x + b.
        weight: (4 hidden, hidden + 1), the recurrent weights, and their bias as last column.
    """
    h, c = state.chunk(2, -1)
    i, f, g, o = (z + linear(h, weight[:, :-1], weight[:, -1])).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.cat((torch.sigmoid(o) * torch.tanh(c), c), -1)


def gru_step(state: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """The next h; arguments as for `lstm_step`, with three gates and state (batch, hidden)."""
    r, u, n = linear(state, weight[:, :-1], weight[:, -1]).chunk(3, -1)
    of_r, of_u, of_n = z.chunk(3, -1)
    n = torch.tanh(of_n + torch.sigmoid(of_r + r) * n)
    return n + torch.sigmoid(of_u + u) * (state - n)


def lstm_loop(z: Tensor, weight: Tensor, state: Tensor) -> Tensor:
    """States (time, batch, 2 hidden); TorchScript reads this."""
    states: list[Tensor] = []
    for t in range(z.shape[0]):
        state = lstm_step(state, z[t], weight)
        states.append(state)
    return torch.stack(states)


def lstm_masked_loop(z: Tensor, weight: Tensor, state: Tensor, valid: Tensor) -> Tensor:
    """The same, with the state before where `valid` (time, batch, 1) is false."""
    states: list[Tensor] = []
    for t in range(z.shape[0]):
        state = torch.where(valid[t], lstm_step(state, z[t], weight), state)
        states.append(state)
    return torch.stack(states)


def gru_loop(z: Tensor, weight: Tensor, state: Tensor) -> Tensor:
    """States (time, batch, hidden) of a GRU."""
    states: list[Tensor] = []
    for t in range(z.shape[0]):
        state = gru_step(state, z[t], weight)
        states.append(state)
    return torch.stack(states)


def gru_masked_loop(z: Tensor, weight: Tensor, state: Tensor, valid: Tensor) -> Tensor:
    """The same, with the state before where `valid` (time, batch, 1) is false."""
    states: list[Tensor] = []
    for t in range(z.shape[0]):
        state = torch.where(valid[t], gru_step(state, z[t], weight), state)
        states.append(state)
    return torch.stack(states)


LOOPS: dict[str, Callable[..., Tensor]] = {"lstm": lstm_loop, "gru": gru_loop}
MASKED: dict[str, Callable[..., Tensor]] = {"lstm": lstm_masked_loop, "gru": gru_masked_loop}
STEPS: dict[str, Callable[..., Tensor]] = {"lstm": lstm_step, "gru": gru_step}


def steps_in_turn(
    kind: str,
    x: Tensor,
    weights: list[Tensor | None],
    first: list[Tensor | None],
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """Like `torch.ops.rnnopt.lstm` or `gru` (states, last states, last cells), step by step.

    Args:
        kind: "lstm" or "gru".
        weights: w_ih, w_hh, b_ih, b_hh; biases may be None.
        first: h0, and of an LSTM c0; None is zeros.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None
    assert w_hh is not None
    valid = None if lengths is None else true_steps(x.shape[0], lengths)
    x = x if valid is None else torch.where(valid, x, 0)  # the padding may hold NaN
    x = reversed_steps(x, lengths) if reverse else x
    hidden = w_hh.shape[1]
    zeros = x.new_zeros(x.shape[1], hidden)
    state = torch.cat([zeros if one is None else one for one in first], -1)
    column = w_hh.new_zeros(w_hh.shape[0], 1) if b_hh is None else b_hh[:, None]
    z, weight = linear(x, w_ih, b_ih), torch.cat((w_hh, column), 1)
    if cpu.exporting():
        states = _scanned(STEPS[kind], z, weight, state, valid)
    else:
        loop = LOOPS[kind] if valid is None else MASKED[kind]
        loop = scripted(loop) if torch.jit.is_tracing() else loop
        states = loop(z, weight, state) if valid is None else loop(z, weight, state, valid)
    parts = states.chunk(len(first), -1)  # h, and of an LSTM c
    out, last = parts[0], [part[-1] for part in parts]
    out = out if valid is None else torch.where(valid, out, 0)
    return (reversed_steps(out, lengths) if reverse else out, *last)


def _scanned(
    step: Callable[..., Tensor], z: Tensor, weight: Tensor, state: Tensor, valid: Tensor | None
) -> Tensor:
    if valid is None:
        return scan(step, state, [z], weight)

    def masked(state: Tensor, z: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
        return torch.where(valid, step(state, z, weight), state)

    return scan(masked, state, [z, valid], weight)


def gated(
    kind: str,
    x: Tensor,
    weights: list[Tensor | None],
    first: list[Tensor | None],
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """Like `steps_in_turn`, by torch's own operator where it can be exported."""
    cells_at_ends = (
        kind == "lstm" and lengths is not None
    )  # torch's has only those of the last step
    if cells_at_ends or (cpu.exporting() and steps_vary(x)):
        return steps_in_turn(kind, x, weights, first, lengths, reverse)
    valid = None if lengths is None else true_steps(x.shape[0], lengths)
    x = x if valid is None else torch.where(valid, x, 0)
    x = reversed_steps(x, lengths) if reverse else x
    given = [one for one in weights if one is not None]
    hidden = given[1].shape[1]
    zeros = x.new_zeros(1, x.shape[1], hidden)
    states = [zeros if one is None else one[None].contiguous() for one in first]
    operator: Any = torch.lstm if kind == "lstm" else torch.gru
    out, *ends = operator(
        x,
        states if kind == "lstm" else states[0],
        given,
        len(given) == 4,
        1,
        0.0,
        False,
        False,
        False,
    )
    # torch 2.10 decomposes an exported LSTM so that its last state has a dimension too many.
    last = [last_state(out, lengths), *(end.reshape(x.shape[1], hidden) for end in ends[1:])]
    out = out if valid is None else torch.where(valid, out, 0)
    return (reversed_steps(out, lengths) if reverse else out, *last)
