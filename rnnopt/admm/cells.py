"""Elman, LSTM and GRU layers as ADMM sees them: what is relaxed is a_t = x_t uᵀ + s_{t-1} wᵀ + b.

Everything after a_t is a function of it and of what the layer carries on, and holds exactly. So a
layer is one forward pass, and one backward pass of the adjoints g_t of a_t (`joint_sweep`), which
for each cell are K_t ⊙ force, K_t being known from the forward pass:

    Elman  s_t = f(a_t)                                    K = f'(a)
    GRU    a = [r z nx nh],  r, z ← sigmoid,  n = tanh(nx + r ⊙ nh),  s_t = n + z ⊙ (s_{t-1} - n)
           K = [(1-z)(1-n²) nh r(1-r)   (s_{t-1} - n) z(1-z)   (1-z)(1-n²)   (1-z)(1-n²) r]
    LSTM   a = [i f g o],  i, f, o ← sigmoid,  g ← tanh,  c_t = f ⊙ c_{t-1} + i ⊙ g,
           s_t = o ⊙ tanh c_t
           K = [g i(1-i)   c_{t-1} f(1-f)   i (1-g²)] on the force on c_t,   tanh c o(1-o) on s_t

Gates are in torch's order. The two halves nx (of the inputs) and nh (of the states) of the GRU's
candidate are equations of their own, so that a is linear in the weights: u has zeros in the rows of
nh and w in those of nx (`columns`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rnnopt.admm.lagrangian import Cell, Problem, Weights, input_drive
from rnnopt.admm.prox import Nonlinearity, apply

GATES: dict[Cell, int] = {"elman": 1, "gru": 4, "lstm": 4}  # rows of u, in units


class Passage(NamedTuple):
    """A layer's forward pass.

    Args:
        states: s_0 … s_T, (time + 1, batch, hidden).
        factors: K, (time, batch, gates, hidden); `backward` turns it into the slacks.
        kept: (time, batch, hidden) each: GRU z; LSTM f and o (1 - tanh² c).
    """

    states: Tensor
    factors: Tensor
    kept: tuple[Tensor, ...] = ()


@torch.no_grad()
def forward(problem: Problem, weights: Weights) -> Passage:
    """The layer whose inputs are the problem's, from its initial state; an LSTM's c_0 is zero."""
    preactivation = input_drive(problem, weights)
    states = preactivation.new_empty((len(preactivation) + 1, *problem.initial_state.shape))
    states[0] = problem.initial_state
    recurrent = weights.recurrent.t()
    if problem.cell == "elman":
        for t, now in enumerate(preactivation.unbind(0)):
            now.addmm_(states[t], recurrent)
            states[t + 1] = apply(problem.nonlinearity, now)
        return Passage(states, slope(problem.nonlinearity, states[1:])[:, :, None])
    gates = preactivation.unflatten(2, (4, -1))
    if problem.cell == "gru":
        return _forward_gru(preactivation, gates, states, recurrent)
    return _forward_lstm(preactivation, gates, states, recurrent)


def _forward_gru(whole: Tensor, gates: Tensor, states: Tensor, recurrent: Tensor) -> Passage:
    for t, now in enumerate(whole.unbind(0)):
        now.addmm_(states[t], recurrent)
        gates[t, :, :2].sigmoid_()
        r, z, n, from_states = gates[t].unbind(1)
        n.addcmul_(r, from_states).tanh_()
        torch.lerp(n, states[t], z, out=states[t + 1])
    r, z, n, from_states = (gate.clone() for gate in gates.unbind(2))
    of_inputs = (1 - z).mul_(1 - n * n)
    gates[:, :, 0] = of_inputs * from_states * r * (1 - r)
    gates[:, :, 1] = (states[:-1] - n) * z * (1 - z)
    gates[:, :, 2] = of_inputs
    gates[:, :, 3] = of_inputs * r
    return Passage(states, gates, (z,))


def _forward_lstm(whole: Tensor, gates: Tensor, states: Tensor, recurrent: Tensor) -> Passage:
    carried = torch.zeros_like(states)  # c_0 … c_T
    for t, now in enumerate(whole.unbind(0)):
        now.addmm_(states[t], recurrent)
        i, f, g, o = gates[t].unbind(1)
        for gate in (i, f, o):
            gate.sigmoid_()
        torch.addcmul(f * carried[t], i, g.tanh_(), out=carried[t + 1])
        torch.mul(o, carried[t + 1].tanh(), out=states[t + 1])
    i, f, g, o = (gate.clone() for gate in gates.unbind(2))
    end = carried[1:].tanh()
    gates[:, :, 0] = g * i * (1 - i)
    gates[:, :, 1] = carried[:-1] * f * (1 - f)
    gates[:, :, 2] = i * (1 - g * g)
    gates[:, :, 3] = end * o * (1 - o)
    return Passage(states, gates, (f, o * (1 - end * end)))


def slope(nonlinearity: Nonlinearity, states: Tensor) -> Tensor:
    """f'(a) from s = f(a)."""
    if nonlinearity == "tanh":
        return 1 - states * states
    if nonlinearity == "relu":
        return (states > 0).to(states.dtype)
    return torch.ones_like(states)


@torch.no_grad()
def backward(cell: Cell, passage: Passage, recurrent: Tensor, pulled: Tensor) -> Tensor:
    """The adjoints of a_1 … a_T, (time, batch, gates · hidden), in the memory of `factors`.

    Args:
        passage: from `forward`; its factors are overwritten.
        recurrent: w.
        pulled: forces on the last len(pulled) states from what reads them.
    """
    factors = passage.factors
    first = len(factors) - len(pulled)
    whole = factors.flatten(2)
    force = carried = None
    for t in range(len(factors) - 1, -1, -1):
        own = pulled[t - first] if t >= first else None
        if t + 1 == len(factors):
            assert own is not None
            now = own
        elif own is None:
            now = whole[t + 1] @ recurrent
        else:
            now = torch.addmm(own, whole[t + 1], recurrent)
        if cell == "elman":
            factors[t, :, 0].mul_(now)
        elif cell == "gru":
            now = now if force is None else torch.addcmul(now, force, passage.kept[0][t + 1])
            factors[t].mul_(now[:, None])
        else:
            forget, through = passage.kept
            on_cell = now * through[t]
            if carried is not None:
                on_cell.addcmul_(carried, forget[t + 1])
            factors[t, :, :3].mul_(on_cell[:, None])
            factors[t, :, 3].mul_(now)
            carried = on_cell
        force = now
    return whole


def columns(cell: Cell, features: int, matrix: Tensor) -> list[tuple[Tensor | slice, slice]]:
    """Which entries of M = [x s 1] each stretch of a reads.

    Args:
        features: of x.
        matrix: one of len(M) rows, for sizes and device.
    """
    size = len(matrix)
    hidden, every = size - 1 - features, slice(None)
    if cell != "gru":
        return [(every, every)]
    from_inputs = torch.arange(features + 1, device=matrix.device)
    from_inputs[-1] = size - 1
    return [
        (every, slice(0, 2 * hidden)),
        (from_inputs, slice(2 * hidden, 3 * hidden)),
        (slice(features, None), slice(3 * hidden, None)),
    ]
