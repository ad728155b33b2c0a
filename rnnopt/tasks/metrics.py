"""Metrics by name, computed by scikit-learn from the outputs for all examples.

Classes are those with the largest output; probabilities are the outputs' softmax (of one output its
sigmoid). f1, precision, recall and jaccard of two classes are those of the second class (in
`classes_` and in what `rnnopt inspect` lists); of more classes, and of several labels, they are
means over all classes (macro). roc-auc and average-precision are means over classes, each against
the rest, that some examples have and others do not. Regression metrics are of the standardised
targets, as the loss is.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.config.metric_names import AVERAGES, METRICS

RANKED = ("roc-auc", "average-precision")  # of scores, not of predicted classes
OF_LOSS = {"accuracy", "mse", "nats"}  # those that `Task.evaluate` has without scikit-learn
AVERAGED = ("f1", "precision", "recall", "jaccard")
PLAIN = {
    "accuracy": "accuracy_score",
    "balanced-accuracy": "balanced_accuracy_score",
    "matthews-corrcoef": "matthews_corrcoef",
    "rmse": "root_mean_squared_error",
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "median-absolute-error": "median_absolute_error",
    "max-error": "max_error",
    "r2": "r2_score",
    "explained-variance": "explained_variance_score",
}


def check_metric(name: str, classes: bool, labels: bool = False) -> None:
    """Raises UserError for a metric that does not fit a task, or without scikit-learn.

    Args:
        name: of the metric.
        classes: whether the task has classes, not numbers, as targets.
        labels: whether it has several labels a sequence.
    """
    of = METRICS[name].of
    if of != ("classes" if classes else "numbers"):
        kind = "regression" if of == "numbers" else "classification"
        raise UserError(f"--metric {name} is for {kind}, and this task is not.")
    if labels and name in ("balanced-accuracy", "matthews-corrcoef"):
        raise UserError(f"--metric {name} is for one class a sequence: take f1 for several labels.")
    if name not in OF_LOSS:
        _scores()


def metric_of(
    name: str, outputs: Tensor, targets: Tensor, weights: Tensor | None, logits: bool = True
) -> float:
    """The metric of that name; NaN where it is not defined, as the AUC of a single class.

    Args:
        name: of `METRICS`, but for "nats".
        outputs: (count, output) of a network.
        targets: (count,) classes, (count, output) numbers, or labels of 0 and 1.
        weights: (count,) weight of each row; None means equal weights.
        logits: whether one output is a logit, and else the probability of the second class itself.
    """
    found = outputs.detach().double().cpu()
    if not bool(found.isfinite().all()):
        return math.nan
    each = None if weights is None else weights.double().cpu().numpy()
    if METRICS[name].of == "numbers":
        return _of_numbers(name, targets.double().cpu().numpy(), found.numpy(), each)
    return _of_classes(name, _probabilities(found, targets, logits), targets.cpu().numpy(), each)


def _probabilities(outputs: Tensor, targets: Tensor, logits: bool) -> np.ndarray:
    """Of each class (count, classes), or of each of several labels (count, labels)."""
    if not targets.is_floating_point():
        return outputs.softmax(-1).numpy()
    second = outputs.sigmoid() if logits else outputs.clamp(0, 1)
    return (torch.cat([1 - second, second], -1) if second.shape[-1] == 1 else second).numpy()


def _of_classes(
    name: str, likely: np.ndarray, targets: np.ndarray, weights: np.ndarray | None
) -> float:
    several = targets.ndim == 2 and targets.shape[1] > 1  # labels
    true: np.ndarray = (targets > 0.5).astype(np.int64) if targets.dtype.kind == "f" else targets
    true = true if several else true.reshape(len(true))
    if name == "log-loss":
        return _log_loss(likely, true, several, weights)
    if name in RANKED:
        return _mean_over_classes(name, likely, true, several, weights)
    found = (likely > 0.5).astype(np.int64) if several else likely.argmax(1)
    base = next((name.removesuffix(a) for a in AVERAGES[1:] if name.endswith(a)), name)
    if base not in AVERAGED:
        return _quietly(getattr(_scores(), PLAIN[name]), true, found, sample_weight=weights)
    average = name.removeprefix(base).removeprefix("-")
    if not average:
        average = "macro" if several or likely.shape[1] > 2 else "binary"
    score = getattr(_scores(), f"{base}_score")
    return _quietly(score, true, found, average=average, sample_weight=weights, zero_division=0)


def _log_loss(
    likely: np.ndarray, true: np.ndarray, several: bool, weights: np.ndarray | None
) -> float:
    """Mean negative log-likelihood of a class, or of a label where there are several."""
    if several:
        chosen = np.where(true == 1, likely, 1 - likely)
    else:
        chosen = likely[np.arange(len(true)), true][:, None]
    losses = -np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean(1)
    return float(np.average(losses, weights=weights))


def _mean_over_classes(
    name: str, likely: np.ndarray, true: np.ndarray, several: bool, weights: np.ndarray | None
) -> float:
    """AUC or average precision of each class against the rest, averaged; of two, of the second."""
    score = getattr(_scores(), f"{name.replace('-', '_')}_score")
    classes = range(likely.shape[1]) if several or likely.shape[1] > 2 else [1]
    found = []
    for one in classes:
        here = true[:, one] == 1 if several else true == one
        if here.any() and not here.all():
            found.append(_quietly(score, here, likely[:, one], sample_weight=weights))
    return float(np.mean(found)) if found else math.nan


def _of_numbers(
    name: str, targets: np.ndarray, found: np.ndarray, weights: np.ndarray | None
) -> float:
    true, found = targets.reshape(len(targets), -1), found.reshape(len(found), -1)
    score = getattr(_scores(), PLAIN[name])
    if name == "max-error":  # of scikit-learn it takes one output and no weights
        return _quietly(score, true.ravel(), found.ravel())
    return _quietly(score, true, found, sample_weight=weights)


def _quietly(score: Callable[..., Any], *arrays: np.ndarray, **options: Any) -> float:
    """A score, without warnings of classes that are predicted and not there, or the other way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(score(*arrays, **options))


def _scores() -> Any:
    """scikit-learn's metrics; UserError if it is not installed."""
    try:
        import sklearn.metrics
    except ImportError as error:
        raise UserError(
            "metrics other than accuracy and mse need scikit-learn, which is not installed: pip"
            ' install "rnnopt[cli]", or leave --metric out.'
        ) from error
    return sklearn.metrics
