"""Folders: X.npy and y.npy; a subfolder a class, with a file a series; train and test of these."""

from pathlib import Path

import numpy as np

from rnnopt.tasks.readers.columns import Columns, Parts, is_number, to_numbers
from rnnopt.tasks.readers.npz import known, load, parts_of
from rnnopt.tasks.readers.text import read_rows
from rnnopt.tasks.recordings import Recordings, recordings

ENDINGS = (".npy", ".csv", ".tsv", ".txt")
NEEDED = (
    "X.npy (with y.npy), subfolders named by class with a .npy or .csv file a series, or folders"
    " train and test"
)


def read_folder(path: Path, columns: Columns) -> Parts:
    """The series of a folder."""
    arrays = [file for file in sorted(path.glob("*.npy")) if known(file.stem)]
    if any(file.stem.lower().startswith("x") for file in arrays):
        loaded = {file.stem.lower(): _load(file) for file in arrays}
        return parts_of(loaded, [file.stem for file in arrays], columns)
    below = sorted(one for one in path.iterdir() if one.is_dir() and one.name[0] != ".")
    halves = {one.name.lower(): one for one in below}
    if set(halves) == {"train", "test"}:
        return read_folder(halves["train"], columns)[0], read_folder(halves["test"], columns)[0]
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
    return recordings(
        [_series(file) for file, _ in pairs],
        [name for _, name in pairs] if labelled else None,
        names=[file.relative_to(path).as_posix() for file, _ in pairs],
    )


def _files(path: Path) -> list[Path]:
    return sorted(
        one for one in path.iterdir() if one.suffix.lower() in ENDINGS and one.name[0] != "."
    )


def _series(path: Path) -> np.ndarray:
    """One series (time,) or (time, channel): an array, or text with a line a step."""
    if path.suffix.lower() == ".npy":
        return _load(path)
    try:
        rows = read_rows(path)
        numbers = rows if all(map(is_number, rows[0])) else rows[1:]  # without names
        return np.stack([to_numbers(row, f"line {i + 1}") for i, row in enumerate(numbers)])
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _load(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return load({path.name: np.load(file, allow_pickle=False)}, path.name)
    except ValueError as error:
        raise ValueError(f"{path.name} is no array of numbers: {error}") from error
