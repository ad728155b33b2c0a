"""Stops a trial early if its best evaluation is worse than the median of the others.

Optuna's MedianPruner compares one number; here evaluations are compared by their rank, so that the
loss decides between trials of the same metric.
"""

import math
from typing import TYPE_CHECKING

from rnnopt.tasks.ranking import WORST, Rank, rank

if TYPE_CHECKING:
    from optuna import Study

WARM_UP = 4  # first steps, in which no trial is stopped
COMPARED = 5  # complete trials needed before one is stopped


def is_worse_than_median(best: Rank, study: "Study", step: int) -> bool:
    """Whether to stop a trial.

    Args:
        best: rank of its best evaluation so far.
        study: study with the other trials. They report the metric and store the loss of each step
            under "losses"; trials of older versions without it rank last at the same metric.
        step: current step of the trial.
    """
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if step < WARM_UP or len(complete) < COMPARED:
        return False
    if best == WORST:
        return True
    lower = study.direction.name == "MINIMIZE"
    others = [
        rank(
            trial.intermediate_values[step],
            trial.user_attrs.get("losses", {}).get(str(step), math.inf),
            lower,
        )
        for trial in complete
        if step in trial.intermediate_values
    ]
    others = sorted(other for other in others if other != WORST)
    return bool(others) and best < median(others)


def median(ranks: list[Rank]) -> Rank:
    """The median of sorted ranks; of an even count, the mean of the middle two by component."""
    low, high = ranks[(len(ranks) - 1) // 2], ranks[len(ranks) // 2]
    return (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
