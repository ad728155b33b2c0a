"""The exact minimisers of ADMM's weight blocks: ridge problems from accumulated normal equations.

With L and letters of `lagrangian`, Θ = [u w b], M_t = [x_t s_{t-1} 1] and r/2 ‖Θ - Θ_old‖² added:

    (Σ α_t M_tᵀM_t + diag(0, ω, 0) + r) Θᵀ = Σ M_tᵀ(α_t a_t + λ1_t) + r Θ_oldᵀ;   [v c] alike

Nothing here needs autograd; results are new tensors without gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnopt.admm.lagrangian import (
    Multipliers,
    Penalties,
    Problem,
    Variables,
    Weights,
    previous_states,
)
from rnnopt.admm.prox import free_to_ask
from rnnopt.distributed import Group, sums


@dataclass(frozen=True)
class NormalEquations:
    """matrix Θᵀ = right, float64: sums over samples, so they add up over shards.

    Args:
        matrix: Σ penalty MᵀM, (inputs + 1, inputs + 1).
        right: Σ Mᵀ(penalty · value + multiplier), (inputs + 1, outputs).
    """

    matrix: Tensor
    right: Tensor

    def summed(self, process_group: Group = None) -> "NormalEquations":
        """The sums over the samples of all processes."""
        return NormalEquations(*sums([self.matrix, self.right], process_group))


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

    Where asking would wait for a device it is the least of 0, 1e-11 and 1e-7. Non-finite where
    nothing helps or the matrix is so, for the caller to find in the result.
    """
    matrix = matrix.double()
    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    trace, tiny = matrix.trace(), torch.finfo(torch.float64).tiny
    if not free_to_ask(matrix):
        added = torch.stack([0 * trace, 1e-11 * trace + tiny, 1e-7 * trace + tiny])
        factors, info = torch.linalg.cholesky_ex(matrix + added[:, None, None] * unit)
        first = (info == 0).to(torch.int8).argmax()[None]
        good = (info == 0).any()
        return torch.where(good, factors.index_select(0, first)[0], torch.nan)
    factor, info = torch.linalg.cholesky_ex(matrix)
    added = 1e-14 * trace + tiny
    for _ in range(8):
        if not info:
            return factor
        factor, info = torch.linalg.cholesky_ex(matrix + added * unit)
        added = 10 * added
    return factor if not info else torch.full_like(factor, torch.nan)
