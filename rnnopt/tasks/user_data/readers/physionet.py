"""WFDB records of PhysioNet (.hea with its .dat, .atr and others) by wfdb, in physical units.

Each signal is read at its own rate: wfdb averages the fast ones by default. The samples of
annotations count from the start of the record, also where the record is a segment cut from another.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import check_declared
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import ReadingError, quietly
from rnnopt.tasks.user_data.readers.marks import ALL, Mark
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.recordings import Recordings

# Endings of files of annotations; the first are what --label annotations takes.
ANNOTATORS = ("atr", "st", "apn", "hyp", "ari", "ecg", "qrs", "wqrs", "man", "pu", "event")
LONGEST = 1 << 24  # characters of a header
# Rate of frames, with that of a counter, then the number of samples: the third and fourth word.
NUMBERS = (r"[\d.]+([eE][+-]?\d+)?(/[\d.+-]+(\(.*\))?)?", r"\d+")
RHYTHM = "rhythm"  # changes of the rhythm, each of which holds until the next


@dataclass(frozen=True)
class Header:
    """What is needed of a header: rate of frames, and of each signal name, unit and rate in these.

    Args:
        rate: frames per second.
        length: frames; None if unknown.
        names, units: of the signals.
        per_frame: samples of each signal in a frame.
        start: date and time, "" if unknown.
    """

    rate: float
    length: int | None
    names: list[str]
    units: list[str]
    per_frame: list[int]
    start: str


def read_wfdb(path: Path, columns: Columns) -> Recordings:
    """Reads the record of a .hea file.

    Raises:
        ValueError: a file is damaged or missing.
    """
    record = str(path.absolute().with_suffix(""))
    with quietly("WFDB"):
        import wfdb

        header = _header(wfdb.rdheader(record, rd_segments=True))
    _check(path, header)
    names = distinct(header.names)
    kept, unused = choose(names, columns)
    with quietly("WFDB"):
        found = wfdb.rdrecord(record, channels=kept, smooth_frames=False)
        values = [np.asarray(one, np.float64) for one in found.e_p_signal]
        marks = _marks(wfdb, record, header.rate)
    signals = []
    for i, its in zip(kept, values, strict=True):
        per_frame = header.per_frame[i]
        if header.length is not None and len(its) != header.length * per_frame:
            raise ValueError(f"signal {names[i]!r} is cut off: {len(its)} values are there.")
        unit = "" if header.units[i] == "NU" else header.units[i]
        signals.append(Signal(names[i], unit, its, header.rate * per_frame))
    ends = max(len(one.values) / (one.rate or 1.0) for one in signals)
    marks = _held(marks, ends)
    facts = ["WFDB record", *([f"start {header.start}"] if header.start else [])]
    return recording_of(signals, marks, columns, columns.name, facts, unused)


def _header(found: Any) -> Header:
    """What is needed of the header of one segment or several."""
    first = found
    if hasattr(found, "segments"):
        if found.layout == "fixed" and "~" in found.seg_name:
            raise ReadingError(
                "its segments have a gap (~) in a fixed layout, which wfdb does not read: read the"
                " segments, a record each."
            )
        first = next(one for one in found.segments if one is not None)
    rate, names = float(found.fs), [str(name or "") for name in first.sig_name]
    if not 0 < rate < 1e12:
        raise ReadingError(f"a record needs a rate, its header says {rate:g}.")
    start = found.base_datetime or found.base_time
    return Header(
        rate,
        found.sig_len,
        names,
        [str(unit or "") for unit in first.units],
        [int(count or 1) for count in first.samps_per_frame or [1] * len(names)],
        "" if start is None else str(start),
    )


def _check(path: Path, header: Header) -> None:
    """Raises ValueError for a record without values, or that is larger than its files can be.

    wfdb takes 250 Hz, and all that is there, for words in place of the numbers of a header.
    """
    for word, numbers in zip(_lines(path)[0][2:4], NUMBERS, strict=False):
        if re.fullmatch(numbers, word) is None:
            raise ValueError(f"its header is damaged: {word[:20]!r} is no number.")
    if header.length == 0 or not header.names:
        raise ValueError("the record has no signals, or no values.")
    values = (header.length or 0) * sum(header.per_frame)
    stored = sum(one.stat().st_size for one in files_of(path))
    check_declared(8 * values, stored, f"a record of {values} values")


def _marks(wfdb: Any, record: str, rate: float) -> list[Mark]:
    """The annotations beside a record, in seconds; changes of the rhythm without their ends."""
    marks = []
    beside = [one for one in ANNOTATORS if Path(f"{record}.{one}").is_file()]
    for number, ending in enumerate(beside):
        found = wfdb.rdann(record, ending)
        its = float(found.fs or rate)
        of = ALL if number == 0 else ending
        for sample, symbol, note in zip(found.sample, found.symbol, found.aux_note, strict=True):
            text, start = (note or "").strip("\0 "), float(sample) / its
            if symbol == "+" and text.startswith("("):
                marks.append(Mark(start, start, text[1:], RHYTHM))
            else:
                marks.append(Mark(start, start, (symbol not in '"+' and symbol) or text, of))
    return [one for one in marks if one.text]


def _held(marks: list[Mark], end: float) -> list[Mark]:
    """The marks, those of the rhythm until the next one or the end of the record."""
    rhythm = sorted((one for one in marks if one.of == RHYTHM), key=lambda one: one.start)
    starts = [one.start for one in rhythm]
    held = [
        Mark(one.start, max(end, one.start), one.text, RHYTHM)
        for one, end in zip(rhythm, [*starts[1:], end], strict=False)
    ]
    return [one for one in marks if one.of != RHYTHM] + held


def segments_of(files: Iterable[Path]) -> set[Path]:
    """The headers of the segments that some headers name."""
    named = ((path, name) for path in files for name in _named_in(path))
    return {path.with_name(name) for path, name in named if name.endswith(".hea")}


def files_of(path: Path) -> list[Path]:
    """A header and the other files of its record that are there, also those of its segments."""
    found = {path.name: path}
    for name in _named_in(path):
        other = path.with_name(name)
        if name not in found and other.is_file():
            found[name] = other
            if name.endswith(".hea"):
                found |= {one: path.with_name(one) for one in _named_in(other)}
    found |= {f"{path.stem}.{one}": path.with_suffix(f".{one}") for one in ANNOTATORS}
    return [one for _, one in sorted(found.items()) if one.is_file()]


def _named_in(path: Path) -> list[str]:
    """The names of the files, or of the headers of segments, that a header names."""
    lines = _lines(path)
    if not lines:
        return []
    segments = re.search(r"/\d", lines[0][0])
    names = [words[0] + ".hea" * bool(segments) for words in lines[1:] if words[0] != "~"]
    return [name for name in dict.fromkeys(names) if re.fullmatch(r"[\w.-]+", name)]


def _lines(path: Path) -> list[list[str]]:
    """The words of each line of a header."""
    with path.open(encoding="latin-1") as file:
        lines = [line.split() for line in file.read(LONGEST).splitlines()]
    return [words for words in lines if words and words[0][0] != "#"]
