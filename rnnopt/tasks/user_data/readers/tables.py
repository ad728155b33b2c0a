"""Tables with named columns: wide, a row per series, or long, a row per step."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rnnopt.tasks.user_data.readers.columns import (
    IDS,
    LABELS,
    TIMES,
    Columns,
    find,
    find_label,
    find_step_labels,
    is_number,
    to_numbers,
)
from rnnopt.tasks.user_data.readers.times import Clock, parse_timestamps, refuse_missing
from rnnopt.tasks.user_data.recordings import Recordings, TableSchema, recordings

Table = dict[str, np.ndarray]
INDEX = ("", "Unnamed: 0")  # pandas' names of an unnamed index, in the first column
PARQUET_INDEX = "__index_level_0__"  # the same in parquet files, in any column


def from_table(table: Table, columns: Columns) -> Recordings:
    """The series of a table.

    It is long if its id column names a series more than once; the columns besides id, time and
    label are then channels. Otherwise it is wide, and they are the steps. An index without a name
    is left out.

    Raises:
        ValueError: a named column is missing, a cell is not a number, a label changes in a series,
            a time is missing, or it is unclear whether the table is long.
    """
    if columns.each_step:
        return _each_step(table, columns)
    columns = find_label([name for name in table if name != PARQUET_INDEX], columns)
    chosen = (columns.label, columns.id, columns.time)
    index = [name for name in index_of(list(table)) if name not in chosen]
    names = [name for name in table if name not in index]
    identity = find(names, columns.id, IDS, columns.optional)
    time = find(names, columns.time, TIMES, columns.optional)
    label = None if columns.unlabelled else find(names, columns.label, LABELS, columns.optional)
    long = _is_long(table, identity, time if time != label else None, columns)
    for name in index:
        _check_index(table[name], repeated=long)
    kept = {name: table[name] for name in names}
    if long:
        return _long(kept, TableSchema("long", label, identity, time, dropped=tuple(index)))
    rest = [name for name in names if name not in (identity, label)]
    first = label is None and not columns.unlabelled and not columns.optional and bool(rest)
    if first:
        label, rest = rest[0], rest[1:]
    if not rest:
        raise ValueError(f"a table needs a column for each step, got only {', '.join(names)}.")
    if columns.layout is None:
        _refuse_channels(rest)
    values = np.stack([_numbers(table, name) for name in rest], 1)
    targets = None if label is None else table[label]
    identities = None if identity is None else _words(table[identity])
    reading = TableSchema("wide", label, identity, None, tuple(rest), tuple(index), first)
    return replace(recordings(values, targets, names=identities), table=reading)


def _each_step(table: Table, columns: Columns) -> Recordings:
    """The series of a long table whose label columns have a value for each step."""
    if columns.layout == "wide":
        raise ValueError(
            "targets at every step need a long table, a row per step, got layout wide."
        )
    index = index_of(list(table))
    names = [name for name in table if name not in index]
    identity = find(names, columns.id, IDS, columns.optional)
    time = find(names, columns.time, TIMES, columns.optional)
    labels = find_step_labels([name for name in names if name not in (identity, time)], columns)
    for name in index:
        _check_index(table[name], repeated=True)
    label = ",".join(labels) or None
    reading = TableSchema("long", label, identity, time, dropped=tuple(index))
    return _long({name: table[name] for name in names}, reading, labels)


def index_of(names: list[str]) -> list[str]:
    """The columns that look like an index without a name."""
    first = names[:1] if names[0] in INDEX else []
    return first + [name for name in names if name == PARQUET_INDEX]


def _refuse_channels(names: list[str]) -> None:
    """Raises ValueError if columns look like the steps of several channels: x_1, x_2, y_1, y_2."""
    found = [re.fullmatch(r"(.*?)[-_. ]?(\d+)", name) for name in names]
    steps: dict[str, list[int]] = {}
    for one in found:
        if one is not None:
            steps.setdefault(one[1], []).append(int(one[2]))
    several = len(steps) > 1 and len({tuple(sorted(one)) for one in steps.values()}) == 1
    if several and None not in found and len(names) > len(steps):
        raise ValueError(
            f"the columns look like the steps of {len(steps)} channels ({', '.join(steps)[:60]}),"
            " and a wide table has one: write a long table with a row per step,"
            " or pass --layout wide to take them for one channel."
        )


def _is_long(table: Table, identity: str | None, time: str | None, columns: Columns) -> bool:
    if columns.layout == "wide":
        return False
    if columns.single and identity is None and (columns.layout == "long" or time is not None):
        return True
    if columns.layout == "long":
        if identity is None:
            raise ValueError(
                "a long table needs a column that names the series: name it with --id, got"
                f" {', '.join(list(table)[:20])}."
            )
        return True
    repeated = identity is not None and len(set(_words(table[identity]))) < len(table[identity])
    if time is not None and not repeated:
        raise ValueError(
            f"column {time!r} looks like that of a long table, a row per step: pass the column that"
            " names the series with --id (or --layout wide, if each row is a series)."
        )
    return repeated


def _check_index(values: np.ndarray, repeated: bool) -> None:
    """Raises ValueError unless a column without a name holds only row numbers."""
    words = [word.removesuffix(".0") for word in _words(values)]
    counts = all(word.strip().isdecimal() for word in words)
    if not counts or (len(set(words)) < len(words) and not repeated):
        raise ValueError(
            "the first column has no name and is no index of rows: name it (label, id, time, …) or"
            f" remove it, got {words[0]!r}."
        )


def _long(table: Table, reading: TableSchema, each_step: Sequence[str] = ()) -> Recordings:
    """The series of a long table; `each_step` names the columns with a label for each step."""
    identity, time = reading.id, reading.time
    label = None if each_step else reading.label
    channels = [name for name in table if name not in (identity, time, label, *each_step)]
    if not channels:
        raise ValueError("a table with a row per step needs a column for each channel, got none.")
    values = np.stack([_numbers(table, name) for name in channels], 1)
    rows: dict[str, list[int]] = {}
    if identity is None:
        rows[""] = list(range(len(values)))
    else:
        words = _words(table[identity])
        refuse_missing(words, identity)
        for row, name in enumerate(words):
            rows.setdefault(name, []).append(row)
    moments = None if time is None else parse_timestamps(table[time], time)
    clock, series, targets = Clock(), [], []
    answers = _step_labels(table, each_step)
    steps = []
    for name, its in rows.items():
        if moments is not None and time is not None:
            its = [its[i] for i in clock.order(moments[its], name, time)]
        series.append(values[its])
        if answers is not None:
            steps.append(answers[its])
        if label is not None:
            labels = set(_words(table[label][its]))
            if len(labels) > 1:
                shown = ", ".join(sorted(labels)[:5])
                raise ValueError(
                    f"series {name!r} needs one label, got {shown} (pass --each-step if each step"
                    " has its own)."
                )
            targets.append(labels.pop())
    found = recordings(
        series,
        steps or targets or None,
        channels=channels,
        names=None if identity is None else list(rows),
        each_step=bool(steps),
        outputs=each_step or None,
    )
    return replace(found, table=reading, times=clock.describe())


def _step_labels(table: Table, labels: Sequence[str]) -> np.ndarray | None:
    """The labels (row, label) of each step, as numbers if the columns hold numbers, else words."""
    if not labels:
        return None
    columns = [table[name] for name in labels]
    if all(column.dtype.kind in "biuf" for column in columns):
        return np.stack([column.astype(np.float64) for column in columns], 1)
    return np.stack([np.array(column, dtype=object) for column in columns], 1)


def _numbers(table: Table, name: str) -> np.ndarray:
    values = table[name]
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    words = _words(values)
    try:
        return to_numbers(words, f"column {name!r}")
    except ValueError as error:
        if any(map(is_number, words)):
            raise
        hint = f" (pass --label {name!r}, or --id or --time, if it holds these)"
        raise ValueError(str(error)[:-1] + hint + ".") from error


def _words(values: np.ndarray) -> list[str]:
    return [str(value) for value in values.tolist()]
