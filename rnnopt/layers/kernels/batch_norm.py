"""Batch normalisation over time and batch, and dropout shared over time, in one pass on the CPU.

    y = m ⊙ (γ ⊙ n + β),   n = (x - mean) / sqrt(variance + ε)        m one mask for all steps

with each unit's mean and variance over time and batch. Backward, with d = m ⊙ ∂L/∂y and averages
over time and batch:

    ∂x = γ / sqrt(variance + ε) ⊙ (d - average(d) - n ⊙ average(d ⊙ n)),   ∂γ = Σ d ⊙ n,   ∂β = Σ d

`torch.ops.rnnopt.batch_norm` computes this in training; evaluation uses torch's own code. Its
gradient is differentiable: with `create_graph`, backward runs in torch's own operators.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from rnnopt.layers.kernels import cpu

torch.library.define(
    "rnnopt::batch_norm",
    "(Tensor x, Tensor? gain, Tensor? shift, Tensor? mask, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::batch_norm_backward",
    "(Tensor grad_y, Tensor x, Tensor? gain, Tensor? mask, Tensor mean, Tensor scale)"
    " -> (Tensor, Tensor, Tensor)",
)


def plain_backward(
    grad_y: Tensor, x: Tensor, gain: Tensor | None, mask: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gain and shift, in operators that torch differentiates."""
    variance, mean = torch.var_mean(x, (0, 1), correction=0)
    scale = (variance + eps).rsqrt()
    normal = (x - mean) * scale
    grad = grad_y if mask is None else grad_y * mask
    inner = grad - grad.mean((0, 1)) - normal * (grad * normal).mean((0, 1))
    slope = scale if gain is None else scale * gain
    return slope * inner, (grad * normal).sum((0, 1)), grad.sum((0, 1))


def _call(x: Tensor, backward: bool, tensors: tuple[Tensor | None, ...]) -> None:
    # Three elementwise passes: about as much work as two dozen multiplications per number.
    threads = cpu.threads_for(24 * x.numel())
    cpu.call("batch_norm", x.dtype, backward, (*x.shape, threads), tensors)


@torch.library.impl("rnnopt::batch_norm", "CPU")
def _forward(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, mask: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, gain, shift, mask = (cpu.contiguous(one) for one in (x, gain, shift, mask))  # type: ignore[assignment]
    mean, scale, variance = (x.new_empty(x.shape[2]) for _ in range(3))
    y, small = torch.empty_like(x), torch.tensor(eps, dtype=x.dtype)
    _call(x, False, (x, gain, shift, mask, mean, scale, variance, y, small))
    return y, mean, scale, variance


@torch.library.impl("rnnopt::batch_norm_backward", "CPU")
def _backward(
    grad_y: Tensor,
    x: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    mean: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_y, x, gain, mask = (cpu.contiguous(one) for one in (grad_y, x, gain, mask))  # type: ignore[assignment]
    grad_x, grad_gain, grad_shift = (torch.empty_like(one) for one in (x, mean, mean))
    _call(x, True, (x, gain, None, mask, mean, scale, grad_y, grad_x, grad_gain, grad_shift))
    return grad_x, grad_gain, grad_shift


@torch.library.register_fake("rnnopt::batch_norm")
def _forward_fake(x, gain, shift, mask, eps):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), *(x.new_empty(x.shape[2]) for _ in range(3))


@torch.library.register_fake("rnnopt::batch_norm_backward")
def _backward_fake(grad_y, x, gain, mask, mean, scale):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), x.new_empty(x.shape[2]), x.new_empty(x.shape[2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gain, _, mask, ctx.eps = inputs
    _, mean, scale, variance = output
    ctx.save_for_backward(x, gain, mask, mean, scale)
    ctx.mark_non_differentiable(mean, scale, variance)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Any, ...]:
    if grad_y is None:
        return None, None, None, None, None
    x, gain, mask, mean, scale = ctx.saved_tensors
    if torch.is_grad_enabled():
        grads = plain_backward(grad_y, x, gain, mask, ctx.eps)
    else:
        grads = torch.ops.rnnopt.batch_norm_backward(grad_y, x, gain, mask, mean, scale)
    kept = [g if want else None for g, want in zip(grads, ctx.needs_input_grad, strict=False)]
    return *kept, None, None


torch.library.register_autograd("rnnopt::batch_norm", _differentiate, setup_context=_save)


def normalize(
    norm: nn.Module, states: Tensor, valid: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """`norm` of the true steps, times a mask; padding becomes zero.

    Args:
        norm: batch normalisation over `hidden` features. The kernel replaces only nn.BatchNorm1d
            itself, without hooks; anything else is called.
        states: (time, batch, hidden).
        valid: (time, batch, 1), which steps are true, or None for all.
        mask: (batch, hidden), the same for all steps, or None.
    """
    if (
        valid is None
        and fits(norm, states.shape, states.dtype)
        and cpu.usable(states, norm.running_mean, mask)
    ):
        return _fused(norm, states, mask)
    if valid is None:
        states = norm(states.flatten(0, 1)).view_as(states)
    elif isinstance(norm, nn.BatchNorm1d) and not norm.training and norm.track_running_stats:
        # Each step is computed by itself: padding changes nothing, and removing it takes longer.
        states = norm(torch.where(valid, states, 0).flatten(0, 1)).view_as(states)
        states = torch.where(valid, states, 0)
    else:
        states = torch.zeros_like(states).masked_scatter(valid, norm(states[valid[..., 0]]))
    return states if mask is None else states * mask


def fits(norm: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> TypeGuard[nn.BatchNorm1d]:
    """Whether the kernel computes the same as a call of `norm`.

    Args:
        norm: what is called with the states.
        shape: (time, batch, hidden) of the states.
        dtype: their type.
    """
    return (
        type(norm) is nn.BatchNorm1d
        and cpu.only_forward(norm)
        and norm.training
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.num_features == shape[2]
        and shape[0] * shape[1] > 1
        and all(p.dtype == dtype for p in norm.parameters())
    )


def _fused(norm: nn.BatchNorm1d, states: Tensor, mask: Tensor | None) -> Tensor:
    y, mean, _, variance = torch.ops.rnnopt.batch_norm(
        states, norm.weight, norm.bias, mask, norm.eps
    )
    follow(norm, mean, variance, len(states) * states.shape[1])
    return y


@torch.no_grad()
def follow(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Moves the running statistics towards those of `count` values per unit.

    `variance` divides by the number of values, the running variance by one less, as in torch.
    Infinite statistics stay infinite; `lerp_` would make them NaN.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    rest = 1 - norm.momentum
    norm.running_mean.mul_(rest).add_(mean, alpha=norm.momentum)
    norm.running_var.mul_(rest).add_(variance * (count / (count - 1)), alpha=norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
