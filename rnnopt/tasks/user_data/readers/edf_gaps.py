"""EDF and BDF files with gaps (EDF+D, BDF+D), which pyedflib refuses.

The first annotation of a record says when it starts; between the end of a record and a later start
of the next there is a gap in the times.
"""

import re
from pathlib import Path

import numpy as np

from rnnopt.tasks.user_data.readers.edf_header import EdfHeader, EdfSignal
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.signals import Signal

# +onset, and its duration if it has one, then texts, each with its end.
NOTE = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14(.*)\x14", re.DOTALL)


def signals_with_gaps(
    path: Path, header: EdfHeader, kept: list[int], names: list[str]
) -> tuple[list[Signal], list[Mark]]:
    """The signals at some positions, with the times of their values, and the annotations.

    Times begin at 0 with the first record.

    Raises:
        ValueError: a record does not say when it starts, or starts before the end of another.
    """
    shape = (header.records, header.width * header.in_record)
    stored = np.memmap(path, np.uint8, "r", header.length, shape)
    starts, marks = _annotations(stored, header)
    origin = starts[0]
    marks = [Mark(one.start - origin, one.end - origin, one.text) for one in marks]
    starts = starts - origin
    if (np.diff(starts) < header.seconds * (1 - 1e-6)).any():
        raise ValueError("its records must follow each other in time, some overlap.")
    signals, times = [], {}
    for i in kept:
        one = header.signals[i]
        if one.in_record not in times:
            within = np.arange(one.in_record) * (header.seconds / one.in_record)
            times[one.in_record] = (starts[:, None] + within).ravel()
        values = _values(stored, one, header.width)
        signals.append(Signal(names[i], one.unit, values, times=times[one.in_record]))
    return signals, marks


def _bytes_of(stored: np.ndarray, one: EdfSignal, width: int) -> np.ndarray:
    """The stored bytes (record, byte) of a signal."""
    return np.ascontiguousarray(stored[:, width * one.place : width * (one.place + one.in_record)])


def _values(stored: np.ndarray, one: EdfSignal, width: int) -> np.ndarray:
    """The values (time,) of a signal in its unit."""
    found = _bytes_of(stored, one, width).reshape(-1, width)
    if width == 2:
        digits = found.view("<i2")[:, 0].astype(np.float64)
    else:  # the upper three of four bytes, whose lowest is 0
        wide = np.zeros((len(found), 4), np.uint8)
        wide[:, 1:] = found
        digits = (wide.view("<i4")[:, 0] >> 8).astype(np.float64)
    (low, high), (least, most) = one.physical, one.digital
    return one.whole((digits - least) * ((high - low) / (most - least)) + low)


def _annotations(stored: np.ndarray, header: EdfHeader) -> tuple[np.ndarray, list[Mark]]:
    """The start (record,) of each record, and the annotations, in seconds."""
    if not header.annotations:
        raise ValueError("a file with gaps needs annotations that say when its records start.")
    starts, marks = np.full(header.records, np.nan), []
    for place, one in enumerate(header.annotations):
        for record, its in enumerate(_bytes_of(stored, one, header.width)):
            for note in filter(None, its.tobytes().split(b"\0")):
                found = NOTE.fullmatch(note)
                if found is None:
                    raise ValueError(f"its annotations are damaged in record {record + 1}.")
                onset = float(found[1])
                if place == 0 and np.isnan(starts[record]):
                    starts[record] = onset
                end = onset + float(found[2] or 0)
                texts = found[3].decode("utf-8", "replace").split("\x14")
                marks += [Mark(onset, end, text) for text in texts if text]
    if np.isnan(starts).any():
        record = int(np.isnan(starts).argmax()) + 1
        raise ValueError(f"record {record} does not say when it starts.")
    return starts, marks
