"""Files of vehicles, LabVIEW and robots for tests, by the libraries of their formats."""

import shutil
from pathlib import Path

import numpy as np
import pytest

START = 1_700_000_000 * 10**9  # nanoseconds since 1970


def mdf(path, *groups):
    """An .mf4 file.

    Args:
        groups: each a list of dicts, of which the arguments of asammdf's Signal are made.
    """
    asammdf = pytest.importorskip("asammdf")
    file = asammdf.MDF(version="4.10")
    for group in groups:
        file.append([asammdf.Signal(**one) for one in group])
    file.save(path, overwrite=True)
    file.close()
    return Path(path)


def signal(name, values, times, **others):
    """The arguments of a signal."""
    return dict(samples=np.asarray(values), timestamps=np.asarray(times), name=name, **others)


def tdms(path, *segments):
    """A .tdms file.

    Args:
        segments: each a list of (group, channel, values, properties).
    """
    nptdms = pytest.importorskip("nptdms")
    with nptdms.TdmsWriter(str(path)) as file:
        for channels in segments:
            file.write_segment([nptdms.ChannelObject(*one) for one in channels])
    return Path(path)


def bag(path, *messages, version=2, plugin="MCAP"):
    """A bag of ROS 1 (a file) or 2 (a folder).

    Args:
        messages: each (topic, type, time of receipt in nanoseconds, function of the types that
            makes it).
    """
    pytest.importorskip("rosbags")
    from rosbags import rosbag1, rosbag2
    from rosbags.typesys import Stores, get_typestore

    path = Path(path)
    if version == 1:
        types, file = get_typestore(Stores.ROS1_NOETIC), rosbag1.Writer(path)
        packed = types.serialize_ros1
    else:
        shutil.rmtree(path, ignore_errors=True)
        types = get_typestore(Stores.ROS2_HUMBLE)
        file = rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin[plugin])
        packed = types.serialize_cdr
    with file:
        known = {}
        for topic, kind, time, make in messages:
            if topic not in known:
                known[topic] = file.add_connection(topic, kind, typestore=types)
            file.write(known[topic], time, packed(make(types.types), kind))
    return path


def stamped(types, x, stamp, sequence=0):
    """A geometry_msgs/msg/Vector3Stamped of (x, 2 x, 0) at a time in nanoseconds."""
    time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    header = types["std_msgs/msg/Header"]
    fields = (time, "base") if "seq" not in header.__dataclass_fields__ else (sequence, time, "b")
    vector = types["geometry_msgs/msg/Vector3"](float(x), 2.0 * x, 0.0)
    return types["geometry_msgs/msg/Vector3Stamped"](header(*fields), vector)


VECTOR = "geometry_msgs/msg/Vector3Stamped"
STRING = "std_msgs/msg/String"


def vectors(topic="/force", count=5, late=0, delay=3_000_000, step=10**7):
    """Messages of a topic whose headers are `delay` nanoseconds before their receipt."""
    return [
        (topic, VECTOR, START + late + i * step + delay,
         lambda types, i=i: stamped(types, i, START + late + i * step, i))
        for i in range(count)
    ]  # fmt: skip


def texts(topic, *pairs):
    """Texts of a topic at times in seconds after the start."""
    return [
        (topic, STRING, START + int(time * 1e9), lambda types, text=text: types[STRING](text))
        for time, text in pairs
    ]
