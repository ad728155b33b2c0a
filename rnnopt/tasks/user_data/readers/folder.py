"""Folders: X.npy and y.npy, or a subfolder per class with a file per series, or folders train, test
and optionally val of either form.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.alignment import aligned
from rnnopt.tasks.user_data.readers.columns import (
    TIMES,
    Columns,
    Parts,
    find,
    find_step_labels,
    is_number,
    to_numbers,
)
from rnnopt.tasks.user_data.readers.npz import VALIDATION, known, parts_of
from rnnopt.tasks.user_data.readers.numpy_files import read_file
from rnnopt.tasks.user_data.readers.tables import index_of
from rnnopt.tasks.user_data.readers.text import Lines, counts, read_lines
from rnnopt.tasks.user_data.readers.times import Clock, parse_timestamps
from rnnopt.tasks.user_data.recordings import Recordings, default_names, recordings

ENDINGS = (".npy", ".csv", ".tsv", ".txt")
NEEDED = (
    "X.npy (with y.npy), subfolders named by class with a .npy or .csv file a series, or folders"
    " train and test"
)


def read_folder(path: Path, columns: Columns) -> Parts:
    """Reads the series of a folder."""
    saved = [file for file in sorted(path.glob("*.npy")) if file.is_file()]
    arrays = [file for file in saved if known(file.stem)]
    if any(file.stem.lower().startswith("x") for file in arrays):
        loaded = {file.stem.lower(): read_file(file) for file in arrays}
        if len(loaded) < len(arrays):
            raise ValueError("the names of the arrays must differ in more than capitals.")
        return parts_of(loaded, [file.stem for file in saved], columns)
    below = sorted(one for one in path.iterdir() if one.is_dir() and one.name[0] != ".")
    halves = {one.name.lower(): one for one in below}
    apart = [halves[name] for name in VALIDATION if name in halves]
    if {"train", "test"} <= set(halves) and len(halves) == 2 + len(apart) <= 3:
        train, test = (read_folder(halves[name], columns)[0] for name in ("train", "test"))
        if apart:
            train = replace(train, validation=read_folder(apart[0], columns)[0])
        return train, test
    classes = {one.name: _files(one) for one in below if _files(one)}
    files = _files(path)
    if classes and files:
        raise ValueError(f"a folder needs {NEEDED}, got files beside subfolders.")
    if not classes and not files:
        raise ValueError(f"a folder needs {NEEDED}, got neither.")
    return _of_files(path, classes or {"": files}, columns), None


def _of_files(path: Path, classes: dict[str, list[Path]], columns: Columns) -> Recordings:
    pairs = [(file, name) for name, files in classes.items() for file in files]
    labelled = "" not in classes and not columns.unlabelled
    clock, found = Clock(), []
    notes: dict[str, None] = {}  # each once, in order
    for file, _ in pairs:
        values, names, new = _series(file, columns, clock)
        found.append((file, values, names))
        notes |= dict.fromkeys(new)
    series, channels = _in_one_order(found)
    targets: list[Any] | None = [name for _, name in pairs] if labelled else None
    outputs = None
    if columns.each_step and "" in classes:
        series, targets, channels, outputs = _apart(series, channels, columns)
    data = recordings(
        series,
        targets,
        channels=channels,
        names=[file.relative_to(path).as_posix() for file, _ in pairs],
        each_step=targets is not None and columns.each_step,
        outputs=outputs,
    )
    return replace(data, notes=tuple(notes), times=clock.describe())


def _apart(
    series: list[np.ndarray], channels: tuple[str, ...] | None, columns: Columns
) -> tuple[list[np.ndarray], list[np.ndarray] | None, tuple[str, ...], list[str]]:
    """The series without their label columns, these columns, and the names of both."""
    series = [one if one.ndim == 2 else one[:, None] for one in series]
    names = list(channels or default_names(series[0].shape[1]))
    labels = find_step_labels(names, columns)
    places = [names.index(name) for name in labels]
    kept = [i for i in range(len(names)) if i not in places]
    if not kept:
        raise ValueError("a series needs a column for each channel, got only labels.")
    targets = [one[:, places] for one in series] if labels else None
    return [one[:, kept] for one in series], targets, tuple(names[i] for i in kept), labels


def _in_one_order(
    found: list[tuple[Path, np.ndarray, tuple[str, ...] | None]],
) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """The series with channels in the order of the first file with names, and these names."""
    channels = next((names for _, _, names in found if names is not None), None)
    series = []
    for file, one, names in found:
        if names is not None and channels is not None:
            try:
                one = aligned(recordings([one], channels=names), channels, None).series[0]
            except ValueError as error:
                raise ValueError(f"{file.name}: {error}") from error
        series.append(one)
    return series, channels


def _files(path: Path) -> list[Path]:
    return sorted(
        one
        for one in path.iterdir()
        if one.suffix.lower() in ENDINGS and one.name[0] != "." and one.is_file()
    )


def _series(
    path: Path, columns: Columns, clock: Clock
) -> tuple[np.ndarray, tuple[str, ...] | None, tuple[str, ...]]:
    """One series (time,) or (time, channel), its channels' names or None, and notes.

    It is an array, or text with a line per step. An index without a name is left out, and so is the
    column that `--time` names.
    """
    if path.suffix.lower() == ".npy":
        return read_file(path), None, ()
    try:
        lines = read_lines(path, columns.decimal)
        rows = lines.rows
        indexed = not rows[0][0].strip() and counts([cell.strip() for cell in rows[0][1:]])
        if not indexed and all(map(is_number, rows[0])):
            lines.check_decimals(named=False)
            if columns.time is not None and not columns.optional:
                raise ValueError(
                    f"there is no column {columns.time!r}: the first line has no names."
                )
            steps = [to_numbers(row, f"line {i + 1}") for i, row in enumerate(rows)]
            return np.stack(steps), None, lines.notes
        lines.check_decimals(named=True)
        values, names, notes = _named_series(lines, columns, clock, path.name)
        return values, names, notes + lines.notes
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _named_series(
    lines: Lines, columns: Columns, clock: Clock, name: str
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """A series (time, channel) below a line of names, the channels' names, and notes."""
    names = [cell.strip() for cell in lines.written[0]]
    rows = lines.rows[1:]
    if not rows:
        raise ValueError("a series needs at least one step, got none.")
    if {len(row) for row in rows} != {len(names)}:
        raise ValueError(f"each line needs {len(names)} cells, as there are names.")
    left_out = set(range(len(index_of(names))))
    time = columns.time and find(names, columns.time, (), columns.optional)
    numbered = list(enumerate(rows, start=2))
    if time is not None:
        place = names.index(time)
        left_out.add(place)
        moments = parse_timestamps(np.array([row[place] for row in rows], dtype=object), time)
        numbered = [numbered[i] for i in clock.order(moments, name, time)]
    kept = [i for i in range(len(names)) if i not in left_out]
    if not kept:
        raise ValueError("a series needs a column for each channel, got none.")
    usual = None if columns.time is not None else find([names[i] for i in kept], None, TIMES)
    if usual is not None and not is_number(rows[0][names.index(usual)]):
        raise ValueError(f"column {usual!r} has no numbers: pass --time {usual} if it is the time.")
    note = f"column {usual!r} is taken for a channel (--time {usual} takes it for the time)"
    values = [to_numbers([row[i] for i in kept], f"line {number}") for number, row in numbered]
    notes = () if usual is None else (note,)
    return np.stack(values), tuple(names[i] for i in kept), notes
