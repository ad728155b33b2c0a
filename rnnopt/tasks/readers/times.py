"""Times of a column, as numbers or dates that sort rightly; anything else is refused."""

import re

import numpy as np

from rnnopt.tasks.recordings import MISSING

DATE = re.compile(r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)(Z|[+-]\d\d:?\d\d)?")


def moments_of(values: np.ndarray, column: str) -> np.ndarray:
    """Times (row,) that sort as they follow each other.

    Args:
        values: numbers, dates, or words that are numbers or ISO dates, all of the same kind.
        column: its name.

    Raises:
        ValueError: a time is missing, or written in another way; the sentence says in which row.
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
        return np.array([float(word) for word in words])
    except ValueError:
        return _dates(words, column)


def refuse_missing(words: list[str], column: str) -> None:
    """Raises ValueError if a cell says that it is missing."""
    for row, word in enumerate(words):
        if word.strip().lower() in MISSING:
            raise _missing(row, column)


def _missing(row: int, column: str) -> ValueError:
    return ValueError(f"every row needs a value in column {column!r}, row {row + 1} has none.")


def _dates(words: list[str], column: str) -> np.ndarray:
    """ISO dates as numpy has them, in UTC if they say how far they are from it."""
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
    """How far a zone such as +01:30 is ahead of UTC."""
    if zone is None or zone == "Z":
        return 0
    return int(zone[0] + "1") * (60 * int(zone[1:3]) + int(zone[-2:]))
