"""What the kernels of norm="learnt" promise: the numbers of torch's path, and its state.

The twins are learnt_ball.vertex, which test_learnt_ball.py holds to the equations, and the plain
commit of inner_loop.py. What a kernel cannot take goes the plain path.
"""

import copy
import math

import pytest
import torch
from cases import crossed
from plain_recurrent import load_variant, needs_kernels, switch_off, variants
from stepping import feed, frank_wolfe, normals, through_a_file
from torch import nn

from rnnopt import SequenceModel
from rnnopt.layers.kernels import cpu
from rnnopt.optimizers.frank_wolfe import learnt_kernel
from rnnopt.optimizers.frank_wolfe.learnt_ball import create_ball, vertex

pytestmark = needs_kernels

OPTIONS = dict(momentum=0.9, nesterov=True, adapt=0.03)
SHAPES = [
    (1, 5, 5), (1, 7, 3), (3, 4, 9), (4, 6, 11), (1, 1, 6), (1, 6, 1), (2, 1, 1), (1, 17, 33),
    (1, 40, 70), (2, 33, 16),
]  # fmt: skip


def gradients(shape, rng, count, dtype=torch.float64):
    """Normal gradients around one direction, with what may go wrong among them."""
    mean = torch.randn(shape, generator=rng, dtype=torch.float64)
    given = [mean + torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(count)]
    given[20] *= 1e6
    given[30][-1, -1, -1] = math.nan
    given[31][0, 0, 0] = math.inf
    given[40].zero_()
    for g in given[50:150]:
        g[:, 0] = 0.0  # a row without a gradient
    for g in given[100:]:
        g[:, :, -1] = 0.0  # and a column
    return [g.to(dtype) for g in given]


def kernel_step(ball, gradient, **options):
    """What `vertex` returns, by the kernel."""
    flat, step = gradient.flatten(0, 1), torch.full_like(gradient.flatten(0, 1), math.nan)
    assert learnt_kernel.can_step(ball, [flat, step])
    learnt_kernel.take_step(ball, [flat], [gradient.shape[2]], [step], 1.0, OPTIONS | options)
    return step.view_as(gradient)


def both_paths(given, bases=True, **options):
    """Answers of torch's path and of the kernel, which begins at the second step, and the balls."""
    options = OPTIONS | options
    balls = [create_ball(given[0], bases) for _ in range(2)]
    first = [vertex(ball, given[0].clone(), **options) for ball in balls]
    plain = [first[0]] + [vertex(balls[0], g.clone(), **options) for g in given[1:]]
    found = [first[1]] + [kernel_step(balls[1], g, **options) for g in given[1:]]
    return torch.stack(plain), torch.stack(found), balls


def check_balls(found, expected, tolerance):
    """The same state but for the signs of eigenvectors."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        mine = found[name]
        if isinstance(value, torch.Tensor):
            assert mine.shape == value.shape
            if name in ("mean", "left_basis", "right_basis"):
                mine, value = mine.abs(), value.abs()
        torch.testing.assert_close(mine, value, rtol=tolerance, atol=tolerance)


def orthogonality(ball):
    """The largest entry of Q'Q - I."""
    bases = [value for name, value in ball.items() if name.endswith("_basis")]
    return max(float((q.mT @ q - torch.eye(q.shape[1]).to(q)).abs().max()) for q in bases)


def calls(monkeypatch):
    """Names of the kernels called from now on."""
    names, call = [], cpu.call

    def noted(name, *arguments):
        names.append(name)
        call(name, *arguments)

    monkeypatch.setattr(cpu, "call", noted)
    return names


# -- the ball --------------------------------------------------------------------------------------


@crossed(("variant", variants()), ("shape", SHAPES))
def test_three_hundred_steps_are_those_of_torch(variant, shape, rng, monkeypatch):
    load_variant(monkeypatch, variant)
    expected, found, balls = both_paths(gradients(shape, rng, 300))
    # Where no gradient has been, the shift magnifies rounding by 1 / SHIFT.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    check_balls(balls[1], balls[0], 1e-6)


@pytest.mark.parametrize("options", [dict(nesterov=False), dict(momentum=0.0), dict(adapt=0.0)])
def test_options_are_those_of_torch(options, rng):
    expected, found, _ = both_paths(gradients((2, 6, 9), rng, 160), **options)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 6, 1), (1, 5, 7)])
def test_without_bases_too(shape, rng):
    expected, found, balls = both_paths(gradients(shape, rng, 300), bases=False)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert "left" not in balls[1]


@crossed(("variant", variants()), ("shape", [(1, 5, 5), (3, 20, 31), (4, 17, 40), (1, 64, 66)]))
def test_single_precision_rounds_and_no_more(variant, shape, rng, monkeypatch):
    load_variant(monkeypatch, variant)
    mean = torch.randn(shape, generator=rng)
    given = [mean + torch.randn(shape, generator=rng) for _ in range(300)]
    expected, found, balls = both_paths(given)
    assert (found - expected).flatten(1).norm(dim=1).max() < 2e-3 * expected[0].norm()
    assert found.dtype == balls[1]["squares"].dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 40, 70), (3, 20, 31)])
def test_bases_stay_orthogonal_for_two_thousand_steps(shape, rng, monkeypatch):
    monkeypatch.setattr(learnt_kernel.learnt_ball, "FRESH", 2000)  # a turn at every step
    spread = torch.logspace(0, -6, shape[2])
    ball = create_ball(torch.zeros(shape), bases=True)
    vertex(ball, torch.randn(shape, generator=rng), **OPTIONS)
    for t in range(2000):
        # In between none for so long that the matrices all but vanish.
        size = 0.0 if 500 <= t < 1200 else 1.0
        kernel_step(ball, size * torch.randn(shape, generator=rng) * spread)
    assert orthogonality(ball) < 1e-5


def test_a_gradient_is_read_only_and_the_same_step_is_bitwise_the_same(rng):
    given = gradients((3, 7, 9), rng, 60, torch.float32)
    kept = copy.deepcopy(given)
    first, second = (both_paths(given)[1] for _ in range(2))
    assert torch.equal(first, second)
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(given, kept, strict=True)
    )


def test_columns_come_from_several_tensors_and_go_to_some_of_them(rng):
    # Three tensors of 4, 2 and 1 columns; the second has no gradient, the first one stays where it
    # is, and the last one has a twin.
    whole = torch.randn(2, 5, 7, generator=rng)
    whole[:, :, 4:6] = 0.0
    ball = create_ball(whole, bases=True)
    vertex(ball, whole.clone(), **OPTIONS)
    balls = [ball, copy.deepcopy(ball)]
    expected = 3 * kernel_step(balls[0], whole).flatten(0, 1)
    parts = [
        whole[:, :, :4].flatten(0, 1).contiguous(),
        None,
        whole[:, :, 6].flatten().contiguous(),
    ]
    assert learnt_kernel.can_step(balls[1], parts)
    steps = [None, torch.empty(10, 2), torch.empty(10), torch.empty(10)]
    learnt_kernel.take_step(balls[1], parts, [4, 2, 1], steps, 3.0, OPTIONS)
    torch.testing.assert_close(steps[1], expected[:, 4:6])
    torch.testing.assert_close(steps[2], expected[:, 6] / 2)
    assert torch.equal(steps[2], steps[3])


@pytest.mark.parametrize("name", ["left_basis", "right_basis", "squares", "mean"])
def test_a_state_that_lies_otherwise_in_memory_is_the_same(name, rng):
    given = gradients((2, 5, 7), rng, 60)
    ball = both_paths(given)[2][1]
    other = copy.deepcopy(ball)
    transposed = ball[name].mT.contiguous().mT
    other[name] = ball[name].contiguous() if name.endswith("_basis") else transposed
    assert other[name].stride() != ball[name].stride()
    assert torch.equal(kernel_step(ball, given[0]), kernel_step(other, given[0]))


# -- the optimizer ---------------------------------------------------------------------------------

CELLS = ("rnn", "gru", "lstm")


def network(cell="rnn", dtype=torch.float64):
    torch.manual_seed(0)
    return SequenceModel(3, 9, 4, cell=cell).to(dtype)


def train(weights, optimizer, given, lr=1e-2):
    """Steps at a falling rate; the weights after them, and those to evaluate."""
    for t, one in enumerate(given):
        optimizer.param_groups[0]["lr"] = lr * (1 - t / len(given))
        feed(optimizer, weights, one)
    with optimizer.committed():
        shown = [w.detach().clone() for w in weights]
    return [w.detach().clone() for w in weights] + shown


def draw(weights, rng, count):
    """Made gradients; where the second biases of a network are, those of the first."""
    given = normals([w.shape for w in weights], rng, count)
    for gradients in given:
        if len(gradients) > 4:
            gradients[3] = gradients[2].clone()
    return given


SETTINGS = [
    dict(),
    dict(weight_decay=0.1),
    dict(weight_decay=0.1, decoupled_weight_decay=False, maximize=True),
    dict(average=None, growth_decay=0.0),
    dict(eta=0.5, radius=0.02, growth_decay=10.0),
    dict(inner_steps=3),
    dict(outer="adam"),
    dict(ball="tensor", average=0.0),
]


@crossed(("settings", SETTINGS), ("cell", CELLS))
def test_a_network_is_trained_alike_by_both_paths(settings, cell, rng, monkeypatch):
    results = []
    given = [list(one) for one in draw(list(network(cell).parameters()), rng, 60)]
    for path in ("kernel", "torch"):
        if path == "torch":
            switch_off(monkeypatch)
        weights = list(network(cell).parameters())
        optimizer = frank_wolfe(weights, norm="learnt", **settings)
        results.append(train(weights, optimizer, given))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("frozen", [(2,), (3,), (0, 1), (2, 3)], ids=str)
def test_frozen_tensors_stay_in_both_paths(frozen, rng, monkeypatch):
    results = []
    # A column without any gradient leaves the order of eigenvectors to rounding, which grows by
    # 1 / SHIFT at each turn: few steps.
    given = draw(list(network().parameters()), rng, 6)
    given = [[None if i in frozen else g for i, g in enumerate(one)] for one in given]
    for path in ("kernel", "torch"):
        if path == "torch":
            switch_off(monkeypatch)
        weights = list(network().parameters())
        optimizer = frank_wolfe(weights, norm="learnt")
        results.append(train(weights, optimizer, given))
    for i, (found, expected) in enumerate(zip(*results, strict=True)):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        if i in frozen:
            assert torch.equal(found, list(network().parameters())[i])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("first", ["kernel", "torch"])
def test_a_run_goes_on_in_the_other_path(first, cell, rng, monkeypatch):
    given = draw(list(network(cell).parameters()), rng, 60)
    weights = list(network(cell).parameters())
    expected = train(weights, frank_wolfe(weights, norm="learnt"), given)
    optimizer, weights = None, list(network(cell).parameters())
    for half, path in enumerate(("kernel", "torch") if first == "kernel" else ("torch", "kernel")):
        with monkeypatch.context() as patch:
            if path == "torch":
                switch_off(patch)
            before = optimizer
            optimizer = frank_wolfe(weights, norm="learnt")
            if before is not None:
                optimizer.load_state_dict(through_a_file(before.state_dict()))
            for t in range(30 * half, 30 * half + 30):
                optimizer.param_groups[0]["lr"] = 1e-2 * (1 - t / 60)
                feed(optimizer, weights, given[t])
    with optimizer.committed():
        shown = [w.detach().clone() for w in weights]
    for found, wanted in zip([*weights, *shown], expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-8, atol=1e-8)


def test_the_kernels_take_every_step_but_the_first_and_every_commit(rng, monkeypatch):
    names = calls(monkeypatch)
    weights = list(network(dtype=torch.float32).parameters())
    optimizer = frank_wolfe(weights, norm="learnt")
    for one in draw(weights, rng, 3):
        feed(optimizer, weights, one)
    assert names == ["commit"] + ["learnt_ball", "learnt_ball", "commit"] * 2


@pytest.mark.parametrize(
    "what",
    [
        "half precision",
        "gradient of another layout",
        "lazily negated",
        "long side",
        "several threads",
    ],
)
def test_what_the_kernel_cannot_take_goes_the_plain_path(what, rng, monkeypatch):
    names = calls(monkeypatch)
    dtype = torch.bfloat16 if what == "half precision" else torch.float32
    weights = [nn.Parameter(torch.randn(6, 5, generator=rng).to(dtype))]
    if what == "long side":
        monkeypatch.setattr(learnt_kernel, "LARGEST_SIDE", 5)
    if what == "several threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        monkeypatch.setattr(learnt_kernel, "LARGEST_SIDE_OF_MANY", 5)
    optimizer = frank_wolfe(weights, norm="learnt")
    before = weights[0].detach().clone()
    for [gradient] in draw(weights, rng, 3):
        if what == "gradient of another layout":
            gradient = gradient.T.contiguous().T
        if what == "lazily negated":
            gradient = torch._neg_view(gradient)
        weights[0].grad = gradient.to(dtype)
        optimizer.step()
    assert "learnt_ball" not in names
    assert not torch.equal(weights[0], before)


def test_other_norms_keep_their_commit(rng, monkeypatch):
    names = calls(monkeypatch)
    weights = list(network().parameters())
    optimizer = frank_wolfe(weights, norm="spectral")
    feed(optimizer, weights, draw(weights, rng, 1)[0])
    assert "commit" not in names


def test_autograd_learns_of_the_kernels_writes(rng):
    weight = nn.Parameter(torch.randn(4, 3, generator=rng))
    optimizer = frank_wolfe([weight], norm="learnt")
    loss = (weight**2).sum()  # keeps the weight for backward
    for [gradient] in draw([weight], rng, 2):
        feed(optimizer, [weight], [gradient])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_values_written_from_outside_restart_the_mean_in_both_paths(rng, monkeypatch):
    shown = []
    given = draw(list(network().parameters()), rng, 20)
    for path in ("kernel", "torch"):
        if path == "torch":
            switch_off(monkeypatch)
        weights = list(network().parameters())
        optimizer = frank_wolfe(weights, norm="learnt", average=0.0)
        train(weights, optimizer, given[:10])
        with torch.no_grad():
            weights[1][0] += 1.0
        shown.append(train(weights, optimizer, given[10:]))
    for found, expected in zip(*shown, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_a_gradient_of_a_replaced_tensors_old_size_is_an_error(rng):
    weight = torch.nn.Parameter(torch.ones(9, 4))
    optimizer = frank_wolfe([weight], norm="learnt")
    for one in draw([weight], rng, 2):
        feed(optimizer, [weight], one)
    weight.data = torch.ones(3, 4)
    weight.grad = torch.ones(3, 4)
    weight.data = torch.ones(9, 4)
    with pytest.raises(RuntimeError):
        optimizer.step()
