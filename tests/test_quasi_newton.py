"""What ASNAQ and AdaQN promise: the steps of their plain twins, and what their docstrings say.

What every optimizer promises is in test_every_optimizer.py, the products with stored pairs and
gradients in test_curvature_memory.py, the methods with a line search in test_line_search.py.
"""

import copy
import math
import pickle

import plain_quasi_newton as twin
import pytest
import torch
from stepping import apart, through_a_file

from rnnopt.optimizers.quasi_newton import adaqn, asnaq
from rnnopt.optimizers.quasi_newton.options import PRESETS, AdaQNOptions, ASNAQOptions


class ASNAQ(asnaq.ASNAQ):
    """With both gradients, as in the paper, unless a test says otherwise; options one by one."""

    def __init__(self, params, **options):
        super().__init__(params, **apart(ASNAQOptions, dict(second_gradient=True) | options))


class AdaQN(adaqn.AdaQN):
    """With options one by one."""

    def __init__(self, params, **options):
        super().__init__(params, **apart(AdaQNOptions, options))


SIZES = [(2, 3), (2,), ()]  # of the weights of the network below, 9 numbers
BOTH = pytest.mark.parametrize("optimizer_class", [ASNAQ, AdaQN])


# -- a small network, as a function of one vector --------------------------------------------------


def batch(k):
    rng = torch.Generator().manual_seed(1000 + k)
    inputs = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    return inputs, inputs.prod(dim=1).tanh() + 0.3 * inputs[:, 0]


def network_loss(w, k):
    """Mean square error of b·tanh(A x) + c on minibatch k."""
    inputs, targets = batch(k)
    A, b, c = w[:6].view(2, 3), w[6:8], w[8]
    return ((inputs @ A.T).tanh() @ b + c - targets).square().mean()


def gradient_of(loss):
    def gradient(w):
        w = w.detach().clone().requires_grad_()
        loss(w).backward()
        return w.grad

    return gradient


def start(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(9, generator=rng, dtype=torch.float64)


def as_params(w, sizes=None):
    """Weights of several shapes, together the vector w."""
    sizes = SIZES if sizes is None else sizes
    parts = w.split([math.prod(shape) for shape in sizes])
    return [torch.nn.Parameter(p.view(s).clone()) for p, s in zip(parts, sizes, strict=True)]


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


class Problem:
    """Closure and monitor of a loss of one vector, for weights that together are the vector."""

    def __init__(self, params, loss):
        self.params, self.loss = params, loss
        self.calls, self.monitored = 0, 0
        self.asked_at = []

    def closure(self):
        self.calls += 1
        for p in self.params:
            p.grad = None
        self.asked_at.append(flat(self.params))
        loss = self.loss(torch.cat([p.reshape(-1) for p in self.params]))
        loss.backward()
        return loss

    def monitor(self):
        self.monitored += 1
        with torch.no_grad():
            return self.loss(flat(self.params))


def state_of(optimizer, params, name):
    return flat([optimizer.state[p][name] for p in params])


def memory_of(optimizer, params, name):
    """Rows of a ring, oldest first, each over all weights."""
    group = optimizer.param_groups[0]
    stored, following, size = {
        "gradient_history": ("gradients", "next_gradient", "fisher_memory"),
    }.get(name, ("pairs", "next_pair", "memory"))
    count = group[stored]
    if count == 0:
        return torch.empty(0)
    parts = [optimizer.state[p][name].reshape(group[size], -1) for p in params]
    oldest = group[following] if count == group[size] else 0
    return torch.cat(parts, dim=1)[:count].roll(-oldest, 0)


def assert_like_twin(optimizer, params, plain):
    group = optimizer.param_groups[0]
    counted = dict(
        count=plain.count, averages=plain.t, rejections=plain.rejections, skipped=plain.skipped,
        pairs=len(plain.S), gradients=len(plain.F),
    )  # fmt: skip
    assert {name: group[name] for name in counted} == counted
    vectors = dict(weight_sum=plain.w_s, anchor=plain.w_o)
    if isinstance(optimizer, ASNAQ):
        assert group["current_momentum"] == plain.μ
        vectors |= dict(velocity=plain.v, velocity_sum=plain.v_s, anchor_velocity=plain.v_o)
    if group["scaling"] == "history":
        vectors["squares"] = plain.G
    close(flat(params), plain.w)
    for name, vector in vectors.items():
        close(state_of(optimizer, params, name), vector)
    memories = dict(weight_changes=plain.S, gradient_changes=plain.Y, gradient_history=plain.F)
    for name, rows in memories.items():
        if rows:
            close(memory_of(optimizer, params, name), torch.stack(rows))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


# -- the plain twin --------------------------------------------------------------------------------

SMALL = dict(memory=3, fisher_memory=7, update_every=3, tolerance=1.0)
ONE_CHANGE = [
    {},
    dict(scaling="window"),
    dict(average_of="after"),
    dict(anchor_moves="on_pair"),
    dict(anchor_moves="on_pair", curvature_epsilon=0.5),
    dict(fisher_mean=False),
    dict(error_control=False),
    dict(memory=0),
    dict(memory=1),
    dict(fisher_memory=0),
    dict(fisher_memory=1),
    dict(update_every=1),
    dict(tolerance=1.5),
    dict(curvature_epsilon=0.5),
    dict(scaling_epsilon=0.3),
    dict(weight_decay=0.5),
    dict(scaling="window", anchor_moves="on_pair", average_of="after"),
]
ASNAQ_CHANGE = [
    dict(normalize=False),
    dict(lookahead=False),
    dict(second_gradient=False),
    dict(momentum_range=(0.0, 0.0)),
    dict(momentum_range=(0.5, 0.55), momentum_factor=1.3),
    dict(curvature="difference"),
    dict(curvature="difference", lookahead=False),
]


def named(options):
    return ",".join(f"{k}={v}" for k, v in options.items()) or "default"


@pytest.mark.parametrize("options", ONE_CHANGE + ASNAQ_CHANGE, ids=named)
def test_asnaq_is_its_twin_step_by_step(options):
    options = dict(lr=0.15, momentum_range=(0.3, 0.9)) | SMALL | options
    params = as_params(start())
    optimizer, plain = ASNAQ(params, **options), twin.ASNAQ(start(), **options)
    for k in range(45):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        optimizer.step(problem.closure, problem.monitor)
        plain.step(problem.loss, gradient_of(problem.loss))
        assert_like_twin(optimizer, params, plain)
    if options.get("error_control", True):
        assert plain.rejections > 0
    assert plain.t > 3


@pytest.mark.parametrize("preset", PRESETS)
def test_asnaq_is_its_twin_with_both_presets(preset):
    # At their own sizes but for m_F and m_L, which would not wrap within 60 steps.
    options = dict(**PRESETS[preset], lr=0.2, memory=2, fisher_memory=11)
    del options["fisher_dtype"]  # which the twin does not have
    params = as_params(start(3))
    optimizer, plain = ASNAQ(params, **options), twin.ASNAQ(start(3), **options)
    for k in range(60):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        optimizer.step(problem.closure, problem.monitor)
        plain.step(problem.loss, gradient_of(problem.loss))
        assert_like_twin(optimizer, params, plain)
    assert plain.rejections > 0
    assert len(plain.S) > 0


def test_the_presets_are_those_of_the_paper_and_of_the_authors_code():
    # Section IV of the paper; and what _minimize_adaNAQ does otherwise.
    shared = dict(
        update_every=5, momentum_range=(0.1, 0.99), normalize=True, lookahead=True,
        second_gradient=True, error_control=True, curvature="fisher",
    )  # fmt: skip
    paper = dict(
        momentum_factor=1.1, scaling="history", average_of="before", anchor_moves="always",
        fisher_mean=True,
    )  # fmt: skip
    authors = dict(
        momentum_factor=1.01, scaling="window", average_of="after", anchor_moves="on_pair",
        fisher_mean=False,
    )  # fmt: skip
    assert set(PRESETS) == {"paper", "authors_code"}
    for name, wanted in (("paper", shared | paper), ("authors_code", shared | authors)):
        weight = torch.nn.Parameter(torch.ones(2))
        group = asnaq.ASNAQ([weight], options=PRESETS[name]).param_groups[0]
        wanted |= dict(memory=10, fisher_memory=100, tolerance=1.01)
        assert {name: group[name] for name in wanted} == wanted
    group = asnaq.ASNAQ([torch.nn.Parameter(torch.ones(2))]).param_groups[0]
    ours = dict(**PRESETS["paper"]) | dict(second_gradient=False, update_every=20)
    assert {name: group[name] for name in ours} == ours
    assert group["lr"] == 0.03


@BOTH
def test_what_it_prints_of_itself_fits_a_screen(optimizer_class):
    params = as_params(start())
    optimizer = optimizer_class(params, **SMALL)
    for k in range(12):
        optimizer.step(Problem(params, lambda w, k=k: network_loss(w, k)).closure)
    assert optimizer.param_groups[0]["pair_products"] is not None
    text = repr(optimizer)
    assert "pair_products" not in text
    assert "tolerance: 1.0" in text
    assert max(map(len, text.splitlines())) < 60


@pytest.mark.parametrize("options", ONE_CHANGE + [dict(normalize=True)], ids=named)
def test_adaqn_is_its_twin_step_by_step(options):
    options = dict(lr=0.3) | SMALL | options
    params = as_params(start())
    optimizer, plain = AdaQN(params, **options), twin.AdaQN(start(), **options)
    for k in range(45):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        fixed = Problem(params, lambda w: network_loss(w, -1))
        optimizer.step(problem.closure, fixed.monitor)
        plain.step(fixed.loss, gradient_of(problem.loss))
        assert_like_twin(optimizer, params, plain)
    assert plain.t > 3


def test_a_streaming_step_has_no_difference_of_gradients_to_keep():
    params = as_params(start())
    optimizer = ASNAQ(params, lr=0.05, curvature="difference", **SMALL)
    for k in range(10):
        Problem(params, lambda w, k=k: network_loss(w, k)).closure()
        optimizer.step()
    assert optimizer.param_groups[0]["pairs"] == 0


@pytest.mark.parametrize("options", [{}, dict(average_of="after")])
def test_a_streaming_step_is_the_twins_without_look_ahead_and_loss_test(options):
    options = dict(lr=0.05) | SMALL | options
    params = as_params(start())
    optimizer, plain = ASNAQ(params, **options), twin.ASNAQ(start(), **options)
    for k in range(40):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        problem.closure()
        optimizer.step()
        plain.streaming_step(gradient_of(problem.loss)(plain.w))
        assert_like_twin(optimizer, params, plain)
    assert len(plain.S) == 3


# -- reductions ------------------------------------------------------------------------------------


def test_without_pairs_and_normalisation_it_is_adagrad_with_nesterov_momentum():
    # v ← μ v - α g(w + μ v) / √(Σ g⁺² + ε), w ← w + v, g⁺ = g(w); the first step undivided.
    μ, α, ε = 0.6, 0.05, 1e-4
    params, w = as_params(start()), start()
    optimizer = ASNAQ(
        params, lr=α, memory=0, momentum_range=(μ, μ), normalize=False, error_control=False
    )
    v, squares = torch.zeros(9).double(), torch.zeros(9).double()
    for k in range(40):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        optimizer.step(problem.closure)
        gradient = gradient_of(problem.loss)
        v = μ * v - α * gradient(w + μ * v) * (1 / (squares + ε).sqrt() if k else 1)
        w = w + v
        squares += gradient(w).square()
        close(flat(params), w)


def test_adaqn_without_pairs_is_adagrad():
    # torch adds its eps outside the root; an initial sum is inside, where ours is.
    params, others = as_params(start()), as_params(start())
    optimizer = AdaQN(params, lr=0.1, memory=0, error_control=False)
    adagrad = torch.optim.Adagrad(others, lr=0.1, initial_accumulator_value=1e-4, eps=0)
    for k in range(40):
        for each, chosen in ((params, optimizer), (others, adagrad)):
            chosen.step(Problem(each, lambda w, k=k: network_loss(w, k)).closure)
        close(flat(params), flat(others))


@BOTH
def test_no_pairs_are_found_without_gradients_and_none_kept_without_memory(optimizer_class):
    runs = []
    for options in (dict(memory=0, fisher_memory=7), dict(memory=3, fisher_memory=0)):
        params = as_params(start())
        optimizer = optimizer_class(params, lr=0.1, **options)
        for k in range(20):
            problem = Problem(params, lambda w, k=k: network_loss(w, k))
            optimizer.step(problem.closure, problem.monitor)
        assert optimizer.param_groups[0]["pairs"] == 0
        runs.append(flat(params))
    assert torch.equal(*runs)


def quadratic(size=6):
    rng = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.linspace(1, 4, size, dtype=torch.float64)) @ basis.T


def test_differences_of_exact_gradients_are_the_quadratics_curvature():
    # y = Q w⁺ - Q (w + μ v) + s = (Q + I) s, since w⁺ = w + μ v + s.
    Q = quadratic()
    params = as_params(torch.ones(6).double(), [(2, 2), (2,)])
    optimizer = ASNAQ(params, lr=0.1, memory=4, curvature="difference", momentum_range=(0.5, 0.5))
    problem = Problem(params, lambda w: w @ Q @ w / 2)
    for _ in range(11):
        optimizer.step(problem.closure, problem.monitor)
    S = memory_of(optimizer, params, "weight_changes")
    Y = memory_of(optimizer, params, "gradient_changes")
    assert len(S) == 4
    torch.testing.assert_close(Y, S @ Q + S)
    assert S.norm(dim=1).tolist() == pytest.approx([0.1] * 4)  # normalised directions, lr 0.1


def test_differences_without_momentum_are_limited_memory_bfgs_without_line_search():
    # Of the curvature Q + I, on the diagonal 1/√(Σ g⁺² + ε), which is 1 before the first g⁺.
    Q, w, S, Y = quadratic(), torch.ones(6).double(), [], []
    squares = None
    params = as_params(w, [(6,)])
    optimizer = ASNAQ(
        params, lr=0.3, memory=3, curvature="difference", normalize=False,
        momentum_range=(0.0, 0.0), error_control=False,
    )  # fmt: skip
    problem = Problem(params, lambda w: w @ Q @ w / 2)
    for _ in range(25):
        optimizer.step(problem.closure)
        scale = torch.ones(6).double() if squares is None else (squares + 1e-4).rsqrt()
        s = -0.3 * twin.two_loops(Q @ w, S, Y, scale)
        w, S, Y = w + s, (S + [s])[-3:], (Y + [Q @ s + s])[-3:]
        squares = (Q @ w).square() + (0 if squares is None else squares)
        close(flat(params), w)
    assert w.norm() < 0.1


# -- the step --------------------------------------------------------------------------------------


def test_the_gradients_are_taken_ahead_and_at_the_new_weights():
    params = as_params(start())
    optimizer = ASNAQ(params, lr=0.1, momentum_range=(0.4, 0.4))
    for k in range(8):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        before = flat(params)
        v = state_of(optimizer, params, "velocity") if k else torch.zeros(9).double()
        loss = optimizer.step(problem.closure, problem.monitor)
        close(problem.asked_at[0], before + 0.4 * v)
        assert torch.equal(problem.asked_at[1], flat(params))
        assert float(loss.detach()) == float(network_loss(problem.asked_at[0], k))


def test_a_step_is_never_longer_than_the_rate_and_the_momentum_allow():
    # ‖v‖ ≤ α (1 + μ + μ² + …) = α / (1 - μ) = 0.5.
    params = as_params(start())
    optimizer = ASNAQ(params, lr=0.1, momentum_range=(0.8, 0.8), error_control=False)
    lengths = []
    for k in range(30):
        problem, before = Problem(params, lambda w, k=k: network_loss(w, k)), flat(params)
        optimizer.step(problem.closure)
        lengths.append(float((flat(params) - before).norm()))
    assert lengths[0] == pytest.approx(0.1)
    assert max(lengths) <= 0.5


@pytest.mark.parametrize(
    ("optimizer_class", "options", "gradients"),
    [(ASNAQ, {}, 2), (ASNAQ, dict(second_gradient=False), 1), (AdaQN, {}, 1)],
)
def test_losses_are_asked_for_twice_every_l_steps_from_the_second_average_on(
    optimizer_class, options, gradients
):
    # L = 3: averages at steps 3, 6, 9; the first has none to compare with.
    for with_monitor in (True, False):
        params = as_params(start())
        optimizer = optimizer_class(params, lr=0.01, update_every=3, **options)
        calls = []
        for k in range(9):
            problem = Problem(params, lambda w, k=k: network_loss(w, k))
            optimizer.step(problem.closure, problem.monitor if with_monitor else None)
            calls.append((problem.calls, problem.monitored))
        often = (gradients, 2) if with_monitor else (gradients + 2, 0)
        usual = (gradients, 0)
        assert calls == [usual] * 5 + [often] + [usual] * 2 + [often]
    params = as_params(start())
    optimizer = optimizer_class(params, update_every=3, error_control=False, **options)
    problem = Problem(params, lambda w: network_loss(w, 0))
    for _ in range(9):
        optimizer.step(problem.closure, problem.monitor)
    assert (problem.calls, problem.monitored) == (9 * gradients, 0)


@BOTH
@pytest.mark.parametrize("average_of", ["before", "after"])
def test_the_first_average_is_that_of_the_first_l_iterates(optimizer_class, average_of):
    params = as_params(start())
    optimizer = optimizer_class(params, lr=0.1, update_every=4, average_of=average_of)
    iterates = [flat(params)]
    for k in range(8):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        optimizer.step(problem.closure, lambda: torch.zeros(()))
        iterates.append(flat(params))
        anchor = state_of(optimizer, params, "anchor")
        first = 0 if average_of == "before" else 1
        if k < 3:
            assert torch.equal(anchor, iterates[0])
            assert optimizer.param_groups[0]["averages"] == 0
        elif k < 7:
            close(anchor, torch.stack(iterates[first : first + 4]).mean(dim=0))
            assert optimizer.param_groups[0]["averages"] == 1
        else:
            close(anchor, torch.stack(iterates[first + 4 : first + 8]).mean(dim=0))


@BOTH
@pytest.mark.parametrize(("epsilon", "pairs"), [(0.024, 1), (0.026, 0)])
@pytest.mark.parametrize("anchor_moves", ["always", "on_pair"])
def test_a_pair_needs_enough_curvature(optimizer_class, epsilon, pairs, anchor_moves):
    # All gradients are g = (2, 6), so y = g (g·s) and s·y / y·y = 1 / g·g = 1/40 = 0.025.
    params = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))]
    options = dict(update_every=2, curvature_epsilon=epsilon, anchor_moves=anchor_moves)
    optimizer = optimizer_class(params, **options)
    problem = Problem(params, lambda w: 2 * w[0] + 6 * w[1])
    anchors = []
    for _ in range(4):
        optimizer.step(problem.closure, lambda: torch.zeros(()))
        anchors.append(state_of(optimizer, params, "anchor"))
    assert optimizer.param_groups[0]["pairs"] == pairs
    assert optimizer.param_groups[0]["averages"] == 2
    assert torch.equal(anchors[3], anchors[1]) == (anchor_moves == "on_pair" and not pairs)


# -- rejections ------------------------------------------------------------------------------------


def run_until_the_test(optimizer_class, **options):
    """An optimizer one step short of its third average, with pairs, gradients and momentum."""
    options = dict(lr=0.05, memory=3, fisher_memory=7, update_every=5) | options
    params = as_params(start())
    optimizer = optimizer_class(params, **options)
    for k in range(14):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        optimizer.step(problem.closure, lambda: torch.zeros(()))
    assert optimizer.param_groups[0]["pairs"] == 1
    assert optimizer.param_groups[0]["gradients"] == 7
    return optimizer, params, Problem(params, lambda w: network_loss(w, 14))


def snapshot(optimizer, params):
    return [flat(params), copy.deepcopy(optimizer.state_dict())]


@BOTH
@pytest.mark.parametrize(
    ("losses", "accepted"),
    [
        ((1.0, 1.0), True),
        ((1.0, 2.0), True),
        ((1.009, 1.0), True),  # γ = 1.01
        ((1.011, 1.0), False),
        ((-1.0, -1.0), True),
        ((-0.991, -1.0), True),  # below -1 + 0.01
        ((-0.989, -1.0), False),
        ((0.0, 0.0), True),
        ((math.nan, 1.0), False),
        ((1.0, math.nan), False),
        ((math.inf, 1.0), False),
    ],
)
def test_an_average_is_rejected_if_its_loss_is_worse_or_no_number(
    optimizer_class, losses, accepted
):
    optimizer, params, problem = run_until_the_test(optimizer_class)
    asked_at, remaining = [], list(losses)
    anchor = state_of(optimizer, params, "anchor")

    def monitor():
        asked_at.append(flat(params))
        return torch.tensor(remaining.pop(0), dtype=torch.float64)

    optimizer.step(problem.closure, monitor)
    group = optimizer.param_groups[0]
    assert group["rejections"] == (0 if accepted else 1)
    assert group["averages"] == (3 if accepted else 2)
    assert group["count"] == 0
    if accepted:
        assert torch.equal(asked_at[0], state_of(optimizer, params, "anchor"))
    assert not torch.equal(asked_at[0], anchor)
    assert torch.equal(asked_at[1], anchor)


@BOTH
def test_a_rejection_goes_back_to_the_bit_and_empties_the_memories(optimizer_class):
    # μ = 0.2 · 1.1 after one accepted average; 0.22 / 1.1 = 0.2 is the least allowed.
    momentum = dict(momentum_range=(0.2, 0.9)) if optimizer_class is ASNAQ else {}
    optimizer, params, problem = run_until_the_test(optimizer_class, **momentum)
    saved = {name: state_of(optimizer, params, name) for name in ("anchor", "squares")}
    if optimizer_class is ASNAQ:
        saved["anchor_velocity"] = state_of(optimizer, params, "anchor_velocity")
        assert saved["anchor_velocity"].norm() > 0
        assert optimizer.param_groups[0]["current_momentum"] == pytest.approx(0.22)
    optimizer.step(problem.closure, lambda: torch.tensor(math.nan))
    group = optimizer.param_groups[0]
    assert torch.equal(flat(params), saved["anchor"])
    assert torch.equal(state_of(optimizer, params, "anchor"), saved["anchor"])
    if optimizer_class is ASNAQ:
        assert torch.equal(state_of(optimizer, params, "velocity"), saved["anchor_velocity"])
        assert group["current_momentum"] == pytest.approx(0.2)
        assert not state_of(optimizer, params, "velocity_sum").any()
    assert not state_of(optimizer, params, "weight_sum").any()
    assert group["pairs"] == group["next_pair"] == group["gradients"] == 0
    # The sum of squares is H0's, and goes on.
    assert (state_of(optimizer, params, "squares") >= saved["squares"]).all()
    assert (state_of(optimizer, params, "squares") > saved["squares"]).any()


def test_momentum_starts_at_the_least_of_the_groups_own_range():
    groups = [dict(params=[torch.nn.Parameter(torch.ones(2))], momentum_range=(0.5, 0.6))]
    assert ASNAQ(groups).param_groups[0]["current_momentum"] == 0.5


def test_momentum_stays_in_its_range():
    # Accepted ten times: 0.5 · 1.3ⁿ is cut at 0.9; rejected ten times: cut at 0.5.
    params = as_params(start())
    optimizer = ASNAQ(params, update_every=1, momentum_factor=1.3, momentum_range=(0.5, 0.9))
    seen = []
    for k in range(21):
        problem = Problem(params, lambda w, k=k: network_loss(w, k))
        loss = torch.tensor(0.0 if k < 11 else math.nan)
        optimizer.step(problem.closure, lambda loss=loss: loss)
        seen.append(optimizer.param_groups[0]["current_momentum"])
    assert seen[:3] == pytest.approx([0.5, 0.65, 0.845])
    assert seen[10] == 0.9
    assert seen[11] == pytest.approx(0.9 / 1.3)
    assert seen[-1] == 0.5


@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("late", [False, True])
def test_a_first_gradient_that_is_not_finite_leaves_all_but_a_count(optimizer_class, value, late):
    optimizer, params, problem = run_until_the_test(optimizer_class)
    if not late:
        params = as_params(start())
        optimizer, problem = optimizer_class(params), Problem(params, problem.loss)
        optimizer.step(problem.closure)
    before = snapshot(optimizer, params)

    def closure():
        loss = problem.closure()
        params[1].grad[0] = value
        return loss

    optimizer.step(closure, problem.monitor)
    for group in before[1]["param_groups"]:
        group["skipped"] = group["skipped_in_a_row"] = 1
    assert same(snapshot(optimizer, params), before)
    optimizer.step(problem.closure, problem.monitor)
    assert not torch.equal(flat(params), before[0])
    assert optimizer.param_groups[0]["skipped_in_a_row"] == 0


def test_a_wall_in_front_of_the_look_ahead_does_not_stop_it_for_ever():
    # Slope -1 up to 0.6, infinite beyond: with its velocity it would look behind the wall again
    # and again. Two skips stop it, and it comes up to the wall by steps of lr.
    params = [torch.nn.Parameter(torch.zeros(1).double())]
    optimizer = ASNAQ(params, lr=0.05, momentum_range=(0.9, 0.9), second_gradient=False)

    def closure():
        beyond = float(params[0].detach()) > 0.6
        params[0].grad = torch.full((1,), math.inf if beyond else -1.0).double()
        return -params[0].detach().sum()

    for _ in range(60):
        optimizer.step(closure, lambda: -params[0].detach().sum())
    group = optimizer.param_groups[0]
    assert 2 <= group["skipped"] < 60
    assert group["averages"] + group["rejections"] > 5


def test_frozen_weights_stay_and_thawed_ones_go_on(rng):
    params = as_params(start())
    optimizer = ASNAQ(params, lr=0.05, weight_decay=0.1, **SMALL)
    problem = Problem(params, lambda w: network_loss(w, 0))
    for _ in range(7):
        optimizer.step(problem.closure)
    params[0].requires_grad_(False)
    before = params[0].detach().clone()
    for _ in range(7):
        optimizer.step(problem.closure)
    assert torch.equal(params[0], before)
    params[0].requires_grad_(True)
    optimizer.step(problem.closure)
    assert not torch.equal(params[0], before)


def same(one, other):
    """Equality to the bit of nested containers."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_second_gradient_that_is_not_finite_is_a_rejection():
    for steps in (0, 14):
        optimizer, params, problem = run_until_the_test(ASNAQ)
        if steps == 0:  # before the first average the way back is to the first weights
            params = as_params(start())
            optimizer, problem = ASNAQ(params), Problem(params, problem.loss)
        anchor = flat(params) if steps == 0 else state_of(optimizer, params, "anchor")

        def closure(problem=problem, params=params):
            loss = problem.closure()
            if problem.calls == 2:
                params[0].grad[0] = math.nan
            return loss

        optimizer.step(closure, problem.monitor)
        group = optimizer.param_groups[0]
        assert torch.equal(flat(params), anchor)
        assert (group["rejections"], group["skipped"], group["count"]) == (1, 0, 0)
        assert (group["pairs"], group["gradients"]) == (0, 0)
        assert state_of(optimizer, params, "squares").isfinite().all()
        optimizer.step(problem.closure, problem.monitor)
        assert not torch.equal(flat(params), anchor)


# -- gradients that are missing, zero, huge or of another kind -------------------------------------


@BOTH
def test_a_weight_without_a_gradient_counts_as_one_whose_gradient_is_zero(optimizer_class):
    # The second tensor has none at first, then some, then none again.
    runs = []
    for missing in (True, False):
        params = as_params(start())
        optimizer = optimizer_class(params, lr=0.05, memory=3, fisher_memory=7, update_every=3)
        for k in range(24):
            problem = Problem(params, lambda w, k=k: network_loss(w, k))

            def closure(problem=problem, params=params, k=k, missing=missing):
                loss = problem.closure()
                if not 7 <= k < 15:
                    params[1].grad = None if missing else torch.zeros_like(params[1])
                return loss

            optimizer.step(closure, problem.monitor)
            assert (params[1] in optimizer.state) == (k >= 7 or not missing)
        runs.append([flat(params), state_of(optimizer, params, "anchor")])
        assert optimizer.param_groups[0]["pairs"] > 0
    torch.testing.assert_close(*runs)


@BOTH
@pytest.mark.parametrize("epsilon", [1e-4, 0.0])
def test_zero_gradients_move_nothing_at_first_and_keep_the_pairs_later(optimizer_class, epsilon):
    params = as_params(start())
    optimizer = optimizer_class(params, scaling_epsilon=epsilon)
    zero = Problem(params, lambda w: (w * 0).sum())
    for _ in range(12):
        optimizer.step(zero.closure, zero.monitor)
        assert torch.equal(flat(params), start())
    optimizer, params, _ = run_until_the_test(optimizer_class, scaling_epsilon=epsilon)
    zero, before = Problem(params, lambda w: (w * 0).sum()), flat(params)
    expected = before
    if optimizer_class is ASNAQ:  # only the momentum goes on
        group = optimizer.param_groups[0]
        expected = before + group["current_momentum"] * state_of(optimizer, params, "velocity")
    optimizer.step(zero.closure, lambda: torch.zeros(()))
    close(flat(params), expected)
    assert optimizer.param_groups[0]["pairs"] >= 1
    assert optimizer.param_groups[0]["rejections"] == 0


@BOTH
@pytest.mark.parametrize("exponent", [-42, -30, 30])
def test_gradients_of_any_scale_are_used(optimizer_class, exponent):
    # Squares overflow or underflow in single precision; normalised, the first step is lr long.
    gradient = torch.tensor([3.0, 4.0]) * 10.0**exponent
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = optimizer_class([weight], lr=0.1, update_every=2, normalize=True)
    for step in range(10):
        weight.grad = gradient.clone()
        optimizer.step()
        assert weight.isfinite().all()
        assert (weight < 1).all()
        if step == 0 and optimizer_class is ASNAQ:  # H0 is the identity still
            expected = torch.tensor([0.94, 0.92])
            torch.testing.assert_close(weight.data, expected, rtol=1e-3, atol=1e-3)


def test_a_scaling_that_overflows_leaves_a_step_of_the_rate():
    # Σ g² is inf in single precision, so that H0 = 0; -g itself would be a step of 1e29.
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = AdaQN([weight], lr=0.1)
    weight.grad = torch.tensor([3e30, 4e30])
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([0.94, 0.92]))


@BOTH
@pytest.mark.parametrize("normalize", [True, False])
def test_a_direction_that_overflows_is_replaced_by_the_gradients(optimizer_class, normalize):
    # A pair with s·y > 0 whose σ = s·g / s·y is beyond every float: H g is not finite.
    optimizer, params, problem = run_until_the_test(optimizer_class, normalize=normalize)
    for p in params:
        optimizer.state[p]["weight_changes"].mul_(1e200)
        optimizer.state[p]["gradient_changes"].mul_(1e-300)
    optimizer.load_state_dict(optimizer.state_dict() | {})
    if optimizer_class is ASNAQ:
        for p in params:
            optimizer.state[p]["velocity"].zero_()
    before, gradient = flat(params), gradient_of(problem.loss)(flat(params))
    optimizer.step(problem.closure, lambda: torch.zeros(()))
    assert optimizer.param_groups[0]["next_pair"] <= 1
    close(flat(params), before - 0.05 * gradient / gradient.norm())


@BOTH
def test_sparse_gradients_and_complex_weights_are_refused(optimizer_class):
    with pytest.raises(ValueError, match="complex"):
        optimizer_class([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_class([weight])

    def closure():
        weight.grad = torch.ones(3).to_sparse()
        return torch.zeros(())

    with pytest.raises(ValueError, match="sparse"):
        optimizer.step(closure)
    assert weight.tolist() == [1.0] * 3


# -- closures that raise ---------------------------------------------------------------------------


@BOTH
def test_a_first_call_that_raises_leaves_the_weights_and_the_state(optimizer_class):
    optimizer, params, problem = run_until_the_test(optimizer_class)
    before = snapshot(optimizer, params)

    def closure():
        problem.closure()
        raise RuntimeError("no more memory")

    with pytest.raises(RuntimeError, match="no more memory"):
        optimizer.step(closure)
    assert same(snapshot(optimizer, params), before)


@BOTH
@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_monitor_that_raises_leaves_the_step_and_the_next_average_right(
    optimizer_class, failing_call
):
    # L = 5: the test at step 15 fails, so the average at step 16 is over six iterates.
    optimizer, params, problem = run_until_the_test(optimizer_class)
    calls = []

    def monitor():
        calls.append(flat(params))
        if len(calls) == failing_call:
            raise RuntimeError("no more memory")
        return torch.zeros(())

    iterate_sum = state_of(optimizer, params, "weight_sum") + flat(params)
    with pytest.raises(RuntimeError, match="no more memory"):
        optimizer.step(problem.closure, monitor)
    if optimizer_class is ASNAQ:
        assert torch.equal(flat(params), problem.asked_at[-1])
    assert not any(torch.equal(flat(params), seen) for seen in calls)
    iterate_sum += flat(params)
    optimizer.step(problem.closure, lambda: torch.zeros(()))
    close(state_of(optimizer, params, "anchor"), iterate_sum / 6)


def test_a_second_call_that_raises_leaves_the_next_average_right():
    optimizer, params, problem = run_until_the_test(ASNAQ)
    iterate_sum = state_of(optimizer, params, "weight_sum") + flat(params)
    velocity_sum = state_of(optimizer, params, "velocity_sum")
    velocity_sum = velocity_sum + state_of(optimizer, params, "velocity")

    def closure():
        if problem.calls == 1:
            raise RuntimeError("no more memory")
        return problem.closure()

    with pytest.raises(RuntimeError, match="no more memory"):
        optimizer.step(closure)
    assert flat(params).isfinite().all()
    iterate_sum += flat(params)
    velocity_sum += state_of(optimizer, params, "velocity")
    optimizer.step(problem.closure, lambda: torch.zeros(()))
    close(state_of(optimizer, params, "anchor"), iterate_sum / 6)
    close(state_of(optimizer, params, "anchor_velocity"), velocity_sum / 6)


# -- groups and types ------------------------------------------------------------------------------


def test_groups_share_one_direction_and_have_rates_and_decay_of_their_own():
    # d = -g/‖g‖ over both, g = w: ‖(3, 0, 4)‖ = 5. First step: 3 - α₁ 3/5, (0, 4) - α₂ (0, 4)/5.
    one = torch.nn.Parameter(torch.tensor([3.0]))
    other = torch.nn.Parameter(torch.tensor([0.0, 4.0]))
    groups = [dict(params=[one], lr=0.5), dict(params=[other], lr=0.1, weight_decay=0.5)]
    optimizer = ASNAQ(groups)
    optimizer.step(Problem([one, other], lambda w: w.square().sum() / 2).closure)
    assert one.tolist() == pytest.approx([2.7])
    # and the decay takes 0.1 · 0.5 of 4.
    assert other.tolist() == pytest.approx([0.0, 4 - 0.2 - 0.08])
    optimizer.step(Problem([one, other], lambda w: w.square().sum() / 2).closure)
    assert optimizer.param_groups[0]["count"] == optimizer.param_groups[1]["count"] == 2


@BOTH
def test_groups_of_one_rate_are_as_one_group(optimizer_class):
    runs = []
    for divided in (False, True):
        params = as_params(start())
        groups = [dict(params=[p]) for p in params] if divided else params
        optimizer = optimizer_class(groups, lr=0.1, memory=3, fisher_memory=7, update_every=3)
        for k in range(20):
            problem = Problem(params, lambda w, k=k: network_loss(w, k))
            optimizer.step(problem.closure, problem.monitor)
        runs.append(flat(params))
        assert optimizer.param_groups[0]["pairs"] > 0
    torch.testing.assert_close(*runs, rtol=1e-7, atol=1e-9)


def test_the_rate_of_a_group_enters_the_difference_pairs():
    params = [torch.nn.Parameter(torch.ones(2).double()) for _ in range(2)]
    groups = [dict(params=[params[0]], lr=0.2), dict(params=[params[1]], lr=0.1)]
    optimizer = ASNAQ(groups, curvature="difference", momentum_range=(0.0, 0.0))
    optimizer.step(Problem(params, lambda w: w.square().sum() / 2).closure)
    # g = (1, 1, 1, 1), d = -g/2, s = α d = w⁺ - w; Q = 1, λ = 1: y = 2 s.
    s = memory_of(optimizer, params, "weight_changes")[0]
    close(s, torch.tensor([-0.1, -0.1, -0.05, -0.05]).double())
    close(memory_of(optimizer, params, "gradient_changes")[0], 2 * s)


@BOTH
def test_a_group_added_later_joins_the_cycle(optimizer_class):
    for copier in (lambda pair: pair, lambda pair: pickle.loads(pickle.dumps(pair))):
        optimizer, params, problem = run_until_the_test(optimizer_class)
        optimizer, params = copier((optimizer, params))
        late = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        optimizer.add_param_group(dict(params=[late]))
        first, second = optimizer.param_groups
        shared = first.keys() - {"params"}
        assert {name: second[name] for name in shared} == {name: first[name] for name in shared}
        problem = Problem([*params, late], lambda w: network_loss(w[:9], 0) + w[9:].square().sum())
        for _ in range(6):
            optimizer.step(problem.closure, lambda: torch.zeros(()))
        assert (late < 1).all()


@BOTH
def test_weights_of_several_types_are_stepped_as_one_vector(optimizer_class):
    dtypes = [torch.float32, torch.float64, torch.bfloat16]
    params = [p.to(d) for p, d in zip(as_params(start()), dtypes, strict=True)]
    params = [torch.nn.Parameter(p.detach()) for p in params]
    plain_class = twin.ASNAQ if optimizer_class is ASNAQ else twin.AdaQN
    options = dict(lr=0.05, memory=3, fisher_memory=7, update_every=3)
    first = torch.cat([p.detach().double().reshape(-1) for p in params])
    optimizer, plain = optimizer_class(params, **options), plain_class(first, **options)
    for k in range(8):
        problem = Problem([], lambda w, k=k: network_loss(w, k))

        def closure(problem=problem):
            for p in params:
                p.grad = None
            loss = problem.loss(torch.cat([p.double().reshape(-1) for p in params]))
            loss.backward()
            return loss

        optimizer.step(closure, lambda: torch.zeros(()))
        plain.step(lambda w: 0.0, gradient_of(problem.loss))
    result = torch.cat([p.detach().double().reshape(-1) for p in params])
    torch.testing.assert_close(result, plain.w, rtol=0.02, atol=0.02)
    assert not torch.allclose(result, first, atol=0.1)
    assert [p.dtype for p in params] == dtypes
    kinds = [optimizer.state[p]["gradient_history"].dtype for p in params]
    assert kinds == [torch.float32, torch.float64, torch.float32]


def test_a_half_precision_weight_that_joins_late_is_summed_exactly():
    # bfloat16 has 8 bits: 3 · 1.0078125 = 3.0234375 is not one of its numbers.
    early = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    late = torch.nn.Parameter(torch.full((1,), 1.0078125, dtype=torch.bfloat16))
    optimizer = AdaQN([early, late])
    for _ in range(3):
        early.grad = torch.ones_like(early)
        optimizer.step()
    late.grad = torch.zeros_like(late)
    optimizer.step()
    assert optimizer.state[late]["weight_sum"].tolist() == [4 * 1.0078125]


@BOTH
def test_the_memory_is_that_of_the_pairs_the_gradients_and_six_vectors(optimizer_class):
    params = as_params(start())
    optimizer = optimizer_class(params, memory=4, fisher_memory=9)
    Problem(params, lambda w: network_loss(w, 0)).closure()
    optimizer.step()
    vectors = 6 if optimizer_class is ASNAQ else 3
    tensors = [t for entries in optimizer.state.values() for t in entries.values()]
    assert sum(t.numel() for t in tensors) == (2 * 4 + 9 + vectors) * 9
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(storages.values()) == (2 * 4 + 9 + vectors) * 9 * 8


@BOTH
def test_a_history_in_bfloat16_keeps_its_type_and_steers_alike(optimizer_class):
    results = []
    for dtype in ("same", "bfloat16"):
        options = dict(lr=0.05, memory=3, fisher_memory=7, update_every=3, fisher_dtype=dtype)
        params = as_params(start())
        optimizer = optimizer_class(params, **options)
        for k in range(15):
            problem = Problem(params, lambda w, k=k: network_loss(w, k))
            optimizer.step(problem.closure, lambda: torch.zeros(()))
        results.append(flat(params))
        assert optimizer.param_groups[0]["pairs"] == 3
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, rtol=0.05, atol=0.05)
    other = optimizer_class(as_params(start()), **options)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for entries in other.state.values():
        assert entries["gradient_history"].dtype == torch.bfloat16
    assert same(other.state_dict(), optimizer.state_dict())


# -- options ---------------------------------------------------------------------------------------

WRONG = [
    ("lr", -0.1), ("lr", math.nan), ("lr", math.inf), ("lr", "fast"), ("lr", True),
    ("memory", -1), ("memory", 2.5), ("memory", True), ("fisher_memory", -1),
    ("fisher_memory", 1.0), ("update_every", 0), ("update_every", 2.0), ("tolerance", 0.99),
    ("tolerance", math.nan), ("scaling", "adagrad"), ("average_of", "both"),
    ("anchor_moves", "never"), ("scaling", "identity"), ("curvature_epsilon", -1e-4),
    ("scaling_epsilon", -1e-4), ("scaling_epsilon", math.inf), ("fisher_dtype", "float16"),
    ("weight_decay", -0.1),
]  # fmt: skip
WRONG_FOR_ASNAQ = [
    ("momentum_factor", 0.9), ("momentum_factor", math.inf), ("momentum_range", (0.5, 0.1)),
    ("momentum_range", (-0.1, 0.5)), ("momentum_range", (0.1, 1.0)), ("momentum_range", 0.5),
    ("momentum_range", (0.1,)), ("momentum_range", None), ("momentum_range", (0.1, 0.2, 0.3)),
    ("momentum_range", ("a", "b")), ("momentum_range", (math.nan, 0.5)), ("curvature", "exact"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer_class", "name", "value"),
    [(c, *pair) for c in (ASNAQ, AdaQN) for pair in WRONG]
    + [(ASNAQ, *pair) for pair in WRONG_FOR_ASNAQ],
)
def test_an_option_outside_its_range_is_named_with_its_value(optimizer_class, name, value):
    with pytest.raises(ValueError, match=name) as error:
        optimizer_class([torch.nn.Parameter(torch.ones(2))], **{name: value})
    assert f"{name}={value!r}" in str(error.value)


@BOTH
def test_an_option_that_is_gone_may_have_the_value_that_all_have_now(optimizer_class):
    optimizer = optimizer_class([torch.nn.Parameter(torch.ones(2))], clear="all")
    assert "clear" not in optimizer.param_groups[0]
    with pytest.raises(
        ValueError, match=r"no longer has the option clear, always 'all' now, got 'pairs'"
    ):
        optimizer_class([torch.nn.Parameter(torch.ones(2))], clear="pairs")
    saved = optimizer.state_dict()
    saved["param_groups"][0]["clear"] = "all"  # of an earlier version
    optimizer.load_state_dict(saved)
    saved["param_groups"][0]["clear"] = "nothing"
    with pytest.raises(ValueError, match="no longer has the option clear"):
        optimizer.load_state_dict(saved)


@BOTH
def test_an_option_that_has_moved_is_taken_with_a_warning(optimizer_class):
    plain = optimizer_class.__mro__[1]
    with pytest.warns(DeprecationWarning, match=r"update_every=… as an argument is deprecated"):
        optimizer = plain([torch.nn.Parameter(torch.ones(2))], update_every=7)
    assert optimizer.param_groups[0]["update_every"] == 7
    if plain is asnaq.ASNAQ:  # as presets were given once
        with pytest.warns(DeprecationWarning, match=r"options=ASNAQOptions\("):
            group = plain([torch.nn.Parameter(torch.ones(2))], **PRESETS["paper"]).param_groups[0]
        assert (group["update_every"], group["second_gradient"]) == (5, True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'updat_every'"):
        plain([torch.nn.Parameter(torch.ones(2))], updat_every=7)
    with pytest.raises(TypeError, match=f"options must be of type {plain.__name__}Options, got"):
        plain([torch.nn.Parameter(torch.ones(2))], options=dict(update_every=7))


@BOTH
def test_a_window_needs_gradients(optimizer_class):
    with pytest.raises(ValueError, match="fisher_memory=0"):
        optimizer_class([torch.nn.Parameter(torch.ones(2))], scaling="window", fisher_memory=0)


@BOTH
def test_groups_must_share_all_options_but_rate_and_decay(optimizer_class):
    def groups(**options):
        first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        return [dict(params=[first]), dict(params=[second], **options)]

    optimizer_class(groups(lr=0.5, weight_decay=0.1))
    other = dict(
        memory=3, fisher_memory=4, update_every=2, tolerance=1.5,
        normalize=optimizer_class is AdaQN,
        error_control=False, scaling="window", average_of="after", anchor_moves="on_pair",
        fisher_mean=False, curvature_epsilon=0.1, scaling_epsilon=0.1,
        fisher_dtype="bfloat16",
    )  # fmt: skip
    if optimizer_class is ASNAQ:
        other |= dict(
            momentum_factor=1.5, momentum_range=(0.2, 0.3), lookahead=False,
            second_gradient=False, curvature="difference",
        )  # fmt: skip
    for name, value in other.items():
        with pytest.raises(ValueError, match=f"share {name}"):
            optimizer_class(groups(**{name: value}))
    optimizer = optimizer_class([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="share memory"):
        optimizer.add_param_group(dict(params=[torch.nn.Parameter(torch.ones(1))], memory=3))
    assert len(optimizer.param_groups) == 1


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [(ASNAQ, dict(lr=0.15)), (ASNAQ, dict(**PRESETS["authors_code"], lr=0.15)),
     (ASNAQ, dict(lr=0.15, curvature="difference")), (AdaQN, dict(lr=0.3))],
)  # fmt: skip
def test_a_run_with_closures_resumes_to_the_bit_at_every_phase(optimizer_class, options):
    options = options | SMALL

    def steps(params, optimizer, first, last):
        for k in range(first, last):
            problem = Problem(params, lambda w, k=k: network_loss(w, k))
            optimizer.step(problem.closure, problem.monitor)

    params = as_params(start())
    optimizer = optimizer_class(params, **options)
    steps(params, optimizer, 0, 24)
    final = snapshot(optimizer, params)
    assert optimizer.param_groups[0]["rejections"] > 0
    for phase in range(1, 23):
        params = as_params(start())
        optimizer = optimizer_class(params, **options)
        steps(params, optimizer, 0, phase)
        saved = through_a_file([flat(params), optimizer.state_dict()])
        params = as_params(saved[0])
        optimizer = optimizer_class(params, **options)
        optimizer.load_state_dict(saved[1])
        steps(params, optimizer, phase, 24)
        assert same(snapshot(optimizer, params), final)


@BOTH
def test_a_pickle_holds_each_number_once(optimizer_class):
    # 40 tensors are views into one buffer; each pickled with the whole of it would be 40 times.
    sizes = []
    for tensors in (1, 40):
        params = [torch.nn.Parameter(p.clone()) for p in torch.ones(tensors, 40000 // tensors)]
        optimizer = optimizer_class(params, memory=2, fisher_memory=2)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        sizes.append(len(pickle.dumps(optimizer)))
    assert sizes[1] < 2 * sizes[0]


@BOTH
def test_a_rate_of_zero_asks_once_and_changes_nothing(optimizer_class):
    optimizer, params, problem = run_until_the_test(optimizer_class)
    optimizer.param_groups[0]["lr"] = 0.0
    before = snapshot(optimizer, params)
    optimizer.step(problem.closure, problem.monitor)
    assert same(snapshot(optimizer, params), before)
    assert (problem.calls, problem.monitored) == (1, 0)
    if optimizer_class is ASNAQ:  # without look-ahead
        assert torch.equal(problem.asked_at[0], flat(params))


@pytest.mark.parametrize("kind", [ASNAQ, AdaQN])
def test_an_option_that_is_gone_is_refused_in_a_group_too(kind):
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="clear, always 'all' now, got 'pairs'"):
        kind([dict(params=[weight], clear="pairs")])


class Offering:
    """A closure that offers losses besides, as the training loop's does."""

    def __init__(self, weight):
        self.weight, self.asked = weight, []

    def __call__(self):
        self.weight.grad = 2 * self.weight.detach()
        return (self.weight.detach() ** 2).sum()

    def loss(self):
        self.asked.append("loss")
        return (self.weight.detach() ** 2).sum()

    def monitored_loss(self):
        self.asked.append("monitored_loss")
        return (self.weight.detach() ** 2).sum()


@pytest.mark.parametrize(("kind", "name"), [(ASNAQ, "loss"), (AdaQN, "monitored_loss")])
def test_the_loss_that_a_closure_offers_is_the_one_that_is_watched(kind, name):
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = kind([weight], lr=0.01, update_every=2)
    closure = Offering(weight)
    for _ in range(6):
        optimizer.step(closure)
    assert closure.asked
    assert set(closure.asked) == {name}
    # One that is passed takes its place.
    closure.asked.clear()
    given = []
    for _ in range(6):
        optimizer.step(closure, lambda: given.append(1) or closure())
    assert given
    assert not closure.asked
