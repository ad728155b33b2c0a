"""Tables with named columns: wide, a row per series, or long, a row per step."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rnnopt.tasks.user_data.readers.columns import (
    LABELS,
    TIMES,
    Columns,
    find,
    find_dropped,
    find_id,
    find_label,
    find_several,
    find_step_labels,
    is_number,
    refuse_two_roles,
    to_numbers,
)
from rnnopt.tasks.user_data.readers.groups import group_of_each, looks_like_groups, suspicious
from rnnopt.tasks.user_data.readers.times import (
    Clock,
    parse_timestamps,
    refuse_missing,
    to_seconds,
)
from rnnopt.tasks.user_data.recordings import Recordings, TableSchema, recordings
from rnnopt.tasks.user_data.step_targets import step_targets

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
    given = [name for name in table if name != PARQUET_INDEX]
    several = [] if columns.each_step else find_several(given, columns)
    if several or columns.each_step:
        columns = replace(columns, label=",".join(several) or columns.label)
    else:
        columns = find_label(given, columns)
    chosen = (columns.label, columns.id, columns.time)
    index = [name for name in index_of(list(table)) if name not in chosen]
    group = columns.group and find(given, columns.group, (), columns.optional)
    unused = tuple(name for name in find_dropped(given, columns) if name != group)
    refuse_two_roles(columns, group, unused)
    left_out = {*index, *unused, group}
    names = [name for name in table if name not in left_out]
    time = find(names, columns.time, TIMES, columns.optional)
    identity = find_id(names, group, time, columns)
    if columns.each_step:
        reading = TableSchema(
            "long", None, identity, time, (), tuple(index), group=group, unused=unused
        )
        return _each_step(table, reading, columns)
    if columns.unlabelled or several:
        label = ",".join(several) or None
    else:
        label = find(names, columns.label, LABELS, columns.optional)
    long = _is_long(table, identity, time if time != label else None, columns)
    for name in index:
        _check_index(table[name], repeated=long)
    reading = TableSchema(
        "wide", label, identity, None, (), tuple(index), group=group, unused=unused
    )
    if long:
        return _long(table, replace(reading, layout="long", time=time), columns, several=several)
    rest = [name for name in names if name not in (identity, label, *several)]
    first = label is None and not columns.unlabelled and not columns.optional and bool(rest)
    if first:
        label, rest = rest[0], rest[1:]
    if not rest:
        raise ValueError(f"a table needs a column for each step, got only {', '.join(names)}.")
    if columns.layout is None:
        _refuse_channels(rest)
    reading = replace(reading, label=label, steps=tuple(rest), first=first)
    found = recordings(
        np.stack([numbers_in(table, name, columns.optional) for name in rest], 1),
        _targets(table, label, several),
        names=None if identity is None else words_in(table[identity]),
        groups=None if group is None else words_in(table[group]),
    )
    suspect = None if group is not None else suspicious([*unused, *rest])
    return replace(found, table=reading, suspect=suspect, unused=unused)


def _each_step(table: Table, reading: TableSchema, columns: Columns) -> Recordings:
    """The series of a long table whose label columns have a value for each step."""
    if columns.layout == "wide":
        raise ValueError(
            "targets at every step need a long table, a row per step, got layout wide."
        )
    known = {*reading.dropped, *reading.unused, reading.group, reading.id, reading.time}
    labels = find_step_labels([name for name in table if name not in known], columns)
    for name in reading.dropped:
        _check_index(table[name], repeated=True)
    return _long(table, replace(reading, label=",".join(labels) or None), columns, labels)


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
    single = columns.single or columns.window is not None
    alone = single and identity is None  # one recording, a row per step
    if columns.layout == "long":
        if identity is None and not alone:
            raise ValueError(
                "a long table needs a column that names the series: name it with --id, got"
                f" {', '.join(list(table)[:20])}."
            )
        return True
    if alone and (time is not None or len(table) <= (columns.window or 0)):
        return True
    repeated = identity is not None and len(set(words_in(table[identity]))) < len(table[identity])
    if time is not None and not repeated:
        raise ValueError(
            f"column {time!r} looks like that of a long table, a row per step: pass the column that"
            " names the series with --id (or --layout wide, if each row is a series)."
        )
    return repeated


def _check_index(values: np.ndarray, repeated: bool) -> None:
    """Raises ValueError unless a column without a name holds only row numbers."""
    words = [word.removesuffix(".0") for word in words_in(values)]
    counts = all(word.strip().isdecimal() for word in words)
    if not counts or (len(set(words)) < len(words) and not repeated):
        raise ValueError(
            "the first column has no name and is no index of rows: name it (label, id, time, …) or"
            f" remove it, got {words[0]!r}."
        )


def _long(
    table: Table,
    reading: TableSchema,
    columns: Columns,
    each_step: Sequence[str] = (),
    several: Sequence[str] = (),
) -> Recordings:
    """The series of a long table.

    `each_step` names the columns with a label for each step, `several` those of a series' labels.
    """
    identity, time = reading.id, reading.time
    label = None if each_step or several else reading.label
    others = {*reading.dropped, *reading.unused, reading.group, identity, time, label}
    others |= {*each_step, *several}
    channels = [name for name in table if name not in others]
    if not channels:
        raise ValueError("a table with a row per step needs a column for each channel, got none.")
    values = np.stack([numbers_in(table, name, columns.optional) for name in channels], 1)
    rows = _rows_of_each(table, identity, columns.name)
    moments = None if time is None else parse_timestamps(table[time], time)
    clock = Clock()
    if moments is not None and time is not None:
        for name, its in rows.items():
            rows[name] = its[clock.order(moments[its], name, time)]
    answers = _step_labels(table, each_step)
    found = recordings(
        [values[its] for its in rows.values()],
        None if answers is None else [answers[its] for its in rows.values()],
        channels=channels,
        names=list(rows),
        each_step=answers is not None,
        outputs=each_step or None,
    )
    if moments is not None:
        times = tuple(to_seconds(moments[its], columns.time_unit) for its in rows.values())
        found = replace(found, moments=times, stamps=tuple(moments[its] for its in rows.values()))
    if several:
        found = replace(found, targets=_constant(table, rows, several))
    if label is not None:
        found = with_labels(found, [words_in(table[label][its]) for its in rows.values()], columns)
    if reading.group is not None:
        words = words_in(table[reading.group])
        groups = group_of_each(words, rows, reading.group)
        found = replace(found, groups=groups)
    else:
        possible = {name: table[name] for name in (*reading.unused, *channels)}
        found = replace(found, suspect=looks_like_groups(possible, rows))
    return replace(found, table=reading, times=clock.describe(), unused=reading.unused)


def _targets(table: Table, label: str | None, several: Sequence[str]) -> np.ndarray | None:
    """The labels of a wide table's series: a column, several as numbers, or None."""
    if several:
        return np.stack([numbers_in(table, name) for name in several], 1)
    return None if label is None else table[label]


def _constant(table: Table, rows: dict[str, np.ndarray], several: Sequence[str]) -> np.ndarray:
    """The labels (count, label) of a long table's series; ValueError if they change in one."""
    values = np.stack([numbers_in(table, name) for name in several], 1)
    for series, its in rows.items():
        changing = (values[its] != values[its[0]]).any(0)
        if changing.any():
            name = several[int(changing.argmax())]
            raise ValueError(
                f"series {series!r} needs one label in the column {name!r}, and it changes (pass"
                " --each-step if each step has its own)."
            )
    return np.stack([values[its[0]] for its in rows.values()])


def _rows_of_each(table: Table, identity: str | None, alone: str) -> dict[str, np.ndarray]:
    """The rows of each series by its name; of all as one series if there is no column of names."""
    if identity is None:
        return {alone: np.arange(len(next(iter(table.values()))))}
    words = words_in(table[identity])
    refuse_missing(words, identity)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(words):
        rows.setdefault(name, []).append(row)
    return {name: np.array(its) for name, its in rows.items()}


def with_labels(data: Recordings, labels: list[list[str]], columns: Columns) -> Recordings:
    """The series with the labels of their steps: one for each series if they do not change.

    Args:
        data: the series.
        labels: words (time,) of each series.
        columns: says whether labels may change.

    Raises:
        ValueError: the labels of a series change, and may not.
    """
    different = [set(one) for one in labels]
    many = next((i for i, one in enumerate(different) if len(one) > 1), None)
    if many is None:
        answers = recordings(list(data.series), [one.pop() for one in different]).targets
        return replace(data, targets=answers)
    if columns.varying:
        cells = [np.array(one, dtype=object) for one in labels]
        return replace(data, steps=step_targets(cells, data.series))
    assert data.names is not None
    shown = ", ".join(sorted(different[many])[:5])
    raise ValueError(
        f"series {data.names[many]!r} needs one label, got {shown} (pass --each-step if each step"
        " has its own, or --window to cut it)."
    )


def _step_labels(table: Table, labels: Sequence[str]) -> np.ndarray | None:
    """The labels (row, label) of each step, as numbers if the columns hold numbers, else words."""
    if not labels:
        return None
    columns = [table[name] for name in labels]
    if all(column.dtype.kind in "biuf" for column in columns):
        return np.stack([column.astype(np.float64) for column in columns], 1)
    return np.stack([np.array(column, dtype=object) for column in columns], 1)


def numbers_in(table: Mapping[str, np.ndarray], name: str, alike: bool = False) -> np.ndarray:
    """A column (row,) as float64, NaN where a value is missing.

    Raises:
        ValueError: it has a word. The advice is for new data if they are read `alike`, as the
            training data were.
    """
    values = table[name]
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    words = words_in(values)
    try:
        return to_numbers(words, f"column {name!r}")
    except ValueError as error:
        if any(map(is_number, words)):
            raise
        hint = (
            f" (pass --label {name!r}, or --id, --time or --group, if it holds these, or --drop"
            f" {name!r})"
        )
        if alike:
            hint = (
                " (if it is the label, a name or a time, give it the name that it has in the"
                " training data; else remove it)"
            )
        raise ValueError(str(error)[:-1] + hint + ".") from error


def words_in(values: np.ndarray) -> list[str]:
    """The cells of a column as words."""
    return [str(value) for value in values.tolist()]
