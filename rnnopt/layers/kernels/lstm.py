"""The LSTM recurrence as torch operators, fused on the CPU.

    i_t, f_t, o_t = σ(W x_t + b + U h_{t-1} + d)      for each with weights of its own
    g_t = tanh(W_g x_t + b_g + U_g h_{t-1} + d_g)
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t,   h_t = o_t ⊙ tanh c_t,   t = 1 … T

Backward, with δh the gradient of h_t, and δc that of c_t after h_t has added to it:

    δc ← δc + δh ⊙ o ⊙ (1 - tanh² c)
    e_i = δc ⊙ g ⊙ i (1 - i)     e_f = δc ⊙ c_{t-1} ⊙ f (1 - f)
    e_g = δc ⊙ i ⊙ (1 - g²)      e_o = δh ⊙ tanh c ⊙ o (1 - o)
    δc_{t-1} = δc ⊙ f            δh_{t-1} = ∂L/∂h_{t-1} + Uᵀ e

`torch.ops.rnnopt.lstm` is the fused form for tensors on the CPU. Its gradient is differentiable:
with `create_graph`, backward runs step by step in torch's own operators. With `half` the factors of
all products, the gradients e among them, are rounded to bfloat16 (see half_linear.py).
"""

from typing import Any

import torch
from torch import Tensor

from rnnopt.layers.kernels import gated

torch.library.define(
    "rnnopt::lstm",
    "(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, Tensor? c0,"
    " Tensor? lengths, bool reverse, bool keep, bool half=False)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::lstm_backward",
    "(Tensor? grad_out, Tensor? grad_hn, Tensor? grad_cn, Tensor x, Tensor w_ih, Tensor w_hh,"
    " Tensor? h0, Tensor? c0, Tensor? lengths, Tensor out, Tensor saved, bool reverse, bool want_x,"
    " bool want_w, bool want_h0, bool want_c0, bool half=False)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("rnnopt::lstm", "CPU")
def _forward(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    keep: bool,
    half: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = (w_ih, w_hh, b_ih, b_hh)
    return gated.run_forward("lstm", x, weights, h0, c0, lengths, reverse, keep, half)


@torch.library.impl("rnnopt::lstm_backward", "CPU")
def _backward(grad_out, grad_hn, grad_cn, *others):  # type: ignore[no-untyped-def]
    *tensors, reverse = others[:9]
    wanted, half = others[9:13], bool(others[13:] and others[13])
    return gated.run_backward("lstm", (grad_out, grad_hn, grad_cn), *tensors, reverse, wanted, half)


@torch.library.register_fake("rnnopt::lstm")
def _forward_fake(x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, reverse, keep, half=False):  # type: ignore[no-untyped-def]
    steps, batch, _ = x.shape
    hidden = w_hh.shape[1]
    saved = gated.saved_numbers("lstm", x, hidden) if keep else 0
    state = (batch, hidden)
    return x.new_empty(steps, *state), x.new_empty(state), x.new_empty(state), x.new_empty(saved)


@torch.library.register_fake("rnnopt::lstm_backward")
def _backward_fake(grad_out, grad_hn, grad_cn, x, w_ih, w_hh, *others):  # type: ignore[no-untyped-def]
    shapes = gated.grad_shapes("lstm", x, w_ih, w_hh, others[6:10])
    return tuple(x.new_empty(shape) for shape in shapes)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reverse, _, ctx.half = inputs
    ctx.save_for_backward(*tensors, output[0], output[3])
    ctx.mark_non_differentiable(output[3])
    # A missing gradient stays None: reading zeros would cost as much as reading the states.
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[:7])
    given = list(grads[:3])
    if all(grad is None for grad in given):
        return (None,) * 11
    *inputs, lengths, out, saved = ctx.saved_tensors
    if torch.is_grad_enabled() or not saved.numel():
        run = gated.in_torchs_operators("lstm", lengths, ctx.reverse, ctx.half)
        found = gated.differentiable_gradients(run, inputs, wanted, given)
        return *found, None, None, None, None
    x, w_ih, w_hh, _, _, h0, c0 = inputs
    want_w = any(wanted[1:5])
    grad_x, grad_w_ih, grad_w_hh, grad_bias, _, grad_h0, grad_c0 = torch.ops.rnnopt.lstm_backward(
        *given, x, w_ih, w_hh, h0, c0, lengths, out, saved, ctx.reverse,
        wanted[0], want_w, wanted[5], wanted[6], ctx.half,
    )  # fmt: skip
    all_grads = (grad_x, grad_w_ih, grad_w_hh, grad_bias, grad_bias, grad_h0, grad_c0)
    kept = [grad if want else None for grad, want in zip(all_grads, wanted, strict=True)]
    return *kept, None, None, None, None


torch.library.register_autograd("rnnopt::lstm", _differentiate, setup_context=_save)

# Called by the layers; importing it registers the operator.
fused = torch.ops.rnnopt.lstm
