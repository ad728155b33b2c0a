"""Targets at every step: what an estimator is given, and what its network answers.

A list has one array for each sequence, of its own length. Missing targets (NaN, None, an empty
word) count neither in the loss nor in a score. In an array of targets they are -1, or NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnopt.tasks.examples import NO_CLASS
from rnnopt.tasks.user_data.step_targets import StepTargets, check_some, step_targets


def refuse_steps(shape: tuple[int, ...], lengths: set[int]) -> None:
    """Raises ValueError where a number for each step may be meant, and nothing says so.

    Args:
        shape: of the targets.
        lengths: steps of the sequences.
    """
    if len(shape) == 2 and shape[1] > 1 and lengths == {shape[1]}:
        raise ValueError(
            f"y {tuple(shape)} looks like one for each of the {shape[1]} steps: say"
            " RNNOptions(every_step=True) if it is, and every_step=False if it is"
            f" {shape[-1]} numbers to predict for each sequence."
        )


def read_steps(y: Any, sequences: Sequence[np.ndarray]) -> StepTargets:
    """The targets of each step; ValueError where they are not as many as the steps."""
    if y is None or not hasattr(y, "__len__"):
        raise ValueError(f"y must have a target for each step of each sequence, got {y!r}.")
    given = y if isinstance(y, (np.ndarray, list, tuple)) else np.asarray(y)
    steps = step_targets(given, sequences)
    check_some(steps)
    return steps


def classes_of(steps: StepTargets) -> np.ndarray:
    """The classes, sorted: words, or numbers, whole ones as such."""
    if len(steps.names) > 1:
        raise ValueError(f"a step has one class, got {len(steps.names)} targets a step.")
    if steps.words:
        return np.array(steps.words)
    numbers = np.unique(steps.present)
    return numbers.astype(np.int64) if (numbers == np.round(numbers)).all() else numbers


def places_of(steps: StepTargets, classes: np.ndarray) -> np.ndarray:
    """Positions (count, time) of the targets in `classes`, -1 where there is none.

    Raises:
        ValueError: a class that is not among them.
    """
    mine = classes_of(steps)
    where = np.searchsorted(classes, mine).clip(max=len(classes) - 1)
    if (unknown := classes[where] != mine).any():
        raise ValueError(f"y must have the classes {classes} alone, got {mine[unknown]} too.")
    numbers = np.arange(len(steps.words)) if steps.words else np.unique(steps.present)
    longest = max(map(len, steps.values))
    places = np.full((len(steps.values), longest), NO_CLASS)
    for row, one in zip(places, steps.values, strict=True):
        there = ~np.isnan(one[:, 0])
        row[: len(one)][there] = where[np.searchsorted(numbers, one[there, 0])]
    return places


def numbers_of(steps: StepTargets) -> np.ndarray:
    """The targets (count, time, output) in float64, NaN where there is none."""
    longest = max(map(len, steps.values))
    numbers = np.full((len(steps.values), longest, len(steps.names)), np.nan)
    for row, one in zip(numbers, steps.values, strict=True):
        row[: len(one)] = one
    return numbers


def together(answers: Sequence[np.ndarray]) -> Any:
    """An array (count, time, …) if all sequences have the same number of steps, else the list."""
    return np.stack(answers) if len({len(one) for one in answers}) == 1 else list(answers)


def scored(
    targets: np.ndarray, answers: Sequence[np.ndarray], weights: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Targets, answers and weights of all steps with a target, a row each.

    Args:
        targets: of `places_of`, or `numbers_of`.
        answers: (time,) or (time, output) of each sequence.
        weights: (count,) of the sequences, or None.
    """
    lengths = [len(one) for one in answers]
    true = np.concatenate([row[:n] for row, n in zip(targets, lengths, strict=True)])
    found = np.concatenate(list(answers))
    there = true != NO_CLASS if true.ndim == 1 else ~np.isnan(true).any(1)
    each = None if weights is None else np.repeat(np.asarray(weights), lengths)[there]
    return true[there], found[there], each


def classes_from(names: tuple[str, ...]) -> np.ndarray:
    """The classes of a run as an array: whole numbers or numbers if all their names are."""
    for kind in (int, float):
        try:
            numbers = np.array([kind(name) for name in names])
        except ValueError:
            continue
        if (np.diff(numbers) > 0).all():
            return numbers
    return np.array(names)
