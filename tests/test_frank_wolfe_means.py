"""What FrankWolfe's mean over commits, `average`, promises, and that its steps stay in the ball.

The rest of FrankWolfe is promised in test_frank_wolfe.py, where the plain twin knows this option
too; that a run with it resumes to the bit, in test_every_optimizer.py.
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
from stepping import feed, frank_wolfe, normals, parameter, stream, through_a_file
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import rnnopt
from rnnopt.optimizers.frank_wolfe.lmo import ball_scale
from rnnopt.optimizers.frank_wolfe.options import PRESETS

UNLESS_TOLD = dict(
    lr=1.0, inner_steps=1, radius=None, norm=2, ball="tensor", outer="plain", weight_decay=0.0,
    momentum=0.0, normalize=False, adapt=0.0, nesterov=False, average=None,
    scale="norm", eta=None, inner_weights="uniform", inner_iterate="paper",
    decoupled_weight_decay=True, spectral="polar-express", gates="auto",
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("double_precision")


def FrankWolfe(params, **options):
    """The optimizer with steps of length lr in the Euclidean norm, unless told otherwise."""
    return frank_wolfe(params, **(UNLESS_TOLD | options))


def shown(optimizer, weights):
    """What `committed()` puts in place."""
    with optimizer.committed():
        return [w.detach().clone() for w in weights]


# -- several groups --------------------------------------------------------------------------------


def test_each_matrix_and_group_has_a_mean_of_its_own(rng):
    # Equal to two optimizers, one a group.
    start = [torch.randn(shape, generator=rng) for shape in ((3, 4), (5,))]
    together = [torch.nn.Parameter(w.clone()) for w in start]
    alone = [torch.nn.Parameter(w.clone()) for w in start]
    options = [dict(momentum=0.5, average=1), dict(momentum=0.9, nesterov=True, average=8)]
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


def norm_of(tensor, norm):
    if norm == "spectral" and tensor.ndim >= 2:
        return torch.linalg.matrix_norm(tensor.reshape(tensor.shape[0], -1), 2)
    return torch.linalg.vector_norm(tensor.reshape(-1), 2 if norm == "spectral" else norm)


@given(
    ball=st.sampled_from(BALLS),
    inner_steps=st.integers(1, 4),
    nesterov=st.booleans(),
    momentum=st.sampled_from([0.0, 0.9]),
    spectral=st.sampled_from(["svd", "polar-express"]),
    rates=st.lists(st.floats(1e-3, 10), min_size=4, max_size=4),
    seed=st.integers(0, 999),
)
def test_no_outer_step_is_longer_than_the_learning_rate(
    ball, inner_steps, nesterov, momentum, spectral, rates, seed
):
    # Whatever the rates of earlier commits were, and for tensors that now and then had no gradient.
    rng = torch.Generator().manual_seed(seed)
    shapes = [*LSTM, (3, 4), (5,), (), (3, 2, 2)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    options = dict(inner_steps=inner_steps, nesterov=nesterov)
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
    momentum=st.sampled_from([0.1, 0.9]),
    nesterov=st.booleans(),
    seed=st.integers(0, 999),
)
def test_no_outer_step_leaves_the_global_ball(norm, inner_steps, momentum, nesterov, seed):
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    options = dict(norm=norm, ball="global", inner_steps=inner_steps, nesterov=nesterov)
    optimizer = FrankWolfe(weights, lr=0.1, momentum=momentum, **options)
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
    options = dict(norm=norm, ball=ball, nesterov=nesterov, momentum=0.9)
    optimizer = FrankWolfe([weight, other], lr=0.1, inner_steps=inner_steps, **options)
    ones, zeros = torch.ones(2, 3), torch.zeros(2, 3)
    for _ in range(inner_steps):
        feed(optimizer, [weight, other], [ones, ones])
    moved, others = weight.detach().clone(), other.detach().clone()
    assert not torch.equal(moved, ones)
    for _ in range(3 * inner_steps):
        feed(optimizer, [weight, other], [zeros, ones])
        assert torch.equal(weight, moved)
    assert optimizer.state[weight]["momentum_buffer"].any()
    assert not torch.equal(other, others)


@pytest.mark.parametrize("norm", [1, 2, "spectral"])
@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_nesterov_without_momentum_changes_nothing(inner_steps, outer, norm, rng):
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
    options = dict(momentum=0.9, average=1, nesterov=True, weight_decay=0.1, outer=outer)
    optimizer = FrankWolfe([weight, other], lr=0.1, inner_steps=2, **options)
    for gradients in normals([(3,), (3,)], rng, 4):
        feed(optimizer, [weight, other], gradients)
    # But for the mean of the weights: of weights that stand still it is where they stand.
    before = [weight.detach().clone(), optimizer.state[weight]["momentum_buffer"].clone()]
    before += [weight.detach().clone()]
    assert not torch.equal(optimizer.state[weight]["average"], weight)
    others = other.detach().clone()
    for [gradient] in normals([(3,)], rng, 6):
        feed(optimizer, [weight, other], [None, gradient])
        after = [weight.detach()] + [
            optimizer.state[weight][name] for name in ("momentum_buffer", "average")
        ]
        assert all(map(torch.equal, before, after))
    assert not torch.equal(other, others)


def test_a_tensor_that_joins_late_counts_as_unmoved_until_then():
    # Vertices 0, -1: its mean weight after commit 2 is ½ · 3 + ½ (3 - 1).
    weight, other = parameter(3.0), parameter(3.0)
    optimizer = FrankWolfe([weight, other], average=0)
    feed(optimizer, [weight, other], [None, torch.ones(1)])
    assert weight.item() == 3.0
    feed(optimizer, [weight, other], [torch.ones(1)] * 2)
    assert weight.item() == pytest.approx(2.0, rel=1e-14)
    assert shown(optimizer, [weight])[0].item() == pytest.approx(2.5, rel=1e-14)
    assert other.item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_group_added_late_begins_its_own_means(inner_steps, rng):
    # At a commit: as in an optimizer of its own that begins then.
    first, second, alone = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    options = dict(lr=0.1, inner_steps=inner_steps, momentum=0.9, average=1)
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
    options = dict(norm=math.inf, inner_steps=inner_steps, average=None)
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
        options = dict(lr=0.1, inner_steps=inner_steps, outer=outer, momentum=0.5)
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
        inner_steps=2, norm="spectral", ball="gate", outer="plain", average=8,
        options=rnnopt.FrankWolfeOptions(
            momentum=0.5, scale="entry", nesterov=True, normalize=True, adapt=0.5
        ),
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
    options = dict(lr=0.01, inner_steps=inner_steps, average=1, momentum=0.5)
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
    for name in ("normalize", "adapt", "nesterov", "average", "commits"):
        del older["param_groups"][0][name]
    newer = FrankWolfe([fresh], momentum=0.5, average=0)
    newer.load_state_dict(older)
    assert newer.param_groups[0]["commits"] == 0
    assert torch.equal(shown(newer, [fresh])[0], fresh)
    # Their means begin here: -3, -4 by full steps, and the plain mean of the two.
    assert torch.equal(stream(newer, fresh, [torch.ones(1)] * 2), torch.tensor([[-3.0], [-4.0]]))
    assert shown(newer, [fresh])[0].item() == pytest.approx(-3.5, rel=1e-14)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_learning_rate_of_zero_moves_nothing_not_even_the_count_of_commits(inner_steps, rng):
    weight = torch.nn.Parameter(torch.randn(3, generator=rng))
    options = dict(momentum=0.9, nesterov=True, average=1)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=inner_steps, **options)
    stream(optimizer, weight, [g for [g] in normals([(3,)], rng, 2 * inner_steps)])
    assert optimizer.param_groups[0]["commits"] == 2
    optimizer.param_groups[0]["lr"] = 0.0
    before = copy.deepcopy([weight.detach(), optimizer.state_dict()])
    stream(optimizer, weight, [g for [g] in normals([(3,)], rng, 4)])
    assert same(before, [weight.detach(), optimizer.state_dict()])


def test_a_learning_rate_of_zero_at_first_creates_the_whole_state():
    weight = parameter(1.0, 2.0)
    optimizer = FrankWolfe([weight], lr=0.0, momentum=0.9, average=1)
    feed(optimizer, [weight], [torch.zeros(2)])
    assert optimizer.state[weight].keys() == {
        "has_gradient", "at_rest", "shown", "outer", "momentum_buffer", "average", "written",
    }  # fmt: skip
    assert not optimizer.state[weight]["momentum_buffer"].any()
    assert torch.equal(optimizer.state[weight]["average"], weight)
    assert optimizer.param_groups[0]["commits"] == 0


def test_a_schedule_scales_the_steps_along_the_mean():
    # A constant gradient's steps are lr long: 1, 0.8, 0.64. The mean's horizon shrinks with lr: the
    # second commit has ½ · 1/0.8 = 5/8 of it, -1 - 0.5, and the third ⅓ · 1/0.64 = 25/48.
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], momentum=0.9, nesterov=True, average=0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)
    seen = []
    for _ in range(3):
        feed(optimizer, [weight], [torch.ones(1)])
        seen.append(weight.item())
        schedule.step()
    assert seen == pytest.approx([-1.0, -1.8, -2.44], rel=1e-14)
    mean = -1.5 - 25 / 48 * 0.94
    assert shown(optimizer, [weight])[0].item() == pytest.approx(mean, rel=1e-14)


@pytest.mark.parametrize("outer", ["plain", "adam"])
def test_a_closure_does_what_streaming_does_with_the_means(outer, rng):
    start = torch.randn(3, 4, generator=rng)
    streamed, closed = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = dict(lr=0.1, inner_steps=3, outer=outer, momentum=0.8, average=2)
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
