"""Files of recorders for tests, made by the format's own library where it writes; else by hand."""

import json
import struct
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

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
    header += struct.pack("<H", crc(header))
    return header + body + struct.pack("<H", crc(header + body))


def crc(content: bytes) -> int:
    """The check sum of the FIT protocol: CRC-16 with the polynomial 0x8005, from its low bit."""
    found = 0
    for byte in content:
        found ^= byte
        for _ in range(8):
            found = (found >> 1) ^ (0xA001 if found & 1 else 0)
    return found


def edf(
    path: Path,
    signals: Sequence[tuple[str, str, float, np.ndarray]],
    annotations: Sequence[tuple[float, float, str]] = (),
) -> Path:
    """An EDF+ or BDF+ file, by its ending.

    Args:
        path: the file.
        signals: name, unit, rate in hertz and values within ±200 of each.
        annotations: start, duration (-1 for none) and text.
    """
    import pyedflib

    most = 2**15 if path.suffix == ".edf" else 2**23
    kind = pyedflib.FILETYPE_EDFPLUS if path.suffix == ".edf" else pyedflib.FILETYPE_BDFPLUS
    with pyedflib.EdfWriter(str(path), len(signals), file_type=kind) as file:
        file.setStartdatetime(datetime(2026, 5, 17, 22, 30))
        for i, (name, unit, rate, _) in enumerate(signals):
            header = dict(label=name, dimension=unit, sample_frequency=rate)
            header |= dict(physical_max=200.0, physical_min=-200.0, transducer="", prefilter="")
            file.setSignalHeader(i, header | dict(digital_max=most - 1, digital_min=-most))
        if signals:
            file.writeSamples([values.astype(float) for _, _, _, values in signals])
        for one in annotations:
            file.writeAnnotation(*one)
    return path


def with_gap(content: bytes, record: int, seconds: int, width: int = 2) -> bytes:
    """An EDF+ file of records of 1 s whose records from `record` on start `seconds` later: EDF+D.

    Args:
        content: the continuous file.
        record, seconds: where the gap is, and how long.
        width: bytes of a value; 3 in BDF+.
    """
    count = int(content[252:256])
    rates = [int(content[256 + 216 * count + 8 * i :][:8]) for i in range(count)]
    found, size = bytearray(content), width * sum(rates)
    found[196:197] = b"D"
    for i in range(int(content[236:244])):
        start = 256 * (count + 1) + i * size + width * sum(rates[:-1])
        notes = bytes(found[start : start + width * rates[-1]]).rstrip(b"\0")
        onset, rest = notes.split(b"\x14", 1)
        later = b"+%d" % (int(onset) + seconds * (i >= record))
        notes = (later + b"\x14" + rest).ljust(width * rates[-1], b"\0")
        found[start : start + width * rates[-1]] = notes
    return bytes(found)


def c3d(path: Path, points: np.ndarray, analog: np.ndarray, first: int = 1) -> Path:
    """A .c3d file of points hip, knee, … at 100 Hz, analog signals at 1000 Hz, and two events.

    Args:
        path: the file.
        points: (3, point, time) in mm.
        analog: (signal, 10 time) in N.
        first: number of the first frame.
    """
    import ezc3d

    file = ezc3d.c3d()
    for group, names, unit, rate in (
        ("POINT", ("hip", "knee")[: points.shape[1]], "mm", 100.0),
        ("ANALOG", ("Fz", "EMG")[: len(analog)], "N", 1000.0),
    ):
        file["parameters"][group]["RATE"]["value"] = [rate]
        file["parameters"][group]["LABELS"]["value"] = names
        file["parameters"][group]["UNITS"]["value"] = [unit] * len(names)
    file["data"]["points"] = np.concatenate([points, np.ones((1, *points.shape[1:]))])
    file["data"]["analogs"] = analog[None]
    file.add_parameter("EVENT", "USED", [2])
    file.add_parameter("EVENT", "LABELS", ["Strike", "Off"])
    file.add_parameter("EVENT", "CONTEXTS", ["Left", "Right"])
    file.add_parameter("EVENT", "TIMES", np.array([[0.0, 0.0], [1.1, 1.25]]))
    file.write(str(path))
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", first, first + points.shape[2] - 1)
    path.write_bytes(content)
    return path


def sigmf(folder: Path, values: np.ndarray, datatype: str, annotations: Sequence[dict]) -> Path:
    """A SigMF recording at 1 kHz without a check sum."""
    (folder / "radio.sigmf-data").write_bytes(values.tobytes())
    about = {"core:datatype": datatype, "core:sample_rate": 1000.0, "core:version": "1.0.0"}
    begin = {"core:sample_start": 0, "core:datetime": "2026-05-17T22:30:00Z"}
    text = {"global": about, "captures": [begin], "annotations": list(annotations)}
    path = folder / "radio.sigmf-meta"
    path.write_text(json.dumps(text))
    return path
