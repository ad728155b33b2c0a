"""Tables with named columns: wide, a series a row, or long, a step a row."""

import numpy as np

from rnnopt.tasks.readers.columns import IDS, LABELS, TIMES, Columns, find, to_numbers
from rnnopt.tasks.recordings import Recordings, recordings

Table = dict[str, np.ndarray]


def from_table(table: Table, columns: Columns) -> Recordings:
    """The series of a table.

    It is long if its id column names a series more than once: then the columns besides id, time and
    label are channels. Else it is wide: they are the steps.

    Raises:
        ValueError: a named column is not there, a cell is no number, a label changes in a series.
    """
    names = list(table)
    identity = find(names, columns.id, IDS)
    long = identity is not None and len(set(_words(table[identity]))) < len(table[identity])
    label, bare = None, columns.unlabelled
    if columns.optional and columns.label is not None and columns.label not in names:
        bare = True
    if not bare:
        label = find(names, columns.label, LABELS)
    if long:
        assert identity is not None
        return _long(table, identity, find(names, columns.time, TIMES), label)
    rest = [name for name in names if name not in (identity, label)]
    if label is None and not bare and len(rest) != columns.steps:
        label, rest = rest[0], rest[1:]
    if not rest:
        raise ValueError(f"a table needs a column for each step, got only {', '.join(names)}.")
    values = np.stack([_numbers(table, name) for name in rest], 1)
    targets = None if label is None else table[label]
    identities = None if identity is None else _words(table[identity])
    return recordings(values, targets, names=identities)


def _long(table: Table, identity: str, time: str | None, label: str | None) -> Recordings:
    channels = [name for name in table if name not in (identity, time, label)]
    if not channels:
        raise ValueError("a table with one row a step needs a column for each channel, got none.")
    values = np.stack([_numbers(table, name) for name in channels], 1)
    words = _words(table[identity])
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(words):
        rows.setdefault(name, []).append(row)
    moments = None if time is None else _moments(table[time])
    series, targets = [], []
    for name, its in rows.items():
        if moments is not None:
            its = [its[i] for i in np.argsort(moments[its], kind="stable")]
            if (moments[its][1:] == moments[its][:-1]).any():
                raise ValueError(f"series {name!r} has two rows at the same {time}.")
        series.append(values[its])
        if label is not None:
            labels = set(_words(table[label][its]))
            if len(labels) > 1:
                shown = ", ".join(sorted(labels)[:5])
                raise ValueError(f"series {name!r} needs one label, got {shown}.")
            targets.append(labels.pop())
    return recordings(series, targets or None, channels=channels, names=list(rows))


def _moments(values: np.ndarray) -> np.ndarray:
    """Times that can be sorted: numbers, dates, or words such as 2026-01-31."""
    if values.dtype.kind in "iufM":
        return values
    words = np.array(_words(values))
    try:
        return words.astype(np.float64)
    except ValueError:
        return words


def _numbers(table: Table, name: str) -> np.ndarray:
    values = table[name]
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    return to_numbers(_words(values), f"column {name!r}")


def _words(values: np.ndarray) -> list[str]:
    return [str(value) for value in values.tolist()]
