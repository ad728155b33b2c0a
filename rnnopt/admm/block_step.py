"""A step of ADMM block by block, in either variant, and what can be said of the variables it keeps.

Letters and shapes are those of `lagrangian`; `group` and `state` are those of the trainer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnopt.admm.iterations import block_iteration, paper_iteration
from rnnopt.admm.lagrangian import (
    Iterate,
    Multipliers,
    Penalties,
    Problem,
    Variables,
    Weights,
    augmented_lagrangian,
    dual_residuals,
    multiplier_step,
    penalties,
    per_step,
    residuals,
)
from rnnopt.admm.trajectory import forward, sample_losses
from rnnopt.distributed import Group, mean_numbers, processes, sums

# New weights of each layer, what the state keeps if they are finite, the sum of the losses.
Found = tuple[list[Weights], dict[str, Tensor], Tensor]


def block_step(
    problem: Problem,
    layers: list[Weights],
    state: dict[str, Tensor],
    group: dict[str, Any],
    process_group: Group,
) -> Found:
    """As many iterations as `sweeps`, from the variables kept or from a forward pass."""
    (weights,) = layers
    samples = all_samples(problem, process_group)
    (states,), outputs = forward(problem, weights, len(problem.targets))
    loss = sample_losses(problem, outputs).sum()
    if group["keep_batch"] and "preactivation" in state:
        variables, multipliers = kept_in(state)
    else:
        drive = problem.inputs @ weights.input.t() + weights.bias
        before = states[:-1] @ weights.recurrent.t()
        variables = Variables(drive + before, states[1:].clone(), outputs.clone())
        last = slice(-1, None) if group["multipliers"] == "last" else slice(None)
        multipliers = Multipliers(*(torch.zeros_like(v[last]) for v in variables))
    numbers = penalties_of(group, len(problem.inputs))
    for _ in range(group["sweeps"]):
        before_it = variables
        iterate = Iterate(problem, weights, variables, multipliers, numbers)
        if group["variant"] == "paper":
            iterate = paper_iteration(iterate, group)
        else:
            iterate = block_iteration(iterate, group, samples, process_group)
        weights, variables = iterate.weights, iterate.variables
        broken = residuals(problem, weights, variables)
        scaled = Variables(*(group["relaxation"] * r for r in broken))
        multipliers = multiplier_step(multipliers, scaled, numbers)
        moved = dual_residuals(before_it, variables, numbers)
    kept: dict[str, Tensor] = {}
    if group["keep_batch"]:
        forces = [per_step(rho, v) * v for v, rho in zip(variables, numbers, strict=True)]
        of = (*zip(broken, variables, strict=True), *zip(moved, forces, strict=True))
        kept["relative_residuals"] = _relative(of, process_group)
        for name, v, m in zip(Variables._fields, variables, multipliers, strict=True):
            assert m is not None
            kept[name], kept[f"multiplier_{name}"] = v, m
    return [weights], kept, loss


def block_report(
    problem: Problem,
    divisor: Tensor | float,
    weights: Weights,
    state: dict[str, Tensor],
    group: dict[str, Any],
    process_group: Group = None,
) -> dict[str, float]:
    """What `ADMM.report` returns."""
    variables, multipliers = kept_in(state)
    numbers = penalties_of(group, len(problem.inputs))
    # Each process has the whole decay in its problem, which counts once.
    once = problem._replace(recurrent_decay=problem.recurrent_decay / processes(process_group))
    value = augmented_lagrangian(Iterate(once, weights, variables, multipliers, numbers))
    _, outputs = forward(problem, weights, len(problem.targets))
    losses = (sample_losses(problem, o).sum() for o in (outputs, variables.output))
    found = torch.stack([value, *losses, torch.as_tensor(divisor).to(value)])
    lagrangian, loss, auxiliary_loss, count = sums([found], process_group)[0].tolist()
    result = dict(
        lagrangian=lagrangian,
        loss=loss / count,
        auxiliary_loss=auxiliary_loss / count,
    )
    broken = residuals(problem, weights, variables)
    primal = _relative(list(zip(broken, variables, strict=True)), process_group).tolist()
    result |= {f"residual_{n}": r for n, r in zip(Variables._fields, primal, strict=True)}
    if "relative_residuals" in state:  # a state saved before these were kept has none
        dual = state["relative_residuals"][len(variables) :].tolist()
        result |= {f"dual_{n}": number for n, number in zip(Variables._fields, dual, strict=True)}
    return result


def kept_in(state: dict[str, Tensor]) -> tuple[Variables, Multipliers]:
    """a, s, o and the multipliers."""
    names = Variables._fields
    return (
        Variables(*(state[n] for n in names)),
        Multipliers(*(state[f"multiplier_{n}"] for n in names)),
    )


def all_samples(problem: Problem, process_group: Group) -> float:
    """How many sequences the minibatches of all processes have."""
    (mean,) = mean_numbers([problem.inputs.shape[1]], process_group)
    return mean * processes(process_group)


def penalties_of(group: dict[str, Any], steps: int) -> Penalties:
    """The penalties of the options."""
    last = (group["penalty_a"], group["penalty_s"], group["penalty_o"])
    return penalties(steps, last, group["inner_penalty"])


def _relative(pairs: Sequence[tuple[Tensor, Tensor]], process_group: Group) -> Tensor:
    """The norm of each residual over that of its variable, those of all processes together."""
    own = torch.stack([torch.stack([r.norm(), v.norm()]) for r, v in pairs])
    if processes(process_group) > 1:
        own = sums([own.square()], process_group)[0].sqrt()
    return own[:, 0] / own[:, 1].clamp(min=torch.finfo(own.dtype).tiny)
