"""The recurrences in torch's own operators, in forms that can be exported.

`torch.jit.trace` and `torch.export` would unroll a Python loop: the graph would grow with the
number of steps and accept only that number. So the loop over time is

- under torch.jit.trace: torch's own operator (Elman), or a loop that TorchScript keeps (IndRNN);
- under torch.export: torch's own operator where the number of steps is fixed (Elman), else `scan`,
  which becomes one Scan in ONNX;
- otherwise a Python loop.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rnnopt.layers.kernels import cpu

# One step: from the state, the step's inputs and the weights to the new state.
Step = Callable[..., Tensor]


def true_steps(steps: int, lengths: Tensor) -> Tensor:
    """Which steps are not padding, (time, batch, 1)."""
    return (torch.arange(steps, device=lengths.device)[:, None] < lengths)[..., None]


def last_state(out: Tensor, lengths: Tensor | None, reverse: bool = False) -> Tensor:
    """The state (batch, hidden) at each sequence's last true step."""
    if lengths is None:
        return out[0 if reverse else -1].clone()  # an operator's results must not share memory
    index = (lengths - 1).view(1, -1, 1).expand(1, -1, out.shape[2])
    return out.gather(0, index)[0]


def final_states(out: Tensor, lengths: Tensor | None, bidirectional: bool) -> Tensor:
    """The states (batch, directions × hidden) where each direction ends: the first half at the last
    true step, the second half, if there is one, at the first step."""
    if not bidirectional:
        return last_state(out, lengths)
    forwards, backwards = out.chunk(2, 2)
    return torch.cat((last_state(forwards, lengths), backwards[0]), 1)


# -- IndRNN ---------------------------------------------------------------------------------------


def indrnn_loop(z: Tensor, u: Tensor, state: Tensor, relu: bool) -> Tensor:
    """States (time, batch, hidden) of h_t = f(z_t + u ⊙ h_{t-1}); TorchScript reads this.

    Args:
        z: (time, batch, hidden), the units' inputs W x + b.
        u: (hidden,) recurrent weights.
        state: (batch, hidden), the initial state.
        relu: relu, else tanh.
    """
    states: list[Tensor] = []
    for t in range(z.shape[0]):
        state = torch.addcmul(z[t], u, state)
        state = torch.relu(state) if relu else torch.tanh(state)
        states.append(state)
    return torch.stack(states)


def indrnn_masked_loop(z: Tensor, u: Tensor, state: Tensor, valid: Tensor, relu: bool) -> Tensor:
    """Like `indrnn_loop`, with zero states where `valid` (time, batch, 1) is false."""
    states: list[Tensor] = []
    zero = torch.zeros_like(state)
    for t in range(z.shape[0]):
        state = torch.addcmul(z[t], u, state)
        state = torch.relu(state) if relu else torch.tanh(state)
        state = torch.where(valid[t], state, zero)
        states.append(state)
    return torch.stack(states)


@cache
def scripted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` as TorchScript."""
    with warnings.catch_warnings():  # deprecated, as is the tracing that needs it
        warnings.filterwarnings("ignore", ".*torch.jit.script")
        return torch.jit.script(function)


def indrnn_states(z: Tensor, u: Tensor, first: Tensor, valid: Tensor | None, relu: bool) -> Tensor:
    """`indrnn_loop`, or with `valid` `indrnn_masked_loop`, in the form for the current export."""
    if cpu.exporting():
        return _indrnn_scan(z, u, first, valid, relu)
    tracing = torch.jit.is_tracing()
    if valid is None:
        return (scripted(indrnn_loop) if tracing else indrnn_loop)(z, u, first, relu)
    loop = scripted(indrnn_masked_loop) if tracing else indrnn_masked_loop
    return loop(z, u, first, valid, relu)


def _indrnn_scan(z: Tensor, u: Tensor, first: Tensor, valid: Tensor | None, relu: bool) -> Tensor:
    f = torch.relu if relu else torch.tanh
    if valid is None:
        return scan(lambda state, z, u: f(z + u * state), first, [z], u)

    def step(state: Tensor, z: Tensor, valid: Tensor, u: Tensor) -> Tensor:
        return torch.where(valid, f(z + u * state), 0)

    return scan(step, first, [z, valid], u)


# -- Elman ----------------------------------------------------------------------------------------


def elman(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    lengths: Tensor | None,
    relu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Like `torch.ops.rnnopt.elman`, and `reverse` is allowed with `lengths`."""
    valid = None if lengths is None else true_steps(x.shape[0], lengths)
    x = x if valid is None else torch.where(valid, x, 0)  # the padding may hold NaN
    x = reversed_steps(x, lengths) if reverse else x
    first = x.new_zeros(1, x.shape[1], w_hh.shape[0]) if h0 is None else h0[None].contiguous()
    weights = [w_ih, w_hh] if b_ih is None or b_hh is None else [w_ih, w_hh, b_ih, b_hh]
    if cpu.exporting() and steps_vary(x):
        states = _elman_scan(x, weights, first[0], relu)
    else:
        operator: Any = torch.rnn_relu if relu else torch.rnn_tanh
        states, _ = operator(x, first, weights, len(weights) == 4, 1, 0.0, False, False, False)
    last = last_state(states, lengths)
    states = states if valid is None else torch.where(valid, states, 0)
    return reversed_steps(states, lengths) if reverse else states, last


def steps_vary(x: Tensor) -> bool:
    """Whether an exported graph takes other numbers of steps."""
    # Under torch.export(strict=True) every size is an int.
    return torch.compiler.is_dynamo_compiling() or isinstance(x.shape[0], torch.SymInt)


def reversed_steps(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """The true steps of (time, batch, feature) in reverse order; padding stays at the end."""
    if lengths is None:
        return sequence.flip(0)
    steps = torch.arange(sequence.shape[0], device=sequence.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequence.gather(0, index[..., None].expand(-1, -1, sequence.shape[2]))


def _elman_scan(x: Tensor, weights: list[Tensor], first: Tensor, relu: bool) -> Tensor:
    w_ih, w_hh, *biases = weights
    f = torch.relu if relu else torch.tanh
    z = torch.nn.functional.linear(x, w_ih, biases[0] + biases[1] if biases else None)
    return scan(lambda state, z, w: f(z + state @ w.t()), first, [z], w_hh)


# -- scan -----------------------------------------------------------------------------------------


def scan(step: Step, first: Tensor, sequences: list[Tensor], weight: Tensor) -> Tensor:
    """States (time, …) of state_t = step(state_{t-1}, *sequences[:, t], weight), for torch.export.

    The operator itself is called where possible: torch's function around it compiles the loop, and
    then a second export with other dynamic sizes fails.
    """
    from torch._higher_order_ops.scan import scan as torchs_scan  # loads torch's compiler

    def twice(state: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        new = step(state, *others)
        return new, new.clone()

    first = first.clone()
    if torch.compiler.is_dynamo_compiling():  # torch.export(strict=True)
        return torchs_scan(lambda state, now: twice(state, *now, weight), first, tuple(sequences))[
            1
        ]
    return torch.ops.higher_order.scan(twice, [first], sequences, (weight,))[1]
