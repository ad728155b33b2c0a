"""A published table or figure: its rows, columns and printed values, and how to reproduce it.

A study trains every row on every column's task: first one run per learning rate of one grid on a
separate seed, ranked by the validation metric, then the chosen rate on every reported seed. All
rows have the same budget in gradient evaluations and, except for those with a printed rate, the
same rule of tuning: the same number of rates, and further ones while the best is at an end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FORMS = ("cpu", "full", "quick")
FormName = Literal["cpu", "full", "quick"]


@dataclass(frozen=True)
class Column:
    """A data set: its name in the publication, the task, and a target other than the task's."""

    label: str
    task: str
    target: float | None = None


@dataclass(frozen=True)
class Row:
    """A method.

    Args:
        label: label in the table.
        settings: fields of RunConfig; None for a number from the literature, which is not run.
        published: printed values by column label, in the table's unit.
        rate_unit: factor of the grid of learning rates.
        shown: whether the figure shows its curve.
        rate: printed learning rate, which is not tuned.
    """

    label: str
    settings: Mapping[str, Any] | None
    published: Mapping[str, float] = field(default_factory=dict)
    rate_unit: float = 1.0
    shown: bool = False
    rate: float | None = None


@dataclass(frozen=True)
class Form:
    """The extent of a study.

    Args:
        columns: data sets.
        budget: budget of each reported run.
        tuning_budget: budget of each tuning run.
        rates: grid of learning rates; a single rate is not tuned.
        widen: whether a row tries further rates while its best one is at an end of those tried, see
            `engine.rates_tried`.
        seeds: seeds of the reported runs.
        settings: fields of RunConfig that all runs share.
        rows: labels of the rows to run; None for all.
        changes: fields of RunConfig that differ from a row's own, by label.
    """

    columns: tuple[Column, ...]
    budget: str
    tuning_budget: str
    rates: tuple[float, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] | None = None
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    widen: bool = True


@dataclass(frozen=True)
class Study:
    """A published table or figure.

    Args:
        name: such as "frank-wolfe/table-3".
        title: its subject.
        claim: the publication's claim about it.
        rows: methods, the published ones first.
        forms: forms by name: "cpu" finishes on two cores, "full" has the publication's size,
            "quick" runs in seconds, as a test.
        remarks: what the publication leaves open, and the choices made here.
        runs: folder of the runs, if studies share them; unset means the name.
        percent: whether accuracies are printed in percent.
        curve: the figure's second curve beside the training loss.
    """

    name: str
    title: str
    claim: str
    rows: tuple[Row, ...]
    forms: Mapping[str, Form]
    remarks: tuple[str, ...] = ()
    runs: str = ""
    percent: bool = True
    curve: Literal["validation_metric", "test_metric"] = "validation_metric"
