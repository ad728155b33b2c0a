"""The IndRNN recurrence as torch operators, fused on CPU and GPU, with a plain version.

    h_t = f(z_t + u ⊙ h_{t-1}),   f = relu or tanh,   t = 1 … T,   z_t = W x_t + b

Backward, with e_t the gradient before the nonlinearity and e_{T+1} = 0:

    e_t = (∂L/∂h_t + u ⊙ e_{t+1}) ⊙ f'(h_t)
    ∂z_t = e_t     ∂u = Σ e_t ⊙ h_{t-1}     ∂h_0 = u ⊙ e_1

Sequences that end early (`lengths`) have zero states and gradients after their end; their last
state is that of their last true step.

`torch.ops.rnnopt.indrnn` runs the compiled kernels on the CPU (float32, float64), Triton on a GPU,
and otherwise this file's loops. Its gradient is differentiable: with `create_graph`, backward runs
step by step in torch's own operators.

Li, Li, Cook, Zhu and Gao, "Independently Recurrent Neural Network (IndRNN): Building A Longer and
Deeper RNN", CVPR 2018, https://arxiv.org/abs/1803.04831
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu, half_linear, portable
from rnnopt.layers.kernels.elman import backward_in_time, hoists
from rnnopt.layers.kernels.portable import last_state, true_steps

torch.library.define(
    "rnnopt::indrnn",
    "(Tensor z, Tensor u, Tensor? h0, Tensor? lengths, bool relu) -> (Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::indrnn_layer",
    "(Tensor x, Tensor w_ih, Tensor? b_ih, Tensor u, Tensor? h0, Tensor? lengths, bool relu)"
    " -> (Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::indrnn_layer_backward",
    "(Tensor? grad_out, Tensor? grad_hn, Tensor x, Tensor w_ih, Tensor u, Tensor? h0,"
    " Tensor? lengths, Tensor out, bool relu, bool want_x)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::indrnn_backward",
    "(Tensor? grad_out, Tensor? grad_hn, Tensor u, Tensor? h0, Tensor? lengths, Tensor out,"
    " bool relu) -> (Tensor, Tensor, Tensor)",
)


def plain(
    z: Tensor, u: Tensor, h0: Tensor | None, lengths: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor]:
    """States (time, batch, hidden) and last states (batch, hidden), step by step.

    Args:
        z: (time, batch, hidden), the units' inputs W x + b.
        u: (hidden,) recurrent weights.
        h0: (batch, hidden), or None for zeros.
        lengths: (batch,) true steps of each sequence, or None when all are true.
        relu: relu, else tanh.
    """
    first = torch.zeros_like(z[0]) if h0 is None else h0
    valid = None if lengths is None else true_steps(z.shape[0], lengths)
    states = portable.indrnn_states(z, u, first, valid, relu)
    return states, last_state(states, lengths)


def plain_backward(
    grad_out: Tensor | None,
    grad_hn: Tensor | None,
    u: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, u and h0, in operators that torch differentiates.

    They are functions of the states `out`, which have their own graph: their derivatives are the
    second derivatives of the layer, without a second forward pass.
    """
    slope = ~(out <= 0) if relu else 1 - out * out  # NaN stays NaN
    errors = backward_in_time(grad_out, grad_hn, slope, lengths, lambda e: u * e)
    before = torch.cat((torch.zeros_like(out[:1]) if h0 is None else h0[None], out[:-1]))
    return errors, (errors * before).sum((0, 1)), u * errors[0]


@cache
def triton_problem() -> str | None:
    """Why the GPU kernels cannot run, or None if they can."""
    return None if find_spec("triton") else "the package triton is not installed"


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda" and triton_problem() is None


def _check(
    states: Tensor, u: Tensor, h0: Tensor | None, lengths: Tensor | None, **more: Any
) -> None:
    _, batch, hidden = states.shape
    cpu.check(
        "indrnn",
        u=(u, (hidden,), states.dtype),
        h0=(h0, (batch, hidden), states.dtype),
        lengths=(lengths, (batch,), torch.int64),
        **more,
    )


def _threads(out: Tensor) -> int:
    # One number costs about as much as eight multiplications of a matrix product.
    return cpu.threads_for(8 * out.numel())


@torch.library.impl("rnnopt::indrnn", "CompositeExplicitAutograd")
def _forward(
    z: Tensor, u: Tensor, h0: Tensor | None, lengths: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor]:
    if _on_gpu(z):
        from rnnopt.layers.kernels import indrnn_gpu

        out = indrnn_gpu.forward(z, u, h0, lengths, "relu" if relu else "tanh")
        return out, last_state(out, lengths)
    if not cpu.usable(z, u, h0):
        return plain(z, u, h0, lengths, relu)
    _check(z, u, h0, lengths)
    z, out = cpu.rows(z), z.new_empty(z.shape)
    numbers = (*z.shape, _threads(out), relu, *z.stride()[:2], *out.stride()[:2])
    small = [cpu.contiguous(one) for one in (u, h0, lengths)]
    cpu.call("indrnn", z.dtype, False, numbers, (z, *small, out))
    return out, last_state(out, lengths)


@torch.library.impl("rnnopt::indrnn_backward", "CompositeExplicitAutograd")
def _backward(
    grad_out: Tensor | None,
    grad_hn: Tensor | None,
    u: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if _on_gpu(out):
        from rnnopt.layers.kernels import indrnn_gpu

        name = "relu" if relu else "tanh"
        return indrnn_gpu.backward(grad_out, grad_hn, out, u, h0, lengths, name)
    if not cpu.usable(out, u, h0, grad_out, grad_hn):
        return plain_backward(grad_out, grad_hn, u, h0, lengths, out, relu)
    _check(
        out, u, h0, lengths,
        grad_out=(grad_out, tuple(out.shape), out.dtype),
        grad_hn=(grad_hn, tuple(out.shape[1:]), out.dtype),
    )  # fmt: skip
    grad_out = None if grad_out is None else cpu.rows(grad_out)
    grad_z, grad_u, grad_h0 = torch.empty_like(out), u.new_empty(u.shape), torch.empty_like(out[0])
    numbers = [*out.shape, _threads(out), relu, 0, 0, *out.stride()[:2]]
    for one in (grad_out, grad_z):
        numbers += (0, 0) if one is None else one.stride()[:2]
    *small, last = (cpu.contiguous(one) for one in (u, h0, lengths, grad_hn))
    pointers = (None, *small, out, grad_out, last, grad_z, grad_u, grad_h0)
    cpu.call("indrnn", out.dtype, True, numbers, pointers)
    return grad_z, grad_u, grad_h0


@torch.library.register_fake("rnnopt::indrnn")
def _forward_fake(z, u, h0, lengths, relu):  # type: ignore[no-untyped-def]
    return z.new_empty(z.shape), z.new_empty(z.shape[1:])


@torch.library.register_fake("rnnopt::indrnn_backward")
def _backward_fake(grad_out, grad_hn, u, h0, lengths, out, relu):  # type: ignore[no-untyped-def]
    return torch.empty_like(out), u.new_empty(u.shape), out.new_empty(out.shape[1:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, u, h0, lengths, ctx.relu = inputs
    ctx.save_for_backward(u, h0, lengths, output[0])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_hn: Tensor | None) -> tuple[Any, ...]:
    if grad_out is None and grad_hn is None:
        return None, None, None, None, None
    arguments = (grad_out, grad_hn, *ctx.saved_tensors, ctx.relu)
    if torch.is_grad_enabled():
        grads = plain_backward(*arguments)
    else:
        grads = torch.ops.rnnopt.indrnn_backward(*arguments)
    kept = [g if want else None for g, want in zip(grads, ctx.needs_input_grad, strict=False)]
    return *kept, None, None


torch.library.register_autograd("rnnopt::indrnn", _differentiate, setup_context=_save)


# -- the same including the product with the inputs, on the CPU ----------------------------------


def layer(
    x: Tensor,
    w_ih: Tensor,
    b_ih: Tensor | None,
    u: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    relu: bool,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    """States and last states of h_t = f(W x_t + b + u ⊙ h_{t-1}), by the fastest available code.

    Args:
        x: (time, batch, input).
        w_ih, b_ih: (hidden, input) and (hidden,) or None.
        u, h0, lengths, relu: as for `plain`.
        half: the product with the inputs in bfloat16.
    """
    if not half and cpu.usable(x, w_ih, b_ih, u, h0) and not hoists(x):
        return torch.ops.rnnopt.indrnn_layer(x, w_ih, b_ih, u, h0, lengths, relu)
    z = product(x, w_ih, b_ih, half)
    if not z.is_cuda:
        z = z.to(u.dtype)  # autocast: the recurrence stays in full precision
    return recurrence(z, u, h0, lengths, relu)


def product(x: Tensor, w_ih: Tensor, b_ih: Tensor | None, half: bool) -> Tensor:
    """W x + b at all steps, (time, batch, hidden); with `half` multiplied in bfloat16."""
    if half:
        return half_linear.linear(x, w_ih, b_ih)
    return torch.nn.functional.linear(x, w_ih, b_ih)


def recurrence(
    z: Tensor, u: Tensor, h0: Tensor | None, lengths: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor]:
    """The results of `plain`, by the fastest available code."""
    if cpu.own_operators():
        return torch.ops.rnnopt.indrnn(z, u, h0, lengths, relu)
    return plain(z, u, h0, lengths, relu)


def _layer_threads(x: Tensor, hidden: int) -> int:
    work = x.shape[0] * x.shape[1] * hidden * (x.shape[2] + 8)
    return min(cpu.threads_for(work), x.shape[1])


@torch.library.impl("rnnopt::indrnn_layer", "CPU")
def _layer_forward(
    x: Tensor,
    w_ih: Tensor,
    b_ih: Tensor | None,
    u: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    (steps, batch, size), hidden = x.shape, len(u)
    x, out = cpu.rows(x), x.new_empty(steps, batch, hidden)
    _check(
        out, u, h0, lengths,
        w_ih=(w_ih, (hidden, size), x.dtype), b_ih=(b_ih, (hidden,), x.dtype),
    )  # fmt: skip
    numbers = (
        steps, batch, size, hidden, _layer_threads(x, hidden), relu,
        *x.stride()[:2], *out.stride()[:2],
    )  # fmt: skip
    weights = [cpu.contiguous(one) for one in (w_ih, u, b_ih)]
    small = [cpu.contiguous(one) for one in (h0, lengths)]
    cpu.call("indrnn_layer", x.dtype, False, numbers, (x, *weights, None, *small, out))
    return out, last_state(out, lengths)


@torch.library.impl("rnnopt::indrnn_layer_backward", "CPU")
def _layer_backward(
    grad_out: Tensor | None,
    grad_hn: Tensor | None,
    x: Tensor,
    w_ih: Tensor,
    u: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    relu: bool,
    want_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (steps, batch, size), hidden = x.shape, len(u)
    _check(
        out, u, h0, lengths,
        x=(x, (len(out), out.shape[1], size), out.dtype),
        w_ih=(w_ih, (hidden, size), out.dtype),
        grad_out=(grad_out, (steps, batch, hidden), out.dtype),
        grad_hn=(grad_hn, (batch, hidden), out.dtype),
    )  # fmt: skip
    x = cpu.rows(x)
    grad_out = None if grad_out is None else cpu.rows(grad_out)
    grad_x = x.new_empty(x.shape) if want_x else None
    grad_w, grad_h0 = w_ih.new_empty(w_ih.shape), out.new_empty(batch, hidden)
    grad_u, grad_b = (u.new_empty(hidden) for _ in range(2))
    numbers: list[int] = [steps, batch, size, hidden, _layer_threads(x, hidden), relu]
    for one in (x, out, grad_out, grad_x):
        numbers += (0, 0) if one is None else one.stride()[:2]
    weights = [cpu.contiguous(one) for one in (w_ih, u)]
    *small, last = (cpu.contiguous(one) for one in (h0, lengths, grad_hn))
    pointers = (
        x, *weights, None, None, *small, out, grad_out, last, grad_x, None,
        grad_w, grad_u, grad_b, grad_h0,
    )  # fmt: skip
    cpu.call("indrnn_layer", out.dtype, True, (*numbers, 0, 0), pointers)
    return out.new_empty(0) if grad_x is None else grad_x, grad_w, grad_u, grad_b, grad_h0


@torch.library.register_fake("rnnopt::indrnn_layer")
def _layer_forward_fake(x, w_ih, b_ih, u, h0, lengths, relu):  # type: ignore[no-untyped-def]
    steps, batch, _ = x.shape
    return x.new_empty(steps, batch, u.shape[0]), x.new_empty(batch, u.shape[0])


@torch.library.register_fake("rnnopt::indrnn_layer_backward")
def _layer_backward_fake(  # type: ignore[no-untyped-def]
    grad_out, grad_hn, x, w_ih, u, h0, lengths, out, relu, want_x
):
    grad_x = x.new_empty(x.shape) if want_x else out.new_empty(0)
    hidden = u.shape[0]
    return (
        grad_x, w_ih.new_empty(w_ih.shape), u.new_empty(hidden), u.new_empty(hidden),
        out.new_empty(x.shape[1], hidden),
    )  # fmt: skip


def _layer_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w_ih, _, u, h0, lengths, ctx.relu = inputs
    ctx.save_for_backward(x, w_ih, u, h0, lengths, output[0])
    ctx.set_materialize_grads(False)


def _layer_differentiate(
    ctx: Any, grad_out: Tensor | None, grad_hn: Tensor | None
) -> tuple[Any, ...]:
    wanted = ctx.needs_input_grad
    if grad_out is None and grad_hn is None:
        return (None,) * len(wanted)
    x, w_ih, u, h0, lengths, out = ctx.saved_tensors
    if torch.is_grad_enabled():
        errors, grad_u, grad_h0 = plain_backward(grad_out, grad_hn, u, h0, lengths, out, ctx.relu)
        if lengths is not None:
            x = torch.where(true_steps(len(x), lengths), x, 0)
        flat = errors.flatten(0, 1)
        grad_x, grad_w, grad_b = errors @ w_ih, flat.t() @ x.flatten(0, 1), flat.sum(0)
    else:
        grad_x, grad_w, grad_u, grad_b, grad_h0 = torch.ops.rnnopt.indrnn_layer_backward(
            grad_out, grad_hn, x, w_ih, u, h0, lengths, out, ctx.relu, wanted[0]
        )
    grads = (grad_x, grad_w, grad_b, grad_u, grad_h0)
    kept = [grad if want else None for grad, want in zip(grads, wanted, strict=False)]
    return *kept, None, None


torch.library.register_autograd(
    "rnnopt::indrnn_layer", _layer_differentiate, setup_context=_layer_save
)
