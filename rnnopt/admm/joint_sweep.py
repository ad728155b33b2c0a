"""The trajectory (a, s, o) of ADMM minimised as one block, and the weights that follow from it.

With s_t = f(a_t) and o_t eliminated, one penalty ρ and slacks e_t = ra_t, what is left of the
augmented Lagrangian of a sample is a problem of optimal control,

    J(e) = Σ_t ρ/2 ‖e_t‖² + Σ_𝒪 R̃(p_t),
    a_t = x_t uᵀ + s_{t-1} wᵀ + b + e_t,   p_t = s_t vᵀ + c,
    R̃(p) = min_o R(o) + ρ/2 ‖o - p‖²,   with gradient ρ (p - o*), o* from `nearest_output`.

Its stationary points are e_t = -g_t / ρ, where -ρ e_t is the multiplier λ1_t of the constraint and

    g_t = f'(a_t) ⊙ ([t in 𝒪] ρ (p_t - o_t*) v + g_{t+1} w)

runs backward along the trajectory that belongs to e. One sweep is one forward and one backward
pass; from e = 0 on, each sets e to -g / ρ. This backward recursion is that of the multipliers
and the same as the adjoint recursion of back-propagation: what differs is all that follows. No
minimiser is farther than ρ/2 ‖e‖² = J(0), so longer slacks are cut to that, sample by sample: that
keeps every step finite where gradients explode.

The weights are then the ridge problem of `block_updates` for M_t = [x_t s_{t-1} 1], in which
earlier minibatches ask, with weights that fall by `memory` each time, for their pre-activations to
stay as they are:

    Θᵀ ← Θᵀ + (Ā + r)⁻¹ Σ_t M_tᵀ e_t / B,      Ā: running mean of Σ_t M_tᵀM_t / B

and (v, c) alike from o* - p. In all, a block Gauss-Newton step whose curvature is that of the
inputs of each layer.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rnnopt.admm.block_updates import Problem, Weights, cholesky, input_drive
from rnnopt.admm.scalar_problem import Nonlinearity, apply, nearest_output


class Trajectory(NamedTuple):
    """What a sweep finds.

    Args:
        states: s_0 … s_T, (time + 1, batch, hidden).
        outputs: p, (time or 1, batch, outputs).
        slack: e, (time, batch, hidden).
        output_slack: o* - p, as p.
    """

    states: Tensor
    outputs: Tensor
    slack: Tensor
    output_slack: Tensor


@torch.no_grad()
def forward(problem: Problem, weights: Weights, scored: int) -> tuple[Tensor, Tensor]:
    """States (time + 1, batch, hidden) and outputs of the last `scored` steps."""
    drive = input_drive(problem, weights)
    states = drive.new_empty((len(drive) + 1, *problem.initial_state.shape))
    states[0] = problem.initial_state
    recurrent = weights.recurrent.t()
    for t, now in enumerate(drive.unbind(0)):
        now.addmm_(states[t], recurrent)
        states[t + 1] = apply(problem.nonlinearity, now)
    outputs = torch.nn.functional.linear(states[-scored:], weights.output, weights.output_bias)
    return states, outputs


def slope(nonlinearity: Nonlinearity, states: Tensor) -> Tensor:
    """f'(a) from s = f(a)."""
    if nonlinearity == "tanh":
        return 1 - states * states
    if nonlinearity == "relu":
        return (states > 0).to(states.dtype)
    return torch.ones_like(states)


@torch.no_grad()
def sweep(problem: Problem, weights: Weights, penalty: float, limit: float) -> Trajectory:
    """The trajectory after a forward and a backward pass from the network's own.

    Args:
        problem: what is given; as many scored steps as `targets` has.
        weights: held fixed.
        penalty: ρ.
        limit: how many times as long as the bound a sample's slack may be.
    """
    scored = len(problem.targets)
    states, outputs = forward(problem, weights, scored)
    penalties = outputs.new_full((scored, 1), penalty)
    nearest = nearest_output(problem.loss, outputs, problem.targets, penalties, problem.loss_weight)
    pull = nearest - outputs
    slack = _backward(problem, weights, states, pull)
    losses = sample_losses(problem, nearest) + penalty / 2 * pull.square().sum((0, 2))
    slack = _shortened(slack, limit * (2 * losses.clamp(min=0) / penalty).sqrt())
    return Trajectory(states, outputs, slack, pull)


def _backward(problem: Problem, weights: Weights, states: Tensor, pull: Tensor) -> Tensor:
    """-g / ρ along a trajectory: pull is o* - p, so that ρ cancels."""
    slack = slope(problem.nonlinearity, states[1:])
    pulled = pull @ weights.output
    first = len(slack) - len(pull)
    after: Tensor | None = None
    for t in range(len(slack) - 1, -1, -1):
        if t < first:
            assert after is not None
            force = after @ weights.recurrent
        elif after is None:
            force = pulled[t - first]
        else:
            force = torch.addmm(pulled[t - first], after, weights.recurrent)
        after = slack[t].mul_(force)
    return slack


def _shortened(slack: Tensor, allowed: Tensor) -> Tensor:
    """The slacks cut to the length `allowed`, (batch,); those that overflowed are zero."""
    length = torch.linalg.vector_norm(torch.linalg.vector_norm(slack, dim=2), dim=0)
    factor = (allowed / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)
    factor = torch.where(length.isfinite() & factor.isfinite(), factor, 0.0)
    return slack.nan_to_num_(0.0, 0.0, 0.0).mul_(factor[:, None])


def sample_losses(problem: Problem, outputs: Tensor) -> Tensor:
    """Σ_𝒪 R of each sample, (batch,)."""
    if problem.loss == "cross_entropy":
        picked = outputs.log_softmax(-1).gather(-1, problem.targets[..., None])[..., 0]
        losses = -picked
    else:
        losses = (outputs - problem.targets).square().sum(-1) / 2
    return (losses * problem.loss_weight).sum(0)


class Moments(NamedTuple):
    """Ā of the recurrent weights (inputs + hidden + 1, squared) and of the output (hidden + 1)."""

    recurrent: Tensor
    output: Tensor


def _rows(*parts: Tensor) -> Tensor:
    """[*parts, 1] of all steps and samples, (rows, columns)."""
    ones = parts[0].new_ones((*parts[0].shape[:-1], 1))
    return torch.cat([*parts, ones], dim=-1).flatten(0, 1)


@torch.no_grad()
def follow(
    problem: Problem,
    weights: Weights,
    found: Trajectory,
    moments: Moments | None,
    memory: float,
    step: int,
    proximal_weight: float,
) -> tuple[Weights, Moments]:
    """The weights that follow a trajectory, and the moments with this minibatch in them.

    Args:
        problem, weights, found: the minibatch, the old weights, the trajectory.
        moments: of the minibatches before; None for the first.
        memory: in [0, 1), by which their weights fall.
        step: number of this minibatch, from 1.
        proximal_weight: r > 0, as against the mean over samples of Σ_t M_tᵀM_t.
    """
    batch, (features, hidden) = len(problem.initial_state), weights.input.T.shape
    rows = _rows(problem.inputs, found.states[:-1])
    last = _rows(found.states[-len(found.outputs) :])
    now = Moments(rows.t() @ rows / batch, last.t() @ last / batch)
    if moments is not None:
        # The first minibatches count alike: a mean of few, then one that forgets.
        share = max(1 - memory, 1 / step)
        now = Moments(*(torch.lerp(a, b, share) for a, b in zip(moments, now, strict=True)))
    wanted = rows.t() @ found.slack.flatten(0, 1) / batch
    change = _ridge(now.recurrent, wanted, proximal_weight)
    wanted = last.t() @ found.output_slack.flatten(0, 1) / batch
    output = _ridge(now.output, wanted, proximal_weight)
    u, w, b = change.t().split([features, hidden, 1], dim=1)
    v, c = output.t().split([hidden, 1], dim=1)
    new = Weights(
        weights.input + u,
        weights.recurrent + w,
        weights.bias + b[:, 0],
        weights.output + v,
        weights.output_bias + c[:, 0],
    )
    return new, now


def _ridge(matrix: Tensor, right: Tensor, proximal_weight: float) -> Tensor:
    """(matrix + r)⁻¹ right; in double precision, for r may be below the roundings of the matrix."""
    damped = matrix.double() + proximal_weight * torch.eye(len(matrix)).to(matrix).double()
    return torch.cholesky_solve(right.double(), cholesky(damped)).to(right.dtype)
