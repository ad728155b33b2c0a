"""Folders: X.npy and y.npy; a subfolder a class, with a file a series; train and test of these, and
val for validation series.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from rnnopt.tasks.alignment import aligned
from rnnopt.tasks.readers.columns import Columns, Parts, is_number, to_numbers
from rnnopt.tasks.readers.npz import VALIDATION, known, parts_of
from rnnopt.tasks.readers.numpy_files import read_file
from rnnopt.tasks.readers.tables import index_of
from rnnopt.tasks.readers.text import counts, read_rows
from rnnopt.tasks.recordings import Recordings, recordings

ENDINGS = (".npy", ".csv", ".tsv", ".txt")
NEEDED = (
    "X.npy (with y.npy), subfolders named by class with a .npy or .csv file a series, or folders"
    " train and test"
)


def read_folder(path: Path, columns: Columns) -> Parts:
    """The series of a folder."""
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
    series, channels = _in_one_order([(file, *_series(file)) for file, _ in pairs])
    return recordings(
        series,
        [name for _, name in pairs] if labelled else None,
        channels=channels,
        names=[file.relative_to(path).as_posix() for file, _ in pairs],
    )


def _in_one_order(
    found: list[tuple[Path, np.ndarray, tuple[str, ...] | None]],
) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """The series with their channels as the first file with names has them, and these names."""
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


def _series(path: Path) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """One series (time,) or (time, channel) and its channels' names, None without.

    It is an array, or text with a line a step; an index without a name is left out.
    """
    if path.suffix.lower() == ".npy":
        return read_file(path), None
    try:
        rows = read_rows(path)
        indexed = not rows[0][0].strip() and counts([cell.strip() for cell in rows[0][1:]])
        if not indexed and all(map(is_number, rows[0])):
            values = [to_numbers(row, f"line {i + 1}") for i, row in enumerate(rows)]
            return np.stack(values), None
        names = [cell.strip() for cell in rows[0]]
        first = len(index_of(names))
        if len(rows) < 2:
            raise ValueError("a series needs at least one step, got none.")
        widths = {len(row) for row in rows[1:]}
        if widths != {len(names)}:
            raise ValueError(f"each line needs {len(names)} cells, as there are names.")
        values = [to_numbers(row, f"line {i + 2}")[first:] for i, row in enumerate(rows[1:])]
        return np.stack(values), tuple(names[first:])
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
