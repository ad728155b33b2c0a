"""What FrankWolfe's means over commits promise: `vertex_momentum`, `average`, and the unit "muon".

The rest of FrankWolfe is promised in test_frank_wolfe.py, where the plain twin knows these options
too; that a run with them resumes to the bit, in test_every_optimizer.py.
"""

import copy
import functools
import math
import pickle

import pytest
import torch
from cases import crossed
from hypothesis import given
from hypothesis import strategies as st
from stepping import feed, normals, parameter, steps_of, stream, through_a_file
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import rnnopt
from rnnopt.optimizers.frank_wolfe.lmo import ball_scale
from rnnopt.optimizers.frank_wolfe.options import PRESETS

UNLESS_TOLD = dict(
    lr=1.0, inner_steps=1, radius=None, norm=2, ball="tensor", outer="plain", weight_decay=0.0,
    momentum=0.0, normalize=False, adapt=0.0, vertex_momentum=0.0, nesterov=False, average=None,
    scale="norm", radius_scale=1.0, eta=None, inner_weights="uniform", inner_iterate="paper",
    decoupled_weight_decay=True, spectral="polar-express", gates="auto",
)  # fmt: skip
RIGHT, UP = torch.tensor([5.0, 0.0]).double(), torch.tensor([0.0, 7.0]).double()


pytestmark = pytest.mark.usefixtures("double_precision")


def FrankWolfe(params, **options):
    """The optimizer with steps of length lr in the Euclidean norm, unless told otherwise."""
    return rnnopt.FrankWolfe(params, **(UNLESS_TOLD | options))


def shown(optimizer, weights):
    """What `committed()` puts in place."""
    with optimizer.committed():
        return [w.detach().clone() for w in weights]


# -- the running mean of displacements, by hand ----------------------------------------------------


def test_two_commits_of_a_half_by_hand():
    # Vertices (-1, 0), then (0, -1) twice, β = ½ and lr = 0.1. D = (-½, 0), (-¼, -½), (-⅛, -¾);
    # over 1 - β^t = ½, ¾, ⅞: (-1, 0), (-⅓, -⅔), (-1/7, -6/7).
    weight = parameter(0.0, 0.0)
    found = steps_of(FrankWolfe([weight], lr=0.1, vertex_momentum=0.5), weight, [RIGHT, UP, UP])
    expected = torch.tensor([[-1.0, 0.0], [-1 / 3, -2 / 3], [-1 / 7, -6 / 7]])
    torch.testing.assert_close(found, 0.1 * expected)


def test_two_commits_with_nesterov_by_hand():
    # Half of the directions above and half of the newest vertex: (-1, 0), (-1/6, -5/6), (-1/14,
    # -13/14).
    weight = parameter(0.0, 0.0)
    options = dict(lr=0.1, vertex_momentum=0.5, nesterov=True)
    found = steps_of(FrankWolfe([weight], **options), weight, [RIGHT, UP, UP])
    expected = torch.tensor([[-1.0, 0.0], [-1 / 6, -5 / 6], [-1 / 14, -13 / 14]])
    torch.testing.assert_close(found, 0.1 * expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_commits_of_three_inner_steps_by_hand(nesterov):
    # Δω_3/δ = (-1/3, -2/3), then (-1, 0); β = 0.9. D = 0.1 Δω over 0.1 is the first. Then
    # D = (0.09 (-1/3) - 0.1, 0.09 (-2/3)) = (-0.13, -0.06) over 1 - 0.81 = 0.19: (-13/19, -6/19).
    # Nesterov takes 0.9 of that and 0.1 of (-1, 0). The probes do not look at D.
    weight = parameter(0.0, 0.0)
    options = dict(lr=0.1, inner_steps=3, vertex_momentum=0.9, nesterov=nesterov)
    seen = stream(FrankWolfe([weight], **options), weight, [RIGHT, UP, UP] + [RIGHT] * 3)
    first = 0.1 * torch.tensor([-1 / 3, -2 / 3])
    direction = torch.tensor([-13 / 19, -6 / 19])
    if nesterov:
        direction = 0.9 * direction + 0.1 * torch.tensor([-1.0, 0.0])
    probe = first + 0.1 * torch.tensor([-1.0, 0.0])
    expected = [0.1 * torch.tensor([-1.0, 0.0]), 0.1 * torch.tensor([-0.5, -0.5]), first]
    expected += [probe, probe, first + 0.1 * direction]
    torch.testing.assert_close(seen, torch.stack(expected))


def test_nesterov_with_both_momenta_is_that_of_the_vertices():
    # p = 1, μ = β = ½. The oracle sees m = (1.2, 0), (0.6, 0.5), and both vertices are (-1, 0);
    # with ½ m + ½ g = (0.3, 0.75) the second would be (0, -1).
    weight = parameter(0.0, 0.0)
    options = dict(norm=1, momentum=0.5, vertex_momentum=0.5, nesterov=True)
    gradients = [torch.tensor([2.4, 0.0]), torch.tensor([0.0, 1.0])]
    found = steps_of(FrankWolfe([weight], **options), weight, gradients)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0]] * 2))


def test_the_step_follows_the_learning_rate_and_the_mean_does_not():
    # The mean is kept in radii: after a commit at lr = 1 and one at lr = 0.01 both directions
    # count by β alone, (-⅓, -⅔) as above.
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], lr=1.0, vertex_momentum=0.5)
    feed(optimizer, [weight], [RIGHT])
    before = weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.01
    feed(optimizer, [weight], [UP])
    torch.testing.assert_close(weight.data - before, 0.01 * torch.tensor([-1 / 3, -2 / 3]))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("norm", [1, 1.5, 2, math.inf, "spectral"])
def test_a_constant_gradient_is_followed_as_without_the_mean(norm, inner_steps, nesterov, rng):
    # The mean of equal vertices is the vertex, from the first commit on: no warm-up is needed.
    gradient = torch.randn(3, 4, generator=rng)
    results = []
    for beta in (0.0, 0.95):
        weight = torch.nn.Parameter(torch.zeros(3, 4))
        options = dict(norm=norm, lr=0.1, inner_steps=inner_steps, spectral="svd")
        options |= dict(vertex_momentum=beta, nesterov=nesterov)
        results.append(stream(FrankWolfe([weight], **options), weight, [gradient] * 12))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_minibatches_that_disagree_shorten_the_step(beta):
    # Signs (-1)^t: the mean is (1-β) Σ_i β^{t-i} (-1)^i / (1 - β^t), of size
    # (1-β)/(1+β) · (1 - (-β)^t)/(1 - β^t), which tends to (1-β)/(1+β). With nesterov the size is
    # β times that plus 1-β: (1-β)(1+2β)/(1+β) in the end.
    for nesterov in (False, True):
        weight = parameter(0.0)
        optimizer = FrankWolfe([weight], vertex_momentum=beta, nesterov=nesterov)
        count = 400
        gradients = [torch.tensor([(-1.0) ** t]) for t in range(1, count + 1)]
        lengths = steps_of(optimizer, weight, gradients).abs().view(-1)
        t = torch.arange(1.0, count + 1)
        expected = (1 - beta) / (1 + beta) * (1 - (-beta) ** t) / (1 - beta**t)
        limit = (1 - beta) / (1 + beta)
        if nesterov:
            expected, limit = beta * expected + 1 - beta, (1 - beta) * (1 + 2 * beta) / (1 + beta)
        torch.testing.assert_close(lengths, expected)
        assert float(lengths[0]) == pytest.approx(1.0, rel=1e-14)
        assert float(lengths[-1]) == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_inner_step_in_the_box_is_the_mean_of_signs(nesterov, rng):
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng))
    expected, mean = weight.detach().clone(), torch.zeros(3, 4)
    options = dict(norm=math.inf, vertex_momentum=0.9, nesterov=nesterov, weight_decay=0.2)
    optimizer = FrankWolfe([weight], lr=0.1, **options)
    for t, [gradient] in enumerate(normals([(3, 4)], rng, 20), start=1):
        feed(optimizer, [weight], [gradient])
        mean = 0.9 * mean + 0.1 * gradient.sign()
        move = mean / (1 - 0.9**t)
        move = 0.9 * move + 0.1 * gradient.sign() if nesterov else move
        expected = (1 - 0.1 * 0.2) * expected - 0.1 * move
    torch.testing.assert_close(weight.data, expected)


def test_the_outer_optimizer_sees_minus_the_mean(rng):
    ours, theirs = (torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2))
    outer = functools.partial(torch.optim.Adam, foreach=True)
    optimizer = FrankWolfe([ours], lr=0.01, outer=outer, vertex_momentum=0.9)
    expected, mean = outer([theirs], lr=0.01), torch.zeros(3, 4)
    for t, [gradient] in enumerate(normals([(3, 4)], rng, 8), start=1):
        feed(optimizer, [ours], [gradient])
        mean = 0.9 * mean + 0.1 * gradient / gradient.norm()
        feed(expected, [theirs], [mean / (1 - 0.9**t)])
    torch.testing.assert_close(ours.data, theirs.data)


def test_each_matrix_and_group_has_a_mean_of_its_own(rng):
    # Equal to two optimizers, one a group.
    start = [torch.randn(shape, generator=rng) for shape in ((3, 4), (5,))]
    together = [torch.nn.Parameter(w.clone()) for w in start]
    alone = [torch.nn.Parameter(w.clone()) for w in start]
    options = [dict(vertex_momentum=0.5, average=1), dict(vertex_momentum=0.9, nesterov=True)]
    groups = [dict(params=[w]) | o for w, o in zip(together, options, strict=True)]
    whole = FrankWolfe(groups, lr=0.1)
    parts = [FrankWolfe([w], lr=0.1, **o) for w, o in zip(alone, options, strict=True)]
    for gradients in normals([(3, 4), (5,)], rng, 6):
        feed(whole, together, gradients)
        for part, weight, gradient in zip(parts, alone, gradients, strict=True):
            feed(part, [weight], [gradient])
        assert all(map(torch.equal, together, alone))
    separate = [shown(part, [w])[0] for part, w in zip(parts, alone, strict=True)]
    assert all(map(torch.equal, shown(whole, together), separate))


# -- inside the ball -------------------------------------------------------------------------------

LSTM = [(12, 2), (12, 3), (12,), (12,)]
NORMS = [1, 1.1, 1.5, 2, 3, 50, math.inf, "spectral"]
BALLS = [dict(norm=norm, scale=scale) for norm in NORMS for scale in ("norm", "entry")]
BALLS += [dict(norm="spectral", scale="muon")]


def norm_of(tensor, norm):
    if norm == "spectral" and tensor.ndim >= 2:
        return torch.linalg.matrix_norm(tensor.reshape(tensor.shape[0], -1), 2)
    return torch.linalg.vector_norm(tensor.reshape(-1), 2 if norm == "spectral" else norm)


@given(
    ball=st.sampled_from(BALLS),
    inner_steps=st.integers(1, 4),
    beta=st.sampled_from([0.1, 0.5, 0.9, 0.99]),
    nesterov=st.booleans(),
    momentum=st.sampled_from([0.0, 0.9]),
    spectral=st.sampled_from(["svd", "polar-express"]),
    rates=st.lists(st.floats(1e-3, 10), min_size=4, max_size=4),
    seed=st.integers(0, 999),
)
def test_no_outer_step_is_longer_than_the_learning_rate(
    ball, inner_steps, beta, nesterov, momentum, spectral, rates, seed
):
    # Whatever the rates of earlier commits were, and for tensors that now and then had no gradient.
    rng = torch.Generator().manual_seed(seed)
    shapes = [*LSTM, (3, 4), (5,), (), (3, 2, 2)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    options = dict(inner_steps=inner_steps, vertex_momentum=beta, nesterov=nesterov)
    options |= dict(momentum=momentum, spectral=spectral, ball="gate")
    optimizer = FrankWolfe(weights, **options, **ball)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        anchors = [w.detach().clone() for w in weights]
        for [gradients] in [normals(shapes, rng, 1) for _ in range(inner_steps)]:
            absent = torch.rand(len(shapes), generator=rng) < 0.2
            pairs = zip(gradients, absent, strict=True)
            feed(optimizer, weights, [None if gone else g for g, gone in pairs])
        for i, (w, anchor) in enumerate(zip(weights, anchors, strict=True)):
            for gate in (w.detach() - anchor).chunk(4) if i < 4 else [w.detach() - anchor]:
                longest = rate * ball_scale(gate, ball["norm"], ball["scale"])
                # 1e-12: the weights are rounded to their size.
                assert norm_of(gate, ball["norm"]) <= longest * (1 + 1e-12) + 1e-12


@given(
    norm=st.sampled_from([1, 1.5, 2, 3]),
    inner_steps=st.integers(1, 3),
    beta=st.sampled_from([0.1, 0.9]),
    nesterov=st.booleans(),
    seed=st.integers(0, 999),
)
def test_no_outer_step_leaves_the_global_ball(norm, inner_steps, beta, nesterov, seed):
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    options = dict(norm=norm, ball="global", inner_steps=inner_steps, nesterov=nesterov)
    optimizer = FrankWolfe(weights, lr=0.1, vertex_momentum=beta, **options)
    for _ in range(4):
        anchors = [w.detach().clone() for w in weights]
        for gradients in normals(shapes, rng, inner_steps):
            feed(optimizer, weights, gradients)
        pairs = zip(weights, anchors, strict=True)
        step = torch.cat([(w.detach() - a).view(-1) for w, a in pairs])
        assert torch.linalg.vector_norm(step, norm) <= 0.1 * (1 + 1e-12)


# -- gradients that come and go --------------------------------------------------------------------


@crossed(
    ("norm", [1, 1.5, 2, math.inf, "spectral"]),
    ("ball", ["gate", "global"]),
    ("nesterov", [False, True]),
    ("inner_steps", [1, 3]),
    rest=False,
)
def test_a_zero_gradient_moves_nothing_whatever_the_mean_remembers(
    norm, ball, nesterov, inner_steps
):
    weight, other = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    options = dict(norm=norm, ball=ball, nesterov=nesterov, vertex_momentum=0.9)
    optimizer = FrankWolfe([weight, other], lr=0.1, inner_steps=inner_steps, **options)
    ones, zeros = torch.ones(2, 3), torch.zeros(2, 3)
    for _ in range(inner_steps):
        feed(optimizer, [weight, other], [ones, ones])
    moved, others = weight.detach().clone(), other.detach().clone()
    assert not torch.equal(moved, ones)
    for _ in range(3 * inner_steps):
        feed(optimizer, [weight, other], [zeros, ones])
        assert torch.equal(weight, moved)
    assert optimizer.state[weight]["vertex_buffer"].any()
    assert not torch.equal(other, others)


def test_zero_gradients_count_in_the_mean():
    # β = ½, vertices -1, 0, -1: D = -½, -¼, -⅝ over ½, ¾, ⅞, and the second step is none.
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], vertex_momentum=0.5)
    gradients = [torch.ones(1), torch.zeros(1), torch.ones(1)]
    found = steps_of(optimizer, weight, gradients)
    torch.testing.assert_close(found, torch.tensor([[-1.0], [0.0], [-5 / 7]]))


@pytest.mark.parametrize("norm", [1, 2, "spectral"])
@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_nesterov_without_any_momentum_changes_nothing(inner_steps, outer, norm, rng):
    # Nor do the options that act on the mean of the gradients.
    start = torch.randn(3, 4, generator=rng)
    gradients = [g for [g] in normals([(3, 4)], rng, 9)]
    results, states = [], []
    for option in ({}, dict(nesterov=True), dict(nesterov=True, normalize=True, adapt=0.5)):
        weight = torch.nn.Parameter(start.clone())
        options = dict(lr=0.1, inner_steps=inner_steps, outer=outer, norm=norm)
        optimizer = FrankWolfe([weight], **options, **option)
        results.append(stream(optimizer, weight, gradients))
        states.append(optimizer.state_dict()["state"])
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    assert same(states[0], states[1])
    assert same(states[0], states[2])


@pytest.mark.parametrize("outer", ["plain", "adam"])
def test_a_tensor_without_gradient_is_left_alone_and_so_are_its_means(outer, rng):
    weight, other = (torch.nn.Parameter(torch.randn(3, generator=rng)) for _ in range(2))
    options = dict(vertex_momentum=0.9, average=1, nesterov=True, weight_decay=0.1, outer=outer)
    optimizer = FrankWolfe([weight, other], lr=0.1, inner_steps=2, **options)
    for gradients in normals([(3,), (3,)], rng, 4):
        feed(optimizer, [weight, other], gradients)
    # But for the mean of the weights: of weights that stand still it is where they stand.
    before = [weight.detach().clone(), optimizer.state[weight]["vertex_buffer"].clone()]
    before += [weight.detach().clone()]
    assert not torch.equal(optimizer.state[weight]["average"], weight)
    others = other.detach().clone()
    for [gradient] in normals([(3,)], rng, 6):
        feed(optimizer, [weight, other], [None, gradient])
        after = [weight.detach()] + [
            optimizer.state[weight][name] for name in ("vertex_buffer", "average")
        ]
        assert all(map(torch.equal, before, after))
    assert not torch.equal(other, others)


def test_a_tensor_that_joins_late_counts_as_unmoved_until_then():
    # Vertices 0, -1 with β = ½: D = -½ over 1 - ¼, a step of ⅔. Its mean weight after commit 2 is
    # ½ · 3 + ½ (3 - ⅔).
    weight, other = parameter(3.0), parameter(3.0)
    optimizer = FrankWolfe([weight, other], vertex_momentum=0.5, average=0)
    feed(optimizer, [weight, other], [None, torch.ones(1)])
    assert weight.item() == 3.0
    feed(optimizer, [weight, other], [torch.ones(1)] * 2)
    assert weight.item() == pytest.approx(3 - 2 / 3, rel=1e-14)
    assert shown(optimizer, [weight])[0].item() == pytest.approx(3 - 1 / 3, rel=1e-14)
    assert other.item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_group_added_late_begins_its_own_means(inner_steps, rng):
    # At a commit: as in an optimizer of its own that begins then.
    first, second, alone = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    options = dict(lr=0.1, inner_steps=inner_steps, vertex_momentum=0.9, average=1)
    optimizer, separate = FrankWolfe([first], **options), FrankWolfe([alone], **options)
    for gradients in normals([(3,)], rng, 2 * inner_steps):
        feed(optimizer, [first], gradients)
    optimizer.add_param_group(dict(params=[second]))
    assert [group["commits"] for group in optimizer.param_groups] == [2, 0]
    for g1, g2 in normals([(3,), (3,)], rng, 3 * inner_steps):
        feed(optimizer, [first, second], [g1, g2])
        feed(separate, [alone], [g2])
        assert torch.equal(second, alone)
        assert torch.equal(shown(optimizer, [second])[0], shown(separate, [alone])[0])
    assert [group["commits"] for group in optimizer.param_groups] == [5, 3]


# -- switched off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_without_the_means_a_step_is_the_plain_one_to_the_bit(inner_steps, dtype, rng):
    # w ← w + lr Δω, and not one state key more.
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng).to(dtype))
    options = dict(norm=math.inf, inner_steps=inner_steps, vertex_momentum=0.0, average=None)
    optimizer = FrankWolfe([weight], lr=0.1, **options)
    for _ in range(4):
        expected, displacement = weight.detach().clone(), torch.zeros(3, 4, dtype=dtype)
        for k, [gradient] in enumerate(normals([(3, 4)], rng, inner_steps), start=1):
            feed(optimizer, [weight], [gradient])
            vertex = -gradient.to(dtype).sign()
            displacement = vertex if k == 1 else displacement.lerp(vertex, 1 / k)
        assert torch.equal(weight.data, expected.add(displacement, alpha=0.1))
    keys = {"has_gradient", "at_rest", "shown", "outer"} | (
        {"anchor", "displacement", "written"} if inner_steps > 1 else set()
    )
    assert optimizer.state[weight].keys() == keys


@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_an_average_changes_no_step(inner_steps, outer, rng):
    start = torch.randn(3, 4, generator=rng)
    gradients = [g for [g] in normals([(3, 4)], rng, 9)]
    results = []
    for average in (None, 0, 8):
        weight = torch.nn.Parameter(start.clone())
        options = dict(lr=0.1, inner_steps=inner_steps, outer=outer, vertex_momentum=0.5)
        optimizer = FrankWolfe([weight], average=average, **options)
        results.append(stream(optimizer, weight, gradients))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("paper", dict(ball="global", inner_steps=5, inner_iterate="paper")),
        ("authors_code", dict(ball="tensor", inner_steps=10, inner_iterate="cumulative")),
    ],
)
def test_presets_do_not_depend_on_the_defaults(preset, options, rng):
    # Bit for bit what all options spelled out do, without momentum of any kind and without a mean,
    # whatever FrankWolfe's own choice is, and were it everything that the presets are not.
    other_defaults = dict(
        inner_steps=2, norm="spectral", ball="gate", outer="plain", momentum=0.5, scale="muon",
        vertex_momentum=0.9, nesterov=True, average=8, normalize=True, adapt=0.5,
    )  # fmt: skip
    builders = [rnnopt.FrankWolfe, functools.partial(rnnopt.FrankWolfe, **other_defaults)]
    shapes = [(3, 4), (5,), ()]
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    batches = normals(shapes, rng, 32)
    for build in builders:
        ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
        one = build(ours, lr=0.05, **PRESETS[preset])
        other = FrankWolfe(theirs, lr=0.05, norm=2, scale="norm", outer="adam", **options)
        for gradients in batches:
            feed(one, ours, gradients)
            feed(other, theirs, gradients)
            assert all(map(torch.equal, ours, theirs))
            assert all(map(torch.equal, shown(one, ours), shown(other, theirs)))
        settings = [optimizer.param_groups[0] for optimizer in (one, other)]
        assert same(*[{n: s[n] for n in s.keys() - {"params"}} for s in settings])


# -- the mean of the committed weights -------------------------------------------------------------


def weights_by_the_rule(r, count):
    """Commit t gets w_t = (r+1)/(t+r), and what it leaves of the earlier ones is 1 - w_t."""
    shares = [(r + 1) / (t + r) for t in range(1, count + 1)]
    return torch.tensor(
        [w * math.prod(1 - v for v in shares[t:]) for t, w in enumerate(shares, start=1)]
    )


def test_the_shares_of_the_commits_by_hand():
    # 0: all alike. 1: as t. 8: as t (t+1) … (t+7), so 8!, 9!/1!, 10!/2! over their sum 11!/(3! 9).
    torch.testing.assert_close(weights_by_the_rule(0, 5), torch.full((5,), 1 / 5))
    torch.testing.assert_close(weights_by_the_rule(1, 4), torch.tensor([1.0, 2, 3, 4]) / 10)
    factorials = torch.tensor([math.factorial(8), math.factorial(9), math.factorial(10) / 2])
    torch.testing.assert_close(weights_by_the_rule(8, 3), factorials / factorials.sum())


@pytest.mark.parametrize("r", [0, 1, 2.5, 8])
@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_the_average_is_the_weighted_mean_of_the_commits(inner_steps, outer, r, rng):
    shapes = [(3, 4), ()]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    options = dict(inner_steps=inner_steps, outer=outer, average=r, weight_decay=0.1)
    optimizer = FrankWolfe(weights, lr=0.1, **options)
    commits = []
    for gradients in normals(shapes, rng, 8 * inner_steps):
        feed(optimizer, weights, gradients)
        if optimizer.inner_step == 0:
            commits.append([w.detach().clone() for w in weights])
        if commits:
            shares = weights_by_the_rule(r, len(commits))
            for i, found in enumerate(shown(optimizer, weights)):
                every = torch.stack([commit[i] for commit in commits], dim=-1)
                torch.testing.assert_close(found, every @ shares)
    assert len(commits) == 8


def test_a_plain_average_and_a_linear_one_by_hand():
    # Commits -1, -2, -3 have the plain mean -2 and the linear one -(1 + 4 + 9)/6.
    for r, mean in ((0, -2.0), (1, -14 / 6)):
        weight = parameter(0.0)
        optimizer = FrankWolfe([weight], average=r)
        stream(optimizer, weight, [torch.ones(1)] * 3)
        assert shown(optimizer, [weight])[0].item() == pytest.approx(mean, rel=1e-14)
        assert weight.item() == -3.0


@pytest.mark.parametrize("r", [0, 8])
def test_the_first_commit_is_its_own_average_to_the_bit(r, rng):
    # Even where the weights before it were not finite.
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng))
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=2, average=r)
    first, second = (g for [g] in normals([(3, 4)], rng, 2))
    feed(optimizer, [weight], [first])
    optimizer.state[weight]["average"].fill_(math.nan)
    feed(optimizer, [weight], [second])
    assert torch.equal(shown(optimizer, [weight])[0], weight)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_committed_shows_the_average_and_takes_it_away_to_the_bit(inner_steps, rng):
    shapes = [(3, 4), (5,)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    options = dict(inner_steps=inner_steps, average=1)
    plain = copy.deepcopy(weights)
    optimizer = FrankWolfe(weights, lr=0.1, **options)
    untouched = FrankWolfe(plain, lr=0.1, **options)
    start = [w.detach().clone() for w in weights]
    for step, gradients in enumerate(normals(shapes, rng, 3 * inner_steps + 1), start=1):
        feed(optimizer, weights, gradients)
        feed(untouched, plain, gradients)
        before = [w.detach().clone() for w in weights]
        pointers = [w.data_ptr() for w in weights]
        expected = [optimizer.state[w]["average"].clone() for w in weights]
        with optimizer.committed():
            assert all(map(torch.equal, weights, expected))
            assert torch.is_grad_enabled()
            if step < inner_steps:
                assert all(map(torch.equal, weights, start))
            if step > 2 * inner_steps:  # neither the anchor nor the probe
                assert not any(map(torch.equal, weights, before))
                anchors = [optimizer.state[w].get("anchor", w) for w in weights]
                assert inner_steps == 1 or not any(map(torch.equal, weights, anchors))
            with optimizer.committed():
                assert all(map(torch.equal, weights, expected))
            assert all(map(torch.equal, weights, expected))
            with pytest.raises(RuntimeError, match="in eval mode"):
                optimizer.step()
        assert all(map(torch.equal, weights, before))
        assert [w.data_ptr() for w in weights] == pointers
        assert same(optimizer.state_dict(), untouched.state_dict())
    assert all(map(torch.equal, weights, plain))


def same(one, other):
    """Equality to the bit of nested containers, types included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_committed_takes_the_average_away_when_its_body_raises(rng):
    weight = torch.nn.Parameter(torch.randn(3, generator=rng))
    optimizer = FrankWolfe([weight], lr=0.1, average=0)
    stream(optimizer, weight, [torch.ones(3), -torch.ones(3)])
    before = weight.detach().clone()

    def evaluate_and_fail():
        with optimizer.committed():
            assert not torch.equal(weight, before)
            raise KeyError("of the body")

    with pytest.raises(KeyError, match="of the body"):
        evaluate_and_fail()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("r", [0, 8])
def test_an_average_made_in_mid_cycle_starts_from_the_anchor(r, rng):
    # Asked for at a probe, one inner step before the commit that it then holds.
    weight = torch.nn.Parameter(torch.randn(3, generator=rng))
    anchor = weight.detach().clone()
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=3)
    first, second, third = (g for [g] in normals([(3,)], rng, 3))
    feed(optimizer, [weight], [first])
    optimizer.param_groups[0]["average"] = r
    assert torch.equal(shown(optimizer, [weight])[0], anchor)
    feed(optimizer, [weight], [second])
    assert not torch.equal(weight, anchor)
    assert torch.equal(optimizer.state[weight]["average"], anchor)
    assert torch.equal(shown(optimizer, [weight])[0], anchor)
    feed(optimizer, [weight], [third])
    assert torch.equal(shown(optimizer, [weight])[0], weight)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_before_the_first_commit_there_is_no_average_to_show(inner_steps, rng):
    # A step at lr = 0 makes the state; weights loaded after it are shown as they are.
    weight = torch.nn.Parameter(torch.randn(3, generator=rng))
    optimizer = FrankWolfe([weight], lr=0.0, inner_steps=inner_steps, average=8)
    feed(optimizer, [weight], [torch.zeros(3)])
    assert "average" in optimizer.state[weight]
    with torch.no_grad():
        weight.fill_(7.0)
    assert torch.equal(shown(optimizer, [weight])[0], torch.full((3,), 7.0))
    optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(inner_steps):
        assert torch.equal(shown(optimizer, [weight])[0], torch.full((3,), 7.0))
        feed(optimizer, [weight], [torch.ones(3)])
    assert torch.equal(shown(optimizer, [weight])[0], weight)


def test_only_the_groups_that_ask_for_it_are_averaged():
    averaged, other = parameter(0.0), parameter(0.0)
    groups = [dict(params=[averaged], average=0), dict(params=[other])]
    optimizer = FrankWolfe(groups)
    for _ in range(3):
        feed(optimizer, [averaged, other], [torch.ones(1)] * 2)
    assert [w.item() for w in shown(optimizer, [averaged, other])] == [-2.0, -3.0]


# -- what is kept ----------------------------------------------------------------------------------


def saved_and_loaded(weight, optimizer, options):
    state = through_a_file(optimizer.state_dict())
    weight = torch.nn.Parameter(weight.detach().clone())
    optimizer = FrankWolfe([weight], **options)
    optimizer.load_state_dict(state)
    return weight, optimizer


def deep_copied(weight, optimizer, options):
    return copy.deepcopy((weight, optimizer))


def pickled(weight, optimizer, options):
    return pickle.loads(pickle.dumps((weight, optimizer)))


def distributed(weight, optimizer, options):
    models = [torch.nn.ParameterDict(dict(w=w)) for w in (weight, copy.deepcopy(weight))]
    optimizer.zero_grad()
    saved = copy.deepcopy(get_optimizer_state_dict(models[0], optimizer))
    fresh = FrankWolfe([models[1]["w"]], **options)
    set_optimizer_state_dict(models[1], fresh, saved)
    return models[1]["w"], fresh


@crossed(
    ("through", [saved_and_loaded, deep_copied, pickled, distributed]),
    ("inner_steps", [1, 3]),
    ("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64]),
)
def test_the_average_is_never_narrower_than_single_precision(dtype, inner_steps, through, rng):
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng).to(dtype))
    options = dict(lr=0.01, inner_steps=inner_steps, average=1, vertex_momentum=0.5)
    optimizer = FrankWolfe([weight], **options)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    gradients = [g for [g] in normals([(3, 4)], rng, 14)]
    stream(optimizer, weight, gradients[:7])
    for i in (8, 11):  # mid-cycle for three inner steps, and twice over
        stream(optimizer, weight, gradients[i - 1 : i])
        before = optimizer.state[weight]["average"].clone()
        assert before.dtype == wide
        if dtype != wide:  # more digits than the weights have
            assert not torch.equal(before, before.to(dtype).to(wide))
        copied, other = through(weight, optimizer, options)
        found = other.state[copied]["average"]
        assert found.dtype == wide
        assert torch.equal(found, before)
        assert found.data_ptr() != optimizer.state[weight]["average"].data_ptr()
        expected = stream(optimizer, weight, gradients[i : i + 2])
        assert torch.equal(stream(other, copied, gradients[i : i + 2]), expected)
        assert same(other.state_dict(), optimizer.state_dict())
        weight, optimizer = copied, other
    assert optimizer.state[weight]["average"].dtype == wide


@pytest.mark.parametrize("through", [saved_and_loaded, deep_copied, pickled, distributed])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_of_displacements_is_kept_in_single_precision(dtype, through, rng):
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng).to(dtype))
    options = dict(lr=0.01, inner_steps=2, vertex_momentum=0.97, nesterov=True)
    optimizer = FrankWolfe([weight], **options)
    gradients = [g for [g] in normals([(3, 4)], rng, 9)]
    stream(optimizer, weight, gradients[:5])
    before = optimizer.state[weight]["vertex_buffer"].clone()
    assert before.dtype == torch.float32
    assert not torch.equal(before, before.to(dtype).float())
    copied, other = through(weight, optimizer, options)
    assert same(other.state[copied]["vertex_buffer"], before)
    expected = stream(optimizer, weight, gradients[5:])
    assert torch.equal(stream(other, copied, gradients[5:]), expected)
    assert same(other.state_dict(), optimizer.state_dict())
    assert weight.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_of_half_precision_displacements_is_that_of_their_exact_values(dtype, rng):
    # β = 0.97 takes in 3 % of each: in bfloat16 the mean of ones would stand still short of 1.
    weight = torch.nn.Parameter(torch.zeros(4, dtype=dtype))
    optimizer = FrankWolfe([weight], norm=math.inf, lr=0.01, vertex_momentum=0.97)
    mean = torch.zeros(4, dtype=torch.float64)
    for [gradient] in normals([(4,)], rng, 60):
        feed(optimizer, [weight], [gradient])
        mean = 0.97 * mean - 0.03 * gradient.sign()
    found = optimizer.state[weight]["vertex_buffer"]
    torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-6)


def test_the_average_of_half_precision_weights_is_that_of_their_exact_values(rng):
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng).bfloat16())
    optimizer = FrankWolfe([weight], lr=0.05, average=0)
    seen = stream(optimizer, weight, [g for [g] in normals([(3, 4)], rng, 50)])
    mean = optimizer.state[weight]["average"]
    torch.testing.assert_close(mean, seen.float().mean(dim=0), rtol=1e-5, atol=1e-6)
    assert torch.equal(shown(optimizer, [weight])[0], mean.bfloat16())


def test_weights_of_several_dtypes_are_averaged_together():
    dtypes = [torch.bfloat16, torch.float64, torch.float32]
    weights = [parameter(0.0, 0.0, dtype=dtype) for dtype in dtypes]
    optimizer = FrankWolfe(weights, norm=math.inf, average=0)
    for _ in range(3):
        feed(optimizer, weights, [torch.ones(2)] * 3)
    averages = [optimizer.state[w]["average"] for w in weights]
    assert [a.dtype for a in averages] == [torch.float32, torch.float64, torch.float32]
    for average in averages:
        torch.testing.assert_close(average, torch.full_like(average, -2.0))


def test_a_state_from_before_the_means_loads():
    # As saved by a version without them: neither the group keys nor the state keys.
    weight, fresh = parameter(0.0), parameter(-2.0)
    optimizer = FrankWolfe([weight], momentum=0.5)
    stream(optimizer, weight, [torch.ones(1)] * 2)
    older = optimizer.state_dict()
    for name in ("normalize", "adapt", "vertex_momentum", "nesterov", "average", "commits"):
        del older["param_groups"][0][name]
    newer = FrankWolfe([fresh], momentum=0.5, vertex_momentum=0.5, average=0)
    newer.load_state_dict(older)
    assert newer.param_groups[0]["commits"] == 0
    assert torch.equal(shown(newer, [fresh])[0], fresh)
    # Their means begin here: -3, -4 by full steps, and the plain mean of the two.
    assert torch.equal(stream(newer, fresh, [torch.ones(1)] * 2), torch.tensor([[-3.0], [-4.0]]))
    assert shown(newer, [fresh])[0].item() == pytest.approx(-3.5, rel=1e-14)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_learning_rate_of_zero_moves_nothing_not_even_the_count_of_commits(inner_steps, rng):
    weight = torch.nn.Parameter(torch.randn(3, generator=rng))
    options = dict(vertex_momentum=0.9, nesterov=True, average=1)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=inner_steps, **options)
    stream(optimizer, weight, [g for [g] in normals([(3,)], rng, 2 * inner_steps)])
    assert optimizer.param_groups[0]["commits"] == 2
    optimizer.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy([weight.detach(), optimizer.state_dict()])
    stream(optimizer, weight, [g for [g] in normals([(3,)], rng, 4)])
    assert same(before, [weight.detach(), optimizer.state_dict()])


def test_a_learning_rate_of_zero_at_first_creates_the_whole_state():
    weight = parameter(1.0, 2.0)
    optimizer = FrankWolfe([weight], lr=0.0, vertex_momentum=0.9, average=1)
    feed(optimizer, [weight], [torch.zeros(2)])
    assert optimizer.state[weight].keys() == {
        "has_gradient", "at_rest", "shown", "outer", "vertex_buffer", "average", "written",
    }  # fmt: skip
    assert not optimizer.state[weight]["vertex_buffer"].any()
    assert torch.equal(optimizer.state[weight]["average"], weight)
    assert optimizer.param_groups[0]["commits"] == 0


def test_a_schedule_scales_the_steps_along_the_mean():
    # A constant gradient's steps are lr long: 1, ½, ¼; the plain mean of -1, -1½, -1¾ is -17/12.
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], vertex_momentum=0.9, nesterov=True, average=0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    seen = []
    for _ in range(3):
        feed(optimizer, [weight], [torch.ones(1)])
        seen.append(weight.item())
        schedule.step()
    assert seen == pytest.approx([-1.0, -1.5, -1.75], rel=1e-14)
    assert shown(optimizer, [weight])[0].item() == pytest.approx(-17 / 12, rel=1e-14)


@pytest.mark.parametrize("outer", ["plain", "adam"])
def test_a_closure_does_what_streaming_does_with_the_means(outer, rng):
    start = torch.randn(3, 4, generator=rng)
    streamed, closed = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = dict(lr=0.1, inner_steps=3, outer=outer, vertex_momentum=0.8, average=2)
    one, other = FrankWolfe([streamed], **options), FrankWolfe([closed], **options)
    noise = [g for [g] in normals([(3, 4)], rng, 12)]
    upcoming = iter(noise)

    def closure():
        closed.grad = torch.cos(closed.detach()) + next(upcoming)
        return torch.zeros(())

    for cycle in range(4):
        other.step(closure)
        for c in noise[3 * cycle : 3 * cycle + 3]:
            feed(one, [streamed], [torch.cos(streamed.detach()) + c])
        assert torch.equal(streamed, closed)
        assert torch.equal(shown(one, [streamed])[0], shown(other, [closed])[0])


# -- a step by rows over columns -------------------------------------------------------------------


def test_a_muon_step_by_hand():
    # g = (3, 4)ᵀ, 2 rows and 1 column: U Vᵀ = (0.6, 0.8)ᵀ, times √(2/1); its transpose, a vector
    # and a scalar times 1.
    column, row = torch.tensor([[3.0], [4.0]]), torch.tensor([[3.0, 4.0]])
    gradients = [column, row, torch.tensor([3.0, 4.0]), torch.tensor(-5.0)]
    weights = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    options = dict(norm="spectral", scale="muon", ball="gate", spectral="svd")
    feed(FrankWolfe(weights, lr=0.1, **options), weights, gradients)
    sizes = [math.sqrt(2), 1.0, 1.0, 1.0]
    for w, g, size in zip(weights, gradients, sizes, strict=True):
        torch.testing.assert_close(w.data, -0.1 * size * g / g.norm())


@pytest.mark.parametrize("ball", ["gate", "tensor"])
def test_muon_steps_are_taken_gate_by_gate(ball, rng):
    # Hidden 3, input 2: a gate of the input matrix is 3 x 2, of the recurrent one 3 x 3.
    weights = list(torch.nn.LSTM(2, 3).parameters())
    start = [w.detach().clone() for w in weights]
    [gradients] = normals([w.shape for w in weights], rng, 1)
    options = dict(norm="spectral", scale="muon", ball=ball, spectral="svd")
    feed(FrankWolfe(weights, lr=0.1, **options), weights, gradients)
    for w, before, gradient in zip(weights, start, gradients, strict=True):
        parts = zip((w.detach() - before).chunk(4), gradient.chunk(4), strict=True)
        for step, g in parts:
            if g.ndim == 2:
                u, _, vh = torch.linalg.svd(g, full_matrices=False)
                expected = math.sqrt(3 / g.shape[1]) * u @ vh  # 12/2 and 12/3 without the gates
            else:
                expected = g / g.norm()
            torch.testing.assert_close(step, -0.1 * expected)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    inner_steps=st.integers(1, 3),
    beta=st.sampled_from([0.0, 0.9]),
    spectral=st.sampled_from(["svd", "polar-express"]),
    seed=st.integers(0, 999),
)
def test_a_muon_step_changes_no_output_by_more_than_the_learning_rate(
    rows, columns, inner_steps, beta, spectral, seed
):
    # In root mean square, for every input of root mean square 1: random ones, and the worst one,
    # the first right singular vector times √columns. Where there are fewer rows than columns by
    # √(columns/rows) as much.
    rng = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(rows, columns, generator=rng))
    options = dict(norm="spectral", scale="muon", spectral=spectral, inner_steps=inner_steps)
    longest = 0.1 * max(1.0, math.sqrt(columns / rows))
    optimizer = FrankWolfe([weight], lr=0.1, vertex_momentum=beta, **options)
    for _ in range(3):
        before = weight.detach().clone()
        for gradients in normals([(rows, columns)], rng, inner_steps):
            feed(optimizer, [weight], gradients)
        change = weight.detach() - before
        inputs = torch.randn(columns, 20, generator=rng)
        inputs = torch.cat([inputs, torch.linalg.svd(change)[2][:1].T], dim=1)
        inputs /= inputs.square().mean(dim=0).sqrt()
        outputs = (change @ inputs).square().mean(dim=0).sqrt()
        assert outputs.max() <= longest * (1 + 1e-12) + 1e-12
        if spectral == "svd" and inner_steps == 1 and beta == 0:  # and the worst one by just that
            assert float(outputs[-1]) == pytest.approx(longest, rel=1e-10)
