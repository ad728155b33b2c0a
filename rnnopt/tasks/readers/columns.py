"""Where labels, names and times stand in a file, and how numbers are written there."""

from dataclasses import dataclass

import numpy as np

from rnnopt.tasks.recordings import Recordings

# What a file holds: its series, and those it keeps apart to test on.
Parts = tuple[Recordings, Recordings | None]

LABELS = ("label", "class", "target", "y")
IDS = ("id", "series", "case")
TIMES = ("time", "t", "timestamp", "step")
MISSING = ("", "nan", "na", "n/a", "null", "none", "?")


@dataclass(frozen=True)
class Columns:
    """Where to look.

    Args:
        label, id, time: names of columns; None means one with a usual name.
        unlabelled: the file has no labels.
        steps: a row of as many values as that has no label, where nothing else tells.
        optional: a column `label` that is not there means that there are no labels.
    """

    label: str | None = None
    id: str | None = None
    time: str | None = None
    unlabelled: bool = False
    steps: int | None = None
    optional: bool = False


def find(names: list[str], wanted: str | None, usual: tuple[str, ...]) -> str | None:
    """The column that was asked for, or the first with a usual name.

    Raises:
        ValueError: there is no such column.
    """
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f"there is no column {wanted!r}, only {', '.join(names[:20])}.")
        return wanted
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
    try:
        return np.array(cells, dtype=np.float64)  # quick, and right for nearly every row
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
