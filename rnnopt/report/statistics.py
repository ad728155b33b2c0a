"""Means over seeds with their 95 % Student intervals: of numbers, and of curves."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, float]


def mean_and_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % Student interval; NaN width for one value."""
    mean = statistics.mean(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return mean, math.nan
    from scipy import stats

    deviation = statistics.stdev(values)
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))


@dataclass(frozen=True)
class Curve:
    """A mean over runs at points `at`, and the band `low` … `high`; None for a single run."""

    at: list[float]
    mean: list[float]
    low: list[float] | None = None
    high: list[float] | None = None

    def thinned(self, most: int) -> "Curve":
        """The curve at `most` of its points, or all if it has fewer; the first and last stay."""
        count = len(self.at)
        if count <= most:
            return self
        kept = [round(i * (count - 1) / (most - 1)) for i in range(most)]
        values: Any = (self.at, self.mean, self.low, self.high)
        return Curve(*(each and [each[i] for i in kept] for each in values))


def mean_curve(
    histories: Sequence[Sequence[Record]], cost: str, quantity: str, log: bool = False
) -> Curve | None:
    """The mean of a quantity over runs against what they had spent, with its 95 % interval.

    Args:
        histories: the records of each run.
        cost: key of what is spent, such as "gradient_evaluations".
        quantity: key of what is averaged.
        log: whether it is for a logarithmic axis, which has no room below zero: there the band
            ends at the lowest run.

    Returns:
        None where no run has two points, or no cost is common to all that have.
    """
    import numpy as np

    curves = []
    for records in histories:
        pairs = [(r.get(cost, math.nan), r.get(quantity, math.nan)) for r in records]
        points = [pair for pair in pairs if all(map(math.isfinite, pair))]
        if len(points) > 1:
            curves.append(np.array(points).T)
    if not curves:
        return None
    # One grid for all seeds, no further than the shortest run: nothing is extrapolated.
    start, end = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    if start > end:
        return None
    grid = np.linspace(start, end, max(len(c[0]) for c in curves))
    values = np.array([np.interp(grid, c[0], c[1]) for c in curves])
    mean = values.mean(0)
    if len(curves) == 1:
        return Curve(grid.tolist(), mean.tolist())
    widths = np.array([mean_and_width(list(column))[1] for column in values.T])
    low = np.maximum(mean - widths, values.min(0)) if log else mean - widths
    return Curve(grid.tolist(), mean.tolist(), low.tolist(), (mean + widths).tolist())
