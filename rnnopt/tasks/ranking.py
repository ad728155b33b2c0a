"""Ranks evaluations on the validation set, and so selects weights, learning rates and trials.

The metric decides; for equal metrics the validation loss does. On few series or with a rare class,
the accuracy is often the same at many evaluations while the network still learns. A NaN loss never
wins: a network whose outputs are NaN may still have the accuracy of the most frequent class.
"""

import math
from collections.abc import Iterable, Mapping

Rank = tuple[float, float]
WORST: Rank = (-math.inf, -math.inf)


def rank(metric: float, loss: float, lower_is_better: bool) -> Rank:
    """Rank of an evaluation: the greater the better; equally good evaluations are equal.

    Args:
        metric, loss: on the validation set; infinity for an unknown loss.
        lower_is_better: whether a lower metric is better, as for errors.
    """
    if math.isnan(metric) or math.isnan(loss):
        return WORST
    return -metric if lower_is_better else metric, -loss


def loss_of_best(best: Mapping[str, float], records: Iterable[Mapping[str, float]]) -> float:
    """The validation loss at a run's best evaluation; infinity if it is unknown.

    Args:
        best: the best evaluation, as in result.json; older files have no loss there.
        records: history of the run, which includes that evaluation.
    """
    if "validation_loss" in best:
        return best["validation_loss"]
    at = best.get("gradient_evaluations")
    there = (record for record in records if record.get("gradient_evaluations") == at)
    return next(
        (record["validation_loss"] for record in there if "validation_loss" in record), math.inf
    )
