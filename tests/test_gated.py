"""What LSTM and GRU promise: the numbers, gradients and errors of torch's layers, and `lengths`.

Their compiled kernels are held against a loop of torch's own operators (plain_recurrent.py) on both
sides of every border at which they cut shapes up. How they are found is test_kernels_build; in what
forms they leave torch, test_leaving_torch.
"""

import copy
import pickle

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

from rnnopt import GRU, LSTM
from rnnopt.layers.kernels import cpu

KINDS = {"lstm": (LSTM, nn.LSTM), "gru": (GRU, nn.GRU)}
GATES = {"lstm": 4, "gru": 3}
both = pytest.mark.parametrize("kind", list(KINDS))
# float32: relative to the largest number of a result, sums of some hundred terms.
SINGLE = 2e-5


def pair(kind, dtype=torch.float64, **options):
    """Our layer and torch's with the same weights, the same at every call."""
    torch.manual_seed(1)
    options = {"input_size": 3, "hidden_size": 5} | options
    own, other = (one(**options, dtype=dtype) for one in KINDS[kind])
    other.load_state_dict(own.state_dict())
    return own, other


def initial(kind, rng, *shape, dtype=torch.float64):
    """Initial states: one tensor, or two for an LSTM."""
    states = [normal(rng, *shape, dtype=dtype) for _ in range(2 if kind == "lstm" else 1)]
    return tuple(states) if kind == "lstm" else states[0]


def all_results(layer, x, hx, *more, seed=None):
    """Output, last states and cells, and all gradients under a loss that reads all of these."""
    x = x.clone().requires_grad_()
    given = [] if hx is None else [hx] if isinstance(hx, torch.Tensor) else list(hx)
    given = [one.clone().requires_grad_() for one in given]
    hx = None if hx is None else given[0] if isinstance(hx, torch.Tensor) else tuple(given)
    if seed is not None:
        torch.manual_seed(seed)
    output, last = layer(x, hx, *more)
    ends = [last] if isinstance(last, torch.Tensor) else list(last)
    rng = torch.Generator().manual_seed(3)
    outputs = [output, *ends]
    grads = [normal(rng, *one.shape, dtype=one.dtype) for one in outputs]
    found = twin.gradients(outputs, (x, *given, *layer.parameters()), grads)
    return [*(one.detach() for one in outputs), *found]


def assert_same(mine, others, **tolerance):
    for one, another in zip(mine, others, strict=True):
        torch.testing.assert_close(one, another, **(tolerance or TIGHT))


# -- the numbers of torch's layers ----------------------------------------------------------------


@crossed(
    ("kind", list(KINDS)),
    ("layers", [1, 2, 3]),
    ("bias", [True, False]),
    ("batch_first", [False, True]),
    ("bidirectional", [False, True]),
    ("with_hx", [False, True]),
)
def test_results_and_gradients_are_torchs(
    kind, layers, bias, batch_first, bidirectional, with_hx, rng
):
    options = dict(num_layers=layers, bias=bias, batch_first=batch_first)
    own, other = pair(kind, **options, bidirectional=bidirectional)
    x = normal(rng, *((9, 7, 3) if batch_first else (7, 9, 3)))
    hx = initial(kind, rng, layers * (1 + bidirectional), 9, 5) if with_hx else None
    assert_same(all_results(own, x, hx), all_results(other, x, hx))


@both
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_hx", [False, True])
def test_one_sequence_without_a_batch_is_torchs(kind, bidirectional, batch_first, with_hx, rng):
    own, other = pair(kind, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    x = normal(rng, 7, 3)
    hx = initial(kind, rng, 2 * (1 + bidirectional), 5) if with_hx else None
    assert_same(all_results(own, x, hx), all_results(other, x, hx))


@both
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_is_torchs_with_the_same_seed(kind, bidirectional, training, rng):
    own, other = pair(kind, num_layers=3, dropout=0.4, bidirectional=bidirectional)
    own.train(training)
    other.train(training)
    x = normal(rng, 6, 8, 3)
    assert_same(all_results(own, x, None, seed=4), all_results(other, x, None, seed=4))


@both
def test_weights_have_torchs_names_shapes_and_first_values(kind):
    for options in ({}, dict(num_layers=2, bidirectional=True), dict(bias=False)):
        states = []
        for one in KINDS[kind]:
            torch.manual_seed(5)
            states.append(one(3, 5, **options).state_dict())
        assert list(states[0]) == list(states[1])
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_projections_are_torchs(bidirectional, rng):
    own, other = pair("lstm", num_layers=2, proj_size=2, bidirectional=bidirectional)
    x = normal(rng, 7, 4, 3)
    assert_same(all_results(own, x, None), all_results(other, x, None))
    packed = packed_results(other, x, None, LENGTHS)
    assert_same(all_results(own, x, None, LENGTHS), packed)
    assert own.to_torch().proj_size == LSTM.from_torch(other).proj_size == 2


@both
def test_single_precision_errs_about_as_little_as_torch(kind, rng):
    own, other = pair(kind, torch.float32, hidden_size=33)
    x, hx = normal(rng, 30, 9, 3).float(), initial(kind, rng, 1, 9, 33, dtype=torch.float32)
    exact = copy.deepcopy(other).double()
    twice = tuple(one.double() for one in hx) if kind == "lstm" else hx.double()
    right = all_results(exact, x.double(), twice)
    errors = []
    for layer in (own, other):
        found = all_results(layer, x, hx)
        pairs = zip(found, right, strict=True)
        errors.append([float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs])
    for mine, torchs in zip(*errors, strict=True):
        assert mine < SINGLE
        assert mine < 4 * torchs + 1e-6


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
    ("kind", list(KINDS)),
    ("layers", [1, 2]),
    ("batch_first", [False, True]),
    ("bidirectional", [False, True]),
    ("with_hx", [False, True]),
    ("fused", [False, True]),
)
def test_lengths_do_what_a_packed_sequence_does(
    kind, layers, batch_first, bidirectional, with_hx, fused, rng, monkeypatch
):
    if not fused:
        switch_off(monkeypatch)
    own, other = pair(kind, num_layers=layers, batch_first=batch_first, bidirectional=bidirectional)
    x = normal(rng, *((4, 7, 3) if batch_first else (7, 4, 3)))
    hx = initial(kind, rng, layers * (1 + bidirectional), 4, 5) if with_hx else None
    torchs = packed_results(other, x, hx, LENGTHS)
    for lengths in (LENGTHS, LENGTHS.int()):
        assert_same(all_results(own, x, hx, lengths), torchs)


@crossed(
    ("kind", list(KINDS)),
    ("fused", [False, True]),
    ("size", [3, 20]),
    ("layers", [1, 2]),
    ("bidirectional", [False, True]),
)
def test_nothing_in_the_padding_reaches_anything(
    kind, fused, size, layers, bidirectional, rng, monkeypatch
):
    if not fused:
        switch_off(monkeypatch)
    layer, _ = pair(kind, input_size=size, num_layers=layers, bidirectional=bidirectional)
    x = normal(rng, 7, 4, size)
    padding = (torch.arange(7)[:, None] >= LENGTHS)[..., None]
    right = all_results(layer, x.masked_fill(padding, 0), None, LENGTHS)
    for filling in (float("nan"), float("inf")):
        found = all_results(layer, x.masked_fill(padding, filling), None, LENGTHS)
        assert_same(found, right, rtol=0, atol=0)
    assert right[0].masked_select(padding).eq(0).all()
    grad_x = right[3 if kind == "lstm" else 2]
    assert grad_x.masked_select(padding).eq(0).all()


@both
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_taken_as_torch_takes_them(kind, bidirectional, rng):
    own, other = pair(kind, num_layers=2, bidirectional=bidirectional)
    packed = pack_padded_sequence(normal(rng, 7, 4, 3), LENGTHS, enforce_sorted=False)
    (mine, mine_last), (torchs, torchs_last) = own(packed), other(packed)
    assert isinstance(mine, PackedSequence)
    torch.testing.assert_close(mine.data, torchs.data, **TIGHT)
    torch.testing.assert_close(mine_last, torchs_last, **TIGHT)


# -- the operators and their plain twins ----------------------------------------------------------


def draw_arguments(
    kind, shape, dtype=torch.float64, biases="both", with_first=True, ends=(), layout="plain"
):
    """x, w_ih, w_hh, b_ih, b_hh, h0 and an LSTM's c0, wanting gradients, and lengths."""
    rng = torch.Generator().manual_seed(0)
    steps, batch, size, hidden = shape
    gates = GATES[kind] * hidden
    x = laid_out(normal(rng, steps, batch, size, dtype=dtype), layout)
    w_ih = normal(rng, gates, size, dtype=dtype) / size
    w_hh = normal(rng, gates, hidden, dtype=dtype) / hidden
    b_ih, b_hh = normal(rng, 2, gates, dtype=dtype) / 2
    b_ih = b_ih if biases in ("both", "input") else None
    b_hh = b_hh if biases in ("both", "recurrent") else None
    first = normal(rng, 2 if kind == "lstm" else 1, batch, hidden, dtype=dtype)
    first = list(first) if with_first else [None] * len(first)
    lengths = torch.tensor([1 + end % steps for end in ends]) if ends else None
    leaves = [one if one is None else one.detach().clone() for one in (w_ih, w_hh, b_ih, b_hh)]
    leaves = [x.detach(), *leaves, *(one if one is None else one.clone() for one in first)]
    return *(one if one is None else one.requires_grad_() for one in leaves), lengths


def run_operator(kind, arguments, reverse, keep=True):
    *outputs, _ = getattr(torch.ops.rnnopt, kind)(*arguments, reverse, keep)
    return outputs


def all_grads(kind, shape, dtype, loss, layout="plain"):
    grads = draw_grads((*shape[:2], shape[3]), dtype, loss, layout)
    return grads if kind == "gru" else (*grads, grads[1])


def check_operator(kind, arguments, reverse, grads, count=1):
    """The operator's results and all gradients against the plain twin's, in double precision."""
    dtype, (steps, *_), lengths = arguments[0].dtype, arguments[0].shape, arguments[-1]
    with threads(count):
        outputs = run_operator(kind, arguments, reverse)
        found = twin.gradients(outputs, arguments, grads)
    exact = in_double_precision(arguments)
    expected = getattr(twin, kind)(*exact, reverse)
    right = twin.gradients(expected, exact, [g if g is None else g.double() for g in grads])
    for one, another in zip([*outputs, *found], [*expected, *right], strict=True):
        assert one.dtype == dtype
        large = max(1.0, float(another.detach().abs().max()))
        within = 1e-11 if dtype == torch.float64 else SINGLE
        torch.testing.assert_close(one.double(), another, rtol=0, atol=within * large)
    if lengths is not None:
        padding = torch.arange(steps)[:, None] >= lengths
        assert outputs[0][padding].eq(0).all()
        assert found[0][padding].eq(0).all()


@needs_kernels
@settings(max_examples=100)
@given(
    kind=st.sampled_from(list(KINDS)),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(1, 40), st.integers(1, 70)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    reverse=st.booleans(),
    padded=st.booleans(),
    biases=st.sampled_from(["both", "input", "recurrent", "none"]),
    with_first=st.booleans(),
    x_layout=st.sampled_from(LAYOUTS),
    grad_layout=st.sampled_from([*LAYOUTS, "same everywhere"]),
    loss=st.sampled_from(LOSSES),
    count=st.sampled_from([1, 2]),
    ends=st.lists(st.integers(0, 39), min_size=20, max_size=20),
)
def test_operator_is_its_plain_twin(
    kind,
    shape,
    dtype,
    reverse,
    padded,
    biases,
    with_first,
    x_layout,
    grad_layout,
    loss,
    count,
    ends,
):
    ends = ends[: shape[1]] if padded else ()
    arguments = draw_arguments(kind, shape, dtype, biases, with_first, ends, x_layout)
    check_operator(
        kind, arguments, reverse, all_grads(kind, shape, dtype, loss, grad_layout), count
    )


# What the kernels cut by: registers of 2 … 16 numbers, 3 or 4 of them for the gates of as many
# units, up to 12 rows a tile, 192 rows of (time, batch) a block backwards, 16 columns when weights
# are transposed. Less than 8 sequences of more than 4 features have the inputs of some steps, up to
# 96 rows, multiplied together.
BORDERS = [
    (1, 1, 1, 1),
    (3, 12, 4, 16),
    (3, 13, 5, 17),
    (2, 25, 16, 64),
    (2, 26, 33, 65),
    (193, 1, 2, 3),
    (97, 1, 5, 4),
    (25, 8, 17, 24),
    (25, 7, 17, 24),
    (33, 3, 4, 20),
    (2, 200, 3, 5),
]


@crossed(
    ("kind", list(KINDS)),
    ("variant", variants()),
    ("shape", BORDERS),
    ("dtype", [torch.float32, torch.float64]),
)
def test_every_built_variant_is_the_plain_twin(kind, variant, shape, dtype, monkeypatch):
    load_variant(monkeypatch, variant)
    grads = all_grads(kind, shape, dtype, "both")
    ends = [7 * row + 3 for row in range(shape[1])]
    check_operator(kind, draw_arguments(kind, shape, dtype), False, grads)
    check_operator(kind, draw_arguments(kind, shape, dtype), True, grads)
    check_operator(kind, draw_arguments(kind, shape, dtype, ends=ends), False, grads)
    check_operator(kind, draw_arguments(kind, shape, dtype, ends=ends), True, grads, 2)


@needs_kernels
@both
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 10, 4, 33), (9, 5, 20, 33), (9, 1, 4, 33)])
def test_results_are_bitwise_the_same_at_every_call(kind, count, shape):
    grads = all_grads(kind, shape, torch.float32, "both")
    results = []
    with threads(count):
        for _ in range(2):
            arguments = draw_arguments(kind, shape, torch.float32)
            outputs = run_operator(kind, arguments, False)
            results.append([*outputs, *twin.gradients(outputs, arguments, grads)])
    assert all(torch.equal(one, another) for one, another in zip(*results, strict=True))


@needs_kernels
@both
def test_the_states_do_not_depend_on_whether_a_gradient_is_wanted(kind):
    arguments = draw_arguments(kind, (9, 10, 4, 33))
    outputs = run_operator(kind, arguments, False)
    with torch.no_grad():
        assert_same(run_operator(kind, arguments, False, keep=False), outputs, rtol=0, atol=0)


@needs_kernels
@both
@pytest.mark.parametrize("wanted", range(7))
def test_each_gradient_alone_is_the_one_among_all(kind, wanted):
    # A kernel that spares what is not wanted must not spare what is.
    shape = (5, 10, 4, 7)
    arguments = draw_arguments(kind, shape)
    if arguments[wanted] is None:  # a GRU has one less
        return
    grads = all_grads(kind, shape, torch.float64, "both")
    expected = twin.gradients(run_operator(kind, arguments, False), arguments, grads)[wanted]
    alone = [one if one is None else one.detach() for one in arguments]
    alone[wanted] = alone[wanted].clone().requires_grad_()
    (found,) = twin.gradients(run_operator(kind, alone, False), alone, grads)
    torch.testing.assert_close(found, expected, **TIGHT)


@needs_kernels
@both
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_first_and_second_derivatives_are_those_of_differences(kind, reverse, padded):
    *leaves, lengths = draw_arguments(kind, (4, 3, 2, 2), ends=(3, 1, 0) if padded else ())

    def run(*leaves):
        return run_operator(kind, (*leaves, lengths), reverse)

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@needs_kernels
@both
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ends", [(), (4, 1, 3, 0, 4, 2, 2, 1, 3)])
def test_a_gradient_that_can_be_differentiated_is_the_same_gradient(
    kind, keep, loss, reverse, ends
):
    shape = (5, 9, 4, 7)
    arguments = draw_arguments(kind, shape, ends=ends)
    grads = all_grads(kind, shape, torch.float64, loss)
    outputs = run_operator(kind, arguments, reverse, keep)
    once = twin.gradients(outputs, arguments, grads, retain_graph=True)
    twice = twin.gradients(outputs, arguments, grads, create_graph=True)
    for one, another in zip(once, twice, strict=True):
        assert another.requires_grad
        torch.testing.assert_close(one, another.detach(), **TIGHT)


@needs_kernels
@quiet_opcheck
@both
@pytest.mark.parametrize("mode", ["plain", "reverse", "padded", "bare"])
@pytest.mark.full
def test_torch_finds_the_operators_well_formed(kind, mode):
    shape, bare = (4, 9, 3, 5), mode == "bare"
    ends = tuple(range(9)) if mode == "padded" else ()
    biases = "none" if bare else "both"
    arguments = draw_arguments(kind, shape, biases=biases, with_first=not bare, ends=ends)
    operator = getattr(torch.ops.rnnopt, kind).default
    torch.library.opcheck(operator, (*arguments, mode == "reverse", True))


@needs_kernels
@both
@pytest.mark.parametrize(
    "wanted", [(True, True, True, True), (False,) * 4, (True, False, True, False)]
)
@pytest.mark.full
def test_torch_finds_the_backward_operators_well_formed(kind, wanted):
    shape = (4, 9, 3, 5)
    arguments = [one if one is None else one.detach() for one in draw_arguments(kind, shape)]
    x, w_ih, w_hh, _, _, *first = arguments
    out, *_, saved = getattr(torch.ops.rnnopt, kind)(*arguments, False, True)
    grads = all_grads(kind, shape, torch.float64, "both")
    torch.library.opcheck(
        getattr(torch.ops.rnnopt, f"{kind}_backward").default,
        (*grads, x, w_ih, w_hh, *first, out, saved, False, *wanted[: 3 + (kind == "lstm")]),
    )


# -- numbers at the edges -------------------------------------------------------------------------


def sigmoid_of_the_kernel(x):
    """σ of each number, as an update gate that lets a state of 1 through beside a new one of 0."""
    one, zero = x.new_ones(1), x.new_zeros(1)
    w_ih = torch.stack((zero, one, zero))
    w_hh, h0 = x.new_zeros(3, 1), x.new_ones(len(x), 1)
    states, *_ = torch.ops.rnnopt.gru(
        x.view(1, -1, 1), w_ih, w_hh, None, None, h0, None, False, False
    )
    return states.flatten()


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 4e-7), (torch.float64, 1e-15)])
def test_the_sigmoid_is_right_to_some_in_the_last_place(variant, dtype, rtol, monkeypatch):
    load_variant(monkeypatch, variant)
    edge = 80.0 if dtype == torch.float32 else 700.0
    x = torch.cat((torch.linspace(-edge, edge, 100_000), torch.linspace(-3, 3, 100_000))).to(dtype)
    exact = x.double().sigmoid()
    torch.testing.assert_close(sigmoid_of_the_kernel(x).double(), exact, rtol=rtol, atol=0)
    far = torch.tensor([-1e4, -1e30, 1e4, 1e30, 0.0, float("nan")], dtype=dtype)
    right = torch.tensor([0, 0, 1, 1, 0.5, float("nan")], dtype=dtype)
    torch.testing.assert_close(
        sigmoid_of_the_kernel(far), right, equal_nan=True, rtol=0, atol=1e-37
    )


@both
@pytest.mark.parametrize("batch", [3, 9])
@pytest.mark.parametrize("size", [3, 20])
def test_nan_and_infinity_spread_as_in_torch(kind, batch, size, rng):
    own, other = pair(kind, input_size=size)
    x = normal(rng, 6, batch, size)
    x[2, 0, 0] = float("nan")
    x[1, 1, 1] = float("inf")
    x[3, 2, 0] = -float("inf")
    mine, torchs = all_results(own, x, None), all_results(other, x, None)
    assert mine[0][2:, 0].isnan().all()
    assert not mine[0][:, 3:].isnan().any()
    assert_same(mine, torchs, equal_nan=True, **TIGHT)


@needs_kernels
@both
@pytest.mark.parametrize("count", [1, 2])
def test_small_numbers_are_small_again_after_a_kernel_has_run(kind, count):
    small = torch.tensor([1e-40])
    with threads(count):
        arguments = draw_arguments(kind, (3, 9, 4, 5), torch.float32)
        grads = all_grads(kind, (3, 9, 4, 5), torch.float32, "both")
        twin.gradients(run_operator(kind, arguments, False), arguments, grads)
    assert (small * 1).item() > 0
    assert (small.expand(100_000) * 1).gt(0).all()


# -- without the kernels, in other precisions, compiled -------------------------------------------


@both
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_the_plain_path_has_the_same_numbers(kind, batch_first, lengths, rng, monkeypatch):
    layer, _ = pair(kind, batch_first=batch_first)
    x = normal(rng, *((4, 7, 3) if batch_first else (7, 4, 3)))
    fused = all_results(layer, x, None, lengths)
    switch_off(monkeypatch)
    assert_same(fused, all_results(layer, x, None, lengths))


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_torchs(kind, dtype, rng):
    own, other = pair(kind, dtype, num_layers=2)
    x = normal(rng, 6, 9, 3).to(dtype)
    with torch.no_grad():
        mine, torchs = own(x), other(x)
    torch.testing.assert_close(mine, torchs, rtol=0, atol=0)


@both
def test_autocast_is_torchs(kind, rng):
    own, other = pair(kind, torch.float32, num_layers=2)
    x = normal(rng, 6, 9, 3).float()
    plain = own(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if kind == "lstm" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            with pytest.raises(RuntimeError, match="could not create a primitive"):
                other(x)
            torchs = plain
        else:
            torchs = other(x)
        mine = own(x)
    torch.testing.assert_close(mine, torchs, rtol=0, atol=0)  # and the types


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_an_lstm_that_onednn_lacks_runs_in_the_precision_of_its_weights(half, monkeypatch, rng):
    own, _ = pair("lstm", torch.float32)
    x, states = normal(rng, 6, 9, 3).to(half), normal(rng, 1, 9, own.hidden_size).to(half)
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: False)
    with torch.autocast("cpu", dtype=half):
        mine = own(x, (states, states))
    plain = own(x.float(), (states.float(), states.float()))
    torch.testing.assert_close(mine, plain, rtol=0, atol=0)


@both
@pytest.mark.parametrize("options", [{}, dict(num_layers=2, bidirectional=True)])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.full
def test_a_compiled_layer_has_the_same_results_in_one_graph(kind, options, lengths, rng):
    if not cpu.available() and (lengths is not None or options):
        pytest.skip("torch compiles neither a packed sequence nor its own layers")
    layer, _ = pair(kind, torch.float32, **options)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled.parameters = layer.parameters
    x = normal(rng, 7, 4, 3).float()
    hx = initial(kind, rng, 4 if options else 1, 4, 5, dtype=torch.float32)
    mine = all_results(compiled, x, hx, lengths)
    assert_same(mine, all_results(layer, x, hx, lengths), rtol=1e-6, atol=1e-6)


# -- copies, and weights that are not trained -----------------------------------------------------


@both
@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l1"])
def test_frozen_weights_get_no_gradient_and_the_others_the_same(kind, frozen, rng):
    layer, _ = pair(kind, num_layers=2)
    x = normal(rng, 6, 9, 3)
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


@both
def test_nothing_is_kept_where_no_gradient_is_wanted(kind, rng):
    layer, _ = pair(kind)
    x = normal(rng, 6, 9, 3)
    assert layer(x)[0].requires_grad
    with torch.no_grad():
        assert not layer(x)[0].requires_grad
    assert not layer.requires_grad_(False)(x)[0].requires_grad


@both
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict"])
def test_copies_give_the_same_results(kind, how, rng):
    layer, _ = pair(kind, num_layers=2, dropout=0.3)
    layer.eval()
    if how == "deepcopy":
        other = copy.deepcopy(layer)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        other = type(layer)(3, 5, 2, dropout=0.3, dtype=torch.float64).eval()
        other.load_state_dict(layer.state_dict())
    assert type(other) is KINDS[kind][0]
    x = normal(rng, 6, 9, 3)
    assert_same(all_results(other, x, None), all_results(layer, x, None), rtol=0, atol=0)


@both
@pytest.mark.parametrize(
    "options",
    [{}, dict(num_layers=3, dropout=0.2, batch_first=True), dict(bias=False, bidirectional=True)],
)
def test_layers_go_from_torch_and_back(kind, options, rng):
    ours, torchs_kind = KINDS[kind]
    torchs = torchs_kind(3, 5, **options, dtype=torch.float64).eval()
    torchs.weight_hh_l0.requires_grad_(False)
    own = ours.from_torch(torchs)
    back = own.to_torch()
    assert (type(own), type(back)) == (ours, torchs_kind)
    x = normal(rng, 6, 9, 3)
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
        torch.testing.assert_close(layer(x), torchs(x), **TIGHT)


@both
def test_from_torch_refuses_other_layers(kind):
    ours, torchs = KINDS[kind]
    for layer in (nn.RNN(3, 5), nn.Linear(3, 5)):
        with pytest.raises(TypeError, match=f"{torchs.__name__}, got {type(layer).__name__}"):
            ours.from_torch(layer)


# -- errors ---------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("shape", "hx_shape"),
    [
        ((6, 4, 7), None),
        ((6, 7), None),
        ((6, 4, 0), None),
        ((3,), None),
        ((2, 6, 4, 3), None),
        ((0, 4, 3), None),
        ((6, 4, 3), (1, 4, 5)),
        ((6, 4, 3), (2, 3, 5)),
        ((6, 4, 3), (2, 4, 6)),
        ((6, 3), (1, 5)),
        ((6, 4, 3), (2, 5)),
        ((6, 3), (2, 1, 5)),
    ],
)
def test_wrong_shapes_raise_what_torch_raises(kind, shape, hx_shape):
    own, other = pair(kind, num_layers=2)
    x, hx = torch.zeros(shape, dtype=torch.float64), None
    if hx_shape is not None:
        hx = torch.zeros(hx_shape, dtype=torch.float64)
        hx = (hx, hx) if kind == "lstm" else hx
    with pytest.raises((ValueError, RuntimeError)) as torchs:
        other(x, hx)
    with pytest.raises(torchs.type) as mine:
        own(x, hx)
    assert mine.type is torchs.type


@both
def test_wrong_types_raise_what_torch_raises(kind):
    own, other = pair(kind)
    x, h = torch.zeros(6, 4, 3), torch.zeros(1, 4, 5)
    h = (h, h) if kind == "lstm" else h
    for wrong in ((x,), (x.long(),), (x.double(), h)):
        with pytest.raises((ValueError, RuntimeError)) as torchs:
            other(*wrong)
        with pytest.raises(torchs.type):
            own(*wrong)


@both
def test_what_is_no_tensor_raises_what_torch_raises(kind):
    own, other = pair(kind)
    x, h = torch.zeros(6, 4, 3, dtype=torch.float64), torch.zeros(1, 4, 5, dtype=torch.float64)
    states = ((h,), (h, h, h), (None, None), "h", [h, [h]], h if kind == "lstm" else (h, h))
    inputs = (None, x.numpy(), x.tolist())
    for wrong in (*((x, one) for one in states), *((one,) for one in inputs)):
        with pytest.raises((AttributeError, IndexError, RuntimeError, TypeError)) as torchs:
            other(*wrong)
        with pytest.raises(torchs.type) as mine:
            own(*wrong)
        assert str(mine.value) == str(torchs.value)


@both
def test_an_empty_batch_gives_empty_results(kind):
    own, other = pair(kind, num_layers=2)
    x = torch.zeros(6, 0, 3, dtype=torch.float64)
    for more in ((), (None, torch.zeros(0, dtype=torch.long))):
        (mine, last), (torchs, torchs_last) = own(x, *more), other(x)
        assert mine.shape == torchs.shape
        if kind == "lstm":
            last, torchs_last = last[1], torchs_last[1]
        assert last.shape == torchs_last.shape


@both
def test_lengths_need_a_batch_and_none_of_their_own(kind):
    layer, _ = pair(kind)
    x = torch.zeros(7, 4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="lengths need a batch .*got \\(7, 3\\)"):
        layer(x[:, 0], lengths=torch.tensor([7]))
    with pytest.raises(ValueError, match=naming("lengths", "1 … 7", "0 … 5")):
        layer(x, lengths=torch.tensor([3, 0, 1, 5]))
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    with pytest.raises(ValueError, match=naming("PackedSequence", "lengths")):
        layer(packed, lengths=LENGTHS)


# -- what the kernels cannot do, torch's own operators do -----------------------------------------


@both
def test_transforms_give_torchs_derivatives(kind, rng):
    own, other = pair(kind)
    x = torch.randn(6, 4, 3, generator=rng, dtype=torch.float64)

    def gradient(layer):
        return torch.func.grad(lambda inputs: layer(inputs)[0].sum())(x)

    wanted = gradient(other)
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(gradient(own), wanted)


@both
def test_weights_handed_in_are_the_ones_that_count(kind, rng):
    own, other = pair(kind)
    x = torch.randn(6, 4, 3, generator=rng, dtype=torch.float64)
    weights = {name: 2 * weight.detach() for name, weight in own.named_parameters()}
    results = [torch.func.functional_call(layer, weights, (x,))[0] for layer in (own, other)]
    torch.testing.assert_close(*results)


@both
@pytest.mark.parametrize(
    ("name", "shape"), [("weight_hh_l0", (2, 2)), ("weight_ih_l0", (1, 1)), ("bias_ih_l0", (1,))]
)
def test_weights_of_another_shape_are_refused(kind, name, shape):
    # The kernel would read beyond them.
    own, _ = pair(kind)
    setattr(own, name, torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)))
    with pytest.raises((ValueError, RuntimeError)):
        own(torch.zeros(6, 4, 3, dtype=torch.float64))
