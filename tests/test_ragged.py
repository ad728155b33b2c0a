"""Series of different lengths: none is padded but in its minibatch, and none beyond what it needs.

A minibatch as long as its longest gives the numbers of one that is padded further; as many series
are looked at together as their length allows. Counted are the steps that networks are handed.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from messages import naming
from same_runs import assert_equal_states, records_on_the_way
from stepping import through_a_file

from rnnopt import ADMM, RNNClassifier, RNNOptions, RNNRegressor, SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.indrnn import IndRNN
from rnnopt.runs.prediction import TrainedModel
from rnnopt.tasks import from_arrays, pieces
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Batch, Examples, select, split_examples
from rnnopt.tasks.task import Task
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.training.build import build_training

CPU = torch.device("cpu")
LENGTHS = [3, 7, 1, 5, 2, 7, 4, 1]
CELLS = ["rnn", "lstm", "gru", "indrnn"]


@pytest.fixture
def handed(monkeypatch):
    """A list of (time, batch, training) of all that networks are handed from now on."""
    found, advance = [], SequenceModel.advance

    def noted(self, inputs, state=None, lengths=None):
        found.append((*inputs.shape[:2], self.training))
        return advance(self, inputs, state, lengths)

    monkeypatch.setattr(SequenceModel, "advance", noted)
    return found


def series_of(lengths, width=2, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((length, width)) for length in lengths]


def stored(lengths=LENGTHS, padding=None, seed=0):
    """The same series twice: one behind the other, and padded to two steps more than needed."""
    series = [torch.from_numpy(one).float() for one in series_of(lengths, seed=seed)]
    targets, true = torch.arange(len(lengths)) % 3, torch.tensor(lengths)
    weights = 0.5 + torch.arange(len(lengths)) / (len(lengths) - 1)
    whole = torch.full((len(lengths), max(lengths) + 2, 2), padding or 0.0)
    for row, one in zip(whole, series, strict=True):
        row[: len(one)] = one
    flat = Examples(torch.cat(series), targets, true, weights=weights)
    return flat, Examples(whole, targets, true, weights=weights)


def untrimmed(examples, index=slice(None)):
    """The minibatch of padded examples, as long as they are stored."""
    e = examples
    inputs = e.inputs[index].transpose(0, 1)
    return Batch(inputs, e.targets[index], e.lengths[index], e.weights[index])


def task_of(train, **options):
    task = Task("t", "", 2, 3, "cross-entropy", 1.0, train, train, train, len(train), 4, 4)
    return replace(task, **options)


# -- storage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [torch.tensor([2, 0, 3]), slice(2, 5), slice(None)])
def test_a_minibatch_is_as_long_as_its_longest(index):
    flat, whole = stored()
    for examples in (flat, whole):
        batch, expected = examples.batch(index), untrimmed(whole, index)
        longest = int(expected.lengths.max())
        assert torch.equal(batch.inputs, expected.inputs[:longest])
        for name in ("targets", "lengths", "weights"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))


def test_targets_of_each_step_are_cut_with_their_series():
    _, whole = stored()
    steps = torch.arange(8 * 9).view(8, 9)
    batch = replace(whole, targets=steps).batch(torch.tensor([3, 0]))
    assert torch.equal(batch.targets, steps[[3, 0], :5])
    numbers = steps[..., None].float()
    assert replace(whole, targets=numbers).batch(torch.tensor([3, 0])).targets.shape == (2, 5, 1)


def test_selecting_series_without_padding_keeps_each_whole():
    flat, whole = stored()
    for index in (torch.tensor([5, 0, 2]), torch.arange(8) % 3 == 1, torch.arange(8) > 9):
        one, other = select(flat, index), select(whole, index)
        assert len(one) == len(other)
        assert len(one.inputs) == one.lengths.sum()
        if len(one):
            assert torch.equal(one.batch(slice(None)).inputs, other.batch(slice(None)).inputs)
    parts = split_examples(flat, [5, 3], seed=0)
    assert sum(len(part.inputs) for part in parts) == len(flat.inputs)
    assert torch.equal(flat.to(CPU).batch(slice(2)).inputs, flat.batch(slice(2)).inputs)
    with pytest.raises(ValueError, match="need lengths that add up to the 30 steps"):
        Examples(flat.inputs, flat.targets, flat.lengths - 1)


def test_own_data_are_stored_without_padding_and_steps_are_those_of_the_longest():
    lengths = [20] * 39 + [5000]
    task = from_arrays(series_of(lengths), [0, 1] * 20, test_fraction=0.25, seed=3)
    parts = [task.train, task.validation, task.test]
    assert sum(part.inputs.numel() for part in parts) == 2 * sum(lengths)
    longest = [part.steps for part in parts]
    assert sorted(longest) == [20, 20, 5000]
    assert task.steps == task.data.preparation.steps == max(longest[:2])
    sampled = from_arrays(series_of([3, 8, 5] * 10), [0, 1] * 15, subsample=3, seed=0)
    assert sampled.steps == sampled.data.preparation.steps == 3
    assert sampled.train.lengths.unique().tolist() == [1, 2, 3]
    # A validation series longer than all to learn from counts, too: IndRNN's bound is for it.
    apart = from_arrays(
        series_of([4] * 10), [0, 1] * 5, validation=(series_of([9, 2]), [0, 1]), test_fraction=0
    )
    assert (apart.train.lengths, apart.steps) == (None, 9)
    model = build_training(RunConfig("data", model="indrnn", hidden=3), apart).model
    assert model.recurrent[0].recurrent_bound == IndRNN.bound_for(9, 5.0)


# -- the same numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", ["last", "mean", "every"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_loss_and_gradients_are_those_of_the_padded_minibatch(cell, readout, batch_norm):
    flat, whole = stored(padding=99.0)
    index = torch.tensor([3, 2, 0, 6])
    results = []
    for batch in (flat.batch(index), whole.batch(index), untrimmed(whole, index)):
        torch.manual_seed(0)
        model = SequenceModel(
            2, 4, 3, cell=cell, readout=readout, layers=2, batch_norm=batch_norm, dropout=0.3
        )
        torch.manual_seed(1)
        loss = task_of(flat).loss_of(model(batch.inputs, batch.lengths), batch)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append([loss.detach(), *gradients, *model.state_dict().values()])
    for one in results[:2]:
        for found, expected in zip(one, results[2], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("readout", ["last", "every"])
def test_admm_steps_as_on_the_padded_minibatch(cell, readout):
    flat, whole = stored(padding=99.0)
    index, results = torch.tensor([3, 2, 0, 6]), []
    for trim in (True, False):
        torch.manual_seed(0)
        model = SequenceModel(2, 4, 3, cell=cell, readout=readout)
        trainer = ADMM(model, "cross-entropy")
        for _ in range(3):
            loss = trainer.step(flat.batch(index) if trim else untrimmed(whole, index))
        results.append([loss, *model.state_dict().values()])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("forward", "backward"), [(2, 2), (3, 5), (100, 100)])
def test_truncated_runs_learn_as_on_padded_minibatches(forward, backward, monkeypatch):
    config = RunConfig(
        "t", model="gru", hidden=4, optimizer="sgd", lr=0.3, batch_size=3, batch_norm=True,
        tbptt=forward, tbptt_backward=backward, budget="4epochs", schedule="constant",
    )  # fmt: skip
    flat, whole = stored()
    trimmed = build_training(config, task_of(flat))
    list(trimmed.run())
    monkeypatch.setattr(Examples, "batch", untrimmed)
    padded = build_training(config, task_of(whole))
    list(padded.run())
    assert trimmed.closure.calls == padded.closure.calls
    for name, weight in padded.model.state_dict().items():
        torch.testing.assert_close(trimmed.model.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_a_minibatch_cut_into_chunks_costs_one_evaluation_however_long_it_is():
    config = RunConfig(
        "t", hidden=4, optimizer="adam", batch_size=1, tbptt=2, budget="2epochs", model="gru"
    )
    training = build_training(config, task_of(stored()[0]))
    list(training.run())
    assert training.closure.calls > 16
    assert training.closure.gradient_evaluations == 16


@pytest.mark.parametrize("options", [dict(), dict(tbptt=2), dict(optimizer="lbfgs")])
def test_runs_on_series_of_different_lengths_go_on_bit_for_bit(options):
    base = dict(model="lstm", hidden=4, optimizer="adam", batch_size=3, dropout=0.2)
    config = RunConfig("t", **(base | dict(budget="12gradients", evaluate_every=3) | options))
    config = replace(config, batch_size=None) if "optimizer" in options else config
    task = task_of(stored()[0])
    whole = build_training(config, task)
    expected = records_on_the_way(whole)
    first = build_training(config, task)
    records = records_on_the_way(first, lambda: first.closure.calls >= 4)
    assert first.status == "interrupted"
    state = through_a_file(first.state_dict())
    later = build_training(config, task)
    later.load_state_dict(state)
    assert repr(records + records_on_the_way(later)) == repr(expected)
    assert_equal_states(later.state_dict(), whole.state_dict())


# -- steps handed to a network ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RNNClassifier, RNNRegressor])
@pytest.mark.parametrize("by_lengths", [False, True])
def test_an_estimator_pads_an_outlier_in_its_own_minibatch_alone(kind, by_lengths, handed):
    lengths = np.array([20] * 99 + [600])
    series, y = series_of(lengths, 1), np.arange(100) % 2
    X, more = series, {}
    if by_lengths:
        X, more = np.full((100, 700, 1), np.nan), dict(lengths=lengths)
        for row, one in zip(X, series, strict=True):
            row[: len(one)] = one
    rest = RNNOptions(batch_size=10)
    estimator = kind(model="gru", hidden=3, epochs=3, options=rest, random_state=0)
    estimator.fit(X, y, **more)
    training = [(time, count) for time, count, trains in handed if trains]
    assert len(training) == 30
    assert sum(time for time, _ in training) == 3 * (9 * 20 + 600)  # each epoch
    assert max(time for time, _, _ in handed) == 600
    handed.clear()
    found = estimator.predict(X, **more)
    assert sum(count for _, count, _ in handed) == 100
    one_by_one = np.concatenate([estimator.predict([one]) for one in series])
    np.testing.assert_allclose(found, one_by_one, atol=1e-5)


def test_a_run_on_own_data_pads_an_outlier_in_its_own_minibatch_alone(handed):
    lengths = [20] * 39 + [600]
    task = from_arrays(
        series_of(lengths), [0, 1] * 20, validation=(series_of([20] * 5), [0, 1, 0, 1, 0]),
        test_fraction=0,
    )  # fmt: skip
    config = RunConfig(
        "data", model="gru", hidden=3, optimizer="adam", batch_size=8, budget="2epochs"
    )
    training = build_training(config, task)
    list(training.run())
    training.test()
    assert sum(time for time, _, trains in handed if trains) == 2 * (4 * 20 + 600)
    assert {time for time, _, trains in handed if not trains} == {20}


@pytest.mark.parametrize("lengths", [LENGTHS, [5] * 8, [1] * 7 + [60]])
def test_no_more_is_looked_at_together_than_the_rule_allows(lengths, handed, monkeypatch):
    task = from_arrays(series_of(lengths), list("abababab"), validation=0, test_fraction=0)
    torch.manual_seed(0)
    model = SequenceModel(2, 3, 2, cell="lstm", layers=2)
    wide = pieces.width(model, 2)
    assert wide == 4 * 3
    expected = task.evaluate(model, task.test, CPU)
    classes, true = task.classify(model, task.test, CPU)
    outputs = pieces.outputs_of(model.eval(), task.test, CPU)
    assert torch.equal(true, task.test.targets)
    assert torch.equal(outputs.argmax(1), classes)
    alone = [model(task.test.batch(slice(i, i + 1)).inputs) for i in range(8)]
    torch.testing.assert_close(outputs, torch.cat(alone), rtol=1e-5, atol=1e-6)
    for limit in (1, 100, 200, 10**4):
        monkeypatch.setattr(pieces, "AT_ONCE", limit)
        handed.clear()
        assert task.evaluate(model, task.test, CPU) == pytest.approx(expected, rel=1e-5)
        assert torch.equal(task.classify(model, task.test, CPU)[0], classes)
        again = pieces.outputs_of(model.eval(), task.test, CPU)
        torch.testing.assert_close(again, outputs, rtol=1e-5, atol=1e-6)
        assert all(time * count * wide <= limit or count == 1 for time, count, _ in handed)
        assert sum(count for _, count, _ in handed) == 3 * 8
        if limit == 10**4:
            assert len(handed) == 3


def test_answers_keep_their_order_and_to_the_bound(handed, monkeypatch):
    lengths = LENGTHS * 5
    task = from_arrays(series_of(lengths), np.arange(40) / 7, kind="regression")
    settings = dict(input_size=2, hidden_size=4, output_size=1, cell="gru", readout="every")
    model = SequenceModel(**settings).eval()
    trained = TrainedModel(model, task.data.preparation, RunConfig("data"), settings)
    data = recordings(series_of(lengths))
    monkeypatch.setattr(pieces, "AT_ONCE", 12 * 7 * 3)  # three series of 7 steps
    together = trained.answer(data)
    assert max(time * count for time, count, _ in handed) <= 21
    alone = np.concatenate([trained.answer(data.select([i])) for i in range(40)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    classifier = RNNClassifier(hidden=4, epochs=1, random_state=0)
    classifier.fit(series_of(lengths), np.arange(40) % 2)
    handed.clear()
    classifier.predict(series_of(lengths))
    assert 21 < max(time * count for time, count, _ in handed) <= 12 * 21 / 4  # width 4, not 12


def test_long_series_are_looked_at_in_the_memory_of_a_minibatch():
    model = SequenceModel(1, 64, 2, cell="gru")
    wide = pieces.width(model, 1)
    for steps, most in ((10, 1000), (784, 111), (5000, 17), (10**7, 1)):
        assert pieces.together(torch.full((2000,), steps), wide) == most


# -- memory ----------------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_before_it_is_made(monkeypatch):
    X, y = series_of([5] * 99 + [10**6], 1), np.arange(100) % 2
    monkeypatch.setattr("rnnopt.tasks.user_data.limits.free_memory", lambda: 10**8)
    with pytest.raises(ValueError, match="minibatch of 32 sequences, padded to the 1000000 steps"):
        RNNClassifier(hidden=8, random_state=0).fit(X, y)
    monkeypatch.setattr("rnnopt.tasks.user_data.limits.free_memory", lambda: 10**6)
    monkeypatch.setattr("rnnopt.tasks.storage.free_memory", lambda: 10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**6))
    with pytest.raises(ValueError, match=r"1000495 steps of 1 channels.* would take 4.002 MB"):
        RNNClassifier(hidden=8, random_state=0).fit(X, y)
    task = task_of(stored()[0])
    monkeypatch.setattr("rnnopt.tasks.user_data.limits.free_memory", lambda: 100)
    with pytest.raises(UserError, match=naming("4", "--batch-size")):
        build_training(RunConfig("t", hidden=4), task)
    assert len(Batches(task, 4, 0).draw()) == 4
