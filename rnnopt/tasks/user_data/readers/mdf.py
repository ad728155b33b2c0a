"""MDF files of measurements in vehicles (.mf4, .mdf) by asammdf, channel by channel.

Each channel has the times of its group. Its table (`to_dataframe`) would hold or interpolate values
at the times of all others, and begin at 0. Values that the file marks as invalid are missing.
Channels of texts, also by conversion of a code, are marks.
"""

import gc
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import check_declared
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import ReadingError, own_sentences, quietly
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.mdf_lists import check_lists
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.readers.text_signals import changes
from rnnopt.tasks.user_data.recordings import Recordings

INVALID = 2  # flag of a channel with a bit that says whether a value is invalid
TIME = 1  # kind of a group's master channel; others are angles, distances and counts


@dataclass(frozen=True)
class Channel:
    """A channel: its name, and its place in the file."""

    name: str
    group: int
    index: int


def read_mdf(path: Path, columns: Columns) -> Recordings:
    """Reads the channels of an .mf4 or .mdf file.

    Raises:
        ValueError: the file is damaged, or no channel has numbers and times.
    """
    with quietly("MDF"):
        check_lists(path)
        file = _opened(path)
        try:
            channels, facts = _listed(file, path.stat().st_size)
            with own_sentences():
                kept, unused = choose(distinct([one.name for one in channels]), columns)
            signals, marks = _read(file, [channels[i] for i in kept])
        finally:
            file.close()
    if not signals:
        raise ValueError("no channel has numbers: a recording needs one.")
    return recording_of(signals, marks, columns, columns.name, facts, unused)


def _opened(path: Path) -> Any:
    """The file; of one that is damaged asammdf's object goes now, as its destructor fails too."""
    from asammdf import MDF

    hook = sys.unraisablehook
    try:
        return MDF(path)
    except Exception as error:
        sys.unraisablehook = lambda _: None  # which else prints of the destructor
        traceback.clear_frames(error.__traceback__)
        gc.collect(1)
        raise error.with_traceback(None) from None
    finally:
        sys.unraisablehook = hook


def _listed(file: Any, stored: int) -> tuple[list[Channel], list[str]]:
    """The channels with times of seconds, and facts about the file."""
    found, others, claimed = [], 0, 0
    for number, group in enumerate(file.groups):
        master = file.masters_db.get(number)
        its = [i for i in range(len(group.channels)) if i != master]
        if any(group.channels[i].name.endswith("_DataFrame") for i in its):
            raise ReadingError(
                "it has raw frames of a bus: decode them by asammdf's extract_bus_logging with the"
                " database of the bus (.dbc), and save the result."
            )
        if not all(_within_record(one, group.channel_group) for one in group.channels):
            raise ReadingError("it is damaged: a channel lies outside of its record.")
        cycles = int(group.channel_group.cycles_nr)
        claimed += 8 * cycles * len(group.channels)
        if master is None or getattr(group.channels[master], "sync_type", TIME) not in (0, TIME):
            others += len(its) * (cycles > 0)
        elif cycles:
            found += [(group.channels[i].name, number, i) for i in its]
    with own_sentences():
        check_declared(claimed, stored, "its channels")
    if not found:
        raise ReadingError("it has no channel with times and values.")
    start = file.header.start_time
    facts = [f"MDF {file.version}", f"start {start:%Y-%m-%d %H:%M:%S} UTC"]
    if others:
        facts.append(f"left out: {others} channels without a time of their group")
    counts = Counter(name for name, _, _ in found)
    return [
        Channel(name if counts[name] == 1 else f"{_group(file, g)}.{name}", g, i)
        for name, g, i in found
    ], facts


def _within_record(channel: Any, group: Any) -> bool:
    """Whether a channel lies in the bytes of its record; asammdf would read beyond them."""
    if hasattr(channel, "start_offset"):  # version 3
        first = int(channel.start_offset) + 8 * int(getattr(channel, "additional_byte_offset", 0))
        return first + int(channel.bit_count) <= 8 * int(group.samples_byte_nr)
    room = 8 * (int(group.samples_byte_nr) + int(group.invalidation_bytes_nr))
    end = 8 * int(channel.byte_offset) + int(channel.bit_offset) + int(channel.bit_count)
    invalid = int(channel.pos_invalidation_bit) if channel.flags & INVALID else 0
    return end <= room and invalid < max(1, 8 * int(group.invalidation_bytes_nr))


def _group(file: Any, number: int) -> str:
    """What a group is called."""
    block = file.groups[number].channel_group
    return str(getattr(block, "acq_name", "") or "").strip() or f"group {number + 1}"


def _read(file: Any, channels: list[Channel]) -> tuple[list[Signal], list[Mark]]:
    """The channels of numbers, and the marks of those of texts."""
    signals, marks = [], []
    times: dict[int, np.ndarray] = {}
    for one, name in zip(channels, distinct([one.name for one in channels]), strict=True):
        read = file.get(group=one.group, index=one.index, ignore_invalidation_bits=True)
        values = np.asarray(read.samples)
        its = times.setdefault(one.group, np.asarray(read.timestamps, np.float64))
        if values.ndim != 1 or values.dtype.kind not in "biufSUO" or len(values) != len(its):
            raise ReadingError(
                f"channel {name!r} has no single number at a time: leave it out by --drop {name!r}."
            )
        invalid = np.zeros(len(values), bool)
        if read.invalidation_bits is not None:
            invalid = np.asarray(read.invalidation_bits, bool)
        if values.dtype.kind in "SUO":
            texts = [
                "" if bad else text for bad, text in zip(invalid, values.tolist(), strict=True)
            ]
            marks += changes(name, its, texts, read.encoding or "utf-8")
            continue
        numbers = values.astype(np.float64)
        numbers[invalid] = np.nan
        signals.append(Signal(name, str(read.unit or ""), numbers, times=its))
    return signals, marks
