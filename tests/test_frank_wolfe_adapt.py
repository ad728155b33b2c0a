"""What FrankWolfe makes of the size and agreement of gradients: `normalize` and `adapt`.

The rest of FrankWolfe is promised in test_frank_wolfe.py, where the plain twin knows these options
too; that a run with them resumes to the bit, in test_every_optimizer.py.
"""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stepping import feed, frank_wolfe, normals, parameter, steps_of, stream, through_a_file

import rnnopt
from rnnopt.optimizers.frank_wolfe.lmo import ball_scale, vertices

UNLESS_TOLD = dict(
    lr=1.0, inner_steps=1, radius=None, norm=2, ball="tensor", outer="plain", weight_decay=0.0,
    momentum=0.5, normalize=False, adapt=0.0, nesterov=False, average=None,
    scale="norm", eta=None, inner_weights="uniform", inner_iterate="paper",
    decoupled_weight_decay=True, spectral="polar-express", gates="auto",
    maximize=False,
)  # fmt: skip
RIGHT, UP = torch.tensor([5.0, 0.0]).double(), torch.tensor([0.0, 7.0]).double()


pytestmark = pytest.mark.usefixtures("double_precision")


def FrankWolfe(params, **options):
    """The optimizer with momentum ½ and Euclidean steps of length lr, unless told otherwise."""
    return frank_wolfe(params, **(UNLESS_TOLD | options))


def log_radius(optimizer, weight):
    return float(optimizer.state[weight]["log_radius"])


# log ρ is kept in single precision, where a sum of steps of 0.1 is off by 1e-7 each.
def near(number):
    return pytest.approx(number, rel=1e-5, abs=1e-6)


# -- normalize -------------------------------------------------------------------------------------


def test_two_normalised_gradients_by_hand():
    # g/‖g‖ = (1, 0), (0, 1): m = (½, 0), then (¼, ½), whatever the gradients' lengths are.
    weight = parameter(0.0, 0.0)
    found = steps_of(FrankWolfe([weight], normalize=True), weight, [RIGHT, 1000 * UP])
    expected = torch.tensor([[-1.0, 0.0], [-1 / math.sqrt(5), -2 / math.sqrt(5)]])
    torch.testing.assert_close(found, expected)


def test_two_gradients_with_nesterov_by_hand():
    # The oracle sees ½ m + ½ g/‖g‖ = (⅛, ¾) at the second step.
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], normalize=True, nesterov=True)
    found = steps_of(optimizer, weight, [RIGHT, UP])
    torch.testing.assert_close(found[1], -torch.tensor([1.0, 6.0]) / math.sqrt(37))


def test_the_buffer_is_the_mean_of_unit_gradients(rng):
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (), (0, 3))]
    optimizer = FrankWolfe(weights, momentum=0.9, normalize=True)
    means = [torch.zeros(w.shape) for w in weights]
    for gradients in normals([w.shape for w in weights], rng, 6):
        feed(optimizer, weights, gradients)
        for w, mean, g in zip(weights, means, gradients, strict=True):
            mean.mul_(0.9).add_(g / g.norm(), alpha=0.1)
            torch.testing.assert_close(optimizer.state[w]["momentum_buffer"], mean)


@pytest.mark.parametrize("norm", [1, 1.5, 2, math.inf, "spectral"])
@pytest.mark.parametrize("ball", ["gate", "global"])
def test_the_size_of_each_gradient_does_not_matter(norm, ball, rng):
    # By powers of two: to the bit. With adapt too, a cosine has no size.
    shapes = [(12, 2), (12, 3), (12,), (12,), ()]
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    batches = normals(shapes, rng, 6)
    results = []
    for exponents in ([0] * 6, [9, -11, 30, -30, 2, 0]):
        weights = [torch.nn.Parameter(w.clone()) for w in start]
        options = dict(norm=norm, ball=ball, normalize=True, adapt=0.3, nesterov=True)
        optimizer = FrankWolfe(weights, lr=0.1, **options)
        for exponent, gradients in zip(exponents, batches, strict=True):
            feed(optimizer, weights, [2.0**exponent * g for g in gradients])
        results.append([w.detach() for w in weights])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("size", [1e-100, 1e100])
def test_tiny_and_huge_gradients_are_normalised(size):
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], normalize=True)
    stream(optimizer, weight, [size * torch.tensor([3.0, -4.0])])
    buffer = optimizer.state[weight]["momentum_buffer"]
    torch.testing.assert_close(buffer, torch.tensor([0.3, -0.4]))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 6e4), (torch.float32, 1e-30)])
def test_a_norm_that_the_weights_type_cannot_hold_is_divided_by(dtype, size):
    weight = parameter(*[0.0] * 100, dtype=dtype)
    optimizer = FrankWolfe([weight], normalize=True)
    stream(optimizer, weight, [torch.full((100,), size)])
    buffer = optimizer.state[weight]["momentum_buffer"]
    torch.testing.assert_close(buffer, torch.full_like(buffer, 0.05))


def test_a_zero_gradient_stays_zero_in_the_average():
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], normalize=True)
    found = steps_of(optimizer, weight, [RIGHT, torch.zeros(2), UP])
    # m = (½, 0), (¼, 0), (⅛, ½); the zero gradient moves nothing.
    expected = torch.tensor([[-1.0, 0], [0, 0], [-1 / math.sqrt(17), -4 / math.sqrt(17)]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_normalised_non_finite_gradient_reaches_the_weights(bad):
    weight, other = parameter(1.0, 2.0), parameter(1.0, 2.0)
    optimizer = FrankWolfe([weight, other], normalize=True, adapt=0.1)
    feed(optimizer, [weight, other], [torch.tensor([bad, 1.0]), torch.ones(2)])
    assert not weight.isfinite().all()
    assert other.isfinite().all()


def test_coupled_decay_is_part_of_what_is_normalised():
    # g + λ w = (0, 1) + ½ (2, 0) = (1, 1), so m = ½ (1, 1)/√2.
    weight = parameter(2.0, 0.0)
    options = dict(weight_decay=0.5, decoupled_weight_decay=False, normalize=True)
    optimizer = FrankWolfe([weight], **options)
    stream(optimizer, weight, [torch.tensor([0.0, 1.0])])
    buffer = optimizer.state[weight]["momentum_buffer"]
    torch.testing.assert_close(buffer, torch.full((2,), 0.5 / math.sqrt(2)))


def test_the_gates_of_a_tensor_are_normalised_together(rng):
    weights = list(torch.nn.LSTM(2, 3).parameters())
    optimizer = FrankWolfe(weights, norm="spectral", ball="gate", normalize=True)
    [gradients] = normals([w.shape for w in weights], rng, 1)
    feed(optimizer, weights, gradients)
    for w, g in zip(weights, gradients, strict=True):
        torch.testing.assert_close(optimizer.state[w]["momentum_buffer"], 0.5 * g / g.norm())


# -- adapt -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("norm", [1, 1.5, 2, math.inf, "spectral"])
def test_a_constant_gradient_grows_the_radius_to_sixteen(norm, nesterov, normalize, rng):
    # cos = 1 from the second step on: ρ = 1, e^½, e, … until 16 = e^2.77.
    weight = torch.nn.Parameter(torch.zeros(3, 4))
    options = dict(norm=norm, nesterov=nesterov, normalize=normalize, adapt=0.5, spectral="svd")
    gradient = torch.randn(3, 4, generator=rng)
    found = steps_of(FrankWolfe([weight], **options), weight, [gradient] * 9)
    [unit] = vertices([gradient], norm, [1.0], "svd")
    expected = torch.stack([min(math.exp(0.5 * t), 16.0) * unit for t in range(9)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_alternating_gradients_shrink_the_radius_to_a_sixteenth():
    # With μ = ½ the average has the sign of the newest gradient, so cos = -1 at every later step.
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], adapt=0.5)
    gradients = [torch.tensor([(-1.0) ** t]) for t in range(9)]
    found = steps_of(optimizer, weight, gradients).view(-1)
    for t, step in enumerate(found):
        assert float(step) == near((-1.0) ** (t + 1) * max(math.exp(-0.5 * t), 1 / 16))
    assert log_radius(optimizer, weight) == near(-math.log(16))


def test_three_radii_by_hand():
    # μ = ½. m = 0, then (½, 0): cos ((1, 1), m) = 1/√2; then m = (¾, ½): cos ((-1, 0), m) is
    # -3/√13. The steps go along the new m: (1, 0), (3, 2), (-1, 2).
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], adapt=0.4)
    gradients = [torch.tensor(g) for g in ([1.0, 0.0], [1.0, 1.0], [-1.0, 0.0])]
    found = steps_of(optimizer, weight, gradients)
    second = 0.4 / math.sqrt(2)
    third = second - 0.4 * 3 / math.sqrt(13)
    expected = [torch.tensor([-1.0, 0.0])]
    expected += [-math.exp(second) * torch.tensor([3.0, 2.0]) / math.sqrt(13)]
    expected += [-math.exp(third) * torch.tensor([-1.0, 2.0]) / math.sqrt(5)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=1e-6)
    assert log_radius(optimizer, weight) == near(third)


def test_the_cosine_is_that_of_the_gradient_as_it_came():
    # A normalised average: (½, 0), and the gradient (0.003, 0.004) is at cos 0.6 from it.
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], adapt=0.5, normalize=True)
    stream(optimizer, weight, [RIGHT, torch.tensor([0.003, 0.004])])
    assert log_radius(optimizer, weight) == near(0.3)


def test_an_orthogonal_gradient_leaves_the_radius():
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], adapt=0.5)
    stream(optimizer, weight, [RIGHT, UP])
    assert log_radius(optimizer, weight) == 0.0


@pytest.mark.parametrize("normalize", [False, True])
def test_a_zero_gradient_leaves_the_radius_where_it_is(normalize):
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], adapt=0.5, normalize=normalize)
    stream(optimizer, weight, [torch.zeros(2), torch.zeros(2)])
    assert log_radius(optimizer, weight) == 0.0
    stream(optimizer, weight, [RIGHT] * 3)  # the first of them finds m = 0
    before = log_radius(optimizer, weight)
    assert before == near(1.0)
    stream(optimizer, weight, [torch.zeros(2)] * 4)
    assert log_radius(optimizer, weight) == before
    feed(optimizer, [weight], [None])
    assert log_radius(optimizer, weight) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_gradient_leaves_the_radius_where_it_is(bad):
    weight, other = parameter(0.0, 0.0), parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight, other], adapt=0.5)
    for gradient in (RIGHT, RIGHT, torch.tensor([bad, 1.0]), RIGHT):  # m is not finite at the last
        feed(optimizer, [weight, other], [gradient, RIGHT])
    assert log_radius(optimizer, weight) == near(0.5)
    assert log_radius(optimizer, other) == near(1.5)


def test_every_tensor_has_a_radius_of_its_own():
    agrees, alternates, late = parameter(0.0), parameter(0.0), parameter(0.0)
    optimizer = FrankWolfe([agrees, alternates, late], adapt=0.5)
    one = torch.ones(1)
    for t in range(4):
        feed(optimizer, [agrees, alternates, late], [one, (-1) ** t * one, one if t > 1 else None])
    assert log_radius(optimizer, agrees) == near(1.5)
    assert log_radius(optimizer, alternates) == near(-1.5)
    assert log_radius(optimizer, late) == near(0.5)


@pytest.mark.parametrize("norm", [1.5, math.inf, "spectral"])
def test_the_gates_of_an_lstm_share_the_radius_of_their_tensor(norm, rng):
    # The first gate's gradient is constant, the others' alternate, so that one of its own would
    # grow, and theirs shrink.
    weights = list(torch.nn.LSTM(2, 3).parameters())
    options = dict(norm=norm, ball="gate", adapt=0.5, spectral="svd")
    optimizer = FrankWolfe(weights, lr=0.1, **options)
    [first], averages = normals([w.shape for w in weights], rng, 1), [0.0] * 4
    for t in range(4):
        gradients = [g.clone() for g in first]
        for g in gradients:
            g[3:] *= (-1.0) ** t
        before = [w.detach().clone() for w in weights]
        feed(optimizer, weights, gradients)
        averages = [0.5 * m + 0.5 * g for m, g in zip(averages, gradients, strict=True)]
        for w, old, m in zip(weights, before, averages, strict=True):
            radius = 0.1 * math.exp(log_radius(optimizer, w))
            expected = torch.cat(vertices(m.chunk(4), norm, [radius] * 4, "svd"))
            torch.testing.assert_close(w.detach() - old, expected, rtol=1e-6, atol=1e-6)
    assert all(0.05 < abs(log_radius(optimizer, w)) < 1.4 for w in weights)


def test_inner_steps_adapt_one_after_the_other():
    # κ = log 2, a constant gradient: vertices of 1, 2, 4 and then 8, 16, 16 radii.
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=3, adapt=math.log(2))
    seen = stream(optimizer, weight, [torch.ones(1)] * 6).view(-1)
    first = 0.1 * 7 / 3
    expected = [0.1, 0.1 * 3 / 2, first, first + 0.8, first + 1.2, first + 0.1 * 40 / 3]
    torch.testing.assert_close(seen, -torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_the_outer_optimizer_sees_the_adapted_displacement():
    # κ = log 2: pseudo-gradients 1, 2, 4, of which plain descent takes lr each.
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], lr=0.1, adapt=math.log(2), outer=torch.optim.SGD)
    found = steps_of(optimizer, weight, [torch.ones(1)] * 3).view(-1)
    torch.testing.assert_close(found, -torch.tensor([0.1, 0.2, 0.4]), rtol=1e-6, atol=1e-6)


LSTM = [(12, 2), (12, 3), (12,), (12,)]
BALLS = [dict(norm=p, scale=s) for p in (1, 1.5, 2, math.inf) for s in ("norm", "entry")]
BALLS += [dict(norm="spectral", scale=s) for s in ("norm", "entry")]


def norm_of(tensor, norm):
    if norm == "spectral" and tensor.ndim >= 2:
        return torch.linalg.matrix_norm(tensor.reshape(tensor.shape[0], -1), 2)
    return torch.linalg.vector_norm(tensor.reshape(-1), 2 if norm == "spectral" else norm)


@given(
    ball=st.sampled_from(BALLS),
    inner_steps=st.integers(1, 3),
    adapt=st.sampled_from([0.03, 1.0, 9.0]),
    momentum=st.sampled_from([0.1, 0.9]),
    normalize=st.booleans(),
    nesterov=st.booleans(),
    spectral=st.sampled_from(["svd", "polar-express"]),
    seed=st.integers(0, 999),
)
def test_no_plain_step_is_longer_than_the_adapted_radius(
    ball, inner_steps, adapt, momentum, normalize, nesterov, spectral, seed
):
    # lr times the unit times the largest ρ of the cycle, which never leaves 1/16 … 16.
    rng = torch.Generator().manual_seed(seed)
    shapes = [*LSTM, (3, 4), (5,), (), (3, 2, 2)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    options = dict(adapt=adapt, momentum=momentum, normalize=normalize, nesterov=nesterov)
    options |= dict(inner_steps=inner_steps, spectral=spectral, ball="gate")
    optimizer = FrankWolfe(weights, lr=0.1, **options, **ball)
    centres = [torch.randn(shape, generator=rng) for shape in shapes]
    for _ in range(4):
        anchors = [w.detach().clone() for w in weights]
        largest = [0.0] * len(weights)
        for [noise] in [normals(shapes, rng, 1) for _ in range(inner_steps)]:
            feed(optimizer, weights, [c + e for c, e in zip(centres, noise, strict=True)])
            radii = [math.exp(log_radius(optimizer, w)) for w in weights]
            assert all(1 / 16 * (1 - 1e-6) <= radius <= 16 * (1 + 1e-6) for radius in radii)
            largest = list(map(max, largest, radii))
        for i, (w, anchor) in enumerate(zip(weights, anchors, strict=True)):
            for gate in (w.detach() - anchor).chunk(4) if i < 4 else [w.detach() - anchor]:
                longest = 0.1 * largest[i] * ball_scale(gate, ball["norm"], ball["scale"])
                # 1e-6: ρ is the exponential of a number in single precision.
                assert norm_of(gate, ball["norm"]) <= longest * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("norm", [1.5, 2, "spectral"])
def test_one_ball_for_all_tensors_does_not_adapt(norm, rng):
    shapes = [(3, 4), (5,)]
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    [gradients] = normals(shapes, rng, 1)
    results = []
    for adapt in (0.0, 0.5):
        weights = [torch.nn.Parameter(w.clone()) for w in start]
        optimizer = FrankWolfe(weights, norm=norm, ball="global", adapt=adapt)
        for _ in range(4):
            feed(optimizer, weights, gradients)
        results.append([w.detach() for w in weights])
    assert all(map(torch.equal, *results))


# -- switched off, and by default ------------------------------------------------------------------


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_them_a_step_is_the_one_along_the_average_to_the_bit(dtype, inner_steps, rng):
    # m ← m + (1-μ) (g - m), w ← w + lr Δω of its signs, and not one state key more.
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng).to(dtype))
    optimizer = FrankWolfe([weight], lr=0.1, norm=math.inf, inner_steps=inner_steps)
    mean = torch.zeros(3, 4, dtype=dtype)
    for _ in range(4):
        expected, displacement = weight.detach().clone(), torch.zeros(3, 4, dtype=dtype)
        for k, [gradient] in enumerate(normals([(3, 4)], rng, inner_steps), start=1):
            feed(optimizer, [weight], [gradient])
            mean.lerp_(gradient.to(dtype), 0.5)
            displacement = displacement.lerp(-mean.sign(), 1 / k) if k > 1 else -mean.sign()
        assert torch.equal(weight.data, expected.add(displacement, alpha=0.1))
    keys = {"has_gradient", "at_rest", "shown", "outer", "momentum_buffer"}
    keys |= {"anchor", "displacement", "written"} if inner_steps > 1 else set()
    assert optimizer.state[weight].keys() == keys


@pytest.mark.parametrize("normalize", [False, True])
def test_neither_acts_without_momentum(normalize, rng):
    gradients = [g for [g] in normals([(3, 4)], rng, 6)]
    results = []
    for options in ({}, dict(normalize=normalize, adapt=0.5)):
        weight = torch.nn.Parameter(torch.zeros(3, 4))
        optimizer = FrankWolfe([weight], momentum=0.0, norm="spectral", **options)
        results.append(stream(optimizer, weight, gradients))
        assert optimizer.state[weight].keys() == {"has_gradient", "at_rest", "shown", "outer"}
    assert torch.equal(*results)


DEFAULTS = dict(
    lr=1e-2, inner_steps=1, radius=None, norm="learnt", ball="gate", outer="plain",
    weight_decay=0.0, momentum=0.85, normalize=True, adapt=0.03, growth_decay=0.5, nesterov=True,
    average=8.0, scale="entry", eta=None, inner_weights="uniform",
    inner_iterate="paper", decoupled_weight_decay=True, spectral="polar-express", gates="auto",
    maximize=False,
)  # fmt: skip


def test_the_defaults_are_these():
    group = rnnopt.FrankWolfe([parameter(1.0)]).param_groups[0]
    assert {name: group[name] for name in DEFAULTS} == DEFAULTS
    own = {"params", "inner_step", "commits", "peak_lr", "probe_radius", "train_mode"}
    assert group.keys() - {"differentiable"} == DEFAULTS.keys() | own


def test_a_spectral_step_by_hand(rng):
    # m = 0.1 g/‖g‖, 0.09 g/‖g‖ + 0.1 h/‖h‖; ρ = e^{0.03 cos(h, g)}; U Vᵀ of 0.9 m + 0.1 h/‖h‖.
    weight = torch.nn.Parameter(torch.zeros(3, 4))
    g, h = (each for [each] in normals([(3, 4)], rng, 2))
    options = rnnopt.FrankWolfeOptions(spectral="svd", momentum=0.9)
    optimizer = rnnopt.FrankWolfe([weight], lr=1e-3, norm="spectral", options=options)
    found = steps_of(optimizer, weight, [g, h])
    g, h = g / g.norm(), h / h.norm()
    seen = torch.stack([g, 0.9 * (0.09 * g + 0.1 * h) + 0.1 * h])
    u, _, vh = torch.linalg.svd(seen, full_matrices=False)
    sizes = 1e-3 * math.sqrt(4) * torch.tensor([1.0, math.exp(0.03 * float((g * h).sum()))])
    torch.testing.assert_close(found, -sizes.view(2, 1, 1) * (u @ vh), rtol=1e-6, atol=1e-10)
    with optimizer.committed():  # of two commits the second has 9/10
        torch.testing.assert_close(weight.data, found[0] + 0.9 * found[1])


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


@pytest.mark.parametrize("through", [saved_and_loaded, deep_copied, pickled])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_radius_is_kept_in_single_precision(dtype, through, rng):
    # κ = 0.001 changes log ρ by less than bfloat16 would keep of log ρ near 1.
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=rng).to(dtype))
    options = dict(lr=0.01, inner_steps=2, adapt=0.001, normalize=True, norm="spectral")
    optimizer = FrankWolfe([weight], **options)
    gradient = torch.randn(3, 4, generator=rng)
    stream(optimizer, weight, [gradient])
    optimizer.state[weight]["log_radius"].fill_(1.0)
    stream(optimizer, weight, [gradient] * 6)
    before = optimizer.state[weight]["log_radius"].clone()
    assert before.dtype == torch.float32
    assert before.shape == ()
    assert float(before) == pytest.approx(1.006, abs=3e-5)  # a bfloat16 cosine is off by 2⁻⁸
    copied, other = through(weight, optimizer, options)
    found = other.state[copied]["log_radius"]
    assert found.dtype == torch.float32
    assert torch.equal(found, before)
    assert found.data_ptr() != optimizer.state[weight]["log_radius"].data_ptr()
    gradients = [g for [g] in normals([(3, 4)], rng, 3)]
    assert torch.equal(stream(other, copied, gradients), stream(optimizer, weight, gradients))
    assert torch.equal(found, other.state[copied]["log_radius"])
    assert weight.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_cosine_needs_no_wide_gradients(dtype, rng):
    # Against the same gradients in double precision. Rounding is random, so it stays below 1 %.
    gradients = [torch.randn(40, generator=rng) + 0.3 for _ in range(20)]
    found = []
    for kind in (dtype, torch.float64):
        weight = parameter(*[0.0] * 40, dtype=kind)
        optimizer = FrankWolfe([weight], lr=1e-3, momentum=0.9, normalize=True, adapt=0.1)
        stream(optimizer, weight, gradients)
        found.append(log_radius(optimizer, weight))
    assert found[1] > 0.1
    assert found[0] == pytest.approx(found[1], rel=0.01)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, s) for s in (1e-30, 1e-22, 1e18, 1e30)] + [(torch.float16, 1e3)],
)
def test_vanishing_and_exploding_gradients_have_an_angle_too(dtype, size, normalize):
    weight = parameter(*[0.0] * 10000, dtype=dtype)
    optimizer = FrankWolfe([weight], adapt=0.5, normalize=normalize)
    gradient = torch.full((10000,), size)
    stream(optimizer, weight, [gradient] * 2)
    assert log_radius(optimizer, weight) == pytest.approx(0.5, rel=1e-3)
    feed(optimizer, [weight], [-gradient])
    assert log_radius(optimizer, weight) == pytest.approx(0.0, abs=1e-3)


def test_no_cosine_is_greater_than_one():
    # The squares of all entries but the first are below what single precision holds.
    weight = parameter(*[0.0] * 10000, dtype=torch.float32)
    optimizer = FrankWolfe([weight], adapt=0.1, normalize=True)
    second = torch.full((10000,), 2e-23)
    second[0] = 1e-21
    stream(optimizer, weight, [torch.ones(10000), second])
    assert 0 < log_radius(optimizer, weight) <= 0.1 * (1 + 1e-6)


def test_a_step_without_any_gradient_leaves_the_radius():
    weight, frozen = parameter(0.0), parameter(3.0)
    groups = [dict(params=[weight]), dict(params=[frozen])]
    optimizer = FrankWolfe(groups, adapt=0.5)
    stream(optimizer, weight, [None] + [torch.ones(1)] * 3 + [None])
    assert log_radius(optimizer, weight) == near(1.0)
    assert frozen.item() == 3.0
    assert frozen not in optimizer.state


def test_a_learning_rate_of_zero_leaves_the_radius():
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], lr=0.0, adapt=0.5)
    stream(optimizer, weight, [torch.ones(1)] * 3)
    assert log_radius(optimizer, weight) == 0.0
    assert not optimizer.state[weight]["momentum_buffer"].any()


def test_a_schedule_and_the_adapted_radius_multiply():
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], adapt=math.log(2))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.25)
    seen = []
    for _ in range(3):
        before = weight.item()
        feed(optimizer, [weight], [torch.ones(1)])
        seen.append(weight.item() - before)
        schedule.step()
    assert seen == pytest.approx([-1.0, -0.5, -0.25], rel=1e-6)


def test_a_state_from_before_the_radius_loads():
    # As saved by a version without it: neither the group keys nor the state key.
    weight, fresh = parameter(0.0), parameter(-2.0)
    optimizer = FrankWolfe([weight])
    stream(optimizer, weight, [torch.ones(1)] * 2)
    older = optimizer.state_dict()
    for name in ("normalize", "adapt"):
        del older["param_groups"][0][name]
    newer = FrankWolfe([fresh], normalize=True, adapt=math.log(2))
    newer.load_state_dict(older)
    found = steps_of(newer, fresh, [torch.ones(1)] * 2).view(-1)
    torch.testing.assert_close(found, -torch.tensor([2.0, 4.0]), rtol=1e-6, atol=1e-6)
