"""A file of a folder that holds one series: an array, or text with a line per step."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnnopt.tasks.user_data.readers.columns import (
    TIMES,
    Columns,
    find,
    find_dropped,
    is_number,
    to_numbers,
)
from rnnopt.tasks.user_data.readers.groups import group_of_each
from rnnopt.tasks.user_data.readers.numpy_files import read_file
from rnnopt.tasks.user_data.readers.tables import index_of
from rnnopt.tasks.user_data.readers.text import Lines, counts, read_lines
from rnnopt.tasks.user_data.readers.times import Clock, parse_timestamps, to_seconds

ENDINGS = (".npy", ".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class SeriesFile:
    """The content of a file.

    Args:
        values: the series, (time,) or (time, channel).
        channels: names of the channels, None if the file has none.
        notes: on how it was read.
        labels: label of each step, if there is a column of labels.
        group: its group, if there is a column of groups.
        moments: time of each step in seconds, if there is a column of times.
        stamps: the same as written.
    """

    values: np.ndarray
    channels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    labels: list[str] | None = None
    group: str | None = None
    moments: np.ndarray | None = None
    stamps: np.ndarray | None = None


def read_series(path: Path, columns: Columns, clock: Clock) -> SeriesFile:
    """The series of a file.

    An index without a name is left out, and so are the columns that `columns` names.
    """
    if path.suffix.lower() == ".npy":
        _refuse_names(path.name, "an array", columns)
        return SeriesFile(read_file(path))
    try:
        lines = read_lines(path, columns.decimal)
        rows = lines.rows
        indexed = not rows[0][0].strip() and counts([cell.strip() for cell in rows[0][1:]])
        if not indexed and all(map(is_number, rows[0])):
            lines.check_decimals(named=False)
            _refuse_names("", "the first line", columns)
            steps = [to_numbers(row, f"line {i + 1}") for i, row in enumerate(rows)]
            return SeriesFile(np.stack(steps), None, lines.notes)
        lines.check_decimals(named=True)
        return _named_series(lines, columns, clock, path.name)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _refuse_names(place: str, what: str, columns: Columns) -> None:
    """Raises ValueError if a column is named, and the file has no names."""
    named = columns.time or columns.label or columns.group
    if named is not None and not columns.optional:
        before = f"{place}: " if place else ""
        raise ValueError(f"{before}there is no column {named!r}: {what} has no names.")


def _named_series(lines: Lines, columns: Columns, clock: Clock, name: str) -> SeriesFile:
    """The series below a line of names."""
    names = [cell.strip() for cell in lines.written[0]]
    rows = lines.rows[1:]
    if not rows:
        raise ValueError("a series needs at least one step, got none.")
    if {len(row) for row in rows} != {len(names)}:
        raise ValueError(f"each line needs {len(names)} cells, as there are names.")
    time, label, group = (
        wanted and find(names, wanted, (), columns.optional)
        for wanted in (columns.time, columns.label, columns.group)
    )
    left_out = set(range(len(index_of(names))))
    left_out |= {names.index(one) for one in (time, label, group) if one is not None}
    left_out |= {names.index(one) for one in find_dropped(names, columns)}
    numbered = list(enumerate(rows, start=2))
    moments = None
    if time is not None:
        moments = parse_timestamps(np.array(_column(numbered, names, time), dtype=object), time)
        order = clock.order(moments, name, time)
        numbered, moments = [numbered[i] for i in order], moments[order]
    kept = [i for i in range(len(names)) if i not in left_out]
    if not kept:
        raise ValueError("a series needs a column for each channel, got none.")
    doubts = _doubt_of_time(names, kept, rows[0], columns)
    values = [to_numbers([row[i] for i in kept], f"line {number}") for number, row in numbered]
    groups = None
    if group is not None:
        every = {name: np.arange(len(rows))}
        groups = group_of_each(_column(numbered, names, group), every, group)
    return SeriesFile(
        np.stack(values),
        tuple(names[i] for i in kept),
        (*doubts, *lines.notes),
        None if label is None else _column(numbered, names, label),
        None if groups is None else str(groups[0]),
        None if moments is None else to_seconds(moments, columns.time_unit),
        moments,
    )


def _column(numbered: list[tuple[int, list[str]]], names: list[str], column: str) -> list[str]:
    place = names.index(column)
    return [row[place].strip() for _, row in numbered]


def _doubt_of_time(
    names: list[str], kept: list[int], row: list[str], columns: Columns
) -> tuple[str, ...]:
    """A note if a channel has a usual name of the time."""
    usual = None if columns.time is not None else find([names[i] for i in kept], None, TIMES)
    if usual is None:
        return ()
    if not is_number(row[names.index(usual)]):
        raise ValueError(f"column {usual!r} has no numbers: pass --time {usual} if it is the time.")
    return (f"column {usual!r} is taken for a channel (--time {usual} takes it for the time)",)
