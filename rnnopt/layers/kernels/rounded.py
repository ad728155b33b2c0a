"""The recurrences with products in bfloat16, in torch's own operators.

They run where the kernels cannot: for other types, in functional transforms, and for the gradient
of a gradient. Slower, and the same to about one rounding (see half_linear.py).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rnnopt.layers.kernels.half_linear import linear
from rnnopt.layers.kernels.portable import reversed_steps, true_steps

Kind = Literal["tanh", "relu", "gru", "lstm"]


def layer(
    kind: Kind,
    x: Tensor,
    weights: Sequence[Tensor | None],
    first: Sequence[Tensor | None],
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """States (time, batch, hidden), last states, and of an LSTM last cells.

    Args:
        kind: what a step computes; tanh and relu are Elman's.
        x: (time, batch, input).
        weights: w_ih, w_hh, b_ih, b_hh; biases may be None.
        first: h0, and of an LSTM c0; None is zeros.
        lengths: (batch,) true steps, or None. States after the end are zero.
        reverse: whether the recurrence begins at the last true step.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None
    assert w_hh is not None
    valid = None if lengths is None else true_steps(x.shape[0], lengths)
    x = x if valid is None else torch.where(valid, x, 0)  # the padding may hold NaN
    x = reversed_steps(x, lengths) if reverse else x
    zeros = x.new_zeros(x.shape[1], w_hh.shape[1])
    state = [zeros if one is None else one for one in first]
    states = []
    for t, z in enumerate(linear(x, w_ih, b_ih).unbind(0)):
        new = _step(kind, z, linear(state[0], w_hh, b_hh), state)
        if valid is not None:
            new = [torch.where(valid[t], *pair) for pair in zip(new, state, strict=True)]
        state = new
        states.append(state[0])
    out = torch.stack(states)
    out = out if valid is None else torch.where(valid, out, 0)
    return (reversed_steps(out, lengths) if reverse else out, *state)


def _step(kind: Kind, z: Tensor, u: Tensor, state: list[Tensor]) -> list[Tensor]:
    """The new state.

    Args:
        z, u: (batch, gates times hidden), the parts of the inputs and of the states before.
    """
    if kind == "lstm":
        i, f, g, o = (z + u).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return [torch.sigmoid(o) * torch.tanh(c), c]
    if kind == "gru":
        of_r, of_z, of_n = z.chunk(3, -1)
        r, z, n = u.chunk(3, -1)
        n = torch.tanh(of_n + torch.sigmoid(of_r + r) * n)
        return [n + torch.sigmoid(of_z + z) * (state[0] - n)]
    return [torch.relu(z + u) if kind == "relu" else torch.tanh(z + u)]
