"""What `on_nonfinite` promises: what is not finite ends a run, or costs it, no more than said.

The loop itself is promised in test_training.py.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
from same_runs import what_came

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run
from rnnopt.tasks import Batches, build_task
from rnnopt.training import build as building
from rnnopt.training.build import build_training
from rnnopt.training.nonfinite import MOST_CONSECUTIVE, MOST_RESTORES

CONFIG = RunConfig(
    "digits-rows", hidden=4, budget="24gradients", evaluate_every=6, schedule="constant",
    optimizer="adam", seed=5, batch_size=16,
)  # fmt: skip
STREAMING = ["adam:lr=0.01", "frank-wolfe:inner_steps=1", "frank-wolfe:inner_steps=3", "muon"]
ASKING = ["asnaq:memory=3", "adaqn:memory=3", "admm"]


class Poisoned(Batches):
    """The task's batches, some of them with a NaN in the inputs, or left out altogether."""

    def __init__(self, inner, bad, dropped=()):
        super().__init__(inner.task, inner.batch_size, 0)
        self.generator = inner.generator
        self.bad, self.dropped, self.drawn = bad, dropped, 0

    def draw(self):
        batch = super().draw()
        self.drawn += 1
        if self.drawn in self.dropped:
            return self.draw()
        if self.drawn in self.bad:
            return replace(batch, inputs=batch.inputs * math.nan)
        return batch


def training_of(config, bad=(), dropped=(), steps=None):
    """A training whose drawn minibatches of the numbers `bad`, from 1, are NaN."""
    training = build_training(config)
    training.closure.batches = training.batches = Poisoned(training.batches, bad, dropped)
    if training.closure.chunks is not None:
        training.closure.chunks.batches = training.batches
    return training


def state_of(training):
    """Weights, running statistics and optimizer, as text that can be compared."""
    state = dict(model=training.model.state_dict(), optimizer=training.optimizer.state_dict())

    def plain(value):
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else repr(value)

    return json.dumps(plain(state))


def steps(training, count):
    """Trains that many steps."""
    for _ in range(count):
        training._step(0.0)


@pytest.mark.parametrize("bad", [1, 2, 5])
@pytest.mark.parametrize("optimizer", [*STREAMING, *ASKING])
def test_a_skipped_step_leaves_no_trace(optimizer, bad):
    config = replace(CONFIG, optimizer=optimizer, on_nonfinite="skip")
    met = training_of(config, bad=[bad])
    steps(met, 8)
    without = training_of(config, dropped=[bad])
    steps(without, 7)
    assert met.nonfinite.skipped == 1
    assert state_of(met) == state_of(without)


@pytest.mark.parametrize("optimizer", ["adam:lr=0.01", "asnaq:memory=3"])
def test_a_skipped_step_leaves_running_statistics_and_dropout_as_they_were(optimizer):
    config = replace(CONFIG, optimizer=optimizer, batch_norm=True, dropout=0.3, on_nonfinite="skip")
    met = training_of(config, bad=[3])
    random = torch.get_rng_state()
    steps(met, 6)
    torch.set_rng_state(random)
    without = training_of(config, dropped=[3])
    torch.set_rng_state(random)
    steps(without, 5)
    assert state_of(met) == state_of(without)
    assert "nan" not in state_of(met)


def test_the_rest_of_a_minibatch_in_chunks_is_left_out():
    config = replace(CONFIG, tbptt=3, on_nonfinite="skip")  # 8 steps: 3 chunks
    met = training_of(config, bad=[2])
    steps(met, 3 + 1 + 3)
    without = training_of(config, dropped=[2])
    steps(without, 3 + 3)
    assert met.closure.chunks.finished == 3
    assert state_of(met) == state_of(without)


@pytest.mark.parametrize("bad", [2, 7, 8, 13])
@pytest.mark.parametrize("optimizer", [*STREAMING, *ASKING])
def test_restore_goes_back_to_the_last_look_and_on_with_the_next_minibatches(optimizer, bad):
    config = replace(CONFIG, optimizer=optimizer, on_nonfinite="restore")
    training = training_of(config, bad=[bad])
    looks = {}
    for progress in training.run():
        if progress.record:
            looks[progress.gradient_evaluations] = state_of(training)
        if training.nonfinite.skipped and "back" not in looks:
            looks["back"] = state_of(training)
            before = max(at for at in looks if at != "back" and at < progress.gradient_evaluations)
            assert looks["back"] == looks[before]
    assert training.nonfinite.skipped == 1
    assert training.status == "out of budget"
    assert math.isfinite(training.best["validation_metric"])


@pytest.mark.parametrize("optimizer", ["adam:lr=0.01", "asnaq:memory=3", "admm", "lbfgs"])
@pytest.mark.parametrize("bad", [1, 3])
def test_raise_names_the_step_and_what_to_try(optimizer, bad):
    bad = 1 if optimizer == "lbfgs" else bad  # which has one minibatch
    config = replace(CONFIG, optimizer=optimizer, on_nonfinite="raise", batch_size=None)
    training = training_of(config, bad=[bad])
    with pytest.raises(FloatingPointError) as raised:
        steps(training, 5)
    for part in (f"step {bad} ", "the loss is nan", "smaller lr", "clip=1", "on-nonfinite skip"):
        assert part in str(raised.value)


def test_a_gradient_that_is_not_finite_is_named():
    training = training_of(replace(CONFIG, on_nonfinite="raise"))
    name, weight = next(iter(training.model.named_parameters()))
    weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match=f"step 1 .*the gradient of {name} is not finite"):
        steps(training, 1)


def test_large_finite_gradients_are_no_trouble():
    # Their norm is not finite in single precision.
    training = training_of(replace(CONFIG, on_nonfinite="raise", optimizer="adam"))
    for weight in training.model.parameters():
        weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    steps(training, 1)


def test_a_line_search_may_meet_infinite_losses():
    # A first length that overflows the exponentials of the softmax's inputs is refused, not met.
    config = replace(CONFIG, optimizer="lbfgs:lr=1e30", on_nonfinite="raise", batch_size=None)
    steps(training_of(config), 2)


def test_too_many_in_a_row_are_a_divergence():
    for policy, most in (("skip", MOST_CONSECUTIVE), ("restore", MOST_RESTORES)):
        config = replace(CONFIG, budget="100gradients", on_nonfinite=policy)
        training = training_of(config, bad=range(3, 200))
        list(training.run())
        assert training.status == "diverged"
        assert training.nonfinite.skipped == most + 1


def test_single_ones_are_no_divergence():
    config = replace(CONFIG, budget="60gradients", on_nonfinite="skip")
    training = training_of(config, bad=range(2, 200, 2))
    list(training.run())
    assert training.status == "out of budget"
    assert training.nonfinite.skipped == 30
    assert math.isfinite(training.best["validation_metric"])


@pytest.mark.parametrize("policy", ["skip", "restore"])
@pytest.mark.parametrize("optimizer", ["adam", "asnaq:memory=3"])
def test_a_run_without_one_step_has_diverged(policy, optimizer):
    config = replace(CONFIG, budget="5gradients", on_nonfinite=policy, optimizer=optimizer)
    training = training_of(config, bad=range(1, 200))
    list(training.run())
    assert training.status == "diverged"
    assert training.nonfinite.skipped <= 5  # too few to give up


def test_a_run_that_ends_among_steps_left_out_has_diverged_if_its_weights_are_useless():
    # One step that throws the weights to 1e38; all after it are left out.
    useless = replace(CONFIG, optimizer="sgd:lr=1e38", on_nonfinite="skip", budget="6gradients")
    sound = replace(CONFIG, on_nonfinite="skip", budget="6gradients")
    for config, bad, status in ((useless, (), "diverged"), (sound, (5, 6), "out of budget")):
        training = training_of(config, bad=bad)
        list(training.run())
        assert training.nonfinite.skipped >= 2
        assert training.status == status
        other = training_of(config)
        other.load_state_dict(training.state_dict())
        assert other.nonfinite.lost == (status == "diverged")


def test_the_command_says_that_nothing_was_learnt(tmp_path, command):
    given = ["--task", CONFIG.task, "--hidden", 4, "--budget", "5gradients"]
    given += ["--optimizer", "sgd:lr=1e38", "--on-nonfinite", "skip", "--out", tmp_path / "run"]
    code, out, _ = command("train", *given, "--quiet")
    assert code == 1
    assert "4 steps were not finite and were left out" in out
    assert "nothing was learnt: take a smaller lr" in out
    assert "status diverged" in out


def test_stop_is_what_a_run_does_unless_told_otherwise():
    assert RunConfig().on_nonfinite == "stop"
    training = training_of(CONFIG, bad=[4])
    records = [progress.record for progress in training.run() if progress.record]
    assert training.status == "diverged"
    assert all("nonfinite" not in record for record in records)


@pytest.mark.parametrize("optimizer", ["adam:lr=0.01", "asnaq:memory=3"])
@pytest.mark.parametrize("policy", ["skip", "restore"])
def test_metrics_and_result_count_them_and_a_continued_run_is_the_same(
    tmp_path, monkeypatch, optimizer, policy
):
    # NaN in the same sequences wherever the run stands: the first of each epoch's minibatches.
    task = build_task(CONFIG.task)
    inputs = task.train.inputs.clone()
    inputs[7] = math.nan
    poisoned = replace(task, train=replace(task.train, inputs=inputs))
    monkeypatch.setattr(building, "build_task", lambda text: poisoned)
    config = replace(
        CONFIG, optimizer=optimizer, on_nonfinite=policy, budget="2epochs", batch_size=200
    )
    run(config, tmp_path / "whole")
    result = RunFolder(tmp_path / "whole").read_result()
    records = RunFolder(tmp_path / "whole").read_records()
    assert result["nonfinite"] == 2
    assert [r["nonfinite"] for r in records] == sorted(r["nonfinite"] for r in records)
    assert records[-1]["nonfinite"] == 2
    for stop in (2, 5, 9):
        count = iter(range(100))
        path = tmp_path / f"stopped-{stop}"
        run(config, path, stop_requested=lambda count=count, stop=stop: next(count) == stop)
        run(config, path, resume=True)
        assert what_came(path) == what_came(tmp_path / "whole")


def test_an_unknown_policy_is_an_error_that_lists_them():
    with pytest.raises(UserError, match="on-nonfinite.*stop, raise, skip, restore"):
        replace(CONFIG, on_nonfinite="ignore")


def test_the_command_says_how_many(tmp_path, monkeypatch, command):
    task = build_task(CONFIG.task)
    inputs = task.train.inputs.clone()
    inputs[7] = math.nan
    poisoned = replace(task, train=replace(task.train, inputs=inputs))
    monkeypatch.setattr(building, "build_task", lambda text: poisoned)
    given = ["--task", CONFIG.task, "--hidden", 4, "--budget", "1epochs", "--optimizer", "adam"]
    code, out, _ = command(
        "train", *given, "--out", tmp_path / "skip", "--quiet", "--on-nonfinite", "skip"
    )
    assert code == 0
    assert "1 step was not finite and was left out" in out
    code, _, errors = command(
        "train", *given, "--out", tmp_path / "raise", "--quiet", "--on-nonfinite", "raise"
    )
    assert code == 1
    assert "FloatingPointError: step " in errors
    assert "Traceback" not in errors
    assert RunFolder(tmp_path / "raise").read_result()["status"] == "failed"
