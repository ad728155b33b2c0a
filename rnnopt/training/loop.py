"""The training loop: yields progress, prints nothing, opens no file.

Its order is fixed: evaluate if due → stop at target, budget, interruption or divergence → one
learner step → yield. One gradient evaluation is one minibatch forward and backward; the clock and
the counters stop during validation. A `Training` saved after any step resumes bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rnnopt.config import old_names
from rnnopt.config.metric_names import lower_is_better
from rnnopt.config.old_names import renamed
from rnnopt.config.run_config import Budget, OnNonfinite, Schedule
from rnnopt.distributed import any_of, mean_numbers
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.ranking import rank
from rnnopt.tasks.task import Task
from rnnopt.training.closure import Closure
from rnnopt.training.learner import as_learner
from rnnopt.training.nonfinite import NonFinite
from rnnopt.training.schedules import Plateau, rate_factor
from rnnopt.training.tbptt import Truncation

Status = Literal[
    "running", "reached target", "out of budget", "stopped early", "diverged", "interrupted"
]
CHECK_EVERY = 10  # gradient evaluations between checks of the loss, which synchronise with a GPU


@dataclass(frozen=True)
class Progress:
    """Progress of a run after a step.

    Args:
        gradient_evaluations, epochs, seconds: spent on training so far.
        fraction: fraction of the budget spent, 0 … 1.
        record: a line of the run's history if the model was just evaluated, else None.
        best: the best validation metric so far, None before the first evaluation.
    """

    gradient_evaluations: float
    epochs: float
    seconds: float
    fraction: float
    record: dict[str, float] | None
    best: float | None = None


class Training:
    """One run in progress.

    Args:
        model: model to train.
        optimizer: a `Learner` or any torch optimizer.
        task: task to learn.
        batches: training batches of the run.
        budget: length of the run.
        schedule: schedule of the learning rate over the budget.
        plateau: state of the plateau schedules; needed only with them.
        clip, clip_value, truncation: as in `Closure`.
        watch_test: whether each evaluation also records the test metric, for comparison with
            publications that report its best value.
        every_epoch: whether to evaluate once per epoch, instead of by `evaluate_every`.
        evaluate_every: gradient evaluations between two evaluations on the validation set; None for
            an epoch or a twentieth of the budget, whichever is shorter.
        stop_at_target: whether reaching the target ends the run.
        device: device of the model.
        on_nonfinite: what to do when a loss or a gradient is not finite, see `nonfinite`.
        patience: epochs without a best evaluation after which the run ends; None for no limit.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        task: Task,
        batches: Batches,
        budget: Budget,
        schedule: Schedule = "constant",
        clip: float | None = None,
        evaluate_every: int | None = None,
        stop_at_target: bool = False,
        device: torch.device | None = None,
        *,
        clip_value: float | None = None,
        truncation: Truncation | None = None,
        plateau: Plateau | None = None,
        watch_test: bool = False,
        every_epoch: bool = False,
        on_nonfinite: OnNonfinite = "stop",
        patience: float | None = None,
    ):
        self.model, self.optimizer, self.task, self.batches = model, optimizer, task, batches
        self.budget, self.schedule, self.stop_at_target = budget, schedule, stop_at_target
        self.device = device or torch.device("cpu")
        self.plateau, self.watch_test, self.patience = plateau, watch_test, patience
        whole = batches.batch_size >= task.epoch_size
        self.learner = learner = as_learner(optimizer)
        full_batch = whole and learner.full_batch
        self.closure = Closure(
            model, batches, self.device, clip, clip_value, truncation, full_batch
        )
        self.closure.averages = batches.shared and learner.local_steps is None
        # Gradient evaluations between two averages of losses and seconds over the processes.
        self.agree_every = learner.local_steps or 1
        self.own_sums = [0.0, 0.0, 0.0]  # losses, their number and seconds since the last average
        self.nonfinite = NonFinite(on_nonfinite, model, learner, self.closure)
        self.base_lrs = [group["lr"] for group in learner.param_groups]
        if evaluate_every is None:
            price = self.closure.price * learner.evaluations_per_step
            evaluate_every = math.ceil(batches.per_epoch * price)
            if budget.unit != "seconds":
                evaluate_every = min(evaluate_every, math.ceil(self._evaluations_allowed() / 20))
        self.every_epoch = every_epoch
        self.evaluate_every = batches.per_epoch if every_epoch else evaluate_every
        self.status: Status = "running"
        self.seconds = 0.0
        self.next_evaluation = 0.0  # in units of `_clock`
        self.records = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.loss_count = 0
        self.improved_at = 0.0  # epochs at the best evaluation
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] = {}
        self.to_target: dict[str, float] = {}

    # -- the loop ----------------------------------------------------------------------------------

    def run(self, stop_requested: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Trains until the status is no longer "running"; `stop_requested` interrupts it."""
        self.status = "running"
        while True:
            fraction = self._fraction()
            record: dict[str, float] | None = None
            if self.nonfinite.gave_up or self._loss_is_bad(fraction):
                self.status = "diverged"
            elif self._evaluation_is_due(fraction):
                record = self._evaluate() | {"fraction": fraction}
            if self.status == "running" and self.to_target and self.stop_at_target:
                self.status = "reached target"
            if self.status == "running" and fraction >= 1:
                over: Status = "diverged" if self.nonfinite.lost else "out of budget"
                self.status = "reached target" if self.to_target else over
            if self.status == "running" and record and self._is_patience_over():
                self.status = "diverged" if self.nonfinite.lost else "stopped early"
            if self.status == "running" and self._stops(stop_requested):
                self.status = "interrupted"
            if record or self.status != "running":
                yield self._progress(fraction, record)
            if self.status != "running":
                return
            self._step(fraction)
            if not self._evaluation_is_due(self._fraction()):
                yield self._progress(self._fraction(), None)

    def _step(self, fraction: float) -> None:
        started = time.perf_counter()
        if self.plateau is None:
            factor = rate_factor(self.schedule, fraction)
        else:
            factor = self.plateau.factor
        for group, rate in zip(self.learner.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate * factor
        loss = self._learn()
        if loss is None:
            self.closure.leave_out()
        else:
            self.closure.advance()
        if self.device.type == "cuda" and self._clock >= self.next_evaluation:
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - started
        if self.batches.shared:
            self._add_own(loss, seconds)
            return
        if loss is not None:
            self.loss_sum += loss
            self.loss_count += 1
        self.seconds += seconds

    def _add_own(self, loss: Tensor | None, seconds: float) -> None:
        """Adds this process's loss and seconds; averages them over the processes if due."""
        found = (0.0, 0) if loss is None else (float(loss), 1)
        self.own_sums = [a + b for a, b in zip(self.own_sums, (*found, seconds), strict=True)]
        if self.closure.calls % self.agree_every == 0:
            self._agree()

    def _agree(self) -> None:
        """Adds the means over the processes, so that all processes take the same decisions."""
        loss, count, seconds = mean_numbers(self.own_sums)
        self.loss_sum += loss
        self.loss_count += round(count)
        self.seconds += seconds
        self.own_sums = [0.0, 0.0, 0.0]

    def _stops(self, stop_requested: Callable[[], bool]) -> bool:
        if not self.batches.shared:
            return stop_requested()
        return self.own_sums[1] == 0 and any_of(stop_requested())

    def _learn(self) -> Tensor | None:
        """Takes the learner's step; returns its loss, or None if the step is skipped."""
        self.nonfinite.before_step()
        calls = self.closure.calls
        loss = self.learner.step(self.closure).detach()
        if self.closure.calls == calls:  # the learner needs no gradients
            self.closure.calls += self.learner.evaluations_per_step
        return None if self.nonfinite.refuses(loss) else loss

    def _evaluate(self) -> dict[str, float]:
        """Evaluates the committed weights on the validation set; keeps the best ones."""
        self.next_evaluation = self._clock + self.evaluate_every
        if self.batches.shared:
            self._agree()
        with self.learner.committed():
            loss, metric = self.task.evaluate(self.model, self.task.validation, self.device)
            if self.batches.shared:
                loss, metric = mean_numbers([loss, metric])
            if self._is_best(metric, loss):
                self.improved_at = self.closure.epochs
                weights = self.model.state_dict()
                self.best_weights = {k: v.detach().clone() for k, v in weights.items()}
                self.best = dict(
                    gradient_evaluations=self.closure.gradient_evaluations,
                    validation_metric=metric,
                    validation_loss=loss,
                )
            watched: dict[str, float] = {}
            if self.watch_test:
                _, watched["test_metric"] = self.task.evaluate(
                    self.model, self.task.test, self.device
                )
        watched |= self.learner.metrics()
        lr = float(self.learner.param_groups[0]["lr"])
        if self.plateau is not None:
            improved = self.best["gradient_evaluations"] == self.closure.gradient_evaluations
            self.plateau.after_evaluation(self.closure.epochs, improved, self.model, self.learner)
        self.nonfinite.after_evaluation(loss)
        spent = dict(gradient_evaluations=self.closure.gradient_evaluations, seconds=self.seconds)
        if self.task.reached(metric) and not self.to_target:
            self.to_target = dict(spent)
        train_loss = float(self.loss_sum) / self.loss_count if self.loss_count else math.nan
        self.loss_sum.zero_()
        self.loss_count = 0
        self.records += 1
        return dict(
            **spent,
            epochs=self.closure.epochs,
            train_loss=train_loss,
            validation_loss=loss,
            validation_metric=metric,
            lr=lr,
            **watched,
            **self.nonfinite.counts(),
        )

    def _is_best(self, metric: float, loss: float) -> bool:
        """Whether an evaluation is better than the best so far."""
        if not self.best:
            return True
        lower = lower_is_better(self.task.metric)
        known = self.best.get("validation_loss", math.inf)  # missing in older files
        best = rank(self.best["validation_metric"], known, lower)
        return rank(metric, loss, lower) > best

    def _is_patience_over(self) -> bool:
        """Whether no evaluation was the best for `patience` epochs, which are rounded fractions."""
        waited = self.closure.epochs - self.improved_at
        return self.patience is not None and waited >= self.patience - 1e-9

    def test(self) -> tuple[float, float]:
        """Loss and metric on the test set, with the weights that were best on validation data."""
        with self.best_model() as model:
            return self.task.evaluate(model, self.task.test, self.device)

    @contextmanager
    def best_model(self) -> Iterator[nn.Module]:
        """The model in evaluation mode with the weights that were best on validation data."""
        current = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        was_training = self.model.training
        self.model.load_state_dict(self.best_weights)
        try:
            yield self.model.eval()
        finally:
            self.model.load_state_dict(current)
            self.model.train(was_training)

    # -- counting ----------------------------------------------------------------------------------

    def allowed(self) -> tuple[float, float] | None:
        """Gradient evaluations and epochs of the budget; None if it is in seconds."""
        if self.budget.unit == "seconds":
            return None
        evaluations = self._evaluations_allowed()
        return evaluations, evaluations / self.closure.price / self.batches.per_epoch

    def _evaluations_allowed(self) -> float:
        if self.budget.unit == "epochs":
            return self._minibatches_allowed() * self.closure.price
        return math.ceil(self.budget.amount)

    def _fraction(self) -> float:
        if self.budget.unit == "seconds":
            return min(1.0, self.seconds / self.budget.amount)
        if self.budget.unit == "epochs":  # in whole minibatches
            return min(1.0, self.closure.minibatches / self._minibatches_allowed())
        return min(1.0, self.closure.gradient_evaluations / math.ceil(self.budget.amount))

    def _minibatches_allowed(self) -> int:
        return math.ceil(self.budget.amount * self.batches.per_epoch)

    @property
    def _clock(self) -> float:
        """The count that schedules evaluations."""
        return self.closure.minibatches if self.every_epoch else self.closure.gradient_evaluations

    def _evaluation_is_due(self, fraction: float) -> bool:
        evaluated_at, now = self.next_evaluation - self.evaluate_every, self._clock
        return now >= self.next_evaluation or (fraction >= 1 and now > evaluated_at)

    def _loss_is_bad(self, fraction: float) -> bool:
        due = (
            self.closure.calls % CHECK_EVERY == 0
            or self._clock >= self.next_evaluation
            or fraction >= 1
        )
        return due and not math.isfinite(float(self.loss_sum))

    def _progress(self, fraction: float, record: dict[str, float] | None) -> Progress:
        closure, best = self.closure, self.best.get("validation_metric")
        return Progress(
            closure.gradient_evaluations, closure.epochs, self.seconds, fraction, record, best
        )

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to resume bit for bit."""
        state: dict[str, Any] = {name: getattr(self, name) for name in self.SAVED}
        return state | dict(
            model=self.model.state_dict(),
            optimizer=self.learner.state_dict(),
            closure=self.closure.state_dict(),
            nonfinite=self.nonfinite.state_dict(),
            plateau=None if self.plateau is None else self.plateau.state_dict(),
            random=torch.get_rng_state(),
            device_random=self._device_random(),
        )

    def _device_random(self) -> Tensor | None:
        """State of the GPU's generator, which draws the dropout masks there."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    SAVED = (
        "seconds", "next_evaluation", "records", "loss_sum", "loss_count", "best", "best_weights",
        "to_target", "improved_at",
    )  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved `state`."""
        state = {"improved_at": 0.0} | renamed(state, old_names.TRAINING)  # which older ones lack
        for name in self.SAVED:
            setattr(self, name, state[name])
        self.best = renamed(self.best, old_names.RECORD)
        self.to_target = renamed(self.to_target, old_names.RECORD)
        self.loss_sum = self.loss_sum.to(self.device)
        self.model.load_state_dict(state["model"])
        self.learner.load_state_dict(state["optimizer"])
        self.closure.load_state_dict(state["closure"])
        if "nonfinite" in state:  # missing in older files
            self.nonfinite.load_state_dict(state["nonfinite"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        torch.set_rng_state(state["random"])
        if state.get("device_random") is not None:
            torch.cuda.set_rng_state(state["device_random"], self.device)
