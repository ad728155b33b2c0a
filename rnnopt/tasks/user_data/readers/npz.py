"""Arrays by name: X and y, or X_train, y_train, X_test and y_test; lengths where they differ.

Validation series may be in separate arrays, X_val and y_val (or …_valid, …_validation).

Nothing is unpickled: arrays of objects raise an error.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.groups import suspicious
from rnnopt.tasks.user_data.readers.numpy_files import names_in, read_members
from rnnopt.tasks.user_data.recordings import Recordings, recordings

Arrays = np.ndarray | list[np.ndarray]  # a list where series differ in length
VALIDATION = ("val", "valid", "validation")
NEEDED = "X and y, or X_train and y_train with X_test and y_test"


def read_npz(path: Path, columns: Columns) -> Parts:
    """Reads the series of a .npz file."""
    found = names_in(path)
    arrays = read_members(path, [name for name in found if known(name, columns.group)])
    return parts_of({name.lower(): array for name, array in arrays.items()}, found, columns)


def known(name: str, group: str | None = None) -> bool:
    """Whether `parts_of` uses an array of that name; `group` is that of the groups."""
    name, parts = name.lower(), ("train", "test", *VALIDATION)
    bases = ("x", "y", "lengths", *([] if group is None else [group.lower()]))
    return name in (*bases, *(f"{base}_{part}" for base in bases for part in parts))


def parts_of(arrays: Mapping[str, Arrays], found: list[str], columns: Columns) -> Parts:
    """The training and the test series from arrays by their names in lower case."""
    suffix = "" if "x" in arrays else "_train"
    if f"x{suffix}" not in arrays:
        raise ValueError(f"it needs {NEEDED}, got {', '.join(found) or 'nothing'}.")
    test = _part(arrays, "_test", columns) if "x_test" in arrays else None
    train = _part(arrays, suffix, columns)
    apart = [f"_{name}" for name in VALIDATION if f"x_{name}" in arrays]
    if len(apart) > 1:
        raise ValueError(f"validation series must stand in one array, got X{' and X'.join(apart)}.")
    if apart:
        train = replace(train, validation=_part(arrays, apart[0], columns))
    unused = [name for name in found if not known(name, columns.group)]
    if unused:
        note = f"left out: {', '.join(unused)}"
        train = replace(train, notes=(note,), suspect=suspicious(unused))
    return train, test


def _part(arrays: Mapping[str, Arrays], suffix: str, columns: Columns) -> Recordings:
    targets = None if columns.unlabelled else arrays.get(f"y{suffix}")
    inputs, lengths = arrays[f"x{suffix}"], arrays.get(f"lengths{suffix}")
    groups = None if columns.group is None else arrays.get(f"{columns.group.lower()}{suffix}")
    if columns.group is not None and groups is None and not columns.optional:
        raise ValueError(f"there is no array {columns.group}{suffix} with the groups of X{suffix}.")
    if columns.single or columns.resample is not None:  # which compute with the series
        inputs = inputs if isinstance(inputs, list) else np.array(inputs, copy=None, subok=False)
    each_step = None
    if columns.varying and targets is not None:
        each_step = _shape(targets) == _shape(inputs)[:2] != ()
    try:
        return recordings(
            inputs,
            targets,
            lengths,
            each_step=columns.each_step or each_step or None,
            groups=groups,
        )
    except ValueError as error:
        raise ValueError(f"X{suffix}: {error}") from error


def _shape(inputs: Arrays) -> tuple[int, ...]:
    """The shape of an array; () of a list."""
    return () if isinstance(inputs, list) else inputs.shape
