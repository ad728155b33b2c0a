"""One sweep over the blocks of ADMM and back: with exact minimisers, or as the paper prints it.

Letters and shapes are those of `lagrangian`.
"""

from typing import Any

from rnnopt.admm.block_updates import (
    factor_states,
    update_output,
    update_preactivation,
    update_state,
)
from rnnopt.admm.lagrangian import (
    Multipliers,
    Penalties,
    Problem,
    Variables,
    Weights,
    input_drive,
)
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
    problem: Problem,
    weights: Weights,
    variables: Variables,
    multipliers: Multipliers,
    numbers: Penalties,
    group: dict[str, Any],
    samples: float,
    process_group: Group = None,
) -> tuple[Weights, Variables]:
    """One sweep there and back with exact minimisers: o (v,c) s a (u,w,b), (u,w,b) a s (v,c) o.

    Args:
        samples: of all processes.
        process_group: the processes whose samples make one batch; each has the auxiliaries of its
            own, all have the same weights.
    """
    damping = group["proximal_weight"]
    proximal = samples * (0.1 if damping is None else damping)

    def output(w: Weights, x: Variables) -> tuple[Weights, Variables]:
        return w, x._replace(output=update_output(problem, w, x, multipliers, numbers))

    def output_weights(w: Weights, x: Variables) -> tuple[Weights, Variables]:
        equations = output_equations(x, multipliers, numbers).summed(process_group)
        return solve_output_weights(equations, w, proximal), x

    def states(w: Weights, x: Variables) -> tuple[Weights, Variables]:
        s = update_state(problem, w, x, multipliers, numbers, group["coupling"])
        return w, x._replace(state=s)

    def preactivations(w: Weights, x: Variables) -> tuple[Weights, Variables]:
        a = update_preactivation(problem, w, x, multipliers, numbers)
        return w, x._replace(preactivation=a)

    def step_by_step(w: Weights, x: Variables) -> tuple[Weights, Variables]:
        a, s = x.preactivation.clone(), x.state.clone()
        x = x._replace(preactivation=a, state=s)  # which change below
        drive = input_drive(problem, w)
        factors = factor_states(w, numbers, len(x.output), group["coupling"])
        given = (problem, w, x, multipliers, numbers)
        for t in range(len(s) - 1, -1, -1):
            at = slice(t, t + 1)
            s[at] = update_state(*given, group["coupling"], at, drive, factors)
            a[at] = update_preactivation(*given, steps=at, drive=drive)
        return w, x

    def recurrent_weights(w: Weights, x: Variables) -> tuple[Weights, Variables]:
        equations = recurrent_equations(problem, x, multipliers, numbers).summed(process_group)
        return solve_recurrent_weights(equations, w, proximal, problem.recurrent_decay), x

    if group["order"] == "backward":
        there = (output, output_weights, step_by_step, recurrent_weights)
        back = (recurrent_weights, step_by_step, output_weights, output)
    else:
        there = (output, output_weights, states, preactivations, recurrent_weights)  # type: ignore[assignment]
        back = tuple(reversed(there))  # type: ignore[assignment]
    for block in (*there, *back):
        weights, variables = block(weights, variables)
    return weights, variables


def paper_iteration(
    problem: Problem,
    weights: Weights,
    variables: Variables,
    multipliers: Multipliers,
    numbers: Penalties,
    group: dict[str, Any],
) -> tuple[Weights, Variables]:
    """Algorithm 1, once over: o c v s a b w u and back, linearised and proximal.

    The weights R are those of `linearised_updates`, or from the paper's r if one is given: r for s
    and a, N r a sample for u and w (N steps), r a sample for v. Below those bounds L may rise.
    """
    fixed = group["proximal_weight"]
    steps, samples = problem.inputs.shape[:2]
    of_output = None if fixed is None else fixed * samples
    of_weights = None if fixed is None else fixed * samples * steps
    names = ("output", "output_bias", "output_weights", "states", "preactivations", "bias",
             "recurrent", "input")  # fmt: skip
    for name in (*names, *reversed(names)):
        given = (problem, weights, variables, multipliers, numbers)
        if name == "output":
            variables = variables._replace(output=update_output(*given))
        elif name == "output_bias":
            weights = weights._replace(output_bias=update_output_bias(*given))
        elif name == "output_weights":
            limit = of_output or output_limit(variables, numbers)
            weights = weights._replace(output=linearised_output(*given, limit))
        elif name == "states":
            coupling = group["coupling"]
            limit = fixed or state_limits(weights, variables, numbers, coupling)
            s = linearised_state(*given, limit, coupling=coupling)
            variables = variables._replace(state=s)
        elif name == "preactivations":
            alpha = fixed or max(numbers.preactivation)
            tricks = dict(identity_for_tanh=group["identity_for_tanh"])
            a = linearised_preactivation(*given, alpha, **tricks)
            variables = variables._replace(preactivation=a)
        elif name == "bias":
            weights = weights._replace(bias=update_bias(*given))
        elif name == "recurrent":
            limit = of_weights or recurrent_limit(problem, variables, numbers)
            weights = weights._replace(recurrent=linearised_recurrent(*given, limit))
        else:
            limit = of_weights or input_limit(problem, numbers)
            weights = weights._replace(input=linearised_input(*given, limit))
    return weights, variables
