"""Targets of forecasts without a copy for each step: views of the series itself.

The targets of step t are the values at t + 1 … t + horizon, which lie one after another in a
series (time + horizon, channel). So a view with overlapping rows has them all. Of 100,000 steps
and 8 channels the targets of a horizon of 96 would take 600 MB, and the series takes 6.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnopt.tasks.user_data.step_targets import StepTargets


class Rows(Sequence[np.ndarray]):
    """The targets (time, horizon · channel) of each series, made when asked for."""

    def __init__(self, bases: Sequence[np.ndarray], starts: Sequence[int], horizon: int):
        self.bases, self.starts, self.horizon = bases, starts, horizon

    def __len__(self) -> int:
        return len(self.bases)

    def __getitem__(self, place: Any) -> Any:
        base, start = self.bases[place], self.starts[place]
        found = view(base, self.horizon)
        if start:
            found = found.copy()
            found[:start] = np.nan
        return found


@dataclass(frozen=True)
class ForecastTargets(StepTargets):
    """Targets of each step that are the next values of some channels.

    Args:
        values: `Rows` of the following.
        names, words: as in `StepTargets`.
        bases: arrays (time + horizon, channel) of each series; NaN is no target.
        starts: first step of each series whose targets count.
        horizon: steps to forecast.
    """

    bases: tuple[np.ndarray, ...] = ()
    starts: tuple[int, ...] = ()
    horizon: int = 1

    def of(self, bases: Sequence[np.ndarray], starts: Sequence[int]) -> "ForecastTargets":
        """The same of other series."""
        bases, starts = tuple(bases), tuple(starts)
        values: Any = Rows(bases, starts, self.horizon)
        return replace(self, values=values, bases=bases, starts=starts)

    def select(self, index: Sequence[int] | np.ndarray) -> "ForecastTargets":
        return self.of([self.bases[i] for i in index], [self.starts[i] for i in index])

    def cut(self, lengths: Sequence[int]) -> "ForecastTargets":
        pairs = zip(self.bases, lengths, strict=True)
        return self.of([one[: length + self.horizon] for one, length in pairs], self.starts)

    def without_first(self, count: int) -> "ForecastTargets":
        return self.of(self.bases, [max(start, count) for start in self.starts])

    def within(self, starts: Sequence[int], ends: Sequence[int]) -> "ForecastTargets":
        """Those of the time from `starts` to before `ends`.

        Of a forecast that reaches into that time only those count that lie in it from the first on.
        """
        bases = []
        for one, end in zip(self.bases, ends, strict=True):
            bases.append(one.copy())
            bases[-1][end:] = np.nan
        pairs = zip(self.starts, starts, strict=True)
        return self.of(bases, [max(own, start - 1, 0) for own, start in pairs])

    def window(self, place: int, start: int, end: int) -> "ForecastTargets":
        """Those of some steps of one series."""
        base = self.bases[place][start : end + self.horizon]
        return self.of([base], [max(0, self.starts[place] - start)])

    def joined(self, others: Sequence[StepTargets]) -> "ForecastTargets":
        windows = [one for one in others if isinstance(one, ForecastTargets)]
        bases = [one.bases[0] for one in windows]
        return self.of(bases, [one.starts[0] for one in windows])

    def has_some(self, place: int, ignored: int = 0) -> bool:
        first = max(self.starts[place], ignored)
        return not bool(np.isnan(self.bases[place][first + 1 :]).all())

    def columns(self) -> Iterator[np.ndarray]:
        """The targets of each channel one step ahead, for all steps ahead alike."""
        for _ in range(self.horizon):
            for i in range(self.bases[0].shape[1]):
                pairs = zip(self.bases, self.starts, strict=True)
                column = np.concatenate([one[start + 1 :, i] for one, start in pairs])
                yield column[~np.isnan(column)]

    def tensor(self, mean: np.ndarray, deviation: np.ndarray) -> Tensor | None:
        """Standardised targets (count, time, output) in float32, a view; those before `starts` too.

        None if the outputs of a channel differ in scale, as in runs of an earlier version.
        """
        width, horizon = self.bases[0].shape[1], self.horizon
        for scale in (mean, deviation):
            if (scale.reshape(horizon, width) != scale[:width]).any():
                return None
        longest = max(map(len, self.bases))
        padded = np.full((len(self.bases), longest, width), np.nan, np.float32)
        for row, one in zip(padded, self.bases, strict=True):
            row[: len(one)] = (one - mean[:width]) / deviation[:width]
        if np.isinf(padded).any():
            raise ValueError("targets must be within 3e38 for the network: scale them.")
        shape = (len(padded), longest - horizon, horizon * width)
        return torch.from_numpy(padded).as_strided(shape, (longest * width, width, 1), width)


def view(base: np.ndarray, horizon: int) -> np.ndarray:
    """The next `horizon` values (time, horizon · channel) of (time + horizon, channel): a view."""
    base = np.ascontiguousarray(base)
    width = base.shape[1]
    shape = (len(base) - horizon, horizon * width)
    strides = (width * base.itemsize, base.itemsize)
    return np.lib.stride_tricks.as_strided(base[1:], shape, strides, writeable=False)


def forecast_targets(
    series: Sequence[np.ndarray], horizon: int, names: Sequence[str]
) -> ForecastTargets:
    """The next values of series (time, channel) as targets; beyond the end they are missing."""
    bases = [
        np.concatenate([one, np.full((horizon, one.shape[1]), np.nan)]).astype(np.float64)
        for one in series
    ]
    empty = ForecastTargets((), tuple(names), horizon=horizon)
    return empty.of(bases, [0] * len(bases))
