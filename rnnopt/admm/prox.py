"""The small problems that each unit, and each sample's output, poses alone in ADMM.

Pre-activation, one unit at one step of one sample, κ = σ/α (`ratio`), p `anchor`, q `target`:

    φ(a) = ½ (a - p)² + κ/2 (q - f(a))²,      φ'(a) = g(a) = a - p - κ (q - f(a)) f'(a)

Identity: (p + κq)/(1 + κ). relu: the better of min(p, 0) and max((p + κq)/(1 + κ), 0).

tanh: flip the signs of a, p, q so that q ≥ tanh p; then every stationary point lies in [p, hi].
With h = tanh a,  g' = 1 - κ c(h),  c(h) = (3h² - 2qh - 1)(1 - h²).  On [p, hi] c is positive only
left of m = artanh h₋, h₋ = (q - √(q² + 3))/3, and has one peak there. Hence, without finding the
peak:

- right of m: g' ≥ 1, so at most one root, in [max(p, m), hi]: bisection, then Newton;
- left of the peak g is concave and g(p) ≤ 0: Newton from p climbs to the leftmost root and never
  passes it; from the peak to m it is convex: Newton from m, where g(m) > 0, descends to the
  rightmost. Where such a root does not exist, that Newton ends at some other point of [p, m].

The minimiser is the better of leftmost and rightmost. Few p lie left of m, so the CPU gathers
those; elsewhere all are computed, for gathering would wait for the device.

Output, one sample, τ' = τ / weight of its loss:  min R(o) + τ'/2 ‖o - p‖². Squared error: a mean.
Cross-entropy: softmax(o) - e_y + τ'(o - p) = 0. With m = p + e_y/τ' and the Wright omega function W
(W + ln W = x), o_i = m_i - W(m_i - ℓ - ln τ') where ℓ = logsumexp(o) is the root of the decreasing
convex function Σ_i τ' W(m_i - ℓ - ln τ') - 1; Newton from a bound below rises to it. A stiff τ'
needs no W: Newton on o itself converges, at a tenth of the cost.

The paper linearises both problems instead.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Nonlinearity = Literal["tanh", "relu", "identity"]
CHUNK = 1 << 17  # elements worked on at once on a CPU: its second cache holds most buffers
# Measured on 360,000 hard cases for each κ up to 1e6: the error after them is a few roundings.
BISECTIONS = 4
NEWTON_STEPS = {torch.float32: 3, torch.float64: 5}  # and one more with every digit
STIFF, STIFF_STEPS = 2.0, 8  # τ' from which Newton from p converges, in so many steps to 1e-15
RIDGE_STEPS = {torch.float32: 8, torch.float64: 12}  # from p, from m, and again from the better


def free_to_ask(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def apply(nonlinearity: Nonlinearity, preactivation: Tensor) -> Tensor:
    """f(a)."""
    if nonlinearity == "tanh":
        return preactivation.tanh()
    if nonlinearity == "relu":
        return preactivation.relu()
    if nonlinearity == "identity":
        return preactivation
    raise _unknown(nonlinearity)


def _unknown(name: str) -> ValueError:
    return ValueError(f"nonlinearity must be one of {get_args(Nonlinearity)}, got {name!r}.")


def minimise(nonlinearity: Nonlinearity, anchor: Tensor, target: Tensor, ratio: float) -> Tensor:
    """The global minimiser a of ½(a - anchor)² + ratio/2 (target - f(a))², element by element.

    Args:
        nonlinearity: f.
        anchor, target: p and q, of one shape.
        ratio: κ ≥ 0.

    Example:
        >>> minimise("relu", torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 3.0]), ratio=1.0)
        tensor([-1.,  2.])
    """
    if nonlinearity == "tanh":
        return _by_chunks(_minimise_tanh, ratio, anchor, target)
    mean = (anchor + ratio * target) / (1 + ratio)
    if nonlinearity == "identity":
        return mean
    if nonlinearity != "relu":
        raise _unknown(nonlinearity)
    off, on = anchor.clamp(max=0), mean.clamp(min=0)
    # φ(on) - φ(off), with f(off) = 0 and f(on) = on
    change = (on - off) * (on + off - 2 * anchor) + ratio * on * (on - 2 * target)
    return torch.where(change < 0, on, off)


def _by_chunks(function: Callable[..., Tensor], ratio: float, *arguments: Tensor) -> Tensor:
    """function(ratio, *arguments), on a CPU a cache-sized piece at a time."""
    flat = [x.reshape(-1) for x in arguments]
    if flat[0].device.type != "cpu" or flat[0].numel() <= CHUNK:
        return function(ratio, *flat).reshape(arguments[0].shape)
    result = torch.empty_like(flat[0])
    for out, *pieces in zip(result.split(CHUNK), *(x.split(CHUNK) for x in flat), strict=True):
        out.copy_(function(ratio, *pieces))
    return result.reshape(arguments[0].shape)


def _tanh(a: Tensor) -> Tensor:
    """tanh a; torch.tanh costs twice as much."""
    grown = a.clamp(max=40).mul_(2).expm1_()
    return grown.div_(grown + 2)


def _newton_terms(
    a: Tensor, p: Tensor, q: Tensor, ratio: float, side: int
) -> tuple[Tensor, Tensor]:
    """g(a) and g'(a) = 1 + κ f' (f' + 2 (q - h) h), which is 1 - κ c(h).

    By r = (1 - side · h) / 2, a sigmoid, cheapest of all; f' = 4 r (1 - r) keeps its digits where
    a · side is large, tanh those of small numbers nowhere.
    """
    r = torch.mul(a, -2 * side).sigmoid_()
    gap = torch.sub(q, side).add_(r, alpha=2 * side)
    quarter = torch.addcmul(r, r, r, value=-1)  # f' / 4
    g = torch.sub(a, p).addcmul_(gap, quarter, value=-4 * ratio)
    half = gap.mul_(r.mul_(-2 * side).add_(side)).add_(quarter, alpha=2)  # (f' + 2 gap h) / 2
    return g, half.mul_(quarter).mul_(8 * ratio).add_(1)


def _exact_terms(a: Tensor, p: Tensor, q: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """The same to a few roundings for every a; f' = 1 - h² would keep no digit beyond |a| = 9."""
    h = _tanh(a)
    slope = a.cosh().square_().reciprocal_()
    gap = torch.sub(q, h)
    g = torch.sub(a, p).addcmul_(gap, slope, value=-ratio)
    return g, h.mul_(gap).mul_(2).add_(slope).mul_(slope).mul_(ratio).add_(1)


def _change(one: Tensor, other: Tensor, anchor: Tensor, target: Tensor, ratio: float) -> Tensor:
    """2 φ(one) - 2 φ(other), without the cancellation of two large values."""
    h, k = _tanh(one), _tanh(other)
    return (one - other) * (one + other - 2 * anchor) + ratio * (h - k) * (h + k - 2 * target)


def _upright(anchor: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Signs, and p, q and tanh p after the flip that makes q ≥ tanh p."""
    height = _tanh(anchor)
    sign = torch.sub(target, height).sign_().add_(0.5).sign_()  # 0 counts as +
    return sign, anchor * sign, target * sign, height.mul_(sign)


def _farthest(p: Tensor, q: Tensor, height: Tensor, ratio: float) -> Tensor:
    """hi: no stationary point lies to the right of it.

    Three bounds: p + κ(q - tanh p); artanh q (∞ at q ≥ 1); max(p, 0) + 1 + ½ ln(1 + 4κq⁺), where
    a - p ≥ 1 and κ(q - tanh a) f' ≤ 4κq⁺ e^(-2a) < 1.
    """
    near = torch.sub(q, height).mul_(ratio).add_(p)
    far = q.clamp(min=0).mul_(4 * ratio).log1p_().mul_(0.5).add_(1).add_(p.clamp(min=0))
    return torch.minimum(near, far, out=near).minimum(q.clamp(-1, 1).atanh_())


def _minimise_tanh(ratio: float, anchor: Tensor, target: Tensor) -> Tensor:
    sign, p, q, height = _upright(anchor, target)
    lowest = q.square().add_(3).sqrt_().sub_(q).div_(-3)  # h₋
    left = height < lowest
    high = _farthest(p, q, height, ratio)
    a = _right_of_turn(p, q, p, high, ratio)
    if free_to_ask(p):
        at = left.nonzero()[:, 0]
        if at.numel():
            a[at] = _left_of_turn(p[at], q[at], lowest[at], high[at], ratio)
    else:
        a = torch.where(left, _left_of_turn(p, q, lowest, high, ratio), a)
    return a.mul_(sign)


def _right_of_turn(p: Tensor, q: Tensor, low: Tensor, high: Tensor, ratio: float) -> Tensor:
    """The root of g in [low, high], where g' ≥ 1."""
    width = torch.sub(high, low).clamp_(min=0)
    a = torch.add(low, width, alpha=0.5)
    below = q - 1
    for k in range(2, BISECTIONS + 2):
        r = torch.mul(a, -2).sigmoid_()
        gap = torch.add(below, r, alpha=2)
        force = gap.mul_(r.addcmul_(r, r, value=-1))
        g = torch.sub(a, p).sub_(force, alpha=4 * ratio)
        a.addcmul_(width, g.sign_(), value=-(0.5**k))
    reach = width.mul_(0.5 ** (BISECTIONS + 1))
    lowest, highest = a - reach, reach.add_(a)
    for _ in range(NEWTON_STEPS[a.dtype]):
        g, curvature = _newton_terms(a, p, q, ratio, side=1)
        a.addcdiv_(g, curvature.clamp_(min=1), value=-1).clamp_(lowest, highest)
    g, curvature = _exact_terms(a, p, q, ratio)
    return a.addcdiv_(g, curvature.clamp_(min=1), value=-1)


def _left_of_turn(p: Tensor, q: Tensor, lowest: Tensor, high: Tensor, ratio: float) -> Tensor:
    """The better of the leftmost and the rightmost stationary point, where p lies left of m."""
    turn = lowest.clamp(min=-1 + torch.finfo(p.dtype).eps).atanh_().maximum(p)
    right = _right_of_turn(p, q, turn, high, ratio)
    g, curvature = _newton_terms(turn, p, q, ratio, side=-1)
    both_left = g > 0
    left, middle = p, _step(turn, g, curvature, p, turn)
    for _ in range(RIDGE_STEPS[p.dtype]):
        left = _step(left, *_newton_terms(left, p, q, ratio, side=-1), p, turn)
        middle = _step(middle, *_newton_terms(middle, p, q, ratio, side=-1), p, turn)
    rightmost = torch.where(both_left, middle, right)
    best = torch.where(_change(left, rightmost, p, q, ratio) < 0, left, rightmost)
    within, cap = torch.minimum(best, turn), torch.ones_like(best)
    for _ in range(RIDGE_STEPS[p.dtype]):  # a step longer than the last would leap off a flat spot
        target = _step(within, *_newton_terms(within, p, q, ratio, side=-1), p, turn)
        step = target.sub_(within).clamp_(-cap, cap)
        within, cap = within + step, step.abs()
    return torch.where(best < turn, within, best)


def _step(a: Tensor, g: Tensor, curvature: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """One Newton step inside [low, high]; none where φ is not convex.

    Near a triple root g is the cube and g' the square of the distance: below eps^(2/3) they are
    roundings, and their ratio a leap.
    """
    steep = curvature > torch.finfo(a.dtype).eps ** (2 / 3)
    return (a - torch.where(steep, g / curvature, 0)).clamp(low, high)


Loss = Literal["squared_error", "cross_entropy"]


def loss_value(loss: Loss, output: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """Σ weight · R(output), float64; see `nearest_output` for the shapes."""
    if loss == "squared_error":
        each = (output - target).square().sum(-1) / 2
    elif loss == "cross_entropy":
        each = output.logsumexp(-1) - output.gather(-1, target[..., None])[..., 0]
    else:
        raise ValueError(f"loss must be one of {get_args(Loss)}, got {loss!r}.")
    return (each * weight).sum(dtype=torch.float64)


def nearest_output(
    loss: Loss,
    anchor: Tensor,
    target: Tensor,
    penalty: Tensor | float,
    weight: Tensor | float,
) -> Tensor:
    """argmin over o of weight · R(o) + penalty/2 ‖o - anchor‖², sample by sample.

    Args:
        loss: R, "squared_error" (½‖o - target‖²) or "cross_entropy".
        anchor: p, (steps, batch, outputs).
        target: (steps, batch, outputs), or for cross-entropy class numbers, (steps, batch).
        penalty: τ > 0, broadcast over (steps, batch).
        weight: of each sample's loss, ≥ 0, broadcast over (steps, batch).
    """
    return anchor + output_pull(loss, anchor, target, penalty, weight)


def output_pull(
    loss: Loss,
    anchor: Tensor,
    target: Tensor,
    penalty: Tensor | float,
    weight: Tensor | float,
    bound: float | None = None,
) -> Tensor:
    """`nearest_output` less its anchor; as exact where the anchor is large, or the penalty.

    Args:
        bound: a number that no weight is above, if known; with it and a number for `penalty` it is
            known whether the penalty is stiff. Else the device is asked.
    """
    if loss == "squared_error":
        scale = torch.as_tensor(weight, dtype=anchor.dtype, device=anchor.device)
        scale = (scale / penalty).expand(anchor.shape[:-1])[..., None]  # 1 / τ'
        return (target - anchor) * (scale / (scale + 1))
    if loss != "cross_entropy":
        raise ValueError(f"loss must be one of {get_args(Loss)}, got {loss!r}.")
    bound = bound if isinstance(weight, Tensor) else weight
    stiff = None
    if bound is not None and not isinstance(penalty, Tensor):
        stiff = penalty >= STIFF * bound
    weight = torch.as_tensor(weight, dtype=torch.float64, device=anchor.device)
    penalty = torch.as_tensor(penalty, dtype=torch.float64, device=anchor.device)
    tau = (penalty / weight.clamp(min=1e-30)).clamp(max=1e30)
    tau = tau.expand(target.shape)[..., None]
    hot = torch.zeros_like(anchor).scatter_(-1, target[..., None], 1.0)
    if bool((tau >= STIFF).all()) if stiff is None else stiff:
        return _stiff_pull(anchor, hot, tau.to(anchor.dtype))
    # In single precision m, up to 1/τ', would swallow the digits of o.
    shifted = anchor.double() + hot / tau
    level = _least_level(anchor.double(), shifted, tau, target)
    shifted -= tau.log()
    # With huge τ' each step gains 1 of ln(classes); then 7 steps reach 1e-13.
    for _ in range(8 + math.ceil(math.log(anchor.shape[-1]))):
        omega = wright_omega(shifted - level)
        excess = tau * omega.sum(-1, keepdim=True) - 1
        if free_to_ask(anchor) and not bool((excess > 1e-13).any()):
            break  # elsewhere asking would wait for the device
        level = level + excess / (tau * (omega / (1 + omega)).sum(-1, keepdim=True))
    else:
        omega = wright_omega(shifted - level)
    return (hot / tau - omega).to(anchor.dtype)


def _stiff_pull(anchor: Tensor, hot: Tensor, tau: Tensor) -> Tensor:
    """o - p for τ' ≥ STIFF, by Newton's method on all of it; Sherman and Morrison solve its step.

    Where o moves by δ the curvature changes by a factor of e^c at most, c = max δ - min δ ≤ 2/τ',
    so that a step leaves less than (e^c - 1 - c)/c ≤ 0.72 of the gradient: it converges from p.
    """
    pull = torch.zeros_like(anchor)
    small = torch.finfo(anchor.dtype).eps ** 0.5  # the next step is its square
    for _ in range(STIFF_STEPS):
        chances = (anchor + pull).softmax(-1)
        gradient = torch.addcmul(chances - hot, tau, pull)
        inverse = (chances + tau).reciprocal_()
        step, mixed = inverse * gradient, inverse * chances
        share = (chances * step).sum(-1, keepdim=True) / (
            1 - (chances * mixed).sum(-1, keepdim=True)
        )
        step.addcmul_(mixed, share)
        pull -= step
        if free_to_ask(anchor) and float((step * tau).abs().max()) < small:
            break
    return pull


def _least_level(anchor: Tensor, shifted: Tensor, tau: Tensor, target: Tensor) -> Tensor:
    """A number that ℓ = logsumexp(o) cannot be below, (steps, batch, 1).

    The largest o alone, or the tangent of logsumexp at p with Σ softmax(p)·softmax(o) at its most.
    """
    chances = anchor.softmax(-1)
    own = chances.gather(-1, target[..., None]) - chances.amax(-1, keepdim=True)
    tangent = anchor.logsumexp(-1, keepdim=True) + own / tau
    return torch.maximum(shifted.amax(-1, keepdim=True) - 1 / tau, tangent)


def wright_omega(x: Tensor) -> Tensor:
    """The W > 0 with W + ln W = x; 0 to double precision below x = -700.

    Two steps of order four, of Fritsch, Shafer and Crowley, from a start good to 0.7 of W, which
    Lawrence, Corless and Jeffrey ("Algorithm 917", 2012) show to give all digits.
    """
    x = x.clamp(min=-700)
    low = torch.where(x < -2, x, (x - 1).mul_(2 / 3)).clamp_(max=0).exp_()
    log = x.clamp(min=1).log_()
    y = torch.where(x < 1, low, x - log + log / x)
    for _ in range(2):
        r = x - y - y.log()
        slope = 1 + y
        twice = 2 * slope * (slope + r * (2 / 3))
        y = y * (1 + r / slope * ((twice - r) / (twice - 2 * r)))
    return y
