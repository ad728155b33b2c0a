"""The columns of labels, names and times in a file, and the notation of its numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from rnnopt.config.data_config import DataConfig, Decimal, Header, Layout, TimeUnit, hertz
from rnnopt.tasks.user_data.readers.decimals import advice
from rnnopt.tasks.user_data.recordings import Recordings, TableSchema
from rnnopt.tasks.user_data.words import MISSING

# The content of a file: its series, and separate test series if it has some.
Parts = tuple[Recordings, Recordings | None]

LABELS = ("label", "class", "target", "y")
IDS = ("id", "series", "case")
TIMES = ("time", "t", "timestamp", "step")


@dataclass(frozen=True)
class Columns:
    """The columns to use.

    Args:
        label: name of a column, or its position as in `place_of`; None means a column with a usual
            name, or else the first.
        id, time: names of columns; None means a column with a usual name.
        unlabelled: whether the file has no labels.
        steps: number of values in a line without names and without a label.
        optional: whether the columns may be missing, because the names are those of the training
            data; no other column then becomes the label.
        layout: layout of a table with names; None means by its id column.
        header: whether the first line of a text has names; None means by its content.
        decimal: decimal sign of a text; None means by its content.
        place: position of the label in lines without names, if `label` is a name.
        each_step: whether each step has its own label; `label` may then name several columns, with
            commas between them.
        single: whether a table without an id column is a single series, with a row per step.
        group: name of the column of groups; None means that there is none.
        drop: names or positions of the columns or channels to leave out.
        varying: whether labels may change within a series.
        window: steps that a recording has at least, where a table may be one recording, a row per
            step, without a column that names it; None means that it may not.
        time_unit: unit of times that are numbers.
        name: name of a recording that no column names.
        resample: rate in hertz to which signals of different rates are brought; None means none.
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
    each_step: bool = False
    single: bool = False
    group: str | None = None
    drop: tuple[str, ...] = ()
    varying: bool = False
    window: int | None = None
    time_unit: TimeUnit = "s"
    name: str = "recording"
    resample: float | None = None

    @classmethod
    def of(cls, config: DataConfig, **others: Any) -> Self:
        """The columns that a config names; `others` are further fields."""
        same = ("label", "id", "time", "layout", "header", "decimal", "group", "drop", "window")
        values = {name: getattr(config, name) for name in (*same, "time_unit", "each_step")}
        forecasts = config.horizon is not None
        if forecasts:  # the labels are channels, too
            values |= {"label": None, "unlabelled": True}
        if config.labels is not None:
            values["unlabelled"] = True
        values["single"] = config.each_step or forecasts
        values["resample"] = None if config.resample is None else hertz(config.resample)
        return cls(**(values | {"varying": config.window is not None} | others))

    def like(self, table: TableSchema | None) -> "Columns":
        """The columns of a file that is to be read like the training data."""
        if table is None:
            return self
        return replace(
            self,
            label=table.label or self.label,
            place=place_of(self.label) or 0,
            id=self.id or table.id,
            time=self.time or table.time,
            group=self.group or table.group,
            layout=table.layout,
            optional=True,
            single=self.single or (table.layout == "long" and table.id is None),
        )


def place_of(label: str | None) -> int | None:
    """The position that `label` states: 0 for the first column, -1 for the last; None if none."""
    if label is not None and label.lower() == "last":
        return -1
    return int(label) if label is not None and re.fullmatch(r"-?[0-9]{1,9}", label) else None


def at_place(names: Sequence[str], place: int) -> str:
    """The column at a position of `place_of`.

    Raises:
        ValueError: there are fewer columns.
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
    """The same columns, with the label's position replaced by a name; an equal name wins.

    Raises:
        ValueError: there are fewer columns, and the label is not optional.
    """
    place = place_of(columns.label)
    known = {name.lower() for name in names}
    if columns.label is None or place is None or columns.label.lower() in known:
        return columns
    if columns.optional and not -len(names) <= place < len(names):
        return columns
    return replace(columns, label=at_place(names, place))


def find_step_labels(names: list[str], columns: Columns) -> list[str]:
    """The columns of the labels of each step; [] if they may be missing and are.

    Raises:
        ValueError: there is no such column, and it is not optional.
    """
    if columns.unlabelled:
        return []
    if columns.label is None or columns.label.lower() in {name.lower() for name in names}:
        found = [find(names, columns.label, LABELS, columns.optional)]
    else:
        wanted = [one.strip() for one in columns.label.split(",")]
        each = [replace(columns, label=one) for one in wanted if one]
        named = [find_label(names, one).label for one in each]
        found = [find(names, one, LABELS, columns.optional) for one in named]
    labels = [one for one in found if one is not None]
    if not labels and not columns.optional:
        raise ValueError(
            f"targets at every step need --label, a column or several with commas between them, of"
            f" {_shown(names)}."
        )
    if len(set(labels)) < len(labels):
        raise ValueError(f"--label must name each column once, got {columns.label!r}.")
    return labels


def find_several(names: list[str], columns: Columns) -> list[str]:
    """The columns of several labels a series, of "a,b,c"; [] if `label` names one column.

    Raises:
        ValueError: one of them is not there.
    """
    several = columns.label is not None and "," in columns.label and columns.label not in names
    return find_step_labels(names, columns) if several and not columns.unlabelled else []


def refuse_two_roles(columns: Columns, group: str | None, unused: Sequence[str]) -> None:
    """Raises ValueError if the label is the column of groups, or a column that is left out."""
    label = (columns.label or "").lower()
    if group is not None and group.lower() == label and not columns.optional:
        raise ValueError(f"--label and --group must be different columns, both are {group!r}.")
    if not columns.optional and label in (name.lower() for name in unused):
        raise ValueError(f"--drop leaves out {columns.label!r}, and --label needs it.")


def find_id(names: list[str], group: str | None, time: str | None, columns: Columns) -> str | None:
    """The column that names the series, which may also be the column of groups.

    Without --id that is so only where no other column has a usual name, and a time says that rows
    are steps.
    """
    if group is None:
        return find(names, columns.id, IDS, columns.optional)
    if columns.id is not None:
        return find([*names, group], columns.id, IDS, columns.optional)
    found = find(names, None, IDS)
    return find([group], None, IDS) if found is None and time is not None else found


def find_dropped(names: Sequence[str], columns: Columns) -> list[str]:
    """The names among `names` of what is to be left out.

    Raises:
        ValueError: one is not there, and columns are not optional.
    """
    found = []
    for wanted in columns.drop:
        place = place_of(wanted)
        if place is not None and wanted not in names:
            found.append(at_place(names, place))
        elif (name := find(list(names), wanted, (), columns.optional)) is not None:
            found.append(name)
    return found


def find(
    names: list[str], wanted: str | None, usual: tuple[str, ...], optional: bool = False
) -> str | None:
    """The column `wanted`, or the first column with a usual name.

    `wanted` may differ in capitals if only one column matches.

    Raises:
        ValueError: there is no such column, and it is not optional.
    """
    if wanted is not None:
        matches = [name for name in names if name.lower() == wanted.lower()]
        if wanted in names or len(matches) == 1:
            return wanted if wanted in names else matches[0]
        if optional:
            return None
        raise ValueError(f"there is no column {wanted!r}, only {_shown(names)}.")
    lower = {name.strip().lower(): name for name in reversed(names)}
    # Beside an x, y is not a label but another channel.
    return next(
        (lower[one] for one in usual if one in lower and (one, "x" in lower) != ("y", True)), None
    )


def to_numbers(cells: list[str], where: str) -> np.ndarray:
    """Cells as float64, with NaN for missing values.

    Raises:
        ValueError: a cell is not a number.
    """
    try:  # fast, and correct for nearly every row
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
        message = f"{where} must be a number, got {cell.strip()[:40]!r}{advice(cell[:40])}."
        raise ValueError(message) from None


def is_number(cell: str) -> bool:
    """Whether a cell is a number or a mark for a missing one."""
    try:
        to_number(cell, "")
    except ValueError:
        return False
    return True
