"""XDF files of the Lab Streaming Layer by pyxdf: streams at rates of their own, and markers.

Times are those of the file, with the clocks of the streams synchronised. pyxdf then fits a straight
line to the times of a stream, which moves all of them where a gap of less than 500 samples is: that
is left out here. pyxdf reads what it can of a damaged file, and says so in its log alone, so the
chunks of the file are looked at first.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import quietly
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.readers.xdf_chunks import Stream, streams_of
from rnnopt.tasks.user_data.recordings import Recordings

# A gap of a stream whose times do not rise is longer than so many steps, and than so many times the
# median deviation of its steps from their median (six deviations of a normal distribution are 9).
BREAK, WIDE = 5, 10


def read_xdf(path: Path, columns: Columns) -> Recordings:
    """Reads the recording of an .xdf file.

    Raises:
        ValueError: the file is damaged, or has no stream of numbers.
    """
    streams, closed = streams_of(path)
    measured = [one for one in streams if not one.are_marks and one.count]
    places = [(one, i) for one in measured for i in range(one.width)]
    names = distinct([one.channel(i) for one, i in places])
    columns = _whole_streams(columns, places, names)
    kept, unused = choose(names, columns)
    ids = {places[i][0].id for i in kept}
    ids |= {one.id for one in streams if one.are_marks and one.count}
    with quietly("XDF"):
        import pyxdf

        found, _ = pyxdf.load_xdf(
            str(path), select_streams=sorted(ids), dejitter_timestamps=False, verbose=False
        )
        read = {int(one["info"]["stream_id"]): one for one in found}
    for one in streams:
        its = read.get(one.id, {"time_stamps": ()})
        if one.id in ids and len(its["time_stamps"]) != one.count:
            raise ValueError(f"stream {one.name!r} is damaged: not all of its samples are read.")
    notes = ["XDF", *_other_facts(streams, closed)]
    times = {}
    for one in measured:
        if one.id in ids:
            times[one.id], said = _rising(np.asarray(read[one.id]["time_stamps"], float), one)
            notes += said
    signals = []
    for i in kept:
        one, channel = places[i]
        values = np.asarray(read[one.id]["time_series"])[:, channel].astype(np.float64)
        signals.append(Signal(names[i], one.units[channel], values, times=times[one.id]))
    marks = [mark for one in streams if one.are_marks for mark in _marks_of(one, read)]
    return recording_of(signals, marks, columns, columns.name, notes, unused)


def _whole_streams(columns: Columns, places: list[tuple[Stream, int]], names: list[str]) -> Columns:
    """The same columns; a stream's name to leave out is replaced by those of its channels."""
    drop: list[str] = []
    for wanted in columns.drop:
        of = [name for (one, _), name in zip(places, names, strict=True) if one.name == wanted]
        drop += of if of and wanted not in names else [wanted]
    return replace(columns, drop=tuple(drop))


def _other_facts(streams: list[Stream], closed: bool) -> list[str]:
    """What else is to be said of the streams."""
    empty = [one.name for one in streams if not one.count]
    facts = [f"streams without samples: {', '.join(empty)}"] if empty else []
    return facts if closed else [*facts, "not closed by its recorder, so its end may be missing"]


def _rising(times: np.ndarray, stream: Stream) -> tuple[np.ndarray, list[str]]:
    """The times (time,) of a stream, and a note if they had to be made to rise.

    Between gaps, the times of a stream with a rate are then those of a straight line.
    """
    if not stream.rate or (np.diff(times) > 0).all():
        return times, []
    steps = np.diff(times)
    spread = float(np.median(np.abs(steps - np.median(steps))))
    cuts = np.flatnonzero(steps > max(BREAK / stream.rate, WIDE * spread)) + 1
    parts = []
    for part in np.split(times, cuts):
        place = np.arange(len(part)) - (len(part) - 1) / 2
        slope = float(place @ (part - part.mean()) / (place @ place)) if len(part) > 1 else 0.0
        parts.append(part.mean() + place * (slope if slope > 0 else 1 / stream.rate))
    note = f"times of {stream.name!r} did not rise: straight lines between {len(cuts)} gaps"
    return np.concatenate(parts), [note]


def _marks_of(stream: Stream, read: dict[int, Any]) -> list[Mark]:
    """The marks of a stream of words, or of whole numbers without a rate."""
    if stream.id not in read:
        return []
    marks = []
    pairs = zip(read[stream.id]["time_stamps"], read[stream.id]["time_series"], strict=True)
    for time, words in pairs:
        text = " ".join(str(word) for word in words)
        marks.append(Mark(float(time), float(time), text, stream.name))
    return marks
