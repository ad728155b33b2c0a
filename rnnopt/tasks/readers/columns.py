"""Where labels, names and times stand in a file, and how numbers are written there."""

from dataclasses import dataclass, replace

import numpy as np

from rnnopt.data_config import Header, Layout
from rnnopt.tasks.recordings import MISSING, Reading, Recordings

# What a file holds: its series, and those it keeps apart to test on.
Parts = tuple[Recordings, Recordings | None]

LABELS = ("label", "class", "target", "y")
IDS = ("id", "series", "case")
TIMES = ("time", "t", "timestamp", "step")


@dataclass(frozen=True)
class Columns:
    """Where to look.

    Args:
        label, id, time: names of columns; None means one with a usual name.
        unlabelled: the file has no labels.
        steps: a line without names of as many values as that has no label.
        optional: columns that are not there are none that the file needs, and no other is taken for
            the label in their place: the names are those of the training data.
        layout: of a table with names; None means what its id column tells.
        header: whether the first line of a text has names; None means what it looks like.
    """

    label: str | None = None
    id: str | None = None
    time: str | None = None
    unlabelled: bool = False
    steps: int | None = None
    optional: bool = False
    layout: Layout | None = None
    header: Header | None = None

    def like(self, table: Reading | None) -> "Columns":
        """Where to look in a file to be read as the training data were."""
        if table is None:
            return self
        return replace(
            self,
            label=self.label or table.label,
            id=self.id or table.id,
            time=self.time or table.time,
            layout=table.layout,
            optional=True,
        )


def find(
    names: list[str], wanted: str | None, usual: tuple[str, ...], optional: bool = False
) -> str | None:
    """The column that was asked for, or the first with a usual name.

    A column that was asked for may be written in other capitals, if only one is like that.

    Raises:
        ValueError: there is no such column, and it is not optional.
    """
    if wanted is not None:
        alike = [name for name in names if name.lower() == wanted.lower()]
        if wanted in names or len(alike) == 1:
            return wanted if wanted in names else alike[0]
        if optional:
            return None
        raise ValueError(f"there is no column {wanted!r}, only {', '.join(names[:20])}.")
    lower = {name.strip().lower(): name for name in reversed(names)}
    # Beside an x, y is no label but another channel.
    return next(
        (lower[one] for one in usual if one in lower and (one, "x" in lower) != ("y", True)), None
    )


def to_numbers(cells: list[str], where: str) -> np.ndarray:
    """Cells as float64, NaN where one says that a value is missing.

    Raises:
        ValueError: a cell is no number.
    """
    try:  # quick, and right for nearly every row
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return np.array(
            [to_number(cell, f"{where}, value {i + 1}") for i, cell in enumerate(cells)]
        )


def to_number(cell: str, where: str) -> float:
    """One cell, as in `to_numbers`."""
    if cell.strip().lower() in MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{where} must be a number, got {cell.strip()[:40]!r}.") from None


def is_number(cell: str) -> bool:
    """Whether a cell is a number or says that one is missing."""
    try:
        to_number(cell, "")
    except ValueError:
        return False
    return True
