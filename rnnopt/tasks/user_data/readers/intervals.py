"""Labels by intervals: a table with a row per interval, its recording, start, end and label.

Each step from `start` to before `end` has that label, in the time of the recording's own column, or
counted from 0 where there is none. Steps in no interval are unlabelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.readers.columns import find
from rnnopt.tasks.user_data.readers.recorders import RECORDERS
from rnnopt.tasks.user_data.readers.series_files import ENDINGS
from rnnopt.tasks.user_data.readers.text import read_lines
from rnnopt.tasks.user_data.readers.times import parse_timestamps, steps_between
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.step_targets import step_targets
from rnnopt.tasks.user_data.words import MISSING

FILES = ("file", "recording")  # names of the column of recordings


@dataclass(frozen=True)
class Interval:
    """A row of the table, its number in the file, its recording (None if no column names it)."""

    line: int
    recording: str | None
    start: Any
    end: Any
    label: str


def with_interval_labels(
    path: Path, data: Recordings, test: Recordings | None, keep: bool = False
) -> tuple[Recordings, Recordings | None]:
    """Training and test recordings with the labels of a table of intervals.

    Recordings without a label are left out unless `keep`, and a line says how many.

    Raises:
        UserError: the table is missing or wrong; the message names its line.
    """
    try:
        rows = read_intervals(path)
        parts = [part for part in (data, data.validation, test) if part is not None]
        owners = _owners(rows, [names_of(part) for part in parts])
        found = []
        for n, part in enumerate(parts):
            its = [(row, i) for row, (p, i) in zip(rows, owners, strict=True) if p == n]
            found.append(_with_labels(part, its, keep))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8.") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if data.validation is not None:
        found[0] = replace(found[0], validation=found[1])
    return found[0], None if test is None else found[-1]


def read_intervals(path: Path) -> list[Interval]:
    """The intervals of a table.

    Raises:
        ValueError: a column or a cell is missing, or an end is not after its start.
    """
    if not path.read_text("utf-8-sig").strip():
        raise ValueError("a table of intervals needs columns start, end and label, it is empty.")
    lines = read_lines(path)
    names = [cell.strip() for cell in lines.written[0]]
    columns = {name: find(names, None, (name,)) for name in ("start", "end", "label")}
    lacking = [name for name, column in columns.items() if column is None]
    if lacking:
        raise ValueError(
            f"a table of intervals needs columns start, end and label, it has no {lacking[0]!r},"
            f" only {', '.join(names[:20])}."
        )
    twice = [one for one in ("start", "end", "label") if [n.lower() for n in names].count(one) > 1]
    if twice:
        raise ValueError(f"a table of intervals has several columns {twice[0]!r}: leave one.")
    rows = lines.rows[1:]
    if not rows:
        raise ValueError("a table of intervals needs a row at least, got none.")
    numbers = _numbers(path, len(rows))
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != len(names):
            raise ValueError(f"line {number} needs {len(names)} cells, got {len(row)}.")
    cells = {
        name: [row[names.index(str(column))].strip() for row in rows]
        for name, column in columns.items()
    }
    file = find(names, None, FILES)
    recordings = [None if file is None else row[names.index(file)].strip() for row in rows]
    for name, article in (("label", "a"), ("start", "a"), ("end", "an")):
        for number, cell in zip(numbers, cells[name], strict=True):
            if cell.lower() in MISSING:
                raise ValueError(f"line {number} needs {article} {name}, got {cell!r}.")
    moments = _moments(cells["start"] + cells["end"], [*numbers, *numbers])
    starts, ends = moments[: len(rows)], moments[len(rows) :]
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if not end > start:
            raise ValueError(
                f"line {numbers[i]}: the end must be after the start, got {cells['start'][i]} and"
                f" {cells['end'][i]}."
            )
    table = zip(numbers, recordings, starts, ends, cells["label"], strict=True)
    return [Interval(*row) for row in table]


def _numbers(path: Path, count: int) -> list[int]:
    """The numbers in the file of its last `count` lines that are not blank."""
    lines = path.read_text("utf-8-sig").splitlines()
    return [number for number, line in enumerate(lines, start=1) if line.strip()][-count:]


def _moments(cells: list[str], numbers: Sequence[int]) -> np.ndarray:
    """Starts and ends as sortable numbers or dates; ValueError with the line of a wrong one."""
    try:
        return parse_timestamps(np.array(cells, dtype=object), "start or end")
    except ValueError:
        for number, cell in zip(numbers, cells, strict=True):
            try:
                parse_timestamps(np.array([cell], dtype=object), "start or end")
            except ValueError:
                raise ValueError(
                    f"line {number}: a start or end must be a number or an ISO date"
                    f" (2024-03-10T12:30:00), got {cell!r}."
                ) from None
    raise ValueError(
        "starts and ends must be all numbers or all dates, with a time zone on all or none."
    )


def names_of(data: Recordings) -> tuple[str, ...]:
    """The names of recordings; 1, 2, … if they have none."""
    return data.names or tuple(str(i + 1) for i in range(len(data)))


def _owners(rows: Sequence[Interval], names: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Part and position of the recording of each interval."""
    every = [(part, i) for part, its in enumerate(names) for i in range(len(its))]
    found = {}
    for row in rows:
        if row.recording in found:
            continue
        if row.recording is None:
            same = every
            wrong = f"without a column 'file' there must be one recording, got {len(every)}"
        else:
            same = [(p, i) for p, i in every if names[p][i] == row.recording]
            if not same:  # with or without folder and ending
                same = [(p, i) for p, i in every if _are_same(names[p][i], row.recording)]
            known = ", ".join(names[p][i] for p, i in every[:10])
            how = "no recording has that name" if not same else "several recordings have that name"
            wrong = f"line {row.line}: {how}, {row.recording!r}, of {known}"
        if len(same) != 1:
            raise ValueError(f"{wrong}.")
        found[row.recording] = same[0]
    return [found[row.recording] for row in rows]


def _are_same(name: str, other: str) -> bool:
    """Whether names are the same once a folder or an ending is left out of one of them."""
    return other in _shorter(name) or name in _shorter(other)


def _shorter(name: str) -> set[str]:
    """A file's name without its folder, its ending or both; other points are part of a name."""
    path = PureWindowsPath(name)  # which knows / and \
    whole, known = path.as_posix(), (*ENDINGS, *RECORDERS)
    cut = whole[: -len(path.suffix)] if path.suffix.lower() in known else whole
    return {whole, cut, whole.rsplit("/", 1)[-1], cut.rsplit("/", 1)[-1]}


def _with_labels(data: Recordings, rows: Sequence[tuple[Interval, int]], keep: bool) -> Recordings:
    """Recordings with the labels of intervals, each with the position of its recording."""
    cells = [np.full(len(one), "", dtype=object) for one in data.series]
    for place in sorted({i for _, i in rows}):
        its = sorted((row for row, i in rows if i == place), key=lambda row: row.start)
        name = names_of(data)[place]
        for one, other in pairwise(its):
            if other.start < one.end:
                raise ValueError(
                    f"intervals must not overlap, those of lines {one.line} and {other.line} of"
                    f" recording {name!r} do."
                )
        for row in its:
            cells[place][_steps_of(row, data, place, name)] = row.label
    kept = list(range(len(data))) if keep else sorted({i for _, i in rows})
    if not kept:
        raise ValueError("no recording of a part, training, validation or test, has an interval.")
    steps = step_targets(cells, data.series, ("label",))
    unit = "steps counted from 0" if data.stamps is None else "the time of the recordings"
    if data.stamps is not None and data.stamps[0].dtype.kind == "M":
        unit += " (dates without a zone count as UTC)"
    lines = (*data.lines, ("labels", f"{len(rows)} intervals, in {unit}"))
    data = replace(data, targets=None, steps=steps, stamps=None, lines=lines)
    if len(kept) == len(data):
        return data
    said = f"{len(data) - len(kept)} of {len(data)} recordings without an interval"
    return replace(data.select(kept), lines=(*data.lines, ("left out", said)))


def _steps_of(row: Interval, data: Recordings, place: int, name: str) -> slice:
    """The steps of an interval; ValueError if it lies outside of its recording."""
    times: Any = np.arange(len(data.series[place])) if data.stamps is None else data.stamps[place]
    dates = [np.asarray(one).dtype.kind == "M" for one in (row.start, times)]
    if dates[0] != dates[1]:
        kinds = ["dates" if one else "numbers" for one in dates]
        raise ValueError(
            f"line {row.line} has {kinds[0]}, and the times of recording {name!r} are {kinds[1]}."
        )
    gaps = np.diff(times)
    gap = gaps.max() if len(gaps) else 1
    if row.start < times[0] - gap or row.end > times[-1] + gap:
        raise ValueError(
            f"line {row.line}: the interval from {row.start} to {row.end} is not within recording"
            f" {name!r}, from {times[0]} to {times[-1]}."
        )
    steps = steps_between(times, row.start, row.end)
    if steps.start == steps.stop:
        raise ValueError(
            f"line {row.line}: no step of recording {name!r} is in the interval from {row.start} to"
            f" {row.end}."
        )
    return steps
