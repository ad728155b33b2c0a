"""Series before any preparation: with different lengths, names and missing values.

Every reader returns `Recordings`; `preparation.py` converts them to inputs of a network.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnopt.config.data_config import Kind, Layout
from rnnopt.tasks.names import check_names
from rnnopt.tasks.user_data.input_checks import series_of
from rnnopt.tasks.user_data.step_targets import StepTargets, are_each_step, step_targets
from rnnopt.tasks.user_data.target_checks import group_words, targets_of


@dataclass(frozen=True)
class TableSchema:
    """The interpretation of the columns of a table with names.

    Args:
        layout: wide, a row per series, or long, a row per step.
        label, id, time: names of columns, None if there is none.
        steps: names of the columns that are steps, in a wide table; () in a long one.
        dropped: names of the columns left out as an index.
        first: whether the label is the first column because no column has a usual name.
        group: name of the column of groups, None if there is none.
        unused: names of the columns that the user left out.
    """

    layout: Layout
    label: str | None = None
    id: str | None = None
    time: str | None = None
    steps: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    first: bool = False
    group: str | None = None
    unused: tuple[str, ...] = ()

    def describe(self) -> str:
        """In words."""
        label = repr(self.label) if self.label is not None else "none"
        parts = [f"{self.layout} table", f"label {label}" + ", the first column" * self.first]
        if self.id is not None:
            parts.append(f"id {self.id!r}")
        if self.group is not None:
            parts.append(f"group {self.group!r}")
        if self.layout == "long":
            parts.append("in the order of rows" if self.time is None else f"time {self.time!r}")
        if self.dropped:
            parts.append(f"left out: the index {', '.join(map(repr, self.dropped))}")
        if self.unused:
            parts.append(f"left out: {', '.join(map(repr, self.unused))}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Recordings:
    """Labelled or unlabelled series.

    Args:
        series: ≥ 1 arrays (time, channel) of float64 with ≥ 1 step; NaN is a missing value. Those
            of a large .npy file are views of it, not to be written, in its float32 or float64.
        targets: (count,) words, or numbers (count,) or (count, outputs), or None if unlabelled.
        channels: names of the channels.
        kind: kind of the targets, if the file declares it.
        names: names of the series, if the file has them.
        table: interpretation of the columns, if it is a table with names.
        notes: further notes on how the file was read.
        times: description of irregular times, if there are any.
        validation: separate validation series, if the file has them.
        steps: targets of each step; `targets` is then None.
        groups: (count,) the person, machine, … that each series is of, as words; None if not named.
        suspect: name of a column that looks like groups, if none was named.
        unused: names or positions of the channels that the user left out.
        moments: time of each step in seconds, (time,) for each series; None if unknown.
        stamps: the same as written, numbers or dates, until labels are read; None if unknown.
        spans: (count, 3) recording, first step and end of each series, if they are windows.
        shaped: whether channels were left out, and series resampled and cut, as in training.
        lines: what was done for that (subject, finding).
        units: of the channels, "" if unknown, where the file of one recording says them; else ().
    """

    series: tuple[np.ndarray, ...]
    targets: np.ndarray | None
    channels: tuple[str, ...]
    kind: Kind | None = None
    names: tuple[str, ...] | None = None
    table: TableSchema | None = None
    notes: tuple[str, ...] = ()
    times: str | None = None
    validation: "Recordings | None" = None
    steps: StepTargets | None = None
    groups: np.ndarray | None = None
    suspect: str | None = None
    unused: tuple[str, ...] = ()
    moments: tuple[np.ndarray, ...] | None = None
    stamps: tuple[np.ndarray, ...] | None = None
    spans: np.ndarray | None = None
    shaped: bool = False
    lines: tuple[tuple[str, str], ...] = ()
    units: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.series)

    @property
    def labelled(self) -> bool:
        """Whether there are targets, one for each series or one for each step."""
        return self.targets is not None or self.steps is not None

    def select(self, index: Sequence[int] | np.ndarray) -> "Recordings":
        """The series at these positions."""
        places = np.asarray(index, int)
        arrays: dict[str, Any] = {
            name: None if (array := getattr(self, name)) is None else array[places]
            for name in ("targets", "groups", "spans")
        }
        rows: dict[str, Any] = {
            name: None if (row := getattr(self, name)) is None else tuple(row[i] for i in places)
            for name in ("series", "names", "moments", "stamps")
        }
        steps = None if self.steps is None else self.steps.select(places)
        return replace(self, steps=steps, **arrays, **rows)


def recordings(
    inputs: Any,
    targets: Any = None,
    lengths: Any = None,
    channels: Sequence[str] | None = None,
    kind: Kind | None = None,
    names: Sequence[str] | None = None,
    each_step: bool | None = None,
    outputs: Sequence[str] | None = None,
    groups: Any = None,
) -> Recordings:
    """Recordings of arrays, checked.

    Args:
        inputs: (count, time), (count, time, feature), or a list of (time,) or (time, feature).
        targets: one per series: words, numbers, or rows of numbers; None if unlabelled. Or one per
            step, as in `step_targets`.
        lengths: (count,) true steps of padded series; None when all are true.
        channels: names; unset means channel 1, channel 2, …
        kind, names: as in `Recordings`.
        each_step: whether the targets are one per step; None means where they cannot be one per
            series, see `are_each_step`.
        outputs: names of the targets of a step.
        groups: (count,) words or whole numbers, as in `Recordings`.

    Raises:
        ValueError: wrong shapes, types or lengths; infinite values; targets or groups that are
            missing.
    """
    series = series_of(inputs, lengths)
    answers = steps = None
    if targets is not None:
        if each_step is None:
            each_step = are_each_step(targets, series)
        if each_step:
            steps = step_targets(targets, series, outputs)
        else:
            answers = targets_of(targets, len(series))
    channels = channels or default_names(series[0].shape[1])
    check_names(channels, "channel")
    check_names(names or (), "series")
    return Recordings(
        tuple(series),
        answers,
        tuple(channels),
        kind,
        None if names is None else tuple(names),
        steps=steps,
        groups=None if groups is None else group_words(groups, len(series)),
    )


def default_names(width: int) -> tuple[str, ...]:
    """Default names of channels."""
    return tuple(f"channel {i + 1}" for i in range(width))


def with_times(data: Recordings, times: Any) -> Recordings:
    """The series with the times of their steps.

    Args:
        data: the series.
        times: (count, time), or a list of (time,), rising, in seconds; those of padding are left
            out.

    Raises:
        ValueError: another number of times than of steps, or times that do not rise.
    """
    if len(times) != len(data):
        raise ValueError(f"times need one row for each of {len(data)} series, got {len(times)}.")
    found = []
    for i, (its, one) in enumerate(zip(times, data.series, strict=True)):
        moments = np.asarray(its, dtype=np.float64)
        if moments.ndim != 1 or len(moments) < len(one):
            raise ValueError(
                f"times need one for each step: series {i + 1} has {len(one)} steps and times of"
                f" shape {moments.shape}."
            )
        moments = moments[: len(one)]
        if not (np.diff(moments) > 0).all():
            raise ValueError(f"times must rise from step to step, those of series {i + 1} do not.")
        found.append(moments - moments[0])
    return replace(data, moments=tuple(found))


def without_channels(data: Recordings, dropped: Sequence[str | int]) -> Recordings:
    """The series without some channels.

    Args:
        data: the series.
        dropped: names, or positions counted from 0, or from -1 for the last.

    Raises:
        ValueError: a channel is not there, or none would be left.
    """
    if not dropped:
        return data
    names, places = list(data.channels), set()
    for one in dropped:
        if str(one) in names:
            places.add(names.index(str(one)))
        elif re.fullmatch(r"-?[0-9]{1,9}", str(one)) and -len(names) <= int(one) < len(names):
            places.add(int(one) % len(names))
        else:
            raise ValueError(
                f"there is no channel {str(one)!r} to leave out, only {', '.join(names[:20])}, or"
                f" 0 … {len(names) - 1}."
            )
    kept = [i for i in range(len(names)) if i not in places]
    if not kept:
        raise ValueError(f"series need at least one channel, and all {len(names)} are left out.")
    return replace(
        data,
        series=tuple(one[:, kept] for one in data.series),
        channels=tuple(names[i] for i in kept),
        unused=tuple(names[i] for i in sorted(places)),
    )


def joined_lines(parts: Sequence[Recordings], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What was done for several files: the same for each, or for the first three by name."""
    told: dict[str, list[tuple[str, str]]] = {}
    for part, name in zip(parts, names, strict=True):
        for subject, text in part.lines:
            told.setdefault(subject, []).append((name, text))
    lines = []
    for subject, its in told.items():
        some = "; ".join(f"{name}: {text}" for name, text in its[:3])
        some += f"; … ({len(its)} files in all)" * (len(its) > 3)
        alike = len(its) == len(parts) > 1 and len({text for _, text in its}) == 1
        lines.append((subject, f"{its[0][1]}, in each file" if alike else some))
    return tuple(lines)


def told_of_units(parts: Sequence[Recordings], names: Sequence[str]) -> list[tuple[str, str]]:
    """A line if a channel has other units in another of several files, as with mV and uV.

    Args:
        parts: recordings of the same channels in the same order.
        names: of their files.
    """
    for i, channel in enumerate(parts[0].channels):
        found: dict[str, str] = {}
        for part, name in zip(parts, names, strict=True):
            if part.units and part.units[i]:
                found.setdefault(part.units[i], name)
        if len(found) > 1:
            some = ", ".join(f"{unit} in {name!r}" for unit, name in list(found.items())[:3])
            return [("units", f"{channel!r} has {some}; values are taken as they are")]
    return []
