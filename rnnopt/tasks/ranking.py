"""Which of several looks at the validation data is the best, and so which weights, rate or trial.

The metric decides, and between level metrics the validation loss: accuracy on few series, or of
classes of which one is rare, is often the same at many looks while the network still learns. What
is not a number wins nothing: a network whose outputs are NaN may well have the accuracy of the
commonest class.
"""

import math
from collections.abc import Iterable, Mapping

Rank = tuple[float, float]
WORST: Rank = (-math.inf, -math.inf)


def rank(metric: float, loss: float, lower_is_better: bool) -> Rank:
    """What the best look has most of; two are compared by < and >, level ones are equal.

    Args:
        metric, loss: on the validation data; where the loss is not known, infinity stands for it.
        lower_is_better: whether a lower metric is the better one, as it is of errors.
    """
    if math.isnan(metric) or math.isnan(loss):
        return WORST
    return -metric if lower_is_better else metric, -loss


def loss_of_best(best: Mapping[str, float], records: Iterable[Mapping[str, float]]) -> float:
    """The validation loss at a run's best look; infinity where it is not known.

    Args:
        best: the best look, as result.json has it; files of before have no loss there.
        records: the history of the run, where that look stands too.
    """
    if "validation_loss" in best:
        return best["validation_loss"]
    at = best.get("gradient_evaluations")
    there = (record for record in records if record.get("gradient_evaluations") == at)
    return next(
        (record["validation_loss"] for record in there if "validation_loss" in record), math.inf
    )
