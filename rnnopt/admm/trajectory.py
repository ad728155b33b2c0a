"""The trajectory (a, s, o) of ADMM as one block.

With s_t = f(a_t) and o_t eliminated, one penalty ρ and slacks e_t = ra_t, what is left of the
augmented Lagrangian of a sample is a problem of optimal control,

    J(e) = Σ_t ρ/2 ‖e_t‖² + Σ_𝒪 R̃(p_t),
    a_t = x_t uᵀ + s_{t-1} wᵀ + b + e_t,   p_t = s_t vᵀ + c,
    R̃(p) = min_o R(o) + ρ/2 ‖o - p‖²,   with gradient ρ (p - o*), o* - p from `output_pull`.

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

Layers with gates have their own K_t where f'(a_t) stands, and carry more from step to step
(`cells`); all else is the same. The weights follow in `gauss_newton`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnnopt.admm import cells
from rnnopt.admm.lagrangian import Problem, Weights
from rnnopt.admm.prox import output_pull


class Course(NamedTuple):
    """A layer's part of a trajectory.

    Args:
        inputs: x, or the states of the layer below, (time, batch, features).
        states: s_0 … s_T, (time + 1, batch, hidden).
        slack: e, (time, batch, hidden), or gates times hidden.
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


def _passages(
    problem: Problem, weights: Weights, scored: int, below: Sequence[Weights]
) -> tuple[list[cells.Passage], Tensor]:
    """Of each layer from the lowest, and the outputs of the last `scored` steps."""
    passages: list[cells.Passage] = []
    for layer in (*below, weights):
        passages.append(cells.forward(problem, layer))
        if problem.valid is not None:  # what runs on through the padding may overflow there
            states = passages[-1].states
            states[1:] = torch.where(problem.valid[:, :, None], states[1:], 0)
        problem = problem._replace(inputs=passages[-1].states[1:])
    last = passages[-1].states[-scored:]
    return passages, torch.nn.functional.linear(last, weights.output, weights.output_bias)


@torch.no_grad()
def forward(
    problem: Problem, weights: Weights, scored: int, below: Sequence[Weights] = ()
) -> tuple[list[Tensor], Tensor]:
    """States of each layer, (time + 1, batch, hidden), and outputs of the last `scored` steps."""
    passages, outputs = _passages(problem, weights, scored, below)
    return [passage.states for passage in passages], outputs


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
    passages, outputs = _passages(problem, weights, scored, below)
    pull = output_pull(
        problem.loss, outputs, problem.targets, penalty, problem.loss_weight, problem.weight_bound
    )
    if problem.counted is not None:
        pull = torch.where(problem.counted[:, :, None], pull, 0)
    # Divided by ρ, which cancels: the force on the states of the layer at hand.
    force = pull @ weights.output
    slacks: list[Tensor] = []
    for layer, passage in zip((weights, *reversed(below)), reversed(passages), strict=True):
        slacks.insert(0, cells.backward(problem.cell, passage, layer.recurrent, force))
        if len(slacks) <= len(below):
            force = slacks[0] @ layer.input
    losses = sample_losses(problem, outputs + pull) + penalty / 2 * pull.square().sum((0, 2))
    slacks = _shortened(slacks, limit * (2 * losses.clamp(min=0) / penalty).sqrt())
    states = [passage.states for passage in passages]
    inputs = (problem.inputs, *(own[1:] for own in states[:-1]))
    return Trajectory(tuple(map(Course, inputs, states, slacks)), outputs, pull)


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
