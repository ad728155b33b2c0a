"""What forecasts promise: targets from the series itself, a split without leakage, naive baselines.

Masks, losses and predictions at every step are in test_step_targets.py.
"""

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnopt import SequenceModel
from rnnopt.runs import step_scores
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.step_scores import forecast_scores, scores_alone, scores_of
from rnnopt.tasks import from_arrays, pieces
from rnnopt.tasks.user_data.by_time import parts_in_time, windows
from rnnopt.tasks.user_data.forecast_targets import view
from rnnopt.tasks.user_data.forecasting import (
    forecast_channels,
    naive,
    naive_error,
    with_forecasts,
)
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.tasks.user_data.step_targets import StepTargets, number_tensor

CPU = torch.device("cpu")


def following(values, horizon):
    """The next values (time, horizon · channel)."""
    beyond = np.full((horizon, values.shape[1]), np.nan)
    return view(np.concatenate([values, beyond]), horizon)


def seasonal(steps=300, seed=0):
    """A series (time, 2): a season of 12 steps with noise, and noise alone."""
    rng = np.random.default_rng(seed)
    wave = 500 + 100 * np.sin(np.arange(steps) * 2 * np.pi / 12)
    return np.stack([wave + 5 * rng.normal(size=steps), rng.normal(size=steps)], 1)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_targets_and_naive_forecasts_are_plain_loops(time, horizon, width, season):
    values = np.arange(time * width, dtype=float).reshape(time, width)
    found = following(values, horizon).reshape(time, horizon, width)
    repeated = naive(values, horizon, season).reshape(time, horizon, width)
    for t in range(time):
        for h in range(1, horizon + 1):
            if t + h < time:
                np.testing.assert_array_equal(found[t, h - 1], values[t + h])
            else:
                assert np.isnan(found[t, h - 1]).all()
            source = t + h
            while source > t:  # whole seasons back
                source -= season
            np.testing.assert_array_equal(repeated[t, h - 1], values[source if source >= 0 else t])


def test_the_naive_error_by_hand():
    one = np.array([[1.0], [3.0], [2.0], [7.0]])
    assert naive_error([one]) == pytest.approx([(2 + 1 + 5) / 3])
    assert naive_error([one], 2) == pytest.approx([(1 + 4) / 2])
    assert naive_error([np.ones((4, 1))]) == pytest.approx([1.0])  # nothing varies
    with pytest.raises(ValueError, match="a season of 4 steps needs longer training series"):
        naive_error([one], 4)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_targets_that_are_views_are_those_that_are_stored(horizon, width, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(horizon + 3, 15, 3)
    series = [rng.normal(size=(n, width)) for n in lengths]
    series[1][2, 0] = np.nan
    lazy = with_forecasts(recordings(series), horizon, range(width)).steps
    plain = StepTargets(tuple(lazy.values), lazy.names)
    starts, ends = rng.integers(0, 3, 3), lengths - rng.integers(0, 3, 3)

    def within(steps):  # as it is defined, target by target
        ahead = np.repeat(np.arange(1, horizon + 1), width)
        values = []
        for one, start, end in zip(steps.values, starts, ends, strict=True):
            time = np.arange(len(one))[:, None]
            counts = (time + 1 >= start) & (time + ahead < end)
            values.append(np.where(counts, one, np.nan))
        return replace(steps, values=tuple(values))

    pairs = [
        (lazy, plain),
        (lazy.select([2, 0]), plain.select([2, 0])),
        (lazy.cut(ends.tolist()), plain.cut(ends.tolist())),
        (lazy.without_first(2), plain.without_first(2)),
        (lazy.within(starts, ends), within(plain)),
        (lazy.within(starts, ends).window(1, 1, 4), within(plain).window(1, 1, 4)),
        (lazy.joined([lazy.window(0, 0, 3), lazy.within(starts, ends).window(2, 1, 3)]),
         plain.joined([plain.window(0, 0, 3), within(plain).window(2, 1, 3)])),
    ]  # fmt: skip
    mean, deviation = np.tile(rng.normal(size=(2, width)), horizon)
    deviation = np.abs(deviation) + 0.1
    for views, stored in pairs:
        for one, other in zip(views.values, stored.values, strict=True):
            np.testing.assert_array_equal(one, other)
        for i in range(len(stored.values)):
            assert views.has_some(i, 1) == stored.has_some(i, 1)
        tensor = views.tensor(mean, deviation).clone()
        for row, start in zip(tensor, views.starts, strict=True):
            row[:start] = torch.nan
        expected = number_tensor(stored, mean, deviation)
        assert tensor.shape == expected.shape
        for row, other, one in zip(tensor, expected, stored.values, strict=True):
            np.testing.assert_array_equal(row[: len(one)], other[: len(one)])  # of its true steps
    other_scale = deviation * np.linspace(1, 2, len(deviation))
    assert horizon == 1 or lazy.tensor(mean, other_scale) is None


def test_targets_take_no_memory_of_their_own():
    series = seasonal(3000)
    task = from_arrays([series], None, horizon=50, window=150)
    steps = with_forecasts(recordings([series]), 50, [0, 1]).steps
    assert np.shares_memory(steps.values[0], steps.bases[0])
    for part in (task.train, task.validation, task.test):
        assert part.targets.shape[1:] == (part.steps, 100)
        held = part.targets.untyped_storage().nbytes()
        assert held <= 2 * 4 * (part.steps + 50) * len(part) * 2
        assert held < part.targets.numel() * 4 / 10


@pytest.mark.parametrize("cell", ["gru", "lstm", "indrnn"])
def test_a_long_series_is_evaluated_part_by_part_with_the_same_result(cell, monkeypatch):
    lengths = (300, 200)
    series = [seasonal(n, seed) for seed, n in enumerate(lengths)]
    task = from_arrays(series, None, horizon=4, season=12, ignore_first=5)
    torch.manual_seed(0)
    model = SequenceModel(2, 5, 8, cell=cell, readout="every").eval()
    p = task.data.preparation
    for part in (task.validation, task.test):
        whole = task.evaluate(model, part, CPU)
        answers, rows = scores_of(p, model, part, CPU)
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "AT_ONCE", 1000)
            patch.setattr(step_scores, "AT_ONCE", 7)
            found = list(pieces.answered(model, part, CPU))
            assert len(found) > 10
            assert {len(outputs) for _, _, outputs, _ in found} <= set(range(1, 40))
            assert task.evaluate(model, part, CPU) == pytest.approx(whole, rel=1e-5)
            again, _ = scores_of(p, model, part, CPU)
            streamed = scores_alone(p, model, part, CPU)
        for one, other in zip(answers, again, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert streamed.keys() == rows.keys()
        for name, scores in rows.items():
            assert streamed[name] == pytest.approx(scores, rel=1e-4)


@given(st.integers(12, 60), st.integers(1, 5), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
@settings(max_examples=15, deadline=None)
def test_a_split_in_time_leaks_nothing(steps, horizon, validation, test):
    # Each value is its own time, so that targets say when they are of.
    series = np.arange(steps, dtype=float)[:, None]
    data = with_forecasts(recordings([series]), horizon, [0])
    parts = parts_in_time(data, None, validation, test)
    seen, counts = [], {}
    for name in ("training", "validation", "test"):
        part = parts[name]
        assert (part.series[0] == series[: len(part.series[0])]).all()
        values = part.steps.values[0]
        times = values[~np.isnan(values)]
        counts[name] = len(np.unique(times))
        seen.append((times.min(), times.max()))
        if name == "training":
            assert part.series[0].max() == times.max()  # not even an input of a later part
    for (_, end), (start, _) in pairwise(seen):
        assert end < start
    assert seen[-1][1] == steps - 1
    assert counts["test"] == max(1, round(steps * test))


def test_windows_hold_every_target_of_the_training_series():
    data = with_forecasts(recordings([seasonal(230)]), 3, [0])
    cut = windows(data, 50)
    assert {len(one) for one in cut.series} == {50}
    whole = data.steps.values[0]
    held = np.concatenate([one[~np.isnan(one)] for one in cut.steps.values])
    assert set(held) == set(whole[~np.isnan(whole)])


def test_which_channels_are_forecast():
    names = ("load", "Temp", "a,b")
    assert forecast_channels(names, None) == (0, 1, 2)
    assert forecast_channels(names, "temp,load") == (1, 0)
    assert forecast_channels(names, "a,b") == (2,)
    assert forecast_channels(names, "1") == (1,)
    with pytest.raises(ValueError, match="no channel 'wind' to forecast, only load, Temp"):
        forecast_channels(names, "wind")


def test_scores_are_in_the_units_of_the_data_and_those_of_the_naive_forecast_are_known():
    series = seasonal()
    task = from_arrays([series], None, horizon=4, forecast=[0], season=12)
    p = task.data.preparation
    assert (p.horizon, p.season, p.forecasts, task.output_size) == (4, 12, (0,), 4)
    assert len(task.train) > 1  # windows
    _, rows = scores_of(p, SequenceModel(2, 3, 4, readout="every").eval(), task.test, CPU)
    assert list(rows) == ["network", "naive", "seasonal naive"]
    # By a plain loop over the last fifth.
    start, values = 240, series[:, 0]
    errors = [
        values[t] - values[t + h] for t in range(start - 1, 300) for h in range(1, 5) if t + h < 300
    ]
    assert rows["naive"]["MAE"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert rows["naive"]["MSE"] == pytest.approx(np.square(errors).mean(), rel=1e-4)
    train = values[:192]  # 0.8 of 0.8
    scale = np.abs(train[12:] - train[:-12]).mean()
    assert rows["naive"]["MASE"] == pytest.approx(np.abs(errors).mean() / scale, rel=1e-4)
    assert rows["seasonal naive"]["MASE"] == pytest.approx(1, abs=0.3)
    halves = from_arrays([series], None, horizon=4, window=50).train
    assert halves.steps == 50
    # All channels: a row for each, and a perfect forecast scores zero.
    both = from_arrays([series], None, horizon=2).data.preparation
    truth = [following(series, 2)]
    perfect = forecast_scores(both, truth, truth, [series])
    assert list(perfect) == [
        f"channel {i}: {method}" for i in (1, 2) for method in ("network", "naive")
    ]
    assert perfect["channel 1: network"]["MASE"] == 0


@pytest.mark.parametrize(
    ("series", "more", "words"),
    [
        (seasonal(20), dict(horizon=20), "a horizon of 20 needs series of 21 steps at least"),
        (seasonal(20), dict(horizon=0), "horizon must be at least 1, got 0"),
        (seasonal(40), dict(horizon=2, season=60), "a season of 60 steps needs longer"),
        (seasonal(40), dict(horizon=2, forecast=[2]), "different positions of 0 … 1, got"),
        (seasonal(40), dict(season=2), "season need horizon"),
        (seasonal(40), dict(horizon=2, missing="interpolate"), "look ahead of a forecast"),
    ],
)
def test_impossible_forecasts_are_one_sentence(series, more, words):
    with pytest.raises(ValueError, match=words):
        from_arrays([series], None, **more)


def test_missing_values_are_missing_targets():
    series = seasonal()
    series[100:110, 0] = np.nan
    task = from_arrays([series], None, horizon=1, forecast=[0], missing="mean")
    assert task.train.lacks_targets
    with pytest.raises(ValueError, match="10 values are missing"):
        from_arrays([series], None, horizon=1, forecast=[0])


# -- the command line -----------------------------------------------------------------------------

TINY = ["--hidden", "4", "--budget", "20gradients", "--optimizer", "adam:lr=0.02", "--quiet"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    series = seasonal()
    lines = [f"{t},{a},{b}" for t, (a, b) in enumerate(series)]
    Path("load.csv").write_text("\n".join(["time,load,noise", *lines]) + "\n")
    return series


def test_a_table_without_labels_is_forecast(table, command):
    options = ["--data", "load.csv", "--horizon", "3", "--season", "12", "--label", "load"]
    code, out, error = command("train", *options, *TINY, "--out", "run")
    assert code == 0, error
    assert out.index("network") < out.index("seasonal naive")
    scores = RunFolder.open(Path("run")).read_result()["test_scores"]
    assert set(scores["naive"]) == {"MSE", "MAE", "MASE"}
    # What is still to come: a line for each step, the last without a label.
    code, out, error = command("predict", "run", "--data", "load.csv", "--out", "p.csv")
    assert code == 0, error
    with open("p.csv") as file:
        lines = list(csv.reader(file))
    assert lines[0][2:5] == ["label load +1", "label load +2", "label load +3"]
    assert [float(cell) for cell in lines[1][2:5]] == pytest.approx(table[1:4, 0], rel=1e-6)
    assert lines[300][2:5] == ["", "", ""]
    assert 300 < float(lines[300][5]) < 700


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--season", "4"], "--season needs --horizon"),
        (["--horizon", "0"], "--horizon must be at least 1"),
        (["--horizon", "300"], "a horizon of 300 needs series of 301 steps"),
        (["--horizon", "3", "--label", "wind"], "there is no channel 'wind'"),
        (["--horizon", "3", "--bidirectional"], "leave out --bidirectional"),
    ],
)
def test_bad_options_are_one_sentence(table, command, options, words):
    code, out, error = command("train", "--data", "load.csv", *options, *TINY)
    assert (code, out) == (2, ""), error
    assert error.strip().count("\n") == 0
    assert words in error
    assert not Path("runs").exists()
