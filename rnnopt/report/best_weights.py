"""What the best weights of a run do: how they classify the test data, and where their gradients go.

The network is built again from the run's config, on the CPU, and given the weights of best.pt,
which are read without executing anything in them. The run folder is left as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from rnnopt.config import seeds
from rnnopt.config.specs import is_import_path, parse
from rnnopt.diagnostics.diagnosis import double_precision_copy, layer_flow
from rnnopt.report.importance import Importance, importance
from rnnopt.runs.collection import Group, Run
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import check_same_data
from rnnopt.tasks import Batches, Task
from rnnopt.tasks.choices import class_names
from rnnopt.training.build import build_training
from rnnopt.training.resolve import resolve

FLOW_SEQUENCES = 64  # a minibatch, at the most
FLOW_BATCHES = 2


@dataclass(frozen=True)
class Scores:
    """How test examples were classified.

    Args:
        names: of the classes.
        confusion: examples of each true class (rows) by predicted class (columns).
        precision, recall, f1: of each class; NaN where it was never predicted or never true.
        accuracy: share of the examples that were classified right.
    """

    names: list[str]
    confusion: list[list[int]]
    precision: list[float]
    recall: list[float]
    f1: list[float]
    accuracy: float

    @property
    def support(self) -> list[int]:
        """Examples of each true class."""
        return [sum(row) for row in self.confusion]


@dataclass(frozen=True)
class Findings:
    """What the weights of one run do.

    Args:
        run: whose best weights they are.
        scores: on the test data; None where the task has no classes.
        flow: for each recurrent layer, by name, the norm of dL/dh_t at each step t: L is the loss
            of one sequence, and the norm is averaged over sequences of training data.
        importance: of channels and time; None unless the data are the user's own.
    """

    run: Run
    scores: Scores | None
    flow: dict[str, list[float]]
    importance: Importance | None = None


def best_run(group: Group) -> Run | None:
    """The run of a group that is best on validation data; None if none is over."""
    over = [run for run in group.runs if (run.path / "best.pt").exists() and run.result.get("best")]
    return max(over, key=lambda run: run.rank, default=None)


def examine(run: Run, task: Task | None = None) -> tuple[Findings, Task]:
    """What the best weights of `run` do, and its task, for other runs on the same.

    Takes about as long as the evaluation at the end of the run.

    Args:
        run: one that is over.
        task: the task of the run if it was built before.

    Raises:
        UserError: data, optimizer or weights are not there, or data of the user's own have changed.
        RuntimeError: the weights are those of another network.
    """
    folder = RunFolder(run.path)
    weights = folder.read_weights()
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay what they are
        config = resolve(replace(run.config, device="cpu"))
        if is_import_path(parse(config.optimizer)[0]):  # a report executes no foreign code
            config = replace(config, optimizer="sgd")
        training = build_training(config, task)
        model, task = training.model, training.task
        check_same_data(task, folder)
        model.load_state_dict(weights)
        scores = None
        if task.loss != "mse" and not task.in_nats and not task.labels:
            found, true = task.classify(model, task.test, training.device)
            scores = score(true.tolist(), found.tolist(), class_names(task))
        important = importance(task, model.eval(), run.config.seed)
        size = min(FLOW_SEQUENCES, training.batches.batch_size)
        # A stream of its own: neither the run's nor that of a diagnosis.
        batches = Batches(task, size, run.config.seed + seeds.REPORT)
        flow = mean_flow(model, task, batches)
    return Findings(run, scores, flow, important), task


def score(true: Sequence[int], found: Sequence[int], names: list[str]) -> Scores:
    """Confusion and scores from true and predicted classes, numbers into `names`."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels = range(len(names))
    confusion = confusion_matrix(true, found, labels=labels)
    figures = precision_recall_fscore_support(true, found, labels=labels, zero_division=math.nan)
    precision, recall, f1 = (values.tolist() for values in figures[:3])
    accuracy = float(confusion.trace() / confusion.sum())
    return Scores(names, confusion.tolist(), precision, recall, f1, accuracy)


def mean_flow(model: nn.Module, task: Task, batches: Batches) -> dict[str, list[float]]:
    """For each layer ‖dL/dh_t‖ of one sequence's loss, averaged over a few minibatches.

    Where minibatches differ in length, a step counts in those that have it.
    """
    twin = double_precision_copy(model)
    found: dict[str, list[list[float]]] = {}
    for _ in range(FLOW_BATCHES):
        batch = batches.draw()
        for name, record in layer_flow(twin, task, batch)[1].items():
            # The loss is a mean over the sequences: that of one has so many times the gradient.
            found.setdefault(name, []).append([norm * len(batch) for norm in record["norms"]])
    return {name: _mean_of(rows) for name, rows in found.items()}


def _mean_of(rows: list[list[float]]) -> list[float]:
    longest = max(map(len, rows))
    columns = [[row[t] for row in rows if t < len(row)] for t in range(longest)]
    return [sum(column) / len(column) for column in columns]
