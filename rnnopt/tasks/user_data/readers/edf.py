"""EDF, EDF+, BDF and BDF+ by pyedflib, each signal at its own rate.

pyedflib refuses files with gaps (EDF+D): those are read by `edf_gaps.py`.
"""

from pathlib import Path

import numpy as np

from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.edf_gaps import signals_with_gaps
from rnnopt.tasks.user_data.readers.edf_header import EdfHeader, read_header
from rnnopt.tasks.user_data.readers.libraries import quietly
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.recordings import Recordings


def read_edf(path: Path, columns: Columns) -> Recordings:
    """Reads the recording of an .edf or .bdf file.

    Raises:
        ValueError: the file is damaged, still open or has no signals.
    """
    header = read_header(path)
    if not header.signals:
        raise ValueError(
            "it has annotations alone, and a recording needs signals: write these annotations into"
            " a table of start, end and label for --labels, beside the file of the signals."
        )
    names = distinct([one.label for one in header.signals])
    kept, unused = choose(names, columns)
    total = sum(header.signals[i].in_record for i in kept) * header.records
    check_memory(40 * total, f"{total} values")
    read = signals_with_gaps if header.gaps else _continuous
    signals, marks = read(path, header, kept, names)
    facts = [f"{header.kind}{', with gaps' * header.gaps}", f"start {header.start}"]
    return recording_of(signals, marks, columns, columns.name, facts, unused)


def _continuous(
    path: Path, header: EdfHeader, kept: list[int], names: list[str]
) -> tuple[list[Signal], list[Mark]]:
    """The signals at some positions, and the annotations, by pyedflib."""
    with quietly(header.kind, OSError):
        import pyedflib

        with pyedflib.EdfReader(str(path)) as file:
            values = [file.readSignal(i) for i in kept]
            found = list(zip(*file.readAnnotations(), strict=True))
    signals = []
    for i, its in zip(kept, values, strict=True):
        one = header.signals[i]
        if len(its) != one.in_record * header.records:
            raise ValueError(f"signal {names[i]!r} is cut off.")
        rate = one.in_record / header.seconds
        signals.append(Signal(names[i], one.unit, one.whole(np.asarray(its, np.float64)), rate))
    marks = [
        Mark(float(onset), float(onset) + max(float(duration), 0.0), str(text))
        for onset, duration, text in found
    ]
    return signals, marks
