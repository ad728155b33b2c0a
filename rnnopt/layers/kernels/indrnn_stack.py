"""Stacked IndRNN layers, each with batch normalisation and dropout, as one operator on the CPU.

    h_t = f(W y'_t + b + u ⊙ h_{t-1})          y' the y of the layer below, or the inputs
    y   = m ⊙ (γ ⊙ (h - mean) / sqrt(variance + ε) + β)        statistics over time and batch

Each layer is one pass over memory forward and one backward: see indrnn_stack.h. Between the two
only the states h are kept. The gradients are those of indrnn.py and batch_norm.py, one after the
other.

`torch.ops.rnnopt.indrnn_stack` is for training. Its gradient is differentiable: with
`create_graph`, backward runs through the operators of the single layers.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnopt.layers.kernels import cpu, half_linear
from rnnopt.layers.kernels.batch_norm import fits, follow
from rnnopt.layers.kernels.indrnn import layer as single_layer

torch.library.define(
    "rnnopt::indrnn_stack",
    "(Tensor x, Tensor[] weights, Tensor? h0, Tensor? masks, float eps, bool relu, bool every,"
    " bool half) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::indrnn_stack_backward",
    "(Tensor? grad_y, Tensor? grad_ends, Tensor x, Tensor[] weights, Tensor? h0, Tensor? masks,"
    " Tensor states, Tensor mean, Tensor scale, float eps, bool relu, bool every, bool half,"
    " bool want_x)"
    " -> (Tensor, Tensor[], Tensor)",
)
EACH = 5  # weights of a layer: W (hidden, inputs), b, u, γ and β (hidden,)


class StackedLayer(NamedTuple):
    """One layer's weights and what follows it.

    Args:
        w, b, u: (hidden, inputs), (hidden,) or None, and (hidden,).
        norm: batch normalisation of the states.
        mask: (batch, hidden), factors of the normalised states at every step, or None.
    """

    w: Tensor
    b: Tensor | None
    u: Tensor
    norm: nn.Module
    mask: Tensor | None


def plain(
    x: Tensor,
    weights: list[Tensor],
    h0: Tensor | None,
    masks: Tensor | None,
    eps: float,
    relu: bool,
    every: bool,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """y (time or 1, batch, hidden) and last states (layers, batch, hidden), layer by layer.

    Args:
        x: (time, batch, inputs).
        weights: for each layer W, b, u, γ, β.
        h0: (layers, batch, hidden), or None for zeros.
        masks: (layers, batch, hidden), or None without dropout.
        eps: ε.
        relu: relu, else tanh.
        every: y at all steps, else at the last one.
        half: products of weights and inputs in bfloat16, summed in single precision.
    """
    ends = []
    for k in range(len(weights) // EACH):
        w, b, u, gain, shift = weights[EACH * k : EACH * (k + 1)]
        first, mask = (None if one is None else one[k] for one in (h0, masks))
        x, end = single_layer(x, w, b, u, first, None, relu, half)
        x = torch.ops.rnnopt.batch_norm(x, gain, shift, mask, eps)[0]
        ends.append(end)
    return x if every else x[-1:], torch.stack(ends)


def _threads(x: Tensor, weights: list[Tensor]) -> int:
    # Products, and passes over memory that take about as long as 32 multiplications a number.
    numbers = sum(weights[k].numel() + 32 * len(weights[k]) for k in range(0, len(weights), EACH))
    return min(cpu.threads_for(x.shape[0] * x.shape[1] * numbers), x.shape[1])


def _check(x: Tensor, weights: list[Tensor], **more: Any) -> None:
    hidden = len(weights[0])
    shapes: dict[str, tuple[Tensor, tuple[int, ...], torch.dtype]] = {}
    for k in range(0, len(weights), EACH):
        inputs = hidden if k else x.shape[2]
        shapes[f"W of layer {k // EACH}"] = (weights[k], (hidden, inputs), x.dtype)
        for i, name in enumerate(("b", "u", "gain", "shift"), 1):
            shapes[f"{name} of layer {k // EACH}"] = (weights[k + i], (hidden,), x.dtype)
    cpu.check("indrnn_stack", **shapes, **more)


@torch.library.impl("rnnopt::indrnn_stack", "CPU")
def _forward(
    x: Tensor,
    weights: list[Tensor],
    h0: Tensor | None,
    masks: Tensor | None,
    eps: float,
    relu: bool,
    every: bool,
    half: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (steps, batch, size), hidden, layers = x.shape, len(weights[0]), len(weights) // EACH
    each = (layers, batch, hidden)
    _check(x, weights, h0=(h0, each, x.dtype), masks=(masks, each, x.dtype))
    x = cpu.rows(x)
    kept = steps if every else 1
    states, y = x.new_empty(layers, steps, batch, hidden), x.new_empty(kept, batch, hidden)
    mean, scale, variance = (x.new_empty(layers, hidden) for _ in range(3))
    threads = _threads(x, weights)
    numbers = (layers, steps, batch, size, hidden, threads, relu, kept, *x.stride()[:2], 0, 0, half)
    small = [cpu.contiguous(one) for one in (h0, masks)]
    used = [one.contiguous() for one in weights]
    pointers = (
        x, *small, torch.tensor(eps, dtype=x.dtype), states, mean, scale, variance, y,
        None, None, None, None, None, *used,
    )  # fmt: skip
    cpu.call("indrnn_stack", x.dtype, False, numbers, pointers)
    return y, states[:, -1].clone(), states, mean, scale, variance


@torch.library.impl("rnnopt::indrnn_stack_backward", "CPU")
def _backward(
    grad_y: Tensor | None,
    grad_ends: Tensor | None,
    x: Tensor,
    weights: list[Tensor],
    h0: Tensor | None,
    masks: Tensor | None,
    states: Tensor,
    mean: Tensor,
    scale: Tensor,
    eps: float,
    relu: bool,
    every: bool,
    half: bool,
    want_x: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    (steps, batch, size), hidden, layers = x.shape, len(weights[0]), len(weights) // EACH
    each, kept = (layers, batch, hidden), steps if every else 1
    _check(
        x, weights,
        h0=(h0, each, x.dtype), masks=(masks, each, x.dtype),
        states=(states, (layers, steps, batch, hidden), x.dtype),
        mean=(mean, (layers, hidden), x.dtype), scale=(scale, (layers, hidden), x.dtype),
        grad_y=(grad_y, (kept, batch, hidden), x.dtype), grad_ends=(grad_ends, each, x.dtype),
    )  # fmt: skip
    x, states = cpu.rows(x), states.contiguous()
    grad_y = None if grad_y is None else cpu.rows(grad_y)
    grad_x = x.new_empty(x.shape if want_x else 0)
    grad_h0 = x.new_empty(each if h0 is not None else 0)
    grads = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in weights]
    passed = x.new_empty(steps, batch, hidden)
    numbers = [
        layers,
        steps,
        batch,
        size,
        hidden,
        _threads(x, weights),
        relu,
        kept,
        *x.stride()[:2],
    ]
    numbers += (*((0, 0) if grad_y is None else grad_y.stride()[:2]), half)
    first, cut, ends, *statistics = (
        cpu.contiguous(one) for one in (h0, masks, grad_ends, mean, scale)
    )
    used = [one.contiguous() for one in weights]
    pointers = [
        x, first, cut, torch.tensor(eps, dtype=x.dtype), states, *statistics, None, None,
        grad_y, ends, passed, grad_x if want_x else None, None if h0 is None else grad_h0,
    ]  # fmt: skip
    for k in range(0, len(weights), EACH):
        pointers += used[k : k + EACH] + grads[k : k + EACH]
    cpu.call("indrnn_stack", x.dtype, True, numbers, pointers)
    return grad_x, grads, grad_h0


@torch.library.register_fake("rnnopt::indrnn_stack")
def _forward_fake(x, weights, h0, masks, eps, relu, every, half):  # type: ignore[no-untyped-def]
    (steps, batch, _), hidden, layers = x.shape, weights[0].shape[0], len(weights) // EACH
    return (
        x.new_empty(steps if every else 1, batch, hidden),
        x.new_empty(layers, batch, hidden),
        x.new_empty(layers, steps, batch, hidden),
        *(x.new_empty(layers, hidden) for _ in range(3)),
    )


@torch.library.register_fake("rnnopt::indrnn_stack_backward")
def _backward_fake(  # type: ignore[no-untyped-def]
    grad_y, grad_ends, x, weights, h0, masks, states, mean, scale, eps, relu, every, half, want_x
):
    return (
        x.new_empty(x.shape if want_x else 0),
        [one.new_empty(one.shape) for one in weights],
        x.new_empty(0 if h0 is None else h0.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weights, h0, masks, *ctx.options = inputs
    _, _, states, mean, scale, variance = output
    ctx.save_for_backward(x, h0, masks, states, mean, scale, *weights)
    ctx.mark_non_differentiable(states, mean, scale, variance)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_ends: Tensor | None, *_: None
) -> tuple[Any, ...]:
    x, h0, masks, states, mean, scale, *weights = ctx.saved_tensors
    options = ctx.options
    if grad_y is None and grad_ends is None:
        return (None, [None] * len(weights), *([None] * 6))
    if torch.is_grad_enabled() or cpu.in_batches(grad_y, grad_ends):
        grad_x, grads, grad_h0 = _plain_backward(grad_y, grad_ends, x, weights, h0, masks, *options)
    else:
        grad_x, grads, grad_h0 = torch.ops.rnnopt.indrnn_stack_backward(
            grad_y, grad_ends, x, weights, h0, masks, states, mean, scale, *options,
            ctx.needs_input_grad[0],
        )  # fmt: skip
        if grad_y is None:  # nothing reads the last normalisation
            grads[-2:] = None, None
    wanted = ctx.needs_input_grad
    kept = [grad if want else None for grad, want in zip(grads, wanted[1], strict=True)]
    return (
        grad_x if wanted[0] else None, kept, grad_h0 if wanted[2] else None, *([None] * 5),
    )  # fmt: skip


def _plain_backward(
    grad_y: Tensor | None,
    grad_ends: Tensor | None,
    x: Tensor,
    weights: list[Tensor],
    h0: Tensor | None,
    masks: Tensor | None,
    *options: Any,
) -> tuple[Tensor | None, list[Tensor | None], Tensor | None]:
    """Gradients of x, the weights and h0 by a second forward pass, with a graph of their own where
    gradients are on."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: one input may depend on another, and each gradient is for that input alone.
        given = [None if one is None else one.view_as(one) for one in (x, h0, *weights)]
        outputs = plain(given[0], given[2:], given[1], masks, *options)  # type: ignore[arg-type]
    wanted = [one for one in given if one is not None and one.requires_grad]
    pairs = [
        (out, grad)
        for out, grad in zip(outputs, (grad_y, grad_ends), strict=True)
        if grad is not None
    ]
    found = torch.autograd.grad(
        [out for out, _ in pairs], wanted, [grad for _, grad in pairs],
        create_graph=graph, allow_unused=True,
    )  # fmt: skip
    of = {id(one): grad for one, grad in zip(wanted, found, strict=True)}
    grad_x, grad_h0, *grads = (of.get(id(one)) for one in given)
    return grad_x, grads, grad_h0


torch.library.register_autograd("rnnopt::indrnn_stack", _differentiate, setup_context=_save)


def stackable(x: Tensor, layers: list[StackedLayer], h0: Tensor | None, half: bool = False) -> bool:
    """Whether the operator computes the same as the layers one after the other.

    One layer alone gains nothing by it, and wrong sizes are the layers' to refuse.

    Args:
        x, h0, half: as for `stack`.
        layers: the layers, from below; their masks have the type of x.
    """
    if len(layers) < 2 or not cpu.usable(x, h0):  # first: an export must not compare sizes
        return False
    states = (len(layers), x.shape[1], len(layers[0].u))
    if (
        x.shape[2] != layers[0].w.shape[1]
        or (h0 is not None and tuple(h0.shape) != states)
        or (half and not (x.dtype == torch.float32 and half_linear.kind()))
    ):
        return False
    return all(
        fits(one.norm, (*x.shape[:2], len(one.w)), x.dtype)
        and one.norm.affine
        and one.norm.eps == layers[0].norm.eps
        and cpu.usable(x, one.w, one.b, one.u, one.norm.running_mean)
        for one in layers
    )


def stack(
    x: Tensor,
    layers: list[StackedLayer],
    h0: Tensor | None,
    relu: bool,
    every: bool,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    """Normalised states and last states before normalisation; running statistics are updated.

    Args:
        x: (time, batch, inputs), with which `stackable` is true.
        layers: the layers, from below.
        h0: (layers, batch, hidden), or None for zeros.
        relu: relu, else tanh.
        every: normalised states at all steps, (time, batch, hidden); else at the last,
            (1, batch, hidden).
        half: products of weights and inputs in bfloat16, summed in single precision.
    """
    masks = [one.mask for one in layers if one.mask is not None]
    weights: list[Tensor] = []
    for w, b, u, norm, _ in layers:
        weights += (w, w.new_zeros(len(w)) if b is None else b, u, norm.weight, norm.bias)  # type: ignore[arg-type]
    y, ends, _, mean, _, variance = torch.ops.rnnopt.indrnn_stack(
        x, weights, h0, torch.stack(masks) if masks else None, layers[0].norm.eps, relu, every, half
    )
    for k, one in enumerate(layers):
        assert isinstance(one.norm, nn.BatchNorm1d)
        follow(one.norm, mean[k], variance[k], x.shape[0] * x.shape[1])
    return y, ends
