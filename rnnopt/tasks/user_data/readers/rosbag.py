"""Bags of ROS 1 (.bag) and ROS 2 (a folder, .mcap or .db3) by rosbags.

A signal is a number of a topic's messages, `/imu.linear_acceleration.x`. Its times are the stamps
of the messages' headers if all have one, else those at which the recorder received them. Texts are
marks. Covariances, and arrays of more than `MOST` numbers or of changing length, are left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import ReadingError, own_sentences, quietly
from rnnopt.tasks.user_data.readers.signals import Signal, choose, recording_of
from rnnopt.tasks.user_data.readers.text_signals import changes
from rnnopt.tasks.user_data.recordings import Recordings

MOST = 16  # numbers of an array; pictures and scans have more
NEAR = 3600 * 10**9  # nanoseconds by which clocks of one machine may differ
DEEPEST = 8  # fields within each other


@dataclass
class Topic:
    """The messages of a topic: numbers and texts by their names, and two times in nanoseconds."""

    rows: list[dict[str, float | str]] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)

    def names(self, texts: bool) -> list[str]:
        """The names of texts, or of numbers, that each message has."""
        first, *others = self.rows
        return [
            name
            for name, value in first.items()
            if isinstance(value, str) == texts and all(name in row for row in others)
        ]


def is_bag(path: Path) -> bool:
    """Whether a folder is a bag of ROS 2."""
    return (path / "metadata.yaml").is_file()


def read_bag(path: Path, columns: Columns) -> Recordings:
    """Reads the numbers of a bag's topics.

    Raises:
        ValueError: the bag is damaged, or no topic has numbers.
    """
    with _opened(path) as bag:
        topics, left = _topics(bag)
        dropped = set(columns.drop) & {one.topic for one in bag.connections}
        read = {name: one for name, one in topics.items() if name not in dropped}
        _fill(bag, read)
    read = {name: one for name, one in read.items() if one.rows}
    bare = [name for name, one in read.items() if not one.names(False) and not one.names(True)]
    numbers = [name for name, one in read.items() if one.names(False)]
    if not numbers:
        raise ValueError(f"no topic has numbers, got {', '.join(sorted(topics)[:10]) or 'none'}.")
    columns = replace(columns, drop=tuple(one for one in columns.drop if one not in dropped))
    places = [(topic, name) for topic in numbers for name in read[topic].names(False)]
    names = [topic + name for topic, name in places]
    kept, unused = choose(names, columns)
    stamped = _stamped(read)
    times = {name: one.stamps if name in stamped else one.received for name, one in read.items()}
    start = min(map(min, times.values()))
    facts = ["ROS bag", *_facts(list(read), stamped, [*bare, *left], start)]
    clocks = {name: (np.array(its) - start) / 1e9 for name, its in times.items()}
    signals = []
    for topic, name in (places[i] for i in kept):
        values = np.array([row[name] for row in read[topic].rows], np.float64)
        signals.append(Signal(topic + name, "", values, times=clocks[topic]))
    marks = [
        mark
        for topic, one in read.items()
        for name in one.names(True)
        for mark in changes(topic + name, clocks[topic], [str(row[name]) for row in one.rows])
    ]
    unused = (*sorted(dropped), *unused)
    return recording_of(signals, marks, columns, columns.name, facts, unused)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with quietly("ROS bag"):
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore
    types = get_typestore(Stores.LATEST)
    with quietly("ROS bag", AnyReaderError), AnyReader([path], default_typestore=types) as bag:
        yield bag


def _topics(bag: Any) -> tuple[dict[str, Topic], list[str]]:
    """The topics that have messages, and the names of those of a type that is not known."""
    known = {one.topic: Topic() for one in bag.connections if one.msgcount and _is_known(bag, one)}
    left = {one.topic for one in bag.connections if one.msgcount} - set(known)
    return known, sorted(left)


def _is_known(bag: Any, connection: Any) -> bool:
    return connection.msgtype in bag.typestore.fielddefs


def _fill(bag: Any, topics: dict[str, Topic]) -> None:
    """Reads the messages of the topics."""
    wanted = [one for one in bag.connections if one.topic in topics]
    if not wanted:
        raise ReadingError("it has no messages, or all topics are left out.")
    with own_sentences():
        check_memory(200 * sum(one.msgcount for one in wanted), "its messages")
    for connection, time, raw in bag.messages(connections=wanted):
        message = bag.deserialize(raw, connection.msgtype)
        topic = topics[connection.topic]
        topic.rows.append(dict(_numbers(message)))
        topic.received.append(int(time))
        stamp = getattr(getattr(message, "header", None), "stamp", None)
        if stamp is not None:
            topic.stamps.append(int(stamp.sec) * 10**9 + int(stamp.nanosec))


def _numbers(message: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, float | str]]:
    """The numbers and texts of a message by the names of their fields."""
    if isinstance(message, (bool, int, float, str, np.number, np.bool_)):
        yield name, message if isinstance(message, str) else float(message)
    elif isinstance(message, np.ndarray | list):
        if len(message) <= MOST:
            for i, one in enumerate(message):
                yield from _numbers(one, f"{name}[{i}]", depth + 1)
    elif depth < DEEPEST:
        for own in getattr(message, "__dataclass_fields__", {}):
            if own not in ("__msgtype__", "header") and not own.endswith("covariance"):
                yield from _numbers(getattr(message, own), f"{name}.{own}", depth + 1)


def _stamped(topics: dict[str, Topic]) -> set[str]:
    """The topics whose times are the stamps of headers: each has one, and its own.

    Stamps of another clock, such as a simulation's, count only where all topics have them.
    """
    found = {
        name
        for name, one in topics.items()
        if len(set(one.stamps)) == len(one.rows) and min(one.stamps) > 0
    }
    if len(found) == len(topics):
        return found
    return {name for name in found if abs(topics[name].stamps[0] - topics[name].received[0]) < NEAR}


def _facts(names: list[str], stamped: set[str], left: list[str], start: int) -> list[str]:
    """Where times are from, and what was left out."""
    date = np.datetime64(start // 10**9, "s")
    found = [f"start {str(date).replace('T', ' ')} UTC"]
    for what, its in (
        ("headers' stamps", [name for name in names if name in stamped]),
        ("times of receipt", [name for name in names if name not in stamped]),
    ):
        if its:
            found.append(f"{what}: {', '.join(its[:10])}")
    if left:
        found.append(f"left out: {', '.join(left[:10])}, without numbers")
    return found
