"""What IndRNN promises: independent units, bounded memory, norms and dropout as written out.

Its compiled kernels, and those of batch normalisation over time, are held against loops of torch's
own operators (plain_recurrent.py). The kernels on a GPU are test_indrnn_gpu's, finding the compiled
ones is test_kernels_build's.
"""

import copy
import math
import pickle
import re

import plain_recurrent as twin
import pytest
import torch
from cases import crossed
from hypothesis import given, settings
from hypothesis import strategies as st
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

from rnnopt import IndRNN
from rnnopt.layers.kernels import batch_norm as norm_operators

PADDING = (torch.arange(7)[:, None] >= LENGTHS)[..., None]


def build(dtype=torch.float64, **options):
    """A layer with weights and statistics unlike the first ones, the same at every call."""
    torch.manual_seed(1)
    layer = IndRNN(**{"input_size": 3, "hidden_size": 5} | options, dtype=dtype)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith(("bias", "norms")):
                weight.copy_(normal(rng, *weight.shape))
    for norm in layer.norms:
        norm.running_mean.copy_(normal(rng, *norm.running_mean.shape))
        norm.running_var.copy_(normal(rng, *norm.running_var.shape).exp())
    return layer


class PlainIndRNN(nn.Module):
    """The layer's twin: the plain loop, torch's own batch normalisation, masks given from outside.

    It shares the weights of the layer but not its running statistics.
    """

    def __init__(self, layer, masks=None):
        super().__init__()
        self.layer, self.masks = layer, masks
        self.norms = copy.deepcopy(layer.norms)
        for norm, other in zip(self.norms, layer.norms, strict=True):
            norm.weight, norm.bias = other.weight, other.bias

    def parameters(self):
        return self.layer.parameters()

    def normalized(self, k, values, lengths):
        """The norm sees true steps alone, one row each."""
        if lengths is None:
            return self.norms[k](values.flatten(0, 1)).view_as(values)
        true = torch.arange(len(values))[:, None] < lengths
        rows = torch.zeros_like(values)
        rows[true] = self.norms[k](values[true])
        return rows

    def forward(self, x, hx=None, lengths=None):
        layer = self.layer
        h = x.transpose(0, 1) if layer.batch_first else x
        last = []
        for k in range(layer.num_layers):
            w_ih, u = getattr(layer, f"weight_ih_l{k}"), getattr(layer, f"weight_hh_l{k}")
            z = twin.without_padding(h, lengths) @ w_ih.T
            z = z + getattr(layer, f"bias_ih_l{k}") if layer.bias else z
            if layer.batch_norm == "before":
                z = self.normalized(k, z, lengths)
            h0 = None if hx is None else hx[k]
            h, end = twin.indrnn(z, u, h0, lengths, layer.nonlinearity == "relu")
            last.append(end)
            if layer.batch_norm == "after":
                h = self.normalized(k, h, lengths)
            if self.masks is not None:
                h = h * self.masks[k]
        return h.transpose(0, 1) if layer.batch_first else h, torch.stack(last)


def check_same(layer, plain, *arguments, seed=None):
    """Results, gradients and running statistics of a layer and its twin."""
    mine = all_results(layer, *arguments, seed=seed)
    for one, another in zip(mine, all_results(plain, *arguments), strict=True):
        torch.testing.assert_close(one, another, **TIGHT)
    for one, another in zip(layer.norms, plain.norms, strict=True):
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(buffer, another.get_buffer(name), **TIGHT)


# -- the layer itself -----------------------------------------------------------------------------


@crossed(
    ("layers", [1, 3]),
    ("nonlinearity", ["tanh", "relu"]),
    ("bias", [True, False]),
    ("batch_first", [False, True]),
    ("with_hx", [False, True]),
    ("lengths", [None, LENGTHS]),
    ("size", [3, 20]),
)
def test_layers_equal_a_plain_loop(
    layers, nonlinearity, bias, batch_first, with_hx, lengths, size, rng
):
    layer = build(
        input_size=size,
        num_layers=layers,
        nonlinearity=nonlinearity,
        bias=bias,
        batch_first=batch_first,
    )
    x = normal(rng, *((4, 7, size) if batch_first else (7, 4, size)))
    hx = normal(rng, layers, 4, 5) if with_hx else None
    check_same(layer, PlainIndRNN(layer), x, hx, lengths)


def one_direction(layer, k):
    """Layer and direction k as a layer of its own."""
    suffix = layer.suffixes[k]
    size = layer.get_parameter(f"weight_ih_{suffix}").shape[1]
    norm = layer.batch_norm
    alone = IndRNN(size, layer.hidden_size, batch_norm=norm, dtype=torch.float64)
    for name in ("weight_ih", "weight_hh", "bias_ih"):
        setattr(alone, f"{name}_l0", layer.get_parameter(f"{name}_{suffix}"))
    if norm:
        alone.norms[0] = copy.deepcopy(layer.norms[k])
    return alone.train(layer.training)


@crossed(
    ("layers", [1, 2]),
    ("batch_norm", [None, "before", "after"]),
    ("lengths", [None, LENGTHS]),
    ("with_hx", [False, True]),
)
@pytest.mark.parametrize("training", [True, False])
def test_a_second_direction_runs_from_the_last_true_step(
    layers, batch_norm, lengths, with_hx, training, rng
):
    layer = build(num_layers=layers, batch_norm=batch_norm, bidirectional=True).train(training)
    x = normal(rng, 7, 4, 3)
    hx = normal(rng, 2 * layers, 4, 5) if with_hx else None
    states, ends = x, []
    alone = [one_direction(layer, k) for k in range(2 * layers)]

    def turned(values):
        if lengths is None:
            return values.flip(0)
        parts = [(values[:n, i].flip(0), values[n:, i]) for i, n in enumerate(lengths.tolist())]
        return torch.stack([torch.cat(part) for part in parts], 1)

    for k in range(0, 2 * layers, 2):
        first = (None, None) if hx is None else (hx[k : k + 1], hx[k + 1 : k + 2])
        there, end = alone[k](states, first[0], lengths)
        back, start = alone[k + 1](turned(states), first[1], lengths)
        states = torch.cat((there, turned(back)), 2)
        ends += [end[0], start[0]]
    output, last = layer(x, hx, lengths)
    torch.testing.assert_close(output, states, **TIGHT)
    torch.testing.assert_close(last, torch.stack(ends), **TIGHT)
    weights = dict(layer.named_parameters())
    grads = torch.autograd.grad(output.sin().sum() + last.cos().sum(), weights.values())
    kept = {name: weight for name, weight in weights.items() if not name.startswith("norms")}
    expected = torch.autograd.grad(
        states.sin().sum() + torch.stack(ends).cos().sum(), kept.values()
    )
    for name, grad in zip(kept, expected, strict=True):
        torch.testing.assert_close(dict(zip(weights, grads, strict=True))[name], grad, **TIGHT)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own
@pytest.mark.parametrize("batch_norm", [None, "before", "after"])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_two_directions_in_torchs_own_operators_are_the_same(batch_norm, lengths, rng):
    layer = build(num_layers=2, batch_norm=batch_norm, bidirectional=True).eval()
    x = normal(rng, 7, 4, 3)
    for plain in (layer.to_torch(), torch.jit.script(layer.to_torch())):
        for one, other in zip(layer(x, None, lengths), plain(x, None, lengths), strict=True):
            torch.testing.assert_close(one, other, **TIGHT)


def test_a_second_direction_has_weights_with_torchs_names():
    layer = IndRNN(3, 5, num_layers=2, bidirectional=True)
    assert layer.weight_ih_l1_reverse.shape == (5, 10)
    names = {name for name, _ in torch.nn.RNN(3, 5, 2, bidirectional=True).named_parameters()}
    assert {name for name, _ in layer.named_parameters()} == {
        n for n in names if "bias_hh" not in n
    }
    with pytest.raises(ValueError, match="cannot take one step at a time"):
        layer.step(torch.zeros(3), None)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_layer_is_torchs_with_a_diagonal_recurrent_matrix(nonlinearity, rng):
    layer = build(nonlinearity=nonlinearity)
    other = nn.RNN(3, 5, nonlinearity=nonlinearity, dtype=torch.float64)
    with torch.no_grad():
        other.weight_ih_l0.copy_(layer.weight_ih_l0)
        other.weight_hh_l0.copy_(layer.weight_hh_l0.diag())
        other.bias_ih_l0.copy_(layer.bias_ih_l0)
        other.bias_hh_l0.zero_()
    x, hx = normal(rng, 7, 9, 3), normal(rng, 1, 9, 5)
    mine, torchs = all_results(layer, x, hx), all_results(other, x, hx)
    # Output, last states and gradients of x, hx, w_ih, w_hh, b; torch has that of a second b.
    torchs[5] = torchs[5].diag()
    for one, another in zip(mine, torchs[:-1], strict=True):
        torch.testing.assert_close(one, another, **TIGHT)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_without_memory_every_step_stands_alone(nonlinearity, rng):
    layer = build(nonlinearity=nonlinearity)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    x = normal(rng, 7, 9, 3)
    expected = getattr(torch, nonlinearity)(x @ layer.weight_ih_l0.T + layer.bias_ih_l0)
    output, last = layer(x, normal(rng, 1, 9, 5))
    torch.testing.assert_close(output, expected, **TIGHT)
    torch.testing.assert_close(last[0], expected[-1], **TIGHT)


def test_a_unit_that_only_remembers_grows_by_its_weight_each_step():
    # h_t = u h_{t-1} with nothing coming in: u^t from 1.
    layer = IndRNN(1, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.tensor([0.5, 1.0, 2.0]))
    output, _ = layer(torch.zeros(4, 1, 1).double(), torch.ones(1, 1, 3).double())
    expected = [[0.5, 1, 2], [0.25, 1, 4], [0.125, 1, 8], [0.0625, 1, 16]]
    assert output[:, 0].tolist() == expected


def test_weights_may_be_negative(rng):
    layer = build(recurrent_range=(-1.5, -0.5), nonlinearity="tanh")
    assert layer.weight_hh_l0.lt(0).all()
    check_same(layer, PlainIndRNN(layer), normal(rng, 7, 9, 3), None)


# -- the bound and the first weights --------------------------------------------------------------


@given(steps=st.integers(1, 5000), magnitude=st.floats(0.1, 100))
def test_the_bound_grows_by_the_magnitude_over_all_steps(steps, magnitude):
    assert IndRNN.bound_for(steps, magnitude) ** steps == pytest.approx(magnitude, rel=1e-9)


def test_the_bound_is_the_papers_two_and_the_releases_five():
    assert IndRNN.bound_for(100) == 5 ** (1 / 100)
    assert IndRNN.bound_for(784, 2) == pytest.approx(1.000885, abs=1e-6)  # exp(ln 2 / 784)


@pytest.mark.parametrize("train", [True, False])
def test_weights_beyond_the_bound_count_as_the_bound_and_training_puts_them_back(train, rng):
    # Evaluation writes into no weights: an optimizer may have others in place for the moment.
    layer = build(num_layers=2, recurrent_bound=0.5).train(train)
    outside = torch.tensor([-3.0, -0.5, 0.1, 0.5, 0.7])
    for k in range(2):
        layer.get_parameter(f"weight_hh_l{k}").data.copy_(outside)
    x = normal(rng, 6, 9, 3)
    found, _ = layer(x)
    bounded = outside.clamp(-0.5, 0.5)
    for k in range(2):
        weights = layer.get_parameter(f"weight_hh_l{k}")
        assert torch.equal(weights.data, (bounded if train else outside).to(weights.dtype))
        weights.data.copy_(bounded)
    expected, _ = PlainIndRNN(layer)(x)
    torch.testing.assert_close(found, expected, **TIGHT)


def test_without_a_bound_weights_stay_as_they_are(rng):
    layer = build()
    layer.weight_hh_l0.data.fill_(3.0)
    layer(normal(rng, 6, 9, 3))
    assert layer.weight_hh_l0.eq(3).all()


def test_two_forward_passes_may_come_before_one_backward_pass(rng):
    layer = build(recurrent_bound=0.5)
    x = normal(rng, 2, 6, 9, 3)
    layer.weight_hh_l0.data.mul_(3)  # some beyond the bound
    (layer(x[0])[0].square().sum() + layer(x[1])[0].square().sum()).backward()
    together = layer.weight_hh_l0.grad
    layer.zero_grad()
    for one in x:
        layer(one)[0].square().sum().backward()
    torch.testing.assert_close(together, layer.weight_hh_l0.grad, **TIGHT)


def test_a_bounded_weight_gets_the_gradient_at_the_bound(rng):
    # Clamping is done to the weight, not in the graph: the gradient is not cut off there.
    layer, at_bound = build(recurrent_bound=0.5), build()
    layer.weight_hh_l0.data.fill_(2.0)
    at_bound.weight_hh_l0.data.fill_(0.5)
    x = normal(rng, 6, 9, 3)
    for one, another in zip(
        all_results(layer, x, None), all_results(at_bound, x, None), strict=True
    ):
        assert torch.equal(one, another)
    assert layer.weight_hh_l0.eq(0.5).all()


def test_first_weights_are_drawn_from_the_documented_ranges():
    torch.manual_seed(6)
    layer = IndRNN(9, 4000, num_layers=2, recurrent_bound=1.25, batch_norm="after")
    for weight, inputs in ((layer.weight_ih_l0, 9), (layer.weight_ih_l1, 4000)):
        bound = math.sqrt(6 / (65 * inputs))
        # Among n = 36,000 and more uniform numbers the largest is within 1e-3 of the bound but for
        # (1 - 5e-4)^n < 1e-7, and the mean is within 5 standard errors.
        assert bound * 0.999 < weight.abs().max() <= bound
        assert weight.mean().abs() < 5 * bound / math.sqrt(3 * weight.numel())
    for u in (layer.weight_hh_l0, layer.weight_hh_l1):
        assert 0 <= u.min() < 0.01 * 1.25
        assert 0.99 * 1.25 < u.max() <= 1.25
    assert layer.bias_ih_l0.eq(0).all()
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in layer.norms)
    unbounded = IndRNN(9, 4000).weight_hh_l0
    assert 0.99 < unbounded.max() <= 1
    chosen = IndRNN(9, 4000, recurrent_bound=1.25, recurrent_range=(0.9, 1.1)).weight_hh_l0
    assert 0.9 <= chosen.min() < 0.901
    assert 1.099 < chosen.max() <= 1.1
    assert IndRNN(9, 7, recurrent_range=(1.0, 1.0)).weight_hh_l0.eq(1).all()


def test_weights_are_drawn_again_on_request():
    layer = build(batch_norm="after")
    torch.manual_seed(1)
    layer.reset_parameters()
    torch.manual_seed(1)
    fresh = IndRNN(3, 5, batch_norm="after", dtype=torch.float64)
    torch.manual_seed(1)
    fresh.reset_parameters()
    for (name, value), other in zip(
        layer.state_dict().items(), fresh.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_weights_have_the_documented_names_and_shapes():
    shapes = {name: tuple(w.shape) for name, w in build(num_layers=2).named_parameters()}
    assert shapes == {
        "weight_ih_l0": (5, 3),
        "weight_hh_l0": (5,),
        "bias_ih_l0": (5,),
        "weight_ih_l1": (5, 5),
        "weight_hh_l1": (5,),
        "bias_ih_l1": (5,),
    }
    assert not any("bias" in name for name, _ in build(bias=False).named_parameters())
    assert len(build(num_layers=2, batch_norm="before").norms) == 2


# -- batch normalisation --------------------------------------------------------------------------


@crossed(
    ("where", ["before", "after"]),
    ("training", [True, False]),
    ("nonlinearity", ["tanh", "relu"]),
    ("lengths", [None, LENGTHS]),
    ("fused", [True, False]),
)
def test_batch_norm_is_torchs_over_batch_and_time(
    where, training, nonlinearity, lengths, fused, rng, monkeypatch
):
    if not fused:
        switch_off(monkeypatch)
    layer = build(num_layers=2, batch_norm=where, nonlinearity=nonlinearity).train(training)
    plain = PlainIndRNN(layer).train(training)
    for _ in range(2):  # the second time with statistics that the first one left
        check_same(layer, plain, normal(rng, 7, 4, 3), normal(rng, 2, 4, 5), lengths)
    counted = [norm.num_batches_tracked.item() for norm in layer.norms]
    assert counted == ([2, 2] if training else [0, 0])


@pytest.mark.parametrize("change", ["momentum", "affine", "statistics"])
def test_a_norm_with_other_settings_is_torchs_too(change, rng):
    layer = build(batch_norm="after")
    if change == "momentum":
        layer.norms[0].momentum = None  # a cumulative average
    else:
        layer.norms[0] = nn.BatchNorm1d(
            5,
            affine=change != "affine",
            track_running_stats=change != "statistics",
            dtype=torch.float64,
        )
    plain = PlainIndRNN(layer)
    if change == "affine":
        plain.norms = copy.deepcopy(layer.norms)
    for _ in range(2):
        check_same(layer, plain, normal(rng, 7, 4, 3), None)


def test_a_frozen_norm_inside_a_trained_layer_keeps_its_statistics(rng):
    layer = build(batch_norm="after")
    layer.norms[0].eval()
    plain = PlainIndRNN(layer)
    check_same(layer, plain, normal(rng, 7, 4, 3), None)
    assert layer.norms[0].num_batches_tracked == 0


def test_one_row_has_no_variance_to_train_on(rng):
    layer = build(batch_norm="after")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(normal(rng, 1, 1, 3))
    assert layer.eval()(normal(rng, 1, 1, 3))[0].isfinite().all()


# -- dropout --------------------------------------------------------------------------------------


def masks_of(layer, batch, seed):
    """The masks that a forward pass draws after `seed`, one a layer."""
    torch.manual_seed(seed)
    ones = torch.ones(batch, layer.hidden_size, dtype=torch.float64)
    return [nn.functional.dropout(ones, layer.dropout) for _ in range(layer.num_layers)]


@pytest.mark.parametrize("where", [None, "before", "after"])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("fused", [True, False])
def test_dropout_multiplies_every_step_with_one_mask(where, lengths, fused, rng, monkeypatch):
    if not fused:
        switch_off(monkeypatch)
    layer = build(num_layers=2, batch_norm=where, dropout=0.4)
    plain = PlainIndRNN(layer, masks_of(layer, 4, seed=8))
    check_same(layer, plain, normal(rng, 7, 4, 3), None, lengths, seed=8)


@pytest.mark.parametrize("where", [None, "before", "after"])
def test_dropped_units_are_zero_at_all_steps_and_the_others_scaled(where, rng):
    layer = build(nonlinearity="tanh", batch_norm=where, dropout=0.4, hidden_size=400)
    x = normal(rng, 6, 9, 3)
    output, last = layer(x)
    zero = output.eq(0)
    assert torch.equal(zero.all(0), zero.any(0))
    # 3600 units, of which 0.4 are off but for 5 standard deviations of sqrt(0.24 / 3600).
    assert abs(zero[0].double().mean().item() - 0.4) < 5 * 0.0082
    layer.dropout = 0.0
    whole, states = layer(x)
    torch.testing.assert_close(output, torch.where(zero, 0, whole / 0.6), **TIGHT)
    torch.testing.assert_close(last, states, **TIGHT)  # the states themselves


def test_nothing_is_dropped_when_evaluating(rng):
    layer = build(dropout=0.4, num_layers=2).eval()
    check_same(layer, PlainIndRNN(layer), normal(rng, 7, 4, 3), None)


# -- padded sequences -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, "before", "after"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_padded_sequences_are_answered_as_if_alone(where, batch_first, rng):
    layer = build(num_layers=2, batch_norm=where, batch_first=batch_first).eval()
    x, hx = normal(rng, 7, 4, 3), normal(rng, 2, 4, 5)
    output, last = layer(x.transpose(0, 1) if batch_first else x, hx, LENGTHS)
    output = output.transpose(0, 1) if batch_first else output
    for i, length in enumerate(LENGTHS.tolist()):
        alone = x[:length, i : i + 1]
        right, end = layer(alone.transpose(0, 1) if batch_first else alone, hx[:, i : i + 1])
        right = right.transpose(0, 1) if batch_first else right
        torch.testing.assert_close(output[:length, i], right[:, 0], **TIGHT)
        torch.testing.assert_close(last[:, i], end[:, 0], **TIGHT)
        assert output[length:, i].eq(0).all()


@pytest.mark.parametrize("where", [None, "before", "after"])
@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("fused", [True, False])
def test_nothing_in_the_padding_reaches_anything(where, size, fused, rng, monkeypatch):
    if not fused:
        switch_off(monkeypatch)
    x = normal(rng, 7, 4, size)
    found = []
    for filling in (0.0, float("nan"), float("inf")):
        layer = build(input_size=size, num_layers=2, batch_norm=where, dropout=0.3)
        results = all_results(layer, x.masked_fill(PADDING, filling), None, LENGTHS, seed=8)
        found.append([*results, *layer.buffers()])
    for other in found[1:]:
        assert all(torch.equal(one, another) for one, another in zip(found[0], other, strict=True))
    output, _, grad_x, *_ = found[0]
    assert output.masked_select(PADDING).eq(0).all()
    assert grad_x.masked_select(PADDING).eq(0).all()


# -- the operators and their plain twins ----------------------------------------------------------


def draw_arguments(shape, dtype=torch.float64, with_h0=True, ends=(), layout="plain", bias=True):
    """x, w_ih, b_ih, u, h0, lengths of indrnn_layer; z = x, u, h0, lengths of indrnn.

    The units' memory is of either sign and between 0.2 and 0.7, so that errors carried on fade.
    """
    rng = torch.Generator().manual_seed(0)
    steps, batch, size, hidden = shape
    x = normal(rng, steps, batch, size, dtype=dtype)
    w_ih = normal(rng, hidden, size, dtype=dtype) / size
    b_ih = normal(rng, hidden, dtype=dtype) / 2 if bias else None
    u = (0.2 + 0.5 * torch.rand(hidden, generator=rng, dtype=torch.float64)).to(dtype)
    u[::2] *= -1
    h0 = normal(rng, batch, hidden, dtype=dtype) if with_h0 else None
    lengths = torch.tensor([1 + end % steps for end in ends]) if ends else None
    leaves = (laid_out(x, layout), w_ih, b_ih, u, h0)
    return *(one if one is None else one.requires_grad_() for one in leaves), lengths


def check_operator(operator, plain, arguments, relu, grads, count=1):
    """States, last states and all gradients against the plain twin's in double precision."""
    dtype, lengths = arguments[0].dtype, arguments[-1]
    with threads(count):
        outputs = operator(*arguments, relu)
        found = twin.gradients(outputs, arguments, grads)
    exact = in_double_precision(arguments)
    # Which units relu lets through is the operator's to say: a rounding error can decide it.
    slopes = (outputs[0] > 0).double() if relu else None
    expected = plain(*exact, relu, slopes)
    right = twin.gradients(
        expected, exact, [None if grad is None else grad.double() for grad in grads]
    )
    for one, another in zip((*outputs, *found), (*expected, *right), strict=True):
        assert one.dtype == dtype
        # Single precision: sums of some 100 terms, each to 6e-8, over errors that at most treble
        # (1 / (1 - 0.7)); gradients of weights sum up to T B = 800 of them, of size 1 and more.
        atol = (
            1e-11 if dtype == torch.float64 else 3 * 100 * 6e-8 * (1 + another.abs().max().item())
        )
        torch.testing.assert_close(one.double(), another, rtol=0, atol=atol)
    if lengths is not None:
        padding = torch.arange(len(outputs[0]))[:, None] >= lengths
        assert outputs[0][padding].eq(0).all()
        assert found[0][padding].eq(0).all()


CASES = dict(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    relu=st.booleans(),
    with_h0=st.booleans(),
    x_layout=st.sampled_from(LAYOUTS),
    grad_layout=st.sampled_from([*LAYOUTS, "same everywhere"]),
    loss=st.sampled_from(LOSSES),
    count=st.sampled_from([1, 2]),
    padded=st.booleans(),
    ends=st.lists(st.integers(0, 39), min_size=20, max_size=20),
)


@needs_kernels
@settings(max_examples=100)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 70)), **CASES)
def test_recurrence_is_its_plain_twin(
    shape, dtype, relu, with_h0, x_layout, grad_layout, loss, count, padded, ends
):
    ends = ends[: shape[1]] if padded else ()
    z, _, _, u, h0, lengths = draw_arguments((*shape, shape[2]), dtype, with_h0, ends, x_layout)
    grads = draw_grads(shape, dtype, loss, grad_layout)
    check_operator(torch.ops.rnnopt.indrnn, twin.indrnn, (z, u, h0, lengths), relu, grads, count)


@needs_kernels
@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 40), st.integers(1, 70)),
    bias=st.booleans(),
    **CASES,
)
def test_recurrence_with_its_input_product_is_its_plain_twin(
    shape, bias, dtype, relu, with_h0, x_layout, grad_layout, loss, count, padded, ends
):
    ends = ends[: shape[1]] if padded else ()
    arguments = draw_arguments(shape, dtype, with_h0, ends, x_layout, bias)
    grads = draw_grads((*shape[:2], shape[3]), dtype, loss, grad_layout)
    operator = torch.ops.rnnopt.indrnn_layer
    check_operator(operator, twin.indrnn_layer, arguments, relu, grads, count)


# Registers hold 2 … 16 numbers; up to 4 of them and 12 rows are a tile, 192 rows of (time, batch) a
# block backwards.
BORDERS = [
    (1, 1, 1, 1),
    (3, 12, 4, 16),
    (3, 13, 5, 17),
    (4, 26, 33, 65),
    (2, 37, 49, 130),
    (193, 1, 2, 3),
    (25, 8, 17, 24),
]


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("shape", BORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_built_variant_is_the_plain_twin(variant, shape, dtype, monkeypatch):
    load_variant(monkeypatch, variant)
    steps, batch, _, hidden = shape
    grads = draw_grads((steps, batch, hidden), dtype, "both", "plain")
    for relu, ends in ((False, ()), (True, ()), (True, [7 * row + 3 for row in range(batch)])):
        arguments = draw_arguments(shape, dtype, ends=ends)
        check_operator(torch.ops.rnnopt.indrnn_layer, twin.indrnn_layer, arguments, relu, grads)
        z, _, _, u, h0, lengths = draw_arguments((*shape[:2], hidden, hidden), dtype, ends=ends)
        check_operator(torch.ops.rnnopt.indrnn, twin.indrnn, (z, u, h0, lengths), relu, grads)


@needs_kernels
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ends", [(), (8, 1, 3, 4)])
def test_results_are_bitwise_the_same_at_every_call(count, ends):
    results = []
    grads = draw_grads((9, 4, 33), torch.float32, "both", "plain")
    with threads(count):
        for _ in range(2):
            arguments = draw_arguments((9, 4, 5, 33), torch.float32, ends=ends)
            outputs = torch.ops.rnnopt.indrnn_layer(*arguments, False)
            z, _, _, u, h0, lengths = draw_arguments((9, 4, 33, 33), torch.float32, ends=ends)
            others = torch.ops.rnnopt.indrnn(z, u, h0, lengths, True)
            x = normal(torch.Generator().manual_seed(4), 9, 4, 33).float().requires_grad_()
            normed = torch.ops.rnnopt.batch_norm(x, u, None, None, 1e-5)[:1]
            results.append(
                [
                    *outputs,
                    *others,
                    *normed,
                    *twin.gradients(outputs, arguments, grads),
                    *twin.gradients(others, (z, u, h0), grads),
                    *twin.gradients(normed, (x, u), grads[:1]),
                ]
            )
    assert all(torch.equal(one, another) for one, another in zip(*results, strict=True))


@needs_kernels
@pytest.mark.parametrize("wanted", range(5))
def test_each_gradient_alone_is_the_one_among_all(wanted):
    grads = draw_grads((5, 9, 7), torch.float64, "both", "plain")
    arguments = draw_arguments((5, 9, 4, 7))
    outputs = torch.ops.rnnopt.indrnn_layer(*arguments, False)
    expected = twin.gradients(outputs, arguments, grads)[wanted]
    alone = [one if one is None else one.detach() for one in arguments]
    alone[wanted] = alone[wanted].clone().requires_grad_()
    outputs = torch.ops.rnnopt.indrnn_layer(*alone, False)
    (found,) = twin.gradients(outputs, alone, grads)
    torch.testing.assert_close(found, expected, **TIGHT)


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("ends", [(), (3, 1, 0)])
@pytest.mark.parametrize("with_h0", [True, False])
def test_first_and_second_derivatives_are_those_of_differences(relu, ends, with_h0):
    *leaves, lengths = draw_arguments((4, 3, 2, 3), with_h0=with_h0, ends=ends)
    leaves = [one for one in leaves if one is not None]

    def run(x, w_ih, b_ih, u, h0=None):
        return torch.ops.rnnopt.indrnn_layer(x, w_ih, b_ih, u, h0, lengths, relu)

    def recur(z, u, h0=None):
        return torch.ops.rnnopt.indrnn(z, u, h0, lengths, relu)

    for function, inputs in (
        (run, leaves),
        (recur, [draw_arguments((4, 3, 3, 3))[0], *leaves[3:]]),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@needs_kernels
@crossed(
    ("relu", [False, True]),
    ("ends", [(), (1, 2, 3, 4)]),
    ("odd", [0.5, float("nan"), float("inf")]),
    ("loss", LOSSES),
)
def test_a_gradient_that_can_be_differentiated_is_the_same_gradient(relu, ends, odd, loss):
    arguments = draw_arguments((5, 4, 7, 7), ends=ends)
    arguments[0].data[2, 0, 0] = odd  # a true step, unless padded: the first sequence ends at 2
    x, _, _, u, h0, lengths = arguments
    grads = draw_grads((5, 4, 7), torch.float64, loss, "plain")
    for operator, inputs in (
        (torch.ops.rnnopt.indrnn_layer, arguments),
        (torch.ops.rnnopt.indrnn, (x, u, h0, lengths)),
    ):
        outputs = operator(*inputs, relu)
        once = twin.gradients(outputs, inputs, grads, retain_graph=True)
        twice = twin.gradients(outputs, inputs, grads, create_graph=True)
        for one, another in zip(once, twice, strict=True):
            assert not ends or one.isfinite().all()
            assert another.requires_grad
            torch.testing.assert_close(one, another.detach(), equal_nan=True, **TIGHT)


@needs_kernels
def test_so_is_a_gradient_of_the_normalisation():
    for parts in (("gain", "shift", "mask"), ()):
        arguments = draw_norm((4, 9, 5), torch.float64, parts)
        outputs = torch.ops.rnnopt.batch_norm(*arguments, 1e-5)[:1]
        grads = draw_grads((4, 9, 5), torch.float64, "all states", "plain")[:1]
        once = twin.gradients(outputs, arguments, grads, retain_graph=True)
        twice = twin.gradients(outputs, arguments, grads, create_graph=True)
        for one, another in zip(once, twice, strict=True):
            torch.testing.assert_close(one, another.detach(), **TIGHT)


@needs_kernels
@quiet_opcheck
@pytest.mark.parametrize("ends", [(), (3, 0)])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.full
def test_torch_finds_the_operators_well_formed(ends, bare):
    arguments = draw_arguments((4, 2, 3, 5), ends=ends, with_h0=not bare, bias=not bare)
    x, w_ih, _, u, h0, lengths = arguments
    z = draw_arguments((4, 2, 5, 5), layout="plain" if bare else "transposed")[0]
    torch.library.opcheck(torch.ops.rnnopt.indrnn_layer.default, (*arguments, False))
    torch.library.opcheck(torch.ops.rnnopt.indrnn.default, (z, u, h0, lengths, False))
    x, w_ih, u, h0, z = (one if one is None else one.detach() for one in (x, w_ih, u, h0, z))
    out, _ = torch.ops.rnnopt.indrnn(z, u, h0, lengths, False)
    loss = "last states" if bare else "both"
    grads = draw_grads((4, 2, 5), torch.float64, loss, "plain")
    torch.library.opcheck(
        torch.ops.rnnopt.indrnn_backward.default, (*grads, u, h0, lengths, out, False)
    )
    for want_x in (True, False):
        torch.library.opcheck(
            torch.ops.rnnopt.indrnn_layer_backward.default,
            (*grads, x, w_ih, u, h0, lengths, out, False, want_x),
        )


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("fused", [True, False])
def test_nan_and_infinity_spread_as_in_the_plain_loop(nonlinearity, size, fused, rng, monkeypatch):
    if not fused:
        switch_off(monkeypatch)
    layer = build(input_size=size, nonlinearity=nonlinearity)
    x = normal(rng, 6, 4, size)
    x[2, 0, 0] = float("nan")
    x[1, 1, 1] = float("inf")
    x[3, 2, 0] = -float("inf")
    mine, plain = all_results(layer, x, None), all_results(PlainIndRNN(layer), x, None)
    assert mine[0][2:, 0].isnan().all()
    assert not mine[0][:, 3].isnan().any()
    for one, another in zip(mine, plain, strict=True):
        torch.testing.assert_close(one, another, equal_nan=True, **TIGHT)


@needs_kernels
def test_gradients_that_vanish_become_zero_and_nothing_else():
    # Every step back multiplies by 0.1: from 1 to 1e-60, through single precision's denormal
    # numbers, that begin below 1.2e-38.
    z = torch.ones(60, 9, 20, requires_grad=True)
    u = torch.full((20,), 0.1, requires_grad=True)
    outputs = torch.ops.rnnopt.indrnn(z, u, None, None, True)
    grad_z, _ = twin.gradients(outputs, (z, u), (None, torch.ones(9, 20)))
    expected = 0.1 ** torch.arange(59.0, -1, -1, dtype=torch.float64)
    expected = expected[:, None, None].expand(60, 9, 20)
    torch.testing.assert_close(grad_z.double(), expected, rtol=1e-5, atol=1.2e-38)
    assert grad_z[0].eq(0).all()
    tiny = torch.finfo(torch.float32).tiny  # between it and zero numbers are slow
    assert not (grad_z.abs() > 0).logical_and(grad_z.abs() < tiny).any()


# -- the batch normalisation operator -------------------------------------------------------------


def plain_norm(x, gain, shift, mask, eps):
    """m ⊙ (γ ⊙ (x - mean) / sqrt(variance + ε) + β), statistics over time and batch."""
    mean = x.mean((0, 1))
    variance = (x - mean).square().mean((0, 1))
    y = (x - mean) / torch.sqrt(variance + eps)
    y = y if gain is None else y * gain
    y = y if shift is None else y + shift
    return y if mask is None else y * mask, mean, 1 / torch.sqrt(variance + eps), variance


def draw_norm(shape, dtype, parts, layout="plain", mean=0.0):
    """x, gain, shift and mask, None for those not among `parts`."""
    rng = torch.Generator().manual_seed(5)
    steps, batch, hidden = shape
    x = laid_out((mean + normal(rng, steps, batch, hidden)).to(dtype), layout).requires_grad_()
    gain, shift = normal(rng, 2, hidden, dtype=dtype)
    mask = 2 * torch.randint(2, (batch, hidden), generator=rng).to(dtype)
    gain = gain.clone().requires_grad_() if "gain" in parts else None
    shift = shift.clone().requires_grad_() if "shift" in parts else None
    return x, gain, shift, mask if "mask" in parts else None


@needs_kernels
@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(2, 20), st.integers(1, 70)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    parts=st.sets(st.sampled_from(["gain", "shift", "mask"])),
    x_layout=st.sampled_from(["plain", "transposed", "sliced", "every other"]),
    grad_layout=st.sampled_from([*LAYOUTS, "same everywhere"]),
    count=st.sampled_from([1, 2]),
)
def test_normalisation_is_its_plain_twin(shape, dtype, parts, x_layout, grad_layout, count):
    arguments = draw_norm(shape, dtype, parts, x_layout)
    grads = draw_grads(shape, dtype, "all states", grad_layout)
    # With few rows a variance can be small: ε keeps 1 / sqrt(variance + ε) below 4.
    with threads(count):
        outputs = torch.ops.rnnopt.batch_norm(*arguments, 0.1)
        found = twin.gradients(outputs[:1], arguments, grads[:1])
    exact = in_double_precision(arguments)
    expected = plain_norm(*exact, 0.1)
    right = twin.gradients(expected[:1], exact, [grads[0].double()])
    for one, another in zip((*outputs, *found), (*expected, *right), strict=True):
        assert one.dtype == dtype
        # Some 10 operations a number in single precision, 6e-8 each, and up to 800 numbers summed.
        atol = 1e-11 if dtype == torch.float64 else 100 * 6e-8 * (1 + another.abs().max().item())
        torch.testing.assert_close(one.double(), another, rtol=0, atol=atol)


@crossed(
    ("variant", variants()),
    ("shape", [(1, 2, 1), (7, 5, 16), (33, 4, 17), (100, 9, 67)]),
    ("dtype", [torch.float32, torch.float64]),
    ("count", [1, 2]),
)
def test_a_mean_far_from_zero_costs_no_accuracy(variant, shape, dtype, count, monkeypatch):
    # The twin gets the same rounded inputs in double precision. Means of 32 rows at a time are sums
    # of one number after the other, to 1000 * 32 roundings at worst and some 4000 of them as they
    # go either way. Deviations from such a mean are exact, so that the variance, which is 1, is off
    # by no more. From squares and the square of the mean, 1e6, it would be off by 0.1.
    load_variant(monkeypatch, variant)
    arguments = draw_norm(shape, dtype, ("gain", "shift", "mask"), mean=1000.0)
    with threads(count):
        y, mean, _, variance = torch.ops.rnnopt.batch_norm(*arguments, 0.1)
    exact_y, exact_mean, _, exact_variance = plain_norm(
        *(one.detach().double() for one in arguments), 0.1
    )
    error = 4000 * torch.finfo(dtype).eps
    torch.testing.assert_close(mean.double(), exact_mean, rtol=0, atol=error)
    torch.testing.assert_close(variance.double(), exact_variance, rtol=0, atol=error)
    # Times 1 / sqrt(0.1) at most, a gain of up to 3 and the mask's 2.
    torch.testing.assert_close(y.double(), exact_y, rtol=0, atol=20 * error)


@needs_kernels
def test_normalisation_has_first_and_second_derivatives():
    for parts in (("gain", "shift", "mask"), ()):
        x, gain, shift, mask = draw_norm((3, 2, 3), torch.float64, parts)
        leaves = [one for one in (x, gain, shift) if one is not None]

        def run(x, gain=None, shift=None, mask=mask):
            return torch.ops.rnnopt.batch_norm(x, gain, shift, mask, 1e-5)[0]

        assert torch.autograd.gradcheck(run, leaves)
        assert torch.autograd.gradgradcheck(run, leaves)


@needs_kernels
@quiet_opcheck
@pytest.mark.parametrize("parts", [("gain", "shift", "mask"), ()])
@pytest.mark.parametrize("layout", ["plain", "transposed"])
@pytest.mark.full
def test_torch_finds_the_normalisation_well_formed(parts, layout):
    arguments = draw_norm((4, 2, 3), torch.float64, parts, layout)
    torch.library.opcheck(torch.ops.rnnopt.batch_norm.default, (*arguments, 1e-5))
    x, gain, _, mask = (one if one is None else one.detach() for one in arguments)
    y, mean, scale, _ = torch.ops.rnnopt.batch_norm(x, gain, None, mask, 1e-5)
    torch.library.opcheck(
        torch.ops.rnnopt.batch_norm_backward.default,
        (torch.ones_like(y), x, gain, mask, mean, scale),
    )


@needs_kernels
def test_normalisation_is_fused_in_training_and_torchs_own_otherwise(rng, monkeypatch):
    calls = []
    fused = norm_operators._fused
    monkeypatch.setattr(
        norm_operators, "_fused", lambda *given: calls.append(given) or fused(*given)
    )
    x = normal(rng, 7, 4, 3)
    layer = build(batch_norm="after")
    layer(x)
    assert len(calls) == 1
    layer(x, lengths=LENGTHS)
    layer.eval()(x)
    layer.train().norms[0].momentum = None
    layer(x)
    assert len(calls) == 1


# -- without the kernels, in other precisions, compiled -------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("where", [None, "before", "after"])
def test_the_plain_path_has_the_same_numbers(lengths, where, rng, monkeypatch):
    x, hx = normal(rng, 7, 4, 3), normal(rng, 2, 4, 5)
    layer = build(num_layers=2, batch_norm=where)
    fused = [*all_results(layer, x, hx, lengths), *layer.buffers()]
    switch_off(monkeypatch)
    layer = build(num_layers=2, batch_norm=where)
    plain = [*all_results(layer, x, hx, lengths), *layer.buffers()]
    for one, another in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, another, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("where", [None, "before", "after"])
def test_half_precision_is_close_to_single(dtype, where, rng):
    layer = build(dtype, num_layers=2, batch_norm=where)
    x = normal(rng, 7, 9, 3).to(dtype)
    results = all_results(layer, x, None)
    layer = build(dtype, num_layers=2, batch_norm=where).float()
    single = all_results(layer, x.float(), None)
    assert all(one.dtype == dtype for one in results)
    # Some ten roundings in each of 7 steps and 2 layers, on numbers up to some units.
    error = 50 * torch.finfo(dtype).eps
    torch.testing.assert_close(results[0].float(), single[0], rtol=error, atol=error)


@pytest.mark.parametrize("where", [None, "before", "after"])
def test_autocast_keeps_the_recurrence_in_single_precision(where, rng):
    x = normal(rng, 7, 9, 3).float()
    single, _ = build(torch.float32, num_layers=2, batch_norm=where)(x)
    layer = build(torch.float32, num_layers=2, batch_norm=where)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, last = layer(x)
    assert last.dtype == torch.float32
    # Input products are in bfloat16, to 2^-9: some of them in two layers, and a norm between.
    assert 0 < (output.float() - single).norm() < 0.05 * single.norm()
    output.float().square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())


@pytest.mark.parametrize("where", [None, "before", "after"])
@pytest.mark.full
def test_a_compiled_layer_has_the_same_results_in_one_graph(where, rng):
    x = normal(rng, 7, 9, 3).float()
    # relu's kinks would make of a rounding error a different gradient.
    options = dict(num_layers=2, batch_norm=where, recurrent_bound=0.9, nonlinearity="tanh")
    layer = build(torch.float32, **options)
    torch.compiler.reset()
    compiled = torch.compile(build(torch.float32, **options), fullgraph=True, backend="aot_eager")
    for one, another in zip(
        all_results(compiled, x, None), all_results(layer, x, None), strict=True
    ):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-5)
    for one, another in zip(compiled.buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(one, another)


def test_a_compiled_layer_takes_lengths(rng):
    layer, x = build(num_layers=2), normal(rng, 7, 4, 3)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    mine = all_results(compiled, x, None, LENGTHS)
    for one, another in zip(mine, all_results(layer, x, None, LENGTHS), strict=True):
        torch.testing.assert_close(one, another, **TIGHT)


# -- copies, and weights that are not trained -----------------------------------------------------


@pytest.mark.parametrize("where", [None, "before", "after"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict"])
def test_copies_give_the_same_results(how, where, rng):
    options = dict(num_layers=2, batch_norm=where, dropout=0.2, recurrent_bound=0.8)
    layer = build(**options)
    if how == "deepcopy":
        other = copy.deepcopy(layer)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        other = IndRNN(3, 5, **options, dtype=torch.float64)
        other.load_state_dict(layer.state_dict())
    x = normal(rng, 6, 9, 3)
    for one, another in zip(
        all_results(layer, x, None, seed=3), all_results(other, x, None, seed=3), strict=True
    ):
        assert torch.equal(one, another)
    assert str(layer) == str(other)


@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l1", "norms.0.weight"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_frozen_weights_get_no_gradient_and_the_others_the_same(frozen, where, rng):
    layer, x = build(num_layers=2, batch_norm=where), normal(rng, 6, 9, 3)
    layer(x)[0].pow(3).sum().backward()
    expected = {name: weight.grad for name, weight in layer.named_parameters()}
    layer.zero_grad()
    layer.get_parameter(frozen).requires_grad_(False)
    layer(x)[0].pow(3).sum().backward()
    for name, weight in layer.named_parameters():
        if name == frozen:
            assert weight.grad is None
        else:
            torch.testing.assert_close(weight.grad, expected[name], **TIGHT)


def test_a_layer_says_what_it_is():
    assert str(IndRNN(3, 5)) == "IndRNN(\n  3, 5, nonlinearity=relu\n  (norms): ModuleList()\n)"
    options = dict(num_layers=2, bias=False, batch_first=True, dropout=0.1, recurrent_bound=1.5)
    assert IndRNN(3, 5, **options, batch_norm="after").extra_repr() == (
        "3, 5, num_layers=2, nonlinearity=relu, bias=False, batch_first=True, dropout=0.1,"
        " batch_norm=after, recurrent_bound=1.5"
    )


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(input_size=0), "IndRNN needs input_size >= 1, got input_size=0"),
        (dict(hidden_size=0), "IndRNN needs hidden_size >= 1, got hidden_size=0"),
        (dict(num_layers=-1), "IndRNN needs num_layers >= 1, got num_layers=-1"),
        (dict(nonlinearity="gelu"), "nonlinearity must be relu or tanh, got 'gelu'"),
        (dict(batch_norm="both"), "batch_norm must be before, after or None, got 'both'"),
        (dict(batch_norm=True), "batch_norm must be before, after or None, got True"),
        (dict(dropout=1.0), "dropout must be in [0, 1), got dropout=1.0"),
        (dict(dropout=-0.1), "dropout must be in [0, 1), got dropout=-0.1"),
        (dict(dropout=float("nan")), "dropout must be in [0, 1), got dropout=nan"),
        (dict(recurrent_bound=0.0), "recurrent_bound must be positive and finite, got 0.0"),
        (dict(recurrent_bound=-1.0), "recurrent_bound must be positive and finite, got -1.0"),
        (
            dict(recurrent_bound=float("nan")),
            "recurrent_bound must be positive and finite, got nan",
        ),
        (dict(recurrent_range=(1.0, 0.5)), "recurrent_range must be (low, high), got (1.0, 0.5)"),
        (
            dict(recurrent_range=(0.0, float("nan"))),
            "recurrent_range must be (low, high), got (0.0, nan)",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**options)


@given(steps=st.integers(-5, 0), magnitude=st.floats(max_value=0.0))
def test_a_bound_needs_a_step_and_a_magnitude(steps, magnitude):
    for bad in ((steps, 5.0), (10, magnitude), (10, float("nan"))):
        with pytest.raises(ValueError, match="Needs steps >= 1 and magnitude > 0, got"):
            IndRNN.bound_for(*bad)


@pytest.mark.parametrize(
    ("shape", "batch_first", "message"),
    [
        ((7, 4, 2), False, "input must be (time, batch, 3), got (7, 4, 2)"),
        ((4, 7, 2), True, "input must be (batch, time, 3), got (4, 7, 2)"),
        ((7, 3), False, "input must be (time, batch, 3), got (7, 3)"),
        ((1, 7, 4, 3), False, "input must be (time, batch, 3), got (1, 7, 4, 3)"),
        ((0, 4, 3), False, "input must not be empty, got (0, 4, 3)"),
        ((7, 0, 3), False, "input must not be empty, got (7, 0, 3)"),
    ],
)
def test_wrong_shapes_are_refused(shape, batch_first, message):
    layer = build(batch_first=batch_first)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 3, 5), (2, 4, 6), (4, 5), (2, 1, 5)])
def test_wrong_first_states_are_refused(shape):
    layer = build(num_layers=2)
    with pytest.raises(ValueError, match=re.escape(f"hx must be (2, 4, 5), got {shape}")):
        layer(torch.zeros(7, 4, 3).double(), torch.zeros(shape).double())


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            [3.0, 7.0, 1.0, 5.0],
            "4 whole numbers, one per sequence, got torch.float32 of shape (4,)",
        ),
        ([3, 7, 1], "4 whole numbers, one per sequence, got torch.int64 of shape (3,)"),
        ([3, 0, 1, 5], "lengths must be in 1 … 7 (time), got 0 … 5"),
        ([3, 8, 1, 5], "lengths must be in 1 … 7 (time), got 1 … 8"),
    ],
)
def test_wrong_lengths_are_refused(batch_first, lengths, message):
    layer = build(batch_first=batch_first)
    x = torch.zeros((4, 7, 3) if batch_first else (7, 4, 3), dtype=torch.float64)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(x, lengths=torch.tensor(lengths))


def test_wrong_types_are_refused():
    layer = build()
    x = torch.zeros(7, 4, 3)
    for wrong in ((x,), (x.long(),)):
        with pytest.raises((ValueError, RuntimeError), match="dtype"):
            layer(*wrong)
