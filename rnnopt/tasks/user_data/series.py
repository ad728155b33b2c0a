"""Operations on single series (time, channel) in numpy: cut, fill, average."""

import numpy as np

from rnnopt.config.data_config import Missing


def cut_padding(series: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The series without the steps at their end in which all values are missing.

    Raises:
        ValueError: a series has no value.
    """
    cut = []
    for i, one in enumerate(series):
        true = np.flatnonzero(~np.isnan(one).all(1))
        if not len(true):
            raise ValueError(f"every series needs a value, series {i + 1} has none.")
        cut.append(one[: true[-1] + 1])
    return tuple(cut)


def check_missing(
    series: tuple[np.ndarray, ...], channels: tuple[str, ...], missing: Missing, padded: bool
) -> None:
    """Raises ValueError for missing values that are not allowed, with the first position."""
    if missing != "error":
        return
    gaps = [int(np.isnan(one).sum()) for one in series]
    if not any(gaps):
        return
    i = int(np.argmax(np.array(gaps) > 0))
    step, channel = np.argwhere(np.isnan(series[i]))[0]
    at_end = "" if padded else ", or --padded where they only fill up shorter series at the end"
    count = "1 value is" if sum(gaps) == 1 else f"{sum(gaps)} values are"
    raise ValueError(
        f"{count} missing in {sum(map(bool, gaps))} of {len(series)} series, the"
        f" first in series {i + 1}, step {step + 1}, {channels[channel]}: choose --missing zero,"
        f" mean or interpolate{at_end}."
    )


def fill_missing(one: np.ndarray, missing: Missing, fill: np.ndarray) -> np.ndarray:
    """A series (time, channel) with filled gaps; a channel without any value gets `fill`."""
    gaps = np.isnan(one)
    if not gaps.any():
        return one
    filled = np.where(gaps, fill, one)
    if missing == "interpolate":
        steps = np.arange(len(one))
        for channel in np.flatnonzero(gaps.any(0) & ~gaps.all(0)):
            seen = ~gaps[:, channel]
            filled[:, channel] = np.interp(steps, steps[seen], one[seen, channel])
    return filled


def pool(one: np.ndarray, width: int) -> np.ndarray:
    """The means of every `width` steps of a series (time, channel); the last may have fewer."""
    if width == 1:
        return one
    starts = np.arange(0, len(one), width)
    counts = np.minimum(len(one) - starts, width)
    return np.add.reduceat(one, starts, dtype=np.float64) / counts[:, None]
