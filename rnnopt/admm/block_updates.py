"""The exact minimisers of ADMM's blocks of an unfolded Elman network: a, s and o.

With L, letters and shapes of `lagrangian`, each minimises L with the others fixed:

    a:  element by element, `scalar_problem.minimise` at p = a_t - ra_t - λ1/α, q = s_t + λ2/σ
    s:  s_t (σ_t I + τ_t vᵀv [t in 𝒪] + α_{t+1} wᵀw [t < T]) = σ_t f(a_t) - λ2_t
            + (τ_t (o_t - c) + λ3_t) v [t in 𝒪]
            + (α_{t+1} (a_{t+1} - x_{t+1} uᵀ - b) + λ1_{t+1}) w [t < T]
    o:  `scalar_problem.nearest_output` at p = s_t vᵀ + c - λ3/τ

The weights are in `weight_updates`.

Departures from the paper (Tang et al., "ADMMiRNN", Problem 1, Eqs. 7 to 21):
1. Exact minimisers instead of linearised ones, for which see `linearised_updates`.
2. λ enters every block with the sign it has in L (Eqs. 9 to 21 print the other one).
3. s_t feels a_{t+1}; the paper's trick of dropping that term is `coupling=False`. Without it no
   state but the last ever hears of the loss.

Nothing here needs autograd; the blocks return tensors without gradient, in new memory.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from rnnopt.admm.lagrangian import (
    Iterate,
    Penalties,
    Problem,
    Weights,
    add_last,
    forces,
    input_drive,
    per_step,
)
from rnnopt.admm.prox import apply, minimise, nearest_output
from rnnopt.admm.weight_updates import cholesky

ALL = slice(None)


def runs(numbers: Sequence[tuple[float, float]]) -> Iterator[tuple[slice, tuple[float, float]]]:
    """Stretches of steps that share their pair of numbers."""
    first = 0
    for pair, members in groupby(numbers):
        last = first + len(list(members))
        yield slice(first, last), pair
        first = last


def select(steps: slice, total: int) -> range:
    """The steps as numbers; a slice with a step other than 1 is refused."""
    chosen = range(total)[steps]
    if chosen.step != 1:
        raise ValueError(f"steps must be consecutive, got {steps}.")
    return chosen


def at_steps(tensor: Tensor | None, chosen: range, total: int) -> Tensor | None:
    """The part of a tensor of the last len(tensor) of `total` steps that lies in `chosen`."""
    if tensor is None:
        return None
    missing = total - len(tensor)
    return tensor[max(chosen.start - missing, 0) : max(chosen.stop - missing, 0)]


def _states_before(problem: Problem, state: Tensor, chosen: range) -> Tensor:
    """s_{t-1} of the chosen steps alone."""
    if not chosen or chosen.start > 0:
        return state[max(chosen.start - 1, 0) : max(chosen.stop - 1, 0)]
    return torch.cat([problem.initial_state[None], state[: chosen.stop - 1]])


@torch.no_grad()
def update_preactivation(
    iterate: Iterate,
    steps: slice = ALL,
    drive: Tensor | None = None,
) -> Tensor:
    """The a_t of `steps` that minimise L, (steps, batch, hidden).

    Args:
        steps: consecutive steps, counted from 0; a_t feels no other a.
        drive: `input_drive`, if already known.
    """
    problem, weights, variables, multipliers, penalties = iterate
    total = len(variables.state)
    chosen = select(steps, total)
    part = slice(chosen.start, chosen.stop)
    drive = input_drive(problem, weights) if drive is None else drive
    before = _states_before(problem, variables.state, chosen)
    alpha, sigma = list(penalties.preactivation)[part], list(penalties.state)[part]
    p = drive[part] + before @ weights.recurrent.t()
    q = variables.state[part].clone()
    one = at_steps(multipliers.preactivation, chosen, total)
    two = at_steps(multipliers.state, chosen, total)
    p = p if one is None else add_last(p, one, -1 / per_step(alpha, one))
    q = q if two is None else add_last(q, two, 1 / per_step(sigma, two))
    result = torch.empty_like(p)
    for run, (a, s) in runs(list(zip(alpha, sigma, strict=True))):
        result[run] = minimise(problem.nonlinearity, p[run], q[run], s / a)
    return result


@torch.no_grad()
def factor_states(
    weights: Weights, penalties: Penalties, scored: int, coupling: bool = True
) -> list[Tensor]:
    """Cholesky factors of the s-block, one a step; equal steps share one: the paper's share three.

    Args:
        scored: number of steps with a loss, the last ones.
        coupling: whether s_t feels a_{t+1}.
    """
    total = len(penalties.state)
    outer = weights.output.double().t() @ weights.output.double()
    inner = weights.recurrent.double().t() @ weights.recurrent.double()
    unit = torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    known: dict[tuple[float, float, float], Tensor] = {}
    factors = []
    for t, sigma in enumerate(penalties.state):
        tau = penalties.output[t] if t >= total - scored else 0.0
        alpha = penalties.preactivation[t + 1] if coupling and t + 1 < total else 0.0
        key = (float(sigma), float(tau), float(alpha))
        if key not in known:
            factor = cholesky(sigma * unit + tau * outer + alpha * inner)
            known[key] = factor.to(weights.recurrent.dtype)
        factors.append(known[key])
    return factors


@torch.no_grad()
def update_state(
    iterate: Iterate,
    coupling: bool = True,
    steps: slice = ALL,
    drive: Tensor | None = None,
    factors: Sequence[Tensor] | None = None,
) -> Tensor:
    """The s_t of `steps` that minimise L, (steps, batch, hidden); no term of L holds two of them.

    Args:
        coupling: off drops the term of a_{t+1} (the paper's trick): then L may rise.
        steps: consecutive steps, counted from 0.
        drive: `input_drive`, if already known.
        factors: `factor_states` of the same weights, penalties and coupling, if already known.
    """
    problem, weights, variables, multipliers, penalties = iterate
    a, _, o = variables
    total = len(a)
    chosen = select(steps, total)
    part = slice(chosen.start, chosen.stop)
    right = per_step(penalties.state[part], a[part]) * apply(problem.nonlinearity, a[part])
    two = at_steps(multipliers.state, chosen, total)
    right = add_last(right, two, -1.0)
    outputs = at_steps(o - weights.output_bias, chosen, total)
    if outputs is not None and len(outputs):
        three = at_steps(multipliers.output, chosen, total)
        pull = forces(outputs, three, penalties.output[: chosen.stop])
        right[len(right) - len(outputs) :] += pull @ weights.output
    after = range(chosen.start + 1, min(chosen.stop + 1, total))
    if coupling and len(after):
        drive = input_drive(problem, weights) if drive is None else drive
        later = slice(after.start, after.stop)
        one = at_steps(multipliers.preactivation, after, total)
        pull = forces(a[later] - drive[later], one, penalties.preactivation[: after.stop])
        right[: len(after)] += pull @ weights.recurrent
    if factors is None:
        factors = factor_states(weights, penalties, len(o), coupling)
    return _solve_states(right, factors[part])


def _solve_states(right: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """One triangular solve for all steps that share a factor."""
    result = torch.empty_like(right)
    sharing: dict[int, list[int]] = {}
    for t, factor in enumerate(factors):
        sharing.setdefault(id(factor), []).append(t)
    for group in sharing.values():
        rows = right[group].flatten(0, 1).t()
        solved = torch.cholesky_solve(rows, factors[group[0]]).t()
        result[group] = solved.reshape(len(group), *right.shape[1:])
    return result


@torch.no_grad()
def update_output(iterate: Iterate) -> Tensor:
    """The o_t that minimise L, (time or 1, batch, outputs).

    Followed by the multiplier step it leaves λ3 = -∇R(o) wherever there is a λ3.
    """
    problem, weights, variables, multipliers, penalties = iterate
    o = variables.output
    scored = variables.state[len(variables.state) - len(o) :]
    anchor = torch.nn.functional.linear(scored, weights.output, weights.output_bias)
    tau = per_step(penalties.output, o)
    if multipliers.output is not None:
        last = tau[len(o) - len(multipliers.output) :]
        anchor = add_last(anchor, multipliers.output, -1 / last)
    return nearest_output(problem.loss, anchor, problem.targets, tau[..., 0], problem.loss_weight)
