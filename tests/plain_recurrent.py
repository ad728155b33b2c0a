"""Plain twins of the fused recurrent layers: one step after the other, in torch's own operators.

    Elman     h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
    IndRNN    h_t = f(W x_t + b + u ⊙ h_{t-1})                  f = tanh or relu,  t = 1 … T
    LSTM      c_t = f c_{t-1} + i g,  h_t = o tanh c_t          i, f, o = σ(…), g = tanh(…)
    GRU       h_t = (1 - z) n + z h_{t-1}                       r, z = σ(…), n = tanh(… + r (…))

With `lengths`, the states after a sequence's end are zero, its last state is the one of its last
true step, and what stands in the padding enters nothing. `reverse` runs from the last step to the
first; no sequence is padded then, but of LSTM and GRU, where it begins at its last true step.

Below the twins stands what test_elman.py, test_gated.py and test_indrnn.py need to hold the layers
to them.
"""

import ctypes
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from rnnopt.layers.kernels import cpu
from rnnopt.layers.kernels.build import library_name, read_record


def run(steps, carry, f, h0, lengths, slopes):
    """States (time, batch, hidden) and last states of h_t = f(step_t + carry(h_{t-1}))."""
    h, states = h0, []
    last = h0
    for t, step in enumerate(steps):
        new = step + carry(h)
        new = f(new) if slopes is None else new * slopes[t]
        if lengths is None:
            h = last = new
        else:
            going = (t < lengths)[:, None]
            last = torch.where(going, new, last)
            h = torch.where(going, new, 0)
        states.append(h)
    return states, last


def without_padding(x, lengths):
    """`x` (time, batch, feature) with zeros after the end of each sequence."""
    steps = torch.arange(len(x))[:, None, None]
    return x if lengths is None else torch.where(steps < lengths[:, None], x, 0)


def elman(x, w_ih, w_hh, b_ih, b_hh, h0, lengths, relu, reverse, slopes=None):
    """All states (time, batch, hidden) and the last ones (batch, hidden).

    Args:
        slopes: of the nonlinearity, (time, batch, hidden), or None. Where given, they multiply in
            its place: so relu can be told which units are on, where rounding could decide it.
    """
    assert not (reverse and lengths is not None)
    x = without_padding(x, lengths)
    bias = sum(b for b in (b_ih, b_hh) if b is not None)
    steps = [step @ w_ih.T + bias for step in x.unbind(0)]
    h0 = x.new_zeros(x.shape[1], len(w_hh)) if h0 is None else h0
    order = slice(None, None, -1) if reverse else slice(None)
    slopes = None if slopes is None else slopes.unbind(0)[order]
    f = torch.relu if relu else torch.tanh
    states, last = run(steps[order], lambda h: h @ w_hh.T, f, h0, lengths, slopes)
    return torch.stack(states[order]), last


def indrnn(z, u, h0, lengths, relu, slopes=None):
    """The same for an IndRNN that gets z = W x + b (time, batch, hidden) from outside."""
    z = without_padding(z, lengths)
    h0 = torch.zeros_like(z[0]) if h0 is None else h0
    slopes = None if slopes is None else slopes.unbind(0)
    f = torch.relu if relu else torch.tanh
    states, last = run(z.unbind(0), lambda h: u * h, f, h0, lengths, slopes)
    return torch.stack(states), last


def indrnn_layer(x, w_ih, b_ih, u, h0, lengths, relu, slopes=None):
    """The same for an IndRNN that gets x (time, batch, input)."""
    z = without_padding(x, lengths) @ w_ih.T
    return indrnn(z if b_ih is None else z + b_ih, u, h0, lengths, relu, slopes)


def one_by_one(cell, x, first, lengths, reverse):
    """States (time, batch, hidden) and the last state of cell(x_t, state), a list h, …, in turn."""
    x, state, states = without_padding(x, lengths), first, [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        going = torch.ones(x.shape[1], 1, dtype=torch.bool)
        going = going if lengths is None else (t < lengths)[:, None]
        new = cell(x[t], *state)
        state = [torch.where(going, a, b) for a, b in zip(new, state, strict=True)]
        states[t] = torch.where(going, new[0], 0)
    return torch.stack(states), *state


def lstm(x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, reverse):
    """All states (time, batch, hidden), the last ones and the last cells (batch, hidden)."""
    bias = sum(b for b in (b_ih, b_hh) if b is not None)

    def cell(x, h, c):
        i, f, g, o = (x @ w_ih.T + h @ w_hh.T + bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]

    zeros = x.new_zeros(x.shape[1], w_hh.shape[1])
    first = [zeros if one is None else one for one in (h0, c0)]
    return one_by_one(cell, x, first, lengths, reverse)


def gru(x, w_ih, w_hh, b_ih, b_hh, h0, lengths, reverse):
    """All states (time, batch, hidden) and the last ones (batch, hidden)."""

    def cell(x, h):
        of_x = x @ w_ih.T + (0 if b_ih is None else b_ih)
        of_h = h @ w_hh.T + (0 if b_hh is None else b_hh)
        (r, z, n), (r_h, z_h, n_h) = of_x.chunk(3, 1), of_h.chunk(3, 1)
        z = (z + z_h).sigmoid()
        n = (n + (r + r_h).sigmoid() * n_h).tanh()
        return [(1 - z) * n + z * h]

    first = [x.new_zeros(x.shape[1], w_hh.shape[1]) if h0 is None else h0]
    return one_by_one(cell, x, first, lengths, reverse)


def gradients(outputs, inputs, grads, **options):
    """Gradients of the inputs that want one; `grads` are the outputs', None for one not read."""
    pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanting = [one for one in inputs if isinstance(one, torch.Tensor) and one.requires_grad]
    given = [grad for _, grad in pairs]
    return list(torch.autograd.grad([out for out, _ in pairs], wanting, given, **options))


# -- tolerances, data and results -----------------------------------------------------------------

TIGHT = dict(rtol=1e-11, atol=1e-12)  # float64: sums of at most some thousand terms of order 1
LENGTHS = torch.tensor([3, 7, 1, 5])  # of four sequences padded to 7 steps


def normal(rng, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)


def laid_out(values, layout):
    """The same numbers with other strides; with steps or sequences alike, fewer numbers."""
    if layout == "transposed":
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "sliced":
        wider = values.new_full((*values.shape[:2], values.shape[2] + 3), float("nan"))
        wider[..., 2:-1] = values
        return wider[..., 2:-1]
    if layout == "every other":
        wider = values.new_full((*values.shape[:2], 2 * values.shape[2]), float("nan"))
        wider[..., ::2] = values
        return wider[..., ::2]
    if layout == "same steps":
        return values[:1].expand(values.shape)
    if layout == "same batch":
        return values[:, :1].expand(values.shape)
    if layout == "same everywhere":  # as from a sum
        return values[:1, :1, :1].expand(values.shape)
    assert layout == "plain"
    return values


LAYOUTS = ["plain", "transposed", "sliced", "every other", "same steps", "same batch"]
LOSSES = ["all states", "last states", "both"]


def draw_grads(shape, dtype, loss, layout):
    """Gradients of all states and of the last ones; None where the loss does not read them."""
    steps, batch, hidden = shape
    rng = torch.Generator().manual_seed(1)
    grad = laid_out(normal(rng, steps, batch, hidden, dtype=dtype), layout)
    last = normal(rng, batch, hidden, dtype=dtype)
    return (None if loss == "last states" else grad, None if loss == "all states" else last)


def in_double_precision(arguments):
    """The same tensors, of double precision where they are real, apart from any graph."""
    return [
        one.detach().double().requires_grad_(one.requires_grad)
        if isinstance(one, torch.Tensor) and one.is_floating_point()
        else one
        for one in arguments
    ]


def all_results(layer, x, hx, *more, seed=None):
    """Output, last states, and the gradients of everything under a loss that reads all of both."""
    x = x.clone().requires_grad_()
    hx = None if hx is None else hx.clone().requires_grad_()
    if seed is not None:
        torch.manual_seed(seed)
    output, last = layer(x, hx, *more)
    rng = torch.Generator().manual_seed(3)
    grads = [normal(rng, *one.shape, dtype=one.dtype) for one in (output, last)]
    found = gradients((output, last), (x, hx, *layer.parameters()), grads)
    return [output.detach(), last.detach(), *found]


# -- the compiled kernels -------------------------------------------------------------------------

needs_kernels = pytest.mark.skipif(
    cpu.kernels().library is None, reason=f"no compiled kernels: {cpu.kernels().reason}"
)
# opcheck of torch 2.14 reads `.grad` of tensors of its own that have none. It keeps the warning
# from the screen, but not from a filter that makes errors of warnings.
quiet_opcheck = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


def variants():
    """The kinds of processor that kernels were built for and that this one is."""
    able = torch.backends.cpu.get_cpu_capability()
    suits = {"AVX512": able == "AVX512", "AVX2": able in ("AVX512", "AVX2"), "DEFAULT": True}
    built = read_record(cpu.FOLDER)["built"] if cpu.kernels().library else []
    return [name for name in built if suits[name]]


def load_variant(monkeypatch, variant):
    """Puts the kernels for one kind of processor in place of those that were chosen."""
    library = ctypes.CDLL(str(cpu.FOLDER / library_name(variant)))
    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels(variant, "a test", library))


def switch_off(monkeypatch):
    """As on a machine without a compiler."""
    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels(None, "a test"))


@contextmanager
def threads(count):
    """Work for `count` threads, however little there is of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with mock.patch.object(cpu, "WORK_OF_A_THREAD", 1):
            yield
    finally:
        torch.set_num_threads(before)
