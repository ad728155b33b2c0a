"""ADMM's problem: the equations of an unfolded Elman network and their augmented Lagrangian.

    a_t = x_t uᵀ + s_{t-1} wᵀ + b,   s_t = f(a_t),   o_t = s_t vᵀ + c,   s_0 given,   t = 1 … T

With residuals ra, rs, ro of these three equations, and 𝒪 the steps that carry a loss R,

    L = Σ_𝒪 R_t(o_t) + ω/2 ‖w‖² + Σ_t [⟨λ1_t, ra_t⟩ + α_t/2 ‖ra_t‖² + ⟨λ2_t, rs_t⟩ + σ_t/2 ‖rs_t‖²]
        + Σ_𝒪 [⟨λ3_t, ro_t⟩ + τ_t/2 ‖ro_t‖²],         summed over the samples of the batch,

    λ1 += α ra,   λ2 += σ rs,   λ3 += τ ro.

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

Tang et al., "ADMMiRNN: Training RNN with Stable Convergence via An Efficient ADMM Approach", 2020,
Problem 1 and Eq. 7.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rnnopt.admm.prox import Loss, Nonlinearity, apply, loss_value

Cell = Literal["elman", "gru", "lstm"]


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
        cell: what makes s_t of a_t, f alone or the gates of `cells`. This and what follows the
            trajectory as one block knows (`joint_sweep`), the blocks here do not.
        valid: which steps are no padding, (time, batch); None is all.
        counted: which answers have a loss, (time or 1, batch); None is all.
        weight_bound: a number that no `loss_weight` is above, if known without asking a device.
    """

    inputs: Tensor
    targets: Tensor
    initial_state: Tensor
    nonlinearity: Nonlinearity = "tanh"
    loss: Loss = "cross_entropy"
    loss_weight: Tensor | float = 1.0
    recurrent_decay: float = 0.0
    cell: Cell = "elman"
    valid: Tensor | None = None
    counted: Tensor | None = None
    weight_bound: float | None = None


class Weights(NamedTuple):
    """u (hidden, features), w (hidden, hidden), b (hidden,), v (outputs, hidden), c (outputs,).

    Layers with gates have four times as many rows of u, w and b (`cells`).
    """

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


class Iterate(NamedTuple):
    """Where the block updates stand, and what they are given."""

    problem: Problem
    weights: Weights
    variables: Variables
    multipliers: Multipliers
    penalties: Penalties


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


def augmented_lagrangian(iterate: Iterate) -> Tensor:
    """L, a float64 number; differentiable."""
    problem, weights, variables, multipliers, penalties = iterate
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


def dual_residuals(before: Variables, after: Variables, penalties: Penalties) -> Variables:
    """Penalty times the change of a, s and o in an iteration; what a fixed point has at zero."""
    triples = zip(before, after, penalties, strict=True)
    return Variables(*(per_step(numbers, b) * (b - a) for a, b, numbers in triples))


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
