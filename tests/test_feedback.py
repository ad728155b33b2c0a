"""What past outputs among the inputs promise: measured in training, the network's own in free run.

The free run is compared with a loop that gives the whole network each longer beginning anew.
"""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import naming

from rnnopt import SequenceModel
from rnnopt.runs.prediction import TrainedModel
from rnnopt.runs.step_scores import scores_of
from rnnopt.tasks import from_arrays
from rnnopt.tasks.free_run import FreeRun
from rnnopt.tasks.user_data.feedback import past_of, with_past_outputs
from rnnopt.tasks.user_data.recordings import recordings

CPU = torch.device("cpu")
NAN = float("nan")


def systems(count=8, outputs=2, missing=0.2, seed=0):
    """Inputs (time, 2) and outputs of a low-pass filter, of several lengths, some missing."""
    rng = np.random.default_rng(seed)
    inputs, targets = [], []
    for n in rng.integers(8, 14, count):
        u = rng.normal(size=(n, 2))
        y = np.zeros((n, outputs))
        for t in range(1, n):
            y[t] = 0.7 * y[t - 1] + u[t, :outputs]
        y = [1000.0, -3.0][:outputs] + y * [50.0, 0.01][:outputs]
        y[rng.random(y.shape) < missing] = NAN
        y[0] = y[-1] = 0.5  # a target at the ends
        inputs.append(u)
        targets.append(y)
    return inputs, targets


def a_model(channels, outputs, cell="gru", **options):
    torch.manual_seed(3)
    return (
        SequenceModel(channels, 4, outputs, cell=cell, readout="every", **options).double().eval()
    )


def looped(model, series, lags, start):
    """The free run (time, output) of one series (time, channel), by explicit feedback."""
    found = []
    for t in range(len(series)):
        beginning = []
        for s in range(t + 1):
            step = series[s].tolist()
            plain = step[: len(step) - lags * model.output.out_features]
            past = step[len(plain) :]
            for lag in range(1, lags + 1):
                if s - lag >= start:
                    width = model.output.out_features
                    past[(lag - 1) * width : lag * width] = found[s - lag]
            beginning.append(plain + past)
        with torch.no_grad():
            answer = model(torch.tensor(beginning, dtype=torch.float64)[:, None])
        found.append(answer[-1, 0].tolist())
    return np.array(found)


# -- the free run ---------------------------------------------------------------------------------


@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 10),
    st.integers(1, 2),
    st.sampled_from(["rnn", "lstm", "gru", "indrnn"]),
)
@settings(max_examples=20, deadline=None)
def test_the_free_run_is_an_explicit_loop(time, lags, start, outputs, cell):
    generator = torch.Generator().manual_seed(time)
    channels = 1 + lags * outputs
    inputs = torch.randn(time, 2, channels, generator=generator, dtype=torch.float64)
    model = a_model(channels, outputs, cell)
    before = inputs.clone()
    found = FreeRun(lags, start)(model, inputs).numpy()
    assert torch.equal(inputs, before)
    for i in range(2):
        np.testing.assert_allclose(
            found[:, i], looped(model, inputs[:, i], lags, start), rtol=0, atol=1e-12
        )


def test_layers_and_batch_normalization_run_free_too():
    inputs = torch.randn(9, 2, 3, dtype=torch.float64)
    model = a_model(3, 1, "indrnn", layers=2, batch_norm=True)
    found = FreeRun(2, 0)(model, inputs).numpy()
    for i in range(2):
        np.testing.assert_allclose(found[:, i], looped(model, inputs[:, i], 2, 0), atol=1e-12)


def test_measured_to_the_end_it_is_the_network():
    inputs = torch.randn(7, 3, 4, dtype=torch.float64)
    model = a_model(4, 2)
    assert torch.equal(FreeRun(1, 7)(model, inputs), model(inputs).detach())


def test_own_outputs_that_are_the_measured_ones_change_nothing():
    """A network that is right one step ahead is right in free run."""
    model = SequenceModel(2, 1, 1, cell="rnn", nonlinearity="relu", readout="every").double().eval()
    with torch.no_grad():  # y(t) = u(t) + y(t-1) / 2
        for name, weight in model.named_parameters():
            weight.zero_()
            if "weight_ih" in name:
                weight.copy_(torch.tensor([[1.0, 0.5]]))
            if name == "output.weight":
                weight.fill_(1.0)
    u = np.abs(np.random.default_rng(0).normal(size=12))
    y = np.zeros(12)
    y[0] = u[0]
    for t in range(1, 12):
        y[t] = u[t] + y[t - 1] / 2
    measured = np.stack([u, np.append(0, y[:-1])], 1)[:, None]
    free = np.stack([u, np.zeros(12)], 1)[:, None]
    for given_, run in ((measured, model), (free, lambda x: FreeRun(1, 0)(model, x))):
        found = run(torch.tensor(given_)).detach().numpy()[:, 0, 0]
        np.testing.assert_allclose(found, y, atol=1e-12)


# -- the channels ---------------------------------------------------------------------------------


def test_past_outputs_by_hand():
    values = np.array([[NAN, 1.0], [2.0, NAN], [NAN, 3.0], [4.0, 5.0]])
    expected = [
        [NAN, NAN, NAN, NAN],
        [NAN, 1.0, NAN, NAN],
        [2.0, 1.0, NAN, 1.0],
        [2.0, 3.0, 2.0, 1.0],
    ]
    np.testing.assert_array_equal(past_of(values, 2), expected)
    np.testing.assert_array_equal(past_of(values, 9)[:, :4], expected)
    assert np.isnan(past_of(values, 9)[:, 8:]).all()


def test_the_channels_have_names_and_are_missing_without_targets():
    inputs, targets = systems(3)
    data = with_past_outputs(recordings(inputs, targets), 2, ("level", "flow"))
    assert data.channels[2:] == ("level (t-1)", "flow (t-1)", "level (t-2)", "flow (t-2)")
    bare = with_past_outputs(recordings(inputs), 1, ("level", "flow"))
    assert all(np.isnan(one[:, 2:]).all() for one in bare.series)


@pytest.mark.parametrize("normalize", [True, False])
def test_they_are_scaled_as_the_networks_outputs_and_the_mean_before_the_first(normalize):
    inputs, targets = systems()
    task = from_arrays(inputs, targets, feedback=1, normalize=normalize, missing="interpolate")
    p = task.data.preparation
    assert (p.lags, task.input_size, task.output_size) == (2, 4, 2)
    assert (p.mean[2:], p.deviation[2:]) == (p.target_mean, p.target_deviation)
    stored = p.inputs(recordings(inputs, targets))[0]
    scaled = (targets[0] - p.target_mean) / p.target_deviation
    past = np.nan_to_num(past_of(scaled, 1))  # the mean is 0 in the network's units
    np.testing.assert_allclose(stored[0, : len(past), 2:], past, rtol=1e-5, atol=1e-4)


def test_a_window_knows_the_outputs_before_it():
    u, y = np.zeros((4, 40, 1)), np.arange(160.0).reshape(4, 40)
    task = from_arrays(u, y, each_step=True, window=10, feedback=1, normalize=False)
    inputs, targets = task.train.inputs[..., 1], task.train.targets[..., 0]
    later = targets[:, 0] % 40 > 0
    assert later.any()
    assert torch.equal(inputs[later], targets[later] - 1)


def test_a_part_in_time_knows_the_outputs_of_the_parts_before():
    u, y = np.zeros((1, 50, 1)), np.arange(50.0)[None]
    task = from_arrays(u, y, each_step=True, split="time", feedback=1, normalize=False)
    for part in (task.train, task.validation, task.test):
        known = part.inputs[0, 1:, 1]
        assert torch.equal(known, torch.arange(len(known)).float())


# -- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ignore_first", "start"), [(3, 3), (0, 2)])
def test_evaluation_and_scores_are_of_the_free_run(ignore_first, start):
    inputs, targets = systems()
    options = dict(feedback=2, ignore_first=ignore_first)
    task = from_arrays(inputs, targets, test=(inputs, targets), **options)
    p, model = task.data.preparation, a_model(6, 2)
    assert p.free_run == FreeRun(2, start)
    test = task.test
    test = replace(test, inputs=test.inputs.double(), targets=test.targets.double())
    series = test.inputs.split(test.lengths.tolist())
    free = [looped(model, one, 2, start) for one in series]
    ahead = [looped(model, one, 2, 99) for one in series]
    true = [(y - p.target_mean) / p.target_deviation for y in targets]
    errors = np.concatenate([((a - b)[start:]).ravel() for a, b in zip(free, true, strict=True)])
    loss, metric = task.evaluate(model, test, CPU)
    assert loss == pytest.approx(np.nanmean(errors**2), rel=1e-5)
    assert metric == loss
    answers, rows = scores_of(p, model, test, CPU)
    for i, name in enumerate(p.outputs_named):
        for how, found in (("free run", free), ("one step ahead", ahead)):
            off = np.concatenate([(a - b)[start:, i] for a, b in zip(found, true, strict=True)])
            rmse = np.sqrt(np.nanmean(off**2)) * p.target_deviation[i]
            assert rows[f"{name}, {how}"]["RMSE"] == pytest.approx(rmse, rel=1e-4)
    np.testing.assert_allclose(answers[0], free[0] * p.target_deviation + p.target_mean, rtol=1e-9)


def test_a_part_of_which_no_free_step_has_a_target_is_refused():
    inputs, targets = systems()
    known = [one.copy() for one in targets]
    for one in known:
        one[2:] = NAN
    with pytest.raises(ValueError, match=naming("test", "no series", "first 2 steps")):
        from_arrays(inputs, targets, feedback=2, test=(inputs, known))
    short = ([one[:3] for one in inputs], [one[:3] for one in targets])
    with pytest.raises(ValueError, match=naming("feedback", "test series", "4 steps at least")):
        from_arrays(inputs, targets, feedback=2, test=short)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (dict(feedback=-1), ["feedback", "at least 0", "-1"]),
        (dict(feedback=1, targets=[0, 1] * 4), ["feedback", "each_step"]),
        (dict(feedback=1, targets="words"), ["feedback", "numbers", "'b'"]),
        (dict(feedback=1.5), ["feedback", "whole number", "1.5"]),
        (dict(feedback=10**11), ["feedback", "steps at least", "longest", "13"]),
        (dict(feedback=1, ignore_first=12), ["feedback", "14 steps at least", "longest"]),
        (dict(feedback=2, window=3), ["feedback", "4 steps at least", "longest", "3"]),
        (dict(feedback=1, targets=None, horizon=2), ["forecast", "leave out feedback"]),
    ],
)
def test_feedback_that_is_impossible_is_one_sentence(more, words):
    inputs, targets = systems()
    targets = more.pop("targets", targets)
    if targets == "words":
        targets = [["1.5", "b"] * 20 for _ in inputs]
        targets = [one[: len(x)] for one, x in zip(targets, inputs, strict=True)]
        more["each_step"] = True
    with pytest.raises(ValueError, match=naming(*words)):
        from_arrays(inputs, targets, **more)


# -- the command line -----------------------------------------------------------------------------

OPTIONS = ("--id", "run", "--each-step", "--label", "y")
TINY = ("--budget", "3gradients", "--hidden", "4", "--quiet")


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs, targets = systems(outputs=1)
    lines, bare = ["run,u,v,y"], ["run,u,v"]
    for i, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        for (u, v), one in zip(x, y[:, 0], strict=True):
            lines.append(f"r{i},{u},{v},{'' if np.isnan(one) else one}")
            bare.append(f"r{i},{u},{v}")
    (tmp_path / "plant.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "bare.csv").write_text("\n".join(bare) + "\n")
    return tmp_path


def test_a_run_is_scored_and_predicts_in_free_run(table, command):
    data = ("--data", "plant.csv", *OPTIONS)
    code, out, error = command("train", *data, "--feedback", "2", *TINY, "--out", "run")
    assert code == 0, error
    assert all(word in out for word in ("y, free run", "y, one step ahead", "fit %"))
    trained = TrainedModel.open(table / "run")
    p, model = trained.preparation, trained.model.double()
    inputs, targets = systems(outputs=1)
    for file, start, says in (("plant.csv", 2, "first 2 steps"), ("bare.csv", 0, "no outputs")):
        code, out, error = command("predict", "run", "--data", file, "--out", "p.csv")
        assert code == 0, error
        assert says in out
        rows = list(csv.DictReader((table / "p.csv").read_text().splitlines()))
        past = past_of(targets[0], 2) if start else np.full((len(inputs[0]), 2), NAN)
        series = (np.concatenate([inputs[0], past], 1) - p.mean) / p.deviation
        found = [float(row["predicted"]) for row in rows if row["series"] == "r0"]
        expected = (
            looped(model, np.nan_to_num(series), 2, start)[:, 0] * p.target_deviation
            + p.target_mean
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_each_series_begins_with_what_the_file_has_of_its_outputs(table, command):
    """All outputs, the first ones alone, or none: whatever the other series of the file have."""
    data = ("--data", "plant.csv", *OPTIONS, "--feedback", "2", "--ignore-first", "3")
    assert command("train", *data, *TINY, "--out", "run")[0] == 0
    inputs, targets = systems(outputs=1)
    known = [targets[0], targets[0].copy(), np.full_like(targets[0], NAN)]
    known[1][3:] = NAN

    def predicted(*which):
        lines = ["run,u,v,y"]
        for i in which:
            for (u, v), one in zip(inputs[0], known[i][:, 0], strict=True):
                lines.append(f"r{i},{u},{v},{'' if np.isnan(one) else one}")
        (table / "new.csv").write_text("\n".join(lines) + "\n")
        code, out, error = command("predict", "run", "--data", "new.csv", "--out", "p.csv")
        assert code == 0, error
        rows = list(csv.DictReader((table / "p.csv").read_text().splitlines()))
        found = [[r["predicted"] for r in rows if r["series"] == f"r{i}"] for i in which]
        return [np.array(one, float) for one in found], out

    (whole, first, none), said = predicted(0, 1, 2)
    np.testing.assert_allclose(first, whole, rtol=1e-6)
    assert np.abs(none - whole).max() > 1e-3
    assert "first 3 steps" in said
    assert "1 series without outputs" in said
    for i, together in ((1, first), (2, none)):
        (alone,), said = predicted(i)
        np.testing.assert_allclose(alone, together, rtol=1e-6)
        assert ("first 3 steps" in said, "no outputs" in said) == (i == 1, i == 2)


def test_a_file_with_some_of_the_outputs_is_one_sentence(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    rows = [f"r{i},{t},{t / 7},{i + t / 3}" for i in range(6) for t in range(7)]
    (tmp_path / "all.csv").write_text("run,u,y1,y2\n" + "\n".join(rows) + "\n")
    cut = [row.rsplit(",", 1)[0] for row in rows]
    (tmp_path / "some.csv").write_text("run,u,y1\n" + "\n".join(cut) + "\n")
    for lags in ("0", "1"):
        options = ("--id", "run", "--each-step", "--label", "y1,y2", "--feedback", lags)
        code, _, error = command("train", "--data", "all.csv", *options, *TINY, "--out", lags)
        assert code == 0, error
        code, _, error = command("predict", lags, "--data", "some.csv", "--out", "p.csv")
        assert (code, len(error.strip().splitlines())) == (2, 1)
        assert "y1, y2" in error
        assert error.rstrip().endswith("got y1.")
        assert not (tmp_path / "p.csv").exists()


def test_exports_take_the_past_outputs_step_by_step_or_are_refused(table, command):
    pytest.importorskip("onnxruntime")
    data = ("--data", "plant.csv", *OPTIONS)
    assert command("train", *data, "--feedback", "1", *TINY, "--out", "run")[0] == 0
    code, _, error = command("export", "run", "--out", "whole.onnx")
    assert (code, "--streaming" in error) == (2, True)
    assert not (table / "whole.onnx").exists()
    code, _, error = command("export", "run", "--streaming", "--out", "step.onnx")
    assert code == 0, error
    assert "y (t-1)" in (table / "step.onnx.md").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--label", "y", "--feedback", "1"), ["--feedback", "--each-step"]),
        ((*OPTIONS, "--feedback", "-1"), ["--feedback", "at least 0"]),
        ((*OPTIONS, "--feedback", "1", "--bidirectional"), ["--feedback", "--bidirectional"]),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(table, command, options, words):
    code, _, error = command("train", "--data", "plant.csv", *options, *TINY, "--out", "run")
    assert (code, len(error.strip().splitlines())) == (2, 1)
    assert all(word in error for word in words)
    assert not (table / "run").exists()


def test_an_estimator_does_not_take_such_a_run(table, command):
    from rnnopt import RNNRegressor

    data = ("--data", "plant.csv", *OPTIONS)
    assert command("train", *data, "--feedback", "1", *TINY, "--out", "run")[0] == 0
    with pytest.raises(ValueError, match=naming("feedback", "rnnopt predict")):
        RNNRegressor.from_pretrained("run")
