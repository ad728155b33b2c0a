"""What `--model auto` promises: a network by the shape of own data; what is asked for stays.

How good the choice is, is measured in docs/choosing.md.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnopt.config.run_config import Budget, RunConfig
from rnnopt.layers.stem import parse_stem, steps_after
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks import build_task, from_arrays
from rnnopt.training.automatic import STEPS, Shape, choose, settled, shape_of
from rnnopt.training.build import build_training

TINY = ["--hidden", "4", "--budget", "6gradients", "--quiet"]


def own(count=40, steps=30, channels=2, regression=False):
    """A task of random series."""
    generator = np.random.default_rng(0)
    series = generator.normal(size=(count, steps, channels))
    return from_arrays(series, generator.random(count) if regression else ["a", "b"] * (count // 2))


@given(
    series=st.integers(1, 10**6), steps=st.integers(1, 10**5), channels=st.integers(1, 100),
    outputs=st.integers(1, 100),
)  # fmt: skip
def test_a_choice_is_a_run_that_can_be_for_every_shape(series, steps, channels, outputs):
    choice = choose(Shape(series, steps, channels, outputs))
    config = RunConfig(**choice.settings)
    stem = parse_stem(config.stem)
    assert steps_after(steps, stem) <= STEPS
    assert Budget.parse(config.budget).amount >= 1
    assert str(steps) in choice.reason


def test_the_shape_of_a_task_is_that_of_its_training_series():
    assert shape_of(own(40, 30, 2)) == Shape(26, 30, 2, 2, batch=16)


@pytest.mark.parametrize("regression", [False, True])
def test_the_network_is_what_was_chosen(regression):
    task = own(steps=300, regression=regression)
    config, reason = settled(RunConfig(), task)
    assert reason
    assert config.model != "auto"
    model = build_training(RunConfig(), task).model
    assert model.bidirectional
    assert model.readout == config.readout == "mean"
    assert len(model.recurrent) == 1
    assert model.stem.shapes == parse_stem(config.stem)


@pytest.mark.parametrize(
    "asked",
    [
        dict(hidden=5), dict(layers=2), dict(readout="last"), dict(bidirectional=False),
        dict(batch_norm=False), dict(dropout=0.4), dict(budget="7gradients"), dict(stem="9/3"),
    ],
)  # fmt: skip
def test_what_is_asked_for_stays(asked):
    before, _ = settled(RunConfig(), own())
    after, _ = settled(RunConfig(**asked), own())
    (name, value) = next(iter(asked.items()))
    assert getattr(after, name) == value
    others = {n: v for n, v in before.to_dict().items() if n != name}
    assert others == {n: v for n, v in after.to_dict().items() if n != name}


def test_another_model_is_no_choice_and_a_task_on_board_keeps_its_own():
    config, reason = settled(RunConfig(model="gru"), own())
    assert reason == ""
    assert config == RunConfig(model="gru", budget="20epochs")
    config, reason = settled(RunConfig(task="digits-rows"), build_task("digits-rows"))
    assert reason == ""
    assert config == RunConfig(task="digits-rows", model="rnn", budget="20epochs")


def test_truncated_propagation_has_no_whole_sequences():
    config, _ = settled(RunConfig(tbptt=5), own())
    assert (config.stem, config.bidirectional, config.readout) == (None, None, None)
    build_training(RunConfig(tbptt=5), own())


def test_a_plateau_leaves_nothing_to_fit_again():
    for options in (dict(schedule="plateau"), dict(optimizer="adam:schedule=plateau")):
        config, _ = settled(RunConfig(**options), own())
        assert config.refit is None
        build_training(RunConfig(**options), own())


def test_numbers_to_predict_keep_the_speed_of_their_series():
    assert settled(RunConfig(), own(regression=True))[0].warp is None
    assert settled(RunConfig(), own())[0].warp > 0


def test_admm_trains_what_it_can():
    assert settled(RunConfig(optimizer="admm"), own())[0].model == "rnn"


def test_the_command_says_what_it_chose_and_keeps_it(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    generator = np.random.default_rng(0)
    rows = [[i % 2, *generator.normal(i % 2, size=250)] for i in range(40)]
    np.savetxt("data.csv", rows, delimiter=",", fmt="%.3f")
    code, out, error = command("train", "--data", "data.csv", "--out", "run", *TINY[:-1])
    assert code == 0, error
    assert "model: a bidirectional GRU of 64 units" in out
    assert "of 250" in out
    saved = json.loads(Path("run/config.json").read_text())
    assert saved["model"] == "gru"
    assert (saved["hidden"], saved["budget"]) == (4, "6gradients")
    again, reason = settled(RunFolder.open(Path("run")).read_config(), own())
    assert reason == ""
    assert json.loads(json.dumps(again.to_dict())) == saved
    for verb in (["predict", "run", "--data", "data.csv"], ["train", "--out", "run", "--resume"]):
        code, _, error = command(*verb)
        assert code == 0, error
