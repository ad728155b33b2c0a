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
from rnnopt.tasks.user_data.step_targets import MISSING as MISSING
from rnnopt.tasks.user_data.step_targets import StepTargets, are_each_step, step_targets

TRUTHS = {"false": 0.0, "true": 1.0}
LARGEST = 1e100  # a sum of a million squares is still finite
EXACT = 2**53  # float64 represents every whole number up to it


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
        series: ≥ 1 arrays (time, channel) of float64 with ≥ 1 step; NaN is a missing value.
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
        spans: (count, 3) recording, first step and end of each series, if they are windows.
        shaped: whether channels were left out, and series resampled and cut, as in training.
        lines: what was done for that (subject, finding).
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
    spans: np.ndarray | None = None
    shaped: bool = False
    lines: tuple[tuple[str, str], ...] = ()

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
            for name in ("series", "names", "moments")
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
    series = _series(inputs)
    if lengths is not None:
        series = _cut(series, lengths)
    if not series:
        raise ValueError("data need at least one series, got none.")
    features = {one.shape[1] for one in series}
    if len(features) > 1:
        raise ValueError(f"every series needs the same number of channels, got {sorted(features)}.")
    width = features.pop()
    if width < 1:
        raise ValueError("series need at least one channel, got none.")
    for i, one in enumerate(series):
        if len(one) < 1:
            raise ValueError(f"every series needs at least one step, series {i + 1} has none.")
        if (np.abs(one) > LARGEST).any():
            step, channel = np.argwhere(np.abs(one) > LARGEST)[0] + 1
            raise ValueError(
                f"values must be finite and within {LARGEST:g}, got an infinite or larger one in"
                f" series {i + 1}, step {step}, channel {channel}."
            )
    answers = steps = None
    if targets is not None:
        if each_step is None:
            each_step = are_each_step(targets, series)
        if each_step:
            steps = step_targets(targets, series, outputs)
        else:
            answers = _targets(targets, len(series))
    channels = channels or default_names(width)
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


def group_words(groups: Any, count: int) -> np.ndarray:
    """Groups as words (count,).

    Raises:
        ValueError: another shape, or a group that is missing.
    """
    array = np.asarray(groups)
    if array.shape != (count,):
        raise ValueError(f"groups must be {count}, one per series, got shape {array.shape}.")
    words = [str(one).strip() for one in array.tolist()]
    for i, word in enumerate(words):
        if word.lower() in MISSING:
            raise ValueError(f"every series needs a group, series {i + 1} has none.")
    check_names(words, "group")
    return np.array(words)


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


def _series(inputs: Any) -> list[np.ndarray]:
    if isinstance(inputs, (list, tuple)):
        arrays = [_numbers(one, f"series {i + 1}") for i, one in enumerate(inputs)]
        for i, one in enumerate(arrays):
            if one.ndim not in (1, 2):
                raise ValueError(
                    f"a series must be (time,) or (time, feature), series {i + 1} is {one.shape}"
                    + (": a single series goes in a list, [X]." if one.ndim == 0 else ".")
                )
        return [one[:, None] if one.ndim == 1 else one for one in arrays]
    array = _numbers(inputs, "the inputs")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(
            f"inputs must be (count, time) or (count, time, feature), got shape {array.shape}"
            + (": a single series goes in a list, [X], or as X[None]." if array.ndim == 1 else ".")
        )
    if not array.size:  # without a step, the number of series is arbitrary
        raise ValueError(
            "inputs need at least one series of at least one step and one channel, got shape"
            f" {array.shape}."
        )
    return list(array)


def _numbers(values: Any, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{what} must be an array of numbers, got type {array.dtype}; series of different"
            " lengths go in a list, or padded with their lengths."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is checked later
        return array.astype(np.float64)


def _cut(series: list[np.ndarray], lengths: Any) -> list[np.ndarray]:
    try:
        lengths = np.asarray(lengths)
    except ValueError:
        raise ValueError(
            f"lengths must be {len(series)} whole numbers, one per series, got rows of different"
            " lengths."
        ) from None
    if lengths.shape != (len(series),) or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be {len(series)} whole numbers, one per series, got {lengths.dtype} of"
            f" shape {lengths.shape}."
        )
    for i, (one, length) in enumerate(zip(series, lengths, strict=True)):
        if not 1 <= length <= len(one):
            raise ValueError(
                f"lengths must be in 1 … {len(one)} (time), series {i + 1} has {length}."
            )
    return [one[:length] for one, length in zip(series, lengths, strict=True)]


def _targets(targets: Any, count: int) -> np.ndarray:
    try:
        array = np.asarray(targets)
    except ValueError:  # rows of different lengths
        raise ValueError(
            "every series needs one target, got rows of different lengths: of several labels a"
            " series, train one classifier for each."
        ) from None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or len(array) != count:
        raise ValueError(f"targets must be {count}, one per series, got shape {array.shape}.")
    if array.dtype.kind in "biuf":
        whole = array.dtype.kind in "iu" and array.size > 0
        if whole and max(int(array.max()), -int(array.min())) > EXACT:
            raise ValueError(
                "whole numbers as targets must be within 2^53, which float64 has exactly: write"
                " such classes as words."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float64)
        wrong = ~(np.abs(array) <= LARGEST)
        if wrong.any():
            where = int(np.argwhere(wrong)[0][0]) + 1
            raise ValueError(
                f"targets must be finite and within {LARGEST:g}, got none, or an infinite or larger"
                f" one, at {where}."
            )
        return array
    return _words([str(one).strip() for one in array.ravel().tolist()], array.shape)


def _words(words: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """Targets read as words, converted to numbers if all of them are numbers."""
    width = max(1, len(words) // shape[0])
    for i, word in enumerate(words):
        if word.lower() in MISSING:
            hint = f", got {word!r} (call a class otherwise)" if word else ""
            raise ValueError(
                f"every series needs a target, series {i // width + 1} has none{hint}."
            )
    if all(word.lower() in TRUTHS for word in words):
        return np.array([TRUTHS[word.lower()] for word in words]).reshape(shape)
    check_names(words, "class")  # before an array pads each to the longest
    try:  # numbers written as words, as in text files
        numbers = np.array([float(word) for word in words])
    except ValueError:
        return np.array(words).reshape(shape)
    wrong = ~(np.abs(numbers) <= LARGEST)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(
            f"targets must be finite, series {place // width + 1} has {words[place]!r}"
            f" ({LARGEST:g} is the largest)."
        )
    _refuse_codes(words, numbers.tolist())
    return numbers.reshape(shape)


def _refuse_codes(words: list[str], numbers: list[float]) -> None:
    """Raises ValueError if two labels, such as 1 and 01, would become one number."""

    def whole(word: str) -> bool:
        return word.removeprefix("-").isdigit()

    seen: dict[float, str] = {}
    for word, number in zip(words, numbers, strict=True):
        other = seen.setdefault(number, word)
        pair = (word, other)
        # So would 9007199254740992 and …993.
        both = all(map(whole, pair))
        if word != other and (
            both or any(len(w) > 1 and w[0] == "0" and w[1].isdigit() for w in pair)
        ):
            raise ValueError(
                f"labels {other!r} and {word!r} are the same number: write them in the same"
                " way, or add a letter if they are two classes."
            )
