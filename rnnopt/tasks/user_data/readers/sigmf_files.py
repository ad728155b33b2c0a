"""SigMF recordings of radios (.sigmf-meta beside .sigmf-data) by sigmf.

Complex values are two channels. Values stay as they are in the file, and numpy reads them: sigmf
rounds all to 32 bits, and scales whole numbers to ±1 by default. Positions of annotations count
from `core:offset` on, where a recording is one of several files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import ReadingError, named, quietly
from rnnopt.tasks.user_data.readers.marks import Mark
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of
from rnnopt.tasks.user_data.recordings import Recordings

MOST = 1000  # channels


def read_sigmf(path: Path, columns: Columns) -> Recordings:
    """Reads the recording of a .sigmf-meta file.

    Raises:
        ValueError: one of the two files is damaged or missing, or there is no rate.
    """
    values = path.with_suffix(".sigmf-data")
    if not values.is_file():
        raise ValueError(f"its values are missing: there is no {values.name}.")
    with quietly("SigMF"):
        import sigmf

        try:
            about = json.loads(path.read_bytes())
            file = sigmf.SigMFFile(metadata=about, data_file=str(values), autoscale=False)
            notes = [dict(one) for one in file.get_annotations()]
            begins = [dict(one) for one in file.get_captures()]
        except sigmf.error.SigMFError as error:
            raise ReadingError(f"it is damaged: {named(error)}.") from error
    rate, width = (
        file.get_global_field(f"core:{name}") for name in ("sample_rate", "num_channels")
    )
    rate, width = _number(rate, "sample_rate"), int(_number(width or 1, "num_channels"))
    count = int(file.sample_count or 0)
    if count < 1 or not 1 <= width <= MOST:
        raise ValueError(f"a recording needs values, it has {count} of {width} channels.")
    _count_from_offset([*notes, *begins], _whole(file.get_global_info(), "core:offset"), count)
    check_memory(32 * count * width, f"{count} values of {width} channels")
    parts = ["I", "Q"] if str(file.get_global_field("core:datatype")).startswith("c") else [""]
    numbers = [""] if width == 1 else [str(i + 1) for i in range(width)]
    names = distinct(
        [f"{part or 'channel'} {number}".strip() for number in numbers for part in parts]
    )
    kept, unused = choose(names, columns)
    with quietly("SigMF"):
        kind = sigmf.sigmffile.dtype_info(file.get_global_field("core:datatype"))
        begin, size = int(file.data_offset), count * len(names)
        stored = np.fromfile(values, kind["component_dtype"], size, offset=begin)
        found = stored.reshape(count, len(names))
    signals = [Signal(names[i], "", found[:, i].astype(np.float64), rate) for i in kept]
    facts = ["SigMF", *_facts(begins)]
    return recording_of(signals, _marks(notes, rate), columns, columns.name, facts, unused)


def _count_from_offset(parts: list[dict[str, Any]], offset: int, count: int) -> None:
    """Makes annotations and captures count from the first of `count` values in the file.

    Raises:
        ValueError: one lies outside.
    """
    for one in parts:
        start = _whole(one, "core:sample_start") - offset
        if start < 0:
            raise ValueError(f"it says something of a value before its core:offset {offset}.")
        end = start + max(_whole(one, "core:sample_count"), 1)
        if end > count:
            raise ValueError(f"it is cut off: it says something of value {end}, and has {count}.")
        one["core:sample_start"] = start


def _number(value: Any, what: str) -> float:
    """A positive number of the description."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e15:
        raise ValueError(f"its description needs a core:{what} above 0, got {named(value)[:40]}.")
    return float(value)


def _facts(begins: list[dict[str, Any]]) -> list[str]:
    """The start and the frequency of the first capture, and how many there are."""
    first = begins[0] if begins else {}
    facts = [f"start {named(first['core:datetime'])}"] if "core:datetime" in first else []
    if isinstance(first.get("core:frequency"), (int, float)):
        facts.append(f"around {first['core:frequency']:.6g} Hz")
    return facts + ([f"{len(begins)} captures, one after the other"] if len(begins) > 1 else [])


def _marks(notes: list[dict[str, Any]], rate: float) -> list[Mark]:
    """The annotations; one without a number of samples is a moment."""
    marks = []
    for one in notes:
        start, length = _whole(one, "core:sample_start"), _whole(one, "core:sample_count")
        text = str(one.get("core:label") or one.get("core:comment") or "")
        marks.append(Mark(start / rate, (start + length) / rate, text))
    return marks


def _whole(description: dict[str, Any], what: str) -> int:
    """A number of values in a part of the description, 0 without one."""
    value = description.get(what) or 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError(f"its description has a wrong {what}, {named(value)[:40]!r}.")
    return value
