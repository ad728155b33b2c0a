"""Cuts recordings into windows, each of which is then a series with a target of its own.

A window of steps with labels of their own has the commonest of them; of classes that are equally
common it is the one that comes first in the window. Numbers are averaged. Steps without a label do
not count, and a window with fewer labelled than unlabelled steps has no label.
"""

from dataclasses import dataclass, replace

import numpy as np

from rnnopt.config.data_config import Kind
from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.step_targets import StepTargets


@dataclass(frozen=True)
class Windows:
    """How to cut.

    Args:
        width: steps of a window.
        stride: steps from the start of a window to that of the next.
        purge: whether windows of several labels, or with steps without any, are left out.
        each_step: whether windows keep the targets of their steps, in place of one target.
    """

    width: int
    stride: int
    purge: bool = False
    each_step: bool = False


def starts_of(length: int, windows: Windows) -> np.ndarray:
    """First steps of the windows of a recording; all windows lie within it."""
    return np.arange(0, length - windows.width + 1, windows.stride)


def cut(data: Recordings, windows: Windows, kind: Kind | None, all_of_them: bool) -> Recordings:
    """The windows of all recordings, one after another.

    Args:
        data: recordings.
        windows: how to cut.
        kind: kind of the targets.
        all_of_them: whether windows without a label, or that `purge` leaves out, are kept, those
            without a label with the class "" or NaN.

    Raises:
        ValueError: no window is left.
    """
    starts = [starts_of(len(one), windows) for one in data.series]
    count = sum(map(len, starts))
    needed = 12 * count * windows.width * len(data.channels)  # overlapping steps are stored anew
    check_memory(needed, f"{count} windows of {windows.width} steps")
    places = np.concatenate([np.full(len(one), i) for i, one in enumerate(starts)])
    first = np.concatenate(starts)
    if not len(places):
        longest = max(map(len, data.series))
        raise ValueError(
            f"a window has {windows.width} steps, and the longest recording has {longest}: take a"
            " shorter --window."
        )
    spans = np.stack([places, first, first + windows.width], 1)
    names = data.names or tuple(str(i + 1) for i in range(len(data)))
    found = replace(
        data,
        series=tuple(data.series[i][start:end] for i, start, end in spans.tolist()),
        targets=None if data.targets is None else data.targets[places],
        groups=None if data.groups is None else data.groups[places],
        names=tuple(names[i] for i in places),
        moments=None,
        stamps=None,
        steps=None,
        spans=spans,
    )
    kept = np.ones(len(spans), bool)
    if data.steps is not None:
        values = tuple(data.steps.values[i][start:end] for i, start, end in spans.tolist())
        steps = replace(data.steps, values=values)
        mixed, bare = mixed_labels(steps), bare_labels(steps)
        kept = ~(bare | mixed) if windows.purge else ~bare
        if windows.each_step:
            found = replace(found, steps=steps)
        else:
            found = replace(found, targets=_targets(steps, kind, bare, all_of_them))
    if all_of_them:
        kept[:] = True
    line = _said(data, windows, starts, kept)
    found = replace(found, lines=(*data.lines, ("windows", line)))
    if not kept.any():
        raise ValueError(f"no window is left: {line}.")
    return found if kept.all() else found.select(np.flatnonzero(kept))


def bare_labels(steps: StepTargets) -> np.ndarray:
    """Which windows (count,) have a label at fewer than half of their steps."""
    return np.array([2 * (~np.isnan(one).any(1)).sum() < len(one) for one in steps.values])


def mixed_labels(steps: StepTargets) -> np.ndarray:
    """Which windows (count,) have steps of different labels, or without any."""
    return np.array([not (one == one[0]).all() for one in steps.values])


def commonest(labels: np.ndarray) -> float:
    """The commonest of the labels (time,) of a window, of equally common ones the first; or NaN."""
    labels = labels[~np.isnan(labels)]
    if not len(labels):
        return np.nan
    different, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float(different[which[np.argmax(counts[which] == counts.max())]])


def _targets(
    steps: StepTargets, kind: Kind | None, bare: np.ndarray, all_of_them: bool
) -> np.ndarray:
    """The target of each window, from those of its steps."""
    if kind == "regression":
        rows = [
            one.mean(0) if not np.isnan(one).any() else _mean_of_present(one)
            for one in steps.values
        ]
        numbers = np.stack(rows)
        numbers[bare] = np.nan
        return numbers[:, 0] if numbers.shape[1] == 1 else numbers
    codes = np.array([commonest(one[:, 0]) for one in steps.values])
    codes[bare] = np.nan
    if steps.words or all_of_them:
        return np.array(steps.labels(codes))
    return codes


def _mean_of_present(values: np.ndarray) -> np.ndarray:
    """Mean (output,) of the values (time, output) that are not missing, NaN if all are."""
    there = ~np.isnan(values)
    count = there.sum(0)
    return np.where(count > 0, np.where(there, values, 0).sum(0) / np.maximum(count, 1), np.nan)


def _said(data: Recordings, windows: Windows, starts: list[np.ndarray], kept: np.ndarray) -> str:
    """How the recordings were cut, in words."""
    count = sum(map(len, starts))
    text = (
        f"{int(kept.sum())} of {windows.width} steps, one every {windows.stride}, of"
        f" {len(data)} recording{'s' * (len(data) > 1)}"
    )
    if not kept.all():
        why = "of several labels or without one" if windows.purge else "of mostly unlabelled steps"
        text += f"; left out: {count - int(kept.sum())} windows {why}"
    short = sum(not len(one) for one in starts)
    if short:
        text += f"; {short} recording{'s are' if short > 1 else ' is'} shorter than a window"
    return text
