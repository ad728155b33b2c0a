"""What ADMM's blocks promise: exact ones end stationary and no higher, linearised ones lower.

L is written down here a second time, in loops over steps; everything else is judged by it or by a
numeric minimiser. The order of the blocks and the trainer are promised elsewhere.
"""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from rnnopt.admm import block_updates as blocks
from rnnopt.admm import lagrangian, weight_updates
from rnnopt.admm import linearised_updates as linearised
from rnnopt.admm import prox as scalar_problem
from rnnopt.admm.lagrangian import Iterate, Multipliers, Penalties, Problem, Variables, Weights

STEPS, BATCH, FEATURES, HIDDEN, OUTPUTS = 4, 5, 3, 6, 4
CASES = list(
    itertools.product(
        ("tanh", "relu", "identity"),
        ("squared_error", "cross_entropy"),
        (1, STEPS),  # steps with a loss, the last ones
        ("last", "all", "none"),  # steps with multipliers
        (1, STEPS),  # steps
    )
)
CASES = [case for case in CASES if case[4] == STEPS or (case[2] == 1 and case[3] != "last")]


def normal(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def draw(rng, nonlinearity="tanh", loss="cross_entropy", scored=1, where="all", steps=STEPS):
    """A problem and a point far from feasible; all penalties different."""
    target = normal(rng, scored, BATCH, OUTPUTS)
    problem = Problem(
        normal(rng, steps, BATCH, FEATURES),
        target if loss == "squared_error" else target.argmax(-1),
        0.3 * normal(rng, BATCH, HIDDEN),
        nonlinearity,
        loss,
        torch.rand(scored, BATCH, generator=rng, dtype=torch.float64) + 0.5,
        recurrent_decay=0.7,
    )
    weights = Weights(
        normal(rng, HIDDEN, FEATURES),
        0.5 * normal(rng, HIDDEN, HIDDEN),
        normal(rng, HIDDEN),
        normal(rng, OUTPUTS, HIDDEN),
        normal(rng, OUTPUTS),
    )
    shapes = [(steps, HIDDEN), (steps, HIDDEN), (scored, OUTPUTS)]
    variables = Variables(*(normal(rng, n, BATCH, width) for n, width in shapes))
    multipliers = Multipliers()
    if where != "none":
        kept = [(1 if where == "last" else n, width) for n, width in shapes]
        multipliers = Multipliers(*(normal(rng, n, BATCH, width) for n, width in kept))
    numbers = (torch.rand(3, steps, generator=rng, dtype=torch.float64) * 3 + 0.2).tolist()
    return Iterate(problem, weights, variables, multipliers, Penalties(*numbers))


def f(nonlinearity, a):
    return {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda x: x}[nonlinearity](a)


def plain_lagrangian(problem, weights, variables, multipliers, penalties):
    """L step by step, after reference/algorithms.md 3.1."""
    u, w, b, v, c = weights
    a, s, o = variables
    steps, scored = len(a), len(o)
    value = problem.recurrent_decay / 2 * (w**2).sum()

    def add(residual, multiplier, penalty, t, count):
        late = t - (steps - count) if multiplier is None else t - (steps - len(multiplier))
        found = penalty[t] / 2 * (residual**2).sum()
        if multiplier is not None and late >= 0:
            found = found + (multiplier[late] * residual).sum()
        return found

    for t in range(steps):
        before = problem.initial_state if t == 0 else s[t - 1]
        ra = a[t] - problem.inputs[t] @ u.T - before @ w.T - b
        rs = s[t] - f(problem.nonlinearity, a[t])
        value = value + add(ra, multipliers.preactivation, penalties.preactivation, t, steps)
        value = value + add(rs, multipliers.state, penalties.state, t, steps)
        i = t - (steps - scored)
        if i >= 0:
            ro = o[i] - s[t] @ v.T - c
            value = value + add(ro, multipliers.output, penalties.output, t, scored)
            for n in range(BATCH):
                if problem.loss == "squared_error":
                    loss = ((o[i, n] - problem.targets[i, n]) ** 2).sum() / 2
                else:
                    loss = functional.cross_entropy(o[i, n], problem.targets[i, n])
                value = value + problem.loss_weight[i, n] * loss
    return value


def gradient(point, name):
    """Of L in one field of the weights or variables, and its size had nothing cancelled."""
    problem, weights, variables, multipliers, penalties = point
    owner = weights if name in Weights._fields and name not in ("state",) else variables
    leaf = getattr(owner, name).clone().requires_grad_()
    changed = owner._replace(**{name: leaf})
    weights = changed if owner is weights else weights
    variables = changed if owner is variables else variables
    value = plain_lagrangian(problem, weights, variables, multipliers, penalties)
    return torch.autograd.grad(value, leaf)[0]


def value_of(point):
    return lagrangian.augmented_lagrangian(point)


def with_weights(point, weights):
    return point._replace(weights=weights)


def with_variable(point, **changed):
    return point._replace(variables=point.variables._replace(**changed))


def output_gradient(point):
    """∂L/∂o; `output` is the name of a weight, too."""
    problem, weights, variables, multipliers, penalties = point
    leaf = variables.output.clone().requires_grad_()
    variables = variables._replace(output=leaf)
    value = plain_lagrangian(problem, weights, variables, multipliers, penalties)
    return torch.autograd.grad(value, leaf)[0]


def exact_recurrent(point, proximal_weight=0.0):
    problem, weights, variables, multipliers, penalties = point
    equations = weight_updates.recurrent_equations(problem, variables, multipliers, penalties)
    new = weight_updates.solve_recurrent_weights(
        equations, weights, proximal_weight, problem.recurrent_decay
    )
    return with_weights(point, new)


def exact_output(point, proximal_weight=0.0):
    equations = weight_updates.output_equations(*point[2:])
    return with_weights(
        point, weight_updates.solve_output_weights(equations, point[1], proximal_weight)
    )


# -- the Lagrangian ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lagrangian_and_residuals_are_those_written_step_by_step(case, rng):
    point = draw(rng, *case)
    value = value_of(point)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, plain_lagrangian(*point))
    # With λ = 0, no decay and no loss L is half the squared residuals, weighted.
    problem, weights, variables, _, penalties = point
    bare = problem._replace(recurrent_decay=0.0, loss_weight=torch.tensor(0.0))
    residuals = lagrangian.residuals(problem, weights, variables)
    half = sum(
        (lagrangian.per_step(n, r) * r**2).sum() / 2
        for n, r in zip(penalties, residuals, strict=True)
    )
    torch.testing.assert_close(value_of((bare, weights, variables, Multipliers(), penalties)), half)


def test_single_precision_is_summed_in_double(rng):
    point = draw(rng)
    single = cast(point, torch.float32)
    assert value_of(single).dtype == torch.float64
    torch.testing.assert_close(value_of(single), value_of(point), rtol=1e-6, atol=0)


def cast(value, dtype):
    """Every floating tensor of a point in another precision."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        parts = [cast(part, dtype) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


@pytest.mark.parametrize("where", ["last", "all", "none"])
def test_multiplier_step_adds_penalty_times_residual(where, rng):
    problem, weights, variables, multipliers, penalties = draw(rng, scored=STEPS, where=where)
    residuals = lagrangian.residuals(problem, weights, variables)
    found = lagrangian.multiplier_step(multipliers, residuals, penalties)
    for new, old, residual, numbers in zip(found, multipliers, residuals, penalties, strict=True):
        if where == "none":
            assert new is None
        else:
            first = STEPS - len(old)
            for i in range(len(old)):
                expected = old[i] + numbers[first + i] * residual[first + i]
                torch.testing.assert_close(new[i], expected)


# -- exact blocks: zero gradient, L no higher ----------------------------------------------------


def check_minimum(before, after, *gradients, scale=100.0):
    for found in gradients:
        assert found.abs().max() < 1e-10 * scale
    assert value_of(after) <= value_of(before) + 1e-12 * abs(value_of(before))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weight_blocks_are_stationary_and_lower_the_lagrangian(case, rng):
    # 20 rows, or 5 at one step, against 10 unknowns: there only r makes the system regular.
    steps = case[4]
    point = draw(rng, *case)
    for r in (0.0, 0.5):
        if steps == 1 and r == 0.0:
            continue
        after = exact_recurrent(point, r)
        names = ("input", "recurrent", "bias")
        slopes = [
            gradient(after, name) + r * (getattr(after[1], name) - getattr(point[1], name))
            for name in names
        ]
        check_minimum(point, after, *slopes)
        assert all(getattr(after[1], n) is getattr(point[1], n) for n in ("output", "output_bias"))
    after = exact_output(point, 0.5)
    slopes = [
        gradient(after, name) + 0.5 * (getattr(after[1], name) - getattr(point[1], name))
        for name in ("output", "output_bias")
    ]
    check_minimum(point, after, *slopes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_variable_blocks_are_stationary_and_lower_the_lagrangian(case, rng):
    point = draw(rng, *case)
    after = with_variable(point, state=blocks.update_state(point))
    check_minimum(point, after, gradient(after, "state"))
    after = with_variable(point, output=blocks.update_output(point))
    check_minimum(point, after, output_gradient(after))
    a = blocks.update_preactivation(point)
    after = with_variable(point, preactivation=a)
    slope = gradient(after, "preactivation")
    if case[0] == "relu":  # at a = 0 φ has a kink: the slopes at its sides differ in sign
        slope = slope[a != 0]
    check_minimum(point, after, slope)


@pytest.mark.parametrize("where", ["last", "all", "none"])
@pytest.mark.parametrize("scored", [1, STEPS])
def test_one_step_alone_is_the_same_step_of_all(where, scored, rng):
    point = draw(rng, scored=scored, where=where)
    problem, weights, _, _, penalties = point
    drive = lagrangian.input_drive(problem, weights)
    factors = blocks.factor_states(weights, penalties, scored)
    for update in (blocks.update_preactivation, blocks.update_state):
        together = update(point)
        for t in range(STEPS):
            alone = update(point, steps=slice(t, t + 1), drive=drive)
            torch.testing.assert_close(alone, together[t : t + 1])
        torch.testing.assert_close(update(point, steps=slice(1, 3)), together[1:3])
    torch.testing.assert_close(
        blocks.update_state(point, factors=factors), blocks.update_state(point)
    )
    weight = linearised.state_limits(*point[1:3], penalties, True)
    for update, r in (
        (linearised.linearised_state, weight),
        (linearised.linearised_preactivation, 9.0),
    ):
        together = update(point, proximal_weight=r)
        alone = [update(point, proximal_weight=r, steps=slice(t, t + 1)) for t in range(STEPS)]
        torch.testing.assert_close(torch.cat(alone), together)


def test_steps_with_a_stride_are_refused(rng):
    with pytest.raises(ValueError, match="consecutive"):
        blocks.update_state(draw(rng), steps=slice(0, 4, 2))


def test_states_of_equal_penalties_share_three_factors(rng):
    _, weights, _, _, _ = draw(rng)
    factors = blocks.factor_states(weights, lagrangian.penalties(9, (1.0, 2.0, 3.0), 0.1), scored=1)
    assert len({id(factor) for factor in factors}) == 3
    assert len({id(factor) for factor in factors[:7]}) == 1


def test_without_coupling_the_state_feels_no_later_step(rng):
    # s_t (σ + τ vᵀv [𝒪]) = σ f(a_t) - λ2_t + …: for t < T the mean of nothing else but f(a_t).
    problem, weights, variables, multipliers, penalties = draw(rng, where="all")
    point = (problem, weights, variables, multipliers, penalties)
    state = blocks.update_state(point, coupling=False)
    for t in range(STEPS - 1):
        expected = variables.preactivation[t].tanh() - multipliers.state[t] / penalties.state[t]
        torch.testing.assert_close(state[t], expected)
    torch.testing.assert_close(state[-1], blocks.update_state(point)[-1])


def test_recurrent_equations_see_the_initial_state(rng):
    point = draw(rng, steps=1)
    moved = point._replace(problem=point[0]._replace(initial_state=point[0].initial_state + 1))
    one = weight_updates.recurrent_equations(point[0], *point[2:]).matrix
    other = weight_updates.recurrent_equations(moved[0], *moved[2:]).matrix
    assert (one - other)[FEATURES:-1].abs().min() > 0


# -- weights -------------------------------------------------------------------------------------


def test_one_step_with_identity_is_ridge_regression(rng):
    # T = 1, f = identity, s_0 = 0, λ = 0, α = 1: minimise ½‖a - X uᵀ - b‖² + r/2 ‖(u, b)‖² from 0.
    problem, weights, variables, multipliers, _ = draw(rng, "identity", where="none", steps=1)
    problem = problem._replace(initial_state=torch.zeros(BATCH, HIDDEN).double())
    weights = Weights(*(torch.zeros_like(w) for w in weights))
    penalties = lagrangian.penalties(1)
    equations = weight_updates.recurrent_equations(problem, variables, multipliers, penalties)
    found = weight_updates.solve_recurrent_weights(equations, weights, proximal_weight=0.3)
    rows = torch.cat([problem.inputs[0], torch.ones(BATCH, 1)], dim=1)
    ridge = torch.cat([rows, math.sqrt(0.3) * torch.eye(FEATURES + 1)])
    goal = torch.cat([variables.preactivation[0], torch.zeros(FEATURES + 1, HIDDEN)])
    expected = torch.linalg.lstsq(ridge, goal).solution
    torch.testing.assert_close(found.input, expected[:-1].T)
    torch.testing.assert_close(found.bias, expected[-1])
    assert found.recurrent.abs().max() == 0


def test_equations_of_two_shards_add_up_to_those_of_the_batch(rng):
    problem, _, variables, multipliers, penalties = draw(rng, scored=STEPS)

    def shard(rows):
        part = problem._replace(
            inputs=problem.inputs[:, rows], initial_state=problem.initial_state[rows]
        )
        values = Variables(*(x[:, rows] for x in variables))
        lambdas = Multipliers(*(x[:, rows] for x in multipliers))
        return (
            weight_updates.recurrent_equations(part, values, lambdas, penalties),
            weight_updates.output_equations(values, lambdas, penalties),
        )

    for whole, one, two in zip(
        shard(slice(None)), shard(slice(2)), shard(slice(2, None)), strict=True
    ):
        torch.testing.assert_close(one.matrix + two.matrix, whole.matrix)
        torch.testing.assert_close(one.right + two.right, whole.right)


def test_singular_equations_keep_what_the_data_do_not_say(rng):
    # An input that is always zero: its column of u can only stay; L must still reach its minimum.
    point = draw(rng, where="none")
    problem = point[0]._replace(recurrent_decay=0.0)
    problem.inputs[:, :, 1] = 0
    point = point._replace(problem=problem)
    after = exact_recurrent(point, proximal_weight=0.0)
    torch.testing.assert_close(after[1].input[:, 1], point[1].input[:, 1])
    check_minimum(point, after, gradient(after, "input"), scale=1e4)


def test_a_matrix_that_no_small_number_repairs_has_no_factor():
    assert weight_updates.cholesky(torch.diag(torch.tensor([1.0, -0.5]))).isnan().all()


def test_equations_that_are_not_finite_give_weights_that_are_not(rng):
    point = draw(rng)
    point[2].preactivation[0, 0, 0] = torch.inf
    assert not exact_recurrent(point)[1].input.isfinite().all()
    point[2].state[0, 0, 0] = torch.nan
    assert not exact_recurrent(point)[1].input.isfinite().all()


# -- the pre-activation's scalar problem ---------------------------------------------------------


def objective(nonlinearity, a, p, q, ratio):
    return (a - p) ** 2 / 2 + ratio / 2 * (q - f(nonlinearity, a)) ** 2


def lowest_on_a_grid(nonlinearity, p, q, ratio, count=4001):
    """Least objective near the best of many points; the minimum lies between p and f⁻¹ or so."""
    reach = 2 + abs(p) + abs(q) if nonlinearity != "tanh" else 12 + abs(p)
    a = torch.linspace(-float(reach), float(reach), count, dtype=torch.float64)
    a = torch.cat([a, p + torch.linspace(-1, 1, count, dtype=torch.float64)])
    if nonlinearity == "tanh":
        a = torch.cat([a, torch.linspace(-1, 1, count, dtype=torch.float64)[1:-1].atanh()])
    spacing = max(2 * reach / (count - 1), 1e-3)
    for _ in range(8):
        best = a[objective(nonlinearity, a, p, q, ratio).argmin()]
        a = best + spacing * torch.linspace(-1, 1, 201, dtype=torch.float64)
        spacing /= 50
    return objective(nonlinearity, a, p, q, ratio).min()


def check_scalar(nonlinearity, p, q, ratio):
    p, q = torch.tensor([p], dtype=torch.float64), torch.tensor([q], dtype=torch.float64)
    a = scalar_problem.minimise(nonlinearity, p, q, ratio)
    best = lowest_on_a_grid(nonlinearity, p[0], q[0], ratio)
    assert objective(nonlinearity, a, p, q, ratio) <= best * (1 + 1e-9) + 1e-14
    return a


RATIOS = st.floats(-6, 6).map(lambda exponent: 10**exponent)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@given(p=st.floats(-30, 30), q=st.floats(-3, 3), ratio=RATIOS)
def test_no_grid_point_beats_the_scalar_minimiser(nonlinearity, p, q, ratio):
    check_scalar(nonlinearity, p, q, ratio)


def stationary_points(p, q, ratio):
    """Sign changes of g on a fine grid in tanh a."""
    a = torch.linspace(-1, 1, 200001, dtype=torch.float64)[1:-1].atanh()
    g = a - p - ratio * (q - a.tanh()) / a.cosh() ** 2
    return int((g[1:].sign() != g[:-1].sign()).sum())


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize(
    ("p", "q", "ratio"),
    [(-3.0, 0.5, 4.0), (-3.0, 0.5, 10.0), (-2.5, 0.0, 5.0), (-5.0, 1.5, 20.0), (-3.0, -0.5, 20.0)],
)
def test_the_better_of_two_minima_is_found(p, q, ratio, mirror):
    p, q = mirror * p, mirror * q
    assert stationary_points(p, q, ratio) == 3
    check_scalar("tanh", p, q, ratio)


def test_two_equal_minima_divide_left_from_right():
    # At q = 0 and p = -P both wells exist for κ = 5; the right one wins as p grows. The switch is
    # bracketed by bisection on the plain objective; either side of it the winner must follow.
    q, ratio = 0.0, 5.0
    p = torch.linspace(-2.6, -1.9, 701, dtype=torch.float64)
    a = scalar_problem.minimise("tanh", p, torch.full_like(p, q), ratio)
    grid = torch.linspace(-4, 0, 8001, dtype=torch.float64)
    best = objective("tanh", grid[:, None], p, q, ratio).min(0).values
    assert (objective("tanh", a, p, q, ratio) <= best + 1e-12).all()
    assert (a.diff() > -1e-9).all()  # the minimiser grows with p, with one jump
    assert a.diff().max() > 0.5


def cusp(h):
    """(p, q, κ) with a triple root at tanh a = h: g = g' = g'' = 0."""
    q = (12 * h**3 - 8 * h) / (6 * h**2 - 2)
    ratio = 1 / ((3 * h**2 - 2 * q * h - 1) * (1 - h**2))
    return math.atanh(h) - ratio * (q - h) * (1 - h**2), q, ratio


@pytest.mark.parametrize("h", [-0.62, -0.7, -0.8, -0.86, -0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_vanishes_at_and_around_a_triple_root(h, dtype):
    p, q, ratio = cusp(h)
    off = torch.cat([s * torch.logspace(-15, -1, 57, dtype=torch.float64) for s in (-1, 1)])
    p = (p + off).to(dtype).double()
    q = torch.full_like(p, q).to(dtype).double()
    a = scalar_problem.minimise("tanh", p.to(dtype), q.to(dtype), ratio).double()
    g = a - p - ratio * (q - a.tanh()) / a.cosh() ** 2
    assert g.abs().max() < 3 * torch.finfo(dtype).eps ** 0.75 * max(1, ratio)


def test_stationarity_over_twelve_decades(rng):
    # g's own rounding: one unit in the last place of p and of κ (q - tanh a) f'.
    for ratio in (1e-6, 1e-3, 0.5, 1.0, 3.0, 30.0, 1e4, 1e6):
        p = normal(rng, 3000) * 10 ** (3 * normal(rng, 3000).clamp(-2, 2))
        q = normal(rng, 3000) * 10 ** (normal(rng, 3000).clamp(-3, 3))
        a = scalar_problem.minimise("tanh", p, q, ratio)
        slope = 1 / a.cosh() ** 2
        g = a - p - ratio * (q - a.tanh()) * slope
        rounding = p.abs() + a.abs() + ratio * slope * (1 + q.abs())
        assert (g.abs() <= 1e-13 * rounding + 1e-300).all()
        curvature = 1 + ratio * slope * (slope + 2 * (q - a.tanh()) * a.tanh())
        assert curvature.min() > 0


def test_single_precision_agrees_with_double(rng):
    for ratio in (1e-6, 0.1, 1.0, 5.0, 1e3, 1e6):
        p = 4 * normal(rng, 20000).float()
        q = 1.5 * normal(rng, 20000).float()
        found = scalar_problem.minimise("tanh", p, q, ratio)
        assert found.dtype == torch.float32
        exact = scalar_problem.minimise("tanh", p.double(), q.double(), ratio)
        excess = objective("tanh", found.double(), p.double(), q.double(), ratio) - objective(
            "tanh", exact, p.double(), q.double(), ratio
        )
        assert (excess <= 1e-6 * (1e-2 + objective("tanh", exact, p, q, ratio))).all()
        error = (found - exact).abs() / (1 + exact.abs())
        assert error.quantile(0.999) < 1e-6  # the rest: two nearly equal or nearly merged minima


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_numbers_stay_finite(dtype):
    values = [0.0, -0.0, 1.0, -1.0, 1e-30, 8.0, -8.0, 50.0, -50.0, 1e12, -1e12]
    grid = torch.tensor(list(itertools.product(values, values)), dtype=dtype)
    p, q = grid.unbind(1)
    for ratio in (0.0, 1e-6, 1.0, 1e6):
        a = scalar_problem.minimise("tanh", p, q, ratio)
        assert a.isfinite().all()
        torch.testing.assert_close(
            a.abs() + 1, scalar_problem.minimise("tanh", -p, -q, ratio).abs() + 1
        )
        if ratio == 0:
            torch.testing.assert_close(a, p)
        # tanh' < 1e-80 there: nothing can move it
        assert (a[p.abs() > 1e3] == p[p.abs() > 1e3]).all()


def test_small_numbers_keep_their_relative_accuracy():
    # κ = 1, tanh a = a to 1e-24 of itself: a = (p + q)/2.
    p, q = torch.tensor([3e-12, -1e-12]), torch.tensor([1e-12, 5e-12])
    a = scalar_problem.minimise("tanh", p, q, 1.0)
    torch.testing.assert_close(a, torch.tensor([2e-12, 2e-12]), rtol=1e-5, atol=0)


def test_relu_takes_the_lower_of_its_two_branches():
    # κ = 1. p = 1, q = 3: (1 + 3)/2 = 2. p = -1, q = 1: off costs ½, on at 0 costs ½ + ½.
    # p = -1, q = 4: off costs 8, on at 1.5 costs 3.125 + 3.125. p = 1, q = -5: off at 0.
    p, q = torch.tensor([1.0, -1.0, -1.0, 1.0]), torch.tensor([3.0, 1.0, 4.0, -5.0])
    found = scalar_problem.minimise("relu", p, q, 1.0)
    torch.testing.assert_close(found, torch.tensor([2.0, -1.0, 1.5, 0.0]))


def test_chunks_on_a_cpu_change_nothing(rng, monkeypatch):
    p, q = normal(rng, 3, 50, 7), normal(rng, 3, 50, 7)
    whole = scalar_problem.minimise("tanh", p, q, 6.0)
    monkeypatch.setattr(scalar_problem, "CHUNK", 100)
    torch.testing.assert_close(scalar_problem.minimise("tanh", p, q, 6.0), whole)


def test_what_the_cpu_gathers_other_devices_compute_everywhere(rng):
    # The branch without gathering, on the CPU: left of the turn they must agree.
    p, q = 3 * normal(rng, 4000), normal(rng, 4000)
    a = scalar_problem.minimise("tanh", p, q, 6.0)
    sign, p, q, height = scalar_problem._upright(p, q)
    lowest = (q - (q**2 + 3).sqrt()) / 3
    high = scalar_problem._farthest(p, q, height, 6.0)
    left = height < lowest
    assert 100 < left.sum() < 3900
    everywhere = torch.where(
        left,
        scalar_problem._left_of_turn(p, q, lowest, high, 6.0),
        scalar_problem._right_of_turn(p, q, p, high, 6.0),
    )
    torch.testing.assert_close(everywhere * sign, a)


@pytest.mark.parametrize(
    "function",
    [
        lambda: scalar_problem.apply("sigmoid", torch.zeros(1)),
        lambda: scalar_problem.minimise("sigmoid", torch.zeros(1), torch.zeros(1), 1.0),
        lambda: scalar_problem.loss_value("hinge", torch.zeros(1, 1, 1), torch.zeros(1, 1), 1.0),
        lambda: scalar_problem.nearest_output(
            "hinge", torch.zeros(1), torch.zeros(1), torch.ones(1), 1.0
        ),
    ],
)
def test_unknown_names_are_refused(function):
    with pytest.raises(ValueError, match="must be one of .* got '(sigmoid|hinge)'"):
        function()


# -- the output's problem ------------------------------------------------------------------------


def nearest(loss, p, y, tau, weight=1.0):
    return scalar_problem.nearest_output(loss, p, y, torch.tensor(tau, dtype=p.dtype), weight)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("tau", [1e-4, 0.03, 0.3, 1.0, 2.0, 3.3, 100.0])
@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_nearest_output_is_where_a_numeric_minimiser_ends(loss, tau, weight, rng):
    p = 3 * normal(rng, 2, 3, 5)
    y = normal(rng, 2, 3, 5) if loss == "squared_error" else torch.randint(5, (2, 3), generator=rng)
    found = nearest(loss, p, y, tau, weight)
    o = p.clone().requires_grad_()
    rounds = torch.optim.LBFGS(
        [o], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def value():
        rounds.zero_grad()
        result = weight * plain_loss(loss, o, y) + tau / 2 * ((o - p) ** 2).sum()
        result.backward()
        return result

    rounds.step(value)
    numeric = value().item()
    with torch.no_grad():
        ours = weight * plain_loss(loss, found, y) + tau / 2 * ((found - p) ** 2).sum()
    assert ours <= numeric + 1e-9
    leaf = found.clone().requires_grad_()
    slope = torch.autograd.grad(weight * plain_loss(loss, leaf, y), leaf)[0] + tau * (found - p)
    assert slope.abs().max() < 1e-10
    if loss == "cross_entropy":
        torch.testing.assert_close(found.sum(-1), p.sum(-1), rtol=1e-9, atol=1e-9)


def plain_loss(loss, o, y):
    if loss == "squared_error":
        return ((o - y) ** 2).sum() / 2
    return functional.cross_entropy(o.flatten(0, 1), y.flatten(), reduction="sum")


def test_nearest_output_by_hand():
    # ½(o - 4)² + ½·3 (o - 0)²: o = 4/4 = 1. Two classes, p = 0, τ → ∞: o = p + (e_y - ½)/τ.
    o = nearest("squared_error", torch.zeros(1, 1, 1).double(), torch.full((1, 1, 1), 4.0), 3.0)
    torch.testing.assert_close(o, torch.ones(1, 1, 1).double())
    o = nearest("cross_entropy", torch.zeros(1, 1, 2).double(), torch.tensor([[1]]), 1e6)
    expected = torch.tensor([[[-5e-7, 5e-7]]], dtype=torch.float64)
    torch.testing.assert_close(o, expected, rtol=1e-5, atol=0)


def test_nearest_output_survives_many_classes_no_weight_and_large_logits(rng):
    p = normal(rng, 1, 4, 3000)
    y = torch.randint(3000, (1, 4), generator=rng)
    for tau in (1e-4, 1.0, 2.0, 1e4):
        for anchor in (p, 200 * p):
            o = nearest("cross_entropy", anchor, y, tau)
            slope = o.softmax(-1) - functional.one_hot(y, 3000) + tau * (o - anchor)
            assert slope.abs().max() < 1e-9 * max(1, tau)
    torch.testing.assert_close(nearest("cross_entropy", p, y, 1.0, torch.zeros(1, 4)), p)
    torch.testing.assert_close(nearest("squared_error", p, p + 1, 1.0, torch.zeros(1, 4)), p)
    for tau in (1e-4, 3.0, 1e12):
        single = nearest("cross_entropy", p.float(), y, tau)
        double = nearest("cross_entropy", p, y, tau).float()
        torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-5)
    assert torch.equal(nearest("cross_entropy", p.float(), y, 1e200), p.float())


def test_wright_omega_solves_its_equation():
    x = torch.cat([torch.linspace(-690, 1000, 4001), torch.linspace(-3, 3, 601)]).double()
    w = scalar_problem.wright_omega(x)
    torch.testing.assert_close(w + w.log(), x, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(
        scalar_problem.wright_omega(torch.tensor([1.0, -1e4]).double()),
        torch.tensor([1.0, 0.0]).double(),
    )


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("where", ["last", "all"])
def test_after_the_output_and_multiplier_steps_lambda_is_minus_the_loss_gradient(loss, where, rng):
    point = draw(rng, "tanh", loss, STEPS, where)
    problem, weights, variables, multipliers, penalties = point
    o = blocks.update_output(point)
    residuals = lagrangian.residuals(problem, weights, variables._replace(output=o))
    found = lagrangian.multiplier_step(multipliers, residuals, penalties).output
    leaf = o.clone().requires_grad_()
    loss = scalar_problem.loss_value(loss, leaf, problem.targets, problem.loss_weight)
    slope = torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(found, -slope[STEPS - len(found) :], rtol=1e-9, atol=1e-11)


# -- optimality ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scored", [1, STEPS])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "identity", "relu"])
def test_a_trained_network_is_a_fixed_point_with_the_adjoints_as_multipliers(
    nonlinearity, loss, scored, rng
):
    # reference/algorithms.md 3.7: at a feasible point -λ are the adjoints of back-propagation, and
    # with them a, s and o stay where they are and ∂loss/∂u = -Σ λ1ᵀx, ∂w = -Σ λ1ᵀs_{t-1}, ∂v alike.
    problem, weights, _, _, penalties = draw(rng, nonlinearity, loss, scored)
    problem = problem._replace(recurrent_decay=0.0)
    leaves = Weights(*(w.clone().requires_grad_() for w in weights))
    s, a_list, s_list = problem.initial_state, [], []
    for x in problem.inputs:
        a_list.append(x @ leaves.input.T + s @ leaves.recurrent.T + leaves.bias)
        s = f(nonlinearity, a_list[-1]) + 0.0
        s_list.append(s)
    outputs = [s @ leaves.output.T + leaves.output_bias for s in s_list[STEPS - scored :]]
    total = scalar_problem.loss_value(
        loss, torch.stack(outputs), problem.targets, problem.loss_weight
    )
    every = torch.autograd.grad(total, [*a_list, *s_list, *outputs, *leaves])
    split = STEPS, 2 * STEPS, 2 * STEPS + scored
    adjoints = [every[: split[0]], every[split[0] : split[1]], every[split[1] : split[2]]]
    multipliers = Multipliers(*(-torch.stack(x) for x in adjoints))
    variables = Variables(*(torch.stack(x).detach() for x in (a_list, s_list, outputs)))
    point = (problem, weights, variables, multipliers, penalties)

    def same(found, expected):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    for residual in lagrangian.residuals(problem, weights, variables):
        assert residual.abs().max() < 1e-13
    of = dict(zip(Weights._fields, every[split[2] :], strict=True))
    before = lagrangian.previous_states(problem, variables.state)
    same(of["input"], -torch.einsum("tbh,tbd->hd", multipliers.preactivation, problem.inputs))
    same(of["recurrent"], -torch.einsum("tbh,tbk->hk", multipliers.preactivation, before))
    same(of["bias"], -multipliers.preactivation.sum((0, 1)))
    scored_states = variables.state[STEPS - scored :]
    same(of["output"], -torch.einsum("tbc,tbh->ch", multipliers.output, scored_states))
    for name in Weights._fields:
        same(gradient(point, name), of[name])
    same(gradient(point, "state"), torch.zeros_like(variables.state))
    same(gradient(point, "preactivation"), torch.zeros_like(variables.state))
    same(output_gradient(point), torch.zeros_like(variables.output))
    same(blocks.update_state(point), variables.state)
    same(blocks.update_output(point), variables.output)
    same(linearised.linearised_state(point, proximal_weight=3.0), variables.state)


# -- linearised blocks ---------------------------------------------------------------------------


@torch.no_grad()
def limits(problem, weights, variables, penalties, coupling=True):
    """The least R of each linearised update."""
    return SimpleNamespace(
        input=linearised.input_limit(problem, penalties),
        recurrent=linearised.recurrent_limit(problem, variables, penalties),
        output=linearised.output_limit(variables, penalties),
        state=linearised.state_limits(weights, variables, penalties, coupling),
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linearised_blocks_lower_the_lagrangian_when_their_weight_dominates(case, rng):
    point = draw(rng, *case)
    r = limits(*point[:3], point[4])
    start = value_of(point)
    for name, update, weight in (
        ("input", linearised.linearised_input, r.input),
        ("recurrent", linearised.linearised_recurrent, r.recurrent),
        ("output", linearised.linearised_output, r.output),
    ):
        new = update(point, proximal_weight=weight)
        after = with_weights(point, point[1]._replace(**{name: new}))
        assert value_of(after) < start
        # The step solves R (new - old) + ∂L(old) (+ ω (new - old) for w) = 0.
        inertia = weight + (point[0].recurrent_decay if name == "recurrent" else 0)
        step = inertia * (new - getattr(point[1], name))
        torch.testing.assert_close(step, -gradient(point, name))
    state = linearised.linearised_state(point, proximal_weight=r.state)
    assert value_of(with_variable(point, state=state)) < start
    large = 1.3 * max(point[4].preactivation)
    a = linearised.linearised_preactivation(point, proximal_weight=large)
    assert value_of(with_variable(point, preactivation=a)) < start


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bias_updates_are_exact(case, rng):
    point = draw(rng, *case)
    for name, update in (
        ("bias", linearised.update_bias),
        ("output_bias", linearised.update_output_bias),
    ):
        after = with_weights(point, point[1]._replace(**{name: update(point)}))
        check_minimum(point, after, gradient(after, name))


def test_linearised_state_and_preactivation_minimise_their_models(rng):
    # s: R (s - s_old) + the old slope of L + σ (s - s_old) = 0; a with R = α is the exact block.
    point = draw(rng, scored=STEPS, where="last")
    variables, penalties = point[2], point[4]
    r = torch.linspace(1, 2, STEPS).double()
    new = linearised.linearised_state(point, proximal_weight=r)
    sigma = torch.tensor(penalties.state, dtype=torch.float64)[:, None, None]
    slope = gradient(point, "state") + (r[:, None, None] + sigma) * (new - variables.state)
    assert slope.abs().max() < 1e-10
    equal = penalties._replace(preactivation=[1.5] * STEPS)
    found = linearised.linearised_preactivation(
        point._replace(penalties=equal), proximal_weight=1.5
    )
    torch.testing.assert_close(found, blocks.update_preactivation(point._replace(penalties=equal)))


def test_switches_give_the_papers_formulas(rng):
    point = draw(rng, scored=1, where="all")
    problem, weights, variables, multipliers, penalties = point
    r, residuals = 5.0, lagrangian.residuals(problem, weights, variables)
    a, s, _ = variables
    found = linearised.linearised_preactivation(point, proximal_weight=r, identity_for_tanh=True)
    for t in range(STEPS):
        pull = (
            penalties.preactivation[t] * residuals.preactivation[t] + multipliers.preactivation[t]
        )
        sigma = penalties.state[t]
        q = s[t] + multipliers.state[t] / sigma
        torch.testing.assert_close(found[t], (r * (a[t] - pull / r) + sigma * q) / (r + sigma))
    found = linearised.linearised_state(point, proximal_weight=r, coupling=False)
    for t in range(STEPS):
        sigma = penalties.state[t]
        top = r * s[t] + sigma * a[t].tanh() - multipliers.state[t]
        if t == STEPS - 1:
            pull = penalties.output[t] * residuals.output[0] + multipliers.output[0]
            top = top + pull @ weights.output
        torch.testing.assert_close(found[t], top / (r + sigma))
    relu = point._replace(problem=problem._replace(nonlinearity="relu"))
    with pytest.raises(ValueError, match="got 'relu'"):
        linearised.linearised_preactivation(relu, proximal_weight=r, identity_for_tanh=True)


@pytest.mark.parametrize("coupling", [True, False])
def test_proximal_weights_bound_the_curvature_tightly(coupling, rng):
    problem, weights, variables, _, penalties = draw(rng, scored=1)
    found = limits(problem, weights, variables, penalties, coupling)
    before = lagrangian.previous_states(problem, variables.state)
    pairs = [(problem.inputs, found.input), (before, found.recurrent)]
    for rows, bound in pairs:
        numbers = penalties.preactivation
        matrix = sum(n * x.T @ x for n, x in zip(numbers, rows, strict=True))
        check_bound(matrix, bound)
    last = variables.state[-1]
    check_bound(penalties.output[-1] * last.T @ last, found.output)
    for t in range(STEPS):
        matrix = torch.zeros(HIDDEN, HIDDEN).double()
        if t == STEPS - 1:
            matrix = penalties.output[t] * weights.output.T @ weights.output
        elif coupling:
            matrix = penalties.preactivation[t + 1] * weights.recurrent.T @ weights.recurrent
        check_bound(matrix, found.state[t])


def check_bound(matrix, bound):
    largest = torch.linalg.eigvalsh(matrix)[-1]
    assert largest * (1 - 1e-12) <= bound <= 1.05 * largest + 1e-300


def test_largest_eigenvalue_of_hard_matrices():
    cases = [torch.eye(300), torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 0.999, 0.0]))]
    for scale in (1e-100, 1.0, 1e100):
        for matrix in cases:
            check_bound(
                scale * matrix.double(), linearised.largest_eigenvalue(scale * matrix.double())
            )


# -- everything ----------------------------------------------------------------------------------


def every_update(point):
    """All results in a dict, those with samples in dimension 1 apart."""
    problem, weights, variables, multipliers, penalties = point
    r = limits(*point[:3], penalties)
    per_sample = dict(
        state=blocks.update_state(point),
        preactivation=blocks.update_preactivation(point),
        output=blocks.update_output(point),
        linear_state=linearised.linearised_state(point, proximal_weight=r.state),
        linear_preactivation=linearised.linearised_preactivation(point, proximal_weight=4.0),
    )
    residuals = lagrangian.residuals(problem, weights, variables)
    stepped = lagrangian.multiplier_step(
        multipliers, Variables(*(x.detach() for x in residuals)), penalties
    )
    per_sample |= {f"multiplier {i}": m for i, m in enumerate(stepped)}
    shared = dict(
        recurrent=torch.cat([w.flatten() for w in exact_recurrent(point, 0.1)[1][:3]]),
        output=torch.cat([w.flatten() for w in exact_output(point, 0.1)[1][3:]]),
        linear_input=linearised.linearised_input(point, proximal_weight=r.input),
        linear_recurrent=linearised.linearised_recurrent(point, proximal_weight=r.recurrent),
        linear_output=linearised.linearised_output(point, proximal_weight=r.output),
        bias=linearised.update_bias(point),
        output_bias=linearised.update_output_bias(point),
        curvature=torch.cat([x.flatten() for x in vars(r).values()]),
    )
    return per_sample, shared


def test_results_do_not_depend_on_the_order_of_samples(rng):
    point = draw(rng, scored=STEPS)
    order = torch.randperm(BATCH, generator=rng)
    problem = point[0]._replace(
        inputs=point[0].inputs[:, order],
        targets=point[0].targets[:, order],
        initial_state=point[0].initial_state[order],
        loss_weight=point[0].loss_weight[:, order],
    )
    variables = Variables(*(x[:, order] for x in point[2]))
    multipliers = Multipliers(*(x[:, order] for x in point[3]))
    shuffled = Iterate(problem, point[1], variables, multipliers, point[4])
    per_sample, shared = every_update(point)
    of_shuffled, shared_of_shuffled = every_update(shuffled)
    torch.testing.assert_close({k: x[:, order] for k, x in per_sample.items()}, of_shuffled)
    torch.testing.assert_close(shared, shared_of_shuffled)


def test_nothing_requires_grad_and_no_argument_changes(rng):
    point = draw(rng, scored=STEPS)
    parameters = Weights(*(torch.nn.Parameter(w) for w in point[1]))
    point = with_weights(point, parameters)
    tensors = [x for part in point[:4] for x in part if isinstance(x, torch.Tensor)]
    before = [x.detach().clone() for x in tensors]
    per_sample, shared = every_update(point)
    assert not any(x.requires_grad for x in (per_sample | shared).values())
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))
    assert all(w.grad is None for w in parameters)
    memory = {x.data_ptr() for x in tensors}
    assert not any(x.data_ptr() in memory for x in (per_sample | shared).values())


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_every_update_keeps_single_precision_and_agrees_with_double(loss, rng):
    point = draw(rng, "tanh", loss, scored=STEPS)
    single = every_update(cast(point, torch.float32))
    for found, expected in zip(single, every_update(point), strict=True):
        for name, value in found.items():
            assert value.dtype == (torch.float64 if name == "curvature" else torch.float32)
            torch.testing.assert_close(
                value.double(),
                expected[name],
                rtol=1e-4,
                atol=1e-4,
                msg=lambda m, n=name: f"{n}: {m}",
            )


def test_penalties_by_hand_and_their_errors():
    assert lagrangian.penalties(3, (1.0, 2.0, 3.0), 0.1) == (
        (0.1, 0.1, 1.0),
        (0.1, 0.1, 2.0),
        (0.1, 0.1, 3.0),
    )
    assert lagrangian.penalties(1, (1.0, 2.0, 3.0), 0.1).output == (3.0,)
    for bad in (dict(steps=0), dict(steps=2, inner=0.0), dict(steps=2, last=(1.0, -1.0, 1.0))):
        with pytest.raises(ValueError, match="got steps="):
            lagrangian.penalties(**bad)
