"""What precision="bf16" promises of Elman, GRU and LSTM layers: products of rounded numbers.

The twin runs step by step, rounds with torch and multiplies in double precision. Where a processor
has no such products, the tests of the kernels are left out, and those of the path in torch's
operators remain.
"""

import copy
import pickle
import re

import pytest
import torch
from half_products import RoundedProduct, anywhere, distances, each_kind, needs_half
from plain_recurrent import normal, quiet_opcheck, threads
from torch import nn

from rnnopt import GRU, LSTM, ElmanRNN, SequenceModel
from rnnopt.layers.kernels import cpu, half_linear

__all__ = ["anywhere", "each_kind"]  # fixtures
LAYERS = {"rnn": ElmanRNN, "gru": GRU, "lstm": LSTM}
TORCHS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def twin_step(layer, z, u, state):
    if isinstance(layer, LSTM):
        i, f, g, o = (z + u).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]
    if isinstance(layer, GRU):
        (zr, zz, zn), (ur, uz, un) = z.chunk(3, -1), u.chunk(3, -1)
        n = (zn + (zr + ur).sigmoid() * un).tanh()
        gate = (zz + uz).sigmoid()
        return [(1 - gate) * n + gate * state[0]]
    return [torch.relu(z + u) if layer.nonlinearity == "relu" else torch.tanh(z + u)]


def twin_direction(layer, weights, x, first, reverse):
    """States and last states of one sequence (time, 1, input) in one direction."""
    w_ih, w_hh, b_ih, b_hh = weights if layer.bias else (*weights, 0, 0)
    state, states = first, []
    for z in RoundedProduct.apply(x.flip(0) if reverse else x, w_ih) + b_ih:
        state = twin_step(layer, z, RoundedProduct.apply(state[0], w_hh) + b_hh, state)
        states.append(state[0])
    out = torch.stack(states)
    return out.flip(0) if reverse else out, state


def twin(layer, x, first, lengths):
    """The layer's results, sequence by sequence without padding.

    Args:
        first: list of (layers × directions, batch, hidden).
    """
    steps, batch, _ = x.shape
    each, directions = (4 if layer.bias else 2), (2 if layer.bidirectional else 1)
    weights = list(layer.parameters())
    outputs, ends = [], []
    for b in range(batch):
        states = x[: steps if lengths is None else lengths[b], b : b + 1]
        last = []
        for k in range(layer.num_layers):
            found = []
            for d in range(directions):
                place = k * directions + d
                own = weights[place * each : place * each + each]
                start = [one[place, b : b + 1] for one in first]
                found.append(twin_direction(layer, own, states, start, bool(d)))
            states = torch.cat([out for out, _ in found], 2)
            last += [end for _, end in found]
        outputs.append(nn.functional.pad(states, (0, 0, 0, 0, 0, steps - len(states))))
        ends.append([torch.stack(one) for one in zip(*last, strict=True)])
    return torch.cat(outputs, 1), [torch.cat(one, 1) for one in zip(*ends, strict=True)]


def build(cell, size=9, hidden=17, precision="bf16", **options):
    torch.manual_seed(1)
    return LAYERS[cell](size, hidden, precision=precision, **options)


def drawn(cell, layer, steps, batch, rng):
    x = normal(rng, steps, batch, layer.input_size).float()
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    first = [
        0.5 * normal(rng, count, batch, layer.hidden_size).float()
        for _ in range(2 if cell == "lstm" else 1)
    ]
    return x, first


def results(layer, x, first, lengths=None, run=None, last_only=False):
    """Outputs, last states and all gradients, in one row each."""
    x, *first = (one.clone().requires_grad_() for one in (x, *first))
    if run is not None:
        output, last = run(layer, x, first, lengths)
    else:
        hx = tuple(first) if isinstance(layer, LSTM) else first[0]
        output, last = layer(x, hx, lengths)
    last = last if isinstance(last, (tuple, list)) else [last]
    rng = torch.Generator().manual_seed(4)
    kept = [*last] if last_only else [output, *last]
    loss = sum((one * normal(rng, *one.shape).to(one.dtype)).sum() for one in kept)
    wanted = [x, *first, *layer.parameters()]
    found = [output, *last, *torch.autograd.grad(loss, wanted)]
    return [one.detach().flatten().double() for one in found]


def check(layer, x, first, lengths=None, last_only=False):
    found = results(layer, x, first, lengths, last_only=last_only)
    exact = copy.deepcopy(layer).double()
    xs, firsts = x.double(), [one.double() for one in first]
    expected = results(exact, xs, firsts, lengths, run=twin, last_only=last_only)
    # The twin rounds the same way, but for the few numbers that an error of single precision
    # carries over the border between two roundings.
    assert distances(found, expected)[0] < 2e-4
    assert max(distances(found, expected)) < 2e-3
    return found


# (time, batch, input, hidden): least sizes, parts of vectors and tiles, several chunks of 256 rows.
SHAPES = [(1, 1, 1, 1), (6, 1, 3, 17), (5, 2, 1, 1), (3, 70, 33, 16), (4, 5, 9, 80), (9, 70, 2, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_layer_multiplies_rounded_numbers_and_nothing_else(cell, shape, each_kind, rng):
    steps, batch, size, hidden = shape
    layer = build(cell, size, hidden)
    check(layer, *drawn(cell, layer, steps, batch, rng))


@pytest.mark.parametrize("cell", LAYERS)
def test_bfloat16_is_not_single_precision(cell, each_kind, rng):
    layer = build(cell, hidden=80)
    x, first = drawn(cell, layer, 7, 4, rng)
    found = results(layer, x, first)
    single = results(build(cell, hidden=80, precision="float32"), x, first)
    assert min(distances(found, single)[:2]) > 3e-4
    assert max(distances(found, single)) < 0.05


@pytest.mark.parametrize(
    "options",
    [{}, dict(bias=False), dict(bidirectional=True), dict(num_layers=2, bidirectional=True)],
)
@pytest.mark.parametrize("cell", LAYERS)
def test_lengths_and_directions(cell, options, each_kind, rng):
    layer = build(cell, **options)
    x, first = drawn(cell, layer, 7, 5, rng)
    lengths = torch.tensor([3, 7, 1, 5, 7])
    right = check(layer, x, first, lengths)
    for b, length in enumerate(lengths):
        x[length:, b] = float("nan")
    found = results(layer, x, first, lengths)
    for one, another in zip(found[:2] + found[3:], right[:2] + right[3:], strict=True):
        assert torch.equal(one.nan_to_num(99.0), another.nan_to_num(99.0))
    check(layer, *drawn(cell, layer, 7, 5, rng))


def test_relu(each_kind, rng):
    layer = build("rnn", nonlinearity="relu")
    check(layer, *drawn("rnn", layer, 7, 5, rng))


def test_tanh_and_sigmoid_are_near_the_exact_ones(each_kind):
    # Without weights a state is a function of the bias alone.
    numbers = torch.linspace(-20, 20, 501)
    numbers[:4] = torch.tensor([-1e30, 1e30, -90, float("nan")])
    count = len(numbers)
    found = []
    for cell, biases in (("rnn", [numbers]), ("lstm", [99, 0, 99, numbers])):
        layer = LAYERS[cell](1, count, precision="bf16")
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        values = [one + torch.zeros(count) for one in biases]
        layer.load_state_dict(layer.state_dict() | {"bias_ih_l0": torch.cat(values)})
        with torch.no_grad():
            found.append(layer(torch.zeros(1, 1, 1))[0][0, 0].double())
    exact = numbers.double()
    cell_of_one = torch.tensor(1.0, dtype=torch.double).tanh()
    for one, right in zip(found, (exact.tanh(), exact.sigmoid() * cell_of_one), strict=True):
        torch.testing.assert_close(one, right, rtol=0, atol=5e-7, equal_nan=True)


@pytest.mark.parametrize("cell", LAYERS)
def test_a_loss_on_the_last_states_alone(cell, each_kind, rng):
    layer = build(cell)
    check(layer, *drawn(cell, layer, 40, 9, rng), last_only=True)


@needs_half
@pytest.mark.parametrize("cell", LAYERS)
def test_without_first_states_and_with_other_strides(cell, rng):
    layer, twin_layer = build(cell, batch_first=True), build(cell)
    x = normal(rng, 6, 20, 9).float()
    out, _ = layer(x)
    other, _ = twin_layer(x.transpose(0, 1).contiguous())
    assert torch.equal(out.transpose(0, 1), other)
    frozen = x.clone().requires_grad_()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    layer(frozen)[0].square().sum().backward()
    moving = x.transpose(0, 1).contiguous().requires_grad_()
    twin_layer(moving)[0].square().sum().backward()
    torch.testing.assert_close(frozen.grad.transpose(0, 1), moving.grad, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer(x[0])[0], out[0])  # one sequence without a batch dimension


@needs_half
@pytest.mark.parametrize("cell", LAYERS)
def test_results_are_bitwise_the_same_at_every_call(cell, rng):
    layer = build(cell, hidden=64)
    x, first = drawn(cell, layer, 60, 30, rng)
    found = []
    for count in (1, 2):
        with threads(count):
            once, twice = results(layer, x, first), results(layer, x, first)
        assert all(torch.equal(one, another) for one, another in zip(once, twice, strict=True))
        found.append(once)
    assert max(distances(*found)) < 2e-3


@needs_half
@pytest.mark.parametrize("cell", LAYERS)
def test_the_gradient_can_be_differentiated(cell, rng):
    layer = build(cell)
    x, first = drawn(cell, layer, 4, 3, rng)
    x.requires_grad_()
    loss = layer(x, tuple(first) if cell == "lstm" else first[0])[0].square().sum()
    wanted = [x, *layer.parameters()]
    once = torch.autograd.grad(loss, wanted, retain_graph=True)
    twice = torch.autograd.grad(loss, wanted, create_graph=True)
    for one, another in zip(once, twice, strict=True):
        assert (one - another).norm() < 2e-3 * one.norm()
    second = torch.autograd.grad(sum(one.square().sum() for one in twice), wanted)
    assert all(one.isfinite().all() for one in second)


@pytest.mark.parametrize("cell", LAYERS)
def test_without_the_kernels_torch_rounds_the_same(cell, anywhere, rng, monkeypatch):
    # As for a layer that was pickled on another machine.
    layer = pickle.loads(pickle.dumps(build(cell, bidirectional=True)))
    x, first = drawn(cell, layer, 7, 4, rng)
    lengths = torch.tensor([3, 7, 1, 5])
    monkeypatch.setattr(half_linear, "kind", lambda: None)
    found = results(layer, x, first, lengths)
    exact = copy.deepcopy(layer).double()
    xs, firsts = x.double(), [one.double() for one in first]
    expected = results(exact, xs, firsts, lengths, run=twin)
    assert distances(found, expected)[0] < 5e-4
    assert max(distances(found, expected)) < 2e-2  # gradients are rounded once more


@needs_half
@pytest.mark.parametrize("cell", LAYERS)
def test_functional_transforms_and_other_types_round_in_torchs_operators(cell, rng):
    layer = build(cell)
    x, first = drawn(cell, layer, 7, 4, rng)

    def loss(weights):
        return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

    grads = torch.func.grad(loss)(dict(layer.named_parameters()))
    layer(x)[0].square().sum().backward()
    for name, one in layer.named_parameters():
        assert (grads[name] - one.grad).norm() < 2e-2 * one.grad.norm()
    double = copy.deepcopy(layer).double()
    found = results(double, x.double(), [one.double() for one in first])
    assert max(distances(results(layer, x, first), found)) < 2e-2


@needs_half
@quiet_opcheck
@pytest.mark.full
@pytest.mark.parametrize("cell", LAYERS)
def test_torch_finds_the_operators_well_formed(cell, rng):
    layer = build(cell)
    x, first = drawn(cell, layer, 3, 2, rng)
    given = [x.requires_grad_(), *layer.parameters(), *(one[0] for one in first), None]
    name = {"rnn": "elman"}.get(cell, cell)
    # Differences of rounded products are no derivatives.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    operator = getattr(torch.ops.rnnopt, name).default
    torch.library.opcheck(operator, (*given, False, cell != "rnn", True), test_utils=tests)


# -- the option -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", LAYERS)
def test_the_weights_are_those_of_any_other_layer(cell, anywhere):
    layer, other = build(cell), build(cell, precision="float32")
    assert layer.state_dict().keys() == other.state_dict().keys()
    for one, another in zip(layer.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, another)
        assert one.dtype == another.dtype
    assert "precision=bf16" in repr(layer)
    assert "precision" not in repr(other)
    torchs = layer.to_torch()
    assert type(torchs) is TORCHS[cell]
    assert LAYERS[cell].from_torch(torchs).precision == "float32"
    assert LAYERS[cell].from_torch(layer).precision == "bf16"
    assert copy.deepcopy(layer).precision == "bf16"


@pytest.mark.parametrize("cell", LAYERS)
def test_single_precision_stays_the_default(cell, rng):
    layer = LAYERS[cell](3, 5)
    assert layer.precision == "float32"
    x = normal(rng, 4, 2, 3).float()
    model = SequenceModel(3, 5, 2, cell=cell)
    assert model.recurrent[0].precision == "float32"
    assert torch.allclose(layer(x)[0], layer.to_torch()(x)[0], atol=1e-5)
    # torch's order of arguments.
    options = (3, 5, 1, "relu") if cell == "rnn" else (3, 5, 1)
    places = (True, False, 0.0, True, 0) if cell == "lstm" else (True, False, 0.0, True)
    assert LAYERS[cell](*options, *places, "cpu", torch.float64).bidirectional


@pytest.mark.parametrize("cell", LAYERS)
def test_a_wrong_choice_is_refused_by_name(cell, monkeypatch):
    kind = LAYERS[cell]
    message = f"{kind.__name__} needs precision float32 or bf16, got 'half'"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(3, 5, precision="half")
    monkeypatch.setattr(half_linear, "kind", lambda: None)
    for owner, options in ((kind, {}), (SequenceModel, dict(output_size=2, cell=cell))):
        with pytest.raises(ValueError, match=f"{owner.__name__} needs .* for precision='bf16'"):
            owner(3, 5, precision="bf16", **options)
    monkeypatch.undo()
    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels(None, "a test"))
    with pytest.raises(ValueError, match="but the kernels are not in use: a test"):
        kind(3, 5, precision="bf16")


def test_projections_and_packed_sequences_are_refused_by_name(anywhere):
    with pytest.raises(ValueError, match="LSTM needs proj_size=0 for precision='bf16', got 2"):
        LSTM(3, 5, proj_size=2, precision="bf16")
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 9), torch.ones(2, 9)])
    with pytest.raises(ValueError, match="GRU needs padded sequences and `lengths`"):
        build("gru")(packed)


@needs_half
@pytest.mark.parametrize("cell", LAYERS)
def test_a_model_passes_the_option_on(cell, rng):
    model = SequenceModel(9, 20, 3, cell=cell, layers=2, precision="bf16")
    single = SequenceModel(9, 20, 3, cell=cell, layers=2)
    single.load_state_dict(model.state_dict())
    x = normal(rng, 7, 4, 9).float()
    distance = (model(x) - single(x)).norm() / single(x).norm()
    assert 1e-5 < distance < 0.03
    assert torch.allclose(model.to_torch()(x), single(x), atol=1e-5)


@needs_half
def test_a_kernel_refuses_numbers_of_other_types():
    weights = [torch.ones(9, 2), torch.ones(9, 3), None, None]
    given = [torch.ones(4, 2, 2), *weights, None, None, False, False, True]
    double = [one.double() if isinstance(one, torch.Tensor) else one for one in given]
    torch.ops.rnnopt.gru(*given)
    with pytest.raises(ValueError, match="gru needs float32, and AMX or AVX512-BF16"):
        torch.ops.rnnopt.gru(*double)
