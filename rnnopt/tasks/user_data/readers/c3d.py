"""C3D files of motion capture by ezc3d: points as three signals each, and analog signals.

ezc3d runs in a process of its own: some damaged files crash it.
"""

import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import free_memory
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import named
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.recordings import Recordings

CHILD = Path(__file__).with_name("c3d_child.py")
SLOWEST = (
    30  # seconds for a file, and as many for each 10 MB of it: some damaged ones take for ever
)
BASE, EACH = 1 << 31, 200  # bytes that ezc3d may take: for itself, and for each byte of the file
MIPS = 86  # processor whose numbers begin with the high byte
LARGEST = 65535  # frame that a header can say
MISSING = "ModuleNotFoundError"


def read_c3d(path: Path, columns: Columns) -> Recordings:
    """Reads the recording of a .c3d file.

    Raises:
        ValueError: the file is damaged, cut off, or has neither points nor analog signals.
    """
    points, analog, facts = _read(path)
    count = points.shape[2]
    _check_whole(path, count)
    rate, analog_rate = (_rate(facts[name]) for name in ("rate", "analog_rate"))
    labels = _filled(facts["labels"], points.shape[1], "point")
    others = _filled(facts["analog_labels"], len(analog), "analog")
    wanted = [f"{label} {axis}" for label in labels for axis in "xyz"] if count else []
    names = distinct([*wanted, *(others if analog.size else [])])
    kept, unused = choose(names, columns)
    unit = str(facts["unit"][0]) if facts["unit"] else ""
    units = [str(one) for one in facts["analog_units"]]
    signals = []
    for i in kept:
        if i < len(wanted):
            values, its, pace = points[i % 3, i // 3], unit, rate
        else:
            place = i - len(wanted)
            values, pace = analog[place], analog_rate
            its = units[place] if place < len(units) else ""
        if pace is None:
            raise ValueError(f"signal {names[i]!r} needs a rate, the file says none.")
        signals.append(Signal(names[i], its, values, pace))
    start = facts["first"] / rate if rate else 0.0
    return recording_of(signals, _events(facts, start), columns, columns.name, ["C3D"], unused)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Points (axis, point, time), analog signals (signal, time), and what is known of them."""
    size = path.stat().st_size
    seconds = SLOWEST * (1 + size / 1e7)
    most = min(BASE + EACH * size, free_memory())
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder, "found.npz")
        command = [sys.executable, "-P", str(CHILD), str(path), str(arrays), str(most)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"it is damaged: reading it takes over {seconds:.0f} s.") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            if last.startswith(MISSING):
                raise ModuleNotFoundError(last, name="ezc3d")
            why = named(last.partition(": ")[2].partition(": iostream")[0])
            raise ValueError(f"it is damaged, cut off or no C3D file{f' ({why})' if why else ''}.")
        with np.load(arrays, allow_pickle=False) as found:
            return found["points"], found["analog"], json.loads(str(found["facts"]))


def _check_whole(path: Path, count: int) -> None:
    """Raises ValueError if there are fewer frames than the file says, which ezc3d puts right."""
    with path.open("rb") as file:
        header = file.read(512)
        file.seek(512 * (header[0] - 1) + 3)
        order = ">HH" if file.read(1) == bytes([MIPS]) else "<HH"
    first, last = struct.unpack(order, header[6:10])
    declared = last - first + 1
    if last < LARGEST and 0 < count < declared:
        raise ValueError(f"it is cut off: it says {declared} frames, and {count} are there.")


def _rate(values: Sequence[Any]) -> float | None:
    return float(values[0]) if values and 0 < float(values[0]) < 1e9 else None


def _filled(labels: Sequence[Any], count: int, what: str) -> list[str]:
    """A name for each of `count` signals."""
    known = [str(one).strip() for one in labels][:count]
    known += [""] * (count - len(known))
    return [one or f"{what} {i + 1}" for i, one in enumerate(known)]


def _events(facts: dict[str, Any], start: float) -> list[Mark]:
    """The events, whose times count from frame 1, also where the first frame is a later one."""
    times = np.array(facts["times"], float)
    if times.ndim != 2 or len(times) != 2:
        return []
    marks = []
    sides = _filled(facts["sides"], times.shape[1], "") if facts["sides"] else []
    for i, (label, (minutes, seconds)) in enumerate(zip(facts["events"], times.T, strict=False)):
        at = 60 * minutes + seconds - start
        marks.append(Mark(at, at, f"{sides[i].strip() if sides else ''} {label}".strip(), "events"))
    return marks
