"""Between scikit-learn's estimators and the one training loop: a task of arrays, and one run on it.

Nothing outside is touched: torch's generators stand after a training where they stood before.
"""

import math
import warnings
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from rnnopt.config.errors import UserError, without_dashes
from rnnopt.config.metric_names import METRICS, lower_is_better, metric_name
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.tasks.choices import with_choices
from rnnopt.tasks.constant import constant_metric, no_better
from rnnopt.tasks.examples import Examples, select
from rnnopt.tasks.task import Loss, Task
from rnnopt.training.build import build_training
from rnnopt.training.loop import Training
from rnnopt.training.option_checks import warnings_of
from rnnopt.training.progress_bars import RunProgressBar, bars_on

BATCH_SIZE = 32  # unless told otherwise


@dataclass(frozen=True)
class Outcome:
    """What a training gives.

    Args:
        model: with the weights to predict with.
        ended: weights and optimizer where training ended, to go on from.
        epochs: passes through the training data.
        losses: mean training loss of each epoch.
        metrics: metric on the validation set, or on the sample that is evaluated, after each epoch.
    """

    model: SequenceModel
    ended: dict[str, Any]
    epochs: int
    losses: list[float]
    metrics: list[float]


def build_task(
    parts: list[Examples], loss: Loss, outputs: int, seed: int, metric: str | None = None
) -> Task:
    """The task of learning the first of `parts`, validated on the second.

    Without a second one, a sample of the first is evaluated.

    Raises:
        ValueError: the metric does not fit.
    """
    stops = len(parts) > 1
    train = parts[0]
    batch_size = min(BATCH_SIZE, len(train))
    if len(parts) == 1:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        parts = [train, select(train, order[:batch_size])]
    parts = [part if part.weights is None else _of_mean_1(part) for part in parts]
    task = Task(
        name="data",
        summary=f"{len(train)} sequences",
        input_size=train.inputs.shape[-1],
        output_size=outputs,
        loss=loss,
        target=-math.inf if loss == "mse" else math.inf,  # nothing to reach
        train=parts[0],
        validation=parts[1],
        test=parts[1],
        epoch_size=len(train),
        batch_size=batch_size,
    )
    try:
        if not stops or metric is None:
            return task
        lower = lower_is_better(metric_name(metric))
        return with_choices(task, metric, target=-math.inf if lower else math.inf)
    except UserError as error:
        raise ValueError(without_dashes(str(error))) from error


def _of_mean_1(examples: Examples) -> Examples:
    assert examples.weights is not None
    return replace(examples, weights=examples.weights / examples.weights.mean())


def train(
    config: RunConfig,
    task: Task,
    ended: dict[str, Any] | None = None,
    patience: int | None = None,
    show: str | None = None,
    warn: bool = True,
) -> Outcome:
    """Trains as `config` says.

    Args:
        config: the run.
        task: what to learn.
        ended: of an earlier outcome, to go on from; None means from new weights.
        patience: epochs without a better evaluation (`rank`) on validation data after which to end,
            keeping the best weights; None means to the end of the budget, whose weights are kept.
        show: description of a progress bar; None for no bar.
        warn: whether to warn of settings that are hardly meant as they stand.

    Raises:
        ValueError: for settings that do not go together, and if training diverges.
    """
    on_gpu = config.device.startswith("cuda")
    with torch.random.fork_rng(range(torch.cuda.device_count()) if on_gpu else []):
        try:
            training = build_training(config, task, every_epoch=True)
        except UserError as error:
            raise ValueError(without_dashes(str(error))) from error
        for sentence in warnings_of(config, training) if warn else ():
            warnings.warn(f"{without_dashes(sentence)}.", stacklevel=5)  # at the call of `fit`
        if ended is not None:
            _go_on(training, ended)
        training.patience = patience
        records = _run(training, patience is not None, show)
    if training.status == "diverged":
        lr = training.base_lrs[0]
        raise ValueError(
            f"training diverged in epoch {math.ceil(training.closure.epochs)}: the loss is not"
            f" finite. Take a smaller lr than {lr:g}, or clip the gradient (RNNOptions(clip=1))."
        )
    if warn and (sentence := _no_better(training, records, patience is not None)):
        warnings.warn(f"{sentence}.", ConvergenceWarning, stacklevel=5)  # at the call of `fit`
    return _outcome(training, records, keep_best=patience is not None)


def _no_better(training: Training, records: list[dict[str, float]], stops: bool) -> str:
    """Says so if the network is no better than the commonest class, or the mean; else ""."""
    task = training.task
    constant = constant_metric(task, task.validation)
    perfect = METRICS[task.metric].perfect
    if constant is None or math.isclose(constant, perfect, abs_tol=1e-6):  # of one class
        return ""
    found = training.best if stops else records[-1]
    part = "validation" if stops else "training"
    return no_better(task, found["validation_metric"], constant, part)


def _go_on(training: Training, ended: dict[str, Any]) -> None:
    """Puts the weights and the optimizer where an earlier training ended."""
    try:
        training.model.load_state_dict(ended["model"])
        if ended["optimizer"] is not None:  # of a run's folder there is none
            training.learner.load_state_dict(deepcopy(ended["optimizer"]))  # stays as it is
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"model and optimizer must be those of the fit before to go on with it: {reason}"
        ) from error
    for layer, bound in zip(_network(training).recurrent, ended["bounds"], strict=True):
        if isinstance(layer, IndRNN):  # its bound stays that of the first sequences' length
            layer.recurrent_bound = bound


def _network(training: Training) -> SequenceModel:
    assert isinstance(training.model, SequenceModel)
    return training.model


def _run(training: Training, stops: bool, show: str | None) -> list[dict[str, float]]:
    """Trains to the end; the records of all evaluations."""
    records: list[dict[str, float]] = []
    bars = bars_on(Console(stderr=True), quiet=show is None)
    evaluated_on = "validation" if stops else "training"
    bar = bars.add_task(show or "", total=1.0, note="")
    listener = RunProgressBar(bars, bar, f"{evaluated_on} {training.task.metric}")
    with bars:
        for progress in training.run():
            listener(progress)
            if progress.record:
                records.append(progress.record)
    return records


def _outcome(training: Training, records: list[dict[str, float]], keep_best: bool) -> Outcome:
    model = _network(training)
    ended = dict(
        model=_weights(model),
        optimizer=training.optimizer.state_dict(),
        bounds=[getattr(layer, "recurrent_bound", None) for layer in model.recurrent],
    )
    with training.learner.committed():
        kept = training.best_weights if keep_best else _weights(model)
    model.load_state_dict(kept)
    evaluations = [record for record in records if not math.isnan(record["train_loss"])]
    return Outcome(
        model.eval(),
        ended,
        round(training.closure.epochs),
        [record["train_loss"] for record in evaluations],
        [record["validation_metric"] for record in evaluations],
    )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
