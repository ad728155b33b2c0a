"""Files of recorders for tests, made by the format's own library where it writes; else by hand."""

import struct
from collections.abc import Sequence

import numpy as np

XDF_TYPES = {"double64": "<f8", "float32": "<f4", "int16": "<i2"}


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<I", len(content) + 2) + struct.pack("<H", tag) + content


def xdf(streams: Sequence[dict], footers: bool = True) -> bytes:
    """An .xdf file.

    Args:
        streams: each with name, rate, values (time, channel) or a list of words, and times; with
            kind, labels, units and offsets (time, offset) of its clock if it has them.
        footers: whether the streams were closed.
    """
    parts = [b"XDF:", _chunk(1, b'<?xml version="1.0"?><info><version>1.0</version></info>')]
    for number, one in enumerate(streams, start=1):
        identity = struct.pack("<I", number)
        words = isinstance(one["values"], list)
        kind = "string" if words else one.get("kind", "double64")
        width = 1 if words else one["values"].shape[1]
        labels, units = one.get("labels", []), one.get("units", [""] * width)
        channels = "".join(
            f"<channel><label>{name}</label><unit>{unit}</unit></channel>"
            for name, unit in zip(labels, units, strict=False)
        )
        header = (
            f"<?xml version='1.0'?><info><name>{one['name']}</name><type>x</type>"
            f"<channel_count>{width}</channel_count><nominal_srate>{one['rate']}</nominal_srate>"
            f"<channel_format>{kind}</channel_format><source_id>s{number}</source_id>"
            f"<created_at>0</created_at><desc><channels>{channels}</channels></desc></info>"
        )
        parts.append(_chunk(2, identity + header.encode()))
        for time, offset in one.get("offsets", []):
            parts.append(_chunk(4, identity + struct.pack("<dd", time, offset)))
        samples = [identity, b"\x04", struct.pack("<I", len(one["times"]))]
        for time, value in zip(one["times"], one["values"], strict=True):
            samples.append(b"\x08" + struct.pack("<d", time))
            if words:
                text = value.encode()
                samples.append(b"\x01" + bytes([len(text)]) + text)
            else:
                samples.append(np.asarray(value, XDF_TYPES[kind]).tobytes())
        parts.append(_chunk(3, b"".join(samples)))
        footer = (
            f"<?xml version='1.0'?><info><first_timestamp>{one['times'][0]}</first_timestamp>"
            f"<last_timestamp>{one['times'][-1]}</last_timestamp>"
            f"<sample_count>{len(one['times'])}</sample_count></info>"
        )
        if footers:
            parts.append(_chunk(6, identity + footer.encode()))
    return b"".join(parts)


def fit(rows: Sequence[dict], laps: Sequence[int] = (), start: int = 1_000_000_000) -> bytes:
    """A .fit file with a record a second.

    Args:
        rows: each with seconds since `start`, and heart_rate, altitude (in metres) and power, or
            None where the recorder had none.
        laps: seconds at which laps end.
        start: seconds since the end of 1989.
    """
    # Field number, bytes and base type; then what says that a value is missing.
    fields = [(253, 4, 0x86), (3, 1, 0x02), (2, 2, 0x84), (7, 2, 0x84)]
    body = b"\x40\x00\x00" + struct.pack("<HB", 20, len(fields))
    body += b"".join(bytes(one) for one in fields)
    body += b"\x41\x00\x00" + struct.pack("<HB", 19, 1) + bytes((253, 4, 0x86))
    for row in rows:
        rate, power = row.get("heart_rate"), row.get("power")
        height = row.get("altitude")
        body += b"\x00" + struct.pack(
            "<IBHH",
            start + row["time"],
            0xFF if rate is None else rate,
            0xFFFF if height is None else round(5 * (height + 500)),
            0xFFFF if power is None else power,
        )
    for lap in laps:
        body += b"\x01" + struct.pack("<I", start + lap)
    header = struct.pack("<BBHI4s", 14, 0x20, 2100, len(body), b".FIT")
    header += struct.pack("<H", _crc(header))
    return header + body + struct.pack("<H", _crc(header + body))


def _crc(content: bytes) -> int:
    """The check sum of the FIT protocol: CRC-16 with the polynomial 0x8005, from its low bit."""
    found = 0
    for byte in content:
        found ^= byte
        for _ in range(8):
            found = (found >> 1) ^ (0xA001 if found & 1 else 0)
    return found
