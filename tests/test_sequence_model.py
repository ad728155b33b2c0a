"""What SequenceModel promises: shapes, padding that changes nothing, initial weights, its errors.

Here the cells are only checked to be put together as a plain loop would; Elman and IndRNN layers
themselves have files of their own.
"""

import math

import pytest
import torch
from cases import crossed
from torch import nn

from rnnopt import IndRNN, SequenceModel

CELLS = ("rnn", "lstm", "gru", "indrnn")
READOUTS = ("last", "every", "mean")
LENGTHS = torch.tensor([3, 7, 1, 5])  # of four sequences padded to 7 steps


def build(**options):
    """A model in double precision, the same at every call."""
    torch.manual_seed(1)
    return SequenceModel(**{"input_size": 3, "hidden_size": 5, "output_size": 2} | options).double()


def draw_padded(rng):
    """Four padded sequences; what stands in the padding is as large as the rest."""
    return torch.randn(7, 4, 3, generator=rng, dtype=torch.float64)


def set_statistics(model, rng):
    """Puts batch statistics in place that are neither 0 nor 1."""
    for norm in model.norms:
        norm.running_mean = torch.randn(5, generator=rng, dtype=torch.float64)
        norm.running_var = torch.rand(5, generator=rng, dtype=torch.float64) + 0.5


# -- shapes ---------------------------------------------------------------------------------------


@crossed(
    ("cell", CELLS),
    ("layers", [1, 3]),
    ("readout", READOUTS),
    ("batch_norm", [False, True]),
    rest=False,
)
def test_outputs_have_one_row_a_sequence_or_one_a_step(cell, layers, readout, batch_norm, rng):
    model = build(cell=cell, layers=layers, readout=readout, batch_norm=batch_norm)
    shape = (7, 4, 2) if readout == "every" else (4, 2)
    assert model(draw_padded(rng)).shape == shape
    assert model(draw_padded(rng), LENGTHS).shape == shape
    assert len(model.recurrent) == layers
    assert len(model.norms) == layers * batch_norm


def test_a_single_step_and_a_single_sequence_are_enough(rng):
    inputs = torch.randn(1, 1, 3, generator=rng, dtype=torch.float64)
    assert build()(inputs, torch.tensor([1])).shape == (1, 2)


# -- the network itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_elman_layers_equal_a_plain_loop(nonlinearity, rng):
    # h_t = f(W x_t + b + U h_{t-1} + c), h_0 = 0, layer upon layer; then A h_T + a.
    model = build(nonlinearity=nonlinearity, layers=2)
    inputs = draw_padded(rng)
    states = list(inputs)
    for layer in model.recurrent:
        state = torch.zeros(4, 5, dtype=torch.float64)
        for t, x in enumerate(states):
            new = x @ layer.weight_ih_l0.T + layer.bias_ih_l0
            new = new + state @ layer.weight_hh_l0.T + layer.bias_hh_l0
            state = states[t] = getattr(torch, nonlinearity)(new)
    expected = states[-1] @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_stacked_layers_equal_one_module_of_several_layers(cell, rng):
    model = build(cell=cell, layers=3, readout="every")
    kinds = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU, "indrnn": IndRNN}
    twin = kinds[cell](3, 5, num_layers=3).double()
    for i, layer in enumerate(model.recurrent):
        for name, weight in layer.named_parameters():
            twin.get_parameter(name.replace("_l0", f"_l{i}")).data.copy_(weight)
    inputs = draw_padded(rng)
    torch.testing.assert_close(model(inputs), model.output(twin(inputs)[0]))


def test_readouts_are_the_last_the_mean_and_every_state(rng):
    every = build(readout="every")
    inputs = draw_padded(rng)
    answers = every(inputs)
    torch.testing.assert_close(build(readout="last")(inputs), answers[-1])
    # The read-out is affine, so the answer to the mean state is the mean answer.
    torch.testing.assert_close(build(readout="mean")(inputs), answers.mean(0))


def test_batch_norm_normalises_over_time_and_batch(rng):
    model = build(batch_norm=True, readout="every")
    inputs = draw_padded(rng)
    states = model.recurrent[0](inputs)[0]
    mean, variance = states.mean((0, 1)), states.var((0, 1), unbiased=False)
    expected = model.output((states - mean) / torch.sqrt(variance + model.norms[0].eps))
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_dropout_has_one_mask_for_all_steps_and_none_in_evaluation(cell, batch_norm, rng):
    # With p = 1/2 a unit is dropped or doubled. Read off by an output layer that shows the states.
    options = dict(cell=cell, batch_norm=batch_norm, output_size=5, readout="every")
    model, plain = build(dropout=0.5, **options), build(**options)
    for one in (model, plain):
        one.output.weight.data.copy_(torch.eye(5))
        one.output.bias.data.zero_()
    inputs = draw_padded(rng)
    expected = plain(inputs)
    dropped = model(inputs)
    is_zero = (dropped == 0).all(0)
    assert is_zero.any()
    assert not is_zero.all()
    torch.testing.assert_close(dropped, torch.where(is_zero, 0, 2 * expected))
    model.eval()
    plain.eval()
    set_statistics(model, rng)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(inputs), plain(inputs))


def test_dropout_reaches_the_last_state_too(rng):
    inputs = draw_padded(rng)
    torch.manual_seed(7)
    last = build(dropout=0.5, layers=2)
    every = build(dropout=0.5, layers=2, readout="every")
    answers = []
    for model in (last, every):
        torch.manual_seed(3)
        answers.append(model(inputs))
    torch.testing.assert_close(answers[0], answers[1][-1])


def test_indrnn_is_bounded_for_the_length_of_the_sequences():
    # |u|^T may grow by 5 over T = 7 steps.
    model = build(cell="indrnn", steps=7, layers=2)
    for layer in model.recurrent:
        assert layer.recurrent_bound**7 == pytest.approx(5)
        assert layer.nonlinearity == "relu"
    assert build(cell="indrnn").recurrent[0].recurrent_bound is None


@pytest.mark.parametrize("layers", [1, 3])
def test_the_last_indrnn_layer_may_start_with_what_remembers(layers):
    # U = 2^(1/T), T = 50: from 1/U to U in the last layer, from 0 to U in those before it.
    bound = 2 ** (1 / 50)
    options = dict(cell="indrnn", layers=layers, hidden_size=400, steps=50, magnitude=2.0)
    model = build(**options, initialization="indrnn-paper")
    assert not model.output.bias.any()
    *others, last = [layer.weight_hh_l0.detach() for layer in model.recurrent]
    assert len(others) == layers - 1
    assert 1 / bound <= last.min() < 1 / bound + 0.001
    assert bound - 0.001 < last.max() <= bound
    for u in [*others, build(**options).recurrent[-1].weight_hh_l0.detach()]:
        assert 0 <= u.min() < 0.05
        assert 0.95 < u.max() <= bound
    for layer in model.recurrent:
        assert layer.recurrent_bound == pytest.approx(bound)


# -- part by part ---------------------------------------------------------------------------------


@crossed(
    ("cell", CELLS),
    ("layers", [1, 3]),
    ("readout", ["last", "every"]),
    ("split", [1, 3, 6]),
    ("lengths", [None, [4, 7, 6, 5]]),
)
def test_two_parts_are_as_good_as_the_whole(cell, layers, readout, split, lengths, rng):
    if lengths is not None:
        lengths = torch.tensor(lengths).clamp(min=split + 1)
    model = build(cell=cell, layers=layers, readout=readout)
    inputs = draw_padded(rng)
    whole = model(inputs, lengths)
    first, state = model.advance(inputs[:split])
    second, ends = model.advance(
        inputs[split:], state, None if lengths is None else lengths - split
    )
    assert len(state) == len(ends) == layers
    if readout == "every":
        found = torch.cat([first, second])
        true = torch.arange(7)[:, None] < (7 if lengths is None else lengths)
        true = true.expand(7, 4)
        torch.testing.assert_close(found[true], whole[true])
    else:
        torch.testing.assert_close(second, whole)
    # And backward through both parts, too.
    gradients = []
    for outputs in (whole, second):
        model.zero_grad()
        outputs[-1].square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cell", CELLS)
def test_states_between_parts_are_those_of_the_layers(cell, rng):
    model = build(cell=cell, layers=2)
    inputs = draw_padded(rng)
    _, state = model.advance(inputs)
    states = inputs
    for layer, found in zip(model.recurrent, state, strict=True):
        states, end = layer(states)
        found, end = (x if isinstance(x, tuple) else (x,) for x in (found, end))
        assert len(found) == (2 if cell == "lstm" else 1)
        for one, other in zip(found, end, strict=True):
            assert one.shape == (1, 4, 5)
            torch.testing.assert_close(one, other)


def test_a_part_leaves_the_states_it_began_with(rng):
    model = build(cell="lstm")
    _, state = model.advance(draw_padded(rng))
    before = [value.clone() for value in state[0]]
    model.advance(draw_padded(rng), state)
    for one, other in zip(state[0], before, strict=True):
        assert torch.equal(one, other)


# -- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_padded_sequence_is_answered_as_if_alone(cell, readout, batch_norm, rng):
    model = build(cell=cell, readout=readout, batch_norm=batch_norm, layers=2).eval()
    set_statistics(model, rng)
    inputs = draw_padded(rng)
    answers = model(inputs, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = model(inputs[:length, i : i + 1])
        answer = answers[:length, i] if readout == "every" else answers[i]
        torch.testing.assert_close(answer, alone[:, 0] if readout == "every" else alone[0])


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_full_lengths_equal_no_lengths(readout, batch_norm, rng):
    inputs = draw_padded(rng)
    options = dict(readout=readout, batch_norm=batch_norm, layers=2)
    torch.testing.assert_close(
        build(**options)(inputs, torch.full((4,), 7)), build(**options)(inputs)
    )


def test_batch_statistics_are_those_of_the_true_steps(rng):
    model = build(batch_norm=True)
    inputs = draw_padded(rng)
    model(inputs, LENGTHS)
    states = model.recurrent[0](inputs)[0]
    true = torch.cat([states[:length, i] for i, length in enumerate(LENGTHS.tolist())])
    assert len(true) == 16
    # torch starts at mean 0, variance 1 and moves a tenth of the way to the (unbiased) batch's.
    torch.testing.assert_close(model.norms[0].running_mean, 0.1 * true.mean(0))
    torch.testing.assert_close(model.norms[0].running_var, 0.9 + 0.1 * true.var(0))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_what_stands_in_the_padding_does_not_matter_in_training(cell, readout, rng):
    inputs = draw_padded(rng)
    padding = torch.arange(7)[:, None] >= LENGTHS
    others = torch.where(padding[..., None], 10 * draw_padded(rng), inputs)
    results = []
    for given in (inputs, others):
        model = build(cell=cell, readout=readout, batch_norm=True, layers=2)
        output = model(given, LENGTHS)
        output.square().sum().backward()
        results.append(
            [output, *(p.grad for p in model.parameters()), *(b for b in model.buffers())]
        )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_no_gradient_flows_into_the_padding(cell, readout, batch_norm, rng):
    inputs = draw_padded(rng).requires_grad_()
    model = build(cell=cell, readout=readout, batch_norm=batch_norm, layers=2)
    model(inputs, LENGTHS).square().sum().backward()
    padding = torch.arange(7)[:, None] >= LENGTHS
    assert (inputs.grad[padding] == 0).all()
    assert (inputs.grad[~padding] != 0).any(-1).all()


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_is_the_sum_of_the_sequences_own(cell, rng):
    inputs = draw_padded(rng)
    padded, alone = build(cell=cell, layers=2), build(cell=cell, layers=2)
    padded(inputs, LENGTHS).square().sum().backward()
    for i, length in enumerate(LENGTHS.tolist()):
        alone(inputs[:length, i : i + 1]).square().sum().backward()
    for one, other in zip(padded.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_padding_may_hold_nan(readout, batch_norm, rng):
    # Ragged recordings often come padded with NaN, and 0 * NaN is NaN in the backward pass.
    inputs = draw_padded(rng)
    inputs[torch.arange(7)[:, None] >= LENGTHS] = math.nan
    model = build(readout=readout, batch_norm=batch_norm)
    output = model(inputs, LENGTHS)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [[3, 8, 1, 5], [3, 0, 1, 5], [3, 7, 1]])
def test_impossible_lengths_are_refused(cell, lengths, rng):
    with pytest.raises(ValueError, match="lengths must be"):
        build(cell=cell)(draw_padded(rng), torch.tensor(lengths))


# -- normalisation that is not torch's own --------------------------------------------------------


def test_another_normalisation_and_its_hooks_are_called(rng):
    class Nothing(nn.BatchNorm1d):
        def forward(self, input):
            return 0 * super().forward(input)

    model = build(batch_norm=True, readout="every")
    calls = []
    model.norms[0].register_forward_hook(lambda *_: calls.append(1))
    model(draw_padded(rng))
    assert calls == [1]
    model.norms[0] = Nothing(5).double()
    outputs = model(draw_padded(rng))
    torch.testing.assert_close(outputs, model.output.bias.expand_as(outputs))


BEFORE_AND_AFTER = [
    nn.Module.register_forward_hook, nn.Module.register_forward_pre_hook,
    nn.Module.register_full_backward_hook, nn.Module.register_full_backward_pre_hook,
]  # fmt: skip


@pytest.mark.parametrize("part", ["recurrent", "norms"])
@pytest.mark.parametrize("register", BEFORE_AND_AFTER, ids=lambda one: one.__name__)
@pytest.mark.parametrize("cell", ["gru", "indrnn"])
def test_hooks_of_every_part_are_called(cell, part, register, rng):
    model = build(cell=cell, layers=2, batch_norm=True)
    calls = []
    register(getattr(model, part)[0], lambda *_: calls.append(1) and None)
    model(draw_padded(rng).requires_grad_()).sum().backward()
    assert calls == [1]


@pytest.mark.parametrize("cell", ["gru", "indrnn"])
def test_hooks_of_all_modules_and_a_forward_put_in_place_are_called(cell, rng):
    model = build(cell=cell, layers=2, batch_norm=True)
    calls = []
    hook = nn.modules.module.register_module_forward_hook(lambda one, *_: calls.append(one))
    try:
        model(draw_padded(rng))
    finally:
        hook.remove()
    assert calls[:4] == [model.recurrent[0], model.norms[0], model.recurrent[1], model.norms[1]]
    calls.clear()
    for part in (model.recurrent[1], model.norms[0]):
        part.forward = lambda *given, part=part: (
            calls.append(part) or type(part).forward(part, *given)
        )
    model(draw_padded(rng))
    assert calls == [model.norms[0], model.recurrent[1]]


# -- initial weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_orthogonal_makes_every_gate_orthogonal(cell, gates):
    model = build(cell=cell, layers=2, initialization="orthogonal")
    identity = torch.eye(5, dtype=torch.float64)
    for layer in model.recurrent:
        parts = layer.weight_hh_l0.detach().split(5)
        assert len(parts) == gates
        for gate in parts:
            # Drawn in single precision, where 5 products of size 1 round to about 1e-7 each.
            torch.testing.assert_close(gate @ gate.T, identity, atol=1e-5, rtol=0)
            assert not torch.equal(gate, identity)


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_identity_makes_every_gate_the_identity(cell, gates):
    model = build(cell=cell, layers=2, initialization="identity")
    expected = torch.eye(5, dtype=torch.float64).repeat(gates, 1)
    for layer in model.recurrent:
        assert torch.equal(layer.weight_hh_l0.detach(), expected)


@pytest.mark.parametrize("initialization", ["orthogonal", "identity"])
def test_only_recurrent_matrices_differ_from_torchs(initialization):
    # Both are drawn from the same seed; the input matrix of the first layer is drawn first.
    model, default = build(initialization=initialization), build()
    assert torch.equal(model.recurrent[0].weight_ih_l0, default.recurrent[0].weight_ih_l0)
    assert torch.equal(model.recurrent[0].bias_ih_l0, default.recurrent[0].bias_ih_l0)
    assert torch.equal(model.output.weight, default.output.weight)


def test_normal_draws_every_weight_and_bias_with_deviation_0_01():
    model = build(hidden_size=100, layers=2, batch_norm=True, initialization="normal")
    for name, weight in model.state_dict().items():
        if name.startswith("norms"):
            continue
        n = weight.numel()
        # The deviation of a mean is σ/√n, that of a mean square √2 σ²/√n; five of them.
        assert abs(float(weight.mean())) < 5 * 0.01 / math.sqrt(n)
        square = float(weight.square().mean())
        assert square == pytest.approx(1e-4, abs=5 * math.sqrt(2 / n) * 1e-4)
    for norm in model.norms:
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_indrnn_starts_as_its_authors_released_it():
    # A read-out drawn by He's rule, deviation √(2/fan_in) = 0.1 with 200 units, bias 0; input
    # weights uniform within √(6/(65 fan_in)), of one input √(6/65) = 0.304; all other biases 0.
    options = dict(input_size=1, hidden_size=200, output_size=50, cell="indrnn", layers=2)
    model = build(**options, initialization="indrnn")
    weight, n = model.output.weight.detach(), 200 * 50
    assert abs(float(weight.mean())) < 5 * 0.1 / math.sqrt(n)
    assert float(weight.square().mean()) == pytest.approx(0.01, abs=5 * math.sqrt(2 / n) * 0.01)
    assert float(weight.abs().max()) > 0.25  # and not uniform
    for bias in (model.output.bias, *(layer.bias_ih_l0 for layer in model.recurrent)):
        assert (bias == 0).all()
    for layer, fan_in in zip(model.recurrent, (1, 200), strict=True):
        bound = math.sqrt(6 / (65 * fan_in))
        assert 0.95 * bound < float(layer.weight_ih_l0.detach().abs().max()) <= bound * (1 + 1e-6)
    default = build(**options)
    assert torch.equal(model.recurrent[1].weight_ih_l0, default.recurrent[1].weight_ih_l0)
    assert not torch.equal(weight, default.output.weight.detach())


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_size", 0),
        ("hidden_size", -1),
        ("output_size", 0),
        ("layers", 0),
        ("cell", "LSTM"),
        ("readout", "first"),
        ("initialization", "zeros"),
        ("dropout", 1.0),
        ("dropout", -0.1),
    ],
)
def test_errors_name_the_argument_and_its_value(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        build(**{name: value})


def test_an_unknown_nonlinearity_is_an_error():
    with pytest.raises(ValueError, match="sine"):
        build(nonlinearity="sine")


@pytest.mark.parametrize("initialization", ["orthogonal", "identity"])
def test_indrnn_has_no_matrix_to_initialise(initialization):
    with pytest.raises(ValueError, match=f"{initialization}.*indrnn"):
        build(cell="indrnn", initialization=initialization)


def test_a_gated_cell_has_no_other_nonlinearity():
    with pytest.raises(ValueError, match="relu.*lstm"):
        build(cell="lstm", nonlinearity="relu")


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_what_is_indrnns_needs_its_cell(cell):
    with pytest.raises(ValueError, match=f"initialization='indrnn'.*cell='{cell}'"):
        build(cell=cell, initialization="indrnn")
    with pytest.raises(ValueError, match=f"initialization='indrnn-paper'.*cell='{cell}'"):
        build(cell=cell, steps=5, initialization="indrnn-paper")


def test_an_unknown_keyword_is_an_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'precison'"):
        build(cell="indrnn", precison="bf16")


def test_a_last_layer_that_remembers_needs_the_length():
    with pytest.raises(ValueError, match="initialization='indrnn-paper' needs.*steps=None"):
        build(cell="indrnn", initialization="indrnn-paper")


def test_what_the_last_layer_remembers_was_an_argument():
    options = dict(cell="indrnn", layers=2, steps=50, magnitude=2.0)
    torch.manual_seed(0)
    with pytest.warns(DeprecationWarning, match="last_layer_remembers is deprecated"):
        old = build(**options, last_layer_remembers=True, initialization="indrnn")
    torch.manual_seed(0)
    new = build(**options, initialization="indrnn-paper")
    for name, weight in new.state_dict().items():
        assert torch.equal(weight, old.state_dict()[name])
    with pytest.raises(TypeError, match="unexpected keyword argument 'layer'"):
        build(layer=2)


def test_inputs_without_a_batch_are_an_error():
    with pytest.raises(ValueError, match=r"\(time, batch, feature\), got \(7, 3\)"):
        build()(torch.zeros(7, 3))
