"""Forecasts of a series' own channels: its next values as targets of each step; naive forecasts.

From each step t the targets are the values at t + 1 … t + horizon of some channels. What lies
beyond the end of the series, or is missing in it, is a missing target. A network that runs forward
in time sees nothing after step t, so every step of a series is an example.

Hyndman and Koehler, "Another look at measures of forecast accuracy", International Journal of
Forecasting 2006: the naive forecast repeats the last value, the seasonal one that of a season ago.
The mean absolute scaled error (MASE) is the absolute error over that of the naive one-step forecast
in the training series; with a season, of the seasonal one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnnopt.tasks.user_data.alignment import aligned
from rnnopt.tasks.user_data.forecast_targets import forecast_targets
from rnnopt.tasks.user_data.recordings import Recordings

SHORTEST_WINDOW = 100  # steps of a training window


@dataclass(frozen=True)
class Forecast:
    """What to forecast from each step of a series.

    Args:
        horizon: steps to forecast, ≥ 1.
        places: positions of the channels to forecast.
        season: steps of a season, None if there is none.
        window: steps of a training window; None means by horizon and season.
    """

    horizon: int
    places: tuple[int, ...]
    season: int | None = None
    window: int | None = None

    @property
    def width(self) -> int:
        """Steps of a training window: enough to see a season or the horizon twice."""
        if self.window is not None:
            return self.window
        return max(SHORTEST_WINDOW, 2 * self.horizon, 2 * (self.season or 1))

    def of(self, data: Recordings, like: Recordings) -> Recordings:
        """The series with their next values as targets, their channels in the order of `like`.

        Raises:
            ValueError: a series that ends before the horizon, or other channels.
        """
        data = aligned(data, like.channels, like.table)
        check_horizon(data, self.horizon)
        return with_forecasts(data, self.horizon, self.places)


def forecast_channels(channels: Sequence[str], label: str | None) -> tuple[int, ...]:
    """Positions of the channels that `label` names, with commas between them; all without one.

    Raises:
        ValueError: there is no such channel.
    """
    if label is None:
        return tuple(range(len(channels)))
    lower = [name.lower() for name in channels]
    wanted = [label] if label.lower() in lower else [one.strip() for one in label.split(",")]
    places = []
    for one in wanted:
        if one.lower() in lower:
            places.append(lower.index(one.lower()))
        elif one.isdecimal() and int(one) < len(channels):
            places.append(int(one))
        else:
            known = ", ".join(channels[:20])
            raise ValueError(f"there is no channel {one!r} to forecast, only {known}.")
    return tuple(places)


def with_forecasts(data: Recordings, horizon: int, places: Sequence[int]) -> Recordings:
    """The same series with their next values as targets.

    Args:
        data: series; targets of theirs are left out.
        horizon: steps to forecast.
        places: positions of the channels to forecast.
    """
    names = [f"{data.channels[i]} +{h}" for h in range(1, horizon + 1) for i in places]
    series = [one[:, list(places)] for one in data.series]
    steps = forecast_targets(series, horizon, names)
    return replace(data, targets=None, steps=steps, kind="regression")


def check_horizon(data: Recordings, horizon: int) -> None:
    """Raises ValueError for a series that ends before the horizon."""
    for i, one in enumerate(data.series):
        if len(one) <= horizon:
            raise ValueError(
                f"a horizon of {horizon} needs series of {horizon + 1} steps at least, series"
                f" {i + 1} has {len(one)}."
            )


def naive(
    values: np.ndarray, horizon: int, season: int = 1, of: np.ndarray | None = None
) -> np.ndarray:
    """The forecasts (time, horizon · channel) that repeat the last season; 1 is the last value.

    The forecast for t + h is the value at the latest step up to t that is whole seasons earlier.
    Where the series has not had that season, the last value stands in. `of` are the steps to
    forecast from, (time,); None means all.
    """
    time, width = values.shape
    steps = (np.arange(time) if of is None else of)[:, None]
    ahead = np.arange(1, horizon + 1)[None]
    source = steps + ahead - season * (-(-ahead // season))
    source = np.where(source < 0, steps, source)
    return values[source].reshape(len(steps), horizon * width)


def naive_error(series: Sequence[np.ndarray], season: int = 1) -> np.ndarray:
    """Mean absolute error (channel,) of the (seasonal) naive one-step forecast; 1 where it is 0."""
    changes = [np.abs(one[season:] - one[:-season]) for one in series if len(one) > season]
    if not changes:
        raise ValueError(f"a season of {season} steps needs longer training series.")
    error = np.nanmean(np.concatenate(changes), 0)
    return np.where(error > 0, error, 1.0)
