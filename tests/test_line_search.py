"""What BFGS, LBFGS, NAQ and LNAQ promise: the textbook's steps, on the whole data.

They search a line with the closure and so have no streaming step; what they share with every other
optimizer is repeated here. Their stored pairs are those of test_curvature_memory.py.
"""

import copy
import math
import pickle

import plain_quasi_newton as twin
import pytest
import torch
from stepping import through_a_file

from rnnopt.optimizers.quasi_newton.bfgs import BFGS, LBFGS
from rnnopt.optimizers.quasi_newton.line_search import bfgs_update_
from rnnopt.optimizers.quasi_newton.naq import LNAQ, NAQ

CLASSES = [BFGS, LBFGS, NAQ, LNAQ]
SEARCHES = ["strong-wolfe", "armijo", "fixed"]
EVERY = pytest.mark.parametrize("optimizer_class", CLASSES)
EVERY_SEARCH = pytest.mark.parametrize("line_search", SEARCHES)


def quadratic(size=6):
    """Q with eigenvalues 1 … 10."""
    rng = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.linspace(1, 10, size, dtype=torch.float64)) @ basis.T


Q = quadratic()


def bowl(w):
    return w @ Q @ w / 2


def network(w):
    """Mean square error of b·tanh(A x) + c; w holds A, b and c, 9 numbers."""
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn(20, 3, generator=rng, dtype=torch.float64)
    targets = inputs.prod(dim=1).tanh() + 0.3 * inputs[:, 0]
    A, b, c = w[:6].view(2, 3), w[6:8], w[8]
    return ((inputs @ A.T).tanh() @ b + c - targets).square().mean()


def start(size=9):
    return torch.randn(size, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def gradient_of(loss):
    def gradient(w):
        w = w.detach().clone().requires_grad_()
        loss(w).backward()
        return w.grad

    return gradient


def as_params(w):
    """Three tensors of different shapes that together are w."""
    parts = [w[:4].view(2, 2), w[4:5].view(()), w[5:]]
    return [torch.nn.Parameter(part.clone()) for part in parts]


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


class Problem:
    """The closure of a loss of one vector, which notes where it was called and what it returned."""

    def __init__(self, params, loss):
        self.params, self.loss = params, loss
        self.asked_at, self.losses = [], []

    def __call__(self):
        assert torch.is_grad_enabled()
        for p in self.params:
            p.grad = None
        self.asked_at.append(flat(self.params))
        loss = self.loss(torch.cat([p.reshape(-1) for p in self.params]))
        loss.backward()
        self.losses.append(float(loss.detach()))
        return loss


def run(optimizer_class, loss, w, steps, **options):
    params = as_params(w)
    optimizer, problem = optimizer_class(params, **options), Problem(params, loss)
    for _ in range(steps):
        optimizer.step(problem)
    return optimizer, params, problem


def state_of(optimizer, params, name):
    return flat([optimizer.state[p][name] for p in params])


def matrix_of(optimizer, params):
    size = sum(p.numel() for p in params)
    parts = [optimizer.state[p]["inverse_hessian"].reshape(size, -1) for p in params]
    return torch.cat(parts, dim=1)


def pairs_of(optimizer, params):
    """S and Y, oldest first."""
    group = optimizer.param_groups[0]
    count, size = group["pairs"], group["memory"]
    oldest = group["next_pair"] if count == size else 0
    both = []
    for name in ("weight_changes", "gradient_changes"):
        rows = torch.cat([optimizer.state[p][name].reshape(size, -1) for p in params], dim=1)
        both.append(rows[:count].roll(-oldest, 0))
    return both


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


# -- the textbook ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("line_search", "halve"), [("fixed", 0), ("armijo", 20)])
@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [(BFGS, {}), (NAQ, dict(momentum=0.6)), (LBFGS, dict(memory=3)), (LBFGS, dict(memory=0)),
     (LBFGS, dict(memory=1)), (LNAQ, dict(memory=3, momentum=0.6)),
     (NAQ, dict(momentum=0.6, restart=False)), (NAQ, dict(momentum=0.9)),
     (LNAQ, dict(memory=3, momentum=0.6, restart=False))],
)  # fmt: skip
def test_every_step_is_the_plain_twins(optimizer_class, options, line_search, halve):
    lr = 0.3 if line_search == "fixed" else 1.0 if "momentum" in options else 3.0
    params = as_params(start())
    restart = options.get("restart", "momentum" in options) and line_search != "fixed"
    plain = twin.NAQ(start(), lr=lr, halve=halve, **options | dict(restart=restart))
    optimizer = optimizer_class(params, lr=lr, line_search=line_search, **options)
    problem = Problem(params, network)
    for _ in range(20):
        optimizer.step(problem)
        plain.step(network, gradient_of(network))
        close(flat(params), plain.w)
        close(state_of(optimizer, params, "velocity"), plain.v)
        assert optimizer.param_groups[0]["pairs"] == len(plain.S)
        if options.get("memory"):
            close(pairs_of(optimizer, params)[0], torch.stack(plain.S))
            close(pairs_of(optimizer, params)[1], torch.stack(plain.Y))
        elif "memory" not in options:
            close(matrix_of(optimizer, params), plain.matrix())
    assert optimizer.param_groups[0]["rejections"] == 0
    assert optimizer.param_groups[0]["restarts"] == plain.restarts
    assert (plain.restarts > 0) == restart
    assert network(plain.w) < 0.5 * network(start())


def test_the_update_is_the_dense_formula(rng):
    H = Q.inverse()
    s, y = torch.randn(2, 6, generator=rng, dtype=torch.float64)
    y *= torch.sign(s @ y)
    expected = twin.update_matrix(H, s, y)
    bfgs_update_(H, s, y)
    torch.testing.assert_close(H, expected)
    torch.testing.assert_close(H @ y, s)
    torch.testing.assert_close(H, H.T)


@pytest.mark.parametrize("line_search", ["strong-wolfe", "armijo"])
@EVERY
def test_a_quadratic_of_six_variables_takes_few_steps(optimizer_class, line_search):
    # Steepest descent gains at best (10-1)²/(10+1)² = 0.67 a step: 1e-5 after 28.
    options = dict(momentum=0.2) if optimizer_class in (NAQ, LNAQ) else {}
    _, params, _ = run(optimizer_class, bowl, start(6), 25, line_search=line_search, **options)
    assert bowl(flat(params)) < 1e-8 * bowl(start(6))


@pytest.mark.parametrize("line_search", ["strong-wolfe", "armijo"])
def test_the_matrix_becomes_the_inverse_hessian_of_a_quadratic(line_search):
    # Not exactly, as the line search is not exact: pairs of six independent directions fix it.
    optimizer, params, _ = run(BFGS, bowl, start(6), 18, line_search=line_search)
    H = matrix_of(optimizer, params)
    assert torch.linalg.eigvalsh((H + H.T) / 2).min() > 0
    torch.testing.assert_close(H, Q.inverse(), rtol=0.05, atol=0.02)


@EVERY_SEARCH
def test_limited_memory_is_bfgs_until_the_second_pair(line_search):
    # H0 is scaled by the first pair in BFGS, by the last in LBFGS: one pair is both.
    one, other = as_params(start()), as_params(start())
    first = BFGS(one, lr=0.5, line_search=line_search)
    second = LBFGS(other, lr=0.5, line_search=line_search)
    for step in range(3):
        first.step(Problem(one, network))
        second.step(Problem(other, network))
        if step < 2:
            close(flat(one), flat(other))
    assert not torch.allclose(flat(one), flat(other), rtol=1e-6)


@EVERY_SEARCH
@pytest.mark.parametrize(("ahead", "plain"), [(NAQ, BFGS), (LNAQ, LBFGS)])
def test_without_momentum_look_ahead_is_bfgs_to_the_bit(ahead, plain, line_search):
    options = dict(lr=0.5, line_search=line_search)
    _, one, first = run(ahead, network, start(), 15, momentum=0.0, **options)
    _, other, second = run(plain, network, start(), 15, **options)
    assert torch.equal(flat(one), flat(other))
    assert first.losses == second.losses


@EVERY_SEARCH
def test_pairs_are_changes_from_the_look_ahead_point(line_search):
    # s = w⁺ - (w + μ v), y = ∇E(w⁺) - ∇E(w + μ v); v⁺ = w⁺ - w.
    params = as_params(start())
    options = dict(momentum=0.7, memory=4, line_search=line_search, restart=False)
    optimizer = LNAQ(params, lr=0.5, **options)
    gradient, seen = gradient_of(network), []
    v = torch.zeros(9).double()
    for _ in range(7):
        w, problem = flat(params), Problem(params, network)
        optimizer.step(problem)
        x, after = w + 0.7 * v, flat(params)
        close(problem.asked_at[0], x)
        v = after - w
        close(state_of(optimizer, params, "velocity"), v)
        seen.append((after - x, gradient(after) - gradient(x)))
    S, Y = pairs_of(optimizer, params)
    assert len(S) == 4
    close(S, torch.stack([s for s, _ in seen[-4:]]))
    close(Y, torch.stack([y for _, y in seen[-4:]]))


@EVERY
@pytest.mark.parametrize("line_search", ["strong-wolfe", "armijo"])
def test_a_search_ends_below_the_loss_where_it_began(optimizer_class, line_search):
    params = as_params(start())
    optimizer = optimizer_class(params, line_search=line_search)
    previous = math.inf
    for _ in range(30):
        problem = Problem(params, network)
        returned = optimizer.step(problem)
        assert float(returned.detach()) == problem.losses[0]
        loss = float(network(flat(params)))
        assert loss <= problem.losses[0]
        if optimizer_class in (BFGS, LBFGS):
            assert problem.losses[0] == pytest.approx(previous) or previous == math.inf
            previous = loss


def test_the_first_step_is_at_most_as_long_as_the_rate_in_the_sum_of_its_entries():
    # ‖g‖₁ = 3 + 4: 1/7 of the gradient; a small gradient as it is.
    for size, expected in ((1.0, [3 - 3 / 7, -4 + 4 / 7]), (0.1, [0.27, -0.36])):
        weight = torch.nn.Parameter(torch.tensor([3.0, -4.0]).double() * size)
        optimizer = BFGS([weight], lr=1.0 if size == 1 else 0.1, line_search="fixed")
        optimizer.step(Problem([weight], lambda w: w @ w / 2))
        assert weight.tolist() == pytest.approx(expected)


# -- the line search -------------------------------------------------------------------------------


def test_armijo_halves_until_the_loss_falls_enough():
    # E = w²/2 from 1, d = -1: E(1 - α) ≤ ½ - 1e-4 α for α < 2 - 2e-4. Of 16, 8, …: 1.
    weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]).double())
    optimizer = BFGS([weight], lr=16.0, line_search="armijo")
    problem = Problem([weight], lambda w: w @ w / 2)
    optimizer.step(problem)
    assert [x[0].item() for x in problem.asked_at] == [1.0, -15.0, -7.0, -3.0, -1.0, 0.0]
    assert weight.tolist() == [0.0, 0.0]


def test_armijo_that_runs_out_keeps_the_last_length_it_tried():
    # α = 1.99995 lowers the loss, to 0.49995, but by less than 1e-4 α: no second try is allowed.
    weight = torch.nn.Parameter(torch.tensor([1.0]).double())
    optimizer = BFGS([weight], lr=1.99995, line_search="armijo", max_evaluations=1)
    problem = Problem([weight], lambda w: w @ w / 2)
    optimizer.step(problem)
    assert weight.tolist() == pytest.approx([-0.99995], abs=1e-12)
    assert torch.equal(flat([weight]), problem.asked_at[-1])
    # s·y = y·y on this quadratic, so H = 1.
    assert optimizer.state[weight]["inverse_hessian"].item() == pytest.approx(1.0)


@pytest.mark.parametrize("line_search", ["strong-wolfe", "armijo"])
def test_a_step_that_finds_no_lower_loss_goes_back_and_forgets(line_search):
    # The third step has one try, of length 1e3: back to w, not to w + μ v; then H = 1, v = 0.
    params = as_params(start())
    optimizer = NAQ(params, momentum=0.5, line_search=line_search)
    problem = Problem(params, network)
    for _ in range(2):
        optimizer.step(problem)
    before = flat(params)
    assert state_of(optimizer, params, "velocity").any()
    optimizer.param_groups[0].update(lr=1e3, max_evaluations=1)
    optimizer.step(problem)
    group = optimizer.param_groups[0]
    assert torch.equal(flat(params), before)
    assert (group["rejections"], group["skipped"], group["pairs"]) == (1, 0, 0)
    assert not state_of(optimizer, params, "velocity").any()
    optimizer.param_groups[0].update(lr=1.0, max_evaluations=20)
    optimizer.step(problem)
    gradient, moved = gradient_of(network)(before), flat(params) - before
    assert moved @ gradient == pytest.approx(-float(moved.norm() * gradient.norm()))


@pytest.mark.parametrize(
    ("line_search", "limit"),
    [(search, n) for search in ("strong-wolfe", "armijo") for n in (1, 2, 5)] + [("fixed", 20)],
)
@EVERY
def test_no_more_losses_are_asked_for_than_allowed(optimizer_class, line_search, limit):
    params = as_params(start())
    optimizer = optimizer_class(params, lr=30.0, line_search=line_search, max_evaluations=limit)
    counts = []
    for _ in range(12):
        problem = Problem(params, network)
        optimizer.step(problem)
        counts.append(len(problem.losses))
    if line_search == "fixed":
        assert counts == [2] * 12
    else:
        assert max(counts) <= 1 + limit  # one more for the gradient at the start
        assert min(counts) >= 2


def barrier(w):
    """Least at w = 1, not a number where an entry is negative."""
    return (w - w.log()).sum()


@EVERY_SEARCH
@EVERY
def test_regions_without_a_loss_are_survived(optimizer_class, line_search):
    # At w = 5 the gradient is 6 times 4/5: the first length, 100 / 4.8, leads to 5 - 16.7 < 0.
    params = as_params(5 * torch.ones(6).double())
    optimizer = optimizer_class(params, lr=100.0, line_search=line_search)
    optimizer.step(Problem(params, barrier))  # a search finds the way back within the step
    moved = barrier(flat(params)) < barrier(5 * torch.ones(6))
    assert moved == (line_search != "fixed")
    assert optimizer.param_groups[0]["rejections"] == (0 if moved else 1)
    for _ in range(60):
        optimizer.step(Problem(params, barrier))
        optimizer.param_groups[0]["lr"] = 1.0 if line_search != "fixed" else 0.1
        assert math.isfinite(barrier(flat(params)))
    if line_search == "fixed":
        assert optimizer.param_groups[0]["rejections"] >= 1
        assert barrier(flat(params)) < barrier(5 * torch.ones(6))
    else:
        close(flat(params), torch.ones(6).double())


@EVERY
def test_a_look_ahead_without_a_loss_is_skipped_and_the_momentum_lost(optimizer_class):
    params = as_params(start())
    optimizer = optimizer_class(params)
    for _ in range(3):
        optimizer.step(Problem(params, network))
    before = flat(params)
    for failing in (lambda w: network(w) * math.nan, lambda w: (w - w).sqrt().sum() + network(w)):
        problem = Problem(params, failing)  # no loss, and a loss whose gradient is none
        optimizer.step(problem)
        assert torch.equal(flat(params), before)
        assert len(problem.losses) == 1
        assert not state_of(optimizer, params, "velocity").any()
    group = optimizer.param_groups[0]
    assert (group["skipped"], group["rejections"], group["pairs"]) == (2, 0, 0)
    optimizer.step(Problem(params, network))
    assert network(flat(params)) < network(before)


def test_a_matrix_that_is_no_longer_positive_is_dropped():
    optimizer, params, problem = run(BFGS, network, start(), 3)
    for p in params:
        optimizer.state[p]["inverse_hessian"].neg_()
    before = flat(params)
    optimizer.step(problem)
    gradient, moved = gradient_of(network)(before), flat(params) - before
    assert moved @ gradient == pytest.approx(-float(moved.norm() * gradient.norm()))
    assert optimizer.param_groups[0]["pairs"] == 1


@EVERY
def test_pairs_need_curvature(optimizer_class):
    # Downhill on -w²/2: s·y = -s·s. And ε: s·y / y·y = 1/4 on 2 w².
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]).double())
    optimizer = optimizer_class([weight], lr=0.1, line_search="fixed")
    for _ in range(3):
        optimizer.step(Problem([weight], lambda w: -w @ w / 2))
    assert optimizer.param_groups[0]["pairs"] == 0
    for epsilon, pairs in ((0.26, 0), (0.24, 1)):
        options = dict(line_search="fixed", lr=0.1, curvature_epsilon=epsilon)
        optimizer = optimizer_class([weight], **options)
        optimizer.step(Problem([weight], lambda w: 2 * w @ w))
        assert optimizer.param_groups[0]["pairs"] == pairs


# -- gradients, closures and groups ----------------------------------------------------------------


@EVERY_SEARCH
@EVERY
def test_zero_gradients_move_nothing(optimizer_class, line_search):
    for steps in (0, 4):
        options = dict(lr=0.5, line_search=line_search)
        optimizer, params, _ = run(optimizer_class, network, start(), steps, **options)
        for p in params if steps else []:
            optimizer.state[p]["velocity"].zero_()
        before, counters = flat(params), dict(optimizer.param_groups[0])
        zero = Problem(params, lambda w: (w * 0).sum())
        for _ in range(3):
            optimizer.step(zero)
            assert torch.equal(flat(params), before)
        group = optimizer.param_groups[0]
        assert group | dict(loss=None) == counters | dict(loss=None)  # that of the other problem


@EVERY
def test_a_missing_gradient_counts_as_zero_and_a_frozen_weight_stays(optimizer_class):
    params = [torch.nn.Parameter(torch.ones(2).double()) for _ in range(3)]
    params[1].requires_grad_(False)
    optimizer = optimizer_class(params)

    def closure():
        optimizer.zero_grad()
        loss = (params[0] @ Q[:2, :2] @ params[0] + params[1].sum()) / 2
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    assert params[0].abs().max() < 1e-3
    assert params[1].tolist() == params[2].tolist() == [1.0, 1.0]
    assert params[1] not in optimizer.state


@EVERY_SEARCH
@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_closure_that_raises_leaves_the_weights(line_search, failing_call):
    optimizer, params, _ = run(NAQ, network, start(), 3, lr=0.5, line_search=line_search)
    before, problem = flat(params), Problem(params, network)

    def closure():
        if len(problem.losses) == failing_call - 1:
            raise RuntimeError("no more memory")
        return problem()

    with pytest.raises(RuntimeError, match="no more memory"):
        optimizer.step(closure)
    assert torch.equal(flat(params), before)


@EVERY
def test_a_step_needs_a_closure(optimizer_class):
    params = as_params(start())
    optimizer = optimizer_class(params)
    with pytest.raises(ValueError, match=f"{optimizer_class.__name__} needs step\\(closure\\)"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()  # creates the state, as torch's distributed checkpoints ask for
    assert all("velocity" in optimizer.state[p] for p in params)
    problem = Problem(params, network)
    with torch.no_grad():
        loss = optimizer.step(closure=problem)
    assert float(loss.detach()) == problem.losses[0]
    assert len(problem.losses) == 1
    assert torch.equal(flat(params), start())


@EVERY
def test_one_group_of_one_type_is_needed(optimizer_class):
    one, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2).double())
    with pytest.raises(ValueError, match=f"{optimizer_class.__name__} takes one group"):
        optimizer_class([dict(params=[one]), dict(params=[other])])
    with pytest.raises(ValueError, match=r"torch\.float32 on cpu, torch\.float64 on cpu"):
        optimizer_class([one, other])
    with pytest.raises(ValueError, match=r"torch\.float32 on cpu, torch\.float32 on meta"):
        optimizer_class([one, torch.nn.Parameter(torch.ones(2, device="meta"))])
    optimizer = optimizer_class([one])
    with pytest.raises(ValueError, match=f"{optimizer_class.__name__} takes one group"):
        optimizer.add_param_group(dict(params=[torch.nn.Parameter(torch.ones(1))]))
    assert len(optimizer.param_groups) == 1
    optimizer.step(lambda: one.sum())
    with pytest.raises(ValueError, match="complex"):
        optimizer_class([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))])


@EVERY
def test_half_precision_goes_with_single_and_a_frozen_weight_with_any(optimizer_class):
    one = torch.nn.Parameter(torch.ones(2))
    half = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    frozen = torch.nn.Parameter(torch.ones(2).double(), requires_grad=False)
    optimizer = optimizer_class([one, half, frozen])

    def closure():
        optimizer.zero_grad()
        loss = one.square().sum() + half.float().square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4
    assert float(closure().detach()) < 4
    frozen.requires_grad_(True)
    with pytest.raises(ValueError, match="one type"):
        optimizer.step(closure)


@EVERY
def test_sparse_gradients_are_refused_before_anything_moves(optimizer_class):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_class([weight])

    def closure():
        weight.grad = torch.ones(3).to_sparse()
        return torch.zeros(())

    with pytest.raises(ValueError, match="sparse"):
        optimizer.step(closure)
    assert weight.tolist() == [1.0] * 3


WRONG = [
    ("lr", -0.1), ("lr", math.nan), ("lr", "fast"), ("line_search", "wolfe"),
    ("max_evaluations", 0), ("max_evaluations", 2.0), ("curvature_epsilon", -1.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer_class", "name", "value"),
    [(c, *pair) for c in CLASSES for pair in WRONG]
    + [(c, "momentum", value) for c in (NAQ, LNAQ) for value in (-0.1, 1.0, math.nan)]
    + [(c, "restart", value) for c in (NAQ, LNAQ) for value in ("gradient", None, 1)]
    + [(c, "memory", value) for c in (LBFGS, LNAQ) for value in (-1, 2.5, True)],
)
def test_an_option_outside_its_range_is_named_with_its_value(optimizer_class, name, value):
    with pytest.raises(ValueError, match=name) as error:
        optimizer_class([torch.nn.Parameter(torch.ones(2))], **{name: value})
    assert f"{name}={value!r}" in str(error.value)


# -- restart ---------------------------------------------------------------------------------------


FAR = [1.3, 0.7, 0.8, 1.9, 1.2]


def rosenbrock(w):
    return (100 * (w[1:] - w[:-1].square()).square() + (1 - w[:-1]).square()).sum()


@pytest.mark.parametrize("line_search", ["strong-wolfe", "armijo"])
@pytest.mark.parametrize("optimizer_class", [NAQ, LNAQ])
@pytest.mark.parametrize(
    ("loss", "w"),
    [(bowl, [1.0] * 6), (rosenbrock, FAR), (rosenbrock, [0.0] * 5)],
    ids=["quadratic", "rosenbrock", "rosenbrock from zero"],
)
def test_the_momentum_does_not_carry_weights_out_of_a_minimum(
    optimizer_class, line_search, loss, w
):
    params = as_params(torch.tensor(w).double())
    optimizer, problem = optimizer_class(params, line_search=line_search), Problem(params, loss)
    losses = [float(loss(flat(params)))]
    for _ in range(200):
        optimizer.step(problem)
        losses.append(float(loss(flat(params))))
        assert losses[-1] <= losses[-2]
    assert losses[-1] < losses[0]
    assert gradient_of(loss)(flat(params)).norm() < 1e-5
    assert optimizer.param_groups[0]["restarts"] > 0


@pytest.mark.parametrize(("optimizer_class", "w"), [(NAQ, [0.0] * 5), (LNAQ, FAR)])
def test_without_a_restart_the_momentum_does(optimizer_class, w):
    options = dict(line_search="armijo", restart=False)
    w = torch.tensor(w).double()
    _, _, problem = run(optimizer_class, rosenbrock, w, 200, **options)
    best = min(problem.losses)
    assert max(problem.losses[problem.losses.index(best) :]) > 1e6 * best


def test_weights_moved_by_others_cost_one_step_at_most():
    # The loss that is remembered is that of weights which are no longer there.
    optimizer, params, problem = run(NAQ, network, start(), 10)
    assert optimizer.param_groups[0]["loss"] is not None
    with torch.no_grad():
        for p in params:
            p.mul_(3)
    moved = network(flat(params))
    for _ in range(3):
        optimizer.step(problem)
    assert network(flat(params)) < moved


# -- checkpoints and copies ------------------------------------------------------------------------


def same(one, other):
    """Equality to the bit of nested containers."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def options_of(optimizer_class):
    return dict(memory=3) if optimizer_class in (LBFGS, LNAQ) else {}


@EVERY
def test_a_run_resumes_to_the_bit_after_every_step(optimizer_class):
    options = options_of(optimizer_class)
    expected, params, _ = run(optimizer_class, network, start(), 10, **options)
    final = [flat(params), copy.deepcopy(expected.state_dict())]
    for phase in range(10):
        optimizer, params, _ = run(optimizer_class, network, start(), phase, **options)
        saved = through_a_file([flat(params), optimizer.state_dict()])
        params = as_params(saved[0])
        optimizer = optimizer_class(params, lr=0.7, **options)
        optimizer.load_state_dict(saved[1])
        for _ in range(phase, 10):
            optimizer.step(Problem(params, network))
        assert same([flat(params), optimizer.state_dict()], final)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@EVERY
def test_a_copy_goes_on_as_the_original_does(optimizer_class, copier):
    optimizer, params, _ = run(optimizer_class, network, start(), 5, **options_of(optimizer_class))
    other_params, other = copier((params, optimizer))
    for _ in range(4):
        optimizer.step(Problem(params, network))
        other.step(Problem(other_params, network))
        assert torch.equal(flat(params), flat(other_params))
    assert same(other.state_dict(), optimizer.state_dict())
