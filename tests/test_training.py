"""What the training loop promises: its order, its counting, its records, how it ends and goes on.

The tasks are tiny and some are rigged: what the loop does must not depend on what is learnt. What
is written to files is promised in test_run_folder.py.
"""

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from cases import partly
from same_runs import assert_equal_states, without_clock
from stepping import through_a_file

from rnnopt import FrankWolfe, SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import Budget, RunConfig
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.training import loop as training
from rnnopt.training.build import build_training
from rnnopt.training.closure import Closure
from rnnopt.training.loop import Training, rate_factor
from rnnopt.training.registry import build_optimizer
from rnnopt.training.schedules import Plateau

PER_EPOCH = 5  # 40 sequences, 8 a batch


@dataclass(frozen=True)
class Rigged(Task):
    """A task that notes what is asked of it, and answers as it is told.

    Args:
        events: what happened, in order.
        metrics: validation metrics to answer with, one a look; when used up, the true one.
        losses: validation losses likewise; without them the metrics, which they are with "mse".
        bad_from: number of the training loss, counted from 1, from which on it is `bad`.
        bad: the loss from then on.
    """

    events: list = field(default_factory=list)
    metrics: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    bad_from: float = math.inf
    bad: float = math.nan

    def evaluate(self, model, examples, device):
        self.events.append("evaluate" if examples is self.validation else "test")
        loss, metric = super().evaluate(model, examples, device)
        if self.metrics:
            loss = metric = self.metrics.pop(0)
        return self.losses.pop(0) if self.losses else loss, metric

    def loss_of(self, outputs, batch):
        loss = super().loss_of(outputs, batch)
        if not outputs.requires_grad:
            return loss
        self.events.append("loss")
        return loss * self.bad if self.events.count("loss") >= self.bad_from else loss


def make_task(target=-1.0, loss="mse", **options):
    """40 training sequences of 4 random numbers; their sum is asked for."""
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 4, 1, generator=rng)
    examples = Examples(inputs, inputs.sum(1))
    train, validation, test = (
        Examples(examples.inputs[a:b], examples.targets[a:b])
        for a, b in ((0, 40), (40, 50), (50, 60))
    )
    return Rigged("sums", "", 1, 1, loss, target, train, validation, test, 40, 4, 8, **options)


def make(optimizer="adam", budget="10gradients", task=None, batch_norm=False, **options):
    """A training of a tiny network, the same at every call; notes each optimizer step."""
    task = task or make_task()
    torch.manual_seed(0)
    model = SequenceModel(1, 4, 1, batch_norm=batch_norm)
    built = build_optimizer(optimizer, list(model.named_parameters()))
    step = built.step

    def noted(*args):
        task.events.append("step")
        return step(*args)

    built.step = noted
    return Training(model, built, task, Batches(task, 8, 0), Budget.parse(budget), **options)


def finish(run):
    """Runs to the end; the records."""
    return [progress.record for progress in run.run() if progress.record]


def weights_of(model):
    """A copy of the weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# -- budgets and order ----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "frank-wolfe:inner_steps=5", "muon"])
@pytest.mark.parametrize(
    ("budget", "evaluations"),
    # 5 batches an epoch; a part of a batch counts as a whole one.
    [
        ("1evaluation", 1),
        ("7gradients", 7),
        ("6.2gradients", 7),
        ("1epoch", 5),
        ("2epochs", 10),
        ("1.5epochs", 8),
        ("0.1epochs", 1),
    ],
)
def test_a_run_stops_exactly_at_its_budget(optimizer, budget, evaluations):
    run = make(optimizer, budget)
    records = finish(run)
    assert run.status == "out of budget"
    assert run.closure.gradient_evaluations == evaluations
    assert run.task.events.count("loss") == run.task.events.count("step") == evaluations
    assert records[-1]["gradient_evaluations"] == evaluations
    assert records[-1]["fraction"] == 1


def test_the_order_is_evaluate_stop_step_yield():
    task = make_task()
    run = make(budget="4gradients", task=task, evaluate_every=2)
    for progress in run.run():
        task.events.append("record" if progress.record else "progress")
    step = ["loss", "step"]
    look = ["evaluate", "record"]
    assert task.events == look + ([*step, "progress", *step, *look]) * 2


@pytest.mark.parametrize(
    ("budget", "every"),
    # An epoch, or a twentieth of the budget where that is shorter, rounded up.
    [
        ("200gradients", 5),
        ("60gradients", 3),
        ("61gradients", 4),
        ("5gradients", 1),
        ("2epochs", 1),
        ("100epochs", 5),
        ("9s", 5),
    ],
)
def test_the_validation_set_is_looked_at_each_epoch_or_twentieth(budget, every):
    assert make(budget=budget).evaluate_every == every


def test_looks_come_at_the_start_at_every_interval_and_at_the_end():
    records = finish(make(budget="11gradients", evaluate_every=4))
    assert [record["gradient_evaluations"] for record in records] == [0, 4, 8, 11]


@pytest.mark.parametrize("optimizer", ["adam", "asnaq:second_gradient=true", "frank-wolfe"])
def test_every_epoch_means_after_so_many_minibatches_whatever_they_cost(optimizer):
    records = finish(make(optimizer, "3.4epochs", every_epoch=True))
    assert [record["epochs"] for record in records] == pytest.approx([0, 1, 2, 3, 17 / 5])
    if optimizer.startswith("asnaq"):  # 5 minibatches an epoch, two gradients on each
        assert records[1]["gradient_evaluations"] >= 10


def test_a_look_at_the_end_is_not_repeated():
    records = finish(make(budget="8gradients", evaluate_every=4))
    assert [record["gradient_evaluations"] for record in records] == [0, 4, 8]


def test_progress_tells_how_much_is_spent():
    run = make(budget="4gradients", evaluate_every=2)
    told = [(p.gradient_evaluations, p.epochs, p.fraction, p.record is not None) for p in run.run()]
    # 0, 2 and 4 are looks, 1 and 3 are not; an epoch has 5 batches.
    assert told == [
        (0, 0.0, 0.0, True),
        (1, 0.2, 0.25, False),
        (2, 0.4, 0.5, True),
        (3, 0.6, 0.75, False),
        (4, 0.8, 1.0, True),
    ]


def test_the_same_settings_give_the_same_run_and_another_seed_another():
    config = RunConfig(hidden=3, budget="4gradients", optimizer="adam")
    runs = [build_training(replace(config, seed=seed), make_task()) for seed in (0, 0, 1)]
    for run in runs:
        finish(run)
    assert_same_weights(runs[0].model.state_dict(), runs[1].model.state_dict())
    one, other = runs[0].model.output.weight, runs[2].model.output.weight
    assert not torch.equal(one, other)


# -- the closure ----------------------------------------------------------------------------------


def test_the_closure_stays_on_its_batch_until_it_advances():
    run = make()
    closure = Closure(run.model, run.batches, torch.device("cpu"), None)
    first, batch = closure(), closure.batch
    assert closure() == first
    assert closure.batch is batch
    assert closure.gradient_evaluations == 2
    closure.advance()
    assert closure() != first
    assert closure.batch is not batch


def test_the_closure_leaves_the_gradient_of_this_batch_alone():
    run = make()
    closure = Closure(run.model, run.batches, torch.device("cpu"), None)
    closure()
    first = [p.grad.clone() for p in run.model.parameters()]
    loss = closure()
    for p, gradient in zip(run.model.parameters(), first, strict=True):
        assert torch.equal(p.grad, gradient)  # not twice as much
    assert not loss.requires_grad


def norm_with(clip):
    """Norm of the first gradient."""
    run = make()
    Closure(run.model, run.batches, torch.device("cpu"), clip)()
    return float(torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm())


def test_clip_shortens_long_gradients_and_leaves_short_ones():
    full = norm_with(None)
    assert norm_with(full / 3) == pytest.approx(full / 3, rel=1e-4)
    assert norm_with(full * 3) == full


def test_clip_reaches_the_loop():
    # One step of plain gradient descent at the constant rate 1 is as long as the clipped gradient.
    run = make("sgd:lr=1", "1evaluation", clip=0.01)
    before = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()
    finish(run)
    after = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def gradients_with(**options):
    """The first gradients."""
    run = make()
    Closure(run.model, run.batches, torch.device("cpu"), **options)()
    return torch.cat([p.grad.flatten() for p in run.model.parameters()])


def test_clip_value_cuts_each_entry():
    full = gradients_with()
    limit = float(full.abs().median())
    assert torch.equal(gradients_with(clip_value=limit), full.clamp(-limit, limit))
    assert torch.equal(gradients_with(clip_value=float(full.abs().max())), full)


def test_entries_are_cut_before_the_norm_is():
    full = gradients_with()
    limit = float(full.abs().median())
    cut = full.clamp(-limit, limit)
    norm = float(cut.norm()) / 2
    found = gradients_with(clip_value=limit, clip=norm)
    torch.testing.assert_close(found, cut / 2, rtol=1e-4, atol=1e-7)
    # The other way round would give something else.
    other = (full * norm / full.norm()).clamp(-limit, limit)
    assert float((found - other).norm()) > 0.01 * norm


def test_clip_value_reaches_the_loop():
    run = make("sgd:lr=1", "1evaluation", clip_value=1e-3, schedule="constant")
    before = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()
    finish(run)
    after = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()
    assert float((after - before).abs().max()) == pytest.approx(1e-3, rel=1e-3)
    for options in (dict(clip_value=0.25), dict(optimizer="adam:clip_value=0.25")):
        config = RunConfig(**dict(optimizer="adam", hidden=3) | options)
        assert build_training(config, make_task()).closure.clip_value == 0.25


# -- the learning rate ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "factors"),
    # At 0, 1/3, 1/2 and 1 of the budget; cos(π/3) = 1/2.
    [("constant", [1, 1, 1, 1]), ("linear", [1, 2 / 3, 0.5, 0]), ("cosine", [1, 0.75, 0.5, 0])],
)
def test_rate_factor_by_hand(schedule, factors):
    found = [rate_factor(schedule, fraction) for fraction in (0, 1 / 3, 1 / 2, 1)]
    assert found == pytest.approx(factors, abs=1e-12)


@pytest.mark.parametrize("optimizer", ["adam:lr=0.5", "frank-wolfe:lr=0.5", "muon:lr=0.5"])
def test_the_schedule_reaches_every_group_at_every_step(optimizer):
    run = make(optimizer, "4gradients", schedule="linear")
    seen = []
    step = run.optimizer.step

    def noted(*args):
        seen.append([group["lr"] for group in run.optimizer.param_groups])
        return step(*args)

    run.optimizer.step = noted
    finish(run)
    groups = len(run.optimizer.param_groups)
    assert groups == (2 if optimizer.startswith("muon") else 1)
    assert seen == [[0.5 * factor] * groups for factor in (1, 0.75, 0.5, 0.25)]


# -- records --------------------------------------------------------------------------------------


def test_a_record_holds_costs_losses_metric_and_rate():
    task = make_task()
    losses = []
    run = make("adam:lr=0.5", "8gradients", task, schedule="linear", evaluate_every=4)
    closure = run.closure

    class Noted:
        """The closure, and the losses it gave."""

        def __call__(self):
            losses.append(closure())
            return losses[-1]

        def __getattr__(self, name):
            return getattr(closure, name)

    run.closure = Noted()
    records = finish(run)
    assert [r["epochs"] for r in records] == [0.0, 0.8, 1.6]
    assert math.isnan(records[0]["train_loss"])  # nothing was trained yet
    # The mean since the last look, and the rate of the last step before the look.
    assert records[1]["train_loss"] == pytest.approx(float(sum(losses[:4])) / 4)
    assert records[2]["train_loss"] == pytest.approx(float(sum(losses[4:])) / 4)
    assert [r["lr"] for r in records] == pytest.approx([0.5, 0.5 * 5 / 8, 0.5 * 1 / 8])
    assert [r["fraction"] for r in records] == [0, 0.5, 1]
    loss, metric = Task.evaluate(task, run.model, task.validation, torch.device("cpu"))
    assert (records[2]["validation_loss"], records[2]["validation_metric"]) == (loss, metric)
    assert run.records == 3


RECORDED = (
    "gradient_evaluations",
    "epochs",
    "train_loss",
    "validation_loss",
    "validation_metric",
    "lr",
)


@pytest.mark.parametrize("optimizer", ["adam", "frank-wolfe:inner_steps=3", "schedule-free"])
def test_watching_the_test_set_adds_its_metric_and_changes_nothing_else(optimizer):
    found = []
    for watch in (False, True):
        task = make_task()
        config = RunConfig(
            model="indrnn", hidden=4, layers=2, batch_norm=True, dropout=0.3, optimizer=optimizer,
            budget="7gradients", evaluate_every=2, watch_test=watch,
        )  # fmt: skip
        run = build_training(config, task)
        records = finish(run)
        assert ["test_metric" in record for record in records] == [watch] * 5
        found.append((run, [[record[name] for name in RECORDED] for record in records]))
    (plain, without), (watched, with_it) = found
    assert repr(without) == repr(with_it)
    one, other = plain.state_dict(), watched.state_dict()
    for state in (one, other):
        del state["seconds"]
    assert_equal_states(one, other)
    assert plain.test() == watched.test()


def test_the_watched_metric_is_that_of_the_weights_at_the_look():
    task = make_task()
    run = make("frank-wolfe:inner_steps=3", "6gradients", task, evaluate_every=2, watch_test=True)
    seen = []
    for progress in run.run():
        if progress.record:
            with run.learner.committed():
                _, metric = Task.evaluate(task, run.model, task.test, torch.device("cpu"))
            seen.append((progress.record["test_metric"], metric))
    assert len(seen) == 4
    assert all(noted == metric for noted, metric in seen)
    assert "test_metric" not in finish(make(budget="2gradients"))[0]


# -- how a run ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("bad_from", [1, 3, 10])
def test_a_loss_that_is_not_finite_ends_the_run_within_ten_evaluations(bad, bad_from):
    task = make_task(bad_from=bad_from, bad=bad)
    run = make(budget="100gradients", task=task, evaluate_every=100)
    finish(run)
    assert run.status == "diverged"
    assert bad_from <= run.closure.gradient_evaluations <= bad_from + 9


def test_a_diverged_run_keeps_its_best_weights():
    run = make(budget="100gradients", task=make_task(bad_from=7), evaluate_every=2)
    records = finish(run)
    assert run.status == "diverged"
    assert [record["gradient_evaluations"] for record in records] == [0, 2, 4, 6]
    assert all(weight.isfinite().all() for weight in run.best_weights.values())


@pytest.mark.parametrize("bad_from", [11, 13, 15])
def test_a_loss_that_is_not_finite_shortly_before_the_end_is_divergence_too(bad_from):
    run = make(budget="15gradients", task=make_task(bad_from=bad_from), evaluate_every=10)
    records = finish(run)
    assert run.status == "diverged"
    assert all(math.isfinite(record["train_loss"]) for record in records[1:])


def test_meeting_the_target_ends_the_run_if_asked():
    task = make_task(target=0.5, metrics=[0.9, 0.6, 0.5, 0.1])
    run = make(budget="20gradients", task=task, evaluate_every=3, stop_at_target=True)
    assert len(finish(run)) == 3
    assert run.status == "reached target"
    assert run.closure.gradient_evaluations == 6
    assert run.to_target["gradient_evaluations"] == 6


def test_a_target_met_from_the_start_costs_nothing():
    run = make(task=make_task(target=1e9), stop_at_target=True)
    assert len(finish(run)) == 1
    assert (run.status, run.closure.gradient_evaluations) == ("reached target", 0)
    assert run.to_target == {"gradient_evaluations": 0, "seconds": 0.0}


def test_otherwise_the_run_goes_on_and_remembers_the_first_time():
    task = make_task(target=0.5, metrics=[0.9, 0.4, 0.7, 0.1, 0.8])
    run = make(budget="8gradients", task=task, evaluate_every=2)
    assert len(finish(run)) == 5
    assert (run.status, run.closure.gradient_evaluations) == ("reached target", 8)
    assert run.to_target["gradient_evaluations"] == 2


def test_a_stop_request_interrupts_before_the_next_step():
    run = make(budget="8gradients")
    list(run.run(lambda: run.closure.gradient_evaluations == 3))
    assert (run.status, run.closure.gradient_evaluations) == ("interrupted", 3)
    finish(run)  # and the same run can go on
    assert (run.status, run.closure.gradient_evaluations) == ("out of budget", 8)


def test_a_stop_request_at_the_end_does_not_hide_that_the_run_is_over():
    run = make(budget="3gradients")
    list(run.run(lambda: run.closure.gradient_evaluations == 3))
    assert run.status == "out of budget"


# -- the best weights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ([4.0, 3.0, 1.0, 2.0], 2),
        ([4.0, 1.0, 1.0, 1.0], 1),
        ([1.0, 2.0, 3.0, 4.0], 0),
        ([4.0, math.nan, 2.0, math.nan], 2),
        ([math.nan, 4.0, 2.0, 3.0], 2),
    ],
    ids=["third", "the first of equals", "the start", "not NaN", "not the NaN of the start"],
)
def test_best_weights_are_those_of_the_best_record(metrics, best):
    task = make_task(metrics=list(metrics))
    run = make(budget="6gradients", task=task, evaluate_every=2, batch_norm=True)
    snapshots = [weights_of(run.model) for progress in run.run() if progress.record]
    assert len(snapshots) == 4
    assert run.best == {
        "gradient_evaluations": 2 * best,
        "validation_metric": metrics[best],
        "validation_loss": metrics[best],
    }
    assert_same_weights(run.best_weights, snapshots[best])


@pytest.mark.parametrize(
    ("metrics", "losses", "best"),
    [
        ([0.9, 0.9, 0.9, 0.9], [3.0, 2.0, 1.0, 2.0], 2),
        ([0.9, 0.9, 0.9, 0.9], [3.0, 1.0, 1.0, 2.0], 1),
        ([0.8, 0.9, 0.9, 0.8], [1.0, 3.0, 2.0, 0.5], 2),
        ([0.9, 0.9, 0.9, 0.9], [3.0, math.nan, 2.0, math.nan], 2),
        ([0.5, 0.9, 0.6, 0.4], [3.0, math.nan, 2.0, 1.0], 2),
        ([0.9, 0.5, 0.6, 0.4], [math.nan, 3.0, 2.0, 1.0], 2),
        ([0.5, 0.9, 0.9, 0.4], [3.0, math.inf, 2.0, 1.0], 2),
    ],
    ids=[
        "the least loss of level ones", "the first of equals", "the metric first",
        "not NaN", "no better metric with NaN", "not the NaN of the start", "not the infinite one",
    ],
)  # fmt: skip
def test_among_level_metrics_the_least_loss_is_the_best(metrics, losses, best):
    task = make_task(9.0, "binary-mse", metrics=list(metrics), losses=list(losses))
    run = make(budget="6gradients", task=task, evaluate_every=2, batch_norm=True)
    snapshots = [weights_of(run.model) for progress in run.run() if progress.record]
    assert run.best == {
        "gradient_evaluations": 2 * best,
        "validation_metric": metrics[best],
        "validation_loss": losses[best],
    }
    assert_same_weights(run.best_weights, snapshots[best])


@pytest.mark.parametrize(
    ("losses", "restart", "decays"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], False, 0),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], True, 0),
        ([5.0, 4.0, 4.0, 4.0, 4.0, 4.0], False, 2),
        ([5.0, 4.0, 4.0, 4.0, 4.0, 4.0], True, 3),  # after two epochs, then after one each
    ],
)
def test_a_plateau_is_none_while_the_loss_falls(losses, restart, decays):
    # Accuracy is level at all looks, one an epoch.
    task = make_task(9.0, "binary-mse", metrics=[0.9] * 6, losses=list(losses))
    plateau = Plateau(0.5, 2, restart)
    run = make(budget="5epochs", task=task, evaluate_every=5, plateau=plateau)
    assert len(finish(run)) == 6
    assert plateau.decays == decays


@pytest.mark.parametrize(
    ("metrics", "losses", "patience", "looks"),
    [
        # A look an epoch; the first counts as the best so far. The second is better, the next two
        # are not.
        ([0.5, 0.6, 0.6, 0.55, 0.9], [9.0, 1.0, 1.0, 0.1, 1.0], 2.0, 4),
        # Level metrics, and a loss that falls: it learns on, until the loss stands still.
        ([0.5] * 6, [5.0, 4.0, 3.0, 3.0, 3.0, 1.0], 2.0, 5),
        ([0.5] * 7, [5.0, 4.0, 3.0, 2.0, 1.5, 1.2, 1.1], 2.0, 7),  # the budget ends first
        ([0.5, math.nan, math.nan], [1.0] * 3, 2.0, 3),  # what is not a number is no improvement
        ([0.5, 0.5], [1.0] * 2, 0.5, 2),
    ],
)
def test_patience_ends_a_run_that_does_not_improve(metrics, losses, patience, looks):
    task = make_task(2.0, "binary-mse", metrics=list(metrics), losses=list(losses))
    run = make(budget="6epochs", task=task, evaluate_every=5, patience=patience)
    records = finish(run)
    assert len(records) == looks
    assert run.status == ("out of budget" if looks == 7 else "stopped early")
    assert run.closure.epochs == looks - 1


def test_a_wait_goes_on_after_an_interruption():
    def begin(left):
        task = make_task(2.0, "binary-mse", metrics=list(metrics[left:]))
        return make(budget="9epochs", task=task, evaluate_every=5, patience=3.0)

    metrics = [0.5, 0.6, 0.5, 0.5, 0.5, 0.5]
    first = begin(0)
    list(first.run(lambda: first.records == 4))  # two of three epochs waited
    assert first.status == "interrupted"
    later = begin(4)
    later.load_state_dict(through_a_file(first.state_dict()))
    finish(later)
    assert (later.status, later.records, later.closure.epochs) == ("stopped early", 5, 4)


def test_the_test_set_is_scored_at_the_best_weights_and_the_model_left_as_it_is():
    task = make_task(metrics=[4.0, 1.0, 2.0, 3.0])
    run = make(budget="6gradients", task=task, evaluate_every=2, batch_norm=True)
    finish(run)
    before = weights_of(run.model)
    found = run.test()
    assert_same_weights(weights_of(run.model), before)
    assert run.model.training
    run.model.load_state_dict(run.best_weights)
    assert found == Task.evaluate(task, run.model, task.test, torch.device("cpu"))
    run.model.load_state_dict(before)
    assert found != Task.evaluate(task, run.model, task.test, torch.device("cpu"))
    assert task.events.count("test") == 1


def test_frank_wolfe_is_evaluated_at_its_committed_weights():
    # Five inner steps a commit, a look every two: at 2 and 4 nothing was committed yet, at 6 and 8
    # once. The model itself stands at the probe point before and after each look.
    task = make_task()
    run = make("frank-wolfe:inner_steps=5,lr=0.1", "8gradients", task, evaluate_every=2)
    scored, standing = [], []
    evaluate = run.task.evaluate

    def noted(model, examples, device):
        scored.append(weights_of(model))
        return evaluate(model, examples, device)

    object.__setattr__(run.task, "evaluate", noted)
    start = weights_of(run.model)
    phases = []
    for progress in run.run():
        if progress.record:
            standing.append(weights_of(run.model))
            phases.append(run.optimizer.inner_step)
    assert phases == [0, 2, 4, 1, 3]
    for k in (0, 1, 2):
        assert_same_weights(scored[k], start)
    assert_same_weights(scored[3], scored[4])
    assert not torch.equal(scored[3]["output.weight"], start["output.weight"])
    for k in (1, 2, 3, 4):
        assert not torch.equal(standing[k]["output.weight"], scored[k]["output.weight"])
    assert isinstance(run.optimizer, FrankWolfe)
    assert_same_weights(run.best_weights, scored[run.best["gradient_evaluations"] // 2])


# -- the clock ------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by hand."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(training, "time", clock)
    return clock


def slow(run, clock, step, look):
    """Lets each step and each look at the validation set take that many seconds."""
    original_step, original_evaluate = run.optimizer.step, run.task.evaluate

    def timed_step(*args):
        clock.now += step
        return original_step(*args)

    def timed_evaluate(*args):
        clock.now += look
        return original_evaluate(*args)

    run.optimizer.step = timed_step
    object.__setattr__(run.task, "evaluate", timed_evaluate)
    return run


def test_the_clock_excludes_evaluation_and_whoever_listens(clock):
    run = slow(make(budget="6gradients", evaluate_every=2), clock, step=1, look=100)
    records = []
    for progress in run.run():
        clock.now += 1000
        if progress.record:
            records.append(progress.record)
    assert [record["seconds"] for record in records] == [0, 2, 4, 6]
    assert run.seconds == 6


def test_a_budget_in_seconds_ends_with_the_step_that_spends_it(clock):
    run = slow(make(budget="5s", evaluate_every=2), clock, step=2, look=100)
    records = finish(run)
    # 2, 4 and 6 seconds after one, two and three steps.
    assert (run.status, run.closure.gradient_evaluations, run.seconds) == ("out of budget", 3, 6)
    assert [record["fraction"] for record in records] == [0, 0.8, 1]


def test_the_cost_of_the_target_is_in_training_seconds(clock):
    task = make_task(target=0.5, metrics=[0.9, 0.4, 0.9, 0.9])
    run = slow(make(budget="6gradients", task=task, evaluate_every=2), clock, step=1, look=100)
    finish(run)
    assert run.to_target == {"gradient_evaluations": 2, "seconds": 2}


# -- going on -------------------------------------------------------------------------------------


def build(optimizer, **options):
    """A small run by its config."""
    settings = dict(model="gru", hidden=4, budget="14gradients", evaluate_every=3)
    config = RunConfig(**settings | options, optimizer=optimizer)
    return build_training(config, make_task())


def outcome(run, records):
    """Everything that must not depend on an interruption."""
    without_seconds = [without_clock(record) for record in records]
    state = run.state_dict()
    return repr(without_seconds), state


@pytest.mark.parametrize(
    "optimizer",
    [
        "adam",
        "momentum",
        "muon",
        "frank-wolfe:inner_steps=5",
        "frank-wolfe:inner_steps=5,outer=plain,momentum=0.9,norm=spectral",
        "frank-wolfe:inner_steps=1,norm=inf,scale=entry",
    ],
)
# With five inner steps every phase.
@pytest.mark.parametrize("stop_at", partly([0, 5, 6, 7, 8, 9], [0, 7]))
def test_a_saved_run_goes_on_bit_for_bit(optimizer, stop_at):
    whole = build(optimizer)
    expected = outcome(whole, finish(whole))

    first = build(optimizer)
    records = []
    for progress in first.run(lambda: first.closure.gradient_evaluations >= stop_at):
        records += [progress.record] if progress.record else []
    assert first.status == "interrupted"
    state = through_a_file(first.state_dict())
    torch.manual_seed(99)
    later = build(optimizer)
    later.load_state_dict(state)
    records += finish(later)
    found = outcome(later, records)
    assert found[0] == expected[0]
    assert_equal_states(found[1], expected[1])
    assert later.test() == whole.test()


@pytest.mark.parametrize("optimizer", ["adam", "frank-wolfe:inner_steps=5"])
def test_batch_statistics_go_on_bit_for_bit(optimizer):
    options = dict(batch_norm=True, layers=2, clip=0.5, schedule="linear")
    whole = build(optimizer, **options)
    finish(whole)
    first = build(optimizer, **options)
    list(first.run(lambda: first.closure.gradient_evaluations >= 7))
    later = build(optimizer, **options)
    later.load_state_dict(through_a_file(first.state_dict()))
    finish(later)
    assert_same_weights(weights_of(later.model), weights_of(whole.model))
    assert_same_weights(later.best_weights, whole.best_weights)


def test_a_target_met_before_the_interruption_stays_met():
    def build_one():
        task = make_task(target=0.5)
        task.metrics.extend([0.9, 0.4])
        return make(budget="9gradients", task=task, evaluate_every=2)

    first = build_one()
    list(first.run(lambda: first.closure.gradient_evaluations >= 3))
    assert first.to_target["gradient_evaluations"] == 2
    later = build_one()
    later.load_state_dict(through_a_file(first.state_dict()))
    finish(later)
    assert (later.status, later.to_target) == ("reached target", first.to_target)
    assert later.best["gradient_evaluations"] in (2, 4, 6, 8, 9)


# -- networks by name -----------------------------------------------------------------------------


def pixels(steps=784):
    """A task of the shape of pixel-by-pixel MNIST, without its images."""
    rng = torch.Generator().manual_seed(3)
    inputs, classes = torch.randn(6, steps, 1, generator=rng), torch.arange(6)
    examples = Examples(inputs, classes)
    return Task("p", "", 1, 10, "cross-entropy", 1.0, examples, examples, examples, 6, 128, 3)


@pytest.mark.parametrize(("name", "magnitude"), [("indrnn-6", 5), ("indrnn-6-paper", 2)])
def test_indrnn_6_is_the_authors_network(name, magnitude):
    model = build_training(RunConfig(model=name, optimizer="adam"), pixels()).model
    # Layer 1: 128 + 128 + 128 (W, u, b), 5 layers of 128² + 256, 6 norms of 256, 1290 of read-out.
    assert sum(p.numel() for p in model.parameters()) == 384 + 5 * 16640 + 1536 + 1290 == 86410
    assert (len(model.recurrent), len(model.norms), model.dropout) == (6, 6, 0.1)
    assert model.readout == "last"
    bound = magnitude ** (1 / 784)
    for layer in model.recurrent:
        assert layer.recurrent_bound == pytest.approx(bound, rel=1e-12)
        assert layer.nonlinearity == "relu"
        assert (layer.bias_ih_l0 == 0).all()
    for norm in model.norms:
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    *others, last = [layer.weight_hh_l0.detach() for layer in model.recurrent]
    assert min(float(u.min()) for u in others) < 0.05
    if magnitude == 2:
        assert 1 / bound - 1e-6 <= last.min()
        assert last.max() <= bound + 1e-6
    else:
        assert last.min() < 0.1
    weight = model.output.weight.detach()
    # He's rule: mean square 2/128 over 1280 numbers, five deviations of √(2/1280) of it.
    square = float(weight.square().mean())
    assert square == pytest.approx(2 / 128, rel=5 * math.sqrt(2 / 1280))
    assert (model.output.bias == 0).all()


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        "adam",
        "frank-wolfe:inner_steps=2",
        "frank-wolfe:norm=inf,scale=entry",
        "muon",
        "soap",
    ],
)
@pytest.mark.parametrize("name", ["indrnn", "indrnn-6", "indrnn-6-paper"])
def test_the_recurrent_bound_holds_whatever_the_optimizer_does(optimizer, name):
    task = pixels(steps=10)
    config = RunConfig(model=name, hidden=4, optimizer=optimizer, lr=5.0, schedule="constant")
    run = build_training(config, task)
    bound = (2 if "paper" in name else 5) ** (1 / 10)
    exceeded = False
    for _ in range(4):
        run._step(0.0)
        recurrent = [layer.weight_hh_l0 for layer in run.model.recurrent]
        exceeded |= any(float(u.detach().abs().max()) > bound * (1 + 1e-6) for u in recurrent)
        run.model(task.test.inputs.transpose(0, 1))
        for u in recurrent:
            assert float(u.detach().abs().max()) <= bound * (1 + 1e-6)
    assert exceeded  # before the forward pass


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("layers", 3, "layers=6, got (layers=)?3"),
        ("dropout", 0.5, "dropout=0.1, got (dropout=)?0.5"),
        (
            "initialization",
            "normal",
            "initialization=indrnn(-paper)?, got (initialization=)?normal",
        ),
        # What other networks have by default is no less a choice.
        ("layers", 1, "layers=6, got (layers=)?1"),
        ("dropout", 0.0, "dropout=0.1, got (dropout=)?0.0"),
        (
            "initialization",
            "default",
            "initialization=indrnn(-paper)?, got (initialization=)?default",
        ),
    ],
)
@pytest.mark.parametrize("name", ["indrnn-6", "indrnn-6-paper"])
def test_settings_that_a_network_has_already_are_refused(name, option, value, words):
    with pytest.raises(UserError, match=f"model '{name}' has {words}\\.$"):
        build_training(RunConfig(model=name, **{option: value}), pixels(10))
    matching = dict(layers=6, dropout=0.1, initialization="indrnn", batch_norm=True)
    for some in ({}, {option: matching[option]}, matching):
        model = build_training(RunConfig(model=name, hidden=3, **some), pixels(10)).model
        assert (len(model.recurrent), len(model.norms), model.dropout) == (6, 6, 0.1)
        assert (model.output.bias == 0).all()


@pytest.mark.parametrize("name", ["rnn", "gru", "indrnn"])
def test_other_networks_have_one_layer_without_dropout_unless_told_otherwise(name):
    def weights(**options):
        model = build_training(RunConfig(model=name, hidden=3, **options), pixels(10)).model
        return model, list(model.state_dict().values())

    plain, unset = weights()
    assert (len(plain.recurrent), len(plain.norms), plain.dropout) == (1, 0, 0)
    _, told = weights(layers=1, dropout=0.0, initialization="default")
    assert len(unset) == len(told)
    assert all(map(torch.equal, unset, told))
    other, _ = weights(layers=2, dropout=0.25, batch_norm=True)
    assert (len(other.recurrent), len(other.norms), other.dropout) == (2, 2, 0.25)
    small = weights(initialization="normal")[1]
    assert max(float(value.abs().max()) for value in small) < 0.06
