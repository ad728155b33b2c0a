"""What the operators of LSTM (lstm.py) and GRU (gru.py) share: calls of the kernels, derivatives.

Sequences that end early (`lengths`) have zero states and gradients after their end; their last
state is that of their last true step. With `reverse` they begin there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu, half_linear, portable_gated, rounded

GATES = {"lstm": 4, "gru": 3}
SAVED = {"lstm": 5, "gru": 4}  # numbers that a backward pass needs of each unit and step


def saved_numbers(kind: str, x: Tensor, hidden: int) -> int:
    """Size of what a forward pass keeps for a backward pass: units in vectors of 64 bytes."""
    whole = 64 // x.element_size()
    return SAVED[kind] * x.shape[0] * x.shape[1] * -(-hidden // whole) * whole


def wide_for_avx2(x: Tensor, hidden: int) -> bool:
    """Whether the weights of a step exceed the second cache, on a processor without AVX-512.

    Torch's products are ahead there for very few and for very many sequences (measured: AMD Milan).
    """
    return hidden > 256 and x.dtype == torch.float32 and cpu.kernels().variant == "AVX2"


def needs_backward(*tensors: Tensor | None) -> bool:
    """Whether a backward pass may follow, for which the forward pass must keep the gates."""
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)


def _check(
    kind: str, x: Tensor, w_ih: Tensor, w_hh: Tensor, lengths: Tensor | None, **more: Any
) -> None:
    (_, batch, size), (gates, hidden) = x.shape, w_hh.shape
    states = dict.fromkeys(("h0", "c0", "grad_hn", "grad_cn"), (batch, hidden))
    shapes = states | dict.fromkeys(("b_ih", "b_hh"), (gates,))
    cpu.check(
        kind,
        w_ih=(w_ih, (GATES[kind] * hidden, size), x.dtype),
        w_hh=(w_hh, (GATES[kind] * hidden, hidden), x.dtype),
        lengths=(lengths, (batch,), torch.int64),
        **{name: (one, shapes[name], x.dtype) for name, one in more.items()},
    )


def run_forward(
    kind: str,
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    keep: bool,
    half: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, last states, last cells (of a GRU without meaning), and what `run_backward` needs."""
    w_ih, w_hh, b_ih, b_hh = weights
    (steps, batch, size), hidden = x.shape, w_hh.shape[1]
    _check(kind, x, w_ih, w_hh, lengths, b_ih=b_ih, b_hh=b_hh, h0=h0, c0=c0)
    half_linear.check_usable(kind, x, half)
    out, hn = x.new_empty(steps, batch, hidden), x.new_empty(batch, hidden)
    cn = x.new_empty((batch, hidden) if kind == "lstm" else 0)
    saved = x.new_empty(saved_numbers(kind, x, hidden) if keep else 0)
    x = cpu.rows(x)
    x_place, out_place = cpu.place(x, reverse), cpu.place(out, reverse)
    threads = min(cpu.threads_for(steps * batch * w_hh.shape[0] * (hidden + size)), batch)
    small = [cpu.contiguous(one) for one in (w_ih, w_hh, b_ih, b_hh, h0, c0, lengths)]
    cpu.call(
        kind,
        x.dtype,
        False,
        (steps, batch, size, hidden, threads, reverse, *x_place[1:], *out_place[1:], half),
        (x_place[0], *small, out_place[0], saved if keep else None, hn, cn),
    )
    return out, hn, cn, saved


def run_backward(
    kind: str,
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    saved: Tensor,
    reverse: bool,
    wanted: tuple[bool, bool, bool, bool],
    half: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients of x, w_ih, w_hh, b_ih, b_hh (a GRU's alone), h0, c0; empty where not wanted.

    Args:
        grads: of all states, of the last ones, of the last cells.
        wanted: whether x, the weights, h0 and c0 want gradients.
        half: products in bfloat16.
    """
    (steps, batch, size), (gates, hidden) = x.shape, w_hh.shape
    grad_out, grad_hn, grad_cn = grads
    _check(kind, x, w_ih, w_hh, lengths, h0=h0, c0=c0, grad_hn=grad_hn, grad_cn=grad_cn)
    cpu.check(
        kind,
        out=(out, (steps, batch, hidden), x.dtype),
        grad_out=(grad_out, (steps, batch, hidden), x.dtype),
        saved=(saved, (saved_numbers(kind, x, hidden),), x.dtype),
    )
    half_linear.check_usable(kind, x, half)
    found = [x.new_empty(shape) for shape in grad_shapes(kind, x, w_ih, w_hh, wanted)]
    want_x, want_w, want_h0, want_c0 = wanted
    kept = (want_x, want_w, want_w, want_w, want_w, want_h0, want_c0)
    grad_x, *others = [one if keep else None for one, keep in zip(found, kept, strict=True)]
    sequences = [
        cpu.rows(x), cpu.rows(out), None if grad_out is None else cpu.rows(grad_out), grad_x,
    ]  # fmt: skip
    places = [cpu.place(one, reverse) for one in sequences]
    at = [one[0] for one in places]
    strides = [stride for one in places for stride in one[1:]]
    threads = min(cpu.threads_for(2 * steps * batch * gates * (hidden + size)), batch)
    small = [cpu.contiguous(one) for one in (w_ih, w_hh, h0, c0, lengths, grad_hn, grad_cn)]
    cpu.call(
        kind,
        x.dtype,
        True,
        (steps, batch, size, hidden, threads, reverse, *strides, half),
        (
            at[0], *small[:2], None, None, *small[2:5], at[1], saved, at[2], *small[5:], at[3],
            *others,
        ),
    )  # fmt: skip
    return tuple(found)


def grad_shapes(
    kind: str, x: Tensor, w_ih: Tensor, w_hh: Tensor, wanted: tuple[bool, bool, bool, bool]
) -> list[Any]:
    """Shapes of the results of `run_backward`."""
    gates, hidden = w_hh.shape
    want_x, want_w, want_h0, want_c0 = wanted
    state = (x.shape[1], hidden)
    return [
        x.shape if want_x else 0,
        w_ih.shape if want_w else 0,
        w_hh.shape if want_w else 0,
        gates if want_w else 0,
        gates if want_w and kind == "gru" else 0,
        state if want_h0 else 0,
        state if want_c0 else 0,
    ]


def in_torchs_operators(
    kind: Any, lengths: Tensor | None, reverse: bool, half: bool
) -> Callable[..., tuple[Tensor, ...]]:
    """The layer step by step, as a function of x, the weights and the first states."""

    def run(x: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
        by = rounded.layer if half else portable_gated.steps_in_turn
        return by(kind, x, list(others[:4]), list(others[4:]), lengths, reverse)

    return run


def differentiable_gradients(
    run: Callable[..., tuple[Tensor, ...]],
    inputs: list[Tensor | None],
    wanted: list[bool],
    grads: list[Tensor | None],
) -> list[Tensor | None]:
    """Gradients, with a graph, of the inputs that want one, from a new forward pass `run(*inputs)`
    in torch's own operators.

    Args:
        grads: of the results of `run`; None where a loss does not read one.
    """
    with torch.enable_grad():
        # Aliases, so that the gradient stops here and does not run on into the graph before.
        own = [None if one is None else one.view_as(one) for one in inputs]
        outputs = run(*own)
        pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
        asked = [one for one, want in zip(own, wanted, strict=True) if want]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in pairs],
                [one for one in asked if one is not None],
                [grad for _, grad in pairs],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
                materialize_grads=True,
            )
        )
    return [next(found) if want else None for want in wanted]
