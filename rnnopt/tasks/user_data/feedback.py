"""Past outputs as further inputs: the channels y (t-1), y (t-2), … of series with step targets.

In training they are the measured outputs (teacher forcing). Where one is missing, the last one
measured before stands in. Before the first of a series they are missing, and become the mean.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rnnopt.config.data_config import Missing
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.series import fill_missing


def with_past_outputs(data: Recordings, count: int, names: Sequence[str]) -> Recordings:
    """The series with the outputs of the last `count` steps as their last channels.

    Args:
        data: series; without targets their past outputs are missing.
        count: past outputs, ≥ 1.
        names: names of the outputs.

    Raises:
        ValueError: a channel has such a name already, targets are words, or some are not there.
    """
    if data.steps is not None and data.steps.words:
        raise ValueError(f"feedback needs numbers as targets, got {odd_word(data.steps.words)!r}.")
    if data.steps is not None and len(data.steps.names) != len(names):
        raise ValueError(
            f"feedback needs all outputs of training, {', '.join(names)}, or none, got"
            f" {', '.join(data.steps.names)}."
        )
    channels = tuple(f"{name} (t-{lag})" for lag in range(1, count + 1) for name in names)
    if twice := sorted(set(channels) & set(data.channels)):
        raise ValueError(f"feedback makes a channel {twice[0]!r}, and there is one already.")
    values: Sequence[np.ndarray] = (
        [np.full((len(one), len(names)), np.nan) for one in data.series]
        if data.steps is None
        else data.steps.values
    )
    series = tuple(
        np.concatenate([one, past_of(its, count)], 1)
        for one, its in zip(data.series, values, strict=True)
    )
    return replace(data, series=series, channels=(*data.channels, *channels))


def odd_word(words: Sequence[str]) -> str:
    """The first of several words that is no number."""
    for word in words:
        try:
            float(word)
        except ValueError:
            return word
    return words[0]


def unmeasured(data: Recordings, lags: int) -> list[int]:
    """Positions of the series of whose outputs, the last `lags` channels, nothing was measured."""
    bare = []
    for i, one in enumerate(data.series):
        targets = data.steps is not None and data.steps.has_some(i)
        if not targets and np.isnan(one[:, one.shape[1] - lags :]).all():
            bare.append(i)
    return bare


def past_of(values: np.ndarray, count: int) -> np.ndarray:
    """The values (time, count · output) of the last `count` steps; NaN before the first."""
    held, past = _held(values), np.full((count, *values.shape), np.nan)
    for lag in range(1, min(count, len(values) - 1) + 1):
        past[lag - 1, lag:] = held[:-lag]
    return past.transpose(1, 0, 2).reshape(len(values), -1)


def _held(values: np.ndarray) -> np.ndarray:
    """Values (time, output), a missing one replaced by the last before it."""
    steps = np.arange(len(values))[:, None]
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, steps), 0)
    return np.take_along_axis(values, last, 0)


def without_past(series: Sequence[np.ndarray], lags: int) -> tuple[np.ndarray, ...]:
    """The series without their last `lags` channels."""
    return tuple(one[:, : one.shape[1] - lags] for one in series)


def filled(one: np.ndarray, missing: Missing, fill: np.ndarray, lags: int) -> np.ndarray:
    """`fill_missing` of a series whose last `lags` channels, past outputs, always get `fill`."""
    if not lags:
        return fill_missing(one, missing, fill)
    first, last = one[:, :-lags], one[:, -lags:]
    last = np.where(np.isnan(last), fill[-lags:], last)
    return np.concatenate([fill_missing(first, missing, fill[:-lags]), last], 1)
