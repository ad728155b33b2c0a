"""The header of EDF and BDF files: the signals, whether there are gaps, whether all is there."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnnopt.tasks.names import visible

FIELDS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)  # bytes of each, for each signal
LABEL, UNIT, LOW, HIGH, DIGITAL_LOW, DIGITAL_HIGH, IN_RECORD = 0, 2, 3, 4, 5, 6, 8
COARSE = 0.01  # stored step from which on values near whole numbers say nothing
ANNOTATIONS = ("EDF Annotations", "BDF Annotations")


@dataclass(frozen=True)
class EdfSignal:
    """A signal's part of the header.

    Args:
        label, unit: its name, and that of its unit.
        physical, digital: least and greatest value in the unit, and as stored.
        in_record: its values in a record.
        place: values of a record that are before its own.
    """

    label: str
    unit: str
    physical: tuple[float, float]
    digital: tuple[float, float]
    in_record: int
    place: int

    def whole(self, values: np.ndarray) -> np.ndarray:
        """Values (time,) in the unit; whole numbers, if all are within a stored step of some.

        A class 1 of a range 0 … 2 is stored as 1.000015, and some writers cut off, not round.
        """
        step = (self.physical[1] - self.physical[0]) / (self.digital[1] - self.digital[0])
        near = np.round(values)
        fine = abs(step) < COARSE and bool((abs(values - near) <= 1.001 * abs(step)).all())
        return near if fine else values


@dataclass(frozen=True)
class EdfHeader:
    """The header of a file.

    Args:
        kind: EDF, EDF+, BDF or BDF+.
        gaps: whether there may be gaps between records.
        start: date and time.
        length: bytes of the header.
        records: records of data, each of `seconds`.
        seconds: duration of a record.
        width: bytes of a value.
        in_record: values in a record, of signals and annotations.
        signals: the signals without annotations.
        annotations: the signals that hold annotations.
    """

    kind: str
    gaps: bool
    start: str
    length: int
    records: int
    seconds: float
    width: int
    in_record: int
    signals: tuple[EdfSignal, ...]
    annotations: tuple[EdfSignal, ...]


def read_header(path: Path) -> EdfHeader:
    """The header of a file.

    Raises:
        ValueError: it is damaged, or the file is not as long as it says.
    """
    with path.open("rb") as file:
        first = file.read(256)
        width = 3 if first[:1] == b"\xff" else 2
        family = "BDF" if width == 3 else "EDF"
        if len(first) < 256:
            raise ValueError(f"the header of {family} needs 256 bytes, got {len(first)}.")
        text = first.decode("latin-1")
        count = _whole(text[252:256], "number of signals")
        if not 0 < count <= 4096:
            raise ValueError(f"a file needs 1 … 4096 signals, its header says {count}.")
        rest = file.read(256 * count)
        size = os.fstat(file.fileno()).st_size
    if len(rest) < 256 * count:
        raise ValueError(f"it is cut off: the header of {count} signals is not whole.")
    seconds = _number(text[244:252], "duration of a record")
    records = _whole(text[236:244], "number of records")
    signals = _signals(rest, count)
    in_record = sum(one.in_record for one in signals)
    length, needed = 256 * (count + 1), 256 * (count + 1) + records * width * in_record
    if records < 0:
        raise ValueError(f"its recorder did not close it: the number of records is {records}.")
    if size != needed:
        what = "cut off" if size < needed else "damaged"
        raise ValueError(
            f"it is {what}: by its header it has {needed} bytes, and there are {size}."
        )
    real = tuple(one for one in signals if one.label not in ANNOTATIONS)
    if real and not (records > 0 and 0 < seconds < 1e9):
        raise ValueError(f"it has {records} records of {seconds:g} s: there are no values.")
    plus = text[192:197] in ("EDF+C", "EDF+D", "BDF+C", "BDF+D")
    marks = tuple(one for one in signals if one.label in ANNOTATIONS)
    kind, gaps = family + "+" * plus, plus and text[196] == "D"
    start = _start(text[168:184])
    return EdfHeader(kind, gaps, start, length, records, seconds, width, in_record, real, marks)


def _start(text: str) -> str:
    """The start of "dd.mm.yyhh.mm.ss" as an ISO date; years from 85 on are of the last century."""
    parts = re.fullmatch(r"(\d\d)\.(\d\d)\.(\d\d)(\d\d)\.(\d\d)\.(\d\d)", text)
    if parts is None:
        return f"not known ({visible(text).strip()!r})"
    day, month, year, *time = parts.groups()
    return f"{'19' if int(year) >= 85 else '20'}{year}-{month}-{day} {':'.join(time)}"


def _signals(header: bytes, count: int) -> list[EdfSignal]:
    """The signals of the part of the header after its first 256 bytes."""
    columns, start = [], 0
    for width in FIELDS:
        its = header[start : start + width * count]
        columns.append([_text(its[width * i : width * (i + 1)]) for i in range(count)])
        start += width * count
    found, place = [], 0
    for i in range(count):
        label = columns[LABEL][i]
        low, high = (_number(columns[k][i], f"range of {label!r}") for k in (LOW, HIGH))
        least, most = (
            _number(columns[k][i], f"range of {label!r}") for k in (DIGITAL_LOW, DIGITAL_HIGH)
        )
        number = _whole(columns[IN_RECORD][i], f"number of values of {label!r}")
        if number < 1 or least >= most or low == high:
            raise ValueError(
                f"signal {label!r} needs a value a record and a range, its header says {number}"
                f" values, {low:g} … {high:g} from {least:g} … {most:g}."
            )
        unit = columns[UNIT][i]
        found.append(EdfSignal(label, unit, (low, high), (least, most), number, place))
        place += number
    return found


def _text(field: bytes) -> str:
    try:
        return field.decode("utf-8").strip()
    except UnicodeDecodeError:  # of before EDF+ said which characters there are
        return field.decode("latin-1").strip()


def _number(text: str, what: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not abs(found) < 1e100:
        raise ValueError(f"its header is damaged: the {what} is {text.strip()[:20]!r}.")
    return found


def _whole(text: str, what: str) -> int:
    found = _number(text, what)
    if found != int(found):
        raise ValueError(f"its header is damaged: the {what} is {text.strip()[:20]!r}.")
    return int(found)
