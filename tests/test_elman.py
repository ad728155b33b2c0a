"""What ElmanRNN promises: torch.nn.RNN's numbers, gradients, errors, and more for padded sequences.

Its compiled kernels are held against a loop of torch's own operators (plain_recurrent.py) on both
sides of every border at which they cut shapes up. How they are found is test_kernels_build.
"""

import copy
import io
import pickle
import re

import mpmath
import plain_recurrent as twin
import pytest
import torch
from cases import crossed
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import naming
from plain_recurrent import (
    LAYOUTS,
    LENGTHS,
    LOSSES,
    TIGHT,
    all_results,
    draw_grads,
    in_double_precision,
    laid_out,
    load_variant,
    needs_kernels,
    normal,
    quiet_opcheck,
    switch_off,
    threads,
    variants,
)
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnopt import ElmanRNN
from rnnopt.layers.kernels import cpu
from rnnopt.layers.kernels import elman as operators

ROUNDING = torch.finfo(torch.float32).eps / 2


def pair(dtype=torch.float64, **options):
    """An ElmanRNN and a torch.nn.RNN with the same weights, the same at every call."""
    torch.manual_seed(1)
    options = {"input_size": 3, "hidden_size": 5} | options
    own = ElmanRNN(**options, dtype=dtype)
    other = nn.RNN(**options, dtype=dtype)
    other.load_state_dict(own.state_dict())
    return own, other


# -- torch.nn.RNN's numbers -----------------------------------------------------------------------


@crossed(
    ("layers", [1, 2, 3]),
    ("nonlinearity", ["tanh", "relu"]),
    ("bias", [True, False]),
    ("batch_first", [False, True]),
    ("bidirectional", [False, True]),
    ("with_hx", [False, True]),
)
def test_results_and_gradients_are_torchs(
    layers, nonlinearity, bias, batch_first, bidirectional, with_hx, rng
):
    options = dict(num_layers=layers, nonlinearity=nonlinearity, bias=bias)
    own, other = pair(**options, batch_first=batch_first, bidirectional=bidirectional)
    x = normal(rng, *((9, 7, 3) if batch_first else (7, 9, 3)))
    hx = normal(rng, layers * (1 + bidirectional), 9, 5) if with_hx else None
    for mine, torchs in zip(all_results(own, x, hx), all_results(other, x, hx), strict=True):
        torch.testing.assert_close(mine, torchs, **TIGHT)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("size", [3, 20])
def test_one_sequence_without_a_batch_is_torchs(bidirectional, batch_first, with_hx, size, rng):
    own, other = pair(
        input_size=size, num_layers=2, bidirectional=bidirectional, batch_first=batch_first
    )
    x, hx = normal(rng, 7, size), normal(rng, 2 * (1 + bidirectional), 5) if with_hx else None
    for mine, torchs in zip(all_results(own, x, hx), all_results(other, x, hx), strict=True):
        torch.testing.assert_close(mine, torchs, **TIGHT)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_is_torchs_with_the_same_seed(batch_first, bidirectional, training, rng):
    own, other = pair(
        num_layers=3, dropout=0.4, batch_first=batch_first, bidirectional=bidirectional
    )
    own.train(training)
    other.train(training)
    x = normal(rng, 6, 8, 3)
    mine, torchs = all_results(own, x, None, seed=4), all_results(other, x, None, seed=4)
    for one, another in zip(mine, torchs, strict=True):
        torch.testing.assert_close(one, another, **TIGHT)


@pytest.mark.parametrize("size", [3, 20])
def test_a_lazily_negated_input_is_negated(size, rng):
    layer = ElmanRNN(size, 5, dtype=torch.float64)
    x = torch.randn(4, 9, size, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(layer(torch._neg_view(x))[0], layer(-x)[0])


def test_weights_have_torchs_names_shapes_and_first_values():
    for options in ({}, dict(num_layers=2, bidirectional=True), dict(bias=False)):
        torch.manual_seed(5)
        own = ElmanRNN(3, 5, **options).state_dict()
        torch.manual_seed(5)
        other = nn.RNN(3, 5, **options).state_dict()
        assert list(own) == list(other)
        assert all(torch.equal(own[name], other[name]) for name in own)


def halved(w_hh):
    """Recurrent weights whose rows and columns have absolute sums of 1/2 at most."""
    return w_hh / (2 * max(w_hh.abs().sum(0).max(), w_hh.abs().sum(1).max()))


def error_bounds(x, w_ih, w_hh, bias, states, grad):
    """Largest rounding errors in float32 of states, grad_x, grad_h0, grad_w_ih, grad_w_hh, grad_b.

    With u half of float32's epsilon, a sum of n products is off by γ_n = 1.01 n u times the sum of
    their absolute values, in any order (Higham, Accuracy and Stability, 3.1). Below, X, S and G are
    the largest |x|, |state| and |gradient of a state|; A_ih, A_hh largest absolute row or column
    sums, with A_hh ≤ 1/2 (see `halved`), so that an error carried on from step to step at most
    doubles, and doubles nothing but itself: 1 + 1/2 + 1/4 + …. f' ≤ 1 for tanh and relu.
      states: each step adds γ (A_ih X + A_hh S + b), n = I + H + 2, and 4 u for tanh's own error.
      errors e before the nonlinearity: |e| ≤ E = 2 G. A step adds γ_{H+2} (G + E/2) = γ 2G, and
        f' is off by 2 (state's error) + 3 u (none for relu, whose f' is given): each times 2G.
      grad_x, grad_h0: e's error times A, and γ_H A E.
      grad_w: (T B) products, each off by e's error times the other's size, plus E times the error
        of the other (0 for x), plus γ_{TB} of the sum of sizes.
    """
    (steps, batch, size), hidden = x.shape, len(w_hh)
    large = [float(one.abs().max()) for one in (x, states, grad)]
    X, S, G = large
    E = 2 * G
    A = max(float(w_ih.abs().sum(d).max()) for d in (0, 1))

    def gamma(count):
        return 1.01 * count * ROUNDING

    b = 0.0 if bias is None else float(bias.abs().max())
    in_states = 2 * (gamma(size + hidden + 2) * (A * X + S / 2 + b) + 4 * ROUNDING * S)
    in_errors = 2 * (gamma(hidden + 2) * E + (2 * in_states * S + 3 * ROUNDING) * E)
    rows = steps * batch
    return [
        in_states,
        A * (in_errors + gamma(hidden) * E),
        (in_errors + gamma(hidden) * E) / 2,
        rows * X * (in_errors + gamma(rows) * E),
        rows * (S * in_errors + E * in_states + gamma(rows) * S * E),
        rows * (in_errors + gamma(rows) * E),
    ]


@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("batch", [4, 9])
def test_single_precision_errs_no_more_than_rounding_can(size, batch, rng):
    # Both single precision layers against a double precision one with the very same weights.
    own, other = pair(torch.float32, input_size=size, hidden_size=33)
    with torch.no_grad():
        own.weight_hh_l0.copy_(halved(own.weight_hh_l0))
    other.load_state_dict(own.state_dict())
    exact = copy.deepcopy(other).double()
    x, hx = normal(rng, 30, batch, size).float(), torch.rand(1, batch, 33, generator=rng)
    states, last, *grads = all_results(exact, x.double(), hx.double())
    # all_results draws the gradients of states and last states in this order; they add up at T.
    rng = torch.Generator().manual_seed(3)
    grad = normal(rng, *states.shape)
    grad[-1] += normal(rng, *last.shape)[0]
    w_ih, w_hh, b_ih, b_hh = (weight.detach() for weight in exact.parameters())
    of_states, of_x, of_h, of_ih, of_hh, of_b = error_bounds(
        x, w_ih, w_hh, b_ih + b_hh, torch.cat((hx, states)), grad
    )
    bounds = [of_states, of_states, of_x, of_h, of_ih, of_hh, of_b, of_b]
    for layer in (own, other):
        results = all_results(layer, x, hx)
        for result, right, bound in zip(results, [states, last, *grads], bounds, strict=True):
            # The gradients were drawn in double precision and rounded once: γ_1 of all.
            torch.testing.assert_close(result.double(), right, rtol=2 * ROUNDING, atol=bound)


# -- padded sequences -----------------------------------------------------------------------------


def packed_results(layer, x, hx, lengths):
    """The same as `all_results`, of torch's layer on a PackedSequence."""

    def run(x, hx):
        packed = pack_padded_sequence(x, lengths, layer.batch_first, enforce_sorted=False)
        output, last = layer(packed, hx)
        steps = x.shape[1 if layer.batch_first else 0]
        return pad_packed_sequence(output, layer.batch_first, total_length=steps)[0], last

    run.parameters = layer.parameters
    return all_results(run, x, hx)


@crossed(
    ("layers", [1, 2]),
    ("nonlinearity", ["tanh", "relu"]),
    ("batch_first", [False, True]),
    ("bidirectional", [False, True]),
    ("with_hx", [False, True]),
    ("fused", [False, True]),
)
def test_lengths_do_what_a_packed_sequence_does(
    layers, nonlinearity, batch_first, bidirectional, with_hx, fused, rng, monkeypatch
):
    if not fused:
        switch_off(monkeypatch)
    own, other = pair(
        num_layers=layers,
        nonlinearity=nonlinearity,
        batch_first=batch_first,
        bidirectional=bidirectional,
    )
    x = normal(rng, *((4, 7, 3) if batch_first else (7, 4, 3)))
    hx = normal(rng, layers * (1 + bidirectional), 4, 5) if with_hx else None
    torchs = packed_results(other, x, hx, LENGTHS)
    for lengths in (LENGTHS, LENGTHS.int()):
        mine = all_results(own, x, hx, lengths)
        for one, another in zip(mine, torchs, strict=True):
            torch.testing.assert_close(one, another, **TIGHT)


@crossed(
    ("fused", [False, True]),
    ("size", [3, 20]),
    ("layers", [1, 2]),
    ("bidirectional", [False, True]),
    ("nonlinearity", ["tanh", "relu"]),
)
def test_nothing_in_the_padding_reaches_anything(
    fused, size, layers, bidirectional, nonlinearity, rng, monkeypatch
):
    # Four sequences of 20 features take another path than of 3: the inputs are multiplied first.
    if not fused:
        switch_off(monkeypatch)
    layer, _ = pair(
        input_size=size, num_layers=layers, bidirectional=bidirectional, nonlinearity=nonlinearity
    )
    x = normal(rng, 7, 4, size)
    padding = (torch.arange(7)[:, None] >= LENGTHS)[..., None]
    right = all_results(layer, x.masked_fill(padding, 0), None, LENGTHS)
    for filling in (float("nan"), float("inf")):
        found = all_results(layer, x.masked_fill(padding, filling), None, LENGTHS)
        for one, another in zip(found, right, strict=True):
            torch.testing.assert_close(one, another, rtol=0, atol=0)
    output, _, grad_x, *_ = right
    assert output.masked_select(padding).eq(0).all()
    assert grad_x.masked_select(padding).eq(0).all()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_taken_as_torch_takes_them(layers, bidirectional, rng):
    own, other = pair(num_layers=layers, bidirectional=bidirectional)
    packed = pack_padded_sequence(normal(rng, 7, 4, 3), LENGTHS, enforce_sorted=False)
    (mine, mine_last), (torchs, torchs_last) = own(packed), other(packed)
    assert isinstance(mine, PackedSequence)
    torch.testing.assert_close(mine.data, torchs.data, **TIGHT)
    torch.testing.assert_close(mine_last, torchs_last, **TIGHT)


# -- the operator and its plain twin --------------------------------------------------------------


def draw_arguments(
    shape, dtype=torch.float64, biases="both", with_h0=True, ends=(), layout="plain"
):
    """x, w_ih, w_hh, b_ih, b_hh, h0 of the operator, wanting gradients, and lengths."""
    rng = torch.Generator().manual_seed(0)
    steps, batch, size, hidden = shape
    x = normal(rng, steps, batch, size, dtype=dtype)
    w_ih = normal(rng, hidden, size, dtype=dtype) / size
    w_hh = halved(normal(rng, hidden, hidden, dtype=dtype))
    b_ih, b_hh = normal(rng, 2, hidden, dtype=dtype) / 2
    b_ih = b_ih if biases in ("both", "input") else None
    b_hh = b_hh if biases in ("both", "recurrent") else None
    h0 = torch.rand(batch, hidden, generator=rng, dtype=torch.float64).to(dtype)
    h0 = h0 if with_h0 else None
    lengths = torch.tensor([1 + end % steps for end in ends]) if ends else None
    leaves = [
        None if one is None else one.requires_grad_() for one in (x, w_ih, w_hh, b_ih, b_hh, h0)
    ]
    leaves[0] = laid_out(x.detach(), layout).requires_grad_()
    return *leaves, lengths


def check_operator(arguments, relu, reverse, grads, count=1):
    """The operator's states, last states and all gradients against the plain twin's.

    In double precision, up to the rounding errors that single precision may make.
    """
    dtype, (steps, *_), lengths = arguments[0].dtype, arguments[0].shape, arguments[6]
    with threads(count):
        outputs = torch.ops.rnnopt.elman(*arguments, relu, reverse)
        found = twin.gradients(outputs, arguments, grads)
    exact = in_double_precision(arguments)
    # Which units relu lets through is the operator's to say: a rounding error can decide it.
    slopes = (outputs[0] > 0).double() if relu else None
    expected = twin.elman(*exact, relu, reverse, slopes)
    exact_grads = [None if grad is None else grad.double() for grad in grads]
    right = twin.gradients(expected, exact, exact_grads)
    if dtype == torch.float64:
        of_states, bounds = 1e-13, [1e-11] * 6
    else:
        x, w_ih, w_hh, b_ih, b_hh, h0, _ = (one if one is None else one.detach() for one in exact)
        bias = (0 if b_ih is None else b_ih) + (0 if b_hh is None else b_hh)
        bias = None if b_ih is None and b_hh is None else bias
        states = expected[0].detach()
        states = states if h0 is None else torch.cat((h0[None], states))
        size = sum(float(grad.abs().max()) for grad in grads if grad is not None)
        of_states, *of = error_bounds(x, w_ih, w_hh, bias, states, torch.tensor(size))
        of_x, of_h, of_ih, of_hh, of_b = of
        bounds = [of_x, of_ih, of_hh, of_b, of_b, of_h]
    bounds = [bound for bound, one in zip(bounds, arguments, strict=False) if one is not None]
    for one, another in zip(outputs, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), another, rtol=0, atol=of_states)
    for one, another, bound in zip(found, right, bounds, strict=True):
        torch.testing.assert_close(one.double(), another, rtol=1e-12, atol=bound)
    if lengths is not None:
        padding = torch.arange(steps)[:, None] >= lengths
        assert outputs[0][padding].eq(0).all()
        assert found[0][padding].eq(0).all()


@needs_kernels
@settings(max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 40), st.integers(1, 70)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    relu=st.booleans(),
    direction=st.sampled_from(["forwards", "backwards", "padded"]),
    biases=st.sampled_from(["both", "input", "recurrent", "none"]),
    with_h0=st.booleans(),
    x_layout=st.sampled_from(LAYOUTS),
    grad_layout=st.sampled_from([*LAYOUTS, "same everywhere"]),
    loss=st.sampled_from(LOSSES),
    count=st.sampled_from([1, 2]),
    ends=st.lists(st.integers(0, 39), min_size=20, max_size=20),
)
def test_operator_is_its_plain_twin(
    shape, dtype, relu, direction, biases, with_h0, x_layout, grad_layout, loss, count, ends
):
    ends = ends[: shape[1]] if direction == "padded" else ()
    arguments = draw_arguments(shape, dtype, biases, with_h0, ends, x_layout)
    grads = draw_grads((*shape[:2], shape[3]), dtype, loss, grad_layout)
    check_operator(arguments, relu, direction == "backwards", grads, count)


# What the kernels cut by: registers of 2 … 16 numbers, up to 4 of them and 12 rows a tile, 192 rows
# of (time, batch) a block backwards, 16 columns when weights are transposed. Less than FUSED_BATCH
# sequences of more than FUSED_INPUT features have their inputs multiplied first.
BORDERS = [
    (1, 1, 1, 1),
    (3, 12, 4, 16),
    (3, 13, 5, 17),
    (2, 25, 16, 64),
    (4, 26, 33, 65),
    (2, 37, 49, 130),
    (193, 1, 2, 3),
    (25, 8, 17, 24),
    (25, 7, 17, 24),
    (65, 3, 16, 25),
    (65, 3, 18, 25),
    (2, 200, 3, 5),
]


@crossed(
    ("variant", variants()),
    ("shape", BORDERS),
    ("dtype", [torch.float32, torch.float64]),
)
def test_every_built_variant_is_the_plain_twin(variant, shape, dtype, monkeypatch):
    load_variant(monkeypatch, variant)
    grads = draw_grads((*shape[:2], shape[3]), dtype, "both", "plain")
    ends = [7 * row + 3 for row in range(shape[1])]
    check_operator(draw_arguments(shape, dtype), False, False, grads)
    check_operator(draw_arguments(shape, dtype), True, True, grads)
    check_operator(draw_arguments(shape, dtype, ends=ends), False, False, grads)


def test_borders_lie_on_both_sides_of_the_fused_path():
    hoisted = {operators.hoists(torch.empty(shape[:3])) for shape in BORDERS}
    assert hoisted == {False, True}


@needs_kernels
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 10, 4, 33), (9, 5, 20, 33), (9, 1, 4, 33)])
def test_results_are_bitwise_the_same_at_every_call(count, shape):
    grads = draw_grads((*shape[:2], shape[3]), torch.float32, "both", "plain")
    results = []
    with threads(count):
        for _ in range(2):
            arguments = draw_arguments(shape, torch.float32)
            outputs = torch.ops.rnnopt.elman(*arguments, False, False)
            results.append([*outputs, *twin.gradients(outputs, arguments, grads)])
    assert all(torch.equal(one, another) for one, another in zip(*results, strict=True))


@needs_kernels
@pytest.mark.parametrize("shape", [(5, 10, 4, 7), (5, 3, 20, 7)])
@pytest.mark.parametrize("wanted", range(6))
def test_each_gradient_alone_is_the_one_among_all(shape, wanted):
    # A kernel that spares what is not wanted must not spare what is.
    arguments = draw_arguments(shape)
    grads = draw_grads((*shape[:2], shape[3]), torch.float64, "both", "plain")
    outputs = torch.ops.rnnopt.elman(*arguments, False, False)
    expected = twin.gradients(outputs, arguments, grads)[wanted]
    alone = [one if one is None else one.detach() for one in arguments]
    alone[wanted] = alone[wanted].clone().requires_grad_()
    outputs = torch.ops.rnnopt.elman(*alone, False, False)
    (found,) = twin.gradients(outputs, alone, grads)
    torch.testing.assert_close(found, expected, **TIGHT)


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 2, 3), (3, 2, 17, 2)])
def test_first_and_second_derivatives_are_those_of_differences(relu, reverse, padded, shape):
    if padded and reverse:
        reverse, shape = False, (4, 3, 1, 1)
    *leaves, lengths = draw_arguments(shape, ends=(3, 1, 0)[: shape[1]] if padded else ())

    def run(*leaves):
        return torch.ops.rnnopt.elman(*leaves, lengths, relu, reverse)

    assert torch.autograd.gradcheck(run, leaves)
    fast = len(leaves[1].flatten()) > 20
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=fast)


@needs_kernels
@crossed(
    ("relu", [False, True]),
    ("mode", ["forwards", "backwards", "padded"]),
    ("odd", [0.5, float("nan"), float("inf")]),
    ("shape", [(5, 9, 4, 7), (5, 3, 20, 7)]),
    ("loss", LOSSES),
)
def test_a_gradient_that_can_be_differentiated_is_the_same_gradient(relu, mode, odd, shape, loss):
    ends = (1, *range(2, 2 + shape[1])) if mode == "padded" else ()
    arguments = draw_arguments(shape, with_h0=mode != "padded", ends=ends[: shape[1]])
    arguments[0].data[2, 0, 0] = odd  # a true step, unless padded: the first sequence ends at 2
    grads = draw_grads((*shape[:2], shape[3]), torch.float64, loss, "plain")
    outputs = torch.ops.rnnopt.elman(*arguments, relu, mode == "backwards")
    once = twin.gradients(outputs, arguments, grads, retain_graph=True)
    twice = twin.gradients(outputs, arguments, grads, create_graph=True)
    for one, another in zip(once, twice, strict=True):
        assert mode != "padded" or one.isfinite().all()
        assert another.requires_grad
        torch.testing.assert_close(one, another.detach(), equal_nan=True, **TIGHT)


@needs_kernels
@quiet_opcheck
@pytest.mark.parametrize("shape", [(4, 9, 3, 5), (4, 2, 17, 5)])
@pytest.mark.parametrize("mode", ["plain", "reverse", "padded", "bare"])
@pytest.mark.full
def test_torch_finds_the_operators_well_formed(shape, mode):
    ends = range(shape[1]) if mode == "padded" else ()
    bare = mode == "bare"
    arguments = draw_arguments(
        shape, biases="none" if bare else "both", with_h0=not bare, ends=tuple(ends)
    )
    torch.library.opcheck(torch.ops.rnnopt.elman.default, (*arguments, False, mode == "reverse"))


@needs_kernels
@pytest.mark.parametrize("shape", [(4, 9, 3, 5), (4, 2, 17, 5)])
@pytest.mark.parametrize("wanted", [(True, True, True), (False,) * 3, (True, False, True)])
@pytest.mark.full
def test_torch_finds_the_backward_operator_well_formed(shape, wanted):
    arguments = [None if one is None else one.detach() for one in draw_arguments(shape)]
    x, w_ih, w_hh, _, _, h0, lengths = arguments
    states, _ = torch.ops.rnnopt.elman(*arguments, False, False)
    grads = draw_grads((*shape[:2], shape[3]), torch.float64, "both", "plain")
    torch.library.opcheck(
        torch.ops.rnnopt.elman_backward.default,
        (*grads, x, w_ih, w_hh, h0, lengths, states, False, False, *wanted),
    )


# -- numbers at the edges -------------------------------------------------------------------------


def tanh_of_the_kernel(x):
    """tanh of each number: one step of a layer of one unit, of weights 1 and 0."""
    weights = x.new_ones(1, 1), x.new_zeros(1, 1)
    states, _ = torch.ops.rnnopt.elman(
        x.view(1, -1, 1), *weights, None, None, None, None, False, False
    )
    return states.flatten()


def units_in_the_last_place(value):
    """The distance from |value| to the next larger number, for each value in its own precision."""
    return torch.nextafter(value.abs(), value.new_tensor(float("inf"))) - value.abs()


@pytest.mark.parametrize("variant", variants())
def test_tanh_in_single_precision_is_right_to_three_in_the_last_place(variant, monkeypatch):
    load_variant(monkeypatch, variant)
    # Measured: 2.5 over every third number from 1e-4 to 9.3, at 4.505.
    # Logarithmic over all that there is, densely where the series changes its argument's power of
    # two, and each of the numbers around 9.2, from where on tanh is 1.
    wide = torch.logspace(-40, 2, 60_000, dtype=torch.float64).float()
    middle = torch.linspace(1e-3, 10, 200_000)
    edge = (torch.tensor(9.2).view(torch.int32) + torch.arange(-3000, 3000)).view(torch.float32)
    x = torch.cat((wide, middle, edge))
    x = torch.cat((x, -x))
    exact = x.double().tanh()
    wrong = (tanh_of_the_kernel(x).double() - exact).abs()
    tiny = x.abs() < torch.finfo(torch.float32).tiny  # counts as zero
    assert wrong[tiny].max() <= 1.2e-38
    ulps = wrong / units_in_the_last_place(exact.float()).double()
    assert ulps[~tiny].max() <= 3


@pytest.mark.parametrize("variant", variants())
def test_tanh_in_double_precision_is_right_to_three_in_the_last_place(variant, monkeypatch):
    load_variant(monkeypatch, variant)
    rng = torch.Generator().manual_seed(2)
    wide = torch.logspace(-300, 2, 1000, dtype=torch.float64)
    middle = 20 * torch.rand(3000, generator=rng, dtype=torch.float64)
    x = torch.cat((wide, middle, -middle))
    found = tanh_of_the_kernel(x)
    ulp = units_in_the_last_place(x.tanh())
    with mpmath.workdps(60):
        exact = [mpmath.tanh(mpmath.mpf(one)) for one in x.tolist()]
        wrong = [
            float(one - mpmath.mpf(own)) for one, own in zip(exact, found.tolist(), strict=True)
        ]
    ulps = torch.tensor(wrong, dtype=torch.float64).abs() / ulp
    assert ulps.max() <= 3


@needs_kernels
def test_tanh_is_odd_keeps_the_sign_of_zero_and_ends_at_one():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([0.0, 1e-3, 0.5, 3.0, 30.0, 1e30, float("inf")], dtype=dtype)
        states = tanh_of_the_kernel(x)
        assert torch.equal(tanh_of_the_kernel(-x), -states)
        assert states[4:].eq(1).all()


@needs_kernels
@pytest.mark.parametrize("hidden", [1, 20])
def test_gradients_that_vanish_become_zero_and_nothing_else(hidden):
    # Every step back multiplies by 0.1 at most: from 1 to 1e-60, through single precision's
    # denormal numbers, that begin below 1.2e-38. Each of a product's `hidden` terms may be lost.
    x = torch.zeros(60, 9, 2, requires_grad=True)
    w_hh = (0.1 * torch.eye(hidden)).requires_grad_()
    w_ih = torch.full((hidden, 2), 1e-3, requires_grad=True)
    arguments = (x, w_ih, w_hh, None, None, None, None)
    outputs = torch.ops.rnnopt.elman(*arguments, False, False)
    grads = (None, torch.ones(9, hidden))
    found = twin.gradients(outputs, arguments, grads)
    exact = in_double_precision(arguments)
    right = twin.gradients(
        twin.elman(*exact, False, False), exact, (None, torch.ones(9, hidden).double())
    )
    for one, another in zip(found, right, strict=True):
        torch.testing.assert_close(one.double(), another, rtol=1e-5, atol=hidden * 1.2e-38)
    assert right[0][0].ne(0).all()
    assert found[0][0].eq(0).all()
    tiny = torch.finfo(torch.float32).tiny  # between it and zero numbers are slow
    assert not any((one.abs() > 0).logical_and(one.abs() < tiny).any() for one in found)


@needs_kernels
@pytest.mark.parametrize("count", [1, 2])
def test_small_numbers_are_small_again_after_a_kernel_has_run(count):
    small = torch.tensor([1e-40])
    with threads(count):
        arguments = draw_arguments((3, 9, 4, 5), torch.float32)
        outputs = torch.ops.rnnopt.elman(*arguments, False, False)
        twin.gradients(outputs, arguments, draw_grads((3, 9, 5), torch.float32, "both", "plain"))
    assert (small * 1).item() > 0
    assert (small.expand(100_000) * 1).gt(0).all()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("batch", [3, 9])
@pytest.mark.parametrize("size", [3, 20])
def test_nan_and_infinity_spread_as_in_torch(nonlinearity, batch, size, rng):
    own, other = pair(input_size=size, nonlinearity=nonlinearity)
    x = normal(rng, 6, batch, size)
    x[2, 0, 0] = float("nan")
    x[1, 1, 1] = float("inf")
    x[3, 2, 0] = -float("inf")
    mine, torchs = all_results(own, x, None), all_results(other, x, None)
    assert mine[0][2:, 0].isnan().all()
    assert not mine[0][:, 3:].isnan().any()
    for one, another in zip(mine, torchs, strict=True):
        torch.testing.assert_close(one, another, equal_nan=True, **TIGHT)


# -- without the kernels, in other precisions, compiled -------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_the_plain_path_has_the_same_numbers(batch_first, lengths, rng, monkeypatch):
    layer, _ = pair(batch_first=batch_first)
    x = normal(rng, *((4, 7, 3) if batch_first else (7, 4, 3)))
    fused = all_results(layer, x, None, lengths)
    switch_off(monkeypatch)
    for one, another in zip(fused, all_results(layer, x, None, lengths), strict=True):
        torch.testing.assert_close(one, another, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_torchs(dtype, rng):
    own, other = pair(dtype, num_layers=2)
    x = normal(rng, 6, 9, 3).to(dtype)
    for mine, torchs in zip(all_results(own, x, None), all_results(other, x, None), strict=True):
        assert torch.equal(mine, torchs)


def test_autocast_is_torchs(rng):
    own, other = pair(torch.float32, num_layers=2)
    x = normal(rng, 6, 9, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, torchs = own(x), other(x)
    for one, another in zip(mine, torchs, strict=True):
        assert one.dtype == another.dtype == torch.bfloat16
        assert torch.equal(one, another)


@pytest.mark.parametrize("options", [{}, dict(num_layers=2, bidirectional=True)])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.full
def test_a_compiled_layer_has_the_same_results_in_one_graph(options, lengths, rng):
    if lengths is not None:
        # Else packed, which torch does not compile.
        options = options | dict(bidirectional=False) if cpu.available() else {}
    layer, _ = pair(torch.float32, **options)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled.parameters = layer.parameters
    x, hx = normal(rng, 7, 4, 3).float(), normal(rng, *layer(torch.ones(7, 4, 3))[1].shape).float()
    mine = all_results(compiled, x, hx, lengths)
    for one, another in zip(mine, all_results(layer, x, hx, lengths), strict=True):
        torch.testing.assert_close(one, another)


# -- copies, and weights that are not trained -----------------------------------------------------


@pytest.mark.parametrize("batch", [3, 9])
@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l1"])
def test_frozen_weights_get_no_gradient_and_the_others_the_same(batch, frozen, rng):
    layer, _ = pair(num_layers=2, input_size=20)
    x = normal(rng, 6, batch, 20)
    layer(x)[0].square().sum().backward()
    expected = {name: weight.grad for name, weight in layer.named_parameters()}
    layer.zero_grad()
    layer.get_parameter(frozen).requires_grad_(False)
    layer(x)[0].square().sum().backward()
    for name, weight in layer.named_parameters():
        if name == frozen:
            assert weight.grad is None
        else:
            torch.testing.assert_close(weight.grad, expected[name], **TIGHT)


@pytest.mark.parametrize("size", [3, 20])
def test_only_the_input_wants_a_gradient(size, rng):
    own, other = pair(input_size=size)
    own.requires_grad_(False)
    other.requires_grad_(False)
    x = normal(rng, 6, 3, size)
    for mine, torchs in zip(all_results(own, x, None), all_results(other, x, None), strict=True):
        torch.testing.assert_close(mine, torchs, **TIGHT)


def test_nothing_is_kept_where_no_gradient_is_wanted(rng):
    layer, _ = pair()
    x = normal(rng, 6, 9, 3)
    assert all(one.requires_grad for one in layer(x))
    with torch.no_grad():
        assert not any(one.requires_grad for one in layer(x))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict", "save"])
def test_copies_give_the_same_results(how, rng):
    layer, _ = pair(num_layers=2, dropout=0.3, nonlinearity="relu")
    layer.eval()
    if how == "deepcopy":
        other = copy.deepcopy(layer)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    elif how == "state_dict":
        other = ElmanRNN(3, 5, 2, dropout=0.3, nonlinearity="relu", dtype=torch.float64).eval()
        other.load_state_dict(layer.state_dict())
    else:
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert type(other) is ElmanRNN
    x = normal(rng, 6, 9, 3)
    for one, another in zip(all_results(layer, x, None), all_results(other, x, None), strict=True):
        assert torch.equal(one, another)


def test_weights_changed_after_a_copy_are_the_copys_own(rng):
    # torch.nn.RNN keeps a list of its weights beside them, which copies and conversions renew.
    layer, _ = pair()
    other = copy.deepcopy(layer).float().double()
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    x = normal(rng, 6, 9, 3)
    expected = torch.tanh(x @ other.weight_ih_l0.T + other.bias_ih_l0 + other.bias_hh_l0)
    torch.testing.assert_close(other(x)[0], expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(layer(x)[0], expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(num_layers=3, dropout=0.2, batch_first=True),
        dict(nonlinearity="relu", bias=False, bidirectional=True),
        dict(dtype=torch.float32),
    ],
)
def test_layers_go_from_torch_and_back(options, rng):
    options = dict(dtype=torch.float64) | options
    torchs = nn.RNN(3, 5, **options).eval()
    torchs.weight_hh_l0.requires_grad_(False)
    own = ElmanRNN.from_torch(torchs)
    back = own.to_torch()
    assert (type(own), type(back)) == (ElmanRNN, nn.RNN)
    x = normal(rng, 6, 9, 3, dtype=options["dtype"])
    for layer in (own, back):
        assert layer.extra_repr() == torchs.extra_repr()
        assert not layer.training
        for (name, weight), (same, other) in zip(
            layer.named_parameters(), torchs.named_parameters(), strict=True
        ):
            assert name == same
            assert torch.equal(weight, other)
            assert weight.requires_grad == other.requires_grad
            assert weight.data_ptr() != other.data_ptr()
        for mine, right in zip(layer(x), torchs(x), strict=True):
            torch.testing.assert_close(mine, right)
    assert ElmanRNN.from_torch(torchs.train()).training


def test_from_torch_refuses_other_layers():
    for layer in (nn.LSTM(3, 5), nn.GRU(3, 5), nn.Linear(3, 5)):
        with pytest.raises(TypeError, match=f"torch.nn.RNN, got {type(layer).__name__}"):
            ElmanRNN.from_torch(layer)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "hx_shape", "message"),
    [
        ((6, 4, 7), None, "input.size(-1) must be equal to input_size. Expected 3, got 7"),
        ((6, 7), None, "input.size(-1) must be equal to input_size. Expected 3, got 7"),
        ((6, 4, 0), None, "input.size(-1) must be equal to input_size. Expected 3, got 0"),
        ((3,), None, "Expected input to be 2D or 3D, got 1D"),
        ((2, 6, 4, 3), None, "Expected input to be 2D or 3D, got 4D"),
        ((0, 4, 3), None, "Expected sequence length to be larger than 0"),
        ((6, 4, 3), (1, 4, 5), "Expected hidden size (2, 4, 5), got [1, 4, 5]"),
        ((6, 4, 3), (2, 3, 5), "Expected hidden size (2, 4, 5), got [2, 3, 5]"),
        ((6, 4, 3), (2, 4, 6), "Expected hidden size (2, 4, 5), got [2, 4, 6]"),
        ((6, 3), (1, 5), "Expected hidden size (2, 1, 5), got [1, 1, 5]"),
        ((6, 4, 3), (2, 5), ""),
        ((6, 3), (2, 1, 5), "For unbatched 2-D input, hx should also be 2-D but got 3-D tensor"),
    ],
)
def test_wrong_shapes_raise_what_torch_raises(shape, hx_shape, message):
    own, other = pair(num_layers=2)
    x = torch.zeros(shape, dtype=torch.float64)
    hx = None if hx_shape is None else torch.zeros(hx_shape, dtype=torch.float64)
    with pytest.raises((ValueError, RuntimeError)) as torchs:
        other(x, hx)
    with pytest.raises(torchs.type) as mine:
        own(x, hx)
    assert mine.type is torchs.type
    assert message in str(mine.value)


@pytest.mark.parametrize(
    "options",
    [dict(nonlinearity="gelu"), dict(hidden_size=0), dict(num_layers=0), dict(dropout=1.5)],
)
def test_wrong_options_raise_what_torch_raises(options):
    (wrong,) = options
    for kind in (nn.RNN, ElmanRNN):
        with pytest.raises(ValueError, match=wrong if wrong != "nonlinearity" else "gelu"):
            kind(**dict(input_size=3, hidden_size=5) | options)


def test_wrong_types_raise_what_torch_raises():
    own, other = pair()
    x, hx = torch.zeros(6, 4, 3), torch.zeros(1, 4, 5)
    for wrong in ((x,), (x.long(),), (x.double(), hx)):
        with pytest.raises((ValueError, RuntimeError)) as torchs:
            other(*wrong)
        with pytest.raises(torchs.type):
            own(*wrong)


def test_an_empty_batch_gives_empty_results():
    own, other = pair(num_layers=2)
    x = torch.zeros(6, 0, 3, dtype=torch.float64)
    for more in ((), (None, torch.zeros(0, dtype=torch.long))):
        for mine, torchs in zip(own(x, *more), other(x), strict=True):
            assert mine.shape == torchs.shape


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            [3.0, 7.0, 1.0, 5.0],
            "4 whole numbers, one per sequence, got torch.float32 of shape (4,)",
        ),
        ([True, True, True, True], "4 whole numbers, one per sequence, got torch.bool"),
        ([1j, 1, 1, 1], "4 whole numbers, one per sequence, got torch.complex64"),
        ([3, 7, 1], "4 whole numbers, one per sequence, got torch.int64 of shape (3,)"),
        ([[3, 7, 1, 5]], "4 whole numbers, one per sequence, got torch.int64 of shape (1, 4)"),
        (7, "4 whole numbers, one per sequence, got torch.int64 of shape ()"),
        ([3, 0, 1, 5], "lengths must be in 1 … 7 (time), got 0 … 5"),
        ([3, -2, 1, 5], "lengths must be in 1 … 7 (time), got -2 … 5"),
        ([3, 8, 1, 5], "lengths must be in 1 … 7 (time), got 1 … 8"),
    ],
)
def test_wrong_lengths_are_refused(batch_first, lengths, message):
    layer, _ = pair(batch_first=batch_first)
    x = torch.zeros((4, 7, 3) if batch_first else (7, 4, 3), dtype=torch.float64)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(x, lengths=torch.tensor(lengths))


def test_lengths_need_a_batch_and_none_of_their_own():
    layer, _ = pair()
    x = torch.zeros(7, 4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="lengths need a batch .*got \\(7, 3\\)"):
        layer(x[:, 0], lengths=torch.tensor([7]))
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    with pytest.raises(ValueError, match=naming("PackedSequence", "lengths")):
        layer(packed, lengths=LENGTHS)


# -- what the kernels cannot do, torch's own operators do ------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own
def test_transforms_and_forward_mode_give_torchs_derivatives(rng):
    own, other = pair()
    x = torch.randn(6, 4, 3, generator=rng, dtype=torch.float64)
    along = torch.randn(6, 4, 3, generator=rng, dtype=torch.float64)

    def states(layer):
        return lambda inputs: layer(inputs)[0]

    for derivative in (
        lambda f: torch.func.jvp(f, (x,), (along,))[1],
        lambda f: torch.func.grad(lambda inputs: f(inputs).sum())(x),
        lambda f: torch.func.jacrev(f)(x),
    ):
        wanted = derivative(states(other))
        assert wanted.abs().sum() > 0
        torch.testing.assert_close(derivative(states(own)), wanted)


def test_weights_handed_in_are_the_ones_that_count(rng):
    own, other = pair()
    x = torch.randn(6, 4, 3, generator=rng, dtype=torch.float64)
    weights = {name: 2 * weight.detach() for name, weight in own.named_parameters()}
    results = [torch.func.functional_call(layer, weights, (x,))[0] for layer in (own, other)]
    torch.testing.assert_close(*results)
    single = {name: weight.float() for name, weight in weights.items()}
    for layer in (own, other):
        with pytest.raises(ValueError, match=r"type.*float32.*float64"):
            torch.func.functional_call(layer, single, (x,))


@pytest.mark.parametrize(
    ("name", "shape"), [("weight_hh_l0", (2, 2)), ("weight_ih_l0", (1, 1)), ("bias_ih_l0", (1,))]
)
def test_weights_of_another_shape_are_refused(name, shape):
    # The kernel would read beyond them.
    own, _ = pair()
    setattr(own, name, torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)))
    with pytest.raises((ValueError, RuntimeError)):
        own(torch.zeros(6, 4, 3, dtype=torch.float64))
