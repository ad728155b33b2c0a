"""What FrankWolfe alone promises: its steps by hand, its plain twin, and the methods it contains.

What every optimizer promises is in test_every_optimizer.py, the oracles are in
test_linear_minimization.py, and the slow twin is plain_frank_wolfe.py.
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
from plain_frank_wolfe import PlainFrankWolfe
from stepping import feed, frank_wolfe, parameter, stream, through_a_file

import rnnopt
from rnnopt.optimizers.frank_wolfe.gates import count_gates
from rnnopt.optimizers.frank_wolfe.lmo import vertices
from rnnopt.optimizers.frank_wolfe.options import PRESETS

PAPER = dict(
    norm=2, ball="tensor", scale="norm", outer="plain"
)  # lengths are those of the formulas


pytestmark = pytest.mark.usefixtures("double_precision")


# Every option that a test here relies on without saying so: no test depends on the defaults.
UNLESS_TOLD = dict(
    norm=2, inner_steps=5, ball="gate", outer="adam", weight_decay=0.0, momentum=0.0,
    normalize=False, adapt=0.0, nesterov=False, average=None, scale="entry",
    radius=None, eta=None, inner_weights="uniform", inner_iterate="paper",
    decoupled_weight_decay=True, spectral="polar-express", gates="auto",
)  # fmt: skip


def FrankWolfe(params, **options):
    """The optimizer with the paper's norm, K, outer step and no momentum, unless told otherwise."""
    return frank_wolfe(params, **(UNLESS_TOLD | options))


def random_weights(shapes, rng):
    return [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def seed_of(number):
    return torch.Generator().manual_seed(number)


def pickled(pair):
    return pickle.loads(pickle.dumps(pair))


class PseudoGradients:
    """An outer optimizer factory that keeps what each outer step was given."""

    def __init__(self, momentum=0.0):
        self.momentum, self.seen = momentum, []

    def __call__(self, groups, lr):
        outer = torch.optim.SGD(groups, lr=lr, momentum=self.momentum)
        outer.register_step_pre_hook(self.note)
        return outer

    def note(self, outer, args, kwargs):
        every = [p for group in outer.param_groups for p in group["params"]]
        self.seen.append([None if p.grad is None else p.grad.clone() for p in every])


# -- by hand -------------------------------------------------------------------------------------


def test_three_inner_steps_by_hand():
    # Vertices (-r, 0), (0, -r), (0, -r) with r = 0.1: probes -r (1, 0), -r (1/2, 1/2), and then
    # d_3 = -r (1/3, 2/3) with lr / r = 10.
    weight = parameter(0.0, 0.0)
    optimizer = FrankWolfe([weight], lr=1.0, radius=0.1, inner_steps=3, **PAPER)
    right, up = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 7.0])
    seen = stream(optimizer, weight, [right, up, up])
    expected = torch.tensor([[-0.1, 0.0], [-0.05, -0.05], [-1 / 3, -2 / 3]])
    torch.testing.assert_close(seen, expected)


def test_increasing_inner_weights_by_hand():
    # Weights 2/(k+1) = 1, 2/3, 1/2 give vertex i the share 2i/(K(K+1)): 1/6, 2/6, 3/6.
    weight = parameter(0.0, 0.0)
    options = dict(lr=0.6, inner_steps=3, inner_weights="increasing", **PAPER)
    right, up = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 7.0])
    seen = stream(FrankWolfe([weight], **options), weight, [right, up, up])
    expected = torch.tensor([[-0.6, 0.0], [-0.2, -0.4], [-0.1, -0.5]])
    torch.testing.assert_close(seen, expected)


def test_cumulative_probes_by_hand():
    # Displacements r (1, 0), r (1/2, 1/2) pile up in the probe: r (1, 0), then r (3/2, 1/2); the
    # commit forgets them and goes to -r (1/3, 2/3).
    weight = parameter(0.0, 0.0)
    options = dict(lr=0.6, inner_steps=3, inner_iterate="cumulative", **PAPER)
    right, up = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 7.0])
    seen = stream(FrankWolfe([weight], **options), weight, [right, up, up])
    expected = torch.tensor([[-0.6, 0.0], [-0.9, -0.3], [-0.2, -0.4]])
    torch.testing.assert_close(seen, expected)


def test_a_spectral_step_with_momentum_by_hand():
    # One inner step, spectral, momentum 0.9, lr = 0.01 the size of an entry. The gradient
    # diag(3, 1) has U Vᵀ = I, and √max(2, 2) I has entries of root mean square 1: a step of
    # 0.01 √2 I. Then the average 0.9 · 0.1 · diag(3, 1) + 0.1 · diag(-30, 1) = diag(-2.73, 0.19)
    # turns the first direction round.
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    options = dict(norm="spectral", inner_steps=1, outer="plain", scale="entry", momentum=0.9)
    optimizer = FrankWolfe([weight], lr=0.01, **options)
    gradients = [torch.diag(torch.tensor(d)) for d in ([3.0, 1.0], [-30.0, 1.0])]
    seen = stream(optimizer, weight, gradients)
    step = 0.01 * math.sqrt(2)
    torch.testing.assert_close(seen[0], torch.diag(torch.tensor([-step, -step])))
    torch.testing.assert_close(seen[1], torch.diag(torch.tensor([0.0, -2 * step])))


def test_the_step_with_adam_outside_by_hand():
    # lr = 0.01 is the size of an entry: for n = 4 entries at p = 2 the radius is 0.01 √4, and the
    # gradient (2, 0, 0, 0) moves one entry by 0.02 on the probe. A constant gradient's
    # pseudo-gradient is (2, 0, 0, 0), and Adam's first step is lr in every entry that has one.
    weight = parameter(0.0, 0.0, 0.0, 0.0)
    optimizer = FrankWolfe([weight], lr=0.01, inner_steps=2)
    seen = stream(optimizer, weight, [torch.tensor([2.0, 0.0, 0.0, 0.0])] * 2)
    torch.testing.assert_close(seen[0], torch.tensor([-0.02, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(seen[1], torch.tensor([-0.01, 0.0, 0.0, 0.0]))


def test_step_length_is_lr_or_eta_radii():
    # Plain step along a constant unit direction: lr when eta is None, else eta * radius.
    for options, length in [
        (dict(lr=0.3), 0.3),
        (dict(lr=0.3, radius=0.05), 0.3),
        (dict(lr=0.3, eta=0.5), 0.15),
        (dict(lr=0.3, radius=0.05, eta=2.0), 0.1),
        (dict(lr=0.3, radius=0.6, eta=0.5), 0.3),
    ]:
        weight = parameter(1.0, 1.0)
        optimizer = FrankWolfe([weight], inner_steps=2, **PAPER, **options)
        seen = stream(optimizer, weight, [torch.tensor([3.0, 4.0])] * 2)
        torch.testing.assert_close(seen[1], 1 - length * torch.tensor([0.6, 0.8]))


def test_the_probe_is_a_radius_away_which_is_the_learning_rate_unless_told():
    for options, radius in [
        (dict(lr=0.1), 0.1),
        (dict(lr=0.3), 0.3),
        (dict(lr=0.1, radius=0.7), 0.7),
    ]:
        weight = parameter(0.0, 0.0)
        optimizer = FrankWolfe([weight], inner_steps=2, **PAPER, **options)
        [probe] = stream(optimizer, weight, [torch.tensor([3.0, 4.0])])
        torch.testing.assert_close(probe, -radius * torch.tensor([0.6, 0.8]))


def test_decoupled_decay_shrinks_the_anchor_once_a_cycle():
    # w = 2: commit to 2 (1 - 0.1 · 0.5) = 1.9, then down by lr = 0.1. The probe is not decayed.
    weight = parameter(2.0)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=2, weight_decay=0.5, **PAPER)
    seen = stream(optimizer, weight, [torch.ones(1)] * 2)
    torch.testing.assert_close(seen, torch.tensor([[1.9], [1.8]]))


def test_coupled_decay_turns_the_gradient():
    # g + λ w = (0, 1) + 0.5 (2, 0) = (1, 1), so the step is lr (1, 1)/√2 from (2, 0).
    weight = parameter(2.0, 0.0)
    options = dict(weight_decay=0.5, decoupled_weight_decay=False, inner_steps=1, **PAPER)
    seen = stream(FrankWolfe([weight], lr=0.1, **options), weight, [torch.tensor([0.0, 1.0])])
    torch.testing.assert_close(seen[0], torch.tensor([2.0, 0.0]) - 0.1 / math.sqrt(2))


def test_zero_gradients_move_nothing_at_any_inner_step():
    # The authors' code divides by ‖g‖ = 0 here and turns the weights into NaN.
    for outer in ("plain", "adam"):
        for norm in (1, 1.5, 2, 3, math.inf, "spectral"):
            weight = torch.nn.Parameter(torch.ones(2, 2))
            optimizer = FrankWolfe([weight], lr=1.0, inner_steps=2, norm=norm, outer=outer)
            seen = stream(optimizer, weight, [torch.zeros(2, 2)] * 5)
            assert torch.equal(seen, torch.ones(5, 2, 2))


def test_a_non_finite_gradient_reaches_the_weights():
    for norm in (1, 1.5, 2, 3, math.inf, "spectral"):
        for bad in (math.nan, math.inf):
            weight = torch.nn.Parameter(torch.ones(2, 2))
            optimizer = FrankWolfe([weight], lr=0.1, inner_steps=2, norm=norm, outer="plain")
            stream(optimizer, weight, [torch.full((2, 2), bad), torch.ones(2, 2)])
            assert not weight.isfinite().all()


def test_a_nan_of_one_cycle_does_not_reach_the_next():
    weight = parameter(1.0, 2.0)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=2, **PAPER)
    stream(optimizer, weight, [torch.full((2,), math.nan)] * 2)
    with torch.no_grad():
        weight.copy_(torch.tensor([1.0, 2.0]))  # as a training loop that reloads would
    seen = stream(optimizer, weight, [torch.tensor([3.0, 4.0])] * 2)
    torch.testing.assert_close(seen[1], torch.tensor([0.94, 1.92]))


# -- the plain twin ------------------------------------------------------------------------------

HIDDEN, INPUTS = 3, 2
SHAPES = [(4 * HIDDEN, INPUTS), (4 * HIDDEN, HIDDEN), (4 * HIDDEN,), (4 * HIDDEN,)]  # nn.LSTM
SHAPES += [(), (5,), (2, 3), (3, 2, 2, 2)]
GATES = [4, 4, 4, 4, 1, 1, 1, 1]

NORMS = [dict(norm=p, ball=b) for p in (1, 1.5, 2, 3, math.inf) for b in ("gate", "tensor")]
NORMS += [dict(norm=p, ball="global") for p in (1, 1.5, 2, 3, math.inf)]
NORMS = [option | dict(scale=scale) for option in NORMS for scale in ("norm", "entry")]
NORMS += [
    dict(norm="spectral", ball=b, scale=s) for b in ("gate", "tensor") for s in ("norm", "entry")
]
NORMS += [dict(norm="spectral", ball="global", scale="norm")]
VARIANTS = [
    dict(outer="plain"),
    dict(outer="plain", inner_steps=1),
    dict(outer="plain", radius=0.03),
    dict(outer="plain", radius=0.125),
    dict(outer="plain", eta=0.4),
    dict(outer="plain", eta=0.4, radius=0.03),
    dict(outer="plain", inner_weights="increasing"),
    dict(outer="plain", inner_iterate="cumulative"),
    dict(outer="plain", inner_iterate="cumulative", inner_weights="increasing"),
    dict(outer="plain", momentum=0.8),
    dict(outer="plain", momentum=0.8, nesterov=True),
    dict(outer="plain", momentum=0.8, normalize=True),
    dict(outer="plain", momentum=0.8, normalize=True, nesterov=True, norm=1.5, ball="tensor"),
    dict(outer="plain", momentum=0.8, normalize=True, ball="global", norm=3),
    dict(outer="plain", momentum=0.8, adapt=0.3),
    dict(outer="plain", momentum=0.8, adapt=5, inner_steps=1, norm="spectral"),
    dict(outer="plain", momentum=0.8, adapt=0.3, nesterov=True, ball="tensor", norm=math.inf),
    dict(outer="plain", momentum=0.8, adapt=0.3, ball="global", norm=1.5),
    dict(outer="plain", momentum=0.8, adapt=0.3, ball="global", norm="spectral", scale="norm"),
    dict(outer="plain", momentum=0.8, adapt=0.3, inner_iterate="cumulative", radius=0.03),
    dict(outer="plain", momentum=0.8, adapt=0.3, weight_decay=0.3, decoupled_weight_decay=False),
    dict(outer="plain", momentum=0.5, adapt=0.3, nesterov=True, average=3),
    dict(
        outer="plain",
        momentum=0.9,
        adapt=0.3,
        normalize=True,
        nesterov=True,
        average=8,
        inner_steps=1,
        norm="spectral",
    ),
    dict(outer="plain", adapt=0.3, normalize=True, nesterov=True),
    dict(outer="adam", momentum=0.9, adapt=0.3, normalize=True, norm="spectral"),
    dict(outer="plain", momentum=0.8, inner_steps=1, norm="spectral"),
    dict(outer="plain", momentum=0.8, nesterov=True, inner_steps=1, norm=math.inf),
    dict(outer="plain", momentum=0.5, nesterov=True, average=3),
    dict(outer="plain", momentum=0.8, ball="global", norm=1.5, radius=0.03),
    dict(outer="plain", momentum=0.8, inner_iterate="cumulative", eta=0.4),
    dict(outer="plain", momentum=0.8, weight_decay=0.3, average=0),
    dict(outer="plain", average=0),
    dict(outer="plain", average=1, inner_steps=1),
    dict(outer="plain", average=8.5, inner_iterate="cumulative"),
    dict(outer="plain", weight_decay=0.3),
    dict(outer="plain", weight_decay=0.3, decoupled_weight_decay=False),
    dict(outer="plain", weight_decay=0.3, decoupled_weight_decay=False, momentum=0.8),
    dict(outer="adam"),
    dict(outer="adam", norm="spectral"),
    dict(outer="adam", inner_steps=1),
    dict(outer="adam", momentum=0.8, nesterov=True, average=8, norm="spectral"),
    dict(outer="adam", weight_decay=0.3),
    dict(outer="adam", ball="global", momentum=0.5),
    dict(outer="adam", radius=0.03),
    dict(outer=functools.partial(torch.optim.SGD, momentum=0.9)),
    dict(outer=functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1)),
    dict(outer=torch.optim.RMSprop, norm=math.inf),
    dict(outer=functools.partial(torch.optim.AdamW, amsgrad=True), ball="global", norm=1.5),
]


def label(option):
    names = {torch.optim.RMSprop: "RMSprop"}
    return "-".join(
        f"{k}={names.get(v) or (v.func.__name__ if isinstance(v, functools.partial) else v)}"
        for k, v in option.items()
    )


def compare_with_twin(option, groups, rng, steps=14, missing=frozenset()):
    """Steps FrankWolfe and its twin with gradients that depend on each one's own weights.

    Args:
        option: FrankWolfe's keyword arguments.
        groups: one (indices of SHAPES, overrides) a parameter group.
        missing: the (step, index) pairs at which a gradient is None.
    """
    option = dict(lr=0.05, inner_steps=3) | option
    start = random_weights(SHAPES, rng)
    theirs = {index: overrides for indices, overrides in groups for index in indices}
    outer = option.pop("outer")
    inner_steps = option.pop("inner_steps")
    adam = functools.partial(torch.optim.Adam, foreach=False)
    twin = PlainFrankWolfe(
        start,
        inner_steps,
        adam if outer == "adam" else outer,
        [option | theirs[i] for i in range(len(SHAPES))],
        GATES,
    )
    weights = [torch.nn.Parameter(w.detach().clone()) for w in start]
    optimizer = FrankWolfe(
        [dict(params=[weights[i] for i in indices], **overrides) for indices, overrides in groups],
        outer=outer,
        inner_steps=inner_steps,
        spectral="svd",
        **option,
    )
    # A radius that adapts is kept in single precision.
    adapts = any(group["adapt"] for group in optimizer.param_groups)
    near = 1e-5 if adapts else 1e-9
    centres = [torch.randn(shape, generator=rng) for shape in SHAPES]
    for step in range(steps):
        noise = [torch.randn(shape, generator=rng) for shape in SHAPES]

        def gradients(at, step=step, noise=noise):
            return [
                None if (step, i) in missing else torch.sin(w.detach() - c) + 0.5 * e
                for i, (w, c, e) in enumerate(zip(at, centres, noise, strict=True))
            ]

        twin_gradients = gradients(twin.weights)
        feed(optimizer, weights, gradients(weights))
        twin.step(twin_gradients)
        for ours, plain in zip(weights, twin.weights, strict=True):
            torch.testing.assert_close(ours.data, plain, rtol=near, atol=near)
        with optimizer.committed():
            for ours, plain in zip(weights, twin.shown(), strict=True):
                torch.testing.assert_close(ours.data, plain, rtol=near, atol=near)


ALL = tuple(range(len(SHAPES)))


@pytest.mark.parametrize("option", NORMS, ids=label)
def test_every_ball_agrees_with_the_plain_twin(option, rng):
    compare_with_twin(dict(outer="plain") | option, [(ALL, {})], rng, steps=7)


@pytest.mark.parametrize("option", VARIANTS, ids=label)
def test_every_option_agrees_with_the_plain_twin(option, rng):
    compare_with_twin(option, [(ALL, {})], rng)


@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("norm", [1.5, 2])
def test_a_global_ball_with_a_radius_per_group_agrees_with_the_plain_twin(norm, outer, rng):
    groups = [(ALL[:4], dict(lr=0.2)), (ALL[4:], dict(weight_decay=0.1, momentum=0.5))]
    compare_with_twin(dict(norm=norm, ball="global", outer=outer), groups, rng)


@pytest.mark.parametrize("outer", ["plain", "adam"])
def test_options_per_group_agree_with_the_plain_twin(outer, rng):
    first = dict(norm="spectral", scale="norm", lr=0.2, momentum=0.5, inner_weights="increasing")
    second = dict(norm=math.inf, ball="tensor", radius=0.01, inner_iterate="cumulative")
    first |= dict(average=2)
    first |= dict(normalize=True, adapt=0.3)
    second |= dict(momentum=0.8, nesterov=True)
    compare_with_twin(dict(outer=outer), [(ALL[:4], first), (ALL[4:], second)], rng)


@pytest.mark.parametrize("option", VARIANTS, ids=label)
def test_missing_gradients_agree_with_the_plain_twin(option, rng):
    # Tensor 1 joins in mid-cycle, 4 skips the first inner step, 5 the last, 6 a whole cycle (for
    # three inner steps), and 7 never has a gradient. Stacked gates need their neighbours: 0 … 3.
    missing = {(0, 1), (3, 4), (5, 5), (9, 0), *((step, 6) for step in (6, 7, 8))}
    missing |= {(step, 7) for step in range(14)}
    compare_with_twin(option, [(ALL, {})], rng, missing=missing)


def test_a_recurrent_network_agrees_with_the_plain_twin(rng):
    torch.manual_seed(0)
    net = torch.nn.LSTM(INPUTS, HIDDEN, num_layers=2, bidirectional=True)
    weights = list(net.parameters())
    twin = PlainFrankWolfe(weights, 3, "plain", [dict(lr=0.02)] * len(weights), [4] * len(weights))
    optimizer = FrankWolfe(weights, lr=0.02, inner_steps=3, outer="plain")
    for _ in range(9):
        inputs = torch.randn(5, 4, INPUTS, generator=rng)
        loss = net(inputs)[0].sub(inputs.sum(dim=2, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        twin.step([w.grad.clone() for w in weights])
        optimizer.step()
        for ours, plain in zip(weights, twin.weights, strict=True):
            torch.testing.assert_close(ours.data, plain, rtol=1e-9, atol=1e-9)


# -- one inner step is a known method ------------------------------------------------------------


def random_gradients(shapes, rng, count=6, dtype=None):
    return [
        [torch.randn(shape, generator=rng).to(dtype or torch.float64) for shape in shapes]
        for _ in range(count)
    ]


def test_one_inner_step_is_normalised_gradient_descent(rng):
    weights = random_weights([(3, 4), (5,), ()], rng)
    expected = [w.detach().clone() for w in weights]
    optimizer = FrankWolfe(weights, lr=0.1, inner_steps=1, **PAPER)
    for gradients in random_gradients([(3, 4), (5,), ()], rng):
        feed(optimizer, weights, gradients)
        expected = [w - 0.1 * g / g.norm() for w, g in zip(expected, gradients, strict=True)]
    torch.testing.assert_close([w.data for w in weights], expected)


def test_one_inner_step_in_one_ball_is_descent_along_the_whole_gradient(rng):
    shapes = [(3, 4), (5,), ()]
    weights = random_weights(shapes, rng)
    expected = [w.detach().clone() for w in weights]
    optimizer = FrankWolfe(weights, lr=0.1, inner_steps=1, **(PAPER | dict(ball="global")))
    for gradients in random_gradients(shapes, rng):
        feed(optimizer, weights, gradients)
        norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
        expected = [w - 0.1 * g / norm for w, g in zip(expected, gradients, strict=True)]
    torch.testing.assert_close([w.data for w in weights], expected)


def test_one_inner_step_in_the_box_is_sign_descent_in_either_unit(rng):
    for scale in ("norm", "entry"):
        weights = random_weights([(3, 4), ()], rng)
        expected = [w.detach().clone() for w in weights]
        options = dict(norm=math.inf, outer="plain", scale=scale)
        optimizer = FrankWolfe(weights, lr=0.1, inner_steps=1, **options)
        for gradients in random_gradients([(3, 4), ()], rng):
            feed(optimizer, weights, gradients)
            expected = [w - 0.1 * g.sign() for w, g in zip(expected, gradients, strict=True)]
        torch.testing.assert_close([w.data for w in weights], expected)


def test_one_inner_step_in_the_box_with_momentum_is_signum(rng):
    # Signum: m ← β m + (1-β) g, w ← (1 - lr λ) w - lr sgn m.
    weights = random_weights([(3, 4)], rng)
    expected, m = weights[0].detach().clone(), torch.zeros(3, 4)
    options = dict(norm=math.inf, outer="plain", momentum=0.9, weight_decay=0.2)
    optimizer = FrankWolfe(weights, lr=0.1, inner_steps=1, **options)
    for [gradient] in random_gradients([(3, 4)], rng):
        feed(optimizer, weights, [gradient])
        m = 0.9 * m + 0.1 * gradient
        expected = (1 - 0.1 * 0.2) * expected - 0.1 * m.sign()
    torch.testing.assert_close(weights[0].data, expected)


def test_one_inner_step_with_two_norms_is_scion(rng):
    # Scion: m ← (1-α) m + α g, W ← W + γ ρ lmo(m), with ρ √(out/in) and the spectral ball on hidden
    # matrices, ρ/in and the box on the output matrix. γ ρ times those is the group's lr here.
    hidden, output = random_weights([(4, 3), (2, 4)], rng)
    w1, w2 = hidden.detach().clone(), output.detach().clone()
    m1, m2 = torch.zeros(4, 3), torch.zeros(2, 4)
    groups = [
        dict(params=[hidden], norm="spectral", lr=0.1 * 50 * math.sqrt(4 / 3)),
        dict(params=[output], norm=math.inf, lr=0.1 * 3000 / 4),
    ]
    options = dict(inner_steps=1, outer="plain", scale="norm", momentum=0.9, spectral="svd")
    optimizer = FrankWolfe(groups, **options)
    for g1, g2 in random_gradients([(4, 3), (2, 4)], rng):
        feed(optimizer, [hidden, output], [g1, g2])
        m1, m2 = 0.9 * m1 + 0.1 * g1, 0.9 * m2 + 0.1 * g2
        u, _, vh = torch.linalg.svd(m1, full_matrices=False)
        w1 = w1 - 0.1 * 50 * math.sqrt(4 / 3) * u @ vh
        w2 = w2 - 0.1 * 3000 / 4 * m2.sign()
    torch.testing.assert_close([hidden.data, output.data], [w1, w2])


def muon_ratio(weight, adjust_lr_fn):
    """Muon's step is lr √max(1, rows/columns), or 0.2 lr √max(rows, columns)."""
    if adjust_lr_fn == "original":
        return math.sqrt(max(1, weight.shape[0] / weight.shape[1]))
    return 0.2 * math.sqrt(max(weight.shape))


def compare_with_muon(weights, groups, dtype, rng, ratios=(), **options):
    """Steps torch's Muon on `weights`, and FrankWolfe on copies in `groups`; equal to the bit.

    With `ratios`, the radius of each group is that many times its learning rate.
    """
    common = dict(momentum=0.95, nesterov=options["nesterov"])
    muon = torch.optim.Muon(weights, lr=0.02, **options, momentum=0.95)
    optimizer = FrankWolfe(
        groups, lr=0.02, inner_steps=1, norm="spectral", outer="plain", scale="norm",
        spectral="newton-schulz", ball="tensor", **common,
    )  # fmt: skip
    ours = [group["params"][0] for group in groups]
    schedules = [
        torch.optim.lr_scheduler.ExponentialLR(each, gamma=0.5) for each in (muon, optimizer)
    ]
    for gradients in random_gradients([w.shape for w in weights], rng, dtype=dtype):
        for group, ratio in zip(optimizer.param_groups, ratios, strict=bool(ratios)):
            group["radius"] = ratio * group["lr"]
        feed(optimizer, ours, gradients)
        feed(muon, weights, gradients)
        assert all(map(torch.equal, ours, weights))
        for schedule in schedules:
            schedule.step()


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize(
    ("dtype", "nesterov"),
    # Not bfloat16 without nesterov: there torch's Muon normalises its momentum buffer in place.
    [
        (torch.float32, True),
        (torch.float32, False),
        (torch.float64, True),
        (torch.float64, False),
        (torch.bfloat16, True),
    ],
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_one_inner_step_with_newton_schulz_is_muon(
    weight_decay, nesterov, adjust_lr_fn, dtype, rng
):
    # A step of one radius, ratio · lr, and a decay of lr λ: eta = 1.
    options = dict(nesterov=nesterov, adjust_lr_fn=adjust_lr_fn, weight_decay=weight_decay)
    weights = [w.to(dtype) for w in random_weights([(8, 3), (3, 8), (5, 5)], rng)]
    weights = [torch.nn.Parameter(w.detach()) for w in weights]
    groups = [
        dict(
            params=[torch.nn.Parameter(w.detach().clone())],
            eta=1.0,
            weight_decay=weight_decay,
        )
        for w in weights
    ]
    ratios = [muon_ratio(w, adjust_lr_fn) for w in weights]
    compare_with_muon(weights, groups, dtype, rng, ratios, **options)


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_muons_step_sizes_are_a_learning_rate_per_group(adjust_lr_fn, rng):
    weights = random_weights([(8, 3), (3, 8), (5, 5)], rng)
    groups = [
        dict(params=[torch.nn.Parameter(w.detach().clone())], lr=0.02 * muon_ratio(w, adjust_lr_fn))
        for w in weights
    ]
    options = dict(nesterov=True, adjust_lr_fn=adjust_lr_fn, weight_decay=0.0)
    compare_with_muon(weights, groups, torch.float64, rng, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_inner_step_inside_adam_is_adam_of_normalised_gradients(dtype, rng):
    shapes = [(3, 4), (7,), (2, 2, 3)]
    start = [torch.randn(shape, generator=rng).to(dtype) for shape in shapes]
    ours = [torch.nn.Parameter(w.clone()) for w in start]
    theirs = [torch.nn.Parameter(w.clone()) for w in start]
    options = dict(norm=2, ball="tensor", scale="norm", outer="adam")
    optimizer = FrankWolfe(ours, lr=0.01, inner_steps=1, **options)
    adam = torch.optim.Adam(theirs, lr=0.01, foreach=True)
    for gradients in random_gradients(shapes, rng, count=20, dtype=dtype):
        feed(optimizer, ours, gradients)
        feed(adam, theirs, [g / g.norm(dtype=torch.float64).to(dtype) for g in gradients])
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(
    "outer",
    [
        functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        torch.optim.RMSprop,
        functools.partial(torch.optim.AdamW, weight_decay=0.1),
        functools.partial(torch.optim.Adagrad, lr_decay=0.1),
        torch.optim.NAdam,
    ],
)
def test_the_outer_optimizer_sees_minus_the_mean_of_the_vertices(outer, rng):
    shapes = [(3, 4), (7,)]
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    ours = [torch.nn.Parameter(w.clone()) for w in start]
    theirs = [torch.nn.Parameter(w.clone()) for w in start]
    optimizer = FrankWolfe(ours, lr=0.01, inner_steps=2, norm=2, scale="norm", outer=outer)
    expected = outer(theirs, lr=0.01)
    for _ in range(5):
        first, second = random_gradients(shapes, rng, count=2)
        feed(optimizer, ours, first)
        feed(optimizer, ours, second)
        pairs = zip(first, second, strict=True)
        feed(expected, theirs, [(a / a.norm() + b / b.norm()) / 2 for a, b in pairs])
        torch.testing.assert_close([w.data for w in ours], [w.data for w in theirs])


# -- inside the ball -----------------------------------------------------------------------------


def norm_of(tensor, norm):
    if norm == "spectral" and tensor.ndim == 2:
        return torch.linalg.matrix_norm(tensor, 2)
    return torch.linalg.vector_norm(tensor.reshape(-1), 2 if norm == "spectral" else norm)


@given(
    norm=st.sampled_from([1, 1.1, 1.5, 2, 3, 50, math.inf, "spectral"]),
    inner_steps=st.integers(1, 6),
    inner_weights=st.sampled_from(["uniform", "increasing"]),
    spectral=st.sampled_from(["svd", "polar-express"]),
    momentum=st.sampled_from([0.0, 0.9]),
    radius=st.floats(1e-4, 10),
    seed=st.integers(0, 999),
)
def test_every_probe_stays_in_the_ball_around_the_anchor(
    norm, inner_steps, inner_weights, spectral, momentum, radius, seed
):
    rng = seed_of(seed)
    weights = random_weights([(3, 4), (5,), ()], rng)
    optimizer = FrankWolfe(
        weights, lr=0.1, radius=radius, inner_steps=inner_steps, norm=norm, spectral=spectral,
        inner_weights=inner_weights, momentum=momentum, scale="norm", eta=1.0, outer="plain",
    )  # fmt: skip
    for _ in range(2):
        anchors = [w.detach().clone() for w in weights]
        for _ in range(inner_steps):
            feed(optimizer, weights, [torch.randn(w.shape, generator=rng) for w in weights])
            for w, anchor in zip(weights, anchors, strict=True):
                # 1e-12: the probe is rounded to the size of the weights.
                assert norm_of(w.detach() - anchor, norm) <= radius * (1 + 1e-12) + 1e-12


@given(
    norm=st.sampled_from([1, 1.5, 2, 3]),
    radii=st.tuples(st.floats(1e-2, 10), st.floats(1e-2, 10)),
    seed=st.integers(0, 999),
)
def test_every_probe_stays_in_the_global_ball(norm, radii, seed):
    rng = seed_of(seed)
    weights = random_weights([(3, 4), (5,)], rng)
    groups = [dict(params=[w], radius=r) for w, r in zip(weights, radii, strict=True)]
    options = dict(ball="global", scale="norm", norm=norm, eta=1.0, outer="plain")
    optimizer = FrankWolfe(groups, lr=0.1, inner_steps=3, **options)
    for _ in range(2):
        anchors = [w.detach().clone() for w in weights]
        for inner_step in range(3):
            feed(optimizer, weights, [torch.randn(w.shape, generator=rng) for w in weights])
            triples = zip(weights, anchors, radii, strict=True)
            relative = torch.cat([((w.detach() - a) / r).view(-1) for w, a, r in triples])
            size = float(torch.linalg.vector_norm(relative, norm))
            assert size <= 1 + 1e-10
            if inner_step == 0:
                assert size == pytest.approx(1.0, rel=1e-10)  # the first one is a vertex


@pytest.mark.parametrize("norm", [1, 1.5, 2, 3, math.inf, "spectral"])
def test_the_displacement_is_the_mean_of_the_vertices(norm, rng):
    [weight] = random_weights([(3, 4)], rng)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=6, norm=norm, scale="norm")
    gradients = [torch.randn(3, 4, generator=rng) for _ in range(5)]
    found = vertices(gradients, norm, [1.0] * 5)
    for k, gradient in enumerate(gradients, start=1):
        feed(optimizer, [weight], [gradient])
        displacement = optimizer.state[weight]["displacement"]
        torch.testing.assert_close(displacement, sum(found[:k]) / k)


def test_one_ball_for_all_is_one_a_tensor_for_a_single_tensor_or_the_box(rng):
    for norm, shapes in [(1.5, [(3, 4)]), (2, [(3, 4)]), (math.inf, [(3, 4), (5,), ()])]:
        for scale in ("norm", "entry"):
            start = random_weights(shapes, rng)
            results = []
            for ball in ("tensor", "global"):
                weights = copy.deepcopy(start)
                options = dict(norm=norm, ball=ball, scale=scale, outer="plain")
                optimizer = FrankWolfe(weights, lr=0.1, inner_steps=2, **options)
                for gradients in random_gradients(shapes, seed_of(1), count=5):
                    feed(optimizer, weights, gradients)
                results.append([w.data for w in weights])
            torch.testing.assert_close(*results)


# -- convex problems -----------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("inner_weights", ["uniform", "increasing"])
def test_a_quadratic_is_solved_in_its_ball_at_the_rate_of_theory(inside, inner_weights, rng):
    # F = ½ Σ L_i (w_i - c_i)² with L ≤ 4, or L = 4 throughout where c is outside the ball, so that
    # the minimum over ‖w‖ ≤ δ is at c (value 0) or at δ c/‖c‖ (value ½ 4 (‖c‖ - δ)²). The curvature
    # constant is M = L (2δ)². With weights 1/k: h_k ≤ (M/2)(1 + 1/2 + … + 1/k)/k; with 2/(k+1):
    # h_k ≤ 2M/(k+2) (Jaggi 2013). The gap ⟨∇F, w⟩ + δ‖∇F‖ is never below h.
    radius, steps = 0.8, 300
    curvature = torch.linspace(0.5, 4, 6) if inside else torch.full((6,), 4.0)
    centre = torch.randn(6, generator=rng)
    centre *= (0.5 if inside else 1.7) * radius / centre.norm()
    best = 0.0 if inside else 0.5 * 4 * (0.7 * radius) ** 2
    largest = 4 * (2 * radius) ** 2
    weight = torch.nn.Parameter(torch.zeros(6))
    options = dict(inner_steps=steps + 1, inner_weights=inner_weights, **PAPER)
    optimizer = FrankWolfe([weight], lr=0.1, radius=radius, **options)
    harmonic = 0.0
    for k in range(1, steps + 1):
        feed(optimizer, [weight], [curvature * (weight.detach() - centre)])
        at = weight.detach()
        gradient = curvature * (at - centre)
        error = float(0.5 * (curvature * (at - centre) ** 2).sum()) - best
        gap = float((gradient * at).sum() + radius * gradient.norm())
        harmonic += 1 / k
        bound = largest / 2 * harmonic / k
        if inner_weights == "increasing":
            bound = 2 * largest / (k + 2)
        assert -1e-12 <= error <= bound
        assert gap >= error - 1e-12


@pytest.mark.parametrize("norm", [1, 1.5, 2, 3, math.inf])
def test_the_pseudo_gradient_points_where_the_gradient_does(norm):
    # On w²/2 the gradient is w. From 3 the vertices are all -r, so the pseudo-gradient is +1.
    for start, sign in ((3.0, 1.0), (-3.0, -1.0)):
        weight, outer = parameter(start), PseudoGradients()
        optimizer = FrankWolfe([weight], lr=0.1, inner_steps=4, norm=norm, outer=outer)
        for _ in range(8):
            feed(optimizer, [weight], [weight.detach().clone()])
        torch.testing.assert_close(outer.seen, [[torch.tensor([sign])]] * 2)
        torch.testing.assert_close(weight.data, torch.tensor([start - 0.2 * sign]))


# -- presets -------------------------------------------------------------------------------------


def test_presets_are_complete_and_accepted():
    assert set(PRESETS) == {"paper", "authors_code"}
    for preset in (PRESETS["paper"], PRESETS["authors_code"]):
        weight = parameter(1.0, 2.0)
        optimizer = rnnopt.FrankWolfe([weight], lr=0.01, **preset)
        assert optimizer.outer == "adam"
        assert optimizer.param_groups[0]["norm"] == 2
        assert optimizer.param_groups[0]["scale"] == "norm"


@pytest.mark.parametrize("radius", [0.5, 2.0**-7])
def test_the_authors_code_drifts_one_radius_an_inner_step(radius):
    # Every displacement of a constant direction is the whole vertex δ g/‖g‖ = δ (1, 0), and it is
    # added each time: K = 10 gradients are asked at 0, δ, …, 9δ (a power of two: exactly). The
    # pseudo-gradient is (1, 0), whatever δ is.
    weight, outer = parameter(0.0, 0.0), PseudoGradients()
    preset = PRESETS["authors_code"] | dict(outer=outer)
    optimizer = rnnopt.FrankWolfe([weight], lr=radius, **preset)
    asked_at = []

    def closure():
        asked_at.append(weight.detach().clone())
        weight.grad = torch.tensor([-5.0, 0.0])
        return torch.zeros(())

    optimizer.step(closure)
    expected = radius * torch.arange(10.0)
    assert torch.equal(torch.stack(asked_at), torch.stack([expected, torch.zeros(10)], dim=1))
    assert torch.equal(outer.seen[0][0], torch.tensor([-1.0, 0.0]))
    assert torch.equal(weight.data, torch.tensor([radius, 0.0]))


def test_ten_inner_steps_of_the_authors_code_drift_exactly_ten_radii():
    # With an eleventh inner step to come, the tenth move can be seen before the commit undoes it.
    weight = parameter(0.0)
    preset = PRESETS["authors_code"] | dict(inner_steps=11)
    optimizer = rnnopt.FrankWolfe([weight], lr=0.25, **preset)
    seen = stream(optimizer, weight, [torch.ones(1)] * 10)
    assert torch.equal(seen[-1], torch.tensor([-2.5]))
    with optimizer.committed():
        assert torch.equal(weight.data, torch.zeros(1))


def test_the_papers_preset_never_leaves_the_radius():
    weight = parameter(0.0)
    optimizer = rnnopt.FrankWolfe([weight], lr=0.25, **PRESETS["paper"])
    seen = stream(optimizer, weight, [torch.ones(1)] * 4)
    assert torch.equal(seen, torch.full((4, 1), -0.25))


# -- streaming, closures, schedules --------------------------------------------------------------


@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("norm", [2, math.inf, "spectral"])
def test_a_closure_does_what_streaming_does_to_the_bit(norm, outer, rng):
    shapes = [(3, 4), (5,)]
    start = random_weights(shapes, rng)
    batches = random_gradients(shapes, rng, count=12)
    options = dict(lr=0.1, inner_steps=3, norm=norm, outer=outer, momentum=0.5)
    streamed, closed = copy.deepcopy(start), copy.deepcopy(start)
    one, other = FrankWolfe(streamed, **options), FrankWolfe(closed, **options)
    asked_at, losses = [], iter(range(12))
    upcoming = iter(batches)

    def closure():
        assert torch.is_grad_enabled()
        asked_at.append([w.detach().clone() for w in closed])
        for w, c in zip(closed, next(upcoming), strict=True):
            w.grad = torch.cos(w.detach()) + c
        return torch.tensor(float(next(losses)))

    for cycle in range(4):
        assert float(other.step(closure)) == 3 * cycle  # the first loss, that of committed weights
        assert other.inner_step == 0
        for k in range(3):
            assert one.inner_step == k
            assert all(map(torch.equal, streamed, asked_at[3 * cycle + k]))
            noise = batches[3 * cycle + k]
            pairs = zip(streamed, noise, strict=True)
            feed(one, streamed, [torch.cos(w.detach()) + c for w, c in pairs])
        assert all(map(torch.equal, streamed, closed))


def test_a_closure_in_mid_cycle_goes_on_to_the_next_commit(rng):
    [weight] = random_weights([(3,)], rng)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=4)
    feed(optimizer, [weight], [torch.ones(3)])
    calls = []

    def closure():
        calls.append(optimizer.inner_step)
        weight.grad = torch.ones(3)
        return torch.zeros(())

    optimizer.step(closure)
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("outer", ["plain", "adam", torch.optim.RMSprop])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_learning_rate_of_zero_moves_nothing(inner_steps, outer, rng):
    weights = random_weights([(3, 4), (5,)], rng)
    start = [w.detach().clone() for w in weights]
    options = dict(inner_steps=inner_steps, outer=outer, radius=0.1, weight_decay=0.1)
    optimizer = FrankWolfe(weights, lr=0.0, **options)
    for gradients in random_gradients([(3, 4), (5,)], rng, count=7):
        feed(optimizer, weights, gradients)
        assert all(map(torch.equal, weights, start))
        assert optimizer.inner_step == 0


def test_a_learning_rate_of_zero_in_mid_cycle_waits_at_the_probe(rng):
    [weight] = random_weights([(3,)], rng)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=3)
    feed(optimizer, [weight], [torch.ones(3)])
    probe = weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(5):
        feed(optimizer, [weight], [torch.randn(3, generator=rng)])
        assert torch.equal(weight, probe)
        assert optimizer.inner_step == 1


@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("ball", ["gate", "global"])
def test_a_group_with_learning_rate_zero_stays_while_the_other_moves(ball, outer, rng):
    still, moving = random_weights([(3,), (3,)], rng)
    start = still.detach().clone(), moving.detach().clone()
    groups = [dict(params=[still], lr=0.0), dict(params=[moving])]
    optimizer = FrankWolfe(groups, lr=0.1, inner_steps=2, ball=ball, outer=outer)
    for gradients in random_gradients([(3,), (3,)], rng, count=6):
        feed(optimizer, [still, moving], gradients)
        assert torch.equal(still, start[0])
    assert not torch.equal(moving, start[1])
    assert moving.isfinite().all()


def test_a_schedule_shrinks_the_tied_radius_and_a_cycle_keeps_its_own():
    # lr halves after every inner step. Each cycle's probes use the lr at its start; the commit is
    # lr long, whatever lr is by then.
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], lr=1.0, inner_steps=3, **PAPER)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    seen = []
    for _ in range(6):
        feed(optimizer, [weight], [torch.full((1,), -2.0)])
        seen.append(weight.item())
        schedule.step()
    # lr: 1, ½, ¼ | ⅛, 1/16, 1/32. Probes at radius 1, then commit at ¼; probes at ¼ + ⅛.
    assert seen == [1.0, 1.0, 0.25, 0.375, 0.375, 0.25 + 1 / 32]


def test_a_fixed_radius_ignores_the_schedule():
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], lr=1.0, radius=0.5, inner_steps=2, **PAPER)
    feed(optimizer, [weight], [-torch.ones(1)])
    optimizer.param_groups[0]["lr"] = 0.125
    feed(optimizer, [weight], [-torch.ones(1)])
    assert weight.item() == 0.125
    feed(optimizer, [weight], [-torch.ones(1)])
    assert weight.item() == 0.625


# -- gradients that come and go ------------------------------------------------------------------


def test_a_missing_gradient_is_the_vertex_zero():
    # Vertices 0, -r, 0, -r, so the displacement is 0, -r/2, -r/3, -r/2. Without a gradient the
    # weight is not written to, so that the third step leaves it at its probe.
    weight, other = parameter(0.0), parameter(0.0)
    optimizer = FrankWolfe([weight, other], lr=0.6, inner_steps=4, **PAPER)
    seen = []
    for gradient in (None, torch.ones(1), None, torch.ones(1)):
        feed(optimizer, [weight, other], [gradient, torch.ones(1)])
        seen.append([weight.item(), other.item()])
    torch.testing.assert_close(
        torch.tensor(seen), torch.tensor([[0.0, -0.6], [-0.3, -0.6], [-0.3, -0.6], [-0.3, -0.6]])
    )


@pytest.mark.parametrize("outer", ["plain", "adam", torch.optim.SGD])
@pytest.mark.parametrize("average", [None, 8.0])
@pytest.mark.parametrize("norm", [2, "spectral"])
def test_a_tensor_frozen_in_mid_cycle_is_never_written_to(norm, average, outer, rng):
    # As in torch's optimizers, at the commit too; it shows its own value from then on.
    weight, other = random_weights([(3, 2), (4,)], rng)
    options = dict(norm=norm, inner_steps=4, outer=outer, average=average, weight_decay=0.1)
    optimizer = FrankWolfe([weight, other], lr=0.1, **options)
    gradients = random_gradients([(3, 2), (4,)], rng, count=20)
    for both in gradients[:6]:
        feed(optimizer, [weight, other], both)
    probe, version = weight.detach().clone(), weight._version
    for _, gradient in gradients[6:15]:
        feed(optimizer, [weight, other], [None, gradient])
        assert weight._version == version
        with optimizer.committed():
            assert torch.equal(weight, probe)
    anchor = weight.detach().clone()
    feed(optimizer, [weight, other], gradients[15])
    assert not torch.equal(weight, anchor)


@pytest.mark.parametrize(
    "outer", ["plain", "adam", functools.partial(torch.optim.SGD, momentum=0.9)]
)
def test_a_tensor_without_gradient_for_a_cycle_is_left_alone(outer, rng):
    # Even by weight decay, and by the outer optimizer's momentum.
    weight, other = random_weights([(3,), (4,)], rng)
    options = dict(inner_steps=2, weight_decay=0.1, outer=outer)
    optimizer = FrankWolfe([weight, other], lr=0.1, **options)
    for _ in range(2):
        feed(optimizer, [weight, other], random_gradients([(3,), (4,)], rng, count=1)[0])
    before = weight.detach().clone()
    for _ in range(4):
        feed(optimizer, [weight, other], [None, torch.randn(4, generator=rng)])
        assert torch.equal(weight, before)
    feed(optimizer, [weight, other], [torch.ones(3), torch.ones(4)])
    assert not torch.equal(weight, before)


def test_a_tensor_moved_by_hand_between_cycles_starts_from_there():
    weight = parameter(0.0)
    optimizer = FrankWolfe([weight], lr=0.5, inner_steps=2, **PAPER)
    stream(optimizer, weight, [-torch.ones(1)] * 2)
    with torch.no_grad():
        weight.fill_(8.0)
    seen = stream(optimizer, weight, [-torch.ones(1)] * 2)
    assert torch.equal(seen, torch.full((2, 1), 8.5))


def test_a_clamp_at_the_probe_leaks_into_nothing():
    # IndRNN clamps its recurrent weights at every forward pass, inner ones too.
    weight = parameter(1.0)
    optimizer = FrankWolfe([weight], lr=0.5, inner_steps=3, **PAPER)
    for _ in range(3):
        with torch.no_grad():
            weight.clamp_(-1.0, 1.0)
        feed(optimizer, [weight], [-torch.ones(1)])
    assert weight.item() == 1.5


@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize(
    "option",
    [
        {},
        dict(ball="tensor"),
        dict(ball="global"),
        dict(norm="spectral"),
        dict(momentum=0.5),
        dict(momentum=0.5, nesterov=True, ball="global"),
        dict(weight_decay=0.1),
        dict(weight_decay=0.1, decoupled_weight_decay=False),
    ],
)
def test_no_gradient_anywhere_does_no_harm(option, outer, rng):
    # Before the first gradient, and for cycles on end after it.
    [weight] = random_weights([(3,)], rng)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=2, outer=outer, **option)
    for gradient in (None, torch.ones(3)):
        for _ in range(2):
            feed(optimizer, [weight], [gradient])
        before = weight.detach().clone()
        for _ in range(6):
            feed(optimizer, [weight], [None])
            assert torch.equal(weight, before)


# -- gates ---------------------------------------------------------------------------------------

RECURRENT = [
    (torch.nn.LSTM, 4, dict(num_layers=2)),
    (torch.nn.LSTM, 4, dict(bidirectional=True)),
    (torch.nn.GRU, 3, dict(num_layers=2, bidirectional=True)),
    (torch.nn.LSTMCell, 4, {}),
    (torch.nn.GRUCell, 3, {}),
    (torch.nn.RNN, 1, {}),
    (torch.nn.RNNCell, 1, {}),
]


@pytest.mark.parametrize(("layer", "count", "options"), RECURRENT)
def test_gates_of_torchs_own_layers_are_recognised(layer, count, options):
    shapes = tuple(p.shape for p in layer(5, 6, **options).parameters())
    assert count_gates(shapes, "auto") == (count,) * len(shapes)


def test_gates_are_recognised_among_other_layers():
    net = torch.nn.ModuleList(
        [torch.nn.Linear(12, 16), torch.nn.GRU(5, 4), torch.nn.LSTM(4, 4), torch.nn.Linear(4, 12)]
    )
    found = count_gates(tuple(p.shape for p in net.parameters()), "auto")
    assert found == (1, 1, 3, 3, 3, 3, 4, 4, 4, 4, 1, 1)


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [()],
        [(8, 2)],
        [(8, 3), (8, 2), (8,)],  # no second bias
        [(8, 3), (8, 2)],  # bias=False
        [(8, 2), (8,), (8,), (2, 2)],
        [(6, 3), (6, 6), (6,), (6,)],  # nn.RNN
        [(10, 3), (10, 2), (10,), (10,)],  # five
        [(8, 3), (8, 3), (8,), (8,)],  # 3 does not divide 8
        [(8, 3), (8, 2), (8,), (7,)],
        [(0, 3), (0, 0), (0,), (0,)],
    ],
)
def test_anything_else_is_one_gate(shapes):
    sizes = tuple(torch.Size(shape) for shape in shapes)
    assert count_gates(sizes, "auto") == (1,) * len(shapes)


def test_a_given_number_of_gates_holds_where_it_divides_the_rows():
    shapes = tuple(torch.Size(s) for s in ((8, 3), (8,), (6, 8), (), (4, 2, 2)))
    assert count_gates(shapes, 4) == (4, 4, 1, 1, 4)
    assert count_gates(shapes, 1) == (1, 1, 1, 1, 1)


@crossed(
    ("outer", ["plain", "adam"]),
    ("ball", [dict(norm=2), dict(norm=1.5), dict(norm=1), dict(norm="spectral", ball="tensor")]),
    ("layer, count, options", RECURRENT[:5]),
)
def test_gate_by_gate_is_one_matrix_a_gate(layer, count, options, ball, outer, rng):
    # The same gradients, cut up by hand, to an optimizer of as many separate matrices.
    torch.manual_seed(0)
    stacked = [torch.nn.Parameter(p.detach().clone()) for p in layer(5, 6, **options).parameters()]
    cut = [torch.nn.Parameter(part.clone()) for p in stacked for part in p.detach().chunk(count)]
    settings = dict(lr=0.1, inner_steps=2, outer=outer, spectral="svd", **ball)
    one = FrankWolfe(stacked, **settings)
    other = FrankWolfe(cut, **settings, gates=1)
    for gradients in random_gradients([p.shape for p in stacked], rng, count=5):
        feed(one, stacked, gradients)
        feed(other, cut, [part for g in gradients for part in g.chunk(count)])
        expected = [part for p in stacked for part in p.detach().chunk(count)]
        torch.testing.assert_close(expected, [p.data for p in cut])


def test_a_ball_a_tensor_does_not_look_at_gates(rng):
    weights = random_weights(SHAPES[:4], rng)
    gradients = random_gradients(SHAPES[:4], rng, count=1)[0]
    start = [w.detach().clone() for w in weights]
    optimizer = FrankWolfe(weights, lr=0.1, inner_steps=1, **PAPER)
    feed(optimizer, weights, gradients)
    for w, before, gradient in zip(weights, start, gradients, strict=True):
        torch.testing.assert_close(w.data, before - 0.1 * gradient / gradient.norm())


def test_gates_given_by_number_serve_layers_that_are_not_recognised(rng):
    net = torch.nn.LSTM(5, 4, bias=False)
    weights = list(net.parameters())
    gradients = random_gradients([w.shape for w in weights], rng, count=1)[0]
    start = [w.detach().clone() for w in weights]
    options = dict(PAPER, ball="gate", gates=4)
    feed(FrankWolfe(weights, lr=0.1, inner_steps=1, **options), weights, gradients)
    for w, before, gradient in zip(weights, start, gradients, strict=True):
        unit = torch.cat([part / part.norm() for part in gradient.chunk(4)])
        torch.testing.assert_close(w.data, before - 0.1 * unit)


# -- where the weights stand ---------------------------------------------------------------------


@pytest.mark.parametrize("option", [{}, dict(inner_iterate="cumulative"), dict(inner_steps=1)])
def test_committed_shows_the_anchor_and_puts_the_probe_back_to_the_bit(option, rng):
    shapes = [(3, 4), (5,), (2,)]
    weights = random_weights(shapes, rng)
    plain = copy.deepcopy(weights)
    options = dict(lr=0.1, inner_steps=3) | option
    optimizer, untouched = FrankWolfe(weights, **options), FrankWolfe(plain, **options)
    committed = [w.detach().clone() for w in weights]
    for step, gradients in enumerate(random_gradients(shapes, rng, count=7)):
        gradients[2] = None if step < 2 else gradients[2]  # joins in mid-cycle
        feed(optimizer, weights, gradients)
        feed(untouched, plain, gradients)
        if optimizer.inner_step == 0:
            committed = [w.detach().clone() for w in weights]
        probes = [w.detach().clone() for w in weights]
        pointers = [w.data_ptr() for w in weights]
        with optimizer.committed():
            assert all(map(torch.equal, weights, committed))
            assert torch.is_grad_enabled()
        assert all(map(torch.equal, weights, probes))
        assert [w.data_ptr() for w in weights] == pointers
    assert all(map(torch.equal, weights, plain))


def test_committed_puts_the_probe_back_when_its_body_raises(rng):
    [weight] = random_weights([(3,)], rng)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=3)
    feed(optimizer, [weight], [torch.ones(3)])
    probe = weight.detach().clone()

    def evaluate_and_fail():
        with optimizer.committed():
            assert not torch.equal(weight, probe)
            raise KeyError("of the body")

    with pytest.raises(KeyError, match="of the body"):
        evaluate_and_fail()
    assert torch.equal(weight, probe)


def test_committed_before_the_first_step_changes_nothing(rng):
    [weight] = random_weights([(3,)], rng)
    before = weight.detach().clone()
    optimizer = FrankWolfe([weight], lr=0.1)
    with optimizer.committed():
        assert torch.equal(weight, before)
    assert torch.equal(weight, before)
    assert not optimizer.state_dict()["state"]


# -- groups, copies, outer optimizers ------------------------------------------------------------


@pytest.mark.parametrize("outer", ["plain", "adam"])
def test_a_group_added_in_mid_cycle_counts_zero_until_then(outer, rng):
    # The same as a tensor that was there all along without a gradient.
    first, second = random_weights([(3, 4), (5,)], rng)
    twins = copy.deepcopy([first, second])
    options = dict(lr=0.1, inner_steps=3, outer=outer)
    optimizer = FrankWolfe([first], **options)
    whole = FrankWolfe([dict(params=[twins[0]]), dict(params=[twins[1]], lr=0.3)], **options)
    for step, (g1, g2) in enumerate(random_gradients([(3, 4), (5,)], rng, count=9)):
        if step == 4:
            optimizer.add_param_group(dict(params=[second], lr=0.3))
            assert optimizer.inner_step == 1
        feed(optimizer, [first, second], [g1, g2 if step >= 4 else None])
        feed(whole, twins, [g1, g2 if step >= 4 else None])
        torch.testing.assert_close([first.data, second.data], [w.data for w in twins])


def test_a_refused_group_is_not_added(rng):
    first, second = random_weights([(3,), (3,)], rng)
    optimizer = FrankWolfe([first], lr=0.1)
    with pytest.raises(ValueError, match=r"norm=0\.5"):
        optimizer.add_param_group(dict(params=[second], norm=0.5))
    assert len(optimizer.param_groups) == 1
    feed(optimizer, [first], [torch.ones(3)])


@pytest.mark.parametrize(
    "outer",
    [
        "adam",
        functools.partial(torch.optim.SGD, momentum=0.9),
        torch.optim.RMSprop,
        functools.partial(torch.optim.Adam, betas=(0.5, 0.9)),
    ],
)
@pytest.mark.parametrize("copier", [copy.deepcopy, pickled])
def test_a_copy_goes_on_with_its_own_outer_optimizer(copier, outer, rng):
    weights = random_weights([(3, 4), (5,)], rng)
    optimizer = FrankWolfe(weights, lr=0.1, inner_steps=2, outer=outer)
    batches = random_gradients([(3, 4), (5,)], rng, count=10)
    for gradients in batches[:5]:
        feed(optimizer, weights, gradients)
    other_weights, other = copier((weights, optimizer))
    assert other.inner_step == 1
    assert isinstance(other.outer_optimizer, type(optimizer.outer_optimizer))
    for gradients in batches[5:]:
        feed(other, other_weights, gradients)
    between = [w.detach().clone() for w in weights]
    for gradients in batches[5:]:
        feed(optimizer, weights, gradients)
    assert all(map(torch.equal, weights, other_weights))
    assert not any(map(torch.equal, weights, between))  # the copy had left the original alone


def test_the_outer_optimizer_follows_the_learning_rate_of_each_group(rng):
    # Plain SGD outside: w ← w - lr (pseudo-gradient), a step of length lr for a constant direction.
    first, second = parameter(0.0), parameter(0.0)
    groups = [dict(params=[first]), dict(params=[second], lr=0.5)]
    optimizer = FrankWolfe(groups, lr=0.25, inner_steps=1, outer=torch.optim.SGD)
    feed(optimizer, [first, second], [-torch.ones(1), -torch.ones(1)])
    assert (first.item(), second.item()) == (0.25, 0.5)
    optimizer.param_groups[0]["lr"] = 1.0
    feed(optimizer, [first, second], [-torch.ones(1), -torch.ones(1)])
    assert (first.item(), second.item()) == (1.25, 1.0)


def test_a_plain_outer_step_has_no_optimizer():
    optimizer = FrankWolfe([parameter(1.0)], outer="plain")
    with pytest.raises(ValueError, match="plain"):
        _ = optimizer.outer_optimizer


# -- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", torch.ones(2)),
        ("inner_steps", 0),
        ("inner_steps", -3),
        ("inner_steps", 2.0),
        ("inner_steps", True),
        ("radius", -0.1),
        ("radius", math.nan),
        ("radius", math.inf),
        ("norm", 0.5),
        ("norm", "nuclear"),
        ("norm", math.nan),
        ("ball", "layer"),
        ("outer", "sgd"),
        ("outer", None),
        ("weight_decay", -0.1),
        ("weight_decay", math.inf),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", math.nan),
        ("momentum", None),
        ("adapt", -0.1),
        ("adapt", math.nan),
        ("adapt", math.inf),
        ("average", -1),
        ("average", math.nan),
        ("average", math.inf),
        ("scale", "cube"),
        ("eta", -1.0),
        ("eta", math.inf),
        ("inner_weights", "linear"),
        ("inner_iterate", "anchor"),
        ("spectral", "eigh"),
        ("gates", 0),
        ("gates", "lstm"),
        ("gates", 2.5),
    ],
)
def test_an_error_names_the_argument_and_its_value(name, value):
    with pytest.raises(ValueError, match=name) as error:
        FrankWolfe([parameter(1.0)], **{name: value})
    shown = repr(value) if isinstance(value, str) else str(value)
    assert f"{name}={shown}" in str(error.value)


@pytest.mark.parametrize("name", ["lr", "weight_decay", "adapt"])
def test_a_missing_number_is_named(name):
    with pytest.raises(ValueError, match=f"{name}=None"):
        FrankWolfe([parameter(1.0)], **{name: None})


@pytest.mark.parametrize("value", ["8", True])
@pytest.mark.parametrize("name", ["lr", "radius", "eta", "average", "adapt"])
def test_a_word_or_a_truth_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        FrankWolfe([parameter(1.0)], **{name: value})


def test_the_spectral_global_ball_by_entry_is_refused_at_once():
    with pytest.raises(ValueError, match='scale="norm"'):
        FrankWolfe([parameter(1.0)], norm="spectral", ball="global", scale="entry")


@pytest.mark.parametrize("ball", ["gate", "tensor", "global"])
def test_the_unit_by_root_mean_square_is_gone(ball):
    with pytest.raises(ValueError, match="scale='rms'"):
        FrankWolfe([parameter(1.0)], norm="spectral", ball=ball, scale="rms")


@pytest.mark.parametrize(
    ("shared", "first", "second"),
    [
        ("inner_steps", {}, dict(inner_steps=3)),
        ("ball", dict(ball="global"), {}),
        ("ball", {}, dict(ball="global")),
        ("norm", dict(ball="global"), dict(ball="global", norm=3)),
        ("scale", dict(ball="global"), dict(ball="global", scale="norm")),
    ],
)
def test_groups_must_share_what_is_one_for_all(shared, first, second):
    groups = [dict(params=[parameter(1.0)], **first), dict(params=[parameter(1.0)], **second)]
    with pytest.raises(ValueError, match=f"must share {shared}"):
        FrankWolfe(groups, lr=0.1)


def test_complex_tensors_are_refused():
    with pytest.raises(ValueError, match="complex"):
        FrankWolfe([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))])


# -- what a user may trip over ---------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1, 1.5, 2, math.inf, "spectral"])
@pytest.mark.parametrize("ball", ["gate", "global"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_zero_gradient_moves_nothing_whatever_the_average_remembers(norm, ball, nesterov):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    options = dict(norm=norm, ball=ball, scale="norm", nesterov=nesterov, momentum=0.9)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=1, outer="plain", **options)
    feed(optimizer, [weight], [torch.ones(2, 3)])
    moved = weight.detach().clone()
    assert not torch.equal(moved, torch.ones(2, 3))
    for _ in range(3):
        feed(optimizer, [weight], [torch.zeros(2, 3)])
    assert torch.equal(weight, moved)


def test_a_step_in_eval_mode_is_refused():
    weight = parameter(1.0, 2.0)
    optimizer = FrankWolfe([weight], lr=0.1, inner_steps=2)
    feed(optimizer, [weight], [torch.ones(2)])
    probe = weight.detach().clone()
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\) before"):
        optimizer.step()
    optimizer.train()
    assert torch.equal(weight, probe)
    optimizer.step()


@pytest.mark.parametrize("option", VARIANTS, ids=label)
def test_maximize_is_the_negated_gradient_to_the_bit(option, rng):
    # In the constructor and in a group.
    weights = random_weights(SHAPES, rng)
    downhill, uphill, in_group = (copy.deepcopy(weights) for _ in range(3))
    options = dict(lr=0.1) | option
    down, up = FrankWolfe(downhill, **options), FrankWolfe(uphill, maximize=True, **options)
    by_group = FrankWolfe([dict(params=in_group, maximize=True)], **options)
    for gradients in random_gradients(SHAPES, rng, count=7):
        feed(down, downhill, [-g for g in gradients])
        feed(up, uphill, gradients)
        feed(by_group, in_group, gradients)
        for w, g in zip(uphill, gradients, strict=True):
            assert torch.equal(w.grad, g)
    for a, b, c in zip(downhill, uphill, in_group, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("outer", ["adam", torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_outer_optimizer_of_half_precision_weights_keeps_its_state_in_single(outer, dtype, rng):
    # Squares of entries below 2e-4 are zero in float16, and Adam would divide by them.
    weights = [
        torch.nn.Parameter(w.detach().to(dtype)) for w in random_weights([(3, 4), (5,)], rng)
    ]
    wide = [torch.nn.Parameter(w.detach().float()) for w in weights]
    options = dict(lr=0.01, inner_steps=2, outer=outer, norm=2, scale="norm")
    optimizer, twin = FrankWolfe(weights, **options), FrankWolfe(wide, **options)
    for gradients in random_gradients([(3, 4), (5,)], rng, count=8):
        feed(optimizer, weights, [1e-5 * g for g in gradients])
        feed(twin, wide, [1e-5 * g for g in gradients])
    for w, other in zip(weights, wide, strict=True):
        assert w.dtype == dtype
        torch.testing.assert_close(w.data.float(), other.data, rtol=0.05, atol=0.02)
        kept = {k: v for k, v in optimizer.state[w]["outer"].items() if k != "step"}
        assert kept
        assert all(v.dtype == torch.float32 for v in kept.values())
    saved = through_a_file(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.load_state_dict(saved)
    for key, entries in optimizer.state_dict()["state"].items():
        for name, value in entries["outer"].items():
            assert torch.equal(value, before[key]["outer"][name])
            assert name == "step" or value.dtype == torch.float32


def test_a_state_saved_in_single_precision_serves_double(rng):
    weight = torch.nn.Parameter(torch.randn(3, generator=rng).float())
    double = torch.nn.Parameter(weight.detach().double())
    options = dict(lr=0.01, inner_steps=2, outer="adam")
    optimizer, other = FrankWolfe([weight], **options), FrankWolfe([double], **options)
    for _ in range(3):
        feed(optimizer, [weight], [torch.ones(3)])
    other.load_state_dict(optimizer.state_dict())
    for _ in range(4):
        feed(other, [double], [torch.ones(3)])
    assert double.isfinite().all()


def test_a_state_with_another_outer_optimizer_is_refused():
    adam, plain = (FrankWolfe([parameter(1.0)], lr=0.1, outer=o) for o in ("adam", "plain"))
    with pytest.raises(ValueError, match="outer='adam', got outer='plain'"):
        plain.load_state_dict(adam.state_dict())


def test_gates_are_recognised_by_name_wherever_the_tensors_stand():
    model = torch.nn.ModuleDict(
        {"rnn": torch.nn.GRU(5, 4, num_layers=2, bidirectional=True), "out": torch.nn.Linear(8, 24)}
    )
    names, tensors = zip(*reversed(list(model.named_parameters())), strict=True)
    shapes = tuple(t.shape for t in tensors)
    expected = tuple(3 if name.startswith("rnn") else 1 for name in names)
    assert count_gates(shapes, "auto", names) == expected
    matrices = [i for i, t in enumerate(tensors) if t.ndim == 2]  # as a group with weight decay has
    chosen = [tuple(values[i] for i in matrices) for values in (shapes, names, expected)]
    assert count_gates(chosen[0], "auto", chosen[1]) == chosen[2]


def test_named_parameters_of_a_plain_network_stack_no_gates():
    elman, linear = torch.nn.RNN(5, 4), torch.nn.Linear(4, 16)
    for module in (elman, linear):
        names, tensors = zip(*module.named_parameters(), strict=True)
        assert set(count_gates(tuple(t.shape for t in tensors), "auto", names)) == {1}


@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_group_at_learning_rate_zero_stays_put_beside_one_that_moves(outer, inner_steps):
    # Neither its probes, whose radius is fixed, nor a step of eta radii may move it.
    still, moving = parameter(1.0, 2.0), parameter(1.0, 2.0)
    groups = [dict(params=[still], lr=0.0), dict(params=[moving])]
    fixed = dict(lr=0.1, radius=0.5, eta=1.0)
    optimizer = FrankWolfe(groups, inner_steps=inner_steps, outer=outer, **fixed)
    for _ in range(2 * inner_steps):
        feed(optimizer, [still, moving], [torch.ones(2)] * 2)
        assert torch.equal(still, torch.tensor([1.0, 2.0]))
    assert not torch.equal(moving, torch.tensor([1.0, 2.0]))


def test_the_muon_row_of_the_readme_is_muon(rng):
    start = torch.randn(6, 4, generator=rng)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    lr = 0.01
    muon = torch.optim.Muon([theirs], lr, adjust_lr_fn="match_rms_adamw")
    options = dict(momentum=0.95, nesterov=True, weight_decay=0.5, spectral="newton-schulz")
    options |= dict(norm="spectral", inner_steps=1, outer="plain", scale="entry")
    optimizer = FrankWolfe([ours], lr=0.2 * lr, **options)
    for _ in range(5):
        gradient = torch.randn(6, 4, generator=rng)
        feed(optimizer, [ours], [gradient])
        feed(muon, [theirs], [gradient])
    torch.testing.assert_close(ours, theirs)
