"""Tables and figures from run folders, and from nothing else.

Runs that differ in the seed alone form a group: a row of the table, a line of the figure. Intervals
are 95 % Student intervals of the mean over seeds. A run that misses its target counts as infinitely
slow. So the cost to the target is a mean only where every run met it; else it is the median, where
more than half of them did.
"""

import math
import statistics
from collections.abc import Sequence

from rnnopt.report import folds
from rnnopt.report.folds import has_folds
from rnnopt.report.statistics import mean_and_width
from rnnopt.runs.collection import Group, facts_of
from rnnopt.tasks.names import for_markdown

NARROW = (0, 2, 4, 5, 6)  # the columns that a small terminal still has room for


def columns(groups: Sequence[Group]) -> list[str]:
    """Headings of `rows`."""
    facts = facts_of(groups)
    name = facts["metric"]
    return [
        "optimizer", "runs", f"test {name}", f"best validation {name}",
        f"reached {facts['target']:g}", "gradients to target", "seconds to target",
        "ms per gradient", "status",
    ]  # fmt: skip


def rows(groups: Sequence[Group]) -> list[list[str]]:
    """One row a group, as text; runs that are not over have no test figure."""
    return [_row(group) for group in groups]


def _row(group: Group) -> list[str]:
    results = [run.result for run in group.runs]
    best = [r["best"]["validation_metric"] for r in results if r.get("best")]
    targets = [r.get("to_target") or {} for r in results]
    cost = [
        1e3 * r["seconds"] / r["gradient_evaluations"]
        for r in results
        if "seconds" in r and r.get("gradient_evaluations", 0) > 0
    ]
    statuses: dict[str, int] = {}
    for r in results:
        statuses[r["status"]] = statuses.get(r["status"], 0) + 1
    ends = ", ".join(f"{count} {status}" for status, count in statuses.items())
    nonfinite = sum(r.get("nonfinite", 0) for r in results)
    return [
        group.label,
        str(len(results)),
        _interval([r["test_metric"] for r in results if "test_metric" in r], 4),
        _interval(best, 4),
        reached(group),
        _cost([t.get("gradient_evaluations", math.inf) for t in targets], 0),
        _cost([t.get("seconds", math.inf) for t in targets], 1),
        _interval(cost, 1, interval=False),
        f"{ends}; {nonfinite} steps not finite" if nonfinite else ends,
    ]


def reached(group: Group) -> str:
    """How many runs of a group met the target, of how many."""
    return f"{sum(bool(run.result.get('to_target')) for run in group.runs)}/{len(group.runs)}"


def _interval(values: Sequence[float], digits: int, interval: bool = True) -> str:
    if not values:
        return "–"
    mean, width = mean_and_width(values)
    if math.isnan(width) or not interval:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {width:.{digits}f}"


def _cost(values: Sequence[float], digits: int) -> str:
    """Of a target, by run; ∞ for one that missed it."""
    if all(map(math.isfinite, values)):
        return _interval(values, digits)
    median = statistics.median(values)
    return "∞" if math.isinf(median) else f"median {median:.{digits}f}"


def markdown(groups: Sequence[Group]) -> str:
    """The table as Markdown."""
    head = list(map(for_markdown, columns(groups)))
    cells = [map(for_markdown, row) for row in rows(groups)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    text = "\n".join(lines + [f"| {' | '.join(row)} |" for row in cells]) + "\n"
    for group in filter(has_folds, groups):
        text += f"\nFolds of {for_markdown(group.label)}:\n\n{folds.markdown(group.runs)}"
    return text
