"""What the operator for stacked IndRNN layers promises: the numbers of the layers one by one.

Its plain twin is a chain of the twins of one layer and of normalisation, in double precision. That
IndRNN itself is right is test_indrnn's to say, products in bfloat16 are test_half_linear's.
"""

import copy

import plain_recurrent as twin
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_recurrent import (
    LENGTHS,
    LOSSES,
    TIGHT,
    draw_grads,
    in_double_precision,
    laid_out,
    load_variant,
    needs_kernels,
    normal,
    quiet_opcheck,
    threads,
    variants,
)

from rnnopt import IndRNN, SequenceModel
from rnnopt.layers.kernels import cpu, indrnn_stack
from rnnopt.layers.minibatch_part import MinibatchPart, taking

EPS = 0.1  # with few rows a variance can be small: this keeps 1 / sqrt(variance + ε) below 4


def draw(shape, layers, dtype=torch.float64, with_h0=True, with_masks=True, layout="plain"):
    """x, weights, h0 and masks of the operator; shape is (time, batch, input, hidden)."""
    rng = torch.Generator().manual_seed(0)
    steps, batch, size, hidden = shape
    x = laid_out(normal(rng, steps, batch, size, dtype=dtype), layout).requires_grad_()
    weights = []
    for k in range(layers):
        inputs = hidden if k else size
        u = 0.2 + 0.5 * torch.rand(hidden, generator=rng, dtype=torch.float64)
        u[::2] *= -1
        weights += [normal(rng, hidden, inputs, dtype=dtype) / inputs**0.5]
        weights += [normal(rng, hidden, dtype=dtype) / 2, u.to(dtype)]
        weights += [1 + normal(rng, hidden, dtype=dtype) / 2, normal(rng, hidden, dtype=dtype)]
    h0 = normal(rng, layers, batch, hidden, dtype=dtype).requires_grad_() if with_h0 else None
    masks = 2 * torch.randint(2, (layers, batch, hidden), generator=rng).to(dtype)
    weights = [one.requires_grad_() for one in weights]
    return x, weights, h0, masks if with_masks else None


def plain(x, weights, h0, masks, relu, every, slopes=None):
    """y, the last states, and the statistics (layers, hidden), layer by layer."""
    ends, means, variances = [], [], []
    for k in range(len(weights) // 5):
        w, b, u, gain, shift = weights[5 * k : 5 * k + 5]
        first = None if h0 is None else h0[k]
        slope = None if slopes is None else slopes[k]
        x, end = twin.indrnn_layer(x, w, b, u, first, None, relu, slope)
        ends.append(end)
        means.append(x.mean((0, 1)))
        variances.append((x - means[-1]).square().mean((0, 1)))
        x = gain * (x - means[-1]) / torch.sqrt(variances[-1] + EPS) + shift
        x = x if masks is None else x * masks[k]
    return (x if every else x[-1:]), torch.stack(ends), torch.stack(means), torch.stack(variances)


def flat(x, weights, h0, masks):
    return [x, *weights, h0]


def check(arguments, relu, every, grads, count=1):
    """Results and all gradients against the plain twin's in double precision."""
    x, weights, *others = arguments
    with threads(count):
        outputs = torch.ops.rnnopt.indrnn_stack(*arguments, EPS, relu, every, False)
        found = twin.gradients(outputs[:2], flat(*arguments), grads, allow_unused=True)
    y, ends, states, mean, _, variance = outputs
    slopes = (states > 0).double() if relu else None
    (exact_x, *exact_others), exact = (in_double_precision(one) for one in ([x, *others], weights))
    exact = [exact_x, exact, *exact_others]
    right = plain(*exact, relu, every, slopes)
    doubles = [None if grad is None else grad.double() for grad in grads]
    expected = twin.gradients(right[:2], flat(*exact), doubles, allow_unused=True)
    for one, another in zip(found, expected, strict=True):  # the last states need no last norm
        assert (one is None) == (another is None)
    found, expected = ([g for g in grads if g is not None] for grads in (found, expected))
    for one, another in zip((y, ends, mean, variance, *found), (*right, *expected), strict=True):
        assert one.dtype == x.dtype
        # Single precision: some hundred operations on the longest way through three layers, each to
        # 6e-8, and sums over up to 800 rows; normalisation multiplies an error by up to 6.
        scale = 1 + another.abs().max().item()
        atol = 1e-10 * scale if x.dtype == torch.float64 else 1000 * 6e-8 * scale
        torch.testing.assert_close(one.double(), another, rtol=0, atol=atol)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(2, 20), st.integers(1, 40), st.integers(1, 70)),
    layers=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    relu=st.booleans(),
    every=st.booleans(),
    with_h0=st.booleans(),
    with_masks=st.booleans(),
    layout=st.sampled_from(["plain", "transposed", "sliced", "every other", "same steps"]),
    grad_layout=st.sampled_from(["plain", "transposed", "same everywhere"]),
    loss=st.sampled_from(LOSSES),
    count=st.sampled_from([1, 2]),
)
def test_a_stack_is_its_layers_one_by_one(
    shape, layers, dtype, relu, every, with_h0, with_masks, layout, grad_layout, loss, count
):
    arguments = draw(shape, layers, dtype, with_h0, with_masks, layout)
    steps, batch, _, hidden = shape
    grad, _ = draw_grads((steps if every else 1, batch, hidden), dtype, loss, grad_layout)
    rng = torch.Generator().manual_seed(2)
    ends = None if loss == "all states" else normal(rng, layers, batch, hidden, dtype=dtype)
    check(arguments, relu, every, (grad, ends), count)


# A chunk has 128 rows of (time, batch), a tile up to 12 rows and 4 vectors of 2 … 16 numbers.
BORDERS = [(1, 2, 1, 1), (3, 43, 4, 16), (2, 257, 5, 17), (4, 130, 33, 65), (2, 600, 9, 130)]


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("shape", BORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_built_variant_is_the_plain_twin(variant, shape, dtype, monkeypatch):
    load_variant(monkeypatch, variant)
    steps, batch, _, hidden = shape
    rng = torch.Generator().manual_seed(2)
    for every, count in ((True, 1), (False, 3)):
        grads = draw_grads((steps if every else 1, batch, hidden), dtype, "all states", "plain")
        grads = (grads[0], normal(rng, 2, batch, hidden, dtype=dtype))
        check(draw(shape, 2, dtype), False, every, grads, count)


@needs_kernels
@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_are_bitwise_the_same_at_every_call(count):
    results = []
    for _ in range(2):
        arguments = draw((9, 70, 5, 33), 3, torch.float32)
        with threads(count):
            outputs = torch.ops.rnnopt.indrnn_stack(*arguments, EPS, True, True, False)
            grads = [torch.ones_like(one) for one in outputs[:2]]
            results.append([*outputs, *twin.gradients(outputs[:2], flat(*arguments), grads)])
    assert all(torch.equal(one, another) for one, another in zip(*results, strict=True))


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_first_and_second_derivatives_are_those_of_differences(relu, bare):
    x, weights, h0, masks = draw((3, 2, 2, 3), 2, with_h0=not bare, with_masks=not bare)

    def run(x, *rest):
        weights, h0 = (rest, None) if bare else (rest[:-1], rest[-1])
        return torch.ops.rnnopt.indrnn_stack(x, list(weights), h0, masks, EPS, relu, True, False)[
            :2
        ]

    leaves = [one for one in (x, *weights, h0) if one is not None]
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@needs_kernels
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("every", [True, False])
def test_a_gradient_that_can_be_differentiated_is_the_same_gradient(loss, every):
    # The inputs depend on a weight: its gradient must not count that way twice.
    x, weights, h0, masks = draw((5, 4, 7, 7), 3)
    x = x.detach() + weights[1]
    outputs = torch.ops.rnnopt.indrnn_stack(x, weights, h0, masks, EPS, False, every, False)[:2]
    grad, _ = draw_grads(tuple(outputs[0].shape), torch.float64, loss, "plain")
    grads = (grad, None if loss == "all states" else torch.ones_like(outputs[1]))
    leaves = [*weights, h0]
    once = twin.gradients(outputs, leaves, grads, retain_graph=True, allow_unused=True)
    twice = twin.gradients(outputs, leaves, grads, create_graph=True, allow_unused=True)
    for one, another in zip(once, twice, strict=True):
        assert (one is None) == (another is None)
        if one is not None:
            torch.testing.assert_close(one, another.detach(), **TIGHT)


# torch's own: it runs an operator of ours once for each gradient.
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not:UserWarning")
@needs_kernels
@pytest.mark.parametrize("way", ["is_grads_batched", "vmap"])
def test_several_gradients_at_once_are_those_one_by_one(way, rng):
    layer = IndRNN(2, 5, num_layers=3, batch_norm="after", dropout=0.3, dtype=torch.float64)
    x = normal(rng, 7, 4, 2).requires_grad_()
    grads = normal(rng, 3, 7, 4, 5)
    states, leaves = layer(x)[0], [x, *layer.parameters()]

    def gradients(grad, **options):
        return torch.autograd.grad(states, leaves, grad, retain_graph=True, **options)

    if way == "vmap":
        together = torch.func.vmap(gradients)(grads)
    else:
        together = gradients(grads, is_grads_batched=True)
    for one, *others in zip(together, *map(gradients, grads), strict=True):
        torch.testing.assert_close(one, torch.stack(others), **TIGHT)


@needs_kernels
@quiet_opcheck
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.full
def test_torch_finds_the_operators_well_formed(bare):
    arguments = draw((4, 2, 3, 5), 2, with_h0=not bare, with_masks=not bare)
    options = (EPS, False, not bare, False)
    torch.library.opcheck(torch.ops.rnnopt.indrnn_stack.default, (*arguments, *options))
    x, weights, h0, masks = arguments
    x, h0 = x.detach(), None if h0 is None else h0.detach()
    weights = [one.detach() for one in weights]
    y, ends, states, mean, scale, _ = torch.ops.rnnopt.indrnn_stack(x, weights, h0, masks, *options)
    torch.library.opcheck(
        torch.ops.rnnopt.indrnn_stack_backward.default,
        (torch.ones_like(y), torch.ones_like(ends), x, weights, h0, masks, states, mean, scale,
         *options, True),
    )  # fmt: skip


@needs_kernels
def test_wrong_shapes_are_refused_by_name():
    x, weights, h0, masks = draw((4, 3, 2, 5), 2)
    bad = [*weights[:5], weights[5][:, :-1], *weights[6:]]
    with pytest.raises(ValueError, match="W of layer 1 of shape"):
        torch.ops.rnnopt.indrnn_stack(x, bad, h0, masks, EPS, True, True, False)
    with pytest.raises(ValueError, match="masks of shape"):
        torch.ops.rnnopt.indrnn_stack(x, weights, h0, masks[:1], EPS, True, True, False)


# -- in the layers --------------------------------------------------------------------------------


def build(readout="last", layers=3, **options):
    torch.manual_seed(1)
    options = dict(steps=9, dropout=0.3, nonlinearity="tanh") | options
    model = SequenceModel(
        2, 5, 3, cell="indrnn", layers=layers, batch_norm=True, readout=readout, **options
    )
    return model.double()


def counted(monkeypatch):
    """How often the operator is called, as a list that grows."""
    calls, stack = [], indrnn_stack.stack
    monkeypatch.setattr(indrnn_stack, "stack", lambda *given: calls.append(1) or stack(*given))
    return calls


def train_twice(model, x):
    """Outputs, ends, gradients and statistics of two steps, the second from the first's states."""
    torch.manual_seed(3)
    first, state = model.advance(x)
    second, state = model.advance(x, state)
    x.grad = None
    (first.square().sum() + second.sum() + sum(one.square().sum() for one in state)).backward()
    gradients = [one.grad for one in model.parameters()]
    return [first, second, *state, x.grad.clone(), *gradients, *model.buffers()]


@needs_kernels
@pytest.mark.parametrize("readout", ["last", "every", "mean"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_model_has_the_numbers_of_its_layers(readout, dropout, rng, monkeypatch):
    x = normal(rng, 9, 4, 2).requires_grad_()
    calls = counted(monkeypatch)
    found = train_twice(build(readout, dropout=dropout), x)
    assert len(calls) == 2
    monkeypatch.setattr(indrnn_stack, "stackable", lambda *_: False)
    expected = train_twice(build(readout, dropout=dropout), x)
    assert len(calls) == 2
    for one, another in zip(found, expected, strict=True):
        torch.testing.assert_close(one, another, **TIGHT)


@needs_kernels
def test_one_layer_of_several_has_them_too(rng, monkeypatch):
    x = normal(rng, 4, 9, 2)
    results = []
    calls = counted(monkeypatch)
    for fused in (True, False):
        torch.manual_seed(1)
        options = dict(num_layers=3, batch_norm="after", dropout=0.3, bias=False, batch_first=True)
        layer = IndRNN(2, 5, nonlinearity="tanh", recurrent_bound=0.9, **options).double()
        if not fused:
            monkeypatch.setattr(indrnn_stack, "stackable", lambda *_: False)
        results.append([*twin.all_results(layer, x, None, seed=4), *layer.buffers()])
    assert len(calls) == 1
    for one, another in zip(*results, strict=True):
        torch.testing.assert_close(one, another, **TIGHT)


def hooked(model):
    model.recurrent[1].register_forward_hook(lambda *_: None)
    return model


def hooked_norm(model):
    model.norms[1].register_forward_hook(lambda *_: None)
    return model


def frozen_norm(model):
    model.norms[0].eval()
    return model


def other_norm(model):
    model.norms[2].eps = 1e-3
    return model


@needs_kernels
@pytest.mark.parametrize(
    "change", [hooked, hooked_norm, frozen_norm, other_norm, lambda model: model.eval()]
)
def test_what_the_operator_does_not_know_goes_layer_by_layer(change, rng, monkeypatch):
    calls = counted(monkeypatch)
    model = change(build())
    model(normal(rng, 9, 4, 2))
    assert not calls


@needs_kernels
def test_so_do_padded_sequences_parts_and_functional_transforms(rng, monkeypatch):
    calls = counted(monkeypatch)
    x = normal(rng, 7, 4, 2)
    build()(x, LENGTHS)
    with taking(model := build(), MinibatchPart.of(4, None, 0, 1)):
        model(x)
    model = build(dropout=0.0)
    weights = dict(model.named_parameters())

    def loss(weights):
        return torch.func.functional_call(copy.deepcopy(model), weights, (x,)).square().sum()

    found = torch.func.grad(loss)(weights)
    assert not calls
    model(x).square().sum().backward()
    assert len(calls) == 1
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, **TIGHT)


@needs_kernels
def test_nan_and_infinity_spread_as_through_the_layers(rng, monkeypatch):
    for odd in (float("nan"), float("inf")):
        x = normal(rng, 9, 4, 2)
        x[2, 0, 0] = odd
        found = build("every")(x)
        with monkeypatch.context() as patch:
            patch.setattr(indrnn_stack, "stackable", lambda *_: False)
            expected = build("every")(x)
        torch.testing.assert_close(found.isfinite(), expected.isfinite())


@needs_kernels
def test_wrong_sizes_are_the_layers_to_refuse(rng):
    with pytest.raises(ValueError, match=r"input must be \(time, batch, 2\), got \(9, 4, 3\)"):
        build()(normal(rng, 9, 4, 3))


@needs_kernels
def test_the_states_are_kept_once_and_not_normalised_again(rng):
    # What backward keeps of a step is the states of each layer alone, not their normalised values.
    model, x = build(layers=4, dropout=0.0), normal(rng, 50, 8, 2)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x).sum().backward()
    states = 4 * 50 * 8 * 5 * 8
    assert states <= sum(kept.values()) < 1.5 * states + 50 * 8 * 2 * 8


@needs_kernels
def test_a_stack_without_memory_says_so(monkeypatch):
    class Full:
        """A library whose functions all find no memory."""

        def __getattr__(self, name):
            return lambda *arguments: 1

    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels("AVX2", "a test", Full()))
    with pytest.raises(MemoryError, match="The indrnn_stack kernel could not get its"):
        build()(torch.ones(4, 2, 2).double())
