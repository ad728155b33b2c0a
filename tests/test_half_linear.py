"""What precision="bf16" promises: products of rounded numbers, everything else as before.

The twin rounds with torch and multiplies in double precision. Where a processor has no such
products, the tests of the kernels are left out, and those of the path in torch's operators remain.
"""

import copy
import pickle
import re
import unittest.mock

import pytest
import torch
from half_products import RoundedProduct, anywhere, distances, each_kind, needs_half
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_recurrent import LENGTHS, laid_out, needs_kernels, normal, quiet_opcheck, threads

from rnnopt import IndRNN, SequenceModel
from rnnopt.layers.kernels import cpu, half_linear, indrnn_stack

__all__ = ["anywhere", "each_kind"]  # fixtures


def draw(shape, dtype=torch.float32, layout="plain"):
    steps, batch, size, hidden = shape
    rng = torch.Generator().manual_seed(0)
    x = laid_out(normal(rng, steps, batch, size, dtype=dtype), layout).requires_grad_()
    w = normal(rng, hidden, size, dtype=dtype).requires_grad_()
    return x, w, normal(rng, steps, batch, hidden, dtype=dtype)


def check_product(shape, layout="plain", count=1):
    x, w, grad = draw(shape, layout=layout)
    with threads(count):
        z = torch.ops.rnnopt.half_linear(x, w)
        found = [z, *torch.autograd.grad(z, (x, w), grad)]
    exact = [one.detach().double().requires_grad_() for one in (x, w)]
    right = RoundedProduct.apply(*exact)
    expected = [right, *torch.autograd.grad(right, exact, grad.double())]
    steps, batch, size, hidden = shape
    for one, another, terms in zip(found, expected, (size, hidden, steps * batch), strict=True):
        # The factors are the same numbers; sums of n terms of size 1 to 10 in single precision.
        torch.testing.assert_close(one.double(), another, rtol=0, atol=2e-6 * (terms + 4))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 70), st.integers(1, 70)),
    layout=st.sampled_from(["plain", "transposed", "every other", "same steps"]),
    count=st.sampled_from([1, 2]),
    kind=st.sampled_from([1, 2]),
)
@needs_half
def test_a_product_is_that_of_rounded_numbers(shape, layout, count, kind):
    limit = cpu.kernels().library.rnnopt_limit_half_kind
    limit(kind)  # more than the processor has changes nothing
    try:
        check_product(shape, layout, count)
    finally:
        limit(2)


# A chunk has 256 rows; a block by tiles 32 rows and columns, by vectors 6 rows and 64 columns.
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 128, 32, 32), (3, 99, 33, 65), (1, 513, 130, 97)]
)
def test_so_it_is_at_the_borders_of_chunks_and_tiles(shape, each_kind):
    check_product(shape)


def test_rounding_is_to_the_nearest_and_keeps_what_is_not_finite(each_kind):
    # 1 + 2^-8 lies between 1, the even one, and 1 + 2^-7; a little more is nearer to the latter.
    x = torch.tensor([1 + 2**-8, 1 + 2**-8 + 2**-20, 3e38, float("inf"), float("nan")])[:, None]
    z = torch.ops.rnnopt.half_linear(x, torch.ones(1, 1))[:, 0]
    assert z[:2].tolist() == [1.0, 1 + 2**-7]
    assert torch.equal(z.isfinite(), torch.tensor([True, True, True, False, False]))
    assert z[4].isnan()


@needs_half
def test_the_gradient_can_be_differentiated():
    x, w, grad = draw((3, 2, 4, 5))
    z = torch.ops.rnnopt.half_linear(x, w)
    once = torch.autograd.grad(z, (x, w), grad, retain_graph=True)
    twice = torch.autograd.grad(z, (x, w), grad, create_graph=True)
    for one, another in zip(once, twice, strict=True):
        assert another.requires_grad
        torch.testing.assert_close(one, another.detach(), rtol=1e-5, atol=1e-5)


@needs_half
@quiet_opcheck
@pytest.mark.full
def test_torch_finds_the_operators_well_formed():
    x, w, grad = draw((3, 2, 4, 5))
    # Differences of rounded products are no derivatives.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.rnnopt.half_linear.default, (x, w), test_utils=tests)
    for want_x in (True, False):
        torch.library.opcheck(
            torch.ops.rnnopt.half_linear_backward.default,
            (grad, x.detach(), w.detach(), want_x),
            test_utils=tests,
        )


# -- in the layers --------------------------------------------------------------------------------


def build(precision="bf16", **options):
    torch.manual_seed(1)
    options = dict(num_layers=3, batch_norm="after", nonlinearity="tanh") | options
    return IndRNN(20, 33, precision=precision, **options)


def results(layer, x, lengths=None):
    """Output and all gradients, in one row each."""
    x = x.clone().requires_grad_()
    torch.manual_seed(3)
    output, last = layer(x, lengths=lengths)
    weight = normal(torch.Generator().manual_seed(4), *output.shape, dtype=output.dtype)
    ((output * weight).sum() + last.sum()).backward()
    found = [output.detach(), x.grad, *(one.grad for one in layer.parameters())]
    for one in layer.parameters():
        one.grad = None
    return [one.flatten().double() for one in found]


def twin_of(layer):
    """The layer in double precision with products of rounded numbers, in torch's operators."""

    def product(x, w, b):
        z = RoundedProduct.apply(x, w)
        return z if b is None else z + b

    patch = unittest.mock.patch.object(half_linear, "linear", product)
    return copy.deepcopy(layer).double(), patch


@pytest.mark.parametrize(
    "options",
    [{}, dict(dropout=0.3), dict(batch_norm="before"), dict(batch_norm=None), dict(bias=False)],
)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_a_layer_multiplies_rounded_numbers_and_nothing_else(options, lengths, each_kind, rng):
    x = normal(rng, 7, 4, 20).float()
    layer = build(**options, recurrent_bound=0.9)
    found = results(layer, x, lengths)
    exact, patch = twin_of(layer)
    with patch:
        expected = results(exact, x.double(), lengths)
    single = results(build("float32", **options, recurrent_bound=0.9), x, lengths)
    # Rounding to 8 bits changes some thousandths. The twin rounds the same way, but for the few
    # numbers that an error of single precision carries over the border between two roundings.
    assert distances(found, expected)[0] < 1e-4
    assert max(distances(found, expected)) < 1.5e-3
    assert min(distances(found, single)[:3]) > 5e-4


@needs_half
def test_a_stack_in_bfloat16_is_one_operator(rng, monkeypatch):
    calls, stack = [], indrnn_stack.stack
    monkeypatch.setattr(indrnn_stack, "stack", lambda *a: calls.append(a[-1]) or stack(*a))
    x = normal(rng, 7, 4, 20).float()
    build()(x)
    SequenceModel(20, 5, 3, cell="indrnn", layers=2, batch_norm=True, precision="bf16")(x)
    assert calls == [True, True]


@needs_half
@pytest.mark.parametrize("count", [1, 2])
def test_results_are_bitwise_the_same_at_every_call(count, rng):
    x = normal(rng, 40, 30, 20).float()
    with threads(count):
        once, twice = results(build(), x), results(build(), x)
    assert all(torch.equal(one, another) for one, another in zip(once, twice, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_without_the_kernels_torch_rounds_the_same(training, anywhere, rng, monkeypatch):
    # As for a layer that was pickled on another machine.
    layer = pickle.loads(pickle.dumps(build())).train(training)
    x = normal(rng, 7, 4, 20).float()
    exact, patch = twin_of(layer)
    monkeypatch.setattr(half_linear, "kind", lambda: None)
    found = results(layer, x)
    with patch:
        expected = results(exact, x.double())
    assert distances(found, expected)[0] < 5e-4
    assert max(distances(found, expected)) < 2e-2  # gradients are rounded once more


@needs_half
def test_functional_transforms_and_other_types_round_in_torchs_operators(rng):
    x, layer = normal(rng, 7, 4, 20).float(), build()

    def loss(weights):
        return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

    frozen = build(batch_norm=None)
    weights = dict(frozen.named_parameters())
    layer = frozen
    grads = torch.func.grad(loss)(weights)
    assert all(one.isfinite().all() for one in grads.values())
    double = build().double()
    assert min(distances(results(double, x.double()), results(build("float32"), x))[:2]) > 5e-4


def test_the_weights_are_those_of_any_other_layer(anywhere):
    layer, other = build(), build("float32")
    assert layer.state_dict().keys() == other.state_dict().keys()
    for one, another in zip(layer.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, another)
        assert one.dtype == another.dtype
    assert "precision=bf16" in layer.extra_repr()
    assert "precision" not in other.extra_repr()


def test_single_precision_stays_the_default(rng):
    assert IndRNN(3, 5).precision == "float32"
    x = normal(rng, 7, 4, 20).float()
    plain, named = IndRNN(20, 33), build("float32")
    assert plain.precision == named.precision
    model = SequenceModel(20, 5, 3, cell="indrnn")
    assert model(x).dtype == torch.float32
    assert model.recurrent[0].precision == "float32"


@pytest.mark.parametrize("owner", [IndRNN, SequenceModel])
def test_an_unknown_precision_is_refused(owner):
    sizes = (3, 5) if owner is IndRNN else (3, 5, 2, "indrnn")
    message = f"{owner.__name__} needs precision float32 or bf16, got 'half'"
    with pytest.raises(ValueError, match=re.escape(message)):
        owner(*sizes, precision="half")


@pytest.mark.parametrize("owner", [IndRNN, SequenceModel])
def test_a_processor_without_such_products_is_named(owner, monkeypatch):
    sizes = (3, 5) if owner is IndRNN else (3, 5, 2, "indrnn")
    monkeypatch.setattr(half_linear, "kind", lambda: None)
    with pytest.raises(ValueError, match=f"{owner.__name__} needs .* for precision='bf16', but"):
        owner(*sizes, precision="bf16")
    monkeypatch.undo()
    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels(None, "a test"))
    with pytest.raises(ValueError, match="but the kernels are not in use: a test"):
        owner(*sizes, precision="bf16")


@needs_kernels
def test_wrong_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"half_linear needs w of shape \(5, 4\)"):
        torch.ops.rnnopt.half_linear(torch.ones(3, 2, 4), torch.ones(5, 3))
