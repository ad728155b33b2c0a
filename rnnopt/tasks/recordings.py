"""Series as users have them, before anything is done to them: ragged, named, with missing values.

Every reader gives `Recordings`; `preparation.py` makes them what a network takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnopt.data_config import Kind


@dataclass(frozen=True)
class Recordings:
    """Labelled or unlabelled series.

    Args:
        series: (time, channel) arrays of float64, NaN where a value is missing; ≥ 1 of ≥ 1 step.
        targets: (count,) words, or numbers (count,) or (count, outputs), or None where unlabelled.
        channels: names of the channels.
        kind: what the file itself says of its targets, if it does.
        names: what the file calls each series, if it does.
    """

    series: tuple[np.ndarray, ...]
    targets: np.ndarray | None
    channels: tuple[str, ...]
    kind: Kind | None = None
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.series)

    def select(self, index: Sequence[int] | np.ndarray) -> "Recordings":
        """The series at these positions."""
        targets = None if self.targets is None else self.targets[np.asarray(index, int)]
        names = None if self.names is None else tuple(self.names[i] for i in index)
        series = tuple(self.series[i] for i in index)
        return Recordings(series, targets, self.channels, self.kind, names)


def recordings(
    inputs: Any,
    targets: Any = None,
    lengths: Any = None,
    channels: Sequence[str] | None = None,
    kind: Kind | None = None,
    names: Sequence[str] | None = None,
) -> Recordings:
    """Recordings of arrays, checked.

    Args:
        inputs: (count, time), (count, time, feature), or a list of (time,) or (time, feature).
        targets: one a series: words, numbers, or rows of numbers; None where unlabelled.
        lengths: (count,) true steps of padded series; None when all are true.
        channels: names; unset means channel 1, channel 2, …
        kind, names: as in `Recordings`.

    Raises:
        ValueError: wrong shapes, types or lengths; infinite values; targets that are missing.
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
        if np.isinf(one).any():
            step, channel = np.argwhere(np.isinf(one))[0] + 1
            raise ValueError(
                f"values must be finite, got an infinite one in series {i + 1}, step {step},"
                f" channel {channel}."
            )
    answers = None if targets is None else _targets(targets, len(series))
    channels = channels or default_names(width)
    return Recordings(
        tuple(series), answers, tuple(channels), kind, None if names is None else tuple(names)
    )


def default_names(width: int) -> tuple[str, ...]:
    """What channels are called that have no names."""
    return tuple(f"channel {i + 1}" for i in range(width))


def _series(inputs: Any) -> list[np.ndarray]:
    if isinstance(inputs, (list, tuple)):
        arrays = [_numbers(one, f"series {i + 1}") for i, one in enumerate(inputs)]
        for i, one in enumerate(arrays):
            if one.ndim not in (1, 2):
                raise ValueError(
                    f"a series must be (time,) or (time, feature), series {i + 1} is {one.shape}."
                )
        return [one[:, None] if one.ndim == 1 else one for one in arrays]
    array = _numbers(inputs, "the inputs")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(
            f"inputs must be (count, time) or (count, time, feature), got shape {array.shape}."
        )
    return list(array)


def _numbers(values: Any, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{what} must be an array of numbers, got type {array.dtype}; series of different"
            " lengths go in a list, or padded with their lengths."
        )
    return array.astype(np.float64)


def _cut(series: list[np.ndarray], lengths: Any) -> list[np.ndarray]:
    lengths = np.asarray(lengths)
    if lengths.shape != (len(series),) or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be {len(series)} whole numbers, one a series, got {lengths.dtype} of"
            f" shape {lengths.shape}."
        )
    for i, (one, length) in enumerate(zip(series, lengths, strict=True)):
        if not 1 <= length <= len(one):
            raise ValueError(
                f"lengths must be in 1 … {len(one)} (time), series {i + 1} has {length}."
            )
    return [one[:length] for one, length in zip(series, lengths, strict=True)]


def _targets(targets: Any, count: int) -> np.ndarray:
    array = np.asarray(targets)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or len(array) != count:
        raise ValueError(f"targets must be {count}, one a series, got shape {array.shape}.")
    if array.dtype.kind in "biuf":
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            where = int(np.argwhere(~np.isfinite(array))[0][0]) + 1
            raise ValueError(f"targets must be finite, got none or an infinite one at {where}.")
        return array
    words = np.array([str(one).strip() for one in array.ravel()]).reshape(array.shape)
    missing = [i + 1 for i, word in enumerate(words.ravel()) if word in ("", "nan", "None", "?")]
    if missing:
        raise ValueError(f"every series needs a target, series {missing[0]} has none.")
    try:  # numbers written as words, as text files have them
        return words.astype(np.float64)
    except ValueError:
        return words
