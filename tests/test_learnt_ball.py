"""The learnt ball: its steps are those of the equations, and those of methods that it contains.

The twin is plain_learnt_ball.py. Which tensors share a ball is in test_blocks.py, and what an
optimizer with norm="learnt" promises besides in test_learnt_norm.py.
"""

import functools
import math

import pytest
import torch
from cases import partly
from plain_learnt_ball import PlainBall
from torch import nn

from rnnopt.optimizers.frank_wolfe import learnt_ball
from rnnopt.optimizers.frank_wolfe.learnt_ball import create_ball

pytestmark = pytest.mark.usefixtures("double_precision")
vertex = functools.partial(learnt_ball.vertex, momentum=0.9)

SHAPES = [(1, 4, 6), (1, 7, 3), (1, 1, 5), (1, 5, 1), (1, 1, 1), (3, 4, 9), (4, 2, 5)]
FIXED = dict(nesterov=False, adapt=0.0)


def gradients(shape, rng, count, drift=1.0):
    """Normal gradients around one direction, of sizes that vary."""
    mean = drift * torch.randn(shape, generator=rng)
    sizes = torch.rand(count, generator=rng) + 0.1
    return [size * (mean + torch.randn(shape, generator=rng)) for size in sizes]


def answers(given, bases=True, **options):
    """S after each of the gradients, and the ball in the end."""
    ball = create_ball(given[0], bases)
    return torch.stack([vertex(ball, g, **options) for g in given]), ball


def of_size(g, size=1.0):
    return g * (size / g.norm())


# -- the equations ---------------------------------------------------------------------------------

OPTIONS = [dict(), dict(momentum=0.5, nesterov=False, adapt=0.3), dict(momentum=0.0, adapt=0.0)]


OF_OPTIONS = [((3, 4, 9), option) for option in OPTIONS]
CASES = [(shape, option) for shape in SHAPES for option in OPTIONS]


@pytest.mark.parametrize(
    ("shape", "options"), partly(CASES, [*((shape, {}) for shape in SHAPES), *OF_OPTIONS])
)
def test_three_hundred_steps_are_those_of_the_plain_twin(shape, options, rng):
    given = gradients(shape, rng, 300)
    given[20] *= 1e6  # a spike
    given[30] *= math.nan
    given[40].zero_()
    found, _ = answers(given, **options)
    twin = PlainBall(*shape)
    expected = torch.stack([twin.vertex(g, **options) for g in given])
    # The first gradient of fewer columns than rows leaves 4 directions to the shift, and rounding /
    # SHIFT, which depends on the processor.
    tolerance = 1e-8 if shape in ((1, 7, 3), (1, 5, 1)) else 1e-10
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_box_that_does_not_turn_is_the_twins_too(rng):
    given = gradients((2, 3, 4), rng, 50)
    found, ball = answers(given, bases=False)
    twin = PlainBall(2, 3, 4, bases=False)
    expected = torch.stack([twin.vertex(g) for g in given])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not {"left", "right", "left_basis", "right_basis"} & ball.keys()


def test_the_first_steps_of_a_number_by_hand():
    # g = 2: the unit is 2, so G = 1. V / 0.05 = 1 and c = 1 / (1 + 0.001). ρ has no mean to go by.
    ball = create_ball(torch.tensor([[[2.0]]]), True)
    first = vertex(ball, torch.tensor([[[2.0]]]))
    assert float(first) == pytest.approx(-1 / 1.001, rel=1e-14)
    # g = -1: the mean square of sizes is (0.9·0.1·4 + 0.1·1) / (1 - 0.9²) = 0.46/0.19, and G is -1
    # in its root. The cosine is -1, so log ρ = -0.03.
    second = vertex(ball, torch.tensor([[[-1.0]]]))
    G = -1 / math.sqrt(0.46 / 0.19)
    M = 0.9 * 0.1 + 0.1 * G
    N = (0.9 * M + 0.1 * G) / (0.9 * 0.19 + 0.1)
    V = (0.95 * 0.05 + 0.05 * G**2) / (1 - 0.95**2)
    expected = -math.exp(-0.03) * N / (1.001 * math.sqrt(V))
    assert float(second) == pytest.approx(expected, rel=1e-14)


def test_the_first_step_of_a_vector_by_hand():
    # The size is 5 and there are 2 entries, so G = (3, 4, 0)/5·√3 has the mean square 1.
    g = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1)
    found, ball = answers([g], bases=False)
    entries = [3 / 5 * math.sqrt(3), 4 / 5 * math.sqrt(3), 0.0]
    expected = [-x / (x + 0.001) for x in entries]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-14)
    assert ball["squares"].flatten().tolist() == pytest.approx([0.05 * x**2 for x in entries])


# -- the ball --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 4, 5), (1, 6, 1)], ids=str)
def test_the_answer_is_the_best_point_of_the_ball(shape, rng):
    found, ball = answers(gradients(shape, rng, 30), nesterov=False)
    V = ball["squares"] / (1 - 0.95**30)
    N = ball["mean"] / ball["mean_weight"]
    root = V.sqrt() + 1e-3 * V.mean((1, 2), keepdim=True).sqrt()
    c, ρ = (N.abs() / root).clamp(max=3), ball["log_radius"].exp()
    in_basis = learnt_ball._into_basis(ball, found[-1])
    assert (in_basis.abs() <= ρ * c * (1 + 1e-12) + 1e-12).all()
    # ⟨S, N⟩ is the same in either basis, and the least of the ball's.
    least = (in_basis * N).sum((1, 2))
    torch.testing.assert_close(least, -(ρ * c * N.abs()).sum((1, 2)))
    for _ in range(1000):
        point = ρ * c * (2 * torch.rand(shape, generator=rng) - 1)
        assert (least <= (point * N).sum((1, 2))).all()


def test_no_edge_is_longer_than_three(rng):
    # Without momentum N = x, and of an entry that was 0 for long √V is √0.05 x: 4.5 times less.
    usual, other = torch.tensor([0.0, 1.0]).view(1, 2, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1)
    found, _ = answers([usual] * 200 + [other] * 3, momentum=0.0, adapt=0.0)
    assert found[200:].flatten(1).tolist()[0] == [-3.0, 0.0]
    assert found[201, 0, 0, 0] == -3.0  # 3.2 before it is cut
    assert float(found[202, 0, 0, 0]) == pytest.approx(-1 / math.sqrt(1 - 0.95**3), rel=1e-2)


def test_the_radius_follows_the_agreement_and_its_bounds(rng):
    given = [torch.ones(1, 2, 2)] * 3
    _, ball = answers(given, adapt=0.25)
    # log ρ after cosines of 0 (no mean yet), 1 and 1; then the bound, then turning gradients.
    assert float(ball["log_radius"]) == pytest.approx(0.5)
    _, ball = answers(given * 10, adapt=0.25)
    assert float(ball["log_radius"]) == 2.8
    _, ball = answers([(-1.0) ** t * torch.ones(1, 2, 2) for t in range(40)], adapt=0.25)
    assert float(ball["log_radius"]) == -2.8
    # From step 100 on κ fades: at step 400 it is a quarter.
    _, ball = answers([torch.ones(1, 1, 1)] * 100, adapt=0.001)
    at_100 = float(ball["log_radius"])
    assert at_100 == pytest.approx(0.099)
    for _ in range(300):
        vertex(ball, torch.ones(1, 1, 1), adapt=0.001)
    expected = at_100 + sum(0.1 / t for t in range(101, 401))
    assert float(ball["log_radius"]) == pytest.approx(expected)


def test_a_basis_stays_orthogonal(rng):
    given = [g.float() for g in gradients((3, 6, 4), rng, 2000)]
    _, ball = answers(given)
    for side, size in (("left", 6), ("right", 4)):
        basis = ball[f"{side}_basis"]
        unit = torch.eye(size, dtype=torch.float32)
        assert basis.dtype == torch.float32
        assert (basis.mT @ basis - unit).abs().max() < 1e-5
    assert all(x.isfinite().all() for x in ball.values() if isinstance(x, torch.Tensor))


def test_the_bases_become_the_eigenvectors_of_the_gradients(rng):
    # Entries of unlike size in a turned basis: the learnt one is that, but for order and signs.
    turn_left, turn_right = (torch.linalg.qr(torch.randn(4, 4, generator=rng)).Q for _ in "12")
    sizes = torch.outer(torch.tensor([8.0, 4.0, 2.0, 1.0]), torch.tensor([1.0, 3.0, 9.0, 27.0]))
    given = [
        (turn_left @ (sizes * torch.randn(4, 4, generator=rng)) @ turn_right.mT)[None]
        for _ in range(200)
    ]
    _, ball = answers(given)
    for basis, turn in ((ball["left_basis"], turn_left), (ball["right_basis"], turn_right)):
        assert (basis[0].mT @ turn).abs().max(1).values.min() > 0.8


@pytest.mark.parametrize("shape", [(1, 1, 6), (1, 6, 2), (2, 3, 6)], ids=str)
def test_from_the_second_step_on_a_constant_gradient_is_gone_along(shape, rng):
    # The largest eigenvalue must come first: an orthogonal iteration in another order mixes in
    # directions that no gradient has.
    g = torch.outer(torch.rand(shape[1], generator=rng), torch.rand(shape[2], generator=rng))
    found, _ = answers([g.expand(shape)] * 20)
    for S in found:
        cosines = torch.nn.functional.cosine_similarity(S.flatten(1), -g.view(1, -1), dim=1)
        assert cosines.min() > 0.9999


def test_where_gradients_have_no_rank_rounding_does_not_choose_the_step(rng):
    given = [
        torch.randn(1, 9, 2, generator=rng) @ torch.randn(1, 2, 7, generator=rng) for _ in range(60)
    ]
    rounded = [g * (1 + 1e-15 * torch.randn(g.shape, generator=rng)) for g in given]
    (found, _), (other, _) = answers(given), answers(rounded)
    assert (found - other).norm() < 1e-5 * found.norm()


# -- reductions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("turning", [True, False])
def test_it_is_soap(turning, rng, monkeypatch):
    # SOAP (arXiv 2409.11321, algorithm 3) on gradients of one size: Adam in Shampoo's eigenbasis,
    # its momentum kept outside of it. V turns with a fresh basis; a late one stands here.
    monkeypatch.setattr(learnt_ball, "SHIFT", 0.0)  # which SOAP has not
    if not turning:
        monkeypatch.setattr(learnt_ball, "FRESH", 0)
        monkeypatch.setattr(learnt_ball, "REFRESH", 10**6)
    given = [of_size(g) for g in gradients((1, 5, 5), rng, 60)]
    found, _ = answers(given, **FIXED)
    M = V = L = R = torch.zeros(5, 5)
    Q_L = Q_R = None
    for t, (g, S) in enumerate(zip(given, found, strict=True), 1):
        G = 5 * g[0]  # of entries near 1
        odd = t % 2 == 1
        share = 0.05 if t == 1 else 1 - 0.95**2
        if odd:
            L = (1 - share) * L + share * G @ G.T / 5
        if t == 1 or not odd:
            R = (1 - share) * R + share * G.T @ G / 5
        if t == 1:
            Q_L, Q_R = (torch.linalg.eigh(A).eigenvectors.flip(1) for A in (L, R))
        elif turning and odd:
            new = torch.linalg.qr(L @ Q_L).Q
            V, Q_L = (new.T @ Q_L) ** 2 @ V, new
        elif turning:
            new = torch.linalg.qr(R @ Q_R).Q
            V, Q_R = V @ ((new.T @ Q_R) ** 2).T, new
        M = 0.9 * M + 0.1 * G
        V = 0.95 * V + 0.05 * (Q_L.T @ G @ Q_R) ** 2
        V_hat = V / (1 - 0.95**t)
        eps = 1e-3 * V_hat.mean().sqrt()
        direction = (Q_L.T @ (M / (1 - 0.9**t)) @ Q_R) / (V_hat.sqrt() + eps)
        torch.testing.assert_close(S[0], -Q_L @ direction @ Q_R.T, rtol=1e-8, atol=1e-8)


def test_in_a_basis_that_stands_it_is_torchs_adam(rng, monkeypatch):
    monkeypatch.setattr(learnt_ball, "SHIFT", 0.0)
    monkeypatch.setattr(learnt_ball, "FRESH", 0)
    monkeypatch.setattr(learnt_ball, "REFRESH", 10**6)
    given = [of_size(g) for g in gradients((1, 5, 5), rng, 60)]
    Q_L, _, Q_R = torch.linalg.svd(given[0][0])
    weight = nn.Parameter(torch.zeros(5, 5))
    adam = torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.95), eps=0.0)
    monkeypatch.setattr(learnt_ball, "FLOOR", 0.0)
    found, _ = answers(given, **FIXED)
    for t, (g, S) in enumerate(zip(given, found, strict=True), 1):
        before = weight.detach().clone()
        weight.grad = Q_L.T @ g[0] @ Q_R.T
        adam.step()
        if t > 1:  # at first entries beside the diagonal are 0/0
            step = Q_L @ (weight.detach() - before) @ Q_R
            torch.testing.assert_close(S[0], step, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("shape", "bases"), [((1, 7, 1), False), ((2, 3, 4), False)])
def test_without_bases_it_is_adam(shape, bases, rng, monkeypatch):
    monkeypatch.setattr(learnt_ball, "FLOOR", 0.0)  # which stands for Adam's eps
    given = [g / g.flatten(1).norm(dim=1).view(-1, 1, 1) for g in gradients(shape, rng, 80)]
    found, _ = answers(given, bases=bases, **FIXED)
    weight = nn.Parameter(torch.zeros(shape))
    adam = torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.95), eps=0.0)
    for g, S in zip(given, found, strict=True):
        before = weight.detach().clone()
        weight.grad = g
        adam.step()
        torch.testing.assert_close(S, weight.detach() - before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 3, 6), (1, 6, 3)], ids=str)
def test_of_a_constant_gradient_it_is_shampoos_direction(shape, rng, monkeypatch):
    # L^-¼ G R^-¼ with L = GG' and R = G'G is UV' of G = UΣV'.
    monkeypatch.setattr(learnt_ball, "FLOOR", 1e-6)
    monkeypatch.setattr(learnt_ball, "SHIFT", 1e-12)
    g = torch.randn(shape, generator=rng)
    found, _ = answers([g] * 20, adapt=0.0)
    U, _, Vh = torch.linalg.svd(g[0], full_matrices=False)
    for S in found:
        torch.testing.assert_close(S[0], -U @ Vh, rtol=1e-4, atol=1e-4)


# -- invariances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 1, 5), (2, 3, 6)], ids=str)
def test_steps_turn_with_the_gradients(shape, rng, monkeypatch):
    # But for the slight diagonal that decides where there is no gradient; here there is everywhere.
    monkeypatch.setattr(learnt_ball, "SHIFT", 0.0)
    gates, n, k = shape
    left = torch.linalg.qr(torch.randn(gates, n, n, generator=rng)).Q
    right = torch.linalg.qr(torch.randn(k, k, generator=rng)).Q
    given = gradients(shape, rng, 40)
    if n == 1:  # one row has no rank to fill a basis with
        right = torch.eye(k)[torch.randperm(k, generator=rng)] * -1.0
        monkeypatch.setattr(learnt_ball, "WIDEST", 1)
    found, _ = answers(given)
    turned, _ = answers([left @ g @ right for g in given])
    torch.testing.assert_close(turned, left @ found @ right, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 2, 5), (1, 5, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("scale", [1e-20, 1e-5, 1e20])
def test_the_scale_of_gradients_does_not_matter(scale, shape, rng):
    given = gradients(shape, rng, 50)
    found, _ = answers(given)
    scaled, _ = answers([scale * g for g in given])
    torch.testing.assert_close(scaled, found, rtol=1e-6, atol=1e-7)


# -- odd gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [dict(), dict(nesterov=False)], ids=str)
def test_rows_without_a_gradient_do_not_move(options, rng):
    given = gradients((1, 6, 4), rng, 12)
    for g in given:
        g[0, 2] = 0.0  # never used
    for g in given[6:]:
        g[0, 4] = 0.0  # used at first: its momentum is not zero
    found, ball = answers(given, **options)
    assert not found[:, 0, 2].any()
    assert not found[6:, 0, 4].any()
    assert found[:6, 0, 4].all()
    assert found[:, 0, [0, 1, 3, 5]].all()
    assert ball["mean"].abs().min() > 0  # in the basis rows are mixed


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_gradient_that_is_not_finite_moves_nothing_and_spoils_nothing(step, bad, rng):
    given = gradients((2, 4, 3), rng, 20)
    calm = [g.clone() for g in given]
    given[step][1, 2, 0] = bad
    calm[step][1] = 0.0
    found, ball = answers(given)
    expected, other = answers(calm)
    assert not found[step][1].any()
    assert found[step][0].all()  # the other gate moves
    assert torch.equal(found, expected)
    for name, value in ball.items():
        if isinstance(value, torch.Tensor):
            assert value.isfinite().all()
            assert torch.equal(value, other[name])


def test_a_spike_counts_three_times_the_usual(rng):
    given = [of_size(g, 0.5) for g in gradients((1, 4, 6), rng, 20)]
    spike, three = [g.clone() for g in given], [g.clone() for g in given]
    spike[10] *= 1e6
    three[10] *= 3.0
    (found, _), (expected, _) = answers(spike), answers(three)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_first_spike_is_soon_forgotten(rng):
    # The first gradient sets the unit: 1e6 times the later ones are tiny until it has faded.
    given = [of_size(g) for g in gradients((1, 4, 6), rng, 400)]
    given[0] *= 1e6
    found, ball = answers(given)
    assert found.isfinite().all()
    assert float(ball["size2"].sqrt()) == pytest.approx(1.0, rel=1e-3)
    assert 0.1 < found[-1].norm() / answers(given[1:])[0][-1].norm() < 10


@pytest.mark.parametrize("bases", [True, False])
def test_zero_gradients_at_first_move_nothing_and_later_ones_do(bases, rng):
    given = gradients((2, 4, 3), rng, 10)
    for g in given[:3]:
        g.zero_()
    found, ball = answers(given, bases=bases)
    assert not found[:3].any()
    assert found[3:].isfinite().all()
    assert found[3:].all()
    assert float(found[3].norm()) > 1.0
    assert all(x.isfinite().all() for x in ball.values() if isinstance(x, torch.Tensor))


def test_a_side_too_wide_has_no_basis(rng, monkeypatch):
    monkeypatch.setattr(learnt_ball, "WIDEST", 4)
    ball = create_ball(torch.zeros(2, 5, 4), True)
    assert "left" not in ball
    assert ball["right"].shape == (1, 4, 4)
    assert vertex(ball, torch.randn(2, 5, 4, generator=rng)).all()


def test_the_gradient_is_left_as_it_is(rng):
    g = torch.randn(1, 3, 4, generator=rng)
    before = g.clone()
    ball = create_ball(g, True)
    for _ in range(3):
        vertex(ball, g)
    assert torch.equal(g, before)
