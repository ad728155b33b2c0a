"""What `rnnopt diagnose` promises of overfitting: a gap beyond chance is said, with advice."""

import json
from pathlib import Path

import numpy as np
import pytest

from rnnopt.config.run_config import RunConfig
from rnnopt.diagnostics.overfitting import Generalization, measured, overfitting
from rnnopt.tasks import build_task, from_arrays
from rnnopt.training.build import build_training

PLAIN = RunConfig(model="gru")


@pytest.mark.parametrize(
    ("training", "validation", "series", "said"),
    [
        (1.0, 0.7, 78, True),
        (1.0, 0.7, 10, True),  # 0.3 > 2 sqrt(0.7 · 0.3 / 10) = 0.29
        (1.0, 0.72, 10, False),  # 0.28 < 0.284
        (0.95, 0.86, 1000, False),  # below 0.1
        (0.7, 0.9, 100, False),
    ],
)
def test_a_gap_of_accuracies_must_exceed_chance(training, validation, series, said):
    found = overfitting(Generalization("accuracy", training, validation, series, False), PLAIN)
    assert (found is not None) == said
    if found:
        assert found.kind == "overfits"
        assert f"{training:.3g} on training series" in found.sentence
        assert f"{validation:.3g} on {series} validation series" in found.sentence


@pytest.mark.parametrize(
    ("training", "validation", "said"), [(0.1, 0.21, True), (0.1, 0.19, False), (0.3, 0.2, False)]
)
def test_an_error_must_be_twice_that_of_training(training, validation, said):
    found = overfitting(Generalization("mse", training, validation, 50, False), PLAIN)
    assert (found is not None) == said


def test_a_network_that_reaches_its_target_is_none_that_overfits():
    assert overfitting(Generalization("mse", 1e-9, 1e-7, 50, True), PLAIN) is None


def test_advice_leaves_out_what_the_run_does():
    gap = Generalization("accuracy", 1.0, 0.5, 100, False)
    everything = RunConfig(model="gru", warp=0.2, dropout=0.5, stem="8/4", refit=True)
    many, few = (" ".join(overfitting(gap, config).advice) for config in (PLAIN, everything))
    for option in ("--warp", "--dropout", "--model auto", "--refit"):
        assert option in many
        assert option not in few


def test_both_parts_are_evaluated_with_the_committed_weights():
    generator = np.random.default_rng(0)
    task = from_arrays(generator.normal(size=(40, 6, 2)), ["a", "b"] * 20)
    training = build_training(RunConfig(model="gru", hidden=3, budget="10gradients"), task)
    list(training.run())
    found = measured(training)
    with training.learner.committed():
        for part, value in (("train", found.training), ("validation", found.validation)):
            assert task.evaluate(training.model, getattr(task, part), training.device)[1] == value
    assert measured(build_training(RunConfig(task="adding"), build_task("adding:length=5"))) is None


def test_diagnose_says_that_a_network_learns_noise_by_heart(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.savez("noise.npz", X=generator.normal(size=(120, 8, 3)), y=np.arange(120) % 2)
    options = ["--model", "gru", "--hidden", 24, "--budget", "40epochs", "--snapshots", 1]
    code, out, error = command("diagnose", "--data", "noise.npz", *options, "--out", "d", "--quiet")
    assert code == 0, error
    assert "overfits: accuracy is" in out
    assert "try --warp 0.2" in out
    kinds = [one["kind"] for one in json.loads(Path("d/diagnosis.json").read_text())["verdict"]]
    assert "overfits" in kinds
    assert "healthy" not in kinds
