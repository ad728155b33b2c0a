"""Overfitting: a metric that is far better on training than on validation series.

With a metric in 0 … 1, such as accuracy, the gap must exceed GAP and twice the standard error that
the number of validation series leaves. An error must be RATIO times as large on validation series.
"""

import math
from dataclasses import dataclass

from rnnopt.config.metric_names import lower_is_better
from rnnopt.config.run_config import RunConfig
from rnnopt.diagnostics.verdict import Finding
from rnnopt.tasks.examples import Examples
from rnnopt.training.loop import Training

GAP = 0.1
RATIO = 2.0


@dataclass(frozen=True)
class Generalization:
    """A metric on training and on validation series.

    Args:
        metric: its name.
        training, validation: its values.
        series: number of validation series.
        reached: whether the value on validation series reaches the target.
    """

    metric: str
    training: float
    validation: float
    series: int
    reached: bool


def measured(training: Training) -> Generalization | None:
    """How the weights of a run do on both parts; None if training series are drawn anew."""
    task = training.task
    if not isinstance(task.train, Examples):
        return None
    with training.learner.committed():
        _, own = task.evaluate(training.model, task.train, training.device)
        _, other = task.evaluate(training.model, task.validation, training.device)
    return Generalization(task.metric, own, other, len(task.validation), task.reached(other))


def overfitting(found: Generalization, config: RunConfig) -> Finding | None:
    """A finding if the gap is large.

    Args:
        found: the metric on both parts.
        config: config of the run, so that the advice leaves out what it already does.
    """
    if found.reached or not math.isfinite(found.training + found.validation):
        return None
    if lower_is_better(found.metric):
        if found.validation <= RATIO * found.training:
            return None
        rule = f"{RATIO:g} times as much counts as overfitting"
    else:
        share = min(max(found.validation, 0.0), 1.0)
        error = math.sqrt(share * (1 - share) / found.series)
        if found.training - found.validation <= max(GAP, 2 * error):
            return None
        rule = f"a gap above {GAP:g} and above twice its standard error, {error:.2g}, counts"
    sentence = (
        f"overfits: {found.metric} is {found.training:.3g} on training series and"
        f" {found.validation:.3g} on {found.series} validation series ({rule})."
    )
    return Finding("overfits", sentence, tuple(_advice(config)))


def _advice(config: RunConfig) -> list[str]:
    advice = []
    if not config.warp and config.readout != "every":
        advice.append("--warp 0.2, which trains on series at random speeds")
    if (config.dropout or 0.0) < 0.3:
        advice.append("--dropout 0.3")
    if config.stem is None and config.tbptt is None and config.readout != "every":
        advice.append("--model auto, a network and a length of training that suit such data")
    advice.append("--patience 20, which ends the run soon after its best evaluation")
    if not config.refit:
        advice.append("--refit in the end, which learns from the validation series too")
    advice.append("more series, the surest of all")
    return advice
