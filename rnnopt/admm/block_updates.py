"""The exact minimiser of each block of ADMM for an unfolded Elman network, and the multiplier step.

    a_t = x_t uᵀ + s_{t-1} wᵀ + b,   s_t = f(a_t),   o_t = s_t vᵀ + c,   s_0 given,   t = 1 … T

With residuals ra, rs, ro of these three equations, and 𝒪 the steps that carry a loss R,

    L = Σ_𝒪 R_t(o_t) + ω/2 ‖w‖² + Σ_t [⟨λ1_t, ra_t⟩ + α_t/2 ‖ra_t‖² + ⟨λ2_t, rs_t⟩ + σ_t/2 ‖rs_t‖²]
        + Σ_𝒪 [⟨λ3_t, ro_t⟩ + τ_t/2 ‖ro_t‖²],         summed over the samples of the batch.

Blocks, each minimising L with the others fixed (and r/2 ‖Θ - Θ_old‖² added for the weights):

    Θ = [u w b], M_t = [x_t s_{t-1} 1]:
        (Σ α_t M_tᵀM_t + diag(0, ω, 0) + r) Θᵀ = Σ M_tᵀ(α_t a_t + λ1_t) + r Θ_oldᵀ;   [v c] alike
    a:  element by element, `scalar_problem.minimise` at p = a_t - ra_t - λ1/α, q = s_t + λ2/σ
    s:  s_t (σ_t I + τ_t vᵀv [t in 𝒪] + α_{t+1} wᵀw [t < T]) = σ_t f(a_t) - λ2_t
            + (τ_t (o_t - c) + λ3_t) v [t in 𝒪]
            + (α_{t+1} (a_{t+1} - x_{t+1} uᵀ - b) + λ1_{t+1}) w [t < T]
    o:  `scalar_problem.nearest_output` at p = s_t vᵀ + c - λ3/τ
    λ1 += α ra,   λ2 += σ rs,   λ3 += τ ro

| paper      | here                                      |
|------------|-------------------------------------------|
| x, s_0, y  | inputs, initial_state, targets            |
| a, s, o    | preactivation, state, output              |
| u, w, b    | input, recurrent, bias (of `Weights`)     |
| v, c       | output, output_bias                       |
| λ1, λ2, λ3 | `Multipliers` of preactivation, state, output |
| ν          | α_t, σ_t, τ_t for t < T (`inner`)         |
| ρ1, ρ2, ρ3 | α_T, σ_T, τ_T (`last`)                    |
| r; ω       | proximal_weight; recurrent_decay          |

What has 1 step instead of T stands for the last one: outputs and targets (1, batch, ·) are a loss
at the last step alone, multipliers (1, batch, ·) are the paper's λ_T; None is λ = 0.

Departures from the paper (Tang et al., "ADMMiRNN", Problem 1, Eqs. 7 to 21):
1. Exact minimisers instead of linearised ones, for which see `linearised_updates`.
2. λ enters every block with the sign it has in L (Eqs. 9 to 21 print the other one).
3. s_t feels a_{t+1}; the paper's trick of dropping that term is `coupling=False`. Without it no
   state but the last ever hears of the loss.

Nothing here needs autograd; the blocks return tensors without gradient, in new memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from rnnopt.admm.scalar_problem import (
    Loss,
    Nonlinearity,
    apply,
    improve,
    loss_value,
    minimise,
    nearest_output,
)

ALL = slice(None)


class Problem(NamedTuple):
    """What is given.

    Args:
        inputs: (time, batch, features).
        targets: (time or 1, batch, outputs), or class numbers (time or 1, batch).
        initial_state: (batch, hidden).
        nonlinearity: f.
        loss: R, "squared_error" (½‖o - y‖²) or "cross_entropy".
        loss_weight: of each sample's loss, a number or (time or 1, batch).
        recurrent_decay: ω of ω/2 ‖w‖².
    """

    inputs: Tensor
    targets: Tensor
    initial_state: Tensor
    nonlinearity: Nonlinearity = "tanh"
    loss: Loss = "cross_entropy"
    loss_weight: Tensor | float = 1.0
    recurrent_decay: float = 0.0


class Weights(NamedTuple):
    """u (hidden, features), w (hidden, hidden), b (hidden,), v (outputs, hidden), c (outputs,)."""

    input: Tensor
    recurrent: Tensor
    bias: Tensor
    output: Tensor
    output_bias: Tensor


class Variables(NamedTuple):
    """a and s (time, batch, hidden), o (time or 1, batch, outputs). Also a triple of residuals."""

    preactivation: Tensor
    state: Tensor
    output: Tensor


class Multipliers(NamedTuple):
    """λ1, λ2 (time or 1, batch, hidden), λ3 (time or 1, batch, outputs), each None if absent."""

    preactivation: Tensor | None = None
    state: Tensor | None = None
    output: Tensor | None = None


class Penalties(NamedTuple):
    """α, σ, τ > 0, one number a step; numbers of the host, so that nothing waits for a device."""

    preactivation: Sequence[float]
    state: Sequence[float]
    output: Sequence[float]


def penalties(
    steps: int, last: tuple[float, float, float] = (1.0, 1.0, 1.0), inner: float = 1.0
) -> Penalties:
    """The paper's: (ρ1, ρ2, ρ3) at the last step, ν at all others.

    Example:
        >>> penalties(3, last=(1.0, 2.0, 3.0), inner=0.1).state
        (0.1, 0.1, 2.0)
    """
    if steps < 1 or inner <= 0 or min(last) <= 0:
        raise ValueError(
            f"penalties needs steps ≥ 1, last > 0 and inner > 0, got {steps=}, {last=}, {inner=}."
        )
    return Penalties(*((inner,) * (steps - 1) + (rho,) for rho in last))


# -- the Lagrangian ------------------------------------------------------------------------------


def input_drive(problem: Problem, weights: Weights) -> Tensor:
    """x_t uᵀ + b, (time, batch, hidden): what no block but that of the weights changes."""
    return torch.nn.functional.linear(problem.inputs, weights.input, weights.bias)


def previous_states(problem: Problem, state: Tensor) -> Tensor:
    """s_{t-1}, (time, batch, hidden)."""
    return torch.cat([problem.initial_state[None], state[:-1]])


def residuals(problem: Problem, weights: Weights, variables: Variables) -> Variables:
    """ra, rs, ro, of the shapes of a, s, o; differentiable."""
    a, s, o = variables
    scored = s[len(s) - len(o) :]
    return Variables(
        a - input_drive(problem, weights) - previous_states(problem, s) @ weights.recurrent.t(),
        s - apply(problem.nonlinearity, a),
        o - torch.nn.functional.linear(scored, weights.output, weights.output_bias),
    )


def augmented_lagrangian(
    problem: Problem,
    weights: Weights,
    variables: Variables,
    multipliers: Multipliers,
    penalties: Penalties,
) -> Tensor:
    """L, a float64 number; differentiable."""
    value = loss_value(problem.loss, variables.output, problem.targets, problem.loss_weight)
    decay = problem.recurrent_decay / 2
    value = value + decay * weights.recurrent.square().sum(dtype=torch.float64)
    triples = zip(residuals(problem, weights, variables), multipliers, penalties, strict=True)
    for residual, multiplier, numbers in triples:
        half = per_step(numbers, residual) / 2
        value = value + (half * residual * residual).sum(dtype=torch.float64)
        if multiplier is not None:
            last = residual[len(residual) - len(multiplier) :]
            value = value + (multiplier * last).sum(dtype=torch.float64)
    return value


@torch.no_grad()
def multiplier_step(
    multipliers: Multipliers, residuals: Variables, penalties: Penalties
) -> Multipliers:
    """λ + penalty · residual at the steps that have a multiplier."""
    triples = zip(multipliers, residuals, penalties, strict=True)
    return Multipliers(
        *(
            None if m is None else m + (per_step(numbers, r) * r)[len(r) - len(m) :]
            for m, r, numbers in triples
        )
    )


def per_step(numbers: Sequence[float], like: Tensor) -> Tensor:
    """The last len(like) numbers, (steps, 1, 1), to multiply with `like`."""
    last = list(numbers)[len(numbers) - len(like) :]
    return torch.tensor(last, dtype=like.dtype, device=like.device)[:, None, None]


def add_last(tensor: Tensor, multiplier: Tensor | None, numbers: Tensor | float = 1.0) -> Tensor:
    """tensor + numbers · multiplier where there is one; may write into `tensor`."""
    if multiplier is not None:
        tensor[len(tensor) - len(multiplier) :] += numbers * multiplier
    return tensor


def forces(residual: Tensor, multiplier: Tensor | None, numbers: Sequence[float]) -> Tensor:
    """penalty · residual + multiplier, what a broken equation pulls with; steps as `residual`."""
    return add_last(per_step(numbers, residual) * residual, multiplier)


# -- weights -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormalEquations:
    """matrix Θᵀ = right, float64: sums over samples, so they add up over shards and minibatches.

    Args:
        matrix: Σ penalty MᵀM, (inputs + 1, inputs + 1).
        right: Σ Mᵀ(penalty · value + multiplier), (inputs + 1, outputs).
    """

    matrix: Tensor
    right: Tensor

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(self.matrix + other.matrix, self.right + other.right)

    def scaled(self, factor: float) -> "NormalEquations":
        """All sums times a number: `old.scaled(0.9) + new` forgets exponentially."""
        return NormalEquations(factor * self.matrix, factor * self.right)


def _normal_equations(
    parts: Sequence[Tensor], value: Tensor, multiplier: Tensor | None, numbers: Sequence[float]
) -> NormalEquations:
    """From rows [*parts, 1], all (time, batch, ·), step by step to keep the copies small."""
    width = sum(part.shape[-1] for part in parts) + 1
    matrix = value.new_zeros((width, width), dtype=torch.float64)
    right = value.new_zeros((width, value.shape[-1]), dtype=torch.float64)
    absent = 0 if multiplier is None else len(value) - len(multiplier)
    for t, number in enumerate(list(numbers)[len(numbers) - len(value) :]):
        ones = parts[0].new_ones((len(value[t]), 1))
        rows = torch.cat([part[t] for part in parts] + [ones], dim=1).double()
        goal = number * value[t].double()
        if multiplier is not None and t >= absent:
            goal += multiplier[t - absent]
        matrix.addmm_(rows.t(), rows, alpha=number)
        right.addmm_(rows.t(), goal)
    return NormalEquations(matrix, right)


@torch.no_grad()
def recurrent_equations(
    problem: Problem, variables: Variables, multipliers: Multipliers, penalties: Penalties
) -> NormalEquations:
    """Normal equations of (u, w, b), rows in this order."""
    parts = [problem.inputs, previous_states(problem, variables.state)]
    return _normal_equations(
        parts, variables.preactivation, multipliers.preactivation, penalties.preactivation
    )


@torch.no_grad()
def output_equations(
    variables: Variables, multipliers: Multipliers, penalties: Penalties
) -> NormalEquations:
    """Normal equations of (v, c), rows in this order."""
    scored = variables.state[len(variables.state) - len(variables.output) :]
    return _normal_equations([scored], variables.output, multipliers.output, penalties.output)


@torch.no_grad()
def solve_recurrent_weights(
    equations: NormalEquations,
    weights: Weights,
    proximal_weight: float = 0.0,
    recurrent_decay: float = 0.0,
) -> Weights:
    """(u, w, b) that minimise L + r/2 ‖change‖².

    Args:
        equations: from `recurrent_equations`, possibly summed.
        weights: the old ones.
        proximal_weight: r; > 0 keeps them where the data say nothing (constant inputs).
        recurrent_decay: ω.
    """
    features, hidden = weights.input.shape[1], weights.recurrent.shape[1]
    old = torch.cat([weights.input, weights.recurrent, weights.bias[:, None]], dim=1)
    decay = old.new_zeros(old.shape[1], dtype=torch.float64)
    decay[features : features + hidden] = recurrent_decay
    new = _solve(equations, old, proximal_weight, decay)
    u, w, b = new.split([features, hidden, 1], dim=1)
    return weights._replace(input=u.clone(), recurrent=w.clone(), bias=b[:, 0].clone())


@torch.no_grad()
def solve_output_weights(
    equations: NormalEquations, weights: Weights, proximal_weight: float = 0.0
) -> Weights:
    """(v, c) that minimise L + r/2 ‖change‖²; see `solve_recurrent_weights`."""
    old = torch.cat([weights.output, weights.output_bias[:, None]], dim=1)
    new = _solve(equations, old, proximal_weight, old.new_zeros((), dtype=torch.float64))
    return weights._replace(output=new[:, :-1].clone(), output_bias=new[:, -1].clone())


def _solve(equations: NormalEquations, old: Tensor, proximal: float, decay: Tensor) -> Tensor:
    """Solved for the change, so that what the fallback adds keeps the old weights, as r does."""
    start = old.t().double()
    slope = equations.right - equations.matrix @ start - decay.expand(len(start))[:, None] * start
    matrix = equations.matrix + torch.diag((decay + proximal).expand(len(start)))
    return (start + torch.cholesky_solve(slope, cholesky(matrix))).t().to(old.dtype)


def cholesky(matrix: Tensor) -> Tensor:
    """The lower factor, float64; a singular matrix gets the least 10^k · 1e-14 of its trace added.

    Non-finite where the matrix is, for the caller to find in the result.
    """
    matrix = matrix.double()
    factor, info = torch.linalg.cholesky_ex(matrix)
    added = 1e-14 * matrix.trace() + torch.finfo(torch.float64).tiny
    for _ in range(8):
        if not info:
            return factor
        factor, info = torch.linalg.cholesky_ex(matrix + added * torch.eye(len(matrix)).to(matrix))
        added = 10 * added
    return factor if not info else torch.full_like(factor, torch.nan)


# -- pre-activations, states, outputs ------------------------------------------------------------


def _runs(numbers: Sequence[tuple[float, float]]) -> Iterator[tuple[slice, tuple[float, float]]]:
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


@torch.no_grad()
def update_preactivation(
    problem: Problem,
    weights: Weights,
    variables: Variables,
    multipliers: Multipliers,
    penalties: Penalties,
    local: bool = False,
    steps: slice = ALL,
    drive: Tensor | None = None,
) -> Tensor:
    """The a_t of `steps` that minimise L, (steps, batch, hidden).

    Args:
        local: for tanh, Newton from the old a, which may keep the worse of two minima.
        steps: consecutive steps, counted from 0; a_t feels no other a.
        drive: `input_drive`, if already known.
    """
    total = len(variables.state)
    chosen = select(steps, total)
    part = slice(chosen.start, chosen.stop)
    drive = input_drive(problem, weights) if drive is None else drive
    before = previous_states(problem, variables.state)[part]
    alpha, sigma = list(penalties.preactivation)[part], list(penalties.state)[part]
    p = drive[part] + before @ weights.recurrent.t()
    q = variables.state[part].clone()
    one = at_steps(multipliers.preactivation, chosen, total)
    two = at_steps(multipliers.state, chosen, total)
    p = p if one is None else add_last(p, one, -1 / per_step(alpha, one))
    q = q if two is None else add_last(q, two, 1 / per_step(sigma, two))
    result = torch.empty_like(p)
    for run, (a, s) in _runs(list(zip(alpha, sigma, strict=True))):
        if local:
            old = variables.preactivation[part][run]
            result[run] = improve(problem.nonlinearity, p[run], q[run], s / a, old)
        else:
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
    problem: Problem,
    weights: Weights,
    variables: Variables,
    multipliers: Multipliers,
    penalties: Penalties,
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
def update_output(
    problem: Problem,
    weights: Weights,
    variables: Variables,
    multipliers: Multipliers,
    penalties: Penalties,
) -> Tensor:
    """The o_t that minimise L, (time or 1, batch, outputs).

    Followed by the multiplier step it leaves λ3 = -∇R(o) wherever there is a λ3.
    """
    o = variables.output
    scored = variables.state[len(variables.state) - len(o) :]
    anchor = torch.nn.functional.linear(scored, weights.output, weights.output_bias)
    tau = per_step(penalties.output, o)
    if multipliers.output is not None:
        last = tau[len(o) - len(multipliers.output) :]
        anchor = add_last(anchor, multipliers.output, -1 / last)
    return nearest_output(problem.loss, anchor, problem.targets, tau[..., 0], problem.loss_weight)
