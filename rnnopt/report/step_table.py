"""Test scores of targets at every step and of forecasts as a table: means over runs."""

import math
from collections.abc import Sequence

from rnnopt.report.statistics import mean_and_width
from rnnopt.runs.collection import Group, Run


def has_scores(group: Group) -> bool:
    """Whether a run of a group has scores at every step."""
    return any(run.result.get("test_scores") for run in group.runs)


def headings(runs: Sequence[Run]) -> list[str]:
    """Headings of `rows`."""
    scored = next(run.result["test_scores"] for run in runs if run.result.get("test_scores"))
    return ["scored", *next(iter(scored.values()))]


def rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row of text for each output or method: the mean, with several runs its 95 % interval."""
    every = [run.result["test_scores"] for run in runs if run.result.get("test_scores")]
    columns = headings(runs)[1:]
    found = []
    for name in every[0]:
        row = [name]
        for column in columns:
            values = [one[name][column] for one in every if column in one.get(name, {})]
            row.append(_shown(values))
        found.append(row)
    return found


def _shown(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean, width = mean_and_width(values)
    return f"{mean:.4g}" if math.isnan(width) else f"{mean:.4g} ± {width:.2g}"
