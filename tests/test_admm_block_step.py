"""What ADMM block by block promises: no block raises the Lagrangian, residuals say what they say.

Each block by itself, and the Lagrangian, are promised in test_admm_blocks.py.
"""

import itertools
import math

import pytest
import torch
from admm_cases import ADMM, FEATURES, OUTPUTS, a_batch, a_model, assert_same_weights, weights_of
from messages import naming
from torch.nn import functional

from rnnopt.admm import (
    block_step,
    gauss_newton,
    iterations,
    linearised_updates,
)
from rnnopt.admm.lagrangian import (
    Iterate,
    Multipliers,
    Problem,
    Variables,
    Weights,
    augmented_lagrangian,
    penalties,
)
from rnnopt.admm.network import read_weights
from rnnopt.tasks.examples import Batch

# -- blocks and paper, on one batch ---------------------------------------------------------------


def lagrangians_of(monkeypatch, batch, **options):
    """Of each of five iterations: L before every block of it and after the last one."""
    model = a_model()
    learner = ADMM(model, "cross-entropy", keep_batch=True, **options)
    values = []

    def watching(function):
        def watched(at, *given, **named):
            values[-1].append(float(augmented_lagrangian(at)))
            return function(at, *given, **named)

        return watched

    name = "paper_iteration" if options["variant"] == "paper" else "block_iteration"
    iterate = getattr(block_step, name)

    def watched_iteration(at, *rest):
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
                patch.setattr(iterations, each, watching(function))
            result = iterate(at, *rest)
        values[-1].append(float(augmented_lagrangian(result)))
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

    def watched(at, *rest, **named):
        sweeps.append(at.variables.state.clone())
        return keep(at, *rest, **named)

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
        dict(penalty_a=20.0, penalty_s=20.0, penalty_o=20.0, inner_penalty=20.0),
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
    at = Iterate(problem, read_weights(model)[0], Variables(a, s, o), kept, numbers)
    value = augmented_lagrangian(at)
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


@pytest.mark.full
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
    with pytest.raises(ValueError, match=naming("'blocks'", "'paper'", "tolerance", "variant")):
        ADMM(a_model(), "cross-entropy", **options).fit([a_batch(rng)], tolerance=0.1)


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

    def watched(at, *given, **named):
        weights = Weights(*(w.clone() for w in at.weights))  # the model's own change in place
        seen.append(((at._replace(weights=weights), *given), named))
        return keep(at, *given, **named)

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
    (_, weights, variables, _, numbers), limit = given
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
