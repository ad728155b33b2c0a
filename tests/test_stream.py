"""What steps promise: the answers of whole sequences, in place, whatever runs them.

`SequenceModel.stream` and `step` of the layers are held to the whole sequence, in one call of every
kind of compiled kernel and in torch's operators.
"""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from cases import crossed
from hypothesis import given
from hypothesis import strategies as st
from plain_recurrent import load_variant, needs_kernels, switch_off, variants
from torch import nn

from rnnopt import ElmanRNN, IndRNN, SequenceModel
from rnnopt.layers.kernels import stream as kernel
from rnnopt.layers.stepping import Stepping
from rnnopt.layers.stream import StreamState

CELLS = ["rnn", "lstm", "gru", "indrnn"]
READOUTS = ["last", "every", "mean"]
CODE = [*variants(), "plain"]
# Sums of at most a hundred terms of order 1, over at most 12 steps.
CLOSE = {torch.float64: dict(rtol=0, atol=1e-10), torch.float32: dict(rtol=0, atol=5e-6)}


class GRU(Stepping, nn.GRU):
    """A GRU that can take steps."""


class LSTM(Stepping, nn.LSTM):
    """An LSTM that can take steps."""


def use(monkeypatch, code):
    """Lets steps run by the kernels for a kind of processor, or in torch's operators."""
    if code == "plain":
        switch_off(monkeypatch)
    else:
        load_variant(monkeypatch, code)


def trained(dtype=torch.float64, hidden=7, features=3, outputs=4, **options):
    """A model whose batch statistics have moved, in training mode."""
    torch.manual_seed(0)
    model = SequenceModel(features, hidden, outputs, steps=12, dropout=0.2, **options).to(dtype)
    for _ in range(3):
        model(2 * torch.randn(5, 6, features, dtype=dtype) + 1)
    return model


def whole(model, x):
    """What the model answers for the steps x (time, batch, input), in evaluation."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        answer = twin(x)
    return answer[-1] if model.readout == "every" else answer


def held_to_whole_sequences(model, x, batched=True):
    stream = model.stream(x.shape[1] if batched else None)
    for t in range(len(x)):
        answer = stream.push(x[t] if batched else x[t, 0])
        expected = whole(model, x[: t + 1])
        expected = expected if batched else expected[0]
        torch.testing.assert_close(answer, expected, **CLOSE[x.dtype])
        assert not answer.requires_grad
    return stream


@crossed(("cell", CELLS), ("readout", READOUTS), ("code", CODE), ("norm", [False, True]))
def test_a_push_answers_as_the_whole_sequence_so_far(cell, readout, norm, code, monkeypatch):
    use(monkeypatch, code)
    for layers, dtype in ((1, torch.float64), (3, torch.float64), (2, torch.float32)):
        model = trained(dtype, cell=cell, readout=readout, batch_norm=norm, layers=layers)
        for batched in (True, False):
            x = torch.randn(12, 3 if batched else 1, 3, dtype=dtype)
            stream = held_to_whole_sequences(model, x, batched)
            assert (stream._call is None) == (code == "plain")
        assert model.training


@pytest.mark.parametrize("code", CODE)
@given(
    st.sampled_from(CELLS),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 35),
    st.integers(1, 3),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_sizes_do(code, cell, hidden, features, outputs, batch, dtype):
    with pytest.MonkeyPatch.context() as patch:
        use(patch, code)
        model = trained(dtype, hidden, features, outputs, cell=cell)
        held_to_whole_sequences(model, torch.randn(3, batch, features, dtype=dtype))


@pytest.mark.parametrize("cell", CELLS)
def test_many_sequences_run_in_torchs_operators(cell):
    model = trained(cell=cell)
    stream = held_to_whole_sequences(model, torch.randn(4, kernel.FEW + 1, 3).double())
    assert stream._call is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", CELLS)
def test_half_precision_steps(cell, dtype):
    model = trained(torch.float32, cell=cell, readout="mean")
    x = torch.randn(6, 1, 3)
    stream = model.to(dtype).stream()
    for step in x:
        answer = stream.push(step[0].tolist())
    assert answer.dtype == dtype
    expected = whole(model.float(), x)[0]
    torch.testing.assert_close(answer.float(), expected, rtol=0, atol=0.05)  # two to three digits


@pytest.mark.parametrize("code", CODE)
def test_relu_and_a_bound_that_clips(code, monkeypatch):
    use(monkeypatch, code)
    held_to_whole_sequences(trained(cell="rnn", nonlinearity="relu"), torch.randn(6, 2, 3).double())
    model = trained(cell="indrnn", nonlinearity="tanh")
    model.recurrent[0].weight_hh_l0.data[:4] = torch.tensor([3.0, -3.0, 0.5, -0.5])
    before = model.recurrent[0].weight_hh_l0.detach().clone()
    held_to_whole_sequences(model, torch.randn(6, 2, 3).double())
    assert torch.equal(model.recurrent[0].weight_hh_l0, before)


# -- what a stream takes and gives ----------------------------------------------------------------


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_arrays_and_lists_are_the_same_step(code, dtype, monkeypatch):
    use(monkeypatch, code)
    model = trained(dtype, cell="gru")
    x = torch.tensor([0.5, -1.25, 2.0], dtype=dtype)
    wide = torch.stack([x, x], 1)[:, 0]  # not contiguous
    array = x.numpy()
    forms = [x, wide, x.double(), x.float(), array, array[::-1].copy()[::-1], x.tolist(),
             tuple(x.tolist()), list(x), x.clone().requires_grad_()]  # fmt: skip
    answers = [model.stream().push(form).clone() for form in forms]
    rows = torch.stack([x] * 2)
    both = [model.stream(2).push(form).clone() for form in (rows, rows.numpy(), rows.tolist(),
            [x.tolist(), tuple(x.tolist())])]  # fmt: skip
    for same in (answers, both):
        for answer in same[1:]:
            assert torch.equal(answer, same[0])
    torch.testing.assert_close(both[0], torch.stack([answers[0]] * 2), **CLOSE[dtype])
    integers = [model.stream().push(form).clone() for form in ([1, 0, True], np.array([1, 0, 1]),
                torch.tensor([1, 0, 1]))]  # fmt: skip
    assert torch.equal(integers[0], integers[1])
    assert torch.equal(integers[0], integers[2])


BAD = [
    [1.0, 2.0],
    [1.0, 2.0, 3.0, 4.0],
    ["1", "2", "3"],
    [None, 1.0, 2.0],
    [[1.0, 2.0, 3.0]],
    "abc",
    "1.0",
    3.0,
    None,
    {"a": 1.0},
    torch.zeros(2),
    torch.zeros(1, 3),
    torch.zeros(3, dtype=torch.complex64),
    np.zeros((3, 1)),
    np.zeros(1),
    np.array(["1", "2", "3"]),
    np.array([1, 2, None]),
    np.zeros(3, complex),
]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("batch", [None, 2])
def test_bad_input_is_refused_and_changes_nothing(code, batch, monkeypatch):
    use(monkeypatch, code)
    stream = trained(cell="lstm", readout="mean").stream(batch)
    good = torch.ones(3) if batch is None else torch.ones(2, 3)
    stream.push(good)
    before = stream.state
    wrong = [*BAD, [[1.0, 2.0, 3.0], [1.0, 2.0]], [[1.0, 2.0, 3.0], ["a", 2.0, 3.0]]]
    wrong += [good.to_sparse(), good.to("meta")]
    wrong += [torch.ones(2, 3)] if batch is None else [torch.ones(3), [1.0, 2.0, 3.0]]
    for x in wrong:
        with pytest.raises(ValueError, match="push needs .*3 numbers.*, got ") as refused:
            stream.push(x)
        assert str(refused.value).count("\n") == 0
    after = stream.state
    assert after.steps == before.steps == 1
    assert torch.equal(after.total, before.total)
    for one, other in zip(after.layers[0], before.layers[0], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("cell", CELLS)
def test_nan_stays_nan_and_in_its_sequence(cell, code, monkeypatch):
    use(monkeypatch, code)
    model = trained(cell=cell, nonlinearity="tanh")
    x = torch.randn(3, 2, 3).double()
    stream, clean = model.stream(2), model.stream(2)
    spoilt = x.clone()
    spoilt[1, 0, 2] = float("nan")
    for a, b in zip(spoilt, x, strict=True):
        answer, expected = stream.push(a), clean.push(b)
    assert answer[0].isnan().all()
    assert torch.equal(answer[1], expected[1])
    stream.reset()
    assert not stream.push(x[0]).isnan().any()


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "2"])
def test_a_batch_size_that_is_none_is_refused(batch):
    with pytest.raises(ValueError, match="batch_size"):
        trained().stream(batch)


def test_models_that_cannot_step_are_refused_with_the_reason():
    model = trained(cell="gru")
    model.recurrent[0] = nn.GRU(3, 7, bidirectional=True)
    with pytest.raises(ValueError, match="bidirectional GRU"):
        model.stream()
    model.recurrent[0] = nn.LSTM(3, 7, proj_size=2)
    with pytest.raises(ValueError, match="proj_size=0"):
        model.stream()
    model = trained(cell="gru", batch_norm=True)
    model.norms[0] = nn.BatchNorm1d(7, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        model.stream()
    model.recurrent[0] = nn.Linear(3, 7)
    with pytest.raises(TypeError, match="Linear"):
        model.stream()


# -- the state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", READOUTS)
def test_a_stream_goes_on_from_a_state_that_was_kept(cell, readout):
    model = trained(cell=cell, readout=readout, layers=2)
    x = torch.randn(8, 3).double()
    stream = model.stream()
    for step in x[:4]:
        stream.push(step)
    kept = stream.state
    expected = [stream.push(step).clone() for step in x[4:]]
    other = model.stream()
    for one in (stream, other, copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        one.state = kept
        assert torch.equal(torch.stack([one.push(step).clone() for step in x[4:]]),
                           torch.stack(expected))  # fmt: skip


def test_copies_of_a_stream_are_apart_from_it():
    stream = trained(cell="lstm", readout="mean").stream()
    x = torch.ones(3).double()
    stream.push(x)
    twin = copy.deepcopy(stream)
    expected = stream.push(x).clone()
    assert torch.equal(twin.push(x), expected)
    assert twin.model is not stream.model


@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_goes_on_from_states_of_advance(cell):
    model = trained(cell=cell, layers=2).eval()
    x = torch.randn(9, 2, 3).double()
    with torch.no_grad():
        _, states = model.advance(x[:8])
    stream = model.stream(2)
    stream.state = StreamState(states)
    torch.testing.assert_close(stream.push(x[8]), whole(model, x), rtol=0, atol=1e-12)


def test_a_state_that_does_not_fit_is_refused():
    stream = trained(cell="lstm", readout="mean").stream()
    kept = stream.state
    wrong = [
        trained(cell="gru", readout="mean").stream().state,
        trained(cell="lstm", readout="mean").stream(2).state,
        trained(cell="lstm", readout="mean", layers=2).stream().state,
        StreamState(kept.layers),
        StreamState([1, 2], kept.total, kept.steps),
        StreamState(None, kept.total, kept.steps),
        kept.layers,
    ]
    for state in wrong:
        with pytest.raises(ValueError, match="the state needs"):
            stream.state = state


def test_a_mean_over_many_steps_keeps_its_digits():
    model = trained(torch.float32, cell="indrnn", readout="mean")
    stream = model.stream()
    x = torch.ones(3)
    for _ in range(50):
        last = stream.push(x).clone()
    stream.state = StreamState(stream.state.layers, stream.state.total * 1e9, 50 * 10**9)
    # In single precision, a sum of 5e10 terms would not move by one more; the mean stays.
    before = stream.state.total.clone()
    answer = stream.push(x)
    assert (stream.state.total != before).any()
    torch.testing.assert_close(answer, last, rtol=1e-4, atol=1e-5)


# -- the weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("cell", CELLS)
def test_changes_of_the_weights_count_from_the_next_step_on(cell, code, monkeypatch):
    use(monkeypatch, code)
    model = trained(cell=cell, batch_norm=True)
    x = torch.randn(1, 1, 3).double()
    stream = model.stream()
    changes = [
        lambda: [p.data.mul_(1.5) for p in model.parameters()],  # in place
        lambda: model(torch.randn(5, 6, 3).double()),  # the running statistics
        lambda: [setattr(p, "data", p.data * 0.5) for p in model.parameters()],  # elsewhere
        lambda: model.load_state_dict(
            {n: 1.1 * v for n, v in model.state_dict().items()}, assign=True
        ),  # other parameters
        lambda: model.float().double(),  # there and back
    ]
    for change in changes:
        before = stream.push(x[0, 0]).clone()
        change()
        stream.reset()
        answer = stream.push(x[0, 0])
        torch.testing.assert_close(answer, whole(model, x)[0], rtol=0, atol=1e-10)
        assert change is changes[-1] or not torch.equal(answer, before)
        stream.reset()


@pytest.mark.parametrize("code", CODE)
def test_a_model_of_another_type_needs_a_new_stream(code, monkeypatch):
    use(monkeypatch, code)
    model = trained(torch.float32, cell="gru")
    stream = model.stream()
    stream.push([1.0, 2.0, 3.0])
    model.double()
    with pytest.raises(ValueError, match=r"float64.*float32.*model.stream\(\)"):
        stream.push([1.0, 2.0, 3.0])
    assert model.stream().push([1.0, 2.0, 3.0]).dtype == torch.float64


def test_weights_that_are_computed_are_computed_at_each_step():
    model = trained(cell="gru")
    nn.utils.parametrizations.weight_norm(model.recurrent[0], "weight_hh_l0")
    x = torch.randn(4, 2, 3).double()
    assert held_to_whole_sequences(model, x)._call is None
    transposed = trained(cell="gru")
    stream = transposed.stream(2)
    transposed.output.weight.data = transposed.output.weight.data.t().contiguous().t()
    for step in x:
        answer = stream.push(step)
    torch.testing.assert_close(answer, whole(transposed, x), rtol=0, atol=1e-10)


def test_a_model_is_copied_and_saved_while_a_stream_is_alive():
    model = trained(torch.float32, cell="rnn")
    stream = model.stream()
    x = torch.ones(3)
    stream.push(x)
    layer = model.recurrent[0]
    _, state = layer.step(x)
    layer.step(x, state)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(twin.stream().push(x), model.stream().push(x))
        assert torch.equal(twin.recurrent[0].step(x)[0], layer.step(x)[0])
    assert set(model.state_dict()) == set(trained(torch.float32, cell="rnn").state_dict())


def test_a_stream_made_in_inference_mode_works_outside():
    model = trained(cell="gru")
    x = torch.randn(2, 3).double()
    with torch.inference_mode():
        stream, plain = model.stream(2), model.stream(kernel.FEW + 1)
        stream.push(x)
    stream.push(x)
    plain.push(x[0].expand(kernel.FEW + 1, 3))


# -- steps of the layers --------------------------------------------------------------------------

LAYERS = {
    "rnn": lambda **o: ElmanRNN(3, 5, 2, nonlinearity="relu", **o),
    "lstm": lambda **o: LSTM(3, 5, 2, **o),
    "gru": lambda **o: GRU(3, 5, 2, **o),
    "indrnn": lambda **o: IndRNN(3, 5, 2, dropout=0.3, recurrent_bound=0.9, **o),
    "before": lambda **o: IndRNN(3, 5, 2, batch_norm="before", **o),
    "after": lambda **o: IndRNN(3, 5, 2, batch_norm="after", nonlinearity="tanh", **o),
}


def pair(state):
    return state if isinstance(state, tuple) else (state,)


@crossed(("kind", list(LAYERS)), ("code", CODE), ("bias", [True, False]))
def test_steps_are_the_layer_on_the_whole_sequence(kind, bias, code, monkeypatch):
    use(monkeypatch, code)
    torch.manual_seed(0)
    layer = LAYERS[kind](bias=bias, dtype=torch.float64)
    for _ in range(3):
        layer(2 * torch.randn(4, 6, 3).double() + 1)
    twin = copy.deepcopy(layer).eval()
    for batch in (4, None):
        x = torch.randn(6, batch or 1, 3).double()
        state = None
        for t, step in enumerate(x):
            with torch.no_grad():
                outputs, last = twin(x[: t + 1])
            output, state = layer.step(step if batch else step[0], state)
            expected = outputs[-1] if batch else outputs[-1, 0]
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
            for one, other in zip(pair(state), pair(last), strict=True):
                torch.testing.assert_close(one, other if batch else other[:, 0], rtol=0, atol=1e-10)
    assert layer.training


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("kind", list(LAYERS))
def test_a_step_changes_the_state_in_place(kind, code, monkeypatch):
    use(monkeypatch, code)
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    x = torch.randn(2, 3)
    one = tuple(torch.randn(2, 2, 5) for _ in range(2 if kind == "lstm" else 1))
    other = tuple(part.clone() for part in one)
    mine, yours = (one, other) if kind == "lstm" else (one[0], other[0])
    before = one[0].clone()
    output, state = layer.step(x, mine)
    assert state is mine
    assert not torch.equal(one[0], before)
    first = output.clone()
    output, _ = layer.step(x, yours)  # another state, in turn
    assert torch.equal(output, first)
    same = layer.step(x, mine)[0].clone()
    assert torch.equal(same, layer.step(x, tuple(other) if kind == "lstm" else other[0])[0])
    assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("kind", [ElmanRNN, LSTM, GRU, IndRNN])
def test_what_a_step_gave_may_be_the_next_input(kind, code, monkeypatch):
    use(monkeypatch, code)
    torch.manual_seed(0)
    layer = kind(40, 40)  # more units than a vector has
    first = torch.randn(40)
    for source in ("output", "state"):
        found = []
        for copied in (True, False):
            x, state = first, None
            for _ in range(4):
                output, state = layer.step(x, state)
                x = output if source == "output" else pair(state)[0][-1]
                x = x.clone() if copied else x
            found.append(output.clone())
        assert torch.equal(*found)
    model = trained(torch.float32, features=4, outputs=4, cell="gru")
    streams = [model.stream(), model.stream()]
    x = y = torch.randn(4)
    for _ in range(4):
        x, y = streams[0].push(x), streams[1].push(y.clone())
    assert torch.equal(x, y)


@needs_kernels
def test_steps_after_the_first_allocate_no_tensor():
    layer, x = ElmanRNN(3, 5), torch.randn(2, 3)
    output, state = layer.step(x)
    again, state = layer.step(x, state)
    assert again is output
    stream = trained(torch.float32).stream(2)
    assert stream.push(x) is stream.push(x.numpy())


@pytest.mark.parametrize(
    ("x", "state", "words"),
    [
        (torch.ones(4), None, r"\(batch, 3\).*\(4,\)"),
        (torch.ones(2, 2, 3), None, r"\(batch, 3\).*\(2, 2, 3\)"),
        ([1.0, 2.0, 3.0], None, "tensor.*list"),
        (torch.ones(3).double(), None, "float32.*float64"),
        (torch.ones(0, 3), None, "at least one sequence"),
        (torch.ones(3), torch.zeros(2, 1, 5), r"\(2, 5\).*\(2, 1, 5\)"),
        (torch.ones(3), torch.zeros(2, 5).double(), "float32.*float64"),
        (torch.ones(3), (torch.zeros(2, 5), torch.zeros(2, 5)), "tensor of shape.*tuple"),
        (torch.ones(3), torch.zeros(2, 5, requires_grad=True), "detach"),
        (torch.ones(3), torch.zeros(5, 2).t(), "contiguous"),
    ],
)
@pytest.mark.parametrize("code", CODE)
def test_a_bad_step_is_one_sentence(x, state, words, code, monkeypatch):
    use(monkeypatch, code)
    layer = LAYERS["rnn"]()
    layer.step(torch.ones(3))
    with pytest.raises(ValueError, match=words):
        layer.step(x, state)


def test_bidirectional_layers_are_refused():
    for layer in (ElmanRNN(3, 5, bidirectional=True), GRU(3, 5, bidirectional=True)):
        with pytest.raises(ValueError, match="bidirectional .* second direction"):
            layer.step(torch.ones(3))


def test_other_inputs_for_the_same_state_are_refused_and_it_stays():
    layer = LAYERS["rnn"]()
    _, state = layer.step(torch.ones(3))
    before = state.clone()
    for wrong in (torch.ones(2, 3), torch.ones(3).double(), torch.ones(4)):
        with pytest.raises(ValueError, match="x_t"):
            layer.step(wrong, state)
    assert torch.equal(state, before)


def test_a_layer_follows_its_type():
    layer = LAYERS["rnn"]()
    layer.step(torch.ones(3))
    layer.double()
    output, state = layer.step(torch.ones(3).double())
    assert output.dtype == state.dtype == torch.float64


@needs_kernels
def test_the_kernel_takes_no_weights_of_other_shapes():
    model = trained(cell="gru")
    model.recurrent[0].weight_hh_l0 = nn.Parameter(torch.zeros(21, 6).double())
    with pytest.raises(ValueError, match="weight_hh_l0"):
        model.stream()
    deep = trained(cell="gru", layers=2)
    deep.recurrent[1] = nn.GRU(9, 7).double()
    with pytest.raises(ValueError, match="7 units needs as many inputs, got 9"):
        deep.stream()
