"""Products of a layer's inputs and weights in bfloat16, summed in single precision.

    z = r(x) r(W)ᵀ + b      ∂x = r(e) r(W)      ∂W = r(e)ᵀ r(x)      ∂b = Σ e,   e = ∂L/∂z

with r the rounding to bfloat16, 8 bits of precision. States, sums over time and weights stay in
single precision. Processors with AMX or AVX512-BF16 compute this in
`torch.ops.rnnopt.half_linear`. Where rnnopt's operators cannot be used (functional transforms,
other types, a GPU), torch's own operators round and multiply: slower, the same to about one
rounding.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu

Precision = Literal["float32", "bf16"]
KINDS = {1: "AVX512-BF16", 2: "AMX"}

torch.library.define("rnnopt::half_linear", "(Tensor x, Tensor w) -> Tensor")
torch.library.define(
    "rnnopt::half_linear_backward",
    "(Tensor grad_z, Tensor x, Tensor w, bool want_x) -> (Tensor, Tensor)",
)


def kind() -> str | None:
    """The instructions that multiply in bfloat16 here: AMX, AVX512-BF16, or None."""
    library = cpu.kernels().library
    return None if library is None else KINDS.get(library.rnnopt_half_kind())


kind._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as cpu.available


def check_precision(owner: str, precision: str) -> None:
    """Checks the option `precision` of a layer or model.

    Raises:
        ValueError: it is unknown, or "bf16" where this processor or build has no such products.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"{owner} needs precision float32 or bf16, got {precision!r}.")
    if precision == "bf16" and kind() is None:
        found = cpu.kernels()
        problem = (
            "neither is here" if found.library else f"the kernels are not in use: {found.reason}"
        )
        raise ValueError(
            f"{owner} needs a processor with AMX or AVX512-BF16 and compiled kernels for"
            f" precision='bf16', but {problem}."
        )


def check_usable(operator: str, x: Tensor, half: bool) -> None:
    """Checks that a kernel asked for products in bfloat16 has them.

    Raises:
        ValueError: it has none here, or none for numbers of this type.
    """
    if half and (x.dtype != torch.float32 or kind() is None):
        raise ValueError(
            f"{operator} needs float32, and AMX or AVX512-BF16, for products in bfloat16, got"
            f" {x.dtype} and {kind()}."
        )


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x Wᵀ + b with the product in bfloat16, by the fastest available code.

    Args:
        x: (time, batch, inputs).
        w, b: (hidden, inputs) and (hidden,) or None.
    """
    if x.dtype == torch.float32 and cpu.usable(x, w) and kind():
        z = torch.ops.rnnopt.half_linear(x, w)
    else:
        z = rounded(x) @ rounded(w).t()
    return z if b is None else z + b


def rounded(numbers: Tensor) -> Tensor:
    """The nearest bfloat16 numbers, in the given type."""
    return numbers.to(torch.bfloat16).to(numbers.dtype)


def _numbers(x: Tensor, w: Tensor) -> tuple[int, ...]:
    cpu.check("half_linear", w=(w, (len(w), x.shape[-1]), torch.float32))
    # A product in bfloat16 takes a quarter of the time of one in single precision, or less.
    return x[..., 0].numel(), x.shape[-1], len(w), cpu.threads_for(x.numel() * len(w) // 4)


@torch.library.impl("rnnopt::half_linear", "CPU")
def _forward(x: Tensor, w: Tensor) -> Tensor:
    x, w = x.contiguous(), w.contiguous()
    z = x.new_empty(*x.shape[:-1], len(w))
    cpu.call("half_product", x.dtype, False, _numbers(x, w), (x, w, z))
    return z


@torch.library.impl("rnnopt::half_linear_backward", "CPU")
def _backward(grad_z: Tensor, x: Tensor, w: Tensor, want_x: bool) -> tuple[Tensor, Tensor]:
    cpu.check("half_linear", grad_z=(grad_z, (*x.shape[:-1], len(w)), torch.float32))
    grad_z, x, w = grad_z.contiguous(), x.contiguous(), w.contiguous()
    grad_x, grad_w = x.new_empty(x.shape if want_x else 0), torch.empty_like(w)
    pointers = (x, w, grad_z, grad_x if want_x else None, grad_w)
    cpu.call("half_product", x.dtype, True, _numbers(x, w), pointers)
    return grad_x, grad_w


@torch.library.register_fake("rnnopt::half_linear")
def _forward_fake(x, w):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:-1], w.shape[0])


@torch.library.register_fake("rnnopt::half_linear_backward")
def _backward_fake(grad_z, x, w, want_x):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape if want_x else 0), w.new_empty(w.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, w = ctx.saved_tensors
    want_x, want_w = ctx.needs_input_grad
    if torch.is_grad_enabled():
        flat = rounded(grad_z.flatten(0, -2))
        grad_x = rounded(grad_z) @ rounded(w)
        grad_w = flat.t() @ rounded(x.flatten(0, -2))
    else:
        grad_x, grad_w = torch.ops.rnnopt.half_linear_backward(grad_z, x, w, want_x)
    return grad_x if want_x else None, grad_w if want_w else None


torch.library.register_autograd("rnnopt::half_linear", _differentiate, setup_context=_save)
