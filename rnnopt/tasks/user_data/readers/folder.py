"""Folders: X.npy and y.npy, or a subfolder per class with a file per series, or folders train, test
and optionally val of either form.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.alignment import aligned
from rnnopt.tasks.user_data.readers.columns import (
    Columns,
    Parts,
    find_step_labels,
    place_of,
)
from rnnopt.tasks.user_data.readers.groups import suspicious
from rnnopt.tasks.user_data.readers.npz import VALIDATION, known, parts_of
from rnnopt.tasks.user_data.readers.numpy_files import read_file
from rnnopt.tasks.user_data.readers.recorder_folder import read_recordings, recorder_files
from rnnopt.tasks.user_data.readers.recorders import RECORDERS, advice_for
from rnnopt.tasks.user_data.readers.rosbag import is_bag, read_bag
from rnnopt.tasks.user_data.readers.series_files import ENDINGS, read_series
from rnnopt.tasks.user_data.readers.tables import with_labels
from rnnopt.tasks.user_data.readers.times import Clock
from rnnopt.tasks.user_data.recordings import Recordings, default_names, recordings

NEEDED = (
    "X.npy (with y.npy), subfolders named by class with a .npy, .csv or recorder's file a series,"
    " or folders train and test"
)


def read_folder(path: Path, columns: Columns) -> Parts:
    """Reads the series of a folder."""
    if is_bag(path):
        return read_bag(path, columns), None
    saved = [file for file in sorted(path.glob("*.npy")) if file.is_file()]
    arrays = [file for file in saved if known(file.stem, columns.group)]
    if any(file.stem.lower().startswith("x") for file in arrays):
        if columns.label is not None and not columns.optional:
            raise ValueError(f"there is no column {columns.label!r}: arrays have labels in y.")
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
        advice = next(filter(None, map(advice_for, sorted(path.glob("*.*")))), None)
        if advice is not None:
            raise ValueError(advice)
        raise ValueError(f"a folder needs {NEEDED}, got neither.")
    return _of_files(path, classes or {"": files}, columns), None


def _of_files(path: Path, classes: dict[str, list[Path]], columns: Columns) -> Recordings:
    pairs = [(file, name) for name, files in classes.items() for file in files]
    recorded = [file.suffix.lower() in RECORDERS for file, _ in pairs]
    if all(recorded):
        return read_recordings(path, pairs, columns)
    if any(recorded):
        raise ValueError("a folder needs files of one kind, got some of a recorder beside others.")
    clock, found = Clock(), []
    several = columns.each_step and not _is_one_name(columns.label)
    for file, _ in pairs:
        found.append(read_series(file, replace(columns, label=None) if several else columns, clock))
    series, channels = _in_one_order(
        [(f, one.values, one.channels) for (f, _), one in zip(pairs, found, strict=True)]
    )
    labelled = "" not in classes and not columns.unlabelled and columns.label is None
    targets: list[Any] | None = [name for _, name in pairs] if labelled else None
    outputs = None
    if several and "" in classes:
        series, targets, channels, outputs = _apart(series, channels, columns)
    labels = [one.labels for one in found if one.labels is not None]
    if columns.each_step and not several and len(labels) == len(found):
        targets, outputs = [np.array(one, dtype=object) for one in labels], [str(columns.label)]
    data = recordings(
        series,
        targets,
        channels=channels,
        names=[file.relative_to(path).as_posix() for file, _ in pairs],
        each_step=targets is not None and columns.each_step,
        outputs=outputs,
        groups=None if columns.group is None or columns.optional else [one.group for one in found],
    )
    if not columns.each_step and len(labels) == len(found):
        data = with_labels(data, labels, columns)
    moments = tuple(one.moments for one in found if one.moments is not None)
    stamps = tuple(one.stamps for one in found if one.stamps is not None)
    return replace(
        data,
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
        times=clock.describe(),
        moments=moments if len(moments) == len(found) else None,
        stamps=stamps if len(stamps) == len(found) else None,
        suspect=None if columns.group else suspicious([*columns.drop, *(channels or ())]),
        unused=columns.drop if channels is not None else (),
    )


def _is_one_name(label: str | None) -> bool:
    """Whether a label is the name of one column, and no position."""
    return label is not None and "," not in label and place_of(label) is None


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
    """The files of a folder with a series each: a recorder's, else arrays and texts."""
    return recorder_files(path) or sorted(
        one
        for one in path.iterdir()
        if one.suffix.lower() in ENDINGS and one.name[0] != "." and one.is_file()
    )
