"""The Elman recurrence as torch operators, fused on the CPU.

    h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh),   f = tanh or relu,   t = 1 … T

Backward, with e_t the gradient before the nonlinearity and e_{T+1} = 0:

    e_t = (∂L/∂h_t + W_hhᵀ e_{t+1}) ⊙ f'(h_t)         f' = 1 - h² for tanh, h > 0 for relu
    ∂x_t = W_ihᵀ e_t     ∂W_ih = Σ e_t x_tᵀ     ∂W_hh = Σ e_t h_{t-1}ᵀ     ∂b = Σ e_t

Sequences that end early (`lengths`) have zero states and gradients after their end; their last
state is that of their last true step.

`torch.ops.rnnopt.elman` is the fused form for tensors on the CPU. Its gradient is differentiable:
with `create_graph`, backward runs step by step in torch's own operators. With `half` the factors of
all products, e_t among them, are rounded to bfloat16 (see half_linear.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu, half_linear, rounded
from rnnopt.layers.kernels.gated import differentiable_gradients
from rnnopt.layers.kernels.portable import last_state, true_steps

# With fewer sequences, one product of the inputs over all steps is faster than the fused kernel,
# which multiplies a step's few rows at a time and gains only by not storing the projection.
FUSED_BATCH = 8
FUSED_INPUT = 16

torch.library.define(
    "rnnopt::elman",
    "(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, Tensor? lengths,"
    " bool relu, bool reverse, bool half=False) -> (Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::elman_backward",
    "(Tensor? grad_out, Tensor? grad_hn, Tensor x, Tensor w_ih, Tensor w_hh, Tensor? h0,"
    " Tensor? lengths, Tensor out, bool relu, bool reverse, bool want_x, bool want_w, bool want_h0,"
    " bool half=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def plain_backward(
    grad_out: Tensor | None,
    grad_hn: Tensor | None,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    relu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, w_ih, w_hh, either bias and h0, in operators that torch differentiates.

    They are functions of the states `out`, which have their own graph: their derivatives are the
    second derivatives of the layer, without a second forward pass.
    """
    states, grads = (one if one is None or not reverse else one.flip(0) for one in (out, grad_out))
    assert states is not None
    slope = ~(states <= 0) if relu else 1 - states * states  # NaN stays NaN
    errors = backward_in_time(grads, grad_hn, slope, lengths, lambda e: e @ w_hh)
    errors = errors.flip(0) if reverse else errors
    weights = weight_gradients(errors, x, h0, lengths, out, reverse)
    return errors @ w_ih, *weights, errors[-1 if reverse else 0] @ w_hh


def weight_gradients(
    errors: Tensor,
    x: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of w_ih, w_hh and either bias, each by one product over all steps.

    Args:
        errors: (time, batch, hidden), the gradients before the nonlinearity.
        x, h0, lengths, out, reverse: as for `plain_backward`.
    """
    if lengths is not None:  # values in the padding, even NaN, must not reach the sums
        x = torch.where(true_steps(len(x), lengths), x, 0)
    flat = errors.flatten(0, 1)
    later, earlier = (slice(-1), slice(1, None)) if reverse else (slice(1, None), slice(-1))
    grad_w_hh = errors[later].flatten(0, 1).t() @ out[earlier].flatten(0, 1)
    if h0 is not None:
        grad_w_hh = grad_w_hh + errors[-1 if reverse else 0].t() @ h0
    return flat.t() @ x.flatten(0, 1), grad_w_hh, flat.sum(0)


def backward_in_time(
    grad_out: Tensor | None,
    grad_hn: Tensor | None,
    slope: Tensor,
    lengths: Tensor | None,
    carry: Callable[[Tensor], Tensor],
) -> Tensor:
    """e_t = (∂L/∂h_t + carry(e_{t+1})) ⊙ slope_t for all steps, (time, batch, hidden).

    Args:
        grad_out, grad_hn: gradients of all states and of the last ones; None is zero.
        slope: (time, batch, hidden), f', as truth values where it is 1 or 0.
        lengths: (batch,) or None; e_t is zero beyond, and grad_hn enters at the last true step.
        carry: maps the gradient before a nonlinearity to that of the previous state.
    """
    steps = len(slope)
    given = grad_hn if grad_out is None else grad_out
    assert given is not None
    zeros = given.new_zeros(slope.shape[1:])
    error: Tensor | None = None
    errors = []
    for t in reversed(range(steps)):
        total = zeros if grad_out is None else grad_out[t]
        if grad_hn is not None:
            if lengths is not None:
                total = total + torch.where((lengths == t + 1)[:, None], grad_hn, 0)
            elif t == steps - 1:
                total = total + grad_hn
        if error is not None:
            total = total + carry(error)
        # Selected, not multiplied: a masked value may be infinite.
        error = torch.where(slope[t], total, 0) if slope.dtype == torch.bool else total * slope[t]
        if lengths is not None:
            error = torch.where((t < lengths)[:, None], error, 0)
        errors.append(error)
    return torch.stack(errors[::-1])


def hoists(x: Tensor) -> bool:
    """Whether torch multiplies the inputs of all steps in one product."""
    return x.shape[1] < FUSED_BATCH and x.shape[2] > FUSED_INPUT


def _check(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, h0: Tensor | None, lengths: Tensor | None, **more: Any
) -> None:
    (_, batch, size), hidden = x.shape, len(w_hh)
    cpu.check(
        "elman",
        w_ih=(w_ih, (hidden, size), x.dtype),
        w_hh=(w_hh, (hidden, hidden), x.dtype),
        h0=(h0, (batch, hidden), x.dtype),
        lengths=(lengths, (batch,), torch.int64),
        **more,
    )


@torch.library.impl("rnnopt::elman", "CPU")
def _forward(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    lengths: Tensor | None,
    relu: bool,
    reverse: bool,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    (steps, batch, size), hidden = x.shape, len(w_hh)
    _check(
        x, w_ih, w_hh, h0, lengths, b_ih=(b_ih, (hidden,), x.dtype), b_hh=(b_hh, (hidden,), x.dtype)
    )
    half_linear.check_usable("elman", x, half)
    out = x.new_empty(steps, batch, hidden)
    inputs: Tensor | None = None
    if hoists(x) and not half:
        bias = b_ih if b_hh is None else b_hh if b_ih is None else b_ih + b_hh
        flat, into = x.reshape(-1, size), out.view(-1, hidden)
        if bias is None:
            torch.mm(flat, w_ih.t(), out=into)
        else:
            torch.addmm(bias, flat, w_ih.t(), out=into)
    else:
        inputs = cpu.rows(x)
    x_place, out_place = cpu.place(inputs, reverse), cpu.place(out, reverse)
    threads = min(cpu.threads_for(steps * batch * hidden * (hidden + size)), batch)
    numbers = (steps, batch, size, hidden, threads, relu, *x_place[1:], *out_place[1:], half)
    small = [cpu.contiguous(one) for one in (w_ih, w_hh, b_ih, b_hh, h0, lengths)]
    cpu.call("elman", out.dtype, False, numbers, (x_place[0], *small, out_place[0]))
    return out, last_state(out, lengths, reverse)


@torch.library.impl("rnnopt::elman_backward", "CPU")
def _backward(
    grad_out: Tensor | None,
    grad_hn: Tensor | None,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    relu: bool,
    reverse: bool,
    want_x: bool,
    want_w: bool,
    want_h0: bool,
    half: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (steps, batch, size), hidden = x.shape, len(w_hh)
    states = (steps, batch, hidden)
    _check(
        x, w_ih, w_hh, h0, lengths,
        out=(out, states, x.dtype),
        grad_out=(grad_out, states, x.dtype),
        grad_hn=(grad_hn, (batch, hidden), x.dtype),
    )  # fmt: skip
    half_linear.check_usable("elman", x, half)
    out = cpu.rows(out)
    hoisted = hoists(x) and not half
    fused_w = want_w and not hoisted
    grad_x = x.new_empty(x.shape) if want_x and not hoisted else None
    grad_pre = torch.empty_like(out) if hoisted else None
    grad_w_ih = w_ih.new_empty(w_ih.shape) if fused_w else None
    grad_w_hh = w_hh.new_empty(w_hh.shape) if fused_w else None
    grad_bias = out.new_empty(hidden) if fused_w else None
    grad_h0 = out.new_empty(batch, hidden) if want_h0 else None
    grad_out = None if grad_out is None else cpu.rows(grad_out)
    inputs = None if hoisted else cpu.rows(x)
    places = [cpu.place(one, reverse) for one in (inputs, out, grad_out, grad_x, grad_pre)]
    at = [place[0] for place in places]
    strides = [stride for place in places for stride in place[1:]]
    threads = min(cpu.threads_for(steps * batch * hidden * (2 * hidden + size)), batch)
    small = [cpu.contiguous(one) for one in (w_ih, w_hh, h0, lengths, grad_hn)]
    cpu.call(
        "elman",
        out.dtype,
        True,
        (steps, batch, size, hidden, threads, relu, *strides, half),
        (
            at[0], *small[:2], None, None, *small[2:4], at[1], at[2], small[4], at[3], at[4],
            grad_w_ih, grad_w_hh, grad_bias, grad_h0,
        ),
    )  # fmt: skip
    if grad_pre is not None:
        if want_x:
            grad_x = torch.mm(grad_pre.flatten(0, 1), w_ih).view(x.shape)
        if want_w:
            grad_w_ih, grad_w_hh, grad_bias = weight_gradients(
                grad_pre, x, h0, lengths, out, reverse
            )
    grads = (grad_x, grad_w_ih, grad_w_hh, grad_bias, grad_h0)
    return tuple(out.new_empty(0) if grad is None else grad for grad in grads)  # type: ignore[return-value]


@torch.library.register_fake("rnnopt::elman")
def _forward_fake(x, w_ih, w_hh, b_ih, b_hh, h0, lengths, relu, reverse, half=False):  # type: ignore[no-untyped-def]
    steps, batch, _ = x.shape
    return x.new_empty(steps, batch, w_hh.shape[0]), x.new_empty(batch, w_hh.shape[0])


@torch.library.register_fake("rnnopt::elman_backward")
def _backward_fake(  # type: ignore[no-untyped-def]
    grad_out,
    grad_hn,
    x,
    w_ih,
    w_hh,
    h0,
    lengths,
    out,
    relu,
    reverse,
    want_x,
    want_w,
    want_h0,
    half=False,
):
    hidden = w_hh.shape[0]
    return (
        x.new_empty(x.shape if want_x else 0),
        w_ih.new_empty(w_ih.shape if want_w else 0),
        w_hh.new_empty(w_hh.shape if want_w else 0),
        out.new_empty(hidden if want_w else 0),
        out.new_empty((x.shape[1], hidden) if want_h0 else 0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w_ih, w_hh, *biases, h0, lengths, ctx.relu, ctx.reverse, ctx.half = inputs
    # The gradient's own gradient computes the states anew, where products are rounded.
    ctx.save_for_backward(x, w_ih, w_hh, h0, lengths, output[0], *(biases if ctx.half else ()))
    # A missing gradient stays None: reading zeros would cost as much as reading the states.
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_hn: Tensor | None) -> tuple[Any, ...]:
    wanted = ctx.needs_input_grad
    if grad_out is None and grad_hn is None:
        return (None,) * len(wanted)
    if ctx.half and torch.is_grad_enabled():
        return *_rounded_gradients(ctx, grad_out, grad_hn), *[None] * 4
    arguments = (grad_out, grad_hn, *ctx.saved_tensors[:6], ctx.relu, ctx.reverse)
    if torch.is_grad_enabled():
        found = plain_backward(*arguments)
    else:
        wants = wanted[0], any(wanted[1:5]), wanted[5]
        found = torch.ops.rnnopt.elman_backward(*arguments, *wants, ctx.half)
    grad_x, grad_w_ih, grad_w_hh, grad_bias, grad_h0 = found
    grads = (grad_x, grad_w_ih, grad_w_hh, grad_bias, grad_bias, grad_h0)
    kept = [grad if want else None for grad, want in zip(grads, wanted, strict=False)]
    return *kept, None, None, None, None


def _rounded_gradients(
    ctx: Any, grad_out: Tensor | None, grad_hn: Tensor | None
) -> list[Tensor | None]:
    x, w_ih, w_hh, h0, lengths, _, *biases = ctx.saved_tensors
    kind: rounded.Kind = "relu" if ctx.relu else "tanh"

    def run(x: Any, *others: Any) -> tuple[Tensor, ...]:
        return rounded.layer(kind, x, others[:4], others[4:], lengths, ctx.reverse)

    inputs, wanted = [x, w_ih, w_hh, *biases, h0], list(ctx.needs_input_grad[:6])
    return differentiable_gradients(run, inputs, wanted, [grad_out, grad_hn])


torch.library.register_autograd("rnnopt::elman", _differentiate, setup_context=_save)

# Called by the layers; importing it registers the operator.
fused = torch.ops.rnnopt.elman
