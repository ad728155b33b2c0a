"""Where labels, names and times stand in a file, and how numbers are written there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnnopt.config.data_config import Decimal, Header, Layout
from rnnopt.tasks.user_data.readers.decimals import advice
from rnnopt.tasks.user_data.recordings import MISSING, Recordings, TableSchema

# What a file holds: its series, and those it keeps apart to test on.
Parts = tuple[Recordings, Recordings | None]

LABELS = ("label", "class", "target", "y")
IDS = ("id", "series", "case")
TIMES = ("time", "t", "timestamp", "step")


@dataclass(frozen=True)
class Columns:
    """Where to look.

    Args:
        label: the name of a column, or its place as `place_of` reads it; None means one with a
            usual name, or else the first.
        id, time: names of columns; None means one with a usual name.
        unlabelled: the file has no labels.
        steps: a line without names of as many values as that has no label.
        optional: columns that are not there are none that the file needs, and no other is taken for
            the label in their place: the names are those of the training data.
        layout: of a table with names; None means what its id column tells.
        header: whether the first line of a text has names; None means what it looks like.
        decimal: the sign before decimals in a text; None means what it looks like.
        place: of the label in lines without names, where `label` is a name.
    """

    label: str | None = None
    id: str | None = None
    time: str | None = None
    unlabelled: bool = False
    steps: int | None = None
    optional: bool = False
    layout: Layout | None = None
    header: Header | None = None
    decimal: Decimal | None = None
    place: int = 0

    def like(self, table: TableSchema | None) -> "Columns":
        """Where to look in a file to be read as the training data were."""
        if table is None:
            return self
        return replace(
            self,
            label=table.label or self.label,
            place=place_of(self.label) or 0,
            id=self.id or table.id,
            time=self.time or table.time,
            layout=table.layout,
            optional=True,
        )


def place_of(label: str | None) -> int | None:
    """The place that a label is given as, 0 for the first column, -1 for the last; None if none."""
    if label is not None and label.lower() == "last":
        return -1
    return int(label) if label is not None and re.fullmatch(r"-?[0-9]{1,9}", label) else None


def at_place(names: Sequence[str], place: int) -> str:
    """The column at a place, as `place_of` has it.

    Raises:
        ValueError: there are not as many.
    """
    if not -len(names) <= place < len(names):
        raise ValueError(
            f"there is no column {place}, only 0 … {len(names) - 1} ({_shown(names)}), or"
            f" {-len(names)} … -1 from the last."
        )
    return names[place]


def _shown(names: Sequence[str]) -> str:
    more = ", …" if len(names) > 20 else ""
    return ", ".join(name[:40] for name in names[:20]) + more


def find_label(names: list[str], columns: Columns) -> Columns:
    """The same, with the name of the label's column for its place; a name goes first.

    Raises:
        ValueError: there are not as many columns, and the label is not optional.
    """
    place = place_of(columns.label)
    known = {name.lower() for name in names}
    if columns.label is None or place is None or columns.label.lower() in known:
        return columns
    if columns.optional and not -len(names) <= place < len(names):
        return columns
    return replace(columns, label=at_place(names, place))


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
        raise ValueError(f"there is no column {wanted!r}, only {_shown(names)}.")
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
        told = f"{where} must be a number, got {cell.strip()[:40]!r}{advice(cell[:40])}."
        raise ValueError(told) from None


def is_number(cell: str) -> bool:
    """Whether a cell is a number or says that one is missing."""
    try:
        to_number(cell, "")
    except ValueError:
        return False
    return True
