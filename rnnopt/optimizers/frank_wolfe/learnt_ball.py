"""The learnt ball: a box in the eigenbasis of the gradients, whose half-axes are learnt too.

A block of tensors is a matrix W (n, k) with gradient G; find_blocks says which. With orthogonal
bases Q_L (n, n) and Q_R (k, k), the ball of radius ρ is

    B = { ρ Q_L X Q_R' : |X_ij| ≤ c_ij },     c_ij = min(3, |N_ij| / √V_ij)

with N the momentum and V the mean square of G, both in these bases. The linear oracle over B is
solved by S = -ρ Q_L (sign(N) ∘ c) Q_R': a vertex, each of whose edges is as long as the gradients
along it agree. Entry by entry it is Adam's step. The bases are the eigenvectors of Shampoo's two
matrices

    L ← β² L + (1 - β²) G G'/k,     R ← β² R + (1 - β²) G'G/n,

one of which is updated at each step and turned by one step of orthogonal iteration. So SOAP, Adam
and Shampoo's direction are special cases (tests/test_learnt_ball.py).

| here | in the code | | here | in the code |
|---|---|---|---|---|
| t | `t` | | N, its mean M | `look`, `mean` |
| V | `squares` | | L, R | `left`, `right` |
| Q_L, Q_R | `left_basis`, `right_basis` | | log ρ | `log_radius` |

SOAP: Vyas et al., https://arxiv.org/abs/2409.11321. Departures from it:

1. G is in units of its running size, and counts at most 3 times that.
2. The bases are fresh: one of them turns at each step up to step 200, then each of them at every
   4th of its updates. V turns with them.
3. The momentum is Nesterov's.
4. The radius follows the agreement of gradients, log ρ ← log ρ + κ min(1, 100/t) cos(G, M)³. The
   cube ignores the small cosines of noise.
5. c_ij ≤ 3, and √V_ij is increased by 10⁻³ times the root of V's mean.
6. A row whose gradient is zero does not move, as the unused rows of an embedding.
7. L and R have 10⁻⁵ times their mean eigenvalue added to all their eigenvalues, without which
   rounding would choose the bases where no gradient has been.
8. A block whose gradient is not finite does not move, and its statistics see a gradient of zero.
"""

import math
from typing import Any

import torch
from torch import Tensor

BETA, SIZE_BETA = 0.95, 0.9
CLIP, FLOOR = 3.0, 1e-3
LARGEST = 2.8  # of |log ρ|
SHIFT = 1e-5  # of the mean eigenvalue of L and R, added to their eigenvalues
FADE = 100  # steps after which the adaptation of ρ fades
FRESH, REFRESH = 200, 4  # steps with a turn of the basis each, and steps per turn after them
WIDEST = 1024  # a longer side has no basis

Ball = dict[str, Any]


def create_ball(gradient: Tensor, bases: bool) -> Ball:
    """The state of a block.

    Args:
        gradient: (gates, n, k), in at least float32.
        bases: whether to learn bases; without, the box is Adam's.
    """
    gates, n, k = gradient.shape
    number = gradient.new_zeros(gates, 1, 1)
    ball: Ball = dict(
        t=0,
        mean_weight=0.0,  # sum of the gradients' weights in the mean
        size2=number,
        log_radius=number.clone(),
        mean=torch.zeros_like(gradient),
        squares=torch.zeros_like(gradient),
    )
    sides = dict(left=(gates, n), right=(1, k))  # gates see the same inputs
    for side, (count, size) in sides.items():
        if bases and 1 < size <= WIDEST:
            ball[side] = gradient.new_zeros(count, size, size)
            ball[f"{side}_basis"] = torch.eye(size).to(gradient).repeat(count, 1, 1)
    return ball


def vertex(
    ball: Ball, gradient: Tensor, momentum: float = 0.85, nesterov: bool = True, adapt: float = 0.03
) -> Tensor:
    """Updates the ball by a gradient; returns the oracle's answer S.

    Args:
        ball: as `create_ball` made it.
        gradient: (gates, n, k).
        momentum: μ of M ← μ M + (1-μ) G, in [0, 1).
        nesterov: whether N is μ M + (1-μ) G rather than M; both are divided by the weights' sum.
        adapt: κ; 0 leaves the radius as it is.

    Returns:
        (gates, n, k), for a learning rate of 1.
    """
    ball["t"] += 1
    t = ball["t"]
    present = (gradient != 0).any(2, keepdim=True)
    g, present = _in_units(ball, gradient, present)
    x = _learn_basis(ball, g)
    if adapt:
        _adapt_radius(ball, x, adapt)
    look = _look_ahead(ball, x, momentum, nesterov)
    squares = ball["squares"].mul_(BETA).addcmul_(x, x, value=1 - BETA)
    seen = 1 - BETA**t
    floor = (squares.mean((1, 2), keepdim=True) / seen).sqrt_().mul_(FLOOR)
    edges = look.div_((squares / seen).sqrt_().add_(floor)).nan_to_num_(0.0).clamp_(-CLIP, CLIP)
    return _out_of_basis(ball, edges).mul_(-ball["log_radius"].exp() * present)


def _in_units(ball: Ball, g: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient in units of its running size, and the rows that may move."""
    size = torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True)
    finite = size.isfinite()
    size = torch.where(finite, size, 0.0)
    usual = (ball["size2"] / max(1 - SIZE_BETA ** (ball["t"] - 1), 1e-30)).sqrt()
    kept = torch.where(usual > 0, torch.minimum(size, CLIP * usual), size)
    ball["size2"] = SIZE_BETA * ball["size2"] + (1 - SIZE_BETA) * kept.square()
    unit = (ball["size2"] / (1 - SIZE_BETA ** ball["t"])).sqrt()
    factor = (kept / size / unit).nan_to_num(0.0, 0.0, 0.0) * math.sqrt(g[0].numel())
    return torch.where(finite, g, 0.0).mul_(factor), present & finite


def _learn_basis(ball: Ball, g: Tensor) -> Tensor:
    """The gradient in the bases, one of which turns, at first both."""
    t = ball["t"]
    due = [side_due(ball)] if t > 1 else [side for side in ("left", "right") if side in ball]
    for side in due:
        if side is None:
            continue
        x = g if side == "left" else g.flatten(0, 1).mT.unsqueeze(0)
        keep = BETA if t == 1 else BETA**2
        ball[side].baddbmm_(x, x.mT, beta=keep, alpha=(1 - keep) / x.shape[2])
        if t == 1:
            ball[f"{side}_basis"] = _first_basis(ball[side])
        elif turns(t):
            _turn(ball, side)
    return _into_basis(ball, g)


def side_due(ball: Ball) -> str | None:
    """The side whose matrix step t > 1 updates, or None without a basis there."""
    side = ("right", "left")[ball["t"] % 2]
    return side if side in ball else None


def turns(t: int) -> bool:
    """Whether the basis of the side that is due turns at step t > 1."""
    return t <= FRESH or t // 2 % REFRESH == 0


def _first_basis(matrix: Tensor) -> Tensor:
    """Eigenvectors, the largest first, for an orthogonal iteration puts them in that order.

    Where no gradient has been, a slight diagonal decides, instead of rounding.
    """
    slopes = torch.linspace(0, 1, matrix.shape[1]).to(matrix)
    return torch.linalg.eigh(matrix + torch.diag_embed(_shift(matrix) * slopes)).eigenvectors.flip(
        2
    )


def _shift(matrix: Tensor) -> Tensor:
    """SHIFT times the mean eigenvalue, (…, 1)."""
    return SHIFT * matrix.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)


def _turn(ball: Ball, side: str) -> None:
    """Turns a basis by a step of orthogonal iteration, and what is kept in it."""
    old = ball[f"{side}_basis"]
    # The shift keeps directions that no gradient has; rounding would turn them anyhow.
    shifted = torch.baddbmm(_shift(ball[side]).unsqueeze(2) * old, ball[side], old)
    new = torch.linalg.qr(shifted).Q
    turn = new.mT @ old
    squared = turn.square()  # exact for V where entries are uncorrelated
    ball[f"{side}_basis"] = new
    if side == "left":
        ball["squares"], ball["mean"] = squared @ ball["squares"], turn @ ball["mean"]
    else:
        ball["squares"], ball["mean"] = ball["squares"] @ squared.mT, ball["mean"] @ turn.mT


def _adapt_radius(ball: Ball, x: Tensor, adapt: float) -> None:
    """The radius grows while gradients point along their mean, and shrinks where they turn back."""
    mean = ball["mean"]
    sizes = [torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True) for y in (x, mean)]
    cosine = ((x * mean).sum((1, 2), keepdim=True) / (sizes[0] * sizes[1])).nan_to_num(
        0.0, 0.0, 0.0
    )
    rate = adapt * min(1.0, FADE / ball["t"])
    ball["log_radius"] = (ball["log_radius"] + rate * cosine**3).clamp_(-LARGEST, LARGEST)


def _look_ahead(ball: Ball, x: Tensor, momentum: float, nesterov: bool) -> Tensor:
    """N, an unbiased mean of the gradients."""
    mean = ball["mean"].lerp_(x, 1 - momentum)
    weight = ball["mean_weight"] = momentum * ball["mean_weight"] + 1 - momentum
    if not nesterov:
        return mean / weight
    return torch.lerp(x, mean, momentum).div_(momentum * weight + 1 - momentum)


def _into_basis(ball: Ball, x: Tensor) -> Tensor:
    """Q_L' X Q_R."""
    if "right" in ball:
        x = x @ ball["right_basis"]
    return ball["left_basis"].mT @ x if "left" in ball else x


def _out_of_basis(ball: Ball, x: Tensor) -> Tensor:
    """Q_L X Q_R'."""
    if "left" in ball:
        x = ball["left_basis"] @ x
    return x @ ball["right_basis"].mT if "right" in ball else x
