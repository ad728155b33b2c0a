"""What a user chooses about any task: its metric, and how much its classes count in the loss."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.config.metric_names import METRICS, metric_name
from rnnopt.tasks.examples import Examples, each_step
from rnnopt.tasks.metrics import check_metric
from rnnopt.tasks.task import Task

ClassWeight = Literal["balanced"] | Mapping[str, float]


def with_choices(
    task: Task,
    metric: str | None = None,
    class_weight: ClassWeight | None = None,
    target: float | None = None,
) -> Task:
    """The task with another metric, and with classes that count unequally in the loss.

    Args:
        task: a task.
        metric: name of `METRICS`, in scikit-learn's or in our spelling; None keeps the task's.
        class_weight: "balanced": n/(k·count) for a class with count of the n training sequences (or
            true steps), of k classes; or weights by the name of the class; None leaves all alike.
            They are scaled to the mean 1 over the training part, so that the loss is a weighted
            mean.
        target: metric to reach. None: the task's own with its own metric, else the best possible
            value.

    Raises:
        UserError: the metric or the weights do not fit the task.
    """
    if metric is not None and (name := metric_name(metric)) != task.metric:
        check_metric(name, task.loss != "mse", task.labels)
        if name == "nats":
            raise UserError(f"--metric nats is for text, take log-loss for {task.name}.")
        _check_classes(task, name)
        goal = METRICS[name].perfect if target is None else target
        task = replace(task, metric=name, target=goal)
    if class_weight is not None:
        task = replace(task, class_weights=class_weights(task, class_weight))
    return task


def class_weights(task: Task, chosen: ClassWeight) -> tuple[float, ...]:
    """The weight of each class in the loss, of mean 1 over the training part.

    Raises:
        UserError: the task has no classes, or draws its sequences, or a weight does not fit.
    """
    if task.loss == "mse" or task.labels:
        raise UserError(f"--class-weight is for one class a sequence, and {task.name} has none.")
    if not isinstance(task.train, Examples):
        raise UserError(f"--class-weight needs stored sequences, and {task.name} draws its own.")
    if task.metric == "nats":
        raise UserError(f"--class-weight is not for text: leave it out for {task.name}.")
    counts = counts_of(task.train, max(2, task.output_size))
    if chosen == "balanced":
        present = counts > 0
        weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
    else:
        weights = _by_name(task, chosen)
    mean = float((weights * counts).sum() / counts.sum())
    if not mean > 0:
        raise UserError("--class-weight must leave a class of the training part a weight above 0.")
    return tuple((weights / mean).tolist())


def counts_of(examples: Examples, classes: int) -> Tensor:
    """Sequences, or true steps with a class, of each class: (classes,) in float64."""
    return torch.bincount(true_classes(examples), minlength=classes).double()


def true_classes(examples: Examples) -> Tensor:
    """The classes of all sequences (count,), or of all true steps that have one."""
    targets = examples.targets
    if targets.is_floating_point():  # of one output: 0.0 and 1.0
        return (targets.flatten() > 0.5).long().cpu()
    if each_step(targets) and examples.lengths is not None:
        steps = torch.arange(targets.shape[1], device=targets.device)
        targets = targets[steps < examples.lengths[:, None].to(targets.device)]
    return targets[targets >= 0].flatten().cpu()


def class_names(task: Task) -> list[str]:
    """The classes of a task, for people: as its own data call them, else their numbers."""
    if task.data is not None and task.data.preparation.classes:
        return list(task.data.preparation.classes)
    return [str(number) for number in range(max(2, task.output_size))]


def _by_name(task: Task, chosen: Mapping[str, float]) -> Tensor:
    """Weights as given; 1 of classes that are not named."""
    names = class_names(task)
    given = {str(name): float(weight) for name, weight in chosen.items()}
    for name, weight in given.items():
        if name not in names:
            raise UserError(f"class_weight names {name!r}, and the classes are {', '.join(names)}.")
        if not 0 <= weight < torch.inf:
            raise UserError(f"class_weight needs numbers of at least 0, got {weight} of {name!r}.")
    return torch.tensor([given.get(name, 1.0) for name in names], dtype=torch.float64)


def _check_classes(task: Task, metric: str) -> None:
    """Raises UserError for a metric of ranks where the validation part has one class alone."""
    if metric not in ("roc-auc", "average-precision") or task.labels:
        return
    if len(true_classes(task.validation).unique()) < 2:
        raise UserError(
            f"--metric {metric} needs validation sequences of two classes at least, got those of"
            " one: hold out more by --validation."
        )
