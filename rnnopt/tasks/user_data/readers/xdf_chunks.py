"""The chunks of an XDF file: which streams there are, and whether the file is whole."""

import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from rnnopt.tasks.names import visible
from rnnopt.tasks.user_data.limits import check_memory

SIZES = {"double64": 8, "float32": 4, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "string": 1}
LONGEST = 1 << 24  # bytes of a header
HEADER, SAMPLES, FOOTER = 2, 3, 6
ENTITY = re.compile(rb"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)


@dataclass
class Stream:
    """A stream.

    Args:
        id: its number in the file.
        name: its name.
        rate: rate in hertz that it was declared with, 0 without one.
        width: its channels.
        kind: type of its values, a key of `SIZES`.
        labels, units: of its channels, "" where unknown.
        count: its samples.
    """

    id: int
    name: str
    rate: float
    width: int
    kind: str
    labels: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def are_marks(self) -> bool:
        """Whether its samples are words, or single whole numbers at times of their own."""
        return self.kind == "string" or (
            not self.rate and self.width == 1 and self.kind.startswith("int")
        )

    def channel(self, place: int) -> str:
        """The name of a channel."""
        label = self.labels[place] or ("" if self.width == 1 else str(place + 1))
        return f"{self.name} {label}".strip()


def streams_of(path: Path) -> tuple[list[Stream], bool]:
    """The streams of a file, and whether its recorder closed them.

    Raises:
        ValueError: it is cut off or damaged, or claims more than it holds.
    """
    found: dict[int, Stream] = {}
    closed: dict[int, float] = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) != b"XDF:":
            raise ValueError("it is no XDF file: it does not begin with 'XDF:'.")
        while file.tell() < size:
            start = file.tell()
            length = _length(file)
            end = file.tell() + length
            if length < 2 or end > size:
                raise ValueError(
                    f"it is damaged or cut off: the chunk at byte {start} is not whole."
                )
            tag = struct.unpack("<H", file.read(2))[0]
            if tag in (HEADER, SAMPLES, FOOTER):
                if length < 6:
                    raise ValueError(f"it is damaged: its chunk at byte {start} has no stream.")
                number = struct.unpack("<I", file.read(4))[0]
                if tag == HEADER:
                    found[number] = _stream(number, _xml(file, length - 6))
                elif number not in found:
                    raise ValueError(f"it is damaged: there is no stream {number}.")
                elif tag == SAMPLES:
                    found[number].count += _samples(file, found[number], end)
                else:
                    closed[number] = _numbers(_xml(file, length - 6), "sample_count", -1)
            file.seek(end)
    for number, count in closed.items():
        if count not in (-1, found[number].count):
            raise ValueError(
                f"it is damaged: stream {found[number].name!r} has {found[number].count} samples,"
                f" and its end says {count:g}."
            )
    total = sum(one.count * (one.width + 1) for one in found.values())
    check_memory(16 * total, f"{total} values")
    return list(found.values()), len(closed) == len(found)


def _length(file: BinaryIO) -> int:
    """A number of 1, 4 or 8 bytes, with that number before it; -1 if there is none."""
    width = file.read(1)
    if width not in (b"\x01", b"\x04", b"\x08"):
        return -1
    return int.from_bytes(file.read(width[0]), "little")


def _samples(file: BinaryIO, stream: Stream, end: int) -> int:
    """The number of samples of a chunk, each of which has a byte for its time and its values."""
    count = _length(file)
    least = count * (1 + stream.width * SIZES[stream.kind])
    if count < 0 or file.tell() + least > end:
        raise ValueError(
            f"it is damaged: a chunk of stream {stream.name!r} cannot hold {count} samples."
        )
    return count


def _xml(file: BinaryIO, length: int) -> ElementTree.Element:
    content = file.read(length) if length <= LONGEST else b"<!ENTITY"
    try:
        if ENTITY.search(content):  # which may grow without end
            raise ElementTree.ParseError
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError("it is damaged: a header of a stream is no XML.") from error


def _stream(number: int, info: ElementTree.Element) -> Stream:
    """The stream that a header describes."""
    kind = (info.findtext("channel_format") or "").strip()
    width = _numbers(info, "channel_count", 0)
    rate = _numbers(info, "nominal_srate", 0)
    name = visible((info.findtext("name") or "").strip())[:100] or f"stream {number}"
    if kind not in SIZES or not 1 <= width <= 1e6 or width != int(width) or not 0 <= rate < 1e12:
        raise ValueError(
            f"it is damaged: stream {name!r} has {width:g} channels of type {kind[:20]!r} at"
            f" {rate:g} Hz."
        )
    channels = info.findall("desc/channels/channel")
    texts = [[(one.findtext(what) or "").strip() for one in channels] for what in ("label", "unit")]
    same = len(channels) == width
    labels, units = texts if same else [[""] * int(width)] * 2
    return Stream(number, name, rate, int(width), kind, labels, units)


def _numbers(info: ElementTree.Element, what: str, default: float) -> float:
    """A number of a header; `default` without it, NaN if it is none."""
    text = info.findtext(what)
    try:
        return default if text is None else float(text)
    except ValueError:
        return float("nan")
