"""What the joint sweep and the weights that follow it promise: they equal the equations they solve.

Judged by autograd on loops written here and by explicit solves.
"""

import itertools
from typing import NamedTuple

import pytest
import torch
from admm_cases import (
    ADMM,
    BATCH,
    FEATURES,
    HIDDEN,
    NO_LIMIT,
    OUTPUTS,
    STEPS,
    a_batch,
    a_model,
    assert_same_weights,
    normal,
    weights_of,
)
from torch.nn import functional

from rnnopt.admm import gauss_newton
from rnnopt.admm import trajectory as joint_sweep
from rnnopt.admm.lagrangian import (
    Problem,
    Weights,
)
from rnnopt.admm.prox import nearest_output

each_problem = pytest.mark.parametrize(
    ("nonlinearity", "loss", "scored"),
    list(
        itertools.product(("tanh", "relu"), ("squared_error", "cross_entropy"), (1, STEPS)),
    ),
)


def draw(rng, nonlinearity="tanh", loss="cross_entropy", scored=1, steps=STEPS, batch=BATCH):
    """A problem with a state to start from and a weight for each loss, and weights."""
    target = normal(rng, scored, batch, OUTPUTS)
    problem = Problem(
        normal(rng, steps, batch, FEATURES),
        target if loss == "squared_error" else target.argmax(-1),
        0.3 * normal(rng, batch, HIDDEN),
        nonlinearity,
        loss,
        torch.rand(scored, batch, generator=rng, dtype=torch.float64) + 0.5,
    )
    weights = Weights(
        normal(rng, HIDDEN, FEATURES),
        0.5 * normal(rng, HIDDEN, HIDDEN),
        normal(rng, HIDDEN),
        normal(rng, OUTPUTS, HIDDEN),
        normal(rng, OUTPUTS),
    )
    return problem, weights


def network(problem, weights, slack=None):
    """States s_1 … s_T and outputs of the scored steps, step by step; a_t is moved by slack_t."""
    u, w, b, v, c = weights
    f = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}[problem.nonlinearity]
    state, states = problem.initial_state, []
    for t, x in enumerate(problem.inputs):
        a = x @ u.T + state @ w.T + b
        state = f(a if slack is None else a + slack[t])
        states.append(state)
    return torch.stack(states), torch.stack(states[-len(problem.targets) :]) @ v.T + c


def losses_of(problem, outputs):
    """R of each scored step and sample."""
    if problem.loss == "squared_error":
        each = ((outputs - problem.targets) ** 2).sum(-1) / 2
    else:
        found = functional.cross_entropy(
            outputs.flatten(0, 1), problem.targets.flatten(), reduction="none"
        )
        each = found.reshape(problem.targets.shape)
    return each * problem.loss_weight


def envelope(problem, outputs, nearest, penalty):
    """R~(p) = R(o) + ρ/2 ‖o - p‖² of each sample, o = argmin held fixed: R~' is all through p."""
    apart = ((nearest - outputs) ** 2).sum(-1)
    return (losses_of(problem, nearest) + penalty / 2 * apart).sum(0)


def rows_of(problem, states):
    """Σ over steps and samples belongs to rows [x_t s_{t-1} 1] and, of scored steps, [s_t 1]."""
    before = torch.cat([problem.initial_state[None], states[:-1]])
    ones = torch.ones(*states.shape[:2], 1, dtype=states.dtype)
    last = len(problem.targets)
    rows = torch.cat([problem.inputs, before, ones], -1).flatten(0, 1)
    return rows, torch.cat([states, ones], -1)[-last:].flatten(0, 1)


def weight_gradient(problem, weights, value_of):
    """Of value_of(outputs), as (u, w, b) and (v, c) side by side, transposed: (inputs, units)."""
    leaves = Weights(*(w.clone().requires_grad_() for w in weights))
    _, outputs = network(problem, leaves)
    u, w, b, v, c = torch.autograd.grad(value_of(outputs), leaves)
    return torch.cat([u, w, b[:, None]], 1).T, torch.cat([v, c[:, None]], 1).T


def change_between(old, new):
    u, w, b, v, c = (n - o for o, n in zip(old, new, strict=True))
    return torch.cat([u, w, b[:, None]], 1).T, torch.cat([v, c[:, None]], 1).T


class Two(NamedTuple):
    """Moments of one layer."""

    recurrent: torch.Tensor
    output: torch.Tensor


def follow(problem, weights, found, moments=None, **options):
    """The step of a network of one layer, without trust region unless told."""
    before = moments and gauss_newton.Moments((moments.recurrent,), moments.output)
    step = gauss_newton.Step(**options)
    (new,), now = gauss_newton.follow(problem, [weights], found, before, step)
    return new, Two(now.layers[0], now.output)


# -- the joint sweep ------------------------------------------------------------------------------


@each_problem
def test_the_sweep_keeps_the_networks_own_states_and_outputs(rng, nonlinearity, loss, scored):
    problem, weights = draw(rng, nonlinearity, loss, scored)
    states, outputs = network(problem, weights)
    found = joint_sweep.sweep(problem, weights, 0.7, NO_LIMIT)
    torch.testing.assert_close(found.layers[0].states[0], problem.initial_state, rtol=0, atol=0)
    torch.testing.assert_close(found.layers[0].states[1:], states)
    torch.testing.assert_close(found.outputs, outputs)


@each_problem
def test_the_output_slack_leads_to_the_minimiser_of_loss_and_penalty(
    rng, nonlinearity, loss, scored
):
    penalty = 0.7
    problem, weights = draw(rng, nonlinearity, loss, scored)
    found = joint_sweep.sweep(problem, weights, penalty, NO_LIMIT)
    nearest = (found.outputs + found.output_slack).requires_grad_()
    value = envelope(problem, found.outputs, nearest, penalty).sum()
    (slope,) = torch.autograd.grad(value, nearest)  # convex in o: zero there alone
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


@each_problem
def test_the_slack_is_minus_the_adjoint_over_the_penalty(rng, nonlinearity, loss, scored):
    penalty = 0.7
    problem, weights = draw(rng, nonlinearity, loss, scored)
    found = joint_sweep.sweep(problem, weights, penalty, NO_LIMIT)
    nearest = found.outputs + found.output_slack
    slack = torch.zeros(STEPS, BATCH, HIDDEN, dtype=torch.float64, requires_grad=True)
    _, outputs = network(problem, weights, slack)
    (adjoint,) = torch.autograd.grad(
        envelope(problem, outputs, nearest, penalty).sum(), slack
    )  # dR~/da_t at zero slack
    assert adjoint[0].abs().max() > 1e-4  # the first step hears of the loss
    torch.testing.assert_close(found.layers[0].slack, -adjoint / penalty, rtol=1e-10, atol=1e-13)


@each_problem
def test_the_weight_change_is_a_gauss_newton_step_on_the_envelope(rng, nonlinearity, loss, scored):
    penalty, proximal = 0.7, 0.3
    problem, weights = draw(rng, nonlinearity, loss, scored)
    found = joint_sweep.sweep(problem, weights, penalty, NO_LIMIT)
    new, moments = follow(problem, weights, found, proximal_weight=proximal)
    nearest = found.outputs + found.output_slack
    gradients = weight_gradient(
        problem, weights, lambda p: envelope(problem, p, nearest, penalty).mean()
    )
    rows = rows_of(problem, network(problem, weights)[0])
    for moment, part, gradient, change in zip(
        moments, rows, gradients, change_between(weights, new), strict=True
    ):
        matrix = part.T @ part / BATCH
        torch.testing.assert_close(moment, matrix)
        expected = torch.linalg.solve(
            matrix + proximal * torch.eye(len(matrix)).double(), -gradient / penalty
        )
        torch.testing.assert_close(change, expected, rtol=1e-8, atol=1e-12)


@each_problem
def test_with_a_large_penalty_it_is_that_step_on_the_loss_itself(rng, nonlinearity, loss, scored):
    # R~ differs from R by ‖∇R‖²/2ρ, so that the steps differ by a relative 1/ρ.
    penalty, proximal = 1e6, 0.3
    problem, weights = draw(rng, nonlinearity, loss, scored)
    found = joint_sweep.sweep(problem, weights, penalty, NO_LIMIT)
    new, _ = follow(problem, weights, found, proximal_weight=proximal)
    gradients = weight_gradient(problem, weights, lambda p: losses_of(problem, p).sum(0).mean())
    rows = rows_of(problem, network(problem, weights)[0])
    changes = change_between(weights, new)
    for part, gradient, change in zip(rows, gradients, changes, strict=True):
        matrix = part.T @ part / BATCH + proximal * torch.eye(part.shape[1]).double()
        expected = torch.linalg.solve(matrix, -gradient / penalty)
        assert (change - expected).norm() < 1e-4 * expected.norm()


def test_one_step_of_a_linear_network_is_two_ridge_regressions(rng):
    penalty, proximal = 0.8, 0.3
    problem, weights = draw(rng, "identity", "squared_error", steps=1)
    problem = problem._replace(loss_weight=1.0)
    found = joint_sweep.sweep(problem, weights, penalty, NO_LIMIT)
    new, _ = follow(problem, weights, found, proximal_weight=proximal)
    states, outputs = network(problem, weights)
    # o* = (y + ρp)/(1 + ρ), and the slack of a is (o* - p) v.
    nearest = (problem.targets + penalty * outputs) / (1 + penalty)
    u, w, b, v, c = weights
    goals = (states[0] + (nearest - outputs)[0] @ v, nearest[0])  # f is the identity: s = a
    olds = (torch.cat([u, w, b[:, None]], 1), torch.cat([v, c[:, None]], 1))
    changes = change_between(weights, new)
    for rows, goal, old, change in zip(rows_of(problem, states), goals, olds, changes, strict=True):
        # min Σ ‖goal - row Θᵀ‖²/B + r ‖Θ - Θ_old‖² by least squares on stacked rows
        size = old.shape[1]
        stacked = torch.cat([rows / BATCH**0.5, proximal**0.5 * torch.eye(size).double()])
        right = torch.cat([goal / BATCH**0.5, proximal**0.5 * old.T])
        expected = torch.linalg.lstsq(stacked, right).solution
        torch.testing.assert_close(old.T + change, expected, rtol=1e-9, atol=1e-12)


@each_problem
def test_no_slack_is_longer_than_the_limit_times_the_bound(rng, nonlinearity, loss, scored):
    penalty, limit = 0.1, 0.3
    problem, weights = draw(rng, nonlinearity, loss, scored)
    free = joint_sweep.sweep(problem, weights, penalty, NO_LIMIT)
    cut = joint_sweep.sweep(problem, weights, penalty, limit)
    nearest = free.outputs + free.output_slack
    allowed = limit * (2 * envelope(problem, free.outputs, nearest, penalty) / penalty).sqrt()
    length = free.layers[0].slack.square().sum((0, 2)).sqrt()
    factor = (allowed / length.clamp(min=1e-300)).clamp(max=1)
    assert (factor < 1).any()
    cut_slack, slack = cut.layers[0].slack, free.layers[0].slack
    torch.testing.assert_close(cut_slack, slack * factor[:, None])
    torch.testing.assert_close(cut.output_slack, free.output_slack)


def test_slacks_that_overflow_are_dropped_and_the_output_keeps_its_own(rng):
    # At rest the slope of tanh is 1: the adjoint grows 10^20 times a step, to inf and 0 · inf.
    problem, weights = draw(rng)
    problem = problem._replace(
        inputs=0 * problem.inputs, initial_state=0 * problem.initial_state, loss_weight=1.0
    )
    weights = weights._replace(recurrent=1e20 * torch.eye(HIDDEN), bias=0 * weights.bias)
    problem = problem._replace(
        inputs=problem.inputs.float(), initial_state=problem.initial_state.float()
    )
    weights = Weights(*(w.float() for w in weights))
    found = joint_sweep.sweep(problem, weights, 0.7, 100.0)
    assert torch.equal(found.layers[0].slack, torch.zeros(STEPS, BATCH, HIDDEN))
    assert found.output_slack.abs().amin() > 0
    new, _ = follow(problem, weights, found)
    assert all(w.isfinite().all() for w in new)


@each_problem
def test_the_order_of_the_samples_does_not_matter(rng, nonlinearity, loss, scored):
    problem, weights = draw(rng, nonlinearity, loss, scored)
    order = torch.randperm(BATCH, generator=rng)
    mixed = problem._replace(
        inputs=problem.inputs[:, order],
        targets=problem.targets[:, order],
        initial_state=problem.initial_state[order],
        loss_weight=problem.loss_weight[:, order],
    )
    results = []
    for given in (problem, mixed):
        found = joint_sweep.sweep(given, weights, 0.5, 2.0)
        new, moments = follow(problem, weights, found)
        results.append((*new, *moments))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_moments_of_two_shards_average_to_those_of_the_whole(rng):
    problem, weights = draw(rng, scored=STEPS)
    half = BATCH // 2
    shards = [
        problem._replace(
            inputs=problem.inputs[:, part],
            targets=problem.targets[:, part],
            initial_state=problem.initial_state[part],
            loss_weight=problem.loss_weight[:, part],
        )
        for part in (slice(0, half), slice(half, None))
    ]
    found = [
        follow(p, weights, joint_sweep.sweep(p, weights, 0.5, 2.0))[1] for p in (problem, *shards)
    ]
    for whole, one, other in zip(*found, strict=True):
        torch.testing.assert_close(whole, (one + other) / 2, rtol=1e-10, atol=1e-12)


def test_the_first_minibatches_count_alike_and_then_are_forgotten_exponentially(rng):
    # memory 0.7: the newest has share max(0.3, 1/k), so the first three have 1/3 each, and after
    # six Ā = 0.7³ (A1 + A2 + A3)/3 + 0.3 (0.7² A4 + 0.7 A5 + A6).
    moments, own = None, []
    for step in range(1, 7):
        problem, weights = draw(rng, scored=2)
        found = joint_sweep.sweep(problem, weights, 0.5, NO_LIMIT)
        own.append(follow(problem, weights, found)[1])
        _, moments = follow(problem, weights, found, moments, memory=0.7, number=step)
    for name in moments._fields:
        a = [getattr(m, name) for m in own]
        expected = 0.7**3 * (a[0] + a[1] + a[2]) / 3 + 0.3 * (0.7**2 * a[3] + 0.7 * a[4] + a[5])
        torch.testing.assert_close(getattr(moments, name), expected)


def test_earlier_minibatches_stiffen_the_step(rng):
    # The step solves with Ā of all minibatches, not with this one's A alone.
    problem, weights = draw(rng)
    found = joint_sweep.sweep(problem, weights, 0.5, NO_LIMIT)
    _, own = follow(problem, weights, found)
    before = Two(9 * own.recurrent, 9 * own.output)
    new, _ = follow(problem, weights, found, before, memory=0.5, number=2, proximal_weight=1e-12)
    wanted = found.output_slack.flatten(0, 1)
    rows = rows_of(problem, network(problem, weights)[0])[1]
    # Ā = (9A + A)/2 = 5A: a fifth of the step that A alone gives.
    expected = torch.linalg.solve(
        5 * rows.T @ rows + 1e-12 * torch.eye(HIDDEN + 1), rows.T @ wanted
    )
    torch.testing.assert_close(change_between(weights, new)[1], expected, rtol=1e-6, atol=1e-9)


def control_objective(problem, weights, slack, penalty):
    """J(e) of each sample, the least over o taken by the function that is judged elsewhere."""
    _, outputs = network(problem, weights, slack)
    penalties_of_o = outputs.new_full((len(outputs), 1), penalty)
    nearest = nearest_output(
        problem.loss, outputs, problem.targets, penalties_of_o, problem.loss_weight
    )
    value = envelope(problem, outputs, nearest, penalty)
    return value + penalty / 2 * slack.square().sum((0, 2))


@each_problem
def test_a_sweep_with_a_stiff_penalty_lowers_the_objective_of_every_sample(
    rng, nonlinearity, loss, scored
):
    problem, weights = draw(rng, nonlinearity, loss, scored)
    found = joint_sweep.sweep(problem, weights, 1e4, NO_LIMIT)
    slack = found.layers[0].slack
    after, before = (control_objective(problem, weights, e, 1e4) for e in (slack, 0 * slack))
    assert (after <= before).all()
    assert (after < before).any()


# -- a stack of layers ----------------------------------------------------------------------------


def stack_of(rng, nonlinearity="tanh", loss="cross_entropy", scored=1):
    """A problem that starts at rest and the weights of three layers, the last with the read-out."""
    problem, first = draw(rng, nonlinearity, loss, scored)
    problem = problem._replace(initial_state=0 * problem.initial_state)
    upper = [first._replace(input=normal(rng, HIDDEN, HIDDEN), bias=normal(rng, HIDDEN))
             for _ in range(2)]  # fmt: skip
    return problem, [first, *upper]


def through_stack(problem, layers, slacks):
    """Outputs when a_t of each layer is moved by its slack."""
    states, outputs = problem.inputs, None
    for layer, slack in zip(layers, slacks, strict=True):
        states, outputs = network(problem._replace(inputs=states), layer, slack)
    return outputs


@each_problem
def test_the_slacks_of_a_stack_are_minus_its_adjoints_over_the_penalty(
    rng, nonlinearity, loss, scored
):
    penalty = 0.7
    problem, layers = stack_of(rng, nonlinearity, loss, scored)
    found = joint_sweep.sweep(problem, layers[-1], penalty, NO_LIMIT, layers[:-1])
    shape = (STEPS, BATCH, HIDDEN)
    slacks = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for _ in layers]
    outputs = through_stack(problem, layers, slacks)
    torch.testing.assert_close(found.outputs, outputs.detach())
    nearest = found.outputs + found.output_slack
    adjoints = torch.autograd.grad(envelope(problem, outputs, nearest, penalty).sum(), slacks)
    assert adjoints[0][0].abs().max() > 1e-6  # the lowest layer's first step hears of the loss
    for course, adjoint in zip(found.layers, adjoints, strict=True):
        torch.testing.assert_close(course.slack, -adjoint / penalty, rtol=1e-10, atol=1e-13)


def test_each_layer_of_a_stack_steps_like_a_layer_alone_on_the_states_below(rng):
    problem, layers = stack_of(rng)
    found = joint_sweep.sweep(problem, layers[-1], 0.5, NO_LIMIT, layers[:-1])
    new, moments = gauss_newton.follow(problem, layers, found, None, gauss_newton.Step())
    inputs = problem.inputs
    for i, (old, course) in enumerate(zip(layers, found.layers, strict=True)):
        torch.testing.assert_close(course.inputs, inputs)
        alone, own = follow(problem, old, found._replace(layers=(course,)))
        for name in ("input", "recurrent", "bias"):
            torch.testing.assert_close(getattr(new[i], name), getattr(alone, name))
        torch.testing.assert_close(moments.layers[i], own.recurrent)
        inputs = course.states[1:]
    torch.testing.assert_close(new[-1], alone)  # the top layer's, with the read-out
    torch.testing.assert_close(moments.output, own.output)


def test_the_limit_is_on_all_slacks_of_a_stack_together(rng):
    penalty, limit = 0.1, 0.3
    problem, layers = stack_of(rng)
    free, cut = (
        joint_sweep.sweep(problem, layers[-1], penalty, number, layers[:-1])
        for number in (NO_LIMIT, limit)
    )
    nearest = free.outputs + free.output_slack
    allowed = limit * (2 * envelope(problem, free.outputs, nearest, penalty) / penalty).sqrt()
    length = sum(course.slack.square().sum((0, 2)) for course in free.layers).sqrt()
    factor = (allowed / length).clamp(max=1)
    assert (factor < 1).any()
    for short, whole in zip(cut.layers, free.layers, strict=True):
        torch.testing.assert_close(short.slack, whole.slack * factor[:, None])


@pytest.mark.parametrize("each", ["last", "every"])
def test_a_stack_steps_writes_every_layer_and_goes_on_bit_for_bit(rng, each):
    batch = a_batch(rng)
    models = [a_model(layers=3, readout=each) for _ in range(2)]
    whole, part = (ADMM(model, "cross-entropy") for model in models)
    before = weights_of(models[0])
    for _ in range(4):
        whole.step(batch)
    for name, weight in weights_of(models[0]).items():
        assert torch.equal(weight, before[name]) == ("bias_hh" in name), name
    for _ in range(2):
        part.step(batch)
    again = ADMM(models[1], "cross-entropy")
    again.load_state_dict(part.state_dict())
    for _ in range(2):
        again.step(batch)
    assert_same_weights(weights_of(models[0]), weights_of(models[1]))
