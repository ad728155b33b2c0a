"""TDMS files of LabVIEW by npTDMS.

A waveform channel has its increment and offset, counted from the earliest start. Other channels
have the times of a channel of their group: of dates, or one called time. Without either there are
no times. Channels of texts are marks. Values are scaled. Of a file whose writing was interrupted
there are the segments that are whole.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import check_declared
from rnnopt.tasks.user_data.readers.columns import TIMES, Columns
from rnnopt.tasks.user_data.readers.libraries import ReadingError, own_sentences, quietly
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.readers.text_signals import changes
from rnnopt.tasks.user_data.recordings import Recordings

UNITS = ("unit_string", "NI_UnitDescription")
NO_TIMES = "no times: no waveform properties, and no channel of times"
CUT = "writing was interrupted: the last segment is left out where it is not whole"
Times = tuple[float | None, np.ndarray | None]  # a rate, or times


@dataclass(frozen=True)
class Content:
    """What was read of a file.

    Args:
        signals, marks: its channels of numbers, and those of texts.
        unused: names of the channels that were left out.
        bare: names of the channels without times.
        cut: whether its writing was interrupted.
    """

    signals: list[Signal]
    marks: list[Mark]
    unused: tuple[str, ...]
    bare: frozenset[str]
    cut: bool


def read_tdms(path: Path, columns: Columns) -> Recordings:
    """Reads the channels of a .tdms file.

    Raises:
        ValueError: the file is damaged, or no channel has numbers.
    """
    with quietly("TDMS"):
        from nptdms import TdmsFile

        # Opened here, as npTDMS does not close a file that it cannot read.
        with path.open("rb") as opened, TdmsFile.open(opened) as file:
            found = _content(file, path.stat().st_size, columns)
    if not found.signals:
        raise ValueError("no channel has numbers: a recording needs one.")
    without = [one.name for one in found.signals if one.name in found.bare]
    bare = len(without) == len(found.signals)
    if without and not bare:
        raise ValueError(
            f"channel {without[0]!r} has no times, and others have: leave it out by --drop"
            f" {without[0]!r}."
        )
    facts = ["TDMS", *([CUT] if found.cut else []), *([NO_TIMES] if bare else [])]
    try:
        data = recording_of(found.signals, found.marks, columns, columns.name, facts, found.unused)
    except ValueError as error:
        if found.cut:  # which may be why channels end at different times
            raise ValueError(f"{str(error).removesuffix('.')}; {CUT}.") from error
        raise
    return replace(data, moments=None, stamps=None, times=None) if bare else data


def _content(file: Any, stored: int, columns: Columns) -> Content:
    """The channels that are not left out."""
    every = [one for group in file.groups() for one in group.channels() if len(one)]
    if not every:
        raise ReadingError("it has no channel with values, or was cut off before the first.")
    with own_sentences():
        check_declared(8 * sum(map(len, every)), stored, "its channels")
    listed = [one for one in every if not _is_clock(one)]
    alone = len({one.group_name for one in every}) == 1
    names = distinct([one.name if alone else f"{one.group_name}.{one.name}" for one in listed])
    with own_sentences():
        kept, unused = choose(names, columns)
    clocks = [_own_times(listed[i], every) for i in kept]
    called = [names[i] for i in kept]
    signals, marks = _read([listed[i] for i in kept], called, clocks)
    timeless = [rate is None and times is None for rate, times in clocks]
    bare = frozenset(name for name, one in zip(called, timeless, strict=True) if one)
    return Content(signals, marks, unused, bare, file.file_status.incomplete_final_segment)


def _is_clock(channel: Any) -> bool:
    """Whether a channel holds the times of the others of its group."""
    if "wf_increment" in channel.properties:
        return False
    dates = channel.dtype is not None and np.dtype(channel.dtype).kind == "M"
    return dates or channel.name.strip().lower() in TIMES


def _own_times(channel: Any, every: list[Any]) -> Times:
    """The rate or the times of a channel; neither if the file does not say."""
    increment = channel.properties.get("wf_increment")
    if increment is not None:
        if not np.isfinite(increment) or increment <= 0:
            raise ReadingError(
                f"channel {channel.name!r} has an increment of {increment}, in seconds."
            )
        offset = float(channel.properties.get("wf_start_offset", 0.0)) + _late(channel, every)
        if offset == 0:
            return 1 / float(increment), None
        return None, offset + np.arange(len(channel)) * float(increment)
    for other in every:
        if other.group_name == channel.group_name and _is_clock(other):
            if len(other) != len(channel):
                raise ReadingError(
                    f"channel {channel.name!r} has {len(channel)} values and {other.name!r}, their"
                    f" times, {len(other)}."
                )
            times = np.asarray(other[:])
            if times.dtype.kind == "M":
                return None, (times - times[0]) / np.timedelta64(1, "s")
            return None, times.astype(np.float64)
    return None, None


def _late(channel: Any, every: list[Any]) -> float:
    """Seconds from the earliest start of a waveform to that of a channel; 0 if it has none."""
    starts = [one.properties.get("wf_start_time") for one in every]
    dates = [np.datetime64(one) for one in starts if one is not None]
    own = channel.properties.get("wf_start_time")
    if own is None or not dates:
        return 0.0
    return float((np.datetime64(own) - min(dates)) / np.timedelta64(1, "s"))


def _read(
    channels: list[Any], names: list[str], clocks: list[Times]
) -> tuple[list[Signal], list[Mark]]:
    """The channels of numbers, and the marks of those of texts."""
    signals, marks = [], []
    for channel, name, (rate, times) in zip(channels, names, clocks, strict=True):
        values = np.asarray(channel[:])
        if values.dtype.kind in "OU":
            moments = np.arange(len(values)) / (rate or 1.0) if times is None else times
            marks += changes(name, moments, values.tolist())
        elif values.dtype.kind not in "biuf":
            raise ReadingError(f"channel {name!r} has no numbers: leave it out by --drop {name!r}.")
        else:
            unit = next((channel.properties[one] for one in UNITS if one in channel.properties), "")
            rate = 1.0 if rate is None and times is None else rate
            signals.append(Signal(name, str(unit), values.astype(np.float64), rate, times))
    return signals, marks
