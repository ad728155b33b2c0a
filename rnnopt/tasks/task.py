"""What a task is: batches, a loss, a metric, a target declared in advance, and three splits.

Training batches come from a generator of the run's own seed; the splits and the validation and test
sequences are the same in every run. `Batches` can be saved and continued at any batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rnnopt.layers.kernels.portable import last_state
from rnnopt.layers.minibatch_part import MinibatchPart
from rnnopt.layers.sequence_model import Readout

if TYPE_CHECKING:
    from rnnopt.tasks.arrays import OwnData


@dataclass(frozen=True)
class Batch:
    """Sequences (time, batch, feature), targets (batch, …), true lengths (batch,) or None.

    A target is a class (batch,) or numbers (batch, output); where each step has one of its own, a
    class (batch, time) or numbers (batch, time, output). `weights` (batch,), 1 on average over all
    examples, say how much each sequence counts; None means all alike.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return self.inputs.shape[1]

    def to(self, device: torch.device) -> "Batch":
        """This batch on `device`."""
        lengths, weights = _each(lambda tensor: tensor.to(device), self.lengths, self.weights)
        return Batch(self.inputs.to(device), self.targets.to(device), lengths, weights)


@dataclass(frozen=True)
class Examples:
    """Stored sequences: inputs (count, time, feature), targets (count, …), lengths (count,).

    `noise` is the deviation of Gaussian noise that `Batches` draws anew for every batch; `weights`
    (count,) are as in `Batch`.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    noise: float = 0.0
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, index: Tensor | slice) -> Batch:
        """The sequences at `index`, time first (a view of them batch first)."""
        if isinstance(index, Tensor):
            index = index.to(self.inputs.device)
        lengths, weights = _each(lambda tensor: tensor[index], self.lengths, self.weights)
        return Batch(self.inputs[index].transpose(0, 1), self.targets[index], lengths, weights)

    def to(self, device: torch.device) -> "Examples":
        """These sequences on `device`."""
        lengths, weights = _each(lambda tensor: tensor.to(device), self.lengths, self.weights)
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return Examples(inputs, targets, lengths, self.noise, weights)


def _each(change: Callable[[Tensor], Tensor], *tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors changed, where there is one."""
    return [None if tensor is None else change(tensor) for tensor in tensors]


Loss = Literal["cross-entropy", "mse", "binary-mse", "binary-cross-entropy"]
Metric = Literal["accuracy", "mse", "nats"]
# Draws that many sequences from a generator.
Draw = Callable[[int, torch.Generator], Batch]


@dataclass(frozen=True)
class Task:
    """A problem to train on.

    Args:
        name: as on the command line.
        summary: one line for people.
        input_size, output_size: features a step; classes or numbers to predict.
        loss: "cross-entropy" (targets are classes), "mse", or one output for two classes (targets
            (count, 1) of 0.0 and 1.0): "binary-mse" calls it 1 above 1/2, "binary-cross-entropy",
            which takes a logit, above 0.
        target: the metric to reach, declared in advance: mean squared error for mse, else
            accuracy in 0 … 1, or nats.
        train: stored examples, or a function that draws new ones.
        validation, test: stored examples.
        epoch_size: sequences that count as one epoch when they are drawn anew.
        hidden_size, batch_size: sizes to use unless told otherwise.
        in_nats: whether the metric is the cross-entropy instead of accuracy.
        data: what is known of a user's own data; None for the tasks on board.
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

    def facts(self) -> dict[str, str | float]:
        """What a report needs to know of the task; kept with each run."""
        names = ("summary", "loss", "metric", "target")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device) -> "Task":
        """The same task with its stored sequences on `device`: no batch travels again."""
        train = self.train.to(device) if isinstance(self.train, Examples) else self.train
        return replace(
            self, train=train, validation=self.validation.to(device), test=self.test.to(device)
        )

    @property
    def steps(self) -> int:
        """Length of the longest sequence."""
        return self.validation.inputs.shape[1]

    @property
    def readout(self) -> Readout:
        """Where models answer unless told otherwise; "every" if each step has its own target."""
        return "every" if each_step(self.validation.targets) else "last"

    @property
    def metric(self) -> Metric:
        """Name of the metric; `lower_is_better` tells in which direction."""
        if self.loss == "mse":
            return "mse"
        return "nats" if self.in_nats else "accuracy"

    def is_better(self, metric: float, other: float) -> bool:
        """Whether the first of two metrics is strictly better; NaN never is."""
        return metric < other if lower_is_better(self.metric) else metric > other

    def reached(self, metric: float) -> bool:
        """Whether a metric meets the target."""
        return metric == self.target or self.is_better(metric, self.target)

    def loss_of(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean loss of outputs (batch, output), or (time, batch, output) over all true steps."""
        outputs, targets, weights = _pairs(outputs, batch)
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

    def right(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Which answers (count, output) name the class of their targets."""
        classes = targets if self.loss == "cross-entropy" else targets > 0.5
        return self.predicted(answers) == classes

    def predicted(self, answers: Tensor) -> Tensor:
        """The classes that answers (count, output) name; True is the second of two."""
        if self.loss == "cross-entropy":
            return answers.argmax(-1)
        return answers > (0.0 if self.loss == "binary-cross-entropy" else 0.5)

    def _counted(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The outputs that a metric counts.

        A series of a user's own has one target: where the model answers at every step, the last
        true one is its answer, as in `rnnopt predict`.
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
        loss, correct, count = 0.0, 0.0, 0.0
        for start in range(0, len(examples), 1000):
            batch = examples.batch(slice(start, start + 1000)).to(device)
            outputs = self._counted(model(batch.inputs, batch.lengths), batch)
            answers, targets, weights = _pairs(outputs, batch)
            loss += float(self.loss_of(outputs, batch)) * len(answers)
            # Sequences, or true steps where the model answers at each.
            count += len(answers) if weights is None else float(weights.sum())
            if self.metric == "accuracy":
                right = self.right(answers, targets)
                correct += float((right if weights is None else right.flatten() * weights).sum())
        model.train(was_training)
        loss /= count
        return loss, correct / count if self.metric == "accuracy" else loss

    @torch.no_grad()
    def classify(
        self, model: torch.nn.Module, examples: Examples, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Predicted and true classes (count,) of all examples, by `model` in evaluation mode.

        Raises:
            ValueError: the task has no classes.
        """
        if self.loss == "mse":
            raise ValueError(f"classify needs a task with classes, got {self.name} of loss mse.")
        was_training = model.training
        model.eval()
        found, true = [], []
        for start in range(0, len(examples), 1000):
            batch = examples.batch(slice(start, start + 1000)).to(device)
            outputs = self._counted(model(batch.inputs, batch.lengths), batch)
            answers, targets = _pairs(outputs, batch)[:2]
            found.append(self.predicted(answers).long().flatten().cpu())
            true.append(
                (targets > 0.5 if targets.is_floating_point() else targets).long().flatten()
            )
        model.train(was_training)
        return torch.cat(found), torch.cat(true).cpu()


def lower_is_better(metric: str | None) -> bool:
    """Whether a metric of that name is the better the lower."""
    return metric in ("mse", "nats")


def each_step(targets: Tensor) -> bool:
    """Whether targets are classes (batch, time) or numbers (batch, time, output)."""
    return targets.ndim == (3 if targets.is_floating_point() else 2)


def _pairs(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, the targets they answer to and their weights, one a row.

    Where the model answers at every step, a sequence's target stands at each of its true steps,
    unless these have targets of their own; its weight always does.
    """
    if outputs.ndim == 2:
        return outputs, batch.targets, batch.weights
    if each_step(batch.targets):
        targets = batch.targets.transpose(0, 1)
    else:
        targets = batch.targets.expand(len(outputs), *batch.targets.shape)
    steps = torch.arange(len(outputs), device=outputs.device)[:, None]
    lengths = len(outputs) if batch.lengths is None else batch.lengths
    valid = (steps < lengths).expand(outputs.shape[:2])
    weights = None if batch.weights is None else batch.weights.expand(valid.shape)[valid]
    return outputs[valid], targets[valid], weights


class Batches:
    """Endless training batches; saved and continued exactly.

    Stored examples are shuffled anew each epoch, and the last batch of an epoch may be smaller.

    Args:
        task: where the sequences come from.
        batch_size: sequences a batch.
        seed: of this stream alone.
    """

    shared = False  # whether several processes take parts of each batch, as `SharedBatches`
    part: MinibatchPart | None = None  # which of the latest batch this process has; None is all

    def __init__(self, task: Task, batch_size: int, seed: int):
        self.task, self.batch_size = task, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.long)
        self.cursor = 0

    def share(self, part: MinibatchPart) -> float:
        """By what to multiply the mean loss of a part, so that the mean over processes is right."""
        return 1.0

    @property
    def per_epoch(self) -> int:
        """Batches an epoch."""
        return -(-self.task.epoch_size // self.batch_size)

    def draw(self) -> Batch:
        """The next batch."""
        train = self.task.train
        if not isinstance(train, Examples):
            return train(self.batch_size, self.generator)
        if self.cursor >= len(self.order):
            self.order, self.cursor = torch.randperm(len(train), generator=self.generator), 0
        index = self.order[self.cursor : self.cursor + self.batch_size]
        self.cursor += self.batch_size
        batch = train.batch(index)
        if train.noise == 0:
            return batch
        noise = torch.randn(batch.inputs.shape, generator=self.generator).to(batch.inputs)
        return replace(batch, inputs=batch.inputs + train.noise * noise)

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to draw the same batches on."""
        return dict(
            generator=self.generator.get_state(), order=self.order.clone(), cursor=self.cursor
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.generator.set_state(state["generator"])
        self.order, self.cursor = state["order"].clone(), state["cursor"]


def split_examples(examples: Examples, sizes: list[int], seed: int) -> list[Examples]:
    """Disjoint random parts of the given sizes; the same for the same seed."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return [select(examples, part) for part in order[: sum(sizes)].split(sizes)]


def select(examples: Examples, index: Tensor) -> Examples:
    """The examples at `index`, a mask or positions."""
    lengths, weights = _each(lambda tensor: tensor[index], examples.lengths, examples.weights)
    return replace(
        examples,
        inputs=examples.inputs[index],
        targets=examples.targets[index],
        lengths=lengths,
        weights=weights,
    )


def standardize(parts: list[Examples], per_channel: bool = False) -> list[Examples]:
    """Subtracts the mean and divides by the deviation of the first part.

    They are of all its entries, or of each channel alone. What is constant there becomes 0.
    """
    deviation, mean = torch.std_mean(parts[0].inputs, (0, 1) if per_channel else (0, 1, 2))
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    return [replace(part, inputs=(part.inputs - mean) / deviation) for part in parts]
