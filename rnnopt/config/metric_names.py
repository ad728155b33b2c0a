"""The metrics that choose weights and judge runs, by name, and which way each is better.

The names are those of scikit-learn's scorers, with hyphens: balanced-accuracy, roc-auc, r2. A
scorer neg_… is an error with its sign turned; here it is the error itself: log-loss, mse, rmse.
"""

from dataclasses import dataclass
from typing import Literal

from rnnopt.config.errors import unknown_name

Of = Literal["classes", "numbers"]


@dataclass(frozen=True)
class Known:
    """What is known of a metric.

    Args:
        of: what it judges: predicted classes and their probabilities, or numbers.
        lower: whether a lower value is better.
    """

    of: Of
    lower: bool = False

    @property
    def perfect(self) -> float:
        """The best possible value."""
        return 0.0 if self.lower else 1.0


AVERAGES = ("", "-macro", "-micro", "-weighted")
METRICS: dict[str, Known] = {
    "accuracy": Known("classes"),
    "balanced-accuracy": Known("classes"),
    **{
        f"{name}{average}": Known("classes")
        for name in ("f1", "precision", "recall", "jaccard")
        for average in AVERAGES
    },
    "matthews-corrcoef": Known("classes"),
    "roc-auc": Known("classes"),
    "average-precision": Known("classes"),
    "log-loss": Known("classes", lower=True),
    "nats": Known("classes", lower=True),
    "mse": Known("numbers", lower=True),
    "rmse": Known("numbers", lower=True),
    "mae": Known("numbers", lower=True),
    "median-absolute-error": Known("numbers", lower=True),
    "max-error": Known("numbers", lower=True),
    "r2": Known("numbers"),
    "explained-variance": Known("numbers"),
}
OTHER_NAMES = {
    "auc": "roc-auc",
    "roc-auc-ovr": "roc-auc",
    "mean-squared-error": "mse",
    "root-mean-squared-error": "rmse",
    "mean-absolute-error": "mae",
}

OF_LOSS = ("mse", "nats")  # which are the loss itself
UNBOUNDED = ("matthews-corrcoef", "r2", "explained-variance")  # which may be negative


def ends_of(metric: str) -> tuple[float, float] | None:
    """Worst and best value of a metric, worst first, where it has both; else None."""
    known = METRICS.get(metric)
    return None if known is None or known.lower or metric in UNBOUNDED else (0.0, 1.0)


def is_error(metric: str) -> bool:
    """Whether a metric is an error in numbers, which are best drawn on a logarithmic axis."""
    return metric in METRICS and METRICS[metric].of == "numbers" and METRICS[metric].lower


def metric_name(text: str) -> str:
    """The metric that a text names: "roc-auc" of auc, roc_auc and roc-auc.

    Raises:
        UserError: no metric has that name.
    """
    name = text.strip().lower().replace("_", "-").removeprefix("neg-")
    name = OTHER_NAMES.get(name, name)
    if name not in METRICS:
        raise unknown_name("metric", text, METRICS)
    return name


def lower_is_better(metric: str | None) -> bool:
    """Whether a lower value of the metric of that name is better; of an unknown one, no."""
    return metric in METRICS and METRICS[metric].lower
