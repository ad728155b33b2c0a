"""The .ts format of the UEA archive: several channels, different lengths, classes or numbers.

    # comments
    @univariate false
    @classLabel true walk run          (or: @targetLabel true, for regression)
    @data
    1.0,2.0,?:0.5,0.4,0.3:walk         channels by colons, steps by commas, the target last

A `?` or NaN is a missing value. Steps with time stamps (`@timeStamps true`) are not read.
"""

from pathlib import Path

import numpy as np

from rnnopt.config.data_config import Kind
from rnnopt.tasks.user_data.readers.columns import Columns, Parts, to_numbers
from rnnopt.tasks.user_data.recordings import recordings

STAMPED = (
    "steps with time stamps (@timeStamps true) are not read: write the values alone, evenly spaced,"
    " or a long table (.csv) with a column of times."
)


def read_ts(path: Path, columns: Columns) -> Parts:
    """Reads the series of a .ts file."""
    header: dict[str, list[str]] = {}
    series: list[np.ndarray] = []
    targets: list[str] = []
    in_data, labelled, kind = False, False, None
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if in_data:
            one, target = _case(line, labelled, f"line {number}")
            series.append(one)
            targets.append(target)
        elif line.lower() == "@data":
            in_data = True
            kind, labelled = _kind(header)
        elif line.startswith("@"):
            name, *values = line[1:].split() or [""]
            header[name.lower()] = values
        else:
            raise ValueError(f"line {number} must begin with @ or stand after @data.")
    if not in_data:
        raise ValueError("a .ts file needs a line @data, got none.")
    known = labelled and not columns.unlabelled
    return recordings(series, targets if known else None, kind=kind if known else None), None


def _kind(header: dict[str, list[str]]) -> tuple[Kind | None, bool]:
    """The kind of the targets, and whether there are any."""
    if _true(header.get("timestamps")):
        raise ValueError(STAMPED)
    if _true(header.get("targetlabel")):
        return "regression", True
    return ("classification", True) if _true(header.get("classlabel")) else (None, False)


def _true(values: list[str] | None) -> bool:
    return bool(values) and values is not None and values[0].lower() == "true"


def _case(line: str, labelled: bool, where: str) -> tuple[np.ndarray, str]:
    """One series (time, channel) and its target, "" without labels."""
    parts = line.split(":")
    target = parts.pop().strip() if labelled else ""
    if not parts:
        raise ValueError(f"{where} needs at least one channel, got none.")
    if any(part.lstrip().startswith("(") for part in parts):
        raise ValueError(f"{where}: {STAMPED}")
    channels = [to_numbers(part.split(","), where) for part in parts]
    lengths = sorted({len(channel) for channel in channels})
    if len(lengths) > 1:
        raise ValueError(f"{where}: the channels of a series must be as long, got {lengths}.")
    return np.stack(channels, 1), target
