"""Which trials are stopped early: those whose best look is worse than the median of the others.

Optuna's MedianPruner compares one number; here looks are compared by their rank, so that trials of
a level metric are told apart by their loss.
"""

import math
from typing import TYPE_CHECKING

from rnnopt.tasks.ranking import WORST, Rank, rank

if TYPE_CHECKING:
    from optuna import Study

WARM_UP = 4  # steps in which no trial is stopped
COMPARED = 5  # trials that must be complete before one is stopped


def is_worse_than_median(best: Rank, study: "Study", step: int) -> bool:
    """Whether a trial is to be stopped.

    Args:
        best: the rank of its best look so far.
        study: with the other trials. They report the metric, and keep the loss of each step under
            "losses"; those of versions that did not are the last among level ones.
        step: where it stands.
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
    """The middle one of sorted ranks, or the mean of the two in the middle, number by number."""
    low, high = ranks[(len(ranks) - 1) // 2], ranks[len(ranks) // 2]
    return (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
