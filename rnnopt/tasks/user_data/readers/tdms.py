"""TDMS files of LabVIEW by npTDMS.

A waveform channel has its increment and offset. Other channels have the times of a channel of their
group: of dates, or one called time. Dates, also those at which waveforms start, count from the
earliest of the file. Without either there are no times. Channels of texts are marks. Values are
scaled. Of a file whose writing was interrupted there are the segments that are whole.
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
    clocks = _clocks(every)
    origin = _earliest(every, clocks)
    chosen = [
        (names[i], one, _own_times(one, clocks.get(one.group_name), origin))
        for i, one in enumerate(listed)
        if i in kept
    ]
    signals, marks = _read(chosen)
    bare = frozenset(name for name, _, its in chosen if its[0] is None and its[1] is None)
    return Content(signals, marks, unused, bare, file.file_status.incomplete_final_segment)


def _is_clock(channel: Any) -> bool:
    """Whether a channel holds the times of the others of its group."""
    if "wf_increment" in channel.properties:
        return False
    dates = channel.dtype is not None and np.dtype(channel.dtype).kind == "M"
    return dates or channel.name.strip().lower() in TIMES


def _clocks(every: list[Any]) -> dict[str, tuple[str, np.ndarray]]:
    """The name and the values of the first channel of times, by its group."""
    found: dict[str, tuple[str, np.ndarray]] = {}
    for one in every:
        if _is_clock(one) and one.group_name not in found:
            found[one.group_name] = one.name, np.asarray(one[:])
    return found


def _earliest(every: list[Any], clocks: dict[str, tuple[str, np.ndarray]]) -> Any:
    """The earliest date of waveforms and of channels of times; None if there is none."""
    dates = [np.datetime64(one) for channel in every if (one := _start(channel)) is not None]
    dates += [times.min() for _, times in clocks.values() if times.dtype.kind == "M"]
    return min(dates, default=None)


def _start(channel: Any) -> Any:
    """The date at which a waveform starts; None if the file does not say."""
    return channel.properties.get("wf_start_time") if "wf_increment" in channel.properties else None


def _own_times(channel: Any, clock: tuple[str, np.ndarray] | None, origin: Any) -> Times:
    """The rate or the times of a channel; neither if the file does not say.

    Args:
        channel: the channel.
        clock: name and values of the channel of times in its group, if there is one.
        origin: the date from which times count.
    """
    increment = channel.properties.get("wf_increment")
    if increment is not None:
        if not np.isfinite(increment) or increment <= 0:
            raise ReadingError(
                f"channel {channel.name!r} has an increment of {increment}, in seconds."
            )
        start, offset = _start(channel), float(channel.properties.get("wf_start_offset", 0.0))
        if start is not None:
            offset += float((np.datetime64(start) - origin) / np.timedelta64(1, "s"))
        if offset == 0:
            return 1 / float(increment), None
        return None, offset + np.arange(len(channel)) * float(increment)
    if clock is None:
        return None, None
    name, times = clock
    if len(times) != len(channel):
        raise ReadingError(
            f"channel {channel.name!r} has {len(channel)} values and {name!r}, their times,"
            f" {len(times)}."
        )
    if times.dtype.kind == "M":
        return None, (times - origin) / np.timedelta64(1, "s")
    return None, times.astype(np.float64)


def _read(chosen: list[tuple[str, Any, Times]]) -> tuple[list[Signal], list[Mark]]:
    """The channels of numbers, and the marks of those of texts, by their names and times."""
    signals, marks = [], []
    for name, channel, (rate, times) in chosen:
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
