"""Probabilities that say how often they are right: `--calibrate`, one temperature for a network.

The outputs z before softmax (of several labels: before the sigmoid) are divided by a temperature T,
which minimises the mean negative log-likelihood of the validation targets. No weight changes, nor
which class is the most probable.

    min over T > 0 of  -(1 - ε) mean_i log softmax(z_i / T)[y_i] - ε mean_ik log softmax(z_i / T)[k]

with ε = 1 / (n + 1) for n targets: as if there were one more target, of a class drawn at random.
Without it, a network that is right on all validation series would get T = 0, and so be certain of
everything (Platt 1999 does the same to two classes). With many targets it changes nothing.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 9.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.config.errors import UserError
from rnnopt.runs.step_scores import step_outputs
from rnnopt.tasks import Task
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.pieces import outputs_of
from rnnopt.training.data_parallel import started
from rnnopt.training.loop import Training

BINS = 15  # of confidence, of equal width, as in the paper
LEAST, MOST = 1e-2, 1e2  # temperatures
HALVINGS = 60


def check_calibrates(task: Task) -> None:
    """Raises UserError if a task's network has no probabilities to calibrate, or no data to."""
    if started() > 1:
        raise UserError("--calibrate works in one process: leave out torchrun.")
    if task.loss == "mse":
        raise UserError("--calibrate is for classes and labels, got numbers to predict.")


def outputs_and_targets(
    task: Task, model: nn.Module, examples: Examples, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A network's outputs (n, output) in float64, and classes (n,) or labels (n, output).

    Each series counts once; with targets at every step, each step that has one.
    """
    targets = examples.targets.cpu()
    if task.readout != "every":
        return outputs_of(model, examples, device).double(), targets
    found = torch.cat([torch.from_numpy(one) for one in step_outputs(model, examples, device)])
    lengths = examples.lengths
    if lengths is not None:
        within = torch.arange(targets.shape[1]) < lengths.cpu()[:, None]
        targets = targets[within]
    targets = targets.flatten()
    return found[targets >= 0].double(), targets[targets >= 0]


def temperature_of(outputs: Tensor, targets: Tensor) -> float:
    """The temperature that minimises the log loss, by bisection on its derivative.

    As a function of 1/T the log loss is convex.

    Args:
        outputs: (n, output), before softmax or sigmoid, float64.
        targets: (n,) classes, or (n, output) labels of 0 and 1.
    """
    if not len(outputs) or not bool(outputs.isfinite().all()):
        return 1.0
    share = 1 / (len(outputs) + 1)
    if targets.ndim == 1:
        own = (1 - share) * outputs.gather(1, targets[:, None]).squeeze(1)
        wanted = own + share * outputs.mean(1)
    else:
        wanted = (((1 - share) * targets + share / 2) * outputs).sum(1)

    def falls(factor: float) -> bool:
        """Whether the loss still falls with 1/T, at 1/T = factor."""
        scaled = outputs * factor
        likely = scaled.softmax(1) if targets.ndim == 1 else scaled.sigmoid()
        return bool(((likely * outputs).sum(1) - wanted).mean() < 0)

    low, high = math.log(1 / MOST), math.log(1 / LEAST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falls(math.exp(middle)) else (low, middle)
    return math.exp(-(low + high) / 2)


def temperature_of_best(training: Training) -> float:
    """The temperature of a run's best weights, on its validation data."""
    task = training.task
    with training.best_model() as model:
        return temperature_of(*outputs_and_targets(task, model, task.validation, training.device))


def temperature_before_refit(training: Training, early: bool) -> float:
    """The temperature of the first fit that holds for the second one, which learns all series.

    A network grows surer the longer it is trained. So it is that of the weights which were trained
    as long as the refit's will be: the last ones, or the best ones where the run ended early.
    """
    if early:
        return temperature_of_best(training)
    task, model = training.task, training.model
    with training.learner.committed():
        found = outputs_and_targets(task, model.eval(), task.validation, training.device)
    model.train()
    return temperature_of(*found)


def log_loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of classes, or of each label."""
    if targets.ndim == 1:
        return float(nn.functional.cross_entropy(outputs, targets))
    return float(nn.functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype)))


def calibration_error(outputs: Tensor, targets: Tensor) -> float:
    """Expected calibration error: mean |confidence - accuracy| over bins, weighted by their counts.

    The confidence is the probability of the predicted class; of each label that of the prediction,
    yes or no.
    """
    if targets.ndim == 1:
        confidence, predicted = outputs.softmax(1).max(1)
        right = predicted == targets
    else:
        likely = outputs.sigmoid().flatten()
        confidence = torch.maximum(likely, 1 - likely)
        right = (likely > 0.5) == (targets.flatten() > 0.5)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS)  # (0, 1/15], (1/15, 2/15], …
    gaps = torch.zeros(BINS + 1, dtype=torch.float64)
    gaps.index_add_(0, bins, confidence.double() - right.double())
    return float(gaps.abs().sum() / len(bins))


def scores_at(outputs: Tensor, targets: Tensor, temperature: float) -> dict[str, float]:
    """Log loss and expected calibration error with a temperature."""
    scaled = outputs / temperature
    return {"log loss": log_loss(scaled, targets), "ECE": calibration_error(scaled, targets)}


def calibrated(
    task: Task, model: nn.Module, device: torch.device, temperature: float
) -> dict[str, Any]:
    """What a run stores of its calibration: test scores before and after."""
    outputs, targets = outputs_and_targets(task, model, task.test, device)
    return {
        "temperature": temperature,
        "validation": len(task.validation),
        "test": len(task.test),
        "before": scores_at(outputs, targets, 1.0),
        "after": scores_at(outputs, targets, temperature),
    }


def line_of(found: dict[str, Any]) -> str:
    """The calibration of a run in words, without a full stop."""
    pairs = (f"{name} {found['before'][name]:.4f} → {one:.4f}" for name, one in
             found["after"].items())  # fmt: skip
    temperature = found["temperature"]
    at_end = " (the largest allowed: there the outputs say nothing of the targets)"
    return (
        f"calibrated by temperature {temperature:.3f} on {found['validation']} validation series"
        f"{at_end * (temperature > 0.999 * MOST)}: test {', '.join(pairs)}"
    )
