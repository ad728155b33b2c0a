"""The weights of ADMM that follow a trajectory (`joint_sweep`): Gauss-Newton steps.

With M_t = [x_t s_{t-1} 1], Θ = [u w b] and the slacks e_t of a minibatch of B samples,

    Θᵀ ← Θᵀ + κ l (Ā + r)⁻¹ Σ_t M_tᵀ e_t / B,      Ā: running mean of Σ_t M_tᵀM_t / B

and (v, c) alike from o* - p. The curvature is that of the inputs of each layer over the last
minibatches, the pull that of this one alone: for the first minibatch and l = 1 the ridge problem of
`weight_updates`, later 1 / (its share in Ā) times as long as the step to the minimiser of one that
asks earlier minibatches to keep their pre-activations, which would hardly move. l is the rate over
1/ρ: e_t = -g_t / ρ, so that the step is one of that rate along the multipliers -g_t.

κ ≤ 1 is a trust region: M_t times the change of Θᵀ is what a_t changes by if the states do not,
and its root mean square over steps, samples and units may be no more than `max_change`, measured by
Ā, which is over the last minibatches (by the newest alone texts were learnt more slowly); for units
without bounds (relu), times that of a_t itself, if above 1. The read-out is held
alike, that of a squared error to that part of the targets' root mean square, if above 1. It asks
nobody to look at losses, and it is what keeps long sequences with a loss at each step from being
driven into saturation by the first minibatches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnnopt.admm.cells import columns
from rnnopt.admm.lagrangian import Problem, Weights
from rnnopt.admm.trajectory import Trajectory
from rnnopt.admm.weight_updates import cholesky
from rnnopt.distributed import Group, processes, sums

# The means over samples of Σ_t M_tᵀM_t and of Σ_t M_tᵀ e_t.
Equation = tuple[Tensor, Tensor]


class Moments(NamedTuple):
    """Ā of each layer (inputs + hidden + 1, squared), lowest first, and of the output."""

    layers: tuple[Tensor, ...]
    output: Tensor


class Step(NamedTuple):
    """How far to go.

    Args:
        length: l, rate times ρ.
        proximal_weight: r > 0, as against the mean over samples of Σ_t M_tᵀM_t.
        max_change: as the module says; may be infinite.
        memory: in [0, 1), by which the weights of minibatches fall.
        number: of this minibatch, from 1.
    """

    length: float = 1.0
    proximal_weight: float = 0.1
    max_change: float = float("inf")
    memory: float = 0.95
    number: int = 1

    @property
    def share(self) -> float:
        """Of this minibatch in Ā: the first count alike; a mean of few, then one that forgets."""
        return max(1 - self.memory, 1 / self.number)


@torch.no_grad()
def follow(
    problem: Problem,
    weights: Sequence[Weights],
    found: Trajectory,
    moments: Moments | None,
    step: Step,
    process_group: Group = None,
) -> tuple[list[Weights], Moments]:
    """The weights that follow a trajectory, and the moments with this minibatch in them.

    Args:
        problem: whose cell and nonlinearity count.
        weights: the old ones of each layer, lowest first; the last has the read-out.
        found: the trajectory of the minibatch.
        moments: of the minibatches before; None for the first.
        step: how far.
        process_group: the processes whose samples make one minibatch.
    """
    *equations, of_output = _mean_equations(problem, found, process_group)
    unit_of_outputs: Tensor | float = 1.0
    if problem.loss == "squared_error":
        unit_of_outputs = _mean_square(problem, process_group).clamp(min=1).sqrt()
    new: list[Weights] = []
    seen: list[Tensor] = []
    for i, (old, (now, right)) in enumerate(zip(weights, equations, strict=True)):
        curvature = _averaged(now, moments and moments.layers[i], step)
        seen.append(curvature)
        features, hidden = old.input.shape[1], old.recurrent.shape[1]
        change = torch.zeros_like(right)
        for read, part in columns(problem.cell, features, right):
            own = curvature[read][:, read]
            change[read, part] = _ridge(own, right[read, part], step.proximal_weight)
        theta = torch.cat([old.input, old.recurrent, old.bias[:, None]], dim=1).t()
        unit = 1.0 if problem.nonlinearity == "tanh" else _size(curvature, theta).clamp(min=1)
        change = _within(step.length * change, curvature, step.max_change * unit)
        u, w, b = change.t().split([features, hidden, 1], dim=1)
        new.append(
            old._replace(input=old.input + u, recurrent=old.recurrent + w, bias=old.bias + b[:, 0])
        )
    now, right = of_output
    curvature = _averaged(now, moments and moments.output, step)
    change = step.length * _ridge(curvature, right, step.proximal_weight)
    change = _within(change, curvature, step.max_change * unit_of_outputs)
    v, c = change[:-1].t(), change[-1]
    top = new[-1]
    new[-1] = top._replace(output=top.output + v, output_bias=top.output_bias + c)
    return new, Moments(tuple(seen), curvature)


def _averaged(now: Tensor, before: Tensor | None, step: Step) -> Tensor:
    """Ā with this minibatch in it."""
    return now if before is None else torch.lerp(before, now, step.share)


def _mean_square(problem: Problem, process_group: Group) -> Tensor:
    """Of the targets that are counted."""
    total = problem.targets.square().sum()  # the others are zero
    count = total.new_tensor(problem.targets.numel())
    if problem.counted is not None:
        count = problem.counted.sum().to(total) * problem.targets.shape[-1]
    total, count = sums([total, count], process_group)
    return total / count


def _within(change: Tensor, matrix: Tensor, allowed: Tensor | float) -> Tensor:
    """The change, cut so that M times it has no larger root mean square than allowed."""
    return change * (allowed / _size(matrix, change)).clamp(max=1)


def _size(matrix: Tensor, theta: Tensor) -> Tensor:
    """Root mean square of M θ over steps, samples and columns of θ; MᵀM / B ends in the steps."""
    total = (theta * (matrix @ theta)).sum() / (matrix[-1, -1] * theta.shape[1])
    return total.clamp(min=0).sqrt()


def _mean_equations(problem: Problem, found: Trajectory, process_group: Group) -> list[Equation]:
    """Of each layer, lowest first, and of the output: means over the samples of all processes."""
    batch = found.outputs.shape[1]

    def equation(rows: Tensor, slack: Tensor) -> Equation:
        return rows.t() @ rows / batch, rows.t() @ slack.flatten(0, 1) / batch

    equations = [
        equation(_rows(problem.valid, c.inputs, c.states[:-1]), c.slack) for c in found.layers
    ]
    scored = found.layers[-1].states[-len(found.outputs) :]
    equations.append(equation(_rows(problem.counted, scored), found.output_slack))
    if processes(process_group) == 1:
        return equations
    flat = [batch * part for equation in equations for part in equation]
    *flat, total = sums([*flat, flat[0].new_tensor(batch)], process_group)
    flat = [part / total for part in flat]
    return list(zip(flat[::2], flat[1::2], strict=True))


def _rows(chosen: Tensor | None, *parts: Tensor) -> Tensor:
    """[*parts, 1] of all steps and samples, (rows, columns); zero where not chosen."""
    ones = parts[0].new_ones((*parts[0].shape[:-1], 1))
    rows = torch.cat([*parts, ones], dim=-1)
    return (rows if chosen is None else torch.where(chosen[:, :, None], rows, 0)).flatten(0, 1)


def _ridge(matrix: Tensor, right: Tensor, proximal_weight: float) -> Tensor:
    """(matrix + r)⁻¹ right; in double precision, for r may be below the roundings of the matrix."""
    damped = matrix.double() + proximal_weight * torch.eye(
        len(matrix), dtype=torch.float64, device=matrix.device
    )
    return torch.cholesky_solve(right.double(), cholesky(damped)).to(right.dtype)
