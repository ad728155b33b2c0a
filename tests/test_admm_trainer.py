"""What the ADMM trainer promises: sweeps equal the equations that they solve, runs can resume.

The joint sweep is judged by autograd on loops written here and by explicit solves; the order of the
blocks by the augmented Lagrangian between them. Each block by itself, and the Lagrangian, are
promised in test_admm_blocks.py, the loop and the run folder in test_training.py and
test_run_folder.py.
"""

import copy
import io
import itertools
import json
import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from rnnopt.admm import (
    block_step,
    gauss_newton,
    iterations,
    joint_sweep,
    linearised_updates,
    minibatch,
    scalar_problem,
    weight_updates,
)
from rnnopt.admm.lagrangian import (
    Multipliers,
    Problem,
    Variables,
    Weights,
    augmented_lagrangian,
    penalties,
)
from rnnopt.admm.network import read_weights
from rnnopt.admm.scalar_problem import nearest_output
from rnnopt.admm.trainer import ADMM
from rnnopt.config import RunConfig
from rnnopt.errors import UserError
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.run_folder import RunFolder
from rnnopt.runner import build_training, run
from rnnopt.tasks import build_task
from rnnopt.tasks.task import Batch

STEPS, BATCH, FEATURES, HIDDEN, OUTPUTS = 5, 6, 2, 4, 3
NO_LIMIT = 1e9
each_problem = pytest.mark.parametrize(
    ("nonlinearity", "loss", "scored"),
    list(
        itertools.product(("tanh", "relu"), ("squared_error", "cross_entropy"), (1, STEPS)),
    ),
)


def normal(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


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


# -- steps of a model -----------------------------------------------------------------------------


def a_model(seed=0, dtype=torch.float64, hidden=8, **options):
    torch.manual_seed(seed)
    return SequenceModel(FEATURES, hidden, OUTPUTS, **options).to(dtype)


def a_batch(rng, steps=3, batch=12, dtype=torch.float64):
    """Three classes by the sum of all inputs."""
    inputs = normal(rng, steps, batch, FEATURES).to(dtype)
    total = inputs.sum((0, 2))
    return Batch(inputs, (total > 0).long() + (total > 1).long())


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_weights(one, other):
    for name in one:
        assert torch.equal(one[name], other[name]), name


LEARNERS = {
    "exact": dict(),
    "blocks": dict(variant="blocks"),
    "blocks, kept": dict(variant="blocks", keep_batch=True, multipliers="all", balance=True),
    "paper": dict(variant="paper", sweeps=2),
    "paper, kept": dict(variant="paper", keep_batch=True, relaxation=1.5),
}
each_learner = pytest.mark.parametrize("options", LEARNERS.values(), ids=LEARNERS)
LOSSES_OF_TASKS = {
    "cross-entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
    "binary-mse": functional.mse_loss,
}


@pytest.mark.parametrize("loss", LOSSES_OF_TASKS)
@pytest.mark.parametrize(
    ("readout", "each_step"), [("last", False), ("every", False), ("every", True)]
)
@each_learner
def test_a_step_returns_the_loss_of_the_network_before_it(rng, options, readout, each_step, loss):
    model = a_model(readout=readout)
    shape = (4, 3) if each_step else (4,)  # as many samples as no other size
    if loss == "cross-entropy":
        targets = torch.randint(OUTPUTS, shape, generator=rng)
    else:
        targets = torch.rand(*shape, OUTPUTS, generator=rng)
    batch = Batch(normal(rng, 3, 4, FEATURES), targets)
    outputs = model(batch.inputs).detach()
    wanted = targets.transpose(0, 1) if each_step else targets
    if readout == "every" and not each_step:
        wanted = targets.expand(3, *targets.shape)
    if loss == "cross-entropy":
        outputs, wanted = outputs.reshape(-1, OUTPUTS), wanted.reshape(-1)
    else:
        wanted = wanted.double()
    expected = LOSSES_OF_TASKS[loss](outputs, wanted)
    torch.testing.assert_close(ADMM(model, loss, **options).step(batch), expected)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_step_writes_what_sweep_and_ridge_find_and_leaves_the_second_bias(rng, nonlinearity):
    model = a_model(nonlinearity=nonlinearity)
    batch = a_batch(rng)
    layer = model.recurrent[0]
    second = layer.bias_hh_l0.detach().clone()
    assert second.abs().min() > 0
    (before,) = read_weights(model)
    before = Weights(*(w.clone() for w in before))
    options = dict(lr=0.5, penalty=2.0, proximal_weight=0.3, limit=NO_LIMIT, max_change=math.inf)
    ADMM(model, "cross-entropy", **options).step(batch)
    start = torch.zeros(12, 8, dtype=torch.float64)
    problem = Problem(batch.inputs, batch.targets[None], start, nonlinearity)
    found = joint_sweep.sweep(problem, before, 2.0, NO_LIMIT)  # ρ = 1/lr: of length 1
    expected, _ = follow(problem, before, found, proximal_weight=0.3)
    for new, wanted, old in zip(read_weights(model)[0], expected, before, strict=True):
        torch.testing.assert_close(new, wanted)
        assert not torch.equal(new, old)
    assert torch.equal(layer.bias_hh_l0, second)


@each_learner
def test_no_autograd_graph_is_ever_built(rng, options, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("autograd was asked")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    model, batch = a_model(), a_batch(rng)
    addresses = [p.data_ptr() for p in model.parameters()]
    learner = ADMM(model, "cross-entropy", **options)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        losses = [learner.step(batch) for _ in range(3)]
    assert not any(loss.requires_grad or loss.grad_fn for loss in losses)
    kept = [v for v in learner.state.values() if isinstance(v, torch.Tensor)]
    assert not any(v.requires_grad or v.grad_fn for v in kept)
    for p, address in zip(model.parameters(), addresses, strict=True):
        assert p.grad is None
        assert p.requires_grad
        assert p.data_ptr() == address
        assert p.dtype == torch.float64


# In both the gain of the recurrent weights is about 5 a step. tanh stays in [-1, 1], and its
# gradient overflows single precision; relu overflows on the way forward, 5^200 being 10^140.
def exploding(nonlinearity, rng):
    model = a_model(dtype=torch.float32, hidden=20, nonlinearity=nonlinearity)
    with torch.no_grad():
        model.recurrent[0].weight_hh_l0.mul_(10)
    return model, a_batch(rng, steps=200, batch=8, dtype=torch.float32)


def test_steps_stay_finite_where_the_gradient_overflows(rng):
    model, batch = exploding("tanh", rng)
    functional.cross_entropy(model(batch.inputs), batch.targets).backward()
    norm = sum(float(p.grad.double().norm()) ** 2 for p in model.parameters()) ** 0.5
    assert not norm < 1e15
    model.zero_grad()
    learner = ADMM(model, "cross-entropy")
    before = weights_of(model)
    losses = [float(learner.step(batch)) for _ in range(20)]
    assert all(math.isfinite(loss) for loss in losses)
    assert all(p.isfinite().all() for p in model.parameters())
    assert learner.param_groups[0]["rejections"] == 0
    assert not torch.equal(model.output.weight, before["output.weight"])


def test_where_the_network_itself_overflows_nothing_is_written_and_that_is_counted(rng):
    model, batch = exploding("relu", rng)
    learner, before = ADMM(model, "cross-entropy"), weights_of(model)
    for _ in range(20):
        learner.step(batch)
    assert learner.param_groups[0]["rejections"] == 20
    assert learner.param_groups[0]["steps"] == 20
    assert_same_weights(before, weights_of(model))


@each_learner
@pytest.mark.parametrize("where", ["inputs", "targets"])
def test_data_that_are_not_finite_leave_the_weights_and_are_counted(rng, options, where):
    model = a_model()
    learner = ADMM(model, "mse", **options)
    good = Batch(a_batch(rng).inputs, normal(rng, 12, OUTPUTS))
    if not options.get("keep_batch"):
        learner.step(good)
    before = weights_of(model)
    bad = Batch(good.inputs.clone(), good.targets.clone())
    getattr(bad, where)[..., 0] = math.nan
    learner.step(bad)
    assert learner.param_groups[0]["rejections"] == 1
    assert_same_weights(before, weights_of(model))
    if not options.get("keep_batch"):  # and the next minibatch is learnt from
        learner.step(good)
        assert learner.param_groups[0]["rejections"] == 1
        assert not torch.equal(model.output.weight, before["output.weight"])


def test_dependent_inputs_of_large_size_are_learnt_from_in_single_precision():
    # Three equal inputs of 1e4: Ā is singular, and r = 0.1 lies below its roundings of about 1e2.
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = SequenceModel(3, 6, 2, nonlinearity="relu")
        inputs = 1e4 * torch.randn(20, 8, 1, generator=rng).expand(20, 8, 3).contiguous()
        learner = ADMM(model, "cross-entropy")
        learner.step(Batch(inputs, torch.randint(2, (8,), generator=rng)))
        assert learner.param_groups[0]["rejections"] == 0


# -- blocks and paper, on one batch ---------------------------------------------------------------


def lagrangians_of(monkeypatch, batch, **options):
    """Of each of five iterations: L before every block of it and after the last one."""
    model = a_model()
    learner = ADMM(model, "cross-entropy", keep_batch=True, **options)
    values = []

    def watching(function, at):
        def watched(*given, **named):
            problem, weights, variables = given[:3]
            multipliers, numbers = at
            value = augmented_lagrangian(problem, weights, variables, multipliers, numbers)
            values[-1].append(float(value))
            return function(*given, **named)

        return watched

    name = "paper_iteration" if options["variant"] == "paper" else "block_iteration"
    iterate = getattr(block_step, name)

    def watched_iteration(problem, weights, variables, multipliers, numbers, *rest):
        values.append([])
        names = ("update_output", "update_state", "update_preactivation")
        if options["variant"] == "paper":
            names = (
                "update_output", "update_output_bias", "linearised_output", "linearised_state",
                "linearised_preactivation", "update_bias", "linearised_recurrent",
                "linearised_input",
            )  # fmt: skip
        with monkeypatch.context() as patch:
            for each in names:
                function = getattr(iterations, each)
                patch.setattr(iterations, each, watching(function, (multipliers, numbers)))
            result = iterate(problem, weights, variables, multipliers, numbers, *rest)
        values[-1].append(float(augmented_lagrangian(problem, *result, multipliers, numbers)))
        return result

    monkeypatch.setattr(block_step, name, watched_iteration)
    for _ in range(5):
        learner.step(batch)
    return values


LAYOUTS = list(itertools.product(("parallel", "backward"), ("last", "all")))


@pytest.mark.parametrize(("order", "multipliers"), LAYOUTS)
def test_no_block_of_an_iteration_raises_the_lagrangian(rng, monkeypatch, order, multipliers):
    options = dict(order=order, multipliers=multipliers, inner_penalty=0.7, recurrent_decay=0.01)
    found = lagrangians_of(monkeypatch, a_batch(rng), variant="blocks", penalty_a=1.5, **options)
    # o s a there and back; s and a step by step at 3 steps
    assert {len(values) for values in found} == {1 + (6 if order == "parallel" else 14)}
    for values in found:
        for before, after in itertools.pairwise(values):
            assert after <= before + 1e-9 * (1 + abs(before))
        assert values[-1] < values[0] - 1e-3


@pytest.mark.parametrize("multipliers", ["last", "all"])
def test_no_linearised_block_of_an_iteration_raises_the_lagrangian(rng, monkeypatch, multipliers):
    options = dict(multipliers=multipliers, inner_penalty=0.7, recurrent_decay=0.01)
    found = lagrangians_of(monkeypatch, a_batch(rng), variant="paper", penalty_a=1.5, **options)
    assert {len(values) for values in found} == {17}  # eight blocks there and back
    for values in found:
        for before, after in itertools.pairwise(values):
            assert after <= before + 1e-9 * (1 + abs(before))
        assert values[-1] < values[0] - 1e-3


@pytest.mark.parametrize(
    ("nonlinearity", "order", "multipliers"),
    [("tanh", "parallel", "all"), ("relu", "backward", "last")],
)
def test_residuals_fall_the_weights_live_and_the_network_itself_learns(
    nonlinearity, order, multipliers
):
    # Measured after 200 iterations, the one and the other: loss 0.005 and 0.02, residuals of all
    # equations below 1.1e-3 and 1.5e-2 of the variables, from 0.04 … 0.9 after the first.
    torch.manual_seed(6)
    inputs = torch.randn(3, 12, FEATURES, dtype=torch.float64)
    total = inputs.sum((0, 2))
    batch = Batch(inputs, (total > 0).long() + (total > 1).long())
    share = torch.bincount(batch.targets) / 12
    prior = -float((share * share.log()).sum())
    assert prior > 0.8
    model = a_model(seed=1, hidden=6, nonlinearity=nonlinearity)
    start = {name: float(w.norm()) for name, w in weights_of(model).items()}
    learner = ADMM(
        model, "cross-entropy", variant="blocks", order=order, multipliers=multipliers,
        proximal_weight=1.0, keep_batch=True,
    )  # fmt: skip
    learner.step(batch)
    first = learner.report()
    for _ in range(199):
        learner.step(batch)
    last = learner.report()
    for name in Variables._fields:
        assert last[f"residual_{name}"] < 0.5 * first[f"residual_{name}"], name
    for name, w in weights_of(model).items():
        assert float(w.norm()) > 0.3 * start[name], name
    loss = functional.cross_entropy(model(batch.inputs), batch.targets).item()
    assert loss == pytest.approx(last["loss"])
    assert loss < 0.1 * prior


@pytest.mark.parametrize(
    ("order", "coupling", "moved"),
    [
        ("parallel", True, [2, 3, 4, 5]),
        ("backward", True, [6, 6, 6, 6]),
        ("parallel", False, [1, 1, 1, 1]),
        ("backward", False, [1, 1, 1, 1]),
    ],
)
def test_the_signal_of_the_target_travels_as_the_order_lets_it(
    rng, monkeypatch, order, coupling, moved
):
    # All starts at a forward pass, and the weights are held. Parallel: the sweep there moves s_T
    # and a_T, the one back a_T and then s_{T-1}, which feels a_T; each iteration adds one more.
    # Backward goes down all steps within one sweep; without coupling s_t never feels a_{t+1}.
    monkeypatch.setattr(iterations, "solve_recurrent_weights", lambda equations, w, *_: w)
    monkeypatch.setattr(iterations, "solve_output_weights", lambda equations, w, *_: w)
    model, batch = a_model(), a_batch(rng, steps=6)
    own = model.recurrent[0](batch.inputs)[0].detach()
    learner = ADMM(
        model, "cross-entropy", variant="blocks", order=order, coupling=coupling, keep_batch=True
    )
    for count in moved:
        learner.step(batch)
        change = (learner.state["state"] - own).abs().amax((1, 2))
        assert (change > 1e-10).tolist() == [False] * (6 - count) + [True] * count


def test_one_sweep_there_of_the_parallel_order_moves_the_last_state_alone(rng, monkeypatch):
    monkeypatch.setattr(iterations, "solve_recurrent_weights", lambda equations, w, *_: w)
    monkeypatch.setattr(iterations, "solve_output_weights", lambda equations, w, *_: w)
    sweeps = []
    keep = iterations.update_preactivation

    def watched(problem, weights, variables, *rest, **named):
        sweeps.append(variables.state.clone())
        return keep(problem, weights, variables, *rest, **named)

    monkeypatch.setattr(iterations, "update_preactivation", watched)
    for order, count in (("parallel", 1), ("backward", 6)):
        model, batch = a_model(), a_batch(rng, steps=6)
        own = model.recurrent[0](batch.inputs)[0].detach()
        sweeps.clear()
        ADMM(model, "cross-entropy", variant="blocks", order=order).step(batch)
        # a follows s: after the one update of all a, or after that of a_1
        change = (sweeps[count - 1] - own).abs().amax((1, 2))
        assert (change > 1e-10).tolist() == [False] * (6 - count) + [True] * count


@pytest.mark.parametrize(
    "tricks",
    [
        dict(coupling=False),
        dict(identity_for_tanh=True),
        dict(coupling=False, identity_for_tanh=True, inner_penalty=1e-2, multipliers="all"),
        dict(recurrent_decay=0.5),
        dict(relaxation=1.6),
        dict(balance=True, penalty_a=20.0, penalty_s=20.0, penalty_o=20.0, inner_penalty=20.0),
    ],
    ids=str,
)
def test_the_tricks_of_the_paper_change_the_run_and_stay_finite(rng, tricks):
    batch = a_batch(rng)
    plain, changed = a_model(), a_model()
    one = ADMM(plain, "cross-entropy", variant="paper", keep_batch=True)
    other = ADMM(changed, "cross-entropy", variant="paper", keep_batch=True, **tricks)
    for _ in range(4):
        one.step(batch)
        loss = other.step(batch)
    assert math.isfinite(loss)
    assert other.param_groups[0]["rejections"] == 0
    assert all(math.isfinite(value) for value in other.report().values())
    difference = plain.recurrent[0].weight_hh_l0 - changed.recurrent[0].weight_hh_l0
    assert difference.abs().max() > 1e-6


def test_the_identity_in_place_of_tanh_is_refused_for_relu():
    relu = a_model(nonlinearity="relu")
    with pytest.raises(ValueError, match="identity_for_tanh"):
        ADMM(relu, "cross-entropy", variant="paper", identity_for_tanh=True)


@pytest.mark.parametrize("start", [1e4, 1e-4])
def test_balancing_moves_the_penalties_towards_the_larger_residual(rng, start):
    # Stiff equations hold and little moves, or the other way round: the scale falls, or rises.
    numbers = {f"penalty_{name}": start for name in "aso"} | dict(inner_penalty=start)
    learner = ADMM(
        a_model(), "cross-entropy", variant="blocks", balance=True, keep_batch=True, **numbers
    )
    scales = [1.0]
    for _ in range(6):
        learner.step(a_batch(rng))
        scales.append(learner.param_groups[0]["scale"])
    ratios = {after / before for before, after in itertools.pairwise(scales)}
    assert ratios <= {0.5, 1.0, 2.0}
    assert (scales[-1] < 1) if start > 1 else (scales[-1] > 1)


@pytest.mark.parametrize("variant", ["blocks", "paper"])
@pytest.mark.parametrize("multipliers", ["last", "all"])
def test_a_report_equals_what_its_definitions_give(rng, variant, multipliers):
    model, batch = a_model(), a_batch(rng)
    learner = ADMM(
        model, "cross-entropy", variant=variant, multipliers=multipliers, keep_batch=True,
        penalty_a=1.2, penalty_s=0.8, penalty_o=2.0, inner_penalty=0.5, recurrent_decay=0.3,
    )  # fmt: skip
    for _ in range(3):
        learner.step(batch)
    report = learner.report()
    ((u, w, b, v, c),) = read_weights(model)
    a, s, o = (learner.state[name] for name in Variables._fields)
    before = torch.cat([torch.zeros_like(s[:1]), s[:-1]])
    ra = a - batch.inputs @ u.T - before @ w.T - b
    rs, ro = s - a.tanh(), o - s[-1:] @ v.T - c
    for name, r, x in zip(Variables._fields, (ra, rs, ro), (a, s, o), strict=True):
        assert report[f"residual_{name}"] == pytest.approx(float(r.norm() / x.norm()))
    assert report["loss"] == pytest.approx(
        functional.cross_entropy(model(batch.inputs), batch.targets).item()
    )
    of_auxiliaries = functional.cross_entropy(o[-1], batch.targets).item()
    assert report["auxiliary_loss"] == pytest.approx(of_auxiliaries)
    start = torch.zeros_like(s[0])
    problem = Problem(batch.inputs, batch.targets[None], start, recurrent_decay=0.3 * 12)
    kept = Multipliers(*(learner.state[f"multiplier_{name}"] for name in Variables._fields))
    assert len(kept.preactivation) == (1 if multipliers == "last" else 3)
    numbers = penalties(3, (1.2, 0.8, 2.0), 0.5)
    value = augmented_lagrangian(problem, read_weights(model)[0], Variables(a, s, o), kept, numbers)
    assert report["lagrangian"] == pytest.approx(float(value))
    # the multiplier step comes last and o before it: λ3 = -∇R(o)
    pull = torch.softmax(o[-1], -1) - functional.one_hot(batch.targets, OUTPUTS)
    torch.testing.assert_close(kept.output[-1], -pull, rtol=1e-8, atol=1e-10)


def test_a_report_needs_kept_variables(rng):
    batch = a_batch(rng)
    for options in (dict(), dict(variant="blocks")):
        learner = ADMM(a_model(), "cross-entropy", **options)
        learner.step(batch)
        with pytest.raises(ValueError, match="keep_batch"):
            learner.report()


def test_a_kept_batch_is_the_first_one_all_the_time(rng):
    first, second = a_batch(rng), a_batch(rng)
    results = []
    for batches in ([first] * 3, [first, second, second]):
        model = a_model()
        learner = ADMM(model, "cross-entropy", variant="blocks", keep_batch=True)
        for batch in batches:
            learner.step(Batch(batch.inputs.clone(), batch.targets.clone()))
        results.append(weights_of(model))
    assert_same_weights(*results)


# -- the contract of a learner --------------------------------------------------------------------


@each_learner
def test_a_saved_trainer_goes_on_bit_for_bit(rng, options):
    batches = [a_batch(rng) for _ in range(7)]
    model = a_model()
    learner = ADMM(model, "cross-entropy", **(options or dict(memory=0.6)))
    for batch in batches[:3]:
        learner.step(batch)
    file = io.BytesIO()
    torch.save(dict(model=model.state_dict(), optimizer=learner.state_dict()), file)
    for batch in batches[3:]:
        learner.step(batch)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = a_model(seed=9)
    resumed = ADMM(other, "cross-entropy", lr=17.0)  # the saved options count
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for batch in batches[3:]:
        resumed.step(batch)
    assert_same_weights(weights_of(model), weights_of(other))
    assert resumed.param_groups == learner.param_groups
    assert resumed.state.keys() == learner.state.keys()
    for name, tensor in learner.state.items():
        assert torch.equal(tensor, resumed.state[name]), name


def test_a_loaded_state_shares_no_memory_with_the_saved_one(rng):
    learner = ADMM(a_model(), "cross-entropy")
    learner.step(a_batch(rng))
    saved = learner.state_dict()
    other = ADMM(a_model(), "cross-entropy")
    other.load_state_dict(saved)
    for name, tensor in saved["state"].items():
        assert other.state[name].data_ptr() != tensor.data_ptr()
    assert other.param_groups[0] is not saved["param_groups"][0]


def test_fit_steps_on_every_batch_and_returns_the_losses(rng):
    batches = [a_batch(rng) for _ in range(3)]
    one, other = (ADMM(a_model(), "cross-entropy") for _ in range(2))
    assert one.fit(iter(batches)) == [float(other.step(batch)) for batch in batches]
    assert_same_weights(weights_of(one.model), weights_of(other.model))
    assert one.fit([]) == []


@each_learner
def test_a_rate_of_zero_moves_nothing_and_counts_nothing(rng, options):
    model, batch = a_model(dtype=torch.float32), a_batch(rng, dtype=torch.float32)
    learner, before = ADMM(model, "cross-entropy", lr=0.0, **options), weights_of(model)
    for _ in range(3):
        loss = learner.step(batch)
    assert_same_weights(before, weights_of(model))
    assert learner.param_groups[0]["steps"] == learner.param_groups[0]["averaged"] == 0
    torch.testing.assert_close(
        loss, functional.cross_entropy(model(batch.inputs), batch.targets).detach()
    )


def test_the_limit_of_the_options_is_that_of_the_sweep(rng):
    batch, models = a_batch(rng), [a_model(), a_model()]
    free, cut = (
        ADMM(m, "cross-entropy", limit=number, penalty=1.0, max_change=math.inf)
        for m, number in zip(models, (1e9, 0.01), strict=True)
    )
    before = weights_of(models[0])
    free.step(batch)
    cut.step(batch)
    far, near = (
        (m.recurrent[0].weight_ih_l0.detach() - before["recurrent.0.weight_ih_l0"]).norm()
        for m in models
    )
    assert near < 0.1 * far


def test_the_moments_of_two_steps_are_their_mean_and_a_lost_minibatch_does_not_count(rng):
    model, batches = a_model(), [a_batch(rng) for _ in range(2)]
    lost = replace(batches[0], inputs=math.nan * batches[0].inputs)
    learner, expected = ADMM(model, "cross-entropy"), []
    for batch in (batches[0], lost, batches[1]):
        if batch is not lost:
            expected.append(layer_moment(model, batch))
        learner.step(batch)
    torch.testing.assert_close(learner.state["moments_0"], sum(expected) / 2)
    group = learner.param_groups[0]
    assert (group["steps"], group["averaged"], group["rejections"]) == (3, 2, 1)


def layer_moment(model, batch):
    """Σ_t M_tᵀM_t / B for M_t = [x_t s_{t-1} 1], from the layer's own states."""
    with torch.no_grad():
        states, _ = model.recurrent[0](batch.inputs)
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
    ones = torch.ones(*states.shape[:2], 1, dtype=states.dtype)
    rows = torch.cat([batch.inputs, before, ones], -1).flatten(0, 1)
    return rows.T @ rows / states.shape[1]


@pytest.mark.parametrize("variant", ["blocks", "paper"])
def test_a_kept_batch_goes_on_where_it_was_after_a_step_that_was_lost(rng, variant):
    model, batch = a_model(), a_batch(rng)
    learner = ADMM(model, "cross-entropy", variant=variant, keep_batch=True)
    learner.step(batch)
    kept = {name: value.clone() for name, value in learner.state.items()}
    with torch.no_grad():
        good = model.output.bias.clone()
        model.output.bias.fill_(math.nan)
    learner.step(batch)
    assert learner.param_groups[0]["rejections"] == 1
    assert_same_weights(kept, learner.state)
    with torch.no_grad():
        model.output.bias.copy_(good)
    learner.step(batch)
    assert learner.param_groups[0]["rejections"] == 1


def test_a_saved_state_that_lacks_an_option_takes_it_from_the_trainer():
    saved = ADMM(a_model(), "cross-entropy", lr=0.7).state_dict()
    del saved["param_groups"][0]["limit"]
    other = ADMM(a_model(), "cross-entropy", limit=3.0)
    other.load_state_dict(saved)
    assert other.param_groups[0]["limit"] == 3.0
    assert other.param_groups[0]["lr"] == 0.7


@pytest.mark.parametrize(
    ("variant", "name", "value"),
    [
        ("exact", "sweeps", 2),
        ("exact", "recurrent_decay", 1.0),
        ("exact", "balance", True),
        ("exact", "penalty_o", 2.0),
        ("blocks", "memory", 0.5),
        ("blocks", "identity_for_tanh", True),
        ("blocks", "max_change", 0.1),
        ("paper", "penalty", 2.0),
        ("paper", "order", "parallel"),
    ],
)
def test_an_option_that_the_variant_does_not_look_at_is_refused(variant, name, value):
    with pytest.raises(ValueError, match=f"variant='{variant}' has no use for {name}, got"):
        ADMM(a_model(), "cross-entropy", variant=variant, **{name: value})


@pytest.mark.parametrize(
    ("changes", "loss", "message"),
    [
        (lambda b: dict(inputs=b.inputs[0]), "cross-entropy", "inputs"),
        (lambda b: dict(inputs=b.inputs[:0]), "cross-entropy", "none of them 0"),
        (lambda b: dict(inputs=b.inputs[..., :1]), "cross-entropy", f"batch, {FEATURES}"),
        (lambda b: dict(inputs=b.inputs.float()), "cross-entropy", "float64, got torch.float32"),
        (lambda b: dict(targets=b.targets.int()), "cross-entropy", "int64, got torch.int32"),
        (lambda b: dict(targets=b.targets.double()), "cross-entropy", "int64"),
        (lambda b: dict(targets=b.targets[:5]), "cross-entropy", r"got \(5,\)"),
        (lambda b: dict(targets=b.targets), "mse", "no class numbers"),
        (lambda b: dict(targets=b.inputs[0, :, 0]), "mse", r"\(12, 3\) or"),
        (lambda b: dict(targets=torch.zeros(1, OUTPUTS).double()), "mse", r"got \(1, 3\)"),
        (lambda b: dict(targets=torch.zeros(12, 2, OUTPUTS).double()), "mse", r"got \(12, 2, 3\)"),
    ],
)
@each_learner
def test_a_batch_of_another_shape_or_type_is_refused(rng, options, changes, loss, message):
    batch = a_batch(rng)
    model = a_model()
    before = weights_of(model)
    with pytest.raises(ValueError, match=message):
        ADMM(model, loss, **options).step(replace(batch, **changes(batch)))
    assert_same_weights(before, weights_of(model))


def test_frozen_weights_are_refused():
    model = a_model()
    model.recurrent[0].weight_ih_l0.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad=False for recurrent.0.weight_ih_l0"):
        ADMM(model, "cross-entropy")


def test_a_batch_that_is_kept_is_all_the_data_in_the_loop():
    optimizer = "admm:variant=blocks,keep_batch=true"
    training = build_training(changed(optimizer=optimizer))
    assert len(training.closure.batch) == training.task.epoch_size
    chosen = build_training(changed(optimizer=optimizer, batch_size=16))
    assert len(chosen.closure.batch) == 16


def test_the_loop_looks_once_an_epoch_whatever_a_step_costs():
    steps = [
        build_training(
            changed(optimizer=optimizer, budget="100epochs", evaluate_every=None)
        ).evaluate_every
        for optimizer in ("admm", "admm:variant=blocks,sweeps=3")
    ]
    assert steps[1] == 3 * steps[0]


OUTSIDE = {
    "lr": [-0.1, math.nan, math.inf],
    "variant": ["admm"],
    "proximal_weight": [0.0, -1.0, math.nan],
    "memory": [1.0, -0.1, 1.5],
    "limit": [-1.0, math.nan],
    "sweeps": [0, 1.5, True],
    "penalty_a": [0.0, -1.0],
    "penalty_s": [0.0, -1.0],
    "penalty_o": [0.0, math.inf],
    "inner_penalty": [0.0, -1.0],
    "multipliers": ["first"],
    "order": ["forward"],
    "recurrent_decay": [-1.0],
    "relaxation": [0.0, 2.0, -1.0],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in OUTSIDE.items() for v in values]
)
def test_an_option_outside_its_range_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ADMM(a_model(), "cross-entropy", **{name: value})
    assert f"{name}={value!r}" in str(caught.value)
    learner = ADMM(a_model(), "cross-entropy")
    state = learner.state_dict()
    state["param_groups"][0][name] = value
    with pytest.raises(ValueError, match=name):
        learner.load_state_dict(state)


@pytest.mark.parametrize("name", ["binary-cross-entropy", "hinge"])
def test_an_unknown_loss_is_refused(name):
    with pytest.raises(ValueError, match=f"got '{name}'"):
        ADMM(a_model(), name)


@pytest.mark.parametrize(
    "options",
    [
        dict(cell="indrnn"),
        dict(batch_norm=True),
        dict(dropout=0.1),
        dict(readout="mean"),
    ],
    ids=str,
)
def test_a_model_that_is_not_covered_is_refused(options):
    with pytest.raises(ValueError, match="ADMM"):
        ADMM(a_model(**options), "cross-entropy")


@pytest.mark.parametrize("variant", ["blocks", "paper"])
def test_block_by_block_only_one_elman_layer_is_trained(variant):
    with pytest.raises(ValueError, match="one layer, got layers=2: take variant='exact'"):
        ADMM(a_model(layers=2), "cross-entropy", variant=variant)
    with pytest.raises(ValueError, match="cell 'rnn', got a layer of LSTM: take variant='exact'"):
        ADMM(a_model(cell="lstm"), "cross-entropy", variant=variant)


def test_a_model_of_another_class_is_refused():
    with pytest.raises(ValueError, match="SequenceModel"):
        ADMM(torch.nn.Linear(2, 3), "cross-entropy")


@pytest.mark.parametrize("variant", ["blocks", "paper"])
@pytest.mark.parametrize("name", ["lengths", "weights"])
def test_lengths_and_weights_are_refused_block_by_block(rng, variant, name):
    model = a_model()
    batch, before = a_batch(rng), weights_of(model)
    learner = ADMM(model, "cross-entropy", variant=variant)
    value = torch.full((12,), 3) if name == "lengths" else torch.ones(12)
    with pytest.raises(ValueError, match=f"one length that count alike, got {name}"):
        learner.step(replace(batch, **{name: value}))
    assert_same_weights(before, weights_of(model))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3] * 11, "12 whole numbers"),
        ([0] + [3] * 11, "in 1 … 3"),
        ([4] * 12, "in 1 … 3"),
    ],
)
def test_impossible_lengths_are_refused(rng, lengths, message):
    batch = replace(a_batch(rng), lengths=torch.tensor(lengths))
    with pytest.raises(ValueError, match=message):
        ADMM(a_model(), "cross-entropy").step(batch)


def test_targets_at_every_step_need_answers_at_every_step(rng):
    batch = a_batch(rng)
    targets = batch.targets[:, None].expand(12, 3)
    with pytest.raises(ValueError, match="readout 'every', got 'last'"):
        ADMM(a_model(), "cross-entropy").step(Batch(batch.inputs, targets))


# -- runs -----------------------------------------------------------------------------------------

CONFIG = RunConfig(
    "counting:length=6", hidden=4, budget="12evaluations", evaluate_every=3, optimizer="admm",
    seed=5,
)  # fmt: skip


def changed(**options):
    return RunConfig(**(vars(CONFIG) | options))


@pytest.mark.parametrize(
    ("optimizer", "price"), [("admm", 1), ("admm:variant=blocks", 1), ("admm:variant=paper", 1),
                             ("admm:variant=blocks,sweeps=3", 3)]
)  # fmt: skip
def test_the_loop_counts_an_evaluation_for_each_sweep(optimizer, price):
    training = build_training(changed(optimizer=optimizer))
    steps = [progress.evaluations for progress in training.run()]
    assert training.status == "out of budget"
    assert sorted(set(steps) - {0}) == list(range(price, 13, price))
    assert training.optimizer.param_groups[0]["steps"] == 12 // price
    assert training.closure.finished == 12 // price


def test_the_loop_sets_the_rate_and_passes_options_on():
    training = build_training(
        changed(optimizer="admm:memory=0.5,limit=3", lr=0.2, schedule="cosine")
    )
    assert training.optimizer.param_groups[0]["memory"] == 0.5
    assert training.optimizer.param_groups[0]["limit"] == 3
    rates = []
    for _ in training.run():
        rates.append(training.optimizer.param_groups[0]["lr"])
    assert max(rates) == 0.2
    assert 0 < rates[-1] < 0.05


def lines_of(folder):
    """The records, without the clock; as text, in which NaN equals NaN."""
    records = RunFolder.open(folder).read_records()
    return [json.dumps({k: v for k, v in r.items() if k != "seconds"}) for r in records]


@pytest.mark.parametrize(
    "optimizer",
    ["admm", "admm:variant=blocks,keep_batch=true", "admm:variant=paper,keep_batch=true"],
)
def test_an_interrupted_run_folder_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, optimizer):
    config = changed(optimizer=optimizer, batch_size=16)  # not all data where one batch is kept
    whole = run(config, tmp_path / "whole")
    count = iter(range(100))
    part = run(config, tmp_path / "part", stop_requested=lambda: next(count) == 7)
    assert (part["status"], part["evaluations"]) == ("interrupted", 7)
    resumed = run(config, tmp_path / "part", resume=True)
    for result in (whole, resumed):
        del result["seconds"]
        result["to_target"].pop("seconds", None)
    assert resumed == whole
    assert lines_of(tmp_path / "part") == lines_of(tmp_path / "whole")
    ends = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "part")
    ]
    assert_same_weights(ends[0]["model"], ends[1]["model"])
    assert_same_weights(ends[0]["optimizer"]["state"], ends[1]["optimizer"]["state"])


def test_residuals_of_kept_variables_are_in_the_records_of_a_run(tmp_path):
    kept = changed(optimizer="admm:variant=blocks,keep_batch=true", batch_size=16)
    run(kept, tmp_path / "kept")
    *_, last = RunFolder.open(tmp_path / "kept").read_records()
    saved = torch.load(tmp_path / "kept" / "checkpoint.pt", weights_only=True)["optimizer"]
    worst = saved["state"]["relative_residuals"]
    logged = [last[f"{kind}_{n}"] for kind in ("residual", "dual") for n in Variables._fields]
    assert logged == pytest.approx(worst.tolist(), rel=1e-4)
    assert {"lagrangian", "auxiliary_loss", "scale"} <= last.keys()
    run(changed(optimizer="admm"), tmp_path / "exact")
    *_, plain = RunFolder.open(tmp_path / "exact").read_records()
    assert not any(name.startswith(("residual", "dual")) for name in plain)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (dict(clip=1.0), "clip"),
        (dict(clip_value=1.0), "clip_value"),
        (dict(tbptt=2), "tbptt"),
        (dict(optimizer="admm:clip=1.0"), "clip"),
        (dict(optimizer="admm:tbptt=2"), "tbptt"),
    ],
    ids=str,
)
def test_what_needs_gradients_cannot_go_with_it(options, name):
    with pytest.raises(UserError, match=rf"'admm' takes no gradients: it cannot go with {name}\."):
        build_training(changed(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(optimizer="admm:memory=2"), "memory=2"),
        (dict(optimizer="admm:memry=0.5"), "memry"),
        (dict(optimizer="admm:variant=exakt"), "exakt"),
        (dict(model="indrnn"), "cell 'rnn'"),
        (dict(layers=2, optimizer="admm:variant=blocks"), "one layer"),
        (dict(batch_norm=True), "batch norm"),
        (dict(readout="mean"), "mean"),
    ],
    ids=str,
)
def test_a_wrong_choice_on_the_command_line_is_a_clear_error(options, message):
    with pytest.raises(UserError, match=message):
        build_training(changed(**options))


@pytest.mark.parametrize("model", ["rnn", "rnn-relu"])
def test_a_few_minibatches_of_digits_are_far_better_than_chance(model):
    # Chance is 0.1; measured after 60 steps with seeds 0, 1, 2: 0.66, 0.71, 0.78 (tanh) and
    # 0.63, 0.62, 0.62 (relu) on the validation set.
    config = RunConfig(
        "digits-rows", model=model, hidden=16, budget="60evaluations", optimizer="admm"
    )
    training = build_training(config)
    for _ in training.run():
        pass
    assert training.optimizer.param_groups[0]["rejections"] == 0
    assert training.best["validation_metric"] > 0.45


def test_the_loss_at_every_step_is_learnt_from_in_the_loop():
    # One target a sequence stands at each of its steps, as the task's own loss has it.
    config = RunConfig(
        "digits-rows", hidden=16, budget="60evaluations", optimizer="admm", readout="every"
    )
    training = build_training(config)
    task = build_task("digits-rows")
    before, _ = task.evaluate(training.model, task.validation, torch.device("cpu"))
    for _ in training.run():
        pass
    after, _ = task.evaluate(training.model, task.validation, torch.device("cpu"))
    assert after < before - 0.2


# -- residuals and where it stops -----------------------------------------------------------------


@pytest.mark.parametrize("variant", ["blocks", "paper"])
def test_dual_residuals_are_penalties_times_what_the_last_iteration_changed(rng, variant):
    learner = ADMM(
        a_model(), "cross-entropy", variant=variant, keep_batch=True, penalty_s=0.8,
        inner_penalty=0.5,
    )  # fmt: skip
    batch = a_batch(rng)
    learner.step(batch)
    before = {name: learner.state[name].clone() for name in Variables._fields}
    learner.step(batch)
    report = learner.report()
    rho = dict(preactivation=(0.5, 0.5, 1.0), state=(0.5, 0.5, 0.8), output=(1.0,))
    for name, old in before.items():
        weights = torch.tensor(rho[name], dtype=torch.float64)[:, None, None]
        now = learner.state[name]
        expected = (weights * (now - old)).norm() / (weights * now).norm()
        assert report[f"dual_{name}"] == pytest.approx(float(expected))
        assert report[f"dual_{name}"] > 0


def test_fit_stops_where_all_residuals_are_within_the_tolerance(rng):
    batch = a_batch(rng)
    options = dict(variant="blocks", keep_batch=True, multipliers="all", proximal_weight=1.0)
    learner = ADMM(a_model(), "cross-entropy", **options)
    losses = learner.fit(itertools.repeat(batch, 400), tolerance=0.01)
    assert 1 < len(losses) < 400
    report = learner.report()
    worst = max(v for name, v in report.items() if name.startswith(("residual", "dual")))
    assert worst <= 0.01
    shorter = ADMM(a_model(), "cross-entropy", **options)
    shorter.fit(itertools.repeat(batch, len(losses) - 1))
    report = shorter.report()
    worst = max(v for name, v in report.items() if name.startswith(("residual", "dual")))
    assert worst > 0.01


@pytest.mark.parametrize("options", [dict(), dict(variant="blocks")])
def test_a_tolerance_needs_kept_variables(rng, options):
    with pytest.raises(ValueError, match="tolerance needs variant 'blocks' or 'paper' and keep"):
        ADMM(a_model(), "cross-entropy", **options).fit([a_batch(rng)], tolerance=0.1)


@pytest.mark.parametrize(
    ("primal", "dual", "factor"),
    [(10.1, 1.0, 2.0), (9.9, 1.0, 1.0), (1.0, 9.9, 1.0), (1.0, 10.1, 0.5)],
)
def test_penalties_are_doubled_or_halved_at_a_ratio_of_ten(primal, dual, factor):
    unit = torch.full((1, 1, 1), 3**-0.5, dtype=torch.float64)  # three of them: norm 1
    broken, moved = (Variables(*(3 * [size * unit])) for size in (primal, dual))
    assert block_step.balancing_factor(broken, moved) == factor


# -- waiting for a device -------------------------------------------------------------------------


class Asked(TorchDispatchMode):
    """Counts how often a tensor's number is asked for, which waits for a device."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.times += name in ("_local_scalar_dense", "nonzero", "equal")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [dict(), dict(layers=2), dict(cell="lstm"), dict(cell="gru")])
def test_a_step_asks_a_device_once_and_finds_the_same(rng, monkeypatch, options):
    batch = a_batch(rng)
    here, there = a_model(**options), a_model(**options)
    ADMM(here, "cross-entropy").step(batch)
    for module in (minibatch, scalar_problem, weight_updates):
        monkeypatch.setattr(module, "free_to_ask", lambda tensor: False)
    learner = ADMM(there, "cross-entropy")
    with Asked() as asked:
        learner.step(batch)
    assert asked.times == 1  # whether all is finite
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_factor_is_found_without_asking(monkeypatch):
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    whole = rows.T @ rows + torch.eye(5).double()
    singular = torch.ones(4, 4, dtype=torch.float64)
    indefinite = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    monkeypatch.setattr(weight_updates, "free_to_ask", lambda tensor: False)
    with Asked() as asked:
        factors = [weight_updates.cholesky(m) for m in (whole, singular, indefinite)]
    assert asked.times == 0
    torch.testing.assert_close(factors[0], torch.linalg.cholesky(whole))
    torch.testing.assert_close(factors[1] @ factors[1].T, singular, rtol=0, atol=1e-10)
    assert factors[2].isnan().all()


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
@pytest.mark.parametrize("weighed", [False, True])
def test_a_step_on_padded_sequences_asks_no_more(rng, monkeypatch, loss, weighed):
    batch = a_batch(rng)
    if loss == "mse":
        batch = replace(batch, targets=normal(rng, 12, OUTPUTS))
    for module in (minibatch, scalar_problem, weight_updates):
        monkeypatch.setattr(module, "free_to_ask", lambda tensor: False)
    monkeypatch.setattr(minibatch, "check_lengths", lambda lengths, inputs: lengths)
    weights = torch.rand(12, generator=rng) if weighed else None
    padded = replace(batch, lengths=torch.tensor([2, 3] * 6), weights=weights)
    learner = ADMM(a_model(), loss)
    with Asked() as asked:
        learner.step(padded)
    # Whether all is finite, and with weights whether the penalty is stiff for them.
    assert asked.times == 1 + (weighed and loss == "cross-entropy")
    assert learner.param_groups[0]["rejections"] == 0


# -- what only a change of one sign or number would show ------------------------------------------


def test_a_loaded_state_goes_to_the_device_of_the_model(rng):
    learner = ADMM(a_model(), "cross-entropy")
    learner.step(a_batch(rng))
    other = ADMM(a_model().to("meta"), "cross-entropy")
    other.load_state_dict(learner.state_dict())
    assert other.state
    assert all(tensor.device.type == "meta" for tensor in other.state.values())


def test_the_way_back_is_the_way_there_reversed(rng, monkeypatch):
    calls = []
    names = dict(
        update_output="o", solve_output_weights="(v,c)", update_state="s",
        update_preactivation="a", solve_recurrent_weights="(u,w,b)",
    )  # fmt: skip
    for name, letter in names.items():
        keep = getattr(iterations, name)

        def watched(*given, keep=keep, letter=letter, **named):
            calls.append(letter)
            return keep(*given, **named)

        monkeypatch.setattr(iterations, name, watched)
    ADMM(a_model(), "cross-entropy", variant="blocks", order="parallel").step(a_batch(rng))
    there = ["o", "(v,c)", "s", "a", "(u,w,b)"]
    assert calls == there + there[::-1]
    calls.clear()
    ADMM(a_model(), "cross-entropy", variant="blocks").step(a_batch(rng))
    there, back = ["o", "(v,c)"], ["(v,c)", "o"]
    assert calls == there + 3 * ["s", "a"] + 2 * ["(u,w,b)"] + 3 * ["s", "a"] + back


def seen_by(monkeypatch, name, **options):
    """What `iterations` hands the function `name` in a step of variant "paper"."""
    seen = []
    keep = getattr(iterations, name)

    def watched(*given, **named):
        weights = Weights(*(w.clone() for w in given[1]))  # the model's own change in place
        seen.append(((given[0], weights, *given[2:]), named))
        return keep(*given, **named)

    monkeypatch.setattr(iterations, name, watched)
    rng = torch.Generator().manual_seed(0)
    learner = ADMM(a_model(), "cross-entropy", variant="paper", **options)
    learner.step(a_batch(rng))
    return seen


def test_the_papers_preactivations_are_exact_at_the_last_step(monkeypatch):
    # R is the largest α: no more, or they would be slower, no less, or L could rise.
    options = dict(penalty_a=1.5, inner_penalty=0.7)
    ((given, _), *_) = seen_by(monkeypatch, "linearised_preactivation", **options)
    assert given[-1] == 1.5


@pytest.mark.parametrize("coupling", [True, False])
def test_the_bound_of_the_states_knows_of_the_coupling(monkeypatch, coupling):
    ((given, named), *_) = seen_by(monkeypatch, "linearised_state", coupling=coupling)
    _, weights, variables, _, numbers, limit = given
    assert named == dict(coupling=coupling)
    expected = linearised_updates.state_limits(weights, variables, numbers, coupling)
    torch.testing.assert_close(limit, expected)
    assert float(limit[0]) == 0 if not coupling else float(limit[0]) > 0


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("linearised_input", 36),
        ("linearised_recurrent", 36),
        ("linearised_output", 12),
        ("linearised_state", 1),
        ("linearised_preactivation", 1),
    ],
)
def test_the_papers_r_takes_the_place_of_every_bound(monkeypatch, name, unit):
    for given, _ in seen_by(monkeypatch, name, proximal_weight=2.5):
        assert given[-1] == unit * 2.5  # 12 samples; N r for u and w, N = 3 steps


def test_a_damping_below_the_roundings_of_single_precision_is_not_lost():
    # Two columns of 1e4 that differ by 1e-2 of themselves in one row: in single precision
    # A + r = A for r = 1; the solution of the ridge problem depends on it.
    matrix = torch.tensor([[2.0e8, 2.0e8], [2.0e8, 2.0e8]])
    right = torch.tensor([[1.0], [-1.0]])
    expected = torch.tensor([[1.0], [-1.0]])  # A has no say in this direction, r = 1 all
    torch.testing.assert_close(gauss_newton._ridge(matrix, right, 1.0), expected)


# -- what a state must be, and a batch -------------------------------------------------------------


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(rng):
    learner, batch = ADMM(a_model(), "cross-entropy"), a_batch(rng)
    learner.step(batch)
    before = copy.deepcopy(learner.state_dict())
    older, wrong = copy.deepcopy(before), copy.deepcopy(before)
    del older["param_groups"][0]["penalty"]
    wrong["param_groups"][0]["max_change"] = -1.0
    others = []
    for options in (dict(layers=2), dict(hidden=5)):
        other = ADMM(a_model(**options), "cross-entropy")
        other.step(batch)
        others.append(other.state_dict())
    for state, message in (
        (older, "another optimizer or version"),
        (wrong, "finite max_change > 0"),
        *((state, "another model: needs moments of sizes") for state in others),
    ):
        with pytest.raises(ValueError, match=message):
            learner.load_state_dict(state)
        assert learner.param_groups == before["param_groups"]
        assert learner.state.keys() == before["state"].keys()


def test_a_batch_that_was_lost_is_not_kept(rng):
    good = a_batch(rng)
    learner = ADMM(a_model(), "cross-entropy", keep_batch=True)
    learner.step(replace(good, inputs=math.nan * good.inputs))
    assert learner.state == {}
    learner.step(good)
    assert torch.equal(learner.state["inputs"], good.inputs)
    assert learner.param_groups[0]["rejections"] == 1


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf, True, None, "0.1"])
def test_an_impossible_tolerance_is_refused_before_a_step(rng, tolerance):
    model = a_model()
    before = weights_of(model)
    learner = ADMM(model, "cross-entropy", variant="blocks", keep_batch=True)
    with pytest.raises(ValueError, match="tolerance must be"):
        learner.fit([a_batch(rng)], tolerance=tolerance)
    assert_same_weights(before, weights_of(model))


def test_dual_residuals_are_of_the_last_of_several_iterations(rng):
    batch = a_batch(rng)
    one, three = (
        ADMM(a_model(), "cross-entropy", variant="blocks", keep_batch=True, sweeps=sweeps)
        for sweeps in (1, 3)
    )
    for _ in range(3):
        one.step(batch)
    three.step(batch)
    assert three.report() == pytest.approx(one.report())


@pytest.mark.parametrize(
    ("weights", "message"),
    [(torch.ones(3), r"weights \(12,\), got \(3,\)"), (-torch.ones(12), "not negative"),
     (torch.full((12,), math.inf), "finite")],
)  # fmt: skip
def test_impossible_weights_are_refused(rng, weights, message):
    with pytest.raises(ValueError, match=message):
        ADMM(a_model(), "cross-entropy").step(replace(a_batch(rng), weights=weights))


@pytest.mark.parametrize("wrong", [-1, OUTPUTS])
def test_classes_out_of_range_are_refused(rng, wrong):
    batch = a_batch(rng)
    batch.targets[0] = wrong
    with pytest.raises(ValueError, match=r"classes in 0 … 2, got"):
        ADMM(a_model(), "cross-entropy").step(batch)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.LSTM(FEATURES, 8, bias=False),
        torch.nn.LSTM(FEATURES, 8, num_layers=2),
        torch.nn.GRU(FEATURES, 8, bidirectional=True),
        torch.nn.LSTM(FEATURES, 8, batch_first=True),
    ],
)
def test_layers_that_a_sequence_model_does_not_build_are_refused(layer):
    model = a_model(cell="lstm")
    model.recurrent[0] = layer.double()
    with pytest.raises(ValueError, match="layers as SequenceModel builds them"):
        ADMM(model, "cross-entropy")


def test_targets_that_are_met_move_nothing(rng):
    for dtype, readout in itertools.product((torch.float32, torch.float64), ("last", "every")):
        model = a_model(dtype=dtype, readout=readout)
        inputs = normal(rng, 3, 12, FEATURES).to(dtype)
        problem = minibatch.problem_of(
            model, Batch(inputs, torch.zeros(12, OUTPUTS, dtype=dtype)), "mse"
        )[0]
        (weights,) = read_weights(model)
        _, outputs = joint_sweep.forward(problem, weights, len(problem.targets))
        found = joint_sweep.sweep(problem._replace(targets=outputs), weights, 3.0, 100.0)
        assert not found.output_slack.any()
        assert not found.layers[0].slack.any()


@pytest.mark.parametrize(("loss", "error"), [("cross-entropy", 1e-4), ("mse", 1e-4)])
def test_a_huge_penalty_costs_no_digits(rng, loss, error):
    # o* - p is 1/ρ of anything: as a difference of two numbers it would be their roundings.
    batch = a_batch(rng)
    targets = batch.targets if loss == "cross-entropy" else 100 + normal(rng, 12, OUTPUTS)
    changes = []
    for dtype in (torch.float32, torch.float64):
        model = a_model().to(dtype)
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        given = targets if loss == "cross-entropy" else targets.to(dtype)
        ADMM(model, loss, penalty=1e7).step(Batch(batch.inputs.to(dtype), given))
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        changes.append((after - before).double())
    assert (changes[0] - changes[1]).norm() < error * changes[1].norm()
