"""What FrankWolfe(norm="learnt") promises beside what every optimizer does: blocks of tensors in
learnt balls, growth decay, and the mean whose horizon follows the learning rate.

The mathematics of a ball is in test_learnt_ball.py, the choice of blocks in test_blocks.py, torch's
contract in test_every_optimizer.py and test_torch_contract.py.
"""

import copy
import math
import pickle

import pytest
import torch
from messages import naming
from plain_learnt_ball import PlainBall
from stepping import feed, frank_wolfe, normals, parameter, steps_of, stream, through_a_file
from torch import nn
from torch.optim import lr_scheduler

from rnnopt import FrankWolfe, FrankWolfeOptions
from rnnopt.optimizers.frank_wolfe.learnt_ball import vertex
from rnnopt.training.registry import build_optimizer

pytestmark = pytest.mark.usefixtures("double_precision")

PLAIN = dict(lr=0.1, norm="learnt", growth_decay=0.0, average=None, momentum=0.9)


def learnt(params, **options):
    return frank_wolfe(params, **PLAIN | options)


def network(kind=nn.LSTM, seed=0, **options):
    """A recurrent layer of 4 units and 3 inputs, and a read-out of 2 outputs."""
    torch.manual_seed(seed)
    return nn.Sequential(kind(3, 4, **options), nn.Linear(4, 2))


def drawn(model, rng, count):
    """Made gradients of `network`; b_ih + b_hh has one, but in a GRU."""
    given = normals([p.shape for p in model.parameters()], rng, count)
    if model[0].bias and not isinstance(model[0], nn.GRU):
        for gradients in given:
            gradients[3] = gradients[2].clone()
    return given


def train(model, optimizer, given):
    """Streaming steps with made gradients; the weights after each."""
    seen = []
    for gradients in given:
        feed(optimizer, list(model.parameters()), gradients)
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return torch.stack(seen)


# -- blocks in, displacements out ------------------------------------------------------------------

LAYERS = {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}


@pytest.mark.parametrize("ball", ["gate", "tensor"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_network_is_stepped_as_its_blocks_are(kind, ball, rng):
    model = network(kind)
    gates = LAYERS[kind] if ball == "gate" else 1
    optimizer = learnt(model.parameters(), ball=ball)
    expected = [p.detach().clone() for p in model.parameters()]
    rows = 4 * LAYERS[kind]
    columns = 9 if kind is nn.GRU else 8  # [W_ih W_hh b_ih], and the second bias of a GRU
    cell, readout = PlainBall(gates, rows // gates, columns), PlainBall(1, 2, 5)
    for gradients in drawn(model, rng, 15):
        feed(optimizer, list(model.parameters()), gradients)
        parts = [g.view(rows, -1) for g in gradients[:4]]
        matrix = torch.cat(parts if kind is nn.GRU else parts[:3], 1)
        S = cell.vertex(matrix.view(gates, rows // gates, columns)).view(rows, columns)
        both = [S[:, 7], S[:, 8]] if kind is nn.GRU else [S[:, 7] / 2, S[:, 7] / 2]
        out = 3 * readout.vertex(torch.cat([gradients[4], gradients[5][:, None]], 1)[None])[0]
        steps = [S[:, :3], S[:, 3:7], *both, out[:, :4], out[:, 4]]
        expected = [w + 0.1 * s for w, s in zip(expected, steps, strict=True)]
        for p, w in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(p.detach(), w, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("trained", [(0, 1, 2, 3), (2, 3), (3,), (0, 3), (1,)], ids=str)
def test_the_sum_of_two_biases_moves_as_far_whichever_is_trained(trained, rng):
    layer = nn.RNN(3, 4)
    params = list(layer.parameters())
    for i, p in enumerate(params):
        p.requires_grad_(i in trained)
    before = [p.detach().clone() for p in params]
    optimizer = learnt(params)
    gradients = normals([p.shape for p in params], rng, 1)[0]
    gradients[3] = gradients[2]
    feed(optimizer, params, [g if i in trained else None for i, g in enumerate(gradients)])
    moved = [not torch.equal(*pair) for pair in zip(before, params, strict=True)]
    assert moved == [i in trained for i in range(4)]
    ball = PlainBall(1, 4, 8)
    there = [gradients[0], gradients[1], gradients[2][:, None]]
    kept = [i in trained for i in (0, 1)] + [2 in trained or 3 in trained]
    G = torch.cat([g * k for g, k in zip(there, kept, strict=True)], 1)
    S = 0.1 * ball.vertex(G[None])[0]
    if kept[2]:
        total = params[2] + params[3] - before[2] - before[3]
        torch.testing.assert_close(total.detach(), S[:, 7])
    if 0 in trained:
        torch.testing.assert_close((params[0] - before[0]).detach(), S[:, :3])


@pytest.mark.parametrize("resumed", [False, True])
def test_a_normalisation_after_two_matrices_is_no_pair_of_biases(resumed, rng):
    # Without names its shapes are those of a recurrent layer, but each tensor has its own gradient.
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False), nn.LayerNorm(4))
    optimizer = learnt(model.parameters())
    shapes = [p.shape for p in model.parameters()]
    train(model, optimizer, [[torch.zeros(s) for s in shapes]])  # says nothing yet
    ball = PlainBall(1, 4, 1, bases=False)
    for gradients in normals(shapes, rng, 6):
        before = [p.detach().clone() for p in model.parameters()]
        feed(optimizer, list(model.parameters()), gradients)
        if resumed:
            state = through_a_file(optimizer.state_dict())
            optimizer = learnt(model.parameters())
            optimizer.load_state_dict(state)
        step = 0.1 * ball.vertex(gradients[3].view(1, 4, 1)).view(4)
        torch.testing.assert_close(model[2].bias.detach(), before[3] + step)


def test_biases_and_scalars_alone_are_stepped_as_adam_would(rng):
    for shape in [(5,), ()]:
        weight = nn.Parameter(torch.zeros(shape))
        given = [torch.randn(shape, generator=rng) for _ in range(20)]
        found = steps_of(learnt([weight]), weight, given)
        ball = PlainBall(1, weight.numel(), 1, bases=False)
        expected = torch.stack([0.1 * ball.vertex(g.view(1, -1, 1)).view(shape) for g in given])
        torch.testing.assert_close(found, expected)


def test_layers_without_inputs_are_stepped():
    weight, bias = nn.Parameter(torch.ones(4, 0)), nn.Parameter(torch.ones(4))
    params = [weight, bias, nn.Parameter(torch.ones(0, 3))]
    feed(learnt(params), params, [torch.ones_like(p) for p in params])
    assert (bias < 1).all()


def test_rows_of_an_embedding_that_are_not_looked_up_stay():
    table = nn.Embedding(6, 4)
    start = table.weight.detach().clone()
    optimizer = learnt(table.parameters())
    for words in ([0, 1, 2], [1, 2], [2], [2]):
        before = table.weight.detach().clone()
        optimizer.zero_grad()
        table(torch.tensor(words)).square().sum().backward()
        optimizer.step()
        moved = (table.weight != before).any(1).nonzero().flatten().tolist()
        assert moved == words
    assert torch.equal(table.weight[3:], start[3:])


def test_growth_decay_shrinks_rows_that_are_not_looked_up():
    # The growth by noise is that of the matrix, and so is its decay.
    torch.manual_seed(0)
    table = nn.Embedding(6, 4)
    start = table.weight[5].detach().clone()
    optimizer = learnt(table.parameters(), growth_decay=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        (table(torch.tensor([0, 1, 2])) - 9).square().sum().backward()
        optimizer.step()
    end = table.weight[5].detach()
    torch.testing.assert_close(end / end.norm(), start / start.norm())
    assert 0 < end.norm() < start.norm()


def test_a_gradient_that_is_not_finite_stops_its_block_alone(rng):
    model = network(nn.RNN)
    params = list(model.parameters())
    optimizer = learnt(params)
    given = drawn(model, rng, 6)
    given[2][1][0, 0] = math.nan
    before = train(model, optimizer, given[:2])[-1]
    after = train(model, optimizer, given[2:3])[-1]
    cell = sum(p.numel() for p in params[:4])
    assert torch.equal(after[:cell], before[:cell])
    assert (after[cell:] != before[cell:]).all()
    later = train(model, optimizer, given[3:])[-1]
    assert later.isfinite().all()
    assert (later != after).all()


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_displacement_is_the_mean_of_the_vertices(inner_steps, rng):
    weight = nn.Parameter(torch.zeros(3, 4))
    given = [torch.randn(3, 4, generator=rng) for _ in range(2 * inner_steps)]
    stream(learnt([weight], inner_steps=inner_steps), weight, given)
    ball = PlainBall(1, 3, 4)
    total = sum(ball.vertex(g[None])[0] for g in given) / inner_steps
    torch.testing.assert_close(weight.detach(), 0.1 * total)


def test_l2_regularisation_is_part_of_the_gradient(rng):
    weight, other = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    optimizer = learnt([weight], weight_decay=0.5, decoupled_weight_decay=False)
    twin = learnt([other])
    for g in normals([(3, 4)], rng, 10):
        feed(twin, [other], [g[0] + 0.5 * other.detach()])
        feed(optimizer, [weight], g)
        torch.testing.assert_close(weight, other)


def test_groups_have_their_own_rates_momentum_and_adaptation(rng):
    options = [dict(lr=0.1), dict(lr=0.2, momentum=0.5), dict(lr=0.1, adapt=0.0, nesterov=False)]
    weights = [nn.Parameter(torch.zeros(3, 4)) for _ in options]
    groups = [{"params": [w], **o} for w, o in zip(weights, options, strict=True)]
    optimizer = learnt(groups)
    expected = [torch.zeros(3, 4) for _ in options]
    balls = [PlainBall(1, 3, 4) for _ in options]
    for g in normals([(3, 4)], rng, 12):
        feed(optimizer, weights, g * 3)
        for i, (ball, option) in enumerate(zip(balls, options, strict=True)):
            told = {k: v for k, v in option.items() if k != "lr"}
            expected[i] = expected[i] + option["lr"] * ball.vertex(g[0][None], **told)[0]
    for weight, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted)


# -- what changes during training ------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_every_member_may_miss_gradients_now_and_then(kind, rng):
    model = network(kind)
    optimizer = learnt(model.parameters(), average=8.0)
    params = list(model.parameters())
    for gradients in drawn(model, rng, 40):
        there = [bool(torch.rand((), generator=rng) < 0.5) for _ in params]
        before = [p.detach().clone() for p in params]
        feed(optimizer, params, [g if t else None for g, t in zip(gradients, there, strict=True)])
        assert [not torch.equal(*pair) for pair in zip(before, params, strict=True)] == there
        assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("frozen", [(0,), (2,), (3,), (0, 1, 2, 3), (4,)], ids=str)
def test_the_ball_outlives_what_is_frozen_and_unfrozen(frozen, rng):
    # Frozen in the middle and unfrozen later: as without gradients meanwhile.
    given = drawn(network(), rng, 15)
    ends = []
    for freeze in (False, True):
        model = network()
        params = list(model.parameters())
        optimizer = learnt(params)
        for step, gradients in enumerate(given):
            away = frozen if 5 <= step < 10 else ()
            for i, p in enumerate(params):
                p.requires_grad_(not (freeze and i in away))
            before = [p.detach().clone() for p in params]
            told = [None if i in away else g for i, g in enumerate(gradients)]
            feed(optimizer, params, told)
            assert all(torch.equal(params[i], before[i]) for i in away)
            if step == 7:  # a checkpoint meanwhile
                state = through_a_file(optimizer.state_dict())
                optimizer = learnt(params)
                optimizer.load_state_dict(state)
        ends.append([p.detach().clone() for p in params])
        assert sum("ball" in optimizer.state[p] for p in params) == 2
    assert all(map(torch.equal, *ends))


def test_a_group_may_join_in_the_middle_of_a_cycle(rng):
    model = network()
    optimizer = learnt(model[0].parameters(), inner_steps=3)
    given = drawn(model, rng, 10)
    train(model[0], optimizer, [g[:4] for g in given[:4]])
    optimizer.add_param_group(dict(params=model[1].parameters(), lr=0.05))
    seen = train(model, optimizer, given[4:])
    assert seen.isfinite().all()
    assert (seen[-1] != seen[0]).all()
    assert optimizer.param_groups[1]["peak_lr"] == 0.05


def test_a_state_of_other_blocks_begins_balls_anew(rng):
    # Without biases only names tell that two matrices are one.
    model = network(bias=False)
    given = drawn(model, rng, 6)
    unnamed = learnt(model.parameters())
    train(model, unnamed, given[:3])
    named = learnt(model.named_parameters())
    named.load_state_dict(unnamed.state_dict())
    assert train(model, named, given[3:]).isfinite().all()


def test_momentum_may_be_cycled(rng):
    model = network()
    optimizer = learnt(model.parameters(), average=8.0)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    for gradients in drawn(model, rng, 20):
        feed(optimizer, list(model.parameters()), gradients)
        scheduler.step() if scheduler.last_epoch < 19 else None
    assert all(p.isfinite().all() for p in model.parameters())
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


def test_chunks_of_a_long_sequence_are_learnt_from():
    # Truncated back-propagation: the state goes on between chunks. The task: yesterday's input.
    torch.manual_seed(0)
    layer, output = nn.RNN(1, 8), nn.Linear(8, 1)
    params = [*layer.named_parameters(), *((f"o.{n}", p) for n, p in output.named_parameters())]
    optimizer = FrankWolfe(params, lr=0.01, norm="learnt")
    inputs = torch.randn(600, 16, 1)
    hidden, losses = torch.zeros(1, 16, 8), []
    for chunk in range(0, 600, 10):
        x = inputs[chunk : chunk + 10]
        states, hidden = layer(x, hidden.detach())
        loss = (output(states)[1:] - x[:-1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_a_tied_weight_is_stepped_once_by_the_sum_of_its_gradients():
    torch.manual_seed(0)
    table, output = nn.Embedding(5, 4), nn.Linear(4, 5)
    output.weight = table.weight
    model = nn.Sequential(table, nn.Linear(4, 4), output)
    optimizer = learnt(model.parameters())
    words = torch.tensor([0, 1, 2, 3, 4])
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(words), words.roll(1)).backward()
        ball = copy.deepcopy(optimizer.state[table.weight].get("ball"))
        before = table.weight.detach().clone()
        optimizer.step()
        assert output.weight is table.weight
        if ball is not None:
            step = 0.1 * vertex(ball, table.weight.grad[None], momentum=0.9)[0]
            torch.testing.assert_close(table.weight.detach(), before + step)
    balls = [state for state in optimizer.state.values() if "ball" in state]
    assert len(balls) == 3  # the shared matrix, the layer between, the output's bias


# -- precision and checkpoints ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_ball_is_kept_in_single_precision_at_least(dtype, rng):
    model = network().to(dtype)
    optimizer = frank_wolfe(model.parameters(), lr=0.01, norm="learnt")
    train(model, optimizer, drawn(model, rng, 5))
    state = optimizer.state_dict()
    wide = torch.promote_types(dtype, torch.float32)
    balls = [entries["ball"] for entries in state["state"].values() if "ball" in entries]
    assert len(balls) == 2
    for ball in balls:
        assert all(x.dtype == wide for x in ball.values() if isinstance(x, torch.Tensor))
    other_model = network().to(dtype)
    other_model.load_state_dict(model.state_dict())
    other = frank_wolfe(other_model.parameters(), lr=0.01, norm="learnt")
    other.load_state_dict(through_a_file(state))
    for entries in other.state_dict()["state"].values():
        for x in entries.get("ball", {}).values():
            assert not isinstance(x, torch.Tensor) or x.dtype == wide
    given = drawn(model, rng, 5)
    assert torch.equal(train(model, optimizer, given), train(other_model, other, given))


def test_members_of_several_types_share_a_ball(rng):
    weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.bfloat16))
    bias = nn.Parameter(torch.zeros(4, dtype=torch.float32))
    optimizer = learnt([weight, bias])
    for g in normals([(4, 3), (4,)], rng, 5):
        feed(optimizer, [weight, bias], g)
    [ball] = [state["ball"] for state in optimizer.state.values() if "ball" in state]
    assert ball["mean"].shape == (1, 4, 4)
    assert (weight.dtype, bias.dtype) == (torch.bfloat16, torch.float32)
    assert weight.all()
    assert bias.all()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("at", [1, 2, 7, 201])
def test_copies_go_on_to_the_bit_at_any_step(copier, at, rng):
    model = nn.Sequential(nn.RNN(2, 3), nn.Linear(3, 2))
    optimizer = frank_wolfe(model.parameters(), lr=0.01, norm="learnt", inner_steps=2)
    train(model, optimizer, drawn(model, rng, at))
    other_model, other = copier((model, optimizer))
    given = drawn(model, rng, 12)
    assert torch.equal(train(model, optimizer, given), train(other_model, other, given))


# -- growth decay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.85, 0.0])
def test_a_step_of_growth_decay_by_hand(momentum):
    # W of norm 2 has grown from norm 1. A constant gradient of rank one makes a step S of norm
    # 1/(1 + 0.001/2): one entry of the box, of 4. The rate is ½ · 0.5 · h · (0.1 |S| / 2)² ·
    # (1 - 1/4), with the horizon h = (1+μ)/(1-μ).
    weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    optimizer = learnt([weight], growth_decay=0.5, adapt=0.0, momentum=momentum)
    g = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    feed(optimizer, [weight], [g])
    with torch.no_grad():
        weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    feed(optimizer, [weight], [g])
    S = 1 / (1 + 0.001 / 2)
    rate = 0.5 * 0.5 * (1 + momentum) / (1 - momentum) * (0.1 * S / 2) ** 2 * 0.75
    assert float(weight[0, 0].detach()) == pytest.approx(2 * (1 - rate), rel=1e-6)


@pytest.mark.parametrize(("value", "wanted"), [(0.0, 2.0), (0.001, 2.0), (0.1, 0.6**0.5)])
def test_growth_counts_from_the_first_norm_or_that_of_usual_weights(value, wanted):
    weight = nn.Parameter(torch.full((12, 5), value))
    optimizer = learnt([weight], growth_decay=0.5)
    feed(optimizer, [weight], [torch.ones(12, 5)])
    assert float(optimizer.state[weight]["start_size"]) == pytest.approx(wanted)


@pytest.mark.parametrize("lr", [0.1, 10.0, 1000.0])
def test_growth_decay_shrinks_nothing_below_its_first_norm(lr, rng):
    # The gradients are across the weights: what shrinks them is growth decay alone.
    weight = nn.Parameter(torch.zeros(3, 4))
    weight.data[0] = torch.randn(4, generator=rng)
    first = float(weight.detach().norm())
    optimizer = learnt([weight], lr=lr, growth_decay=100.0)
    for factor in (1.0, 1.1, 5.0, 0.5):
        with torch.no_grad():
            weight[0] *= factor * first / weight[0].norm()
            weight[1:] = 0
        before = float(weight.detach().norm())
        g = torch.zeros(3, 4)
        g[1:] = torch.randn(2, 4, generator=rng)
        feed(optimizer, [weight], [g])
        after = float(weight.detach()[0].norm())
        assert after >= min(first, before) * (1 - 1e-12)
        if factor > 1:
            assert after < before


def test_growth_decay_of_0_is_off_and_vectors_have_none(rng):
    ends = []
    for growth_decay in (0.0, 0.5):
        weight, bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(7))
        optimizer = learnt([weight, bias], growth_decay=growth_decay)
        for g in normals([(3, 4), (7,)], rng.manual_seed(0), 10):
            feed(optimizer, [weight, bias], [g[0] - 2, g[1] - 2])
        ends.append((weight.detach(), bias.detach()))
        assert ("start_size" in optimizer.state[weight]) == (growth_decay > 0)
        assert "start_size" not in optimizer.state[bias]
    assert ends[1][0].norm() < ends[0][0].norm()
    assert torch.equal(ends[0][1], ends[1][1])


def test_with_growth_decay_weights_that_begin_at_zero_are_found(rng):
    # Gradients that agree make long steps, which must not be taken for noise and taken back.
    inputs = torch.randn(32, 3, generator=rng)
    targets = inputs @ torch.tensor([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.2]]) + 0.5
    model = nn.Linear(3, 2)
    for p in model.parameters():
        nn.init.zeros_(p)
    optimizer = FrankWolfe(model.parameters(), lr=0.05, norm="learnt")
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
    assert float(loss.detach()) < 1e-8


def test_growth_of_noise_is_kept_down(rng):
    # Pure noise: without it the norm of the weights grows as a random walk's.
    ends = []
    for growth_decay in (0.0, 1.0):
        weight = nn.Parameter(torch.full((8, 8), 0.3))
        optimizer = learnt([weight], lr=0.05, growth_decay=growth_decay)
        stream(optimizer, weight, [torch.randn(8, 8, generator=rng) for _ in range(300)])
        ends.append(float(weight.detach().norm()) / 2.4)
    assert ends[0] > 1.5
    assert 0.7 < ends[1] < 0.75 * ends[0]


# -- the mean of the weights -----------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["learnt", 2])
def test_the_horizon_of_the_mean_shrinks_with_the_rate(norm, rng):
    # r = 2: x ← x + min(1, 3/(t+2) · peak/lr) (ω - x), so x is ω once lr ≤ 3 peak/(t+2).
    weight = nn.Parameter(torch.zeros(3, 4))
    optimizer = learnt([weight], norm=norm, average=2.0)
    rates = [0.1 * (1 + math.cos(math.pi * t / 12)) / 2 for t in range(12)]
    mean = None
    for t, lr in enumerate(rates, 1):
        optimizer.param_groups[0]["lr"] = lr
        feed(optimizer, [weight], [torch.randn(3, 4, generator=rng)])
        share = min(1.0, 3 / (t + 2) * 0.1 / lr)
        now = weight.detach().clone()
        mean = now if mean is None else mean + share * (now - mean)
        with optimizer.committed():
            torch.testing.assert_close(weight.detach(), mean)
        assert share < 1 or torch.equal(mean, now) or torch.allclose(mean, now)
    assert share == 1.0


def test_after_a_warm_up_the_peak_is_the_greatest_rate_yet(rng):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = learnt([weight], average=0.0)
    mean = None
    for t, lr in enumerate([0.01, 0.05, 0.1, 0.05], 1):
        optimizer.param_groups[0]["lr"] = torch.tensor(lr)
        feed(optimizer, [weight], [torch.randn(2, generator=rng)])
        peak = [0.01, 0.05, 0.1, 0.1][t - 1]
        now = weight.detach().clone()
        mean = now if mean is None else mean + min(1.0, peak / lr / t) * (now - mean)
    assert optimizer.param_groups[0]["peak_lr"] == pytest.approx(0.1)
    with optimizer.committed():
        torch.testing.assert_close(weight.detach(), mean)


# -- problems with a known end ---------------------------------------------------------------------


def solve(weight, curvature, steps, lr, decays):
    """The loss ½ Σ curvature w² at the end."""
    optimizer = FrankWolfe([weight], lr=lr, norm="learnt")
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        weight.grad = curvature(weight.detach())
        optimizer.step()
        if decays:
            scheduler.step()
    with torch.no_grad():
        return float((weight * curvature(weight)).sum()) / 2


def test_a_badly_scaled_vector_is_found_as_a_rate_decays(rng):
    diagonal = torch.logspace(0, -6, 20)
    start = torch.randn(20, generator=rng)
    losses = {
        decays: solve(nn.Parameter(start.clone()), lambda w: diagonal * w, 500, 0.05, decays)
        for decays in (True, False)
    }
    assert losses[True] < 1e-20
    # A constant rate stays within some lr of the end in each entry: the radius shrinks.
    assert 1e-12 < losses[False] < 0.05**2


def test_a_badly_scaled_matrix_is_found_as_a_rate_decays(rng):
    # Rows and columns are scaled to the condition 1e6, and turned: the basis has to be learnt.
    left, right = (torch.linalg.qr(torch.randn(6, 6, generator=rng)).Q for _ in "12")
    A = left @ torch.diag(torch.logspace(0, -3, 6)) @ left.T
    B = right @ torch.diag(torch.logspace(0, -3, 6)) @ right.T
    start = torch.randn(6, 6, generator=rng)
    losses = {
        decays: solve(nn.Parameter(start.clone()), lambda w: A @ w @ B, 1000, 0.05, decays)
        for decays in (True, False)
    }
    assert losses[True] < 1e-12
    assert losses[False] < 1e-3


# -- what is refused -------------------------------------------------------------------------------

BAD = [
    ("norm", "learned", ("norm", "'learned'", '"learnt"')),
    ("growth_decay", -0.1, ("growth_decay", "-0.1")),
    ("growth_decay", math.nan, ("growth_decay", "nan")),
    ("growth_decay", math.inf, ("growth_decay", "inf")),
    ("growth_decay", None, ("growth_decay", "None")),
    ("growth_decay", "0.5", ("growth_decay", "'0.5'")),
    ("growth_decay", True, ("growth_decay", "True")),
    ("adapt", -1, ("adapt", "-1")),
    ("adapt", math.nan, ("adapt", "nan")),
    ("momentum", 1.0, ("momentum", "1.0")),
    ("momentum", math.nan, ("momentum", "nan")),
    ("ball", "global", ("ball", "global")),
    ("ball", "block", ("ball", "'block'")),
    ("gates", 0, ("gates", "0")),
    ("average", -1.0, ("average", "-1.0")),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_a_bad_option_is_one_sentence_wherever_it_is_asked_for(name, value, words):
    option = {name: value}
    with pytest.raises(ValueError, match=naming(*words)) as raised:
        frank_wolfe([parameter(1.0)], **dict(norm="learnt") | option)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=naming(*words)):
        FrankWolfe([dict(params=[parameter(1.0)], **dict(norm="learnt") | option)])
    optimizer = learnt([parameter(1.0)])
    with pytest.raises(ValueError, match=naming(*words)):
        optimizer.add_param_group(dict(params=[parameter(1.0)], **option))
    assert len(optimizer.param_groups) == 1


def test_the_command_builds_it_by_name():
    optimizer = build_optimizer("frank-wolfe:norm=learnt", [("w", parameter(1.0))])
    assert optimizer.param_groups[0]["norm"] == "learnt"
    options = FrankWolfeOptions(growth_decay=0.25)
    assert FrankWolfe([parameter(1.0)], options=options).param_groups[0]["growth_decay"] == 0.25
