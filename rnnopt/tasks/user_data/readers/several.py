"""Several files as one data set: those of a pattern, or those that the user lists.

All must be of one kind and have the channels of the first, in any order. A series is called by its
file, `monday/3`; `--group file` makes each file a group.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.config.data_files import files_of
from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.alignment import aligned
from rnnopt.tasks.user_data.readers import READERS, read, sha256
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.recorders import RECORDERS, without_parts
from rnnopt.tasks.user_data.recordings import Recordings, default_names, joined_lines, told_of_units
from rnnopt.tasks.user_data.step_targets import StepTargets, step_targets
from rnnopt.tasks.user_data.target_kinds import label_names

FILE = "file"  # --group file


def read_data(text: str, columns: Columns) -> Parts:
    """Reads the files and folders that a text names, as in `data_files`.

    Args:
        text: a name, a pattern, or several with commas between them.
        columns: the columns to use in tables.

    Raises:
        UserError: a file is missing or wrong, or files differ in kind, channels or labels.
    """
    paths = without_parts(files_of(text))
    if len(paths) == 1 and (columns.group or "").lower() != FILE:
        return read(paths[0], columns)
    kinds = {_kind(path): path for path in reversed(paths)}
    if len(kinds) > 1:
        one, other = list(kinds.values())[-2:]
        raise UserError(f"files of one data set must be of one kind, got {other} and {one}.")
    columns = replace(
        columns, single=columns.single or len(paths) > 1
    )  # tables with a time and no id are a recording each
    first, by_file = _first(paths[0], columns)
    if by_file:
        columns = replace(columns, group=None)
    others = [read(path, columns.like(first[0].table)) for path in paths[1:]]
    called = _called(paths)
    parts = [first, *others]
    data, test = (
        _part([part[i] for part in parts], paths, called, by_file and i == 0) for i in (0, 1)
    )
    assert data is not None
    return data, test


def sha256_of(text: str) -> str:
    """SHA-256 of the content of what a text names; of several files, of their names and contents.

    Raises:
        UserError: as `files_of`.
        OSError: a file cannot be read.
    """
    paths = files_of(text)
    if len(paths) == 1:
        return sha256(paths[0])
    lines = (f"{path.name}\0{sha256(path)}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _kind(path: Path) -> Any:
    """What reads a file; .csv, .tsv and .txt are of one kind, and each ending of a recorder."""
    ending = path.suffix.lower()
    if path.is_dir():
        return "a folder"
    return ending if ending in RECORDERS else READERS.get(ending, ending)


def _first(path: Path, columns: Columns) -> tuple[Parts, bool]:
    """The first file, and whether the files are the groups: no column is called so."""
    if (columns.group or "").lower() != FILE:
        return read(path, columns), False
    try:
        found = read(path, columns)
        if found[0].groups is not None:
            return found, False
    except UserError:  # if anything else is wrong with it, it is again
        pass
    return read(path, replace(columns, group=None)), True


def _called(paths: Sequence[Path]) -> list[str]:
    """A name of each file: without its ending, and with its folder where two are called alike."""
    stems = [path.name if path.is_dir() else path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    whole = [path.absolute() for path in paths]
    shared = os.path.commonpath([path.parent for path in whole])
    apart = [path.relative_to(shared) for path in whole]
    return [(one if one.name == stem else one.with_suffix("")).as_posix()
            for one, stem in zip(apart, stems, strict=True)]  # fmt: skip


def _part(
    found: Sequence[Recordings | None], paths: Sequence[Path], called: Sequence[str], by_file: bool
) -> Recordings | None:
    """The series of one part of all files; None where no file has that part."""
    parts = [one for one in found if one is not None]
    if not parts:
        return None
    if len(parts) < len(found):
        lacking = paths[[one is None for one in found].index(True)]
        raise UserError(
            f"either all files have test or validation series of their own or none, {lacking} lacks"
            " them."
        )
    try:
        apart = _part([one.validation for one in parts], paths, called, by_file)
        data = _joined(parts, paths, called)
    except ValueError as error:
        more = f" and {len(paths) - 1} more" * (len(paths) > 1)
        raise UserError(f"{paths[0]}{more}: {error}") from error
    if by_file:
        groups = np.repeat(list(called), [len(one) for one in parts])
        data = replace(data, groups=groups)
    return replace(data, validation=apart)


def _joined(
    parts: Sequence[Recordings], paths: Sequence[Path], called: Sequence[str]
) -> Recordings:
    """The series of all files, in the channels' order of the first."""
    first = parts[0]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        _check_alike(part, path, first, paths[0])
    same = [aligned(part, first.channels, first.table) for part in parts]
    series = tuple(one for part in same for one in part.series)
    rows: dict[str, Any] = {
        name: None if getattr(first, name) is None
        else tuple(one for part in same for one in getattr(part, name))
        for name in ("moments", "stamps")
    }  # fmt: skip
    targets, steps = _answers(same, series)
    groups = None if first.groups is None else np.concatenate([_groups(one) for one in same])
    names = [
        _name(one, part, i)
        for one, part in zip(called, same, strict=True)
        for i in range(len(part))
    ]
    times = list(dict.fromkeys(one.times for one in same if one.times is not None))
    more = f"; and {len(times) - 1} other files have other irregularities" * (len(times) > 1)
    return replace(
        first,
        series=series,
        targets=targets,
        steps=steps,
        names=tuple(names),
        groups=groups,
        suspect=next((one.suspect for one in same if one.suspect is not None), None),
        times=times[0] + more if times else None,
        notes=_notes(same),
        lines=(*joined_lines(same, called), *told_of_units(same, called)),
        units=(),
        **rows,
    )


def _notes(parts: Sequence[Recordings]) -> tuple[str, ...]:
    """How the files were read; where that differs, how the first was."""
    first, count = parts[0].notes, f"{len(parts)} files"
    if len(parts) == 1:
        return first
    if all(part.notes == first for part in parts):
        return (count, *first)
    told = f"{count}, the first: {first[0]}" if first else f"{count}, not read alike"
    return (told, *first[1:])


def _name(file: str, part: Recordings, place: int) -> str:
    """The name of a series: that of its file alone where the file is one recording."""
    if part.names is None:
        return file if len(part) == 1 else f"{file}/{place + 1}"
    return file if part.names == (Path(file).name,) else f"{file}/{part.names[place]}"


def _groups(part: Recordings) -> np.ndarray:
    assert part.groups is not None
    return part.groups


def _check_alike(part: Recordings, path: Path, first: Recordings, other: Path) -> None:
    """Raises UserError if a file lacks what the first file has, or has more."""
    named = default_names(len(first.channels)) != first.channels
    lacking = [one for one in first.channels if one not in part.channels]
    extra = [one for one in part.channels if one not in first.channels]
    if len(part.channels) != len(first.channels) or (named and (lacking or extra)):
        if not named:
            lacking = extra = []
        lists = [f"it lacks {_some(lacking)}"] * bool(lacking) + [
            f"it has {_some(extra)} besides"
        ] * bool(extra)
        counts = f"{len(part.channels)} and {len(first.channels)} channels"
        raise UserError(
            f"files of one data set must have the same channels, {path} has others than {other}:"
            f" {' and '.join(lists) or counts}."
        )
    what = {"labels": "labelled", "a time": "stamps", "groups": "groups", "a kind": "kind"}
    for word, name in what.items():
        mine, its = getattr(part, name), getattr(first, name)
        differs = mine != its if name in ("kind", "labelled") else (mine is None) != (its is None)
        if differs:
            raise UserError(
                f"files of one data set must be alike, {path} and {other} differ in {word}."
            )
    if first.stamps and part.stamps and first.stamps[0].dtype.kind != part.stamps[0].dtype.kind:
        kinds = {first.stamps[0].dtype.kind, part.stamps[0].dtype.kind}
        if "M" in kinds:
            raise UserError(f"times must be all dates or all numbers: see {path} and {other}.")


def _answers(
    parts: Sequence[Recordings], series: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, StepTargets | None]:
    """The targets of all files: of each series, or of each step where one file has these."""
    if all(part.targets is None and part.steps is None for part in parts):
        return None, None
    if all(part.targets is not None for part in parts):
        targets = [part.targets for part in parts if part.targets is not None]
        if len({one.dtype.kind for one in targets}) > 1:  # words in one file, numbers in another
            targets = [np.array(label_names(one)) for one in targets]
        if len({one.shape[1:] for one in targets}) > 1:
            raise ValueError("all files need the same number of targets.")
        return np.concatenate(targets), None
    names = {part.steps.names for part in parts if part.steps is not None}
    if len(names) > 1:
        raise ValueError(f"all files need the same targets, got {' and '.join(map(str, names))}.")
    cells = [one for part in parts for one in _step_cells(part)]
    if all(part.steps is not None and not part.steps.words for part in parts):
        cells = [one for part in parts if part.steps is not None for one in part.steps.values]
    return None, step_targets(cells, series, next(iter(names)))


def _step_cells(part: Recordings) -> list[np.ndarray]:
    """The label of each step of a file's series, as words."""
    if part.steps is not None:
        if len(part.steps.names) > 1:
            return list(part.steps.values)
        return [np.array(part.steps.labels(one[:, 0]), object) for one in part.steps.values]
    assert part.targets is not None
    names = label_names(part.targets)
    return [np.full(len(one), name, object) for one, name in zip(part.series, names, strict=True)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
