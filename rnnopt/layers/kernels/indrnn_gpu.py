# mypy: disable-error-code="no-untyped-def, assignment, import-untyped, import-not-found"
# (Inside a kernel everything is a Triton tensor, and tuples grow.)
"""The IndRNN recurrence on GPUs: two Triton kernels, one forward and one backward in time.

For each sample and unit, with ⊙ the elementwise product and f tanh or relu,

    h_t = f(z_t + u ⊙ h_{t-1})                                  t = 1 … T, h_0 given or zero
    e_t = (∂L/∂h_t + u ⊙ e_{t+1}) ⊙ f'(h_t)                     t = T … 1, e_{T+1} = 0
    ∂L/∂z_t = e_t,   ∂L/∂u = Σ_{t, batch} e_t ⊙ h_{t-1},   ∂L/∂h_0 = u ⊙ e_1

where f' is 1 - h² for tanh, and for relu 0 where h ≤ 0. A sample shorter than T has outputs and
gradients of zero after its last step, and the gradient of its final state enters at that step.

Li, Li, Cook, Zhu and Gao, "Independently Recurrent Neural Network", CVPR 2018,
https://arxiv.org/abs/1803.04831, equations 4 and 5.

Performance. Each of the batch × hidden columns is one lane: one thread walks it through time, and
neighbours in memory are neighbours in a warp. Nothing is used twice, so memory bandwidth is the
limit. But 128 × 128 lanes are only four warps per multiprocessor, too few to hide the memory
latency by taking turns. Therefore

1. UNROLL steps are loaded into registers together, and the next UNROLL are requested before the
   first of these is computed, so that each lane always has many loads in flight;
2. the chain from state to state is short: it leaves out everything that does not depend on the
   previous state, and tanh costs it two special function calls and five multiply-adds, no division.

16-bit values are computed in float32: the forward pass carries the unrounded state from step to
step, the backward pass reads the state as stored.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NONLINEARITIES = ("tanh", "relu")

# Loads in flight over all lanes: latency times bandwidth is 0.7 µs × 3.35 TB/s on an H100, 2.3 MB;
# twice that in float32 because they are issued in chunks.
VALUES_IN_FLIGHT = 2**20
# Chunks: more than 32 steps spill registers in the backward pass, fewer than 8 save few registers.
LONGEST_CHUNK, SHORTEST_CHUNK = 32, 8
# Programs of one warp spread evenly over the multiprocessors, each of which holds at most 32. With
# more lanes than this on 132 multiprocessors, programs of four warps allow more resident warps.
LANES_OF_SMALL_PROGRAMS = 132 * 32 * 32


@triton.jit
def _tanh(x, arithmetic: tl.constexpr):
    """tanh to a few units in the last place; NaN stays NaN.

    Away from zero it is sgn x (1 - 2 / (1 + exp 2|x|)). Near zero that cancels: there float32 uses
    x + x³ p(x²), with p the minimax polynomial of degree 4 for the relative error (2e-8), and
    float64 Lambert's continued fraction cut after 15 (6e-17). Both sides are always computed.
    """
    size = tl.abs(x)
    square = x * x
    power = 1.0 + tl.exp2(2.8853900817779268 * size)  # 2 / ln 2
    if arithmetic == tl.float64:
        above = 2027025.0 + square * (270270.0 + square * (6930.0 + square * 36.0))
        below = 945945.0 + square * (51975.0 + square * (630.0 + square))
        near = x * above / (2027025.0 + square * below)
        inverse = 1.0 / power
    else:
        tail = -0.053558856711 + square * (0.0200919596656 + square * -0.00513865393646)
        slope = -0.333331898955 + square * (0.133291106563 + square * tail)
        near = x + x * (square * slope)
        # A division would scale its operands first, which would lengthen the chain of states.
        inverse = tl.rsqrt(power * power)
    sign = tl.where(x < 0, -1.0, 1.0).to(arithmetic)
    far = sign - (2.0 * sign) * inverse
    return tl.where(size < 0.7, near, far)


@triton.jit
def _load_ahead(pointers, stride, left, UNROLL: tl.constexpr):
    """Steps 0 … UNROLL - 1 at `pointers`, zero from `left` on; and the pointers after them."""
    values = ()
    for i in tl.static_range(UNROLL):
        values = values + (tl.load(pointers, mask=left > i, other=0.0),)
        pointers += stride
    return values, pointers


@triton.jit
def _load_back(states, gradients, state_stride, gradient_stride, left, first, UNROLL: tl.constexpr):
    """Steps UNROLL - 1 … 0 of a chunk: the state before each, its gradient, and the pointers.

    Args:
        states: pointers to the state before the chunk's last step.
        gradients: pointers to the gradient of its last step, or None.
        left: how many of the chunk's steps are true ones; may be negative or beyond UNROLL.
        first: time of the chunk's first step; nothing is loaded where it is negative.
    """
    befores, grads = (), ()
    for i in tl.static_range(UNROLL - 1, -1, -1):
        # The state before step `left` is the last true one; step left - 1 needs it.
        if i == 0:
            befores = befores + (tl.load(states, mask=(left >= i) & (first > 0), other=0.0),)
        else:
            befores = befores + (tl.load(states, mask=(left >= i) & (first >= 0), other=0.0),)
        states -= state_stride
        if gradients is not None:
            grads = grads + (tl.load(gradients, mask=(left > i) & (first >= 0), other=0.0),)
            gradients -= gradient_stride
    return befores, grads, states, gradients


# Sizes change with every batch: without this, some of their values would trigger a compilation.
@triton.jit(do_not_specialize=["T", "H", "lanes", "z_time", "z_row"])
def _forward_kernel(
    z,
    u,
    h0,
    lengths,
    out,
    T,
    H,
    lanes,
    z_time,
    z_row,
    RELU: tl.constexpr,
    arithmetic: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < lanes
    row = lane // H
    unit = lane % H
    stop = tl.where(inside, T, 0)  # every mask in time is also the mask of lanes
    end = stop
    if lengths is not None:
        end = tl.load(lengths + row, mask=inside, other=0).to(tl.int32)
    weight = tl.load(u + unit, mask=inside, other=0.0).to(arithmetic)
    state = tl.zeros((BLOCK,), arithmetic)
    if h0 is not None:
        state = tl.load(h0 + lane, mask=inside, other=0.0).to(arithmetic)

    z += row * z_row + unit
    out += lane
    z_stride = tl.cast(z_time, tl.int64)
    out_stride = tl.cast(lanes, tl.int64)
    ahead, z = _load_ahead(z, z_stride, end, UNROLL)
    for first in range(0, T, UNROLL):
        now = ahead
        ahead, z = _load_ahead(z, z_stride, end - first - UNROLL, UNROLL)
        for i in tl.static_range(UNROLL):
            before = now[i].to(arithmetic) + weight * state
            if RELU:  # noqa: SIM108
                state = tl.where(before < 0, 0.0, before)  # NaN stays
            else:
                state = _tanh(before, arithmetic)
            stored = state
            if lengths is not None:
                stored = tl.where(end - first > i, state, 0.0)
            tl.store(out, stored, mask=stop - first > i)
            out += out_stride


@triton.jit(do_not_specialize=["T", "H", "lanes", "grad_time", "grad_row"])
def _backward_kernel(
    grad_out,
    grad_hn,
    out,
    u,
    h0,
    lengths,
    grad_z,
    sums,
    grad_h0,
    T,
    H,
    lanes,
    grad_time,
    grad_row,
    RELU: tl.constexpr,
    arithmetic: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < lanes
    row = lane // H
    unit = lane % H
    stop = tl.where(inside, T, 0)
    end = stop
    if lengths is not None:
        end = tl.load(lengths + row, mask=inside, other=0).to(tl.int32)
    weight = tl.load(u + unit, mask=inside, other=0.0).to(arithmetic)
    total = tl.zeros((BLOCK,), arithmetic)
    # Gradient from later steps: the final state's gradient, until a true step is reached.
    carry = tl.zeros((BLOCK,), arithmetic)
    if grad_hn is not None:
        carry = tl.load(grad_hn + lane, mask=inside, other=0.0).to(arithmetic)

    stride = tl.cast(lanes, tl.int64)
    grad_stride = tl.cast(grad_time, tl.int64)
    first = (T + UNROLL - 1) // UNROLL * UNROLL - UNROLL
    last = tl.cast(first, tl.int64) + UNROLL - 1  # may lie beyond T: its steps are masked
    state = tl.load(out + lane + last * stride, mask=(end > last) & (last >= 0), other=0.0)
    state = state.to(arithmetic)
    out += lane + (last - 1) * stride
    grad_z += lane + last * stride
    if grad_out is not None:
        grad_out += row * grad_row + unit + last * grad_stride
    befores_ahead, grads_ahead, out, grad_out = _load_back(
        out, grad_out, stride, grad_stride, end - first, first, UNROLL
    )
    for _ in range(0, T, UNROLL):
        befores, grads = befores_ahead, grads_ahead
        befores_ahead, grads_ahead, out, grad_out = _load_back(
            out, grad_out, stride, grad_stride, end - first + UNROLL, first - UNROLL, UNROLL
        )
        for i in tl.static_range(UNROLL - 1, -1, -1):
            before = befores[UNROLL - 1 - i].to(arithmetic)
            if i == 0 and h0 is not None:
                start = tl.load(h0 + lane, mask=inside & (first == 0), other=0.0).to(arithmetic)
                before = tl.where(first == 0, start, before)
            grad = carry
            if grad_out is not None:
                grad += grads[UNROLL - 1 - i].to(arithmetic)
            if RELU:  # noqa: SIM108
                grad = tl.where(state <= 0, 0.0, grad)
            else:
                grad = grad * (1.0 - state * state)
            true = end - first > i
            grad = tl.where(true, grad, 0.0)
            carry = tl.where(true, weight * grad, carry)
            total = tl.where(true, total + grad * before, total)
            tl.store(grad_z, grad, mask=stop - first > i)
            grad_z -= stride
            state = before
        first -= UNROLL
    tl.store(sums + lane, total, mask=inside)
    tl.store(grad_h0 + lane, carry, mask=inside)


def _launch(kernel: Any, arguments: tuple, like: Tensor, lanes: int, relu: bool) -> None:
    """Runs `kernel` over all lanes; their number determines the launch shape.

    Args:
        kernel: one of the two above.
        arguments: tensors and sizes of the kernel.
        like: a tensor (time, batch, hidden) of the dtype and on the device in question.
        lanes: batch × hidden.
        relu: whether f is relu.
    """
    if lanes == 0:
        return
    double = like.dtype == torch.float64
    unroll = LONGEST_CHUNK
    while unroll > SHORTEST_CHUNK and (
        unroll * lanes > VALUES_IN_FLIGHT or unroll >= 2 * like.shape[0]
    ):
        unroll //= 2
    if double:
        unroll //= 2  # as many bytes, as many registers
    block = 32 if lanes <= LANES_OF_SMALL_PROGRAMS else 128
    with torch.cuda.device_of(like):
        kernel[(triton.cdiv(lanes, block),)](
            *arguments,
            RELU=relu,
            arithmetic=tl.float64 if double else tl.float32,
            UNROLL=unroll,
            BLOCK=block,
            num_warps=block // 32,
        )


def _unit_rows(tensor: Tensor) -> Tensor:
    """`tensor`, copied only if its last dimension is not contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _is_relu(nonlinearity: str) -> bool:
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"IndRNN needs nonlinearity tanh or relu, got {nonlinearity=}.")
    return nonlinearity == "relu"


def forward(
    z: Tensor, u: Tensor, h0: Tensor | None, lengths: Tensor | None, nonlinearity: str
) -> Tensor:
    """All states h_1 … h_T.

    Args:
        z: inputs before the recurrence, (time, batch, hidden), float16, bfloat16, float32 or
            float64; read in place with any strides whose last is 1.
        u: recurrent weights, (hidden,).
        h0: state before the first step, (batch, hidden); None is zero.
        lengths: true steps of each sample, (batch,), int64, on the device, 0 … time; None is all.
        nonlinearity: "tanh" or "relu".

    Returns:
        (time, batch, hidden), contiguous, of z's dtype; zero after a sample's last step.

    Example:
        >>> forward(torch.ones(2, 1, 1, device="cuda"), u, None, None, "relu")  # with u = [0.5]
        tensor([[[1.0000]], [[1.5000]]], device='cuda:0')
    """
    relu = _is_relu(nonlinearity)
    T, B, H = z.shape
    z = _unit_rows(z)
    out = torch.empty((T, B, H), dtype=z.dtype, device=z.device)
    tensors = (z, u.contiguous(), _contiguous(h0), _contiguous(lengths), out)
    _launch(_forward_kernel, (*tensors, T, H, B * H, z.stride(0), z.stride(1)), z, B * H, relu)
    return out


def backward(
    grad_out: Tensor | None,
    grad_hn: Tensor | None,
    out: Tensor,
    u: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    nonlinearity: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of z, u and h0; bit for bit the same in every call.

    Args:
        grad_out: ∂L/∂h_t, (time, batch, hidden), any strides whose last is 1; None is zero. What it
            holds after a sample's last step is not read.
        grad_hn: gradient of each sample's state at its last true step, (batch, hidden); None is
            zero. In a sample without steps it is the gradient of h0.
        out: what `forward` returned.
        u, h0, lengths, nonlinearity: as `forward` got them.

    Returns:
        grad_z (time, batch, hidden), contiguous; grad_u (hidden,); grad_h0 (batch, hidden), also
        where h0 was None. Each has the dtype of its tensor.

    Example:
        >>> grad_z, grad_u, grad_h0 = backward(grad_out, None, out, u, None, None, "tanh")
    """
    relu = _is_relu(nonlinearity)
    T, B, H = out.shape
    out = out.contiguous()
    time_stride = row_stride = 0
    if grad_out is not None:
        grad_out = _unit_rows(grad_out)
        time_stride, row_stride = grad_out.stride(0), grad_out.stride(1)
    grad_z = torch.empty_like(out)
    grad_h0 = torch.empty((B, H), dtype=out.dtype if h0 is None else h0.dtype, device=out.device)
    exact = torch.float64 if out.dtype == torch.float64 else torch.float32
    sums = torch.empty((B, H), dtype=exact, device=out.device)  # ∂L/∂u of every lane
    tensors = (grad_out, _contiguous(grad_hn), out, u.contiguous(), _contiguous(h0))
    results = (_contiguous(lengths), grad_z, sums, grad_h0)
    sizes = (T, H, B * H, time_stride, row_stride)
    _launch(_backward_kernel, (*tensors, *results, *sizes), out, B * H, relu)
    return grad_z, sums.sum(0).to(u.dtype), grad_h0
