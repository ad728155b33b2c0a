"""Parquet tables with a row per series and a list of its steps per channel.

A column of lists is a channel, a time or a label of each step; a column of single values is the
label, id or group of the series. The lists of a row are equally long, those of two rows need not
be. A null in a list is a missing value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.readers.columns import (
    IDS,
    LABELS,
    TIMES,
    Columns,
    find,
    find_dropped,
    find_label,
    find_several,
    find_step_labels,
    refuse_two_roles,
)
from rnnopt.tasks.user_data.readers.groups import suspicious
from rnnopt.tasks.user_data.readers.tables import numbers_in, with_labels, words_in
from rnnopt.tasks.user_data.readers.times import Clock, parse_timestamps, to_seconds
from rnnopt.tasks.user_data.recordings import Recordings, TableSchema, recordings

Lists = Mapping[str, list[np.ndarray]]  # by column, of each row


def lists_of(name: str, column: Any) -> list[np.ndarray]:
    """The list of each row of a column: numbers as float64, times as they are, words as objects.

    Args:
        name: name of the column.
        column: pyarrow's column of lists.

    Raises:
        ValueError: a row has no list, or lists hold anything else, such as lists.
    """
    import pyarrow as pa
    from pyarrow import compute

    if column.null_count:
        row = column.is_null().index(True).as_py() + 1
        raise ValueError(f"column {name!r} must have a list in each row, row {row} has none.")
    values = [chunk.flatten() for chunk in column.chunks]
    lengths = compute.list_value_length(column).to_numpy()
    kind = column.type.value_type
    is_number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    is_word = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    if any(one(kind) for one in is_number):
        cast = [one.cast(pa.float64(), safe=False) for one in values]
        found = [one.to_numpy(zero_copy_only=False) for one in cast]
    elif any(one(kind) for one in is_word):
        words = [["" if one is None else str(one) for one in part.to_pylist()] for part in values]
        found = [np.array(one, dtype=object) for one in words]
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        found = [one.to_numpy(zero_copy_only=False) for one in values]
    else:
        raise ValueError(
            f"column {name!r} must have lists of numbers, a column for each channel, got"
            f" {str(column.type)[:60]}."
        )
    return np.split(np.concatenate(found), np.cumsum(lengths)[:-1])


@dataclass(frozen=True)
class Roles:
    """What the columns of a table with lists are.

    Args:
        channels, time: columns of lists.
        label: column of single values or lists, None if there is none.
        several, each: the columns of several labels of a series, or of a step; () otherwise.
        id, group: columns of single values, None if there is none.
        unused: columns that the user left out.
        left: columns of single values without a role.
    """

    channels: tuple[str, ...]
    time: str | None
    label: str | None
    several: tuple[str, ...]
    each: tuple[str, ...]
    id: str | None
    group: str | None
    unused: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def schema(self) -> TableSchema:
        """The same as of a table."""
        label = self.label or ",".join([*self.several, *self.each]) or None
        return TableSchema(
            "wide", label, self.id, self.time, (), group=self.group, unused=self.unused
        )


def from_lists(single: Mapping[str, np.ndarray], lists: Lists, columns: Columns) -> Recordings:
    """The series of a table with lists.

    Args:
        single: columns (row,) of single values.
        lists: columns of lists.
        columns: the columns to use.

    Raises:
        ValueError: lists of a row differ in length, a column is missing or holds no numbers.
    """
    roles = _roles(single, lists, columns)
    _check_lengths({name: rows for name, rows in lists.items() if name not in roles.unused})
    _refuse_words(roles.channels, lists)
    called = None if roles.id is None else words_in(single[roles.id])
    clock, stamps = Clock(), None
    count = len(lists[roles.channels[0]])
    names = called or [str(i + 1) for i in range(count)]
    if roles.time is not None:
        rows = [parse_timestamps(one, roles.time) for one in lists[roles.time]]
        pairs = zip(rows, names, strict=True)
        orders = [clock.order(one, name, roles.time) for one, name in pairs]
        lists = {name: _sorted(its, orders) for name, its in lists.items()}
        stamps = tuple(_sorted(rows, orders))
    data = recordings(
        [np.stack([lists[name][i] for name in roles.channels], 1) for i in range(count)],
        _targets(single, lists, roles, count),
        channels=roles.channels,
        names=called,
        each_step=bool(roles.each) or None,
        outputs=roles.each or None,
        groups=None if roles.group is None else words_in(single[roles.group]),
    )
    if roles.label in lists:
        labels = [words_in(one) for one in lists[str(roles.label)]]
        data = with_labels(replace(data, names=tuple(names)), labels, columns)
    notes = [f"left out: {', '.join(roles.left)}"] if roles.left else []
    return replace(
        data,
        table=roles.schema,
        notes=("a list per channel", *notes),
        unused=roles.unused,
        times=clock.describe(),
        stamps=stamps,
        moments=stamps and tuple(to_seconds(one, columns.time_unit) for one in stamps),
        suspect=None if roles.group else suspicious([*roles.unused, *roles.left]),
    )


def _roles(single: Mapping[str, np.ndarray], lists: Lists, columns: Columns) -> Roles:
    names = [*single, *lists]
    several = [] if columns.each_step else find_several(list(single), columns)
    columns = columns if several or columns.each_step else find_label(names, columns)
    group = columns.group and find(list(single), columns.group, (), columns.optional)
    unused = [name for name in find_dropped(names, columns) if name != group]
    refuse_two_roles(columns, group, unused)
    alone = [name for name in single if name not in (*unused, group)]
    identity = find(alone, columns.id, IDS, columns.optional)
    alone = [name for name in alone if name != identity]
    rows = [name for name in lists if name not in unused]
    time = find(rows, columns.time, TIMES, columns.optional)
    rows = [name for name in rows if name != time]
    each = find_step_labels(rows, columns) if columns.each_step else []
    label = None if columns.each_step or several else _label(alone, rows, columns)
    channels = tuple(name for name in rows if name not in (label, *each))
    if not channels:
        raise ValueError("a series needs a column of lists for each channel, got none.")
    left = tuple(name for name in alone if name not in (label, *several))
    labels = tuple(several), tuple(each)
    return Roles(channels, time, label, *labels, identity, group, tuple(unused), left)


def _targets(
    single: Mapping[str, np.ndarray], lists: Lists, roles: Roles, count: int
) -> Sequence[np.ndarray] | np.ndarray | None:
    """The targets of the series, or of their steps; None where a list has the label."""
    if roles.each:
        return [np.stack([lists[name][i] for name in roles.each], 1) for i in range(count)]
    if roles.several:
        return np.stack([numbers_in(single, name) for name in roles.several], 1)
    return single.get(roles.label) if roles.label is not None else None


def _label(alone: Sequence[str], each: Sequence[str], columns: Columns) -> str | None:
    """The column of the labels: as named, with a usual name, or the first with single values."""
    if columns.unlabelled:
        return None
    found = find([*alone, *each], columns.label, LABELS, columns.optional)
    if found is None and not columns.optional and alone:
        return alone[0]
    return found


def _check_lengths(lists: Lists) -> None:
    """Raises ValueError if the lists of a row differ in length."""
    first, *others = lists
    for name in others:
        for row, (one, other) in enumerate(zip(lists[first], lists[name], strict=True), start=1):
            if len(one) != len(other):
                raise ValueError(
                    f"the lists of a row must be equally long, row {row} has {len(one)} values in"
                    f" {first!r} and {len(other)} in {name!r} (--drop leaves a column out)."
                )


def _refuse_words(channels: Sequence[str], lists: Lists) -> None:
    """Raises ValueError if the lists of a channel hold words or times."""
    for name in channels:
        if any(one.dtype.kind != "f" for one in lists[name]):
            raise ValueError(
                f"column {name!r} holds no numbers (pass --label {name!r} or --time {name!r} if it"
                f" holds these, or --drop {name!r})."
            )


def _sorted(rows: list[np.ndarray], orders: list[np.ndarray]) -> list[np.ndarray]:
    return [one[order] for one, order in zip(rows, orders, strict=True)]
