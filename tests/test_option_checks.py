"""Options that contradict each other are refused, those that change nothing are told."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rnnopt import RNNClassifier, RNNOptions
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks import from_arrays
from rnnopt.training.build import build_training
from rnnopt.training.option_checks import warnings_of

TINY = ["--budget", "6gradients", "--hidden", "3"]
VERBS = ("train", "compare", "sweep", "diagnose")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Series of 8 steps in two files, of which one holds validation and test series too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    X, y = np.random.default_rng(0).normal(size=(40, 8)), np.repeat(["a", "b"], 20)
    np.savez("own.npz", X=X, y=y)
    np.savez("apart.npz", X_train=X, y_train=y, X_test=X, y_test=y, X_val=X, y_val=y)
    return X, y


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["own.npz", "--test", "apart.npz", "--test-fraction", 0.2], "--test-fraction"),
        (["own.npz", "--label", "y"], "--label is for tables"),
        (["apart.npz", "--test-fraction", 0.2], "leave out --test-fraction"),
        (["apart.npz", "--validation", 0.2], "leave out --validation"),
        (["apart.npz", "--split-seed", 0], "leave out --split-seed"),
        (["own.npz", "--model", "indrnn-6", "--no-batch-norm"], "got --no-batch-norm"),
        (["own.npz", "--decay", 0.1], "--decay needs a plateau schedule, got cosine"),
        (["own.npz", "--metric", "r2"], "--metric r2 is for regression"),
        (["own.npz", "--metric", "f2"], "unknown metric 'f2'"),
        (["own.npz", "--patience", 0], "--patience must be a positive number, got 0"),
        (["own.npz", "--class-weight", "rare"], "class-weight"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(command, verb, options, words):
    code, out, error = command(verb, "--data", *options, *TINY, "--out", "out")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert words in error
    assert sorted(path.name for path in Path().iterdir()) == ["apart.npz", "own.npz"]


def test_an_optimizer_with_a_loss_of_its_own_is_refused_weights_of_classes(command):
    options = ["--class-weight", "balanced", "--optimizer", "admm", "--out", "out"]
    code, _, error = command("train", "--data", "own.npz", *TINY, *options)
    assert (code, Path("out").exists()) == (2, False)
    assert "'admm' has a loss of its own: it cannot go with --class-weight" in error


def test_inspect_refuses_columns_of_arrays(command):
    code, _, error = command("inspect", "own.npz", "--time", "t")
    assert (code, error.count("\n")) == (2, 1)
    assert "--time is for tables" in error


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_warns_once_and_goes_on(command, verb):
    settings = [*TINY, "--optimizer", "adam"] if verb != "compare" else [*TINY, "--seeds", "0"]
    settings += ["--trials", 1] if verb == "sweep" else []
    code, _, error = command(
        verb, "--data", "own.npz", "--batch-size", 1000, *settings, "--out", "out"
    )
    assert code == 0
    told = "warning: --batch-size 1000 is more than the 26 training sequences"
    assert error.count(told) == error.count("warning:") == 1
    settings += ["--quiet", "--out", "quiet"]
    code, _, error = command(verb, "--data", "own.npz", "--batch-size", 1000, *settings)
    assert (code, error) == (0, "")


def warned(**settings):
    """What is told of a run on digits, 8 steps, 15 minibatches an epoch."""
    config = RunConfig(**{"task": "digits-rows", "budget": "2epochs", "hidden": 3} | settings)
    return warnings_of(config, build_training(config))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, None),
        (dict(batch_size=1000), None),
        (dict(batch_size=5000), "batch-size 5000 is more than the"),
        (dict(optimizer="adam:batch_size=5000"), "batch-size 5000 is more than the"),
        (dict(task="adding:length=4", batch_size=5000), None),  # drawn anew, so many
        (dict(tbptt=7), None),
        (dict(tbptt=8), "tbptt 8 cuts nothing: sequences have at most 8 steps"),
        (dict(tbptt=1000, tbptt_backward=4), None),  # goes back four steps
        (dict(budget="5gradients", evaluate_every=5), None),
        (dict(budget="5gradients", evaluate_every=6), "beyond the budget of 5 gradients"),
        (dict(budget="1s", evaluate_every=10**6), None),
        (dict(schedule="plateau", patience=1.0), None),
        (dict(patience=1.0), None),
        (dict(patience=2.0), "early stopping waits for 2 epochs, and the budget has 2"),
        (dict(schedule="plateau"), "plateau waits for 20 epochs, and the budget has 2"),
        (dict(clip=1.0, optimizer="adam"), None),
        (dict(clip=1.0), "clip 1 changes nothing: frank-wolfe divides"),
        (dict(clip=1.0, optimizer="frank-wolfe:normalize=False"), None),
    ],
)
def test_what_is_hardly_meant_is_told(settings, words):
    told = warned(**settings)
    assert len(told) == (words is not None)
    assert not words or words in told[0]


def test_subsampling_to_one_step_is_told():
    settings = dict(data="own.npz", task="own", subsample=8)
    assert warned(**settings) == ["--subsample 8 leaves one step of each series"]
    assert warned(**settings | dict(subsample=7)) == []


def test_clipping_changes_nothing_where_gradients_are_divided_by_their_norm():
    ends = []
    for clip in (None, 1e-3):
        config = RunConfig(
            task="digits-rows",
            budget="10gradients",
            hidden=3,
            clip=clip,
            lr=1e-3,
            optimizer="frank-wolfe:norm=spectral",
        )
        training = build_training(config)
        list(training.run())
        ends.append(torch.cat([p.detach().flatten() for p in training.model.parameters()]))
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)


def test_a_pass_through_all_data_costs_what_they_are(files):
    # 26 training series, 16 a minibatch of the task: 1.625 gradients, whatever was asked for.
    for size in (26, 1000, None):
        config = RunConfig(
            data="own.npz", optimizer="lbfgs", batch_size=size, hidden=3, budget="4gradients"
        )
        training = build_training(config)
        assert training.closure.price == 26 / 16
        list(training.run())
        assert training.closure.gradient_evaluations < 4 + 26 * 26 / 16


def test_test_series_and_a_part_to_hold_out_are_refused(files):
    X, y = files
    with pytest.raises(ValueError, match="test_fraction would hold out"):
        from_arrays(X, y, test=(X, y), test_fraction=0.2)
    assert len(from_arrays(X, y).test) == len(from_arrays(X, y, test_fraction=0.2).test) == 8


def test_the_estimator_warns_of_a_minibatch_of_more_than_there_are(files):
    X, y = files
    options = dict(hidden=3, epochs=1, random_state=0)
    with pytest.warns(UserWarning, match=r"^batch_size 41 is more than the 40 ") as told:
        larger = RNNClassifier(options=RNNOptions(batch_size=41), **options).fit(X, y)
    assert told[0].filename == __file__
    whole = RNNClassifier(options=RNNOptions(batch_size=40), **options).fit(X, y)
    assert np.array_equal(whole.predict_proba(X), larger.predict_proba(X))
    RNNClassifier(options=RNNOptions(batch_size=41), **options).partial_fit(
        X, y, classes=["a", "b"]
    )
