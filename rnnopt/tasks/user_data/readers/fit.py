"""FIT files of watches and bicycle computers by fitdecode.

A record is a step, with NaN where a field is missing. Laps and events are marks.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import quietly
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.recordings import Recordings

Row = dict[str, tuple[Any, str]]  # value and unit of each field


def read_fit(path: Path, columns: Columns) -> Recordings:
    """Reads the records of a .fit file.

    Raises:
        ValueError: the file is damaged or has no records with a time.
    """
    rows: dict[str, list[Row]] = {"record": [], "lap": [], "event": []}
    with quietly("FIT"):
        import fitdecode

        fails = dict(
            check_crc=fitdecode.CrcCheck.RAISE, error_handling=fitdecode.ErrorHandling.RAISE
        )
        with fitdecode.FitReader(str(path), **fails) as file:
            for frame in file:
                if frame.frame_type == fitdecode.FIT_FRAME_DATA and frame.name in rows:
                    row = {one.name: (one.value, str(one.units or "")) for one in frame.fields}
                    rows[frame.name].append(row)
    records: dict[float, Row] = {}
    for row in rows["record"]:
        time = _seconds(row.get("timestamp"))
        if time is not None:  # two of one second are one
            known = {name: one for name, one in row.items() if one[0] is not None}
            records[time] = records.get(time, {name: (None, one[1]) for name, one in row.items()})
            records[time] |= known
    if not records:
        raise ValueError("it has no records with a time: it is empty, or no activity.")
    times = np.array(sorted(records))
    table = {name: _column(records, name) for name in _fields(records)}
    fields = [name for name in table if not _is_copy(name, table)]
    names = distinct(fields)
    kept, unused = choose(names, columns)
    origin = float(times[0])
    times -= origin
    signals = [
        Signal(names[i], _unit(records, fields[i]), table[fields[i]], times=times) for i in kept
    ]
    start = datetime.fromtimestamp(origin, UTC)
    facts = ["FIT records", f"start {start:%Y-%m-%d %H:%M:%S} UTC"]
    marks = [*_laps(rows["lap"], origin), *_events(rows["event"], origin)]
    return recording_of(signals, marks, columns, columns.name, facts, unused)


def _seconds(field: tuple[Any, str] | None) -> float | None:
    """The time of a field in seconds since 1970; None without one."""
    return field[0].timestamp() if field is not None and isinstance(field[0], datetime) else None


def _fields(records: dict[float, Row]) -> list[str]:
    """The names of the fields that hold numbers, in the order in which they come."""
    found: dict[str, None] = {}
    for row in records.values():
        found |= {name: None for name, (value, _) in row.items() if _is_number(value)}
    return list(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _column(records: dict[float, Row], name: str) -> np.ndarray:
    """The values (time,) of a field; NaN where it is missing or no number."""
    values = [records[time].get(name, (None, ""))[0] for time in sorted(records)]
    return np.array([float(one) if _is_number(one) else np.nan for one in values])


def _unit(records: dict[float, Row], name: str) -> str:
    return next((row[name][1] for row in records.values() if name in row and row[name][1]), "")


def _is_copy(name: str, table: dict[str, np.ndarray]) -> bool:
    """Whether a field has the values of a finer one, which fitdecode makes of it."""
    finer = table.get(f"enhanced_{name}")
    return finer is not None and np.array_equal(finer, table[name], equal_nan=True)


def _laps(rows: list[Row], origin: float) -> list[Mark]:
    """The laps: each from its start, or from the end of the one before."""
    marks, before = [], 0.0
    for number, row in enumerate(rows, start=1):
        end = _seconds(row.get("timestamp"))
        if end is not None:
            start = _seconds(row.get("start_time"))
            since = before if start is None else start - origin
            marks.append(Mark(since, max(end - origin, since), f"lap {number}", "laps"))
            before = end - origin
    return marks


def _events(rows: list[Row], origin: float) -> list[Mark]:
    """The events, such as that the timer was stopped."""
    marks = []
    for row in rows:
        time = _seconds(row.get("timestamp"))
        if time is not None:
            words = [str(row[name][0]) for name in ("event", "event_type") if name in row]
            marks.append(Mark(time - origin, time - origin, " ".join(words), "events"))
    return marks
