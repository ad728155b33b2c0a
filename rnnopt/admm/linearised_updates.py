"""The paper's linearised-proximal updates for ADMM, with their signs put right.

Each replaces its block's quadratic by the linearisation at the old value plus a proximal term, and
lowers L of `lagrangian` where the proximal weight R dominates the curvature:

    u ← u + Σ (α_t ra_t + λ1_t)ᵀ x_t / R                        R ≥ λmax(Σ α_t x_tᵀx_t)
    w ← (R w + Σ (α_t ra_t + λ1_t)ᵀ s_{t-1}) / (R + ω)          R ≥ λmax(Σ α_t s_{t-1}ᵀs_{t-1})
    b ← b + Σ (α_t ra_t + λ1_t) / (B Σ α_t);  c alike           exact
    v ← v + Σ_𝒪 (τ_t ro_t + λ3_t)ᵀ s_t / R                      R ≥ λmax(Σ τ_t s_tᵀs_t)
    s_t ← (R s_t + (τ_t ro_t + λ3_t) v + (α_{t+1} ra_{t+1} + λ1_{t+1}) w + σ_t f(a_t) - λ2_t)
          / (R + σ_t)                                           R ≥ λmax(τ_t vᵀv + α_{t+1} wᵀw)
    a_t ← the scalar problem with p = a_t - (α_t ra_t + λ1_t)/R and R for α
                                                                R ≥ α_t; exact where equal

R for u is the paper's N·r. Letters and shapes as in `lagrangian`.

Departures from the paper (Tang et al., "ADMMiRNN", Eqs. 9 to 19):
1. λ and the gradients of u, w, v enter with the sign of L; Eqs. 10, 13, 14, 16 and 18 ascend.
2. The linearised weight sums over all t; Eq. 9 has one t and one penalty.
3. s_T keeps the term of rs_T that Eq. 14 lacks, and s_t feels a_{t+1} unless `coupling=False`.
4. f(a) = a for small a is off unless `identity_for_tanh=True`.
"""

import torch
from torch import Tensor

from rnnopt.admm.block_updates import ALL, at_steps, runs, select
from rnnopt.admm.lagrangian import (
    Iterate,
    Penalties,
    Problem,
    Variables,
    Weights,
    forces,
    per_step,
    previous_states,
    residuals,
)
from rnnopt.admm.prox import apply, minimise

SQUARINGS = 6  # λmax is overestimated by a factor of at most n^(1/128): 1.04 at n = 100


@torch.no_grad()
def largest_eigenvalue(matrix: Tensor) -> Tensor:
    """An upper bound of λmax of a positive semi-definite matrix, tight to n^(1/128), float64.

    Power iteration on the matrix itself, by squaring: λmax ≤ ‖A^k‖^(1/k) ≤ λmax n^(1/2k), k = 64,
    in Frobenius' norm. Unlike a vector's it needs no start, and it never falls short.
    """
    power = matrix.double()
    log_scale = power.new_zeros(())
    for k in range(SQUARINGS + 1):
        size = torch.linalg.matrix_norm(power)
        log_scale = log_scale + size.log() / 2**k
        power = power / size.clamp(min=torch.finfo(torch.float64).tiny)
        power = power @ power
    return log_scale.exp()


def _scatter(rows: Tensor, numbers: Tensor) -> Tensor:
    """Σ_t number_t rows_tᵀ rows_t over steps and batch, float64."""
    rows = (numbers.sqrt() * rows).flatten(0, 1).double()
    return rows.t() @ rows


# The least R, up to 4 %, with which no linearised update raises L, all float64. Each holds for the
# present other blocks: R for w and v is to be taken again after s changed.


def input_limit(problem: Problem, penalties: Penalties) -> Tensor:
    """R for u."""
    alpha = per_step(penalties.preactivation, problem.inputs)
    return largest_eigenvalue(_scatter(problem.inputs, alpha))


def recurrent_limit(problem: Problem, variables: Variables, penalties: Penalties) -> Tensor:
    """R for w."""
    s = variables.state
    alpha = per_step(penalties.preactivation, s)
    return largest_eigenvalue(_scatter(previous_states(problem, s), alpha))


def output_limit(variables: Variables, penalties: Penalties) -> Tensor:
    """R for v."""
    _, s, o = variables
    return largest_eigenvalue(_scatter(s[len(s) - len(o) :], per_step(penalties.output, o)))


def state_limits(
    weights: Weights, variables: Variables, penalties: Penalties, coupling: bool
) -> Tensor:
    """R for each s_t, (time,)."""
    total, scored = len(variables.state), len(variables.output)
    outer = weights.output.double().t() @ weights.output.double()
    inner = weights.recurrent.double().t() @ weights.recurrent.double()
    known: dict[tuple[float, float], Tensor] = {}
    state = []
    for t in range(total):
        of_output = float(penalties.output[t]) if t >= total - scored else 0.0
        of_next = float(penalties.preactivation[t + 1]) if coupling and t + 1 < total else 0.0
        key = (of_output, of_next)
        if key not in known:
            known[key] = largest_eigenvalue(of_output * outer + of_next * inner)
        state.append(known[key])
    return torch.stack(state)


def _forces_on_preactivation(iterate: Iterate) -> Tensor:
    problem, weights, variables, multipliers, penalties = iterate
    residual = residuals(problem, weights, variables).preactivation
    return forces(residual, multipliers.preactivation, penalties.preactivation)


def _forces_on_output(iterate: Iterate) -> Tensor:
    problem, weights, variables, multipliers, penalties = iterate
    residual = residuals(problem, weights, variables).output
    return forces(residual, multipliers.output, penalties.output)


def _correlation(pull: Tensor, rows: Tensor) -> Tensor:
    """Σ_t pull_tᵀ rows_t over steps and batch."""
    return pull.flatten(0, 1).t() @ rows.flatten(0, 1)


def _over(change: Tensor, weight: Tensor | float) -> Tensor:
    """change / weight; zero where both are (all inputs zero, say)."""
    weight = torch.as_tensor(weight, dtype=change.dtype, device=change.device)
    return change / weight.clamp(min=torch.finfo(change.dtype).tiny)


@torch.no_grad()
def linearised_input(iterate: Iterate, proximal_weight: Tensor | float) -> Tensor:
    """u, (hidden, features)."""
    pull = _forces_on_preactivation(iterate)
    change = _correlation(pull, iterate.problem.inputs)
    return iterate.weights.input + _over(change, proximal_weight)


@torch.no_grad()
def linearised_recurrent(iterate: Iterate, proximal_weight: Tensor | float) -> Tensor:
    """w, (hidden, hidden); its decay ω is not linearised."""
    problem, w = iterate.problem, iterate.weights.recurrent
    pull = _forces_on_preactivation(iterate)
    slope = _correlation(pull, previous_states(problem, iterate.variables.state))
    slope -= problem.recurrent_decay * w
    return w + _over(slope, proximal_weight + problem.recurrent_decay)


@torch.no_grad()
def update_bias(iterate: Iterate) -> Tensor:
    """b, (hidden,), exact."""
    pull = _forces_on_preactivation(iterate)
    curvature = pull.shape[1] * per_step(iterate.penalties.preactivation, pull).sum()
    return iterate.weights.bias + pull.sum((0, 1)) / curvature


@torch.no_grad()
def linearised_output(iterate: Iterate, proximal_weight: Tensor | float) -> Tensor:
    """v, (outputs, hidden)."""
    pull, s = _forces_on_output(iterate), iterate.variables.state
    change = _correlation(pull, s[len(s) - len(pull) :])
    return iterate.weights.output + _over(change, proximal_weight)


@torch.no_grad()
def update_output_bias(iterate: Iterate) -> Tensor:
    """c, (outputs,), exact."""
    pull = _forces_on_output(iterate)
    curvature = pull.shape[1] * per_step(iterate.penalties.output, pull).sum()
    return iterate.weights.output_bias + pull.sum((0, 1)) / curvature


@torch.no_grad()
def linearised_state(
    iterate: Iterate,
    proximal_weight: Tensor | float,
    coupling: bool = True,
    steps: slice = ALL,
) -> Tensor:
    """The s_t of `steps`, (steps, batch, hidden).

    Args:
        proximal_weight: R, a number or (time,).
        coupling: off leaves out the force of a_{t+1} (the paper's trick): then L may rise.
        steps: consecutive steps, counted from 0.
    """
    problem, weights, variables, multipliers, penalties = iterate
    a, s, o = variables
    total = len(s)
    chosen = select(steps, total)
    part = slice(chosen.start, chosen.stop)
    found = residuals(problem, weights, variables)
    pull = torch.zeros_like(s)
    pull[total - len(o) :] += (
        forces(found.output, multipliers.output, penalties.output) @ weights.output
    )
    if coupling:
        one = forces(found.preactivation, multipliers.preactivation, penalties.preactivation)
        pull[:-1] += one[1:] @ weights.recurrent
    sigma = per_step(penalties.state, s)[part]
    pull = pull[part] + sigma * apply(problem.nonlinearity, a[part])
    two = at_steps(multipliers.state, chosen, total)
    if two is not None:
        pull[len(pull) - len(two) :] -= two
    weight = torch.as_tensor(proximal_weight, dtype=s.dtype, device=s.device)
    weight = weight.expand(total)[part, None, None]
    return (weight * s[part] + pull) / (weight + sigma)


@torch.no_grad()
def linearised_preactivation(
    iterate: Iterate,
    proximal_weight: float,
    identity_for_tanh: bool = False,
    steps: slice = ALL,
) -> Tensor:
    """The a_t of `steps`, (steps, batch, hidden).

    Args:
        proximal_weight: R ≥ α; where it is α the minimiser is exact.
        identity_for_tanh: the paper's f(a) = a for small a; for tanh alone.
        steps: consecutive steps, counted from 0.
    """
    problem, _, variables, multipliers, penalties = iterate
    if identity_for_tanh and problem.nonlinearity != "tanh":
        raise ValueError(
            f"identity_for_tanh needs nonlinearity 'tanh', got {problem.nonlinearity!r}."
        )
    a, s, _ = variables
    total = len(a)
    chosen = select(steps, total)
    pull = _forces_on_preactivation(iterate)
    q = s.clone()
    if multipliers.state is not None:
        last = slice(total - len(multipliers.state), total)
        q[last] += multipliers.state / per_step(penalties.state, multipliers.state)
    part = slice(chosen.start, chosen.stop)
    p, q = (a - pull / proximal_weight)[part], q[part]
    nonlinearity = "identity" if identity_for_tanh else problem.nonlinearity
    result = torch.empty_like(p)
    for run, (sigma, _) in runs([(sigma, 0.0) for sigma in list(penalties.state)[part]]):
        result[run] = minimise(nonlinearity, p[run], q[run], sigma / proximal_weight)
    return result
