"""What `--refit` promises: a second fit on training and validation series, as long as the first."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.refit import COMPLETE, all_series
from rnnopt.runs.runner import run
from rnnopt.tasks import build_task
from rnnopt.tasks.examples import Examples, joined
from rnnopt.training.build import build_training


def series(lengths):
    """Examples of series with these lengths, and the series."""
    generator = torch.Generator().manual_seed(0)
    each = [torch.randn(n, 2, generator=generator) for n in lengths]
    return Examples(torch.cat(each), torch.arange(len(each)), torch.tensor(lengths)), each


@pytest.mark.parametrize("padded", [False, True])
def test_joined_examples_are_those_of_both(padded):
    one, first = series([3, 5])
    if padded:
        inputs = torch.nn.utils.rnn.pad_sequence(first, batch_first=True)
        one = Examples(inputs, one.targets, one.lengths)
    second = torch.randn(4, 6, 2)
    both = joined(one, Examples(second, torch.tensor([7, 8, 9, 9])))
    assert len(both) == 6
    assert both.targets.tolist() == [0, 1, 7, 8, 9, 9]
    for i, alone in enumerate([*first, *second]):
        found = both.batch(torch.tensor([i]))
        assert torch.equal(found.inputs[:, 0], alone)


def test_series_of_one_length_stay_without_lengths():
    parts = [Examples(torch.randn(n, 6, 2), torch.zeros(n), weights=w) for n, w in
             ((3, None), (2, torch.tensor([0.5, 1.5])))]  # fmt: skip
    both = joined(*parts)
    assert both.lengths is None
    assert torch.equal(both.inputs, torch.cat([part.inputs for part in parts]))
    assert both.weights.tolist() == [1, 1, 1, 0.5, 1.5]


def test_series_that_are_drawn_anew_are_refused():
    with pytest.raises(UserError, match="--refit needs stored series"):
        all_series(build_task("adding:length=5"))


def test_a_plateau_needs_validation_series():
    with pytest.raises(UserError, match="--refit has nothing to validate on"):
        RunConfig(refit=True, schedule="plateau")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60, 12, 2))
    np.savez("own.npz", X=X, y=np.where(X[:, :, 0].sum(1) > 0, "a", "b"))
    return RunConfig(
        data="own.npz", model="gru", hidden=4, budget="30gradients", refit=True, warp=0.1
    )


def test_its_weights_are_those_of_a_run_on_all_series(config):
    result = run(config, Path("run"))
    assert result["refit"]["series"] == 48
    assert result["refit"]["status"] in COMPLETE
    assert result["refit"]["gradient_evaluations"] == 30
    saved = RunFolder.open(Path("run")).read_config()
    twin = build_training(saved, all_series(build_training(saved).task))
    list(twin.run())
    with twin.learner.committed():
        weights = twin.model.state_dict()
        tested = twin.task.evaluate(twin.model, twin.task.test, torch.device("cpu"))
        kept = RunFolder.open(Path("run")).read_weights()
        assert all(torch.equal(kept[name], weights[name]) for name in weights)
    assert (result["test_loss"], result["test_metric"]) == pytest.approx(tested)


def test_an_interrupted_refit_begins_anew_and_ends_the_same(config):
    whole = run(config, Path("whole"))
    calls = []

    def stop():
        calls.append(1)
        return len(calls) > 45  # of 30 steps, and 30 again

    result = run(config, Path("part"), stop_requested=stop)
    assert result["status"] == "interrupted"
    assert "test_metric" not in result
    again = run(config, Path("part"), resume=True)
    for name in ("status", "test_loss", "test_metric", "best"):
        assert again[name] == whole[name]
    weights = [RunFolder.open(Path(one)).read_weights() for one in ("whole", "part")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_of_patience_and_warping_that_is_interrupted_often_is_the_same_to_the_bit(config):
    config = replace(config, budget="40epochs", patience=3, warp=0.3, metric="log-loss", lr=0.1)
    whole = run(config, Path("whole"))
    assert whole["status"] == "stopped early"

    def after(steps):
        calls = []
        return lambda: calls.append(1) or len(calls) > steps

    result = run(config, Path("part"), stop_requested=after(4))
    for steps in (3, 7, 1):
        assert result["status"] == "interrupted"
        result = run(config, Path("part"), resume=True, stop_requested=after(steps))
    result = run(config, Path("part"), resume=True)
    assert result | {"seconds": 0, "refit": 0} == whole | {"seconds": 0, "refit": 0}
    weights = [RunFolder.open(Path(one)).read_weights() for one in ("whole", "part")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_that_stopped_early_is_repeated_up_to_its_best(config):
    early = replace(config, budget="40epochs", patience=2)
    result = run(early, Path("run"))
    if result["status"] == "stopped early":
        share = result["best"]["gradient_evaluations"] / result["gradient_evaluations"]
        assert share < 1
        assert result["refit"]["gradient_evaluations"] < 1.4 * result["gradient_evaluations"]


def test_the_command_says_what_was_fitted_again(config, command):
    options = ["--model", "gru", "--hidden", 4, "--budget", "10gradients", "--refit", "--quiet"]
    code, out, error = command("train", "--data", "own.npz", "--out", "run", *options)
    assert code == 0, error
    assert "refit on all 48 training and validation series" in out
    assert json.loads(Path("run/result.json").read_text())["refit"]["series"] == 48
    code, _, error = command("train", "--task", "adding", "--refit", "--budget", "3gradients")
    assert code == 2
    assert "--refit needs stored series" in error
    assert not Path("runs").exists() or not list(Path("runs").glob("*/best.pt"))
