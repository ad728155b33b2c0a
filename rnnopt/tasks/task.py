"""A task: a loss, a metric, a target declared in advance, and three splits.

The splits and the validation and test sequences are the same in every run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rnnopt.config.data_config import Kind
from rnnopt.config.metric_names import lower_is_better
from rnnopt.layers.kernels.portable import last_state
from rnnopt.layers.network_options import Readout
from rnnopt.tasks.examples import Batch, Examples, are_present, each_step
from rnnopt.tasks.metrics import OF_LOSS, metric_of
from rnnopt.tasks.pieces import answered, pieces

if TYPE_CHECKING:
    from rnnopt.tasks.user_data.own_data import OwnData


Loss = Literal["cross-entropy", "mse", "binary-mse", "binary-cross-entropy"]
LOSSES: dict[Kind, Loss] = {  # of the user's own data, by their kind
    "classification": "cross-entropy",
    "regression": "mse",
    "multilabel": "binary-cross-entropy",
}
# Draws a number of sequences from a generator.
Draw = Callable[[int, torch.Generator], Batch]


@dataclass(frozen=True)
class Task:
    """A problem to train on.

    Args:
        name: name on the command line.
        summary: description in one line.
        input_size, output_size: features per step; number of classes or of values to predict.
        loss: "cross-entropy" (targets are classes), "mse", or one output for two classes (targets
            (count, 1) of 0.0 and 1.0): "binary-mse" predicts class 1 above 1/2,
            "binary-cross-entropy", whose output is a logit, above 0. With several outputs the
            latter is for several labels a sequence, targets (count, label).
        target: the metric to reach, declared in advance: mean squared error for mse, else
            accuracy in 0 … 1, or nats.
        train: stored examples, or a function that draws new ones.
        validation, test: stored examples.
        epoch_size: sequences per epoch, if `train` draws them.
        hidden_size, batch_size: default sizes.
        in_nats: whether the metric is the cross-entropy instead of accuracy.
        data: facts about the user's own data; None for built-in tasks.
        metric: name of the metric, one of `METRICS`. Unset: mse, nats or accuracy, by the loss.
        class_weights: weight of each class in the loss, as `choices.class_weights` gives them;
            None means 1.
    """

    name: str
    summary: str
    input_size: int
    output_size: int
    loss: Loss
    target: float
    train: Examples | Draw
    validation: Examples
    test: Examples
    epoch_size: int
    hidden_size: int = 128
    batch_size: int = 128
    in_nats: bool = False
    data: "OwnData | None" = None
    metric: str = ""
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.metric:
            of_classes = "nats" if self.in_nats else "accuracy"
            object.__setattr__(self, "metric", "mse" if self.loss == "mse" else of_classes)

    def facts(self) -> dict[str, str | float]:
        """The facts that a report needs about the task; stored with each run."""
        names = ("summary", "loss", "metric", "target")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device) -> "Task":
        """The same task with its stored sequences on `device`, so that no batch is copied there."""
        train = self.train.to(device) if isinstance(self.train, Examples) else self.train
        return replace(
            self, train=train, validation=self.validation.to(device), test=self.test.to(device)
        )

    @property
    def steps(self) -> int:
        """Length of the longest training or validation sequence."""
        parts = [self.train, self.validation]
        return max(part.steps for part in parts if isinstance(part, Examples))

    @property
    def ragged(self) -> bool:
        """Whether the sequences of a minibatch may have different lengths."""
        parts = [self.train, self.validation]
        return any(isinstance(part, Examples) and part.lengths is not None for part in parts)

    @property
    def readout(self) -> Readout:
        """Default read-out of models; "every" if each step has its own target."""
        return "every" if each_step(self.validation.targets) else "last"

    @property
    def labels(self) -> bool:
        """Whether a sequence has several labels, each 0 or 1, and not one class."""
        return self.loss == "binary-cross-entropy" and self.output_size > 1

    def is_better(self, metric: float, other: float) -> bool:
        """Whether the first of two metrics is strictly better; NaN never is."""
        return metric < other if lower_is_better(self.metric) else metric > other

    def reached(self, metric: float) -> bool:
        """Whether a metric reaches the target."""
        return metric == self.target or self.is_better(metric, self.target)

    def loss_of(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean loss of outputs (batch, output), or (time, batch, output) over all true steps.

        Missing targets do not count; without any target the loss is 0.
        """
        outputs, targets, weights = _pairs(outputs, batch)
        if not len(outputs):
            return outputs.sum()
        weights = self._of_loss(weights, targets)
        reduction = "mean" if weights is None else "none"
        if self.loss == "cross-entropy":
            losses = functional.cross_entropy(outputs, targets, reduction=reduction)
        elif self.loss == "binary-cross-entropy":
            losses = functional.binary_cross_entropy_with_logits(
                outputs, targets, reduction=reduction
            )
        else:
            losses = functional.mse_loss(outputs, targets, reduction=reduction)
        if weights is None:
            return losses
        return (weights * losses.reshape(len(losses), -1).mean(1)).mean()

    def _of_loss(self, weights: Tensor | None, targets: Tensor) -> Tensor | None:
        """Weights in the loss, from those of the sequences or steps (count,): times the class's."""
        if self.class_weights is None:
            return weights
        classes = (targets > 0.5)[:, 0].long() if targets.is_floating_point() else targets
        each = targets.new_tensor(self.class_weights, dtype=torch.float32)[classes]
        return each if weights is None else each * weights

    def right(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Which outputs (count, output) predict the class, or all labels, of their targets."""
        if self.labels:
            return (self.predicted(answers) == (targets > 0.5)).all(-1)
        classes = targets if self.loss == "cross-entropy" else targets > 0.5
        return self.predicted(answers) == classes

    def predicted(self, answers: Tensor) -> Tensor:
        """Classes predicted by outputs (count, output); True is the second of two classes."""
        if self.loss == "cross-entropy":
            return answers.argmax(-1)
        return answers > (0.0 if self.loss == "binary-cross-entropy" else 0.5)

    def _counted(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The outputs that enter a metric.

        The user's own series have one target each: if the model has outputs at every step, only the
        one at the last true step counts, as in `rnnopt predict`.
        """
        if self.data is None or outputs.ndim == 2 or each_step(batch.targets):
            return outputs
        return last_state(outputs, batch.lengths)

    @torch.no_grad()
    def evaluate(
        self, model: torch.nn.Module, examples: Examples, device: torch.device
    ) -> tuple[float, float]:
        """Loss and metric of `model` over all examples, in evaluation mode."""
        was_training = model.training
        model.eval()
        loss, correct, count, loss_count = 0.0, 0.0, 0.0, 0.0
        found: list[tuple[Tensor, Tensor, Tensor | None]] = []
        free = None if self.data is None else self.data.preparation.free_run
        for _, _, given, batch in answered(model, examples, device, free):
            outputs = self._counted(given, batch)
            answers, targets, weights = _pairs(outputs, batch)
            # Each number counts alike, whether or not others of its step are missing in this piece.
            width = targets.shape[1] if self.loss == "mse" else 1
            loss += float(self.loss_of(outputs, batch)) * len(answers) * width
            # Number of sequences, or of true steps if the model has outputs at each.
            count += _total(weights, targets)
            loss_count += _total(self._of_loss(weights, targets), targets) * width
            if self.metric == "accuracy":
                right = self.right(answers, targets)
                correct += float((right if weights is None else right.flatten() * weights).sum())
            elif self.metric not in OF_LOSS:
                found.append((answers, targets, weights))
        model.train(was_training)
        loss /= loss_count
        if found:
            return loss, self._metric_of(found)
        return loss, correct / count if self.metric == "accuracy" else loss

    def _metric_of(self, found: list[tuple[Tensor, Tensor, Tensor | None]]) -> float:
        """The metric of outputs, targets and weights that came in pieces."""
        if len({part[1].shape[1:] for part in found}) > 1:  # numbers are missing in some pieces
            found = [_one_number_a_row(*part) for part in found]
        answers = torch.cat([part[0] for part in found])
        targets = torch.cat([part[1] for part in found])
        weights = [part[2] for part in found if part[2] is not None]
        logits = self.loss != "binary-mse"
        return metric_of(
            self.metric, answers, targets, torch.cat(weights) if weights else None, logits
        )

    @torch.no_grad()
    def classify(
        self, model: torch.nn.Module, examples: Examples, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Predicted and true classes (count,) of all examples, by `model` in evaluation mode.

        If the model has outputs at every step, there is one pair per true step, in any order.

        Raises:
            ValueError: the task has no classes.
        """
        if self.loss == "mse" or self.labels:
            raise ValueError(
                f"classify needs a task with classes, got {self.name} of loss {self.loss}."
            )
        was_training = model.training
        model.eval()
        places, found, true = [], [], []
        for index, piece in pieces(examples, model):
            batch = piece.to(device)
            outputs = self._counted(model(batch.inputs, batch.lengths), batch)
            answers, targets = _pairs(outputs, batch)[:2]
            places.append(index)
            found.append(self.predicted(answers).long().flatten().cpu())
            true.append(
                (targets > 0.5 if targets.is_floating_point() else targets).long().flatten()
            )
        model.train(was_training)
        answered, known = torch.cat(found), torch.cat(true).cpu()
        if len(answered) != len(examples):
            return answered, known
        order = torch.cat(places).argsort()
        return answered[order], known[order]


def _total(weights: Tensor | None, targets: Tensor) -> float:
    return len(targets) if weights is None else float(weights.sum())


def _one_number_a_row(
    answers: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(count, outputs) as (count · outputs, 1)."""
    each = None if weights is None else weights.repeat_interleave(targets.shape[1])
    return answers.reshape(-1, 1), targets.reshape(-1, 1), each


def _pairs(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, their targets and their weights, one per row.

    If the model has outputs at every step, a sequence's weight applies to each of its true steps,
    and so does its target, unless the steps have their own targets. A row without a target is left
    out; where a row has only some of its numbers, each number becomes a row (count, 1).
    """
    if outputs.ndim == 2:
        return outputs, batch.targets, batch.weights
    own = each_step(batch.targets)
    if own:
        targets = batch.targets.transpose(0, 1)
    else:
        targets = batch.targets.expand(len(outputs), *batch.targets.shape)
    steps = torch.arange(len(outputs), device=outputs.device)[:, None]
    lengths = len(outputs) if batch.lengths is None else batch.lengths
    valid = (steps < lengths).expand(outputs.shape[:2])
    if batch.ignored is not None:
        valid = valid & (steps >= batch.ignored)
    if own:
        present = are_present(targets)
        valid = valid & (present if present.ndim == 2 else present.any(-1))
    weights = None if batch.weights is None else batch.weights.expand(valid.shape)[valid]
    outputs, targets = outputs[valid], targets[valid]
    if own and present.ndim == 3 and not bool((present := present[valid]).all()):
        if weights is not None:
            weights = weights[:, None].expand(present.shape)[present]
        # outputs[present] would make an index, of eight bytes for each axis of each number.
        outputs, targets = outputs.masked_select(present), targets.masked_select(present)
        return outputs[:, None], targets[:, None], weights
    return outputs, targets, weights
