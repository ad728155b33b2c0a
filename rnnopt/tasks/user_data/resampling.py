"""Recordings at one rate, and the time between steps as a channel.

Values between uneven steps are interpolated linearly, on even steps of the recording's own median
gap. To a lower rate scipy's `resample_poly` then filters out what that rate cannot show, the
frequencies above half of it. To a higher rate values are interpolated linearly: a filter would ring
before and after each step of a slow signal.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from rnnopt.config.data_config import Kind
from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.recordings import Recordings

GAP = 5  # median gaps: a longer gap is reported
MOST = 20  # times as many steps: more is a wrong unit, not a rate
FINEST = 100  # largest number in the ratio of two rates
NEAR = 0.02  # fraction by which rates may differ that count as equal; clocks drift
CHANNEL = "time gap"


def resampled(
    data: Recordings, rate: float, own_rate: float | None = None, kind: Kind | None = None
) -> Recordings:
    """The recordings at `rate`.

    Missing values are interpolated along time; a channel without any value stays missing. The
    label of a new step is that of the step at or before it; numbers of regression are resampled
    like the channels.

    Args:
        data: recordings, with times unless `own_rate` is passed.
        rate: new rate in hertz.
        own_rate: rate of the recordings in hertz, where they have no times.
        kind: kind of the targets.

    Raises:
        ValueError: no times; times far from the new rate; more memory than is free.
    """
    moments = data.moments
    if moments is None and own_rate is not None:
        moments = tuple(np.arange(len(one)) / own_rate for one in data.series)
    if moments is None:
        raise ValueError(
            "--resample needs the time of each step: a column of times (--time), or --rate for"
            " recordings of one rate."
        )
    if not all(np.isfinite(one).all() for one in moments):
        raise ValueError("--resample needs finite times.")
    series, times, rates = [], [], []
    for values, its in zip(data.series, moments, strict=True):
        own = _own_rate(its)
        if own is not None:
            _check_rate(own, rate)
            rates.append(own)
            needed = its[-1] * max(own, rate) * values.shape[1]
            check_memory(int(32 * needed), f"a recording of {its[-1]:.6g} seconds at {rate:g} Hz")
        series.append(at_rate(values, its, rate))
        times.append(np.arange(len(series[-1])) / rate)
    steps = data.steps
    if steps is not None:
        new = []
        for one, its, later in zip(steps.values, moments, times, strict=True):
            smooth = kind == "regression" and not np.isnan(one).any()
            new.append(at_rate(one, its, rate) if smooth else one[_before(its, later)])
        steps = replace(steps, values=tuple(new))
    said = _said(data, moments, rates, rate)
    return replace(
        data,
        series=tuple(series),
        moments=tuple(times),
        steps=steps,
        times=None,
        lines=(*data.lines, ("resampled", said)),
    )


def at_rate(values: np.ndarray, moments: np.ndarray, rate: float) -> np.ndarray:
    """A recording (time, channel) at another rate, from time 0 on.

    Args:
        values: (time, channel); NaN is a missing value.
        moments: (time,) rising times in seconds, the first at 0 or before.
        rate: new rate in hertz.
    """
    from scipy.signal import resample_poly

    own = _own_rate(moments)
    if own is None:
        return values
    ratio = min(rate_ratio(rate, own), Fraction(1))
    even = rate / float(ratio)  # `rate`, or nearly `own`, so that the ratio is of small numbers
    count = max(int(np.floor(moments[-1] * even + 1e-6)) + 1, 1)
    grid = np.arange(count) / even
    columns = []
    for column in values.T:
        seen = ~np.isnan(column)
        if not seen.any():
            columns.append(np.full(count, np.nan))
            continue
        columns.append(np.interp(grid, moments[seen], column[seen]))
    spaced = np.stack(columns, 1)
    if ratio == 1:
        return spaced
    # With zeros beyond its ends, an offset would make a step there.
    return resample_poly(spaced, ratio.numerator, ratio.denominator, axis=0, padtype="line")


def signal_at_rate(
    values: np.ndarray, moments: np.ndarray, rate: float, count: int, smooth: bool = True
) -> np.ndarray:
    """A signal (time,) at `count` steps of another rate, from time 0 on, its last value held.

    A step is missing where a value is that it would be made of.

    Args:
        values: (time,); NaN is a missing value.
        moments: (time,) rising times in seconds, the first at 0 or before.
        rate: new rate in hertz.
        count: steps.
        smooth: whether values are interpolated and filtered; else each is that of the last step
            at or before.
    """
    steps = np.arange(count) / rate
    if not smooth:
        return values[_before(moments, steps)]
    held = np.append(moments, moments[-1] + 1 / (_own_rate(moments) or rate))
    found = at_rate(np.append(values, values[-1])[:, None], held, rate)[:count, 0]
    found = np.pad(found, (0, count - len(found)), mode="edge")
    missing = np.concatenate([[0], np.isnan(values).cumsum()])
    if missing[-1]:
        reach = max(1 / (_own_rate(moments) or rate), 0.5 / rate) * (1 - 1e-6)
        first = np.searchsorted(moments, steps - reach, side="left")
        end = np.searchsorted(moments, steps + reach, side="right")
        found[missing[end] > missing[first]] = np.nan
    return found


def rate_ratio(rate: float, own: float) -> Fraction:
    """The ratio of two rates, in small whole numbers: up to the larger of 1 % and a hundredth."""
    if rate >= own:
        return Fraction(rate / own).limit_denominator(FINEST)
    return 1 / Fraction(own / rate).limit_denominator(FINEST)


def with_gaps(data: Recordings) -> Recordings:
    """The recordings with another channel: the seconds since the step before, 0 at the first.

    Raises:
        ValueError: no times, or a channel of that name.
    """
    if data.moments is None:
        raise ValueError("--time-gap needs the time of each step: a column of times (--time).")
    if CHANNEL in data.channels:
        raise ValueError(f"--time-gap makes a channel {CHANNEL!r}, and the data have one.")
    gaps = [np.diff(one, prepend=one[:1])[:, None] for one in data.moments]
    if not all(np.isfinite(one).all() for one in gaps):
        raise ValueError("--time-gap needs finite times.")
    pairs = zip(data.series, gaps, strict=True)
    return replace(
        data,
        series=tuple(np.concatenate(pair, 1) for pair in pairs),
        channels=(*data.channels, CHANNEL),
        times=None,
        lines=(*data.lines, (CHANNEL, "the seconds since the step before, another channel")),
    )


def rate_of(data: Recordings) -> float | None:
    """The median rate of recordings in hertz; None if their times are not known."""
    rates = _rates(data)
    return float(np.median(list(rates.values()))) if rates else None


def told_of_rates(data: Recordings, trained_at: float | None = None) -> Recordings:
    """The recordings, with a line if their rates differ, from each other or from training.

    Args:
        data: recordings that keep the rates which they have.
        trained_at: rate of the training recordings in hertz.
    """
    rates = _rates(data)
    if not rates:
        return data
    slow, fast = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    said = []
    if rates[fast] > (1 + NEAR) * rates[slow]:
        said = [f"from {rates[slow]:.6g} Hz of {slow!r} to {rates[fast]:.6g} Hz of {fast!r}"]
    if trained_at is not None:
        far = [n for n, one in rates.items() if abs(one - trained_at) > NEAR * trained_at]
        if far and not said:
            said = [f"{rates[far[0]]:.6g} Hz of {far[0]!r}"]
        if far:
            said.append(f"{trained_at:.6g} Hz in training")
    if not said:
        return data
    how = "steps are taken as equally long (--resample at training brings all to one rate)"
    return replace(data, lines=(*data.lines, ("rates", f"{', '.join(said)}; {how}")))


def _rates(data: Recordings) -> dict[str, float]:
    """The rate of each recording of several steps in hertz, by its name."""
    names = data.names or [str(i + 1) for i in range(len(data))]
    found = {}
    for name, its in zip(names, data.moments or (), strict=False):
        gap = float(np.median(np.diff(its))) if len(its) > 1 else 0.0
        if gap > 0:
            found[name] = 1 / gap
    return found


def _own_rate(moments: np.ndarray) -> float | None:
    """The rate by the median gap; None for a single step."""
    return 1 / float(np.median(np.diff(moments))) if len(moments) > 1 else None


def _check_rate(own: float, rate: float) -> None:
    """Raises ValueError if recordings would have far more steps than they were recorded with."""
    if rate > MOST * own:
        raise ValueError(
            f"a recording has {own:.4g} Hz by its times, and {rate:.6g} Hz would make"
            f" {rate / own:.4g} steps of one: if the times are not in seconds, say --time-unit ms"
            " (or us, ns, min, h, d)."
        )


def _before(moments: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Position of the last step at or before each of the new times."""
    slack = 1e-6 * later[1] if len(later) > 1 else 0.0
    return np.maximum(np.searchsorted(moments, later + slack, side="right") - 1, 0)


def _said(
    data: Recordings, moments: tuple[np.ndarray, ...], rates: list[float], rate: float
) -> str:
    """What was done, in words, with the gaps that were bridged."""
    text = f"to {rate:.6g} Hz"
    if rates:
        low, high = min(rates), max(rates)
        near = f"{low:.4g}" if high - low < 1e-3 * low else f"{low:.4g} … {high:.4g}"
        text += f" from {near} Hz"
        if max(high / rate, rate / low) < 1 + 1e-6:
            text = f"at {rate:.6g} Hz already"
        elif rate < high:
            text += ", with a filter against aliasing"
    names = data.names or [str(i + 1) for i in range(len(data))]
    gaps = gaps_bridged(names, moments, "recording")
    return f"{text}; {gaps}" if gaps else text


def gaps_bridged(names: Sequence[str], moments: Sequence[np.ndarray], what: str) -> str:
    """The gaps between steps that straight lines fill, in words; "" if there are none.

    Args:
        names: what the times are of.
        moments: (time,) times in seconds of each.
        what: what the names name.
    """
    count, longest = 0, (0.0, "", 0.0)
    for name, its in zip(names, moments, strict=True):
        gaps = np.diff(its)
        wide = np.flatnonzero(gaps > GAP * np.median(gaps)) if len(gaps) else gaps
        count += len(wide)
        for i in wide.astype(int):
            longest = max(longest, (float(gaps[i]), name, float(its[i])))
    if not count:
        return ""
    return (
        f"{count} gap{'s' * (count > 1)} of more than {GAP} steps filled by straight lines,"
        f" the longest {longest[0]:.4g} s ({what} {longest[1]!r}, {longest[2]:.6g} s after its"
        " start)"
    )
