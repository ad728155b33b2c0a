"""Times of a column, as sortable numbers or dates; anything else raises an error.

A network treats steps as equally spaced, so `Clock` reports irregular times.
"""

import re
from typing import Any

import numpy as np

from rnnopt.config.data_config import PERIODS, TimeUnit
from rnnopt.tasks.user_data.words import MISSING

# Fraction of the median gap by which regular gaps may differ; those of months differ by a tenth.
TOLERANCE = 0.2
WHOLE = re.compile(r"[+-]?[0-9]{1,19}")
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
DATE = re.compile(r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)(Z|[+-]\d\d:?\d\d)?")


def parse_timestamps(values: np.ndarray, column: str) -> np.ndarray:
    """Times (row,) that sort chronologically.

    Args:
        values: numbers, dates, or words that are numbers or ISO dates, all of the same kind.
        column: name of the column.

    Raises:
        ValueError: a time is missing or has another notation; the message names the row.
    """
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind in "fmM":
        absent = np.isnan(values) if values.dtype.kind == "f" else np.isnat(values)
        if absent.any():
            raise _missing(int(np.argmax(absent)), column)
        return values
    words = [str(value).strip() for value in values.tolist()]
    refuse_missing(words, column)
    try:
        if all(map(WHOLE.fullmatch, words)):  # floats are too coarse for nanoseconds since 1970
            whole = [int(word) for word in words]
            if min(whole) >= -(2**63) and max(whole) < 2**63:
                return np.array(whole, dtype=np.int64)
        return np.array([float(word) for word in words])
    except ValueError:
        return _dates(words, column)


def refuse_missing(words: list[str], column: str) -> None:
    """Raises ValueError if a value is missing."""
    for row, word in enumerate(words):
        if word.strip().lower() in MISSING:
            raise _missing(row, column)


def to_seconds(moments: np.ndarray, unit: TimeUnit) -> np.ndarray:
    """Sorted times from `parse_timestamps` as seconds since the first, (step,) of float64.

    Args:
        moments: numbers in `unit`, or dates.
        unit: unit of numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of times that --resample refuses
        since = moments - moments[0]
        if moments.dtype.kind in "mM":
            return since / np.timedelta64(1, "s")
        return since.astype(np.float64) * PERIODS[unit]


def steps_between(times: np.ndarray, start: Any, end: Any) -> slice:
    """The steps from `start` to before `end`, by the times (time,) of all."""
    return slice(*np.searchsorted(times, np.array([start, end]), side="left").tolist())


def _missing(row: int, column: str) -> ValueError:
    return ValueError(f"every row needs a value in column {column!r}, row {row + 1} has none.")


def _dates(words: list[str], column: str) -> np.ndarray:
    """ISO dates as numpy dates, converted to UTC if they have an offset."""
    found = [DATE.fullmatch(word) for word in words]
    zones = [one[2] is not None for one in found if one is not None]
    try:
        if None in found or any(zones) != all(zones):
            raise ValueError
        dates = np.array([one[1] for one in found if one is not None], dtype="datetime64")
    except ValueError:
        wrong = words[found.index(None)] if None in found else words[0]
        raise ValueError(
            f"column {column!r} needs its times as numbers or ISO dates (2024-03-10T12:30:00), all"
            f" of one kind, got {wrong!r}."
        ) from None
    offsets = [_minutes(one[2]) for one in found if one is not None]
    return dates - np.array(offsets, dtype="timedelta64[m]") if any(offsets) else dates


def _minutes(zone: str | None) -> int:
    """Offset of a zone such as +01:30 from UTC, in minutes."""
    if zone is None or zone == "Z":
        return 0
    return int(zone[0] + "1") * (60 * int(zone[1:3]) + int(zone[-2:]))


class Clock:
    """Collects the times of series and describes their irregularities."""

    def __init__(self) -> None:
        self.gaps: list[np.ndarray] = []
        self.dates = False
        self.unsorted = 0  # number of unsorted series
        self.widest = (-1.0, "", "")  # the largest gap, its series, the time before it

    def order(self, moments: np.ndarray, name: str, column: str) -> np.ndarray:
        """The chronological order (step,) of a series' times.

        Args:
            moments: (step,) times from `parse_timestamps`.
            name: name of the series.
            column: name of the column of times.

        Raises:
            ValueError: two times are the same.
        """
        order = np.argsort(moments, kind="stable")
        moments = moments[order]
        same = moments[1:] == moments[:-1]
        self.dates = moments.dtype.kind in "mM"
        if same.any():
            hint = "; local times need their offset, such as +01:00, where the clock is put back"
            raise ValueError(
                f"series {name!r} has two rows at the same {column},"
                f" {_written(moments[:-1][same][0])}{hint * (moments.dtype.kind == 'M')}."
            )
        self.unsorted += bool((np.diff(order) < 0).any())
        gaps = self._between(moments)
        if len(gaps) and gaps.max() > self.widest[0]:
            self.widest = (float(gaps.max()), name, _written(moments[int(gaps.argmax())]))
        self.gaps.append(gaps)
        return order

    def _between(self, moments: np.ndarray) -> np.ndarray:
        """Gaps in seconds if times are dates, else in the unit of the numbers."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self.dates:
                gaps = np.diff(moments) / np.timedelta64(1, "s")
            else:
                gaps = np.diff(moments).astype(np.float64)
        return np.where(np.isfinite(gaps), gaps, 0.0)

    def describe(self) -> str | None:
        """The irregularities; None if there are none."""
        parts = []
        if self.unsorted:
            parts.append(f"rows of {self.unsorted} series were out of order and have been sorted")
        gaps = np.concatenate([np.zeros(0), *self.gaps])
        median = float(np.median(gaps)) if len(gaps) else 0.0
        far = int((np.abs(gaps - median) > TOLERANCE * median).sum())
        if far:
            largest, name, before = self.widest
            parts.append(
                f"irregular, but steps are taken as equally spaced: median gap"
                f" {self._shown(median)}, largest {self._shown(largest)} (series {name!r}, after"
                f" {before}); {far} of {len(gaps)} differ from the median by more than"
                f" {TOLERANCE:.0%} (--resample or --time-gap takes the times as they are)"
            )
        return "; ".join(parts) or None

    def _shown(self, gap: float) -> str:
        if not self.dates:
            return f"{gap:.6g}"
        size, unit = next((one for one in UNITS if gap >= one[0]), (1e-9, "ns"))
        return f"{gap / size:.4g} {unit}"


def _written(moment: np.generic) -> str:
    """A time in common notation."""
    return re.sub(r"(:\d\d)\.0+$", r"\1", str(moment))
