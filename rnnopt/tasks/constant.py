"""What always giving the same answer would reach: the least that a network must beat.

The answer is made from the training part alone: of classes their shares, so that the commonest is
predicted; of several labels the share of each; of numbers their mean.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.tasks.choices import class_names, counts_of
from rnnopt.tasks.examples import Examples, each_step
from rnnopt.tasks.task import Task

MANY = 16  # sequences at once


class Constant(nn.Module):
    """The same outputs (output,) for all sequences, or for all their steps.

    Args:
        outputs: (output,) to give.
        each_step: whether to give them at every step.
    """

    def __init__(self, outputs: Tensor, each_step: bool):
        super().__init__()
        self.outputs, self.each_step = outputs, each_step
        self.readout = "every" if each_step else "last"

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, output), or (time, batch, output)."""
        rows = inputs.shape[:2] if self.each_step else inputs.shape[1:2]
        return self.outputs.to(inputs).expand(*rows, -1)

    def advance(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The outputs for the next steps, as `SequenceModel.advance` gives them."""
        return self(inputs), state


def constant_answer(task: Task) -> Constant | None:
    """The best answer that looks at no sequence; None for a task that draws its sequences."""
    train = task.train
    if not isinstance(train, Examples):
        return None
    several = each_step(train.targets)
    if task.loss == "cross-entropy":
        shares = counts_of(train, task.output_size)
        return Constant((shares / shares.sum()).clamp(min=1e-12).log().float(), several)
    mean = _mean(train, several)
    if task.loss == "binary-cross-entropy":
        mean = mean.logit(1e-6)
    return Constant(mean.float(), several)


def _mean(examples: Examples, several: bool) -> Tensor:
    """The mean (output,) of all targets, NaN being missing ones."""
    total = count = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(examples), MANY):
        part = slice(start, start + MANY)
        numbers = examples.targets[part].double()
        if several and examples.lengths is not None:
            steps = torch.arange(numbers.shape[1], device=numbers.device)
            numbers = numbers[steps < examples.lengths[part, None].to(numbers.device)]
        rows = numbers.reshape(-1, numbers.shape[-1])
        total = total.to(rows) + rows.nansum(0)
        count = count.to(rows) + (~rows.isnan()).sum(0)
    return total / count


def constant_metric(task: Task, examples: Examples) -> float | None:
    """The metric of that answer on `examples`; None for a task that draws its sequences."""
    constant = constant_answer(task)
    if constant is None:
        return None
    return task.evaluate(constant, examples, examples.inputs.device)[1]


def no_better(task: Task, metric: float, constant: float | None, part: str = "test") -> str:
    """A sentence, without a full stop, where a network is no better than that answer; else "".

    Args:
        task: the task.
        metric: of the network on a part of the data.
        constant: of the constant answer on the same.
        part: what the part is called.
    """
    if constant is None or task.is_better(metric, constant):
        return ""
    if task.loss == "mse":
        same = "the mean of the training targets"
    elif task.labels:
        same = "the commonest value of each label"
    else:
        assert isinstance(task.train, Examples)
        place = int(counts_of(task.train, max(2, task.output_size)).argmax())
        same = f"the commonest class, {class_names(task)[place]}"
    return (
        f"the network is no better than always answering {same}: {part} {task.metric}"
        f" {metric:.4g}, and {constant:.4g} without looking at the series"
    )
