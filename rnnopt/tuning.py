"""The same number of tuning trials for everybody: a grid of learning rates on a seed of its own."""

import math

from rnnopt.report import Run
from rnnopt.tasks.task import lower_is_better

TUNING_SEED = 1000  # none of the reported seeds


def rank(run: Run) -> tuple[float, float]:
    """What the best of several trials has most of: validation metric, diverged ones come last.

    Among equals the lower loss: where nothing was learnt the metric says nothing.
    """
    metric = (run.result.get("best") or {}).get("validation_metric", math.nan)
    loss = run.records[-1]["validation_loss"] if run.records else math.nan
    if not math.isfinite(metric) or run.result["status"] == "diverged":
        return -math.inf, -math.inf
    lower = lower_is_better(run.result.get("metric"))
    return -metric if lower else metric, -loss if loss == loss else -math.inf
