"""One sweep over the blocks of ADMM and back: with exact minimisers, or as the paper prints it.

Letters and shapes are those of `lagrangian`.
"""

from typing import Any

from torch import Tensor

from rnnopt.admm.block_updates import (
    factor_states,
    update_output,
    update_preactivation,
    update_state,
)
from rnnopt.admm.lagrangian import Iterate, input_drive
from rnnopt.admm.linearised_updates import (
    input_limit,
    linearised_input,
    linearised_output,
    linearised_preactivation,
    linearised_recurrent,
    linearised_state,
    output_limit,
    recurrent_limit,
    state_limits,
    update_bias,
    update_output_bias,
)
from rnnopt.admm.weight_updates import (
    output_equations,
    recurrent_equations,
    solve_output_weights,
    solve_recurrent_weights,
)
from rnnopt.distributed import Group


def block_iteration(
    iterate: Iterate, group: dict[str, Any], samples: float, process_group: Group = None
) -> Iterate:
    """One sweep there and back with exact minimisers: o (v,c) s a (u,w,b), (u,w,b) a s (v,c) o.

    Args:
        iterate: with the multipliers and penalties of the sweep.
        group: options of the trainer.
        samples: of all processes.
        process_group: the processes whose samples make one batch; each has the auxiliaries of its
            own, all have the same weights.
    """
    damping, coupling = group["proximal_weight"], group["coupling"]
    proximal = samples * (0.1 if damping is None else damping)

    def output(at: Iterate) -> Iterate:
        return _moved(at, output=update_output(at))

    def output_weights(at: Iterate) -> Iterate:
        equations = output_equations(*at[2:]).summed(process_group)
        return at._replace(weights=solve_output_weights(equations, at.weights, proximal))

    def states(at: Iterate) -> Iterate:
        return _moved(at, state=update_state(at, coupling))

    def preactivations(at: Iterate) -> Iterate:
        return _moved(at, preactivation=update_preactivation(at))

    def step_by_step(at: Iterate) -> Iterate:
        a, s = at.variables.preactivation.clone(), at.variables.state.clone()
        at = _moved(at, preactivation=a, state=s)  # which change below
        drive = input_drive(at.problem, at.weights)
        factors = factor_states(at.weights, at.penalties, len(at.variables.output), coupling)
        for t in range(len(s) - 1, -1, -1):
            step = slice(t, t + 1)
            s[step] = update_state(at, coupling, step, drive, factors)
            a[step] = update_preactivation(at, steps=step, drive=drive)
        return at

    def recurrent_weights(at: Iterate) -> Iterate:
        equations = recurrent_equations(at.problem, *at[2:]).summed(process_group)
        decay = at.problem.recurrent_decay
        return at._replace(weights=solve_recurrent_weights(equations, at.weights, proximal, decay))

    middle = (step_by_step,) if group["order"] == "backward" else (states, preactivations)
    there = (output, output_weights, *middle, recurrent_weights)
    for block in (*there, *reversed(there)):
        iterate = block(iterate)
    return iterate


def paper_iteration(iterate: Iterate, group: dict[str, Any]) -> Iterate:
    """Algorithm 1, once over: o c v s a b w u and back, linearised and proximal.

    The weights R are those of `linearised_updates`, or from the paper's r if one is given: r for s
    and a, N r a sample for u and w (N steps), r a sample for v. Below those bounds L may rise.
    """
    fixed, coupling = group["proximal_weight"], group["coupling"]
    problem, penalties = iterate.problem, iterate.penalties
    steps, samples = problem.inputs.shape[:2]
    of_output = None if fixed is None else fixed * samples
    of_weights = None if fixed is None else fixed * samples * steps
    names = ("output", "output_bias", "output_weights", "states", "preactivations", "bias",
             "recurrent", "input")  # fmt: skip
    for name in (*names, *reversed(names)):
        _, weights, variables, *_ = iterate
        if name == "output":
            iterate = _moved(iterate, output=update_output(iterate))
        elif name == "output_bias":
            weights = weights._replace(output_bias=update_output_bias(iterate))
        elif name == "output_weights":
            limit = of_output or output_limit(variables, penalties)
            weights = weights._replace(output=linearised_output(iterate, limit))
        elif name == "states":
            limit = fixed or state_limits(weights, variables, penalties, coupling)
            s = linearised_state(iterate, limit, coupling=coupling)
            iterate = _moved(iterate, state=s)
        elif name == "preactivations":
            alpha = fixed or max(penalties.preactivation)
            tricks = dict(identity_for_tanh=group["identity_for_tanh"])
            a = linearised_preactivation(iterate, alpha, **tricks)
            iterate = _moved(iterate, preactivation=a)
        elif name == "bias":
            weights = weights._replace(bias=update_bias(iterate))
        elif name == "recurrent":
            limit = of_weights or recurrent_limit(problem, variables, penalties)
            weights = weights._replace(recurrent=linearised_recurrent(iterate, limit))
        else:
            limit = of_weights or input_limit(problem, penalties)
            weights = weights._replace(input=linearised_input(iterate, limit))
        iterate = iterate._replace(weights=weights)
    return iterate


def _moved(iterate: Iterate, **variables: Tensor) -> Iterate:
    """With some of the variables in place of the old ones."""
    return iterate._replace(variables=iterate.variables._replace(**variables))
