"""The GRU recurrence as torch operators, fused on the CPU.

    r_t, z_t = σ(W x_t + b + U h_{t-1} + d)           for each with weights of its own
    n_t = tanh(W_n x_t + b_n + r_t ⊙ (U_n h_{t-1} + d_n))
    h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1},   t = 1 … T

Backward, with δh the gradient of h_t:

    e_n = δh ⊙ (1 - z) ⊙ (1 - n²)       e_r = e_n ⊙ (U_n h_{t-1} + d_n) ⊙ r (1 - r)
    e_z = δh ⊙ (h_{t-1} - n) ⊙ z (1 - z)
    δh_{t-1} = ∂L/∂h_{t-1} + δh ⊙ z + Uᵀ (e_r, e_z, r ⊙ e_n)

`torch.ops.rnnopt.gru` is the fused form for tensors on the CPU. Its gradient is differentiable:
with `create_graph`, backward runs step by step in torch's own operators. With `half` the factors of
all products, the gradients e among them, are rounded to bfloat16 (see half_linear.py).
"""

from typing import Any

import torch
from torch import Tensor

from rnnopt.layers.kernels import gated

torch.library.define(
    "rnnopt::gru",
    "(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, Tensor? lengths,"
    " bool reverse, bool keep, bool half=False) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "rnnopt::gru_backward",
    "(Tensor? grad_out, Tensor? grad_hn, Tensor x, Tensor w_ih, Tensor w_hh, Tensor? h0,"
    " Tensor? lengths, Tensor out, Tensor saved, bool reverse, bool want_x, bool want_w,"
    " bool want_h0, bool half=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("rnnopt::gru", "CPU")
def _forward(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    keep: bool,
    half: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = (w_ih, w_hh, b_ih, b_hh)
    out, hn, _, saved = gated.run_forward("gru", x, weights, h0, None, lengths, reverse, keep, half)
    return out, hn, saved


@torch.library.impl("rnnopt::gru_backward", "CPU")
def _backward(  # type: ignore[no-untyped-def]
    grad_out,
    grad_hn,
    x,
    w_ih,
    w_hh,
    h0,
    lengths,
    out,
    saved,
    reverse,
    want_x,
    want_w,
    want_h0,
    half=False,
):
    wanted = (want_x, want_w, want_h0, False)
    return gated.run_backward(
        "gru",
        (grad_out, grad_hn, None),
        x,
        w_ih,
        w_hh,
        h0,
        None,
        lengths,
        out,
        saved,
        reverse,
        wanted,
        half,
    )[:6]


@torch.library.register_fake("rnnopt::gru")
def _forward_fake(x, w_ih, w_hh, b_ih, b_hh, h0, lengths, reverse, keep, half=False):  # type: ignore[no-untyped-def]
    steps, batch, _ = x.shape
    hidden = w_hh.shape[1]
    saved = gated.saved_numbers("gru", x, hidden) if keep else 0
    return x.new_empty(steps, batch, hidden), x.new_empty(batch, hidden), x.new_empty(saved)


@torch.library.register_fake("rnnopt::gru_backward")
def _backward_fake(grad_out, grad_hn, x, w_ih, w_hh, *others):  # type: ignore[no-untyped-def]
    shapes = gated.grad_shapes("gru", x, w_ih, w_hh, (*others[5:8], False))
    return tuple(x.new_empty(shape) for shape in shapes[:6])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reverse, _, ctx.half = inputs
    ctx.save_for_backward(*tensors, output[0], output[2])
    ctx.mark_non_differentiable(output[2])
    # A missing gradient stays None: reading zeros would cost as much as reading the states.
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[:6])
    given = list(grads[:2])
    if all(grad is None for grad in given):
        return (None,) * 10
    *inputs, lengths, out, saved = ctx.saved_tensors
    if torch.is_grad_enabled() or not saved.numel():
        run = gated.in_torchs_operators("gru", lengths, ctx.reverse, ctx.half)
        found = gated.differentiable_gradients(run, inputs, wanted, given)
        return *found, None, None, None, None
    x, w_ih, w_hh, _, _, h0 = inputs
    want_w = any(wanted[1:5])
    found = torch.ops.rnnopt.gru_backward(
        *given, x, w_ih, w_hh, h0, lengths, out, saved, ctx.reverse,
        wanted[0], want_w, wanted[5], ctx.half,
    )  # fmt: skip
    kept = [grad if want else None for grad, want in zip(found, wanted, strict=True)]
    return *kept, None, None, None, None


torch.library.register_autograd("rnnopt::gru", _differentiate, setup_context=_save)

# Called by the layers; importing it registers the operator.
fused = torch.ops.rnnopt.gru
