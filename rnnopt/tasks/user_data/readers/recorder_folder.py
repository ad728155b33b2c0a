"""Folders with a file of a recorder for each recording."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.alignment import aligned
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.marks import NoMarksError
from rnnopt.tasks.user_data.readers.recorders import RECORDERS, read_recording, without_parts
from rnnopt.tasks.user_data.recordings import Recordings, joined_lines, recordings, told_of_units
from rnnopt.tasks.user_data.step_targets import StepTargets, step_targets


def recorder_files(path: Path) -> list[Path]:
    """The files of a folder that are a recording of a recorder each, in the order of names."""
    found = sorted(
        one
        for one in path.iterdir()
        if one.suffix.lower() in RECORDERS and one.name[0] != "." and one.is_file()
    )
    return without_parts(found)


def read_recordings(path: Path, pairs: Sequence[tuple[Path, str]], columns: Columns) -> Recordings:
    """The recordings of several files.

    Args:
        path: the folder, of which names are told.
        pairs: each file, and its class; "" without classes.
        columns: what is a label. Without one the classes are; files without the annotations that it
            names are left out.

    Raises:
        ValueError: a file is damaged, has other channels than the first, or none has a label.
    """
    found = _all_read(path, [file for file, _ in pairs], columns)
    classes = [name for _, name in pairs]
    wanted = columns.label is not None and not columns.unlabelled
    called = [str((one.names or "")[0]) for one in found]
    lines = (*joined_lines(found, called), *told_of_units(found, called))
    if wanted and not columns.optional:
        kept = [i for i, one in enumerate(found) if one.labelled]
        if len(kept) < len(found):
            said = f"{len(found) - len(kept)} of {len(found)} recordings without a label"
            lines = (*lines, ("left out", said))
        found, classes = [found[i] for i in kept], [classes[i] for i in kept]
    targets: list[Any] | None = None
    if wanted and all(one.targets is not None for one in found):
        targets = [one.targets[0] for one in found if one.targets is not None]
    elif any(classes) and not wanted and not columns.unlabelled:
        targets = classes
    series = [one.series[0] for one in found]
    data = recordings(
        series,
        targets,
        channels=found[0].channels,
        names=[str((one.names or "")[0]) for one in found],
    )
    return replace(
        data,
        steps=_joined([one.steps for one in found], series),
        notes=_notes(found),
        times=next((one.times for one in found if one.times is not None), None),
        moments=tuple((one.moments or ())[0] for one in found),
        stamps=tuple((one.stamps or ())[0] for one in found),
        unused=found[0].unused,
        lines=lines,
    )


def _all_read(path: Path, files: Sequence[Path], columns: Columns) -> list[Recordings]:
    """The recordings of files, with their channels in the order of the first."""
    found: list[Recordings] = []
    lacking: list[str] = []
    for file in files:
        name = file.relative_to(path).as_posix()
        try:
            one = _read(file, replace(columns, name=name), lacking)
            found.append(aligned(one, found[0].channels if found else one.channels, None))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if len(lacking) == len(found):
        raise ValueError(lacking[0])
    return found


def _read(file: Path, columns: Columns, lacking: list[str]) -> Recordings:
    """The recording of a file; without its labels, which `lacking` is told of, if it has none."""
    try:
        return read_recording(file, columns)
    except NoMarksError as error:
        lacking.append(f"{columns.name}: {error}")
        return read_recording(file, replace(columns, optional=True))


def _joined(each: Sequence[StepTargets | None], series: list[np.ndarray]) -> StepTargets | None:
    """The targets of the steps of all recordings; those without any are missing."""
    first = next((one for one in each if one is not None), None)
    if first is None:
        return None
    cells = []
    for one, its in zip(each, series, strict=True):
        if one is None:
            cells.append(np.full((len(its), len(first.names)), np.nan))
        elif one.words:
            cells.append(np.array(one.labels(one.values[0][:, 0]), dtype=object))
        else:
            cells.append(one.values[0])
    return step_targets(cells, series, first.names)


def _notes(found: Sequence[Recordings]) -> tuple[str, ...]:
    """The notes on the first recording."""
    first = found[0]
    if len(found) == 1:
        return first.notes
    return (f"{len(found)} files, the first: {first.notes[0]}", *first.notes[1:])
