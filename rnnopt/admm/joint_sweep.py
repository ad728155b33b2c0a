"""The trajectory (a, s, o) of ADMM as one block, and the weights that follow from it.

With s_t = f(a_t) and o_t eliminated, one penalty ρ and slacks e_t = ra_t, what is left of the
augmented Lagrangian of a sample is a problem of optimal control,

    J(e) = Σ_t ρ/2 ‖e_t‖² + Σ_𝒪 R̃(p_t),
    a_t = x_t uᵀ + s_{t-1} wᵀ + b + e_t,   p_t = s_t vᵀ + c,
    R̃(p) = min_o R(o) + ρ/2 ‖o - p‖²,   with gradient ρ (p - o*), o* from `nearest_output`.

Its stationary points are e_t = -g_t / ρ, where -ρ e_t is the multiplier λ1_t of the constraint and

    g_t = f'(a_t) ⊙ ([t in 𝒪] ρ (p_t - o_t*) v + g_{t+1} w)

runs backward along the trajectory that belongs to e. One sweep is one forward and one backward
pass from e = 0 and sets e to -g / ρ: the first step of the fixed-point iteration, of length 1/ρ.
It lowers J where ρ is stiff; nothing guards it elsewhere, and further sweeps, shorter steps and a
search made networks learn more slowly. The backward recursion is that of the multipliers
and the same as the adjoint recursion of back-propagation: what differs is all that follows. No
minimiser is farther than ρ/2 ‖e‖² = J(0); slacks longer than `limit` times that are cut, sample by
sample, which keeps every step finite where gradients explode.

In a stack of layers each has its own a, s and e, and reads the states of the one below. The
recursion of a layer that is not the top starts from the slacks above it: what stands for
[t in 𝒪] ρ (p_t - o_t*) v there is g_t u of the layer above. The bound is on all slacks together.

The weights then follow: Gauss-Newton steps towards a_t + e_t for M_t = [x_t s_{t-1} 1],

    Θᵀ ← Θᵀ + (Ā + r)⁻¹ Σ_t M_tᵀ e_t / B,      Ā: running mean of Σ_t M_tᵀM_t / B

and (v, c) alike from o* - p. The curvature is that of the inputs of each layer over the last
minibatches, the pull that of this one alone: for the first minibatch the ridge problem of
`weight_updates`, later 1 / (its share in Ā) times as long as the step to the minimiser of one that
asks earlier minibatches to keep their pre-activations, which would hardly move.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnnopt.admm.lagrangian import Problem, Weights, input_drive
from rnnopt.admm.scalar_problem import Nonlinearity, apply, nearest_output
from rnnopt.admm.weight_updates import cholesky
from rnnopt.distributed import Group, processes, sums


class Course(NamedTuple):
    """A layer's part of a trajectory.

    Args:
        inputs: x, or the states of the layer below, (time, batch, features).
        states: s_0 … s_T, (time + 1, batch, hidden).
        slack: e, (time, batch, hidden).
    """

    inputs: Tensor
    states: Tensor
    slack: Tensor


class Trajectory(NamedTuple):
    """What a sweep finds.

    Args:
        layers: from the lowest to the top.
        outputs: p, (time or 1, batch, outputs).
        output_slack: o* - p, as p.
    """

    layers: tuple[Course, ...]
    outputs: Tensor
    output_slack: Tensor


@torch.no_grad()
def forward(
    problem: Problem, weights: Weights, scored: int, below: Sequence[Weights] = ()
) -> tuple[list[Tensor], Tensor]:
    """States of each layer, (time + 1, batch, hidden), and outputs of the last `scored` steps."""
    states: list[Tensor] = []
    for layer in (*below, weights):
        states.append(_states(problem, layer))
        problem = problem._replace(inputs=states[-1][1:])
    scores = states[-1][-scored:]
    return states, torch.nn.functional.linear(scores, weights.output, weights.output_bias)


def _states(problem: Problem, weights: Weights) -> Tensor:
    """s_0 … s_T of a layer whose inputs are the problem's."""
    drive = input_drive(problem, weights)
    states = drive.new_empty((len(drive) + 1, *problem.initial_state.shape))
    states[0] = problem.initial_state
    recurrent = weights.recurrent.t()
    for t, now in enumerate(drive.unbind(0)):
        now.addmm_(states[t], recurrent)
        states[t + 1] = apply(problem.nonlinearity, now)
    return states


def slope(nonlinearity: Nonlinearity, states: Tensor) -> Tensor:
    """f'(a) from s = f(a)."""
    if nonlinearity == "tanh":
        return 1 - states * states
    if nonlinearity == "relu":
        return (states > 0).to(states.dtype)
    return torch.ones_like(states)


@torch.no_grad()
def sweep(
    problem: Problem,
    weights: Weights,
    penalty: float,
    limit: float,
    below: Sequence[Weights] = (),
) -> Trajectory:
    """The trajectory after a forward and a backward pass from the network's own.

    Args:
        problem: what is given; as many scored steps as `targets` has.
        weights: of the top layer and the read-out, held fixed.
        penalty: ρ.
        limit: how many times as long as the bound a sample's slack may be.
        below: weights of the layers below, lowest first; their read-outs are not looked at.
    """
    scored = len(problem.targets)
    states, outputs = forward(problem, weights, scored, below)
    penalties = outputs.new_full((scored, 1), penalty)
    nearest = nearest_output(problem.loss, outputs, problem.targets, penalties, problem.loss_weight)
    pull = nearest - outputs
    # Divided by ρ, which cancels: the force on the states of the layer at hand.
    force = pull @ weights.output
    slacks: list[Tensor] = []
    for layer, own in zip((weights, *reversed(below)), reversed(states), strict=True):
        slacks.insert(0, _backward(problem, layer, own, force))
        if len(slacks) <= len(below):
            force = slacks[0] @ layer.input
    losses = sample_losses(problem, nearest) + penalty / 2 * pull.square().sum((0, 2))
    slacks = _shortened(slacks, limit * (2 * losses.clamp(min=0) / penalty).sqrt())
    inputs = (problem.inputs, *(own[1:] for own in states[:-1]))
    return Trajectory(tuple(map(Course, inputs, states, slacks)), outputs, pull)


def _backward(problem: Problem, weights: Weights, states: Tensor, pulled: Tensor) -> Tensor:
    """-g / ρ along a layer's trajectory; `pulled` is the force on its last len(pulled) states."""
    slack = slope(problem.nonlinearity, states[1:])
    first = len(slack) - len(pulled)
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


def _shortened(slacks: list[Tensor], allowed: Tensor) -> list[Tensor]:
    """The slacks cut to the length `allowed`, (batch,); those that overflowed are zero."""
    each = [torch.linalg.vector_norm(slack, dim=2) for slack in slacks]
    length = torch.linalg.vector_norm(torch.cat(each), dim=0)
    factor = (allowed / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)
    factor = torch.where(length.isfinite() & factor.isfinite(), factor, 0.0)
    return [slack.nan_to_num_(0.0, 0.0, 0.0).mul_(factor[:, None]) for slack in slacks]


def sample_losses(problem: Problem, outputs: Tensor) -> Tensor:
    """Σ_𝒪 R of each sample, (batch,)."""
    if problem.loss == "cross_entropy":
        picked = outputs.log_softmax(-1).gather(-1, problem.targets[..., None])[..., 0]
        losses = -picked
    else:
        losses = (outputs - problem.targets).square().sum(-1) / 2
    return (losses * problem.loss_weight).sum(0)


# The means over samples of Σ_t M_tᵀM_t and of Σ_t M_tᵀ e_t.
Equation = tuple[Tensor, Tensor]


class Moments(NamedTuple):
    """Ā of each layer (inputs + hidden + 1, squared), lowest first, and of the output."""

    layers: tuple[Tensor, ...]
    output: Tensor


def _rows(*parts: Tensor) -> Tensor:
    """[*parts, 1] of all steps and samples, (rows, columns)."""
    ones = parts[0].new_ones((*parts[0].shape[:-1], 1))
    return torch.cat([*parts, ones], dim=-1).flatten(0, 1)


@torch.no_grad()
def follow(
    weights: Sequence[Weights],
    found: Trajectory,
    moments: Moments | None,
    memory: float,
    step: int,
    proximal_weight: float,
    process_group: Group = None,
) -> tuple[list[Weights], Moments]:
    """The weights that follow a trajectory, and the moments with this minibatch in them.

    Args:
        weights: the old ones of each layer, lowest first; the last has the read-out.
        found: the trajectory of the minibatch.
        moments: of the minibatches before; None for the first.
        memory: in [0, 1), by which their weights fall.
        step: number of this minibatch, from 1.
        proximal_weight: r > 0, as against the mean over samples of Σ_t M_tᵀM_t.
        process_group: the processes whose samples make one minibatch.
    """
    # The first minibatches count alike: a mean of few, then one that forgets.
    share = 1.0 if moments is None else max(1 - memory, 1 / step)

    def solve(equation: Equation, before: Tensor | None) -> tuple[Tensor, Tensor]:
        now, right = equation
        now = now if before is None else torch.lerp(before, now, share)
        return _ridge(now, right, proximal_weight), now

    *equations, of_output = _mean_equations(found, process_group)
    new: list[Weights] = []
    seen: list[Tensor] = []
    for i, (old, equation) in enumerate(zip(weights, equations, strict=True)):
        change, now = solve(equation, moments and moments.layers[i])
        seen.append(now)
        (hidden, features) = old.input.shape
        u, w, b = change.t().split([features, hidden, 1], dim=1)
        new.append(
            old._replace(input=old.input + u, recurrent=old.recurrent + w, bias=old.bias + b[:, 0])
        )
    change, now = solve(of_output, moments and moments.output)
    v, c = change[:-1].t(), change[-1]
    top = new[-1]
    new[-1] = top._replace(output=top.output + v, output_bias=top.output_bias + c)
    return new, Moments(tuple(seen), now)


def _mean_equations(found: Trajectory, process_group: Group) -> list[Equation]:
    """Of each layer, lowest first, and of the output: means over the samples of all processes."""
    batch = found.outputs.shape[1]

    def equation(rows: Tensor, slack: Tensor) -> Equation:
        return rows.t() @ rows / batch, rows.t() @ slack.flatten(0, 1) / batch

    equations = [equation(_rows(c.inputs, c.states[:-1]), c.slack) for c in found.layers]
    scored = found.layers[-1].states[-len(found.outputs) :]
    equations.append(equation(_rows(scored), found.output_slack))
    if processes(process_group) == 1:
        return equations
    flat = [batch * part for equation in equations for part in equation]
    *flat, total = sums([*flat, flat[0].new_tensor(batch)], process_group)
    flat = [part / total for part in flat]
    return list(zip(flat[::2], flat[1::2], strict=True))


def _ridge(matrix: Tensor, right: Tensor, proximal_weight: float) -> Tensor:
    """(matrix + r)⁻¹ right; in double precision, for r may be below the roundings of the matrix."""
    damped = matrix.double() + proximal_weight * torch.eye(
        len(matrix), dtype=torch.float64, device=matrix.device
    )
    return torch.cholesky_solve(right.double(), cholesky(damped)).to(right.dtype)
