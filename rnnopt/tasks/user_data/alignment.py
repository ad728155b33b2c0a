"""Sorts new series as the training data: channels by name, and steps of wide tables."""

from dataclasses import replace

import numpy as np

from rnnopt.tasks.user_data.checks import SINGLE
from rnnopt.tasks.user_data.recordings import Recordings, TableSchema, default_names

SHOWN = 10  # names


def aligned(data: Recordings, channels: tuple[str, ...], table: TableSchema | None) -> Recordings:
    """The same series with channels and steps matched by name, if both sides have names.

    Args:
        data: series as they were read.
        channels: channel names of the training data.
        table: schema of the training data, if they were a table.

    Raises:
        ValueError: a name is missing or unknown, or without names the number of channels differs.
    """
    if table is not None and data.table is not None and table.steps and data.table.steps:
        order = _order(data.table.steps, table.steps, "step")
        series = tuple(one[order] for one in data.series)
        data = replace(data, series=series, table=replace(data.table, steps=table.steps))
    if data.channels == channels:
        return data
    if _named(data.channels) and _named(channels):
        order = _order(data.channels, channels, "channel")
        series = tuple(one[:, order] for one in data.series)
        units = tuple(data.units[i] for i in order) if data.units else ()
        return replace(data, series=series, channels=channels, units=units)
    if len(data.channels) != len(channels):
        alone = len(data.channels) == 1 and len(data) > 1
        hint = f" (in Python an array of two axes is (count, time), and {SINGLE})" * alone
        raise ValueError(
            f"series need {len(channels)} channels, as in training, got {len(data.channels)}{hint}."
        )
    return data


def _named(channels: tuple[str, ...]) -> bool:
    return channels != default_names(len(channels))


def _order(got: tuple[str, ...], needed: tuple[str, ...], what: str) -> np.ndarray:
    """Position of each required name."""
    had, wanted = set(got), set(needed)
    lacking = [name for name in needed if name not in had]
    extra = [name for name in got if name not in wanted]
    if lacking or extra:
        differences = [f"lacks {_some(lacking)}"] * bool(lacking)
        differences += [f"has {_some(extra)} besides"] * bool(extra)
        raise ValueError(
            f"a column for each {what} of the training data is needed, and no other: the table"
            f" {' and '.join(differences)}."
        )
    places = {name: i for i, name in enumerate(got)}
    return np.array([places[name] for name in needed])


def _some(names: list[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
